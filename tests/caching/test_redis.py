"""dogpile.cache over a real Redis, which several processes have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE
from dogpile.cache.util import sha1_mangle_key
from relay.brokers import Redis

from sqlalchemy_watch import Listener
from sqlalchemy_watch.caching import invalidate

from .conftest import Shop, SlowLoad, price_key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    pytest.importorskip("redis")
    server = Redis(Path(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def make(server: Redis) -> Iterator[Callable[..., CacheRegion]]:
    """Makes regions over one store, each as another process has it."""
    made: list[Any] = []

    def make(**options: Any) -> CacheRegion:
        region = make_region(**options).configure("dogpile.cache.redis", arguments={"url": server.url})
        made.append(region.actual_backend.reader_client)
        return region

    yield make
    made[0].flushall()
    for client in made:
        client.close()


def test_entries_are_dropped_and_what_is_overtaken_is_not_kept(
    shop: Shop, listener: Listener, make: Callable[..., CacheRegion]
) -> None:
    region = make(key_mangler=sha1_mangle_key)
    invalidation = invalidate(region, shop.Product, key=price_key, listener=listener)
    keys = ["price:1", "price:2", "price:3"]
    assert region.get_or_create_multi(keys, lambda *missing: [100] * len(missing)) == [100, 100, 100]
    assert region.get_multi(keys) == [100, 100, 100]
    shop.run("UPDATE products SET price = 200 WHERE id = 1")
    listener.catch_up()
    assert region.get_multi(keys) == [NO_VALUE, 100, 100]
    slow = SlowLoad(lambda load: region.get_or_create("price:1", load), lambda: shop.price(1))
    shop.run("UPDATE products SET price = 300 WHERE id = 1")
    listener.catch_up()
    assert slow.store() == 200
    assert region.get("price:1") is NO_VALUE
    assert invalidation.refused == 1
    assert region.get_or_create("price:1", lambda: shop.price(1)) == 300


def test_each_process_drops_what_any_of_them_stores(
    shop: Shop, listener: Listener, make: Callable[..., CacheRegion]
) -> None:
    mine, others = make(), make()
    invalidate(mine, shop.Product, key=price_key, listener=listener)
    with Listener(shop.engine, shop.Product) as theirs:
        invalidate(others, shop.Product, key=price_key, listener=theirs)
        assert mine.get_or_create("price:1", lambda: shop.price(1)) == 100
        assert others.get("price:1") == 100
        slow = SlowLoad(lambda load: others.get_or_create("price:2", load), lambda: shop.price(2))
        shop.run("UPDATE products SET price = 200")
        listener.catch_up()
        theirs.catch_up()
        slow.store()
        assert [region.get_multi(["price:1", "price:2"]) for region in (mine, others)] == [[NO_VALUE] * 2] * 2


def test_resync_of_one_process_reaches_all(shop: Shop, listener: Listener, make: Callable[..., CacheRegion]) -> None:
    mine, others, unguarded = make(), make(), make()
    invalidate(mine, shop.Product, key=price_key, listener=listener)
    with Listener(shop.engine, shop.Product) as theirs:
        invalidate(others, shop.Product, key=price_key, listener=theirs)
        mine.get_or_create("price:1", lambda: 1)
        others.get_or_create("price:2", lambda: 2)
        assert unguarded.get_multi(["price:1", "price:2"]) == [1, 2]  # which reads what they store
        slow = SlowLoad(lambda load: others.get_or_create("price:3", load), lambda: 3)
        mine.backend.renew()  # type: ignore[attr-defined] # as at its own resync
        slow.store()
        keys = ["price:1", "price:2", "price:3"]
        assert [region.get_multi(keys) for region in (mine, others)] == [[NO_VALUE] * 3] * 2
        assert unguarded.get("price:1") is NO_VALUE
        assert others.get_or_create("price:1", lambda: 4) == mine.get("price:1") == 4


def test_store_that_was_away_serves_nothing_that_could_not_be_deleted(
    shop: Shop, listener: Listener, make: Callable[..., CacheRegion], server: Redis
) -> None:
    region = make()
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.get_or_create_multi(["price:1", "price:2"], lambda *missing: [100] * len(missing))
    server.kill()
    shop.run("UPDATE products SET price = 200 WHERE id = 1")
    listener.catch_up()
    server.start()  # with all that was written
    assert make().get("price:1") == 100
    assert region.get_multi(["price:1", "price:2"]) == [NO_VALUE, NO_VALUE]
    assert region.get_or_create("price:1", lambda: shop.price(1)) == 200
