"""Readers and writers side by side: no entry is stale for ever, whatever is read, changed and lost meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE
from sqlalchemy import Engine, create_engine
from support import end_listeners

from sqlalchemy_watch import Listener
from sqlalchemy_watch.caching import invalidate

from .conftest import Shop

KEYS, READERS, SECONDS = 8, 6, 1.5


def work(shop: Shop, get: Callable[[str, Callable[[], Any]], Any], lose: Callable[[], None]) -> None:
    """Read and write for a while; the readers take a moment between a load and its store."""
    ends = time.monotonic() + SECONDS

    def read(seed: int) -> None:
        choose = random.Random(seed)
        while time.monotonic() < ends:
            customer = choose.randrange(KEYS)

            def load(customer: int = customer) -> int:
                count = shop.count(customer)
                time.sleep(choose.random() * 0.005)
                return count

            get(f"orders:{customer}", load)

    def write() -> None:
        choose, number = random.Random(0), 0
        with psycopg.connect(shop.engine.url.set(drivername="postgresql").render_as_string(False)) as connection:
            connection.autocommit = True
            while time.monotonic() < ends:
                number += 1
                note = "x" * 9000 if number % 17 == 0 else ""
                row = {"id": choose.randrange(200), "customer": choose.randrange(KEYS), "note": note}
                connection.execute(
                    "INSERT INTO orders VALUES (%(id)s, %(customer)s, %(note)s) ON CONFLICT (id) DO UPDATE"
                    " SET customer_id = excluded.customer_id, note = excluded.note", row
                )  # fmt: skip
                if number % 5 == 0:
                    connection.execute("DELETE FROM orders WHERE id = %(id)s", row)
                if number % 101 == 0:
                    connection.execute("TRUNCATE orders")
                if number % 150 == 0:
                    lose()

    with ThreadPoolExecutor(READERS + 1) as pool:
        for done in [*(pool.submit(read, seed) for seed in range(READERS)), pool.submit(write)]:
            done.result()


def stale(shop: Shop, get: Callable[[str], Any], missing: Any) -> dict[str, Any]:
    """Return the entries that are not as the database has it."""
    found = {f"orders:{customer}": get(f"orders:{customer}") for customer in range(KEYS)}
    right = {f"orders:{customer}": shop.count(customer) for customer in range(KEYS)}
    return {key: (value, right[key]) for key, value in found.items() if value is not missing and value != right[key]}


@pytest.fixture
def pooled(shop: Shop, engine: Engine) -> Shop:
    shop.engine = create_engine(engine.url, pool_size=READERS + 1)
    return shop


def settle(listener: Listener) -> None:
    deadline = time.monotonic() + 20
    while listener.stats().connected_since is None and time.monotonic() < deadline:
        time.sleep(0.01)
    listener.catch_up()


@pytest.mark.slow
@pytest.mark.parametrize("loses", [False, True], ids=["connected", "losing the connection"])
def test_no_entry_of_a_region_is_stale_for_ever(pooled: Shop, client: psycopg.Connection[Any], loses: bool) -> None:
    store: dict[str, Any] = {}
    regions: list[CacheRegion] = [
        make_region().configure("dogpile.cache.memory", arguments={"cache_dict": store}) for _ in range(2)
    ]
    lose = (lambda: end_listeners(client)) if loses else lambda: None
    with Listener(pooled.engine, pooled.Order) as one, Listener(pooled.engine, pooled.Order) as other:
        made = [
            invalidate(region, pooled.Order, key=lambda row: f"orders:{row['customer_id']}", listener=listener)
            for region, listener in zip(regions, (one, other), strict=True)
        ]
        work(pooled, lambda key, load: random.choice(regions).get_or_create(key, load), lose)
        for listener in (one, other):
            settle(listener)
        assert [stale(pooled, region.get, NO_VALUE) for region in regions] == [{}, {}]
        assert sum(invalidation.refused for invalidation in made) > 0
    pooled.engine.dispose()


@pytest.mark.slow
def test_no_entry_of_any_other_cache_is_stale_for_ever(pooled: Shop, client: psycopg.Connection[Any]) -> None:
    entries: dict[str, Any] = {}
    lock = threading.Lock()

    def delete(key: str) -> None:
        with lock:
            entries.pop(key, None)

    with Listener(pooled.engine, pooled.Order) as listener:
        invalidation = invalidate(
            delete, pooled.Order, key=lambda row: f"orders:{row['customer_id']}", everything=entries.clear,
            listener=listener,
        )  # fmt: skip

        def get(key: str, load: Callable[[], Any]) -> Any:
            found = entries.get(key)
            if found is None:
                with invalidation.loading(key):
                    found = entries[key] = load()
            return found

        work(pooled, get, lambda: end_listeners(client))
        settle(listener)
        assert stale(pooled, entries.get, None) == {}
        assert invalidation.refused > 0
    pooled.engine.dispose()
