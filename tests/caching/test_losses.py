"""Where events may have been missed, and while nobody hears."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE
from listener.proxy import Proxy
from sqlalchemy import Engine
from support import end_listeners, records_of, wait_until

from sqlalchemy_watch import Listener
from sqlalchemy_watch.caching import invalidate

from .conftest import Shop, SlowLoad, price_key

Client = psycopg.Connection[Any]


def resynced(listener: Listener) -> threading.Event:
    """Return what is set at the next resync."""
    heard = threading.Event()
    listener.resync.connect(lambda listener, reason: heard.set())
    return heard


def lose_a_change(listener: Listener, client: Client, sql: str) -> None:
    """Have a change be missed, and the listener come back."""
    heard = resynced(listener)
    end_listeners(client)
    client.execute(sql)
    assert heard.wait(20)
    listener.catch_up()


def test_nothing_that_was_there_is_served_after_a_resync(
    shop: Shop, listener: Listener, client: Client, region: CacheRegion
) -> None:
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.get_or_create("price:1", lambda: shop.price(1))
    slow = SlowLoad(lambda load: region.get_or_create("price:2", load), lambda: shop.price(2))
    lose_a_change(listener, client, "UPDATE products SET price = 200")
    slow.store()  # of a load that began before
    assert region.get_multi(["price:1", "price:2"]) == [NO_VALUE, NO_VALUE]
    assert region.get_or_create("price:2", lambda: shop.price(2)) == 200


def test_resync_reaches_other_regions_over_the_same_store(shop: Shop, listener: Listener, client: Client) -> None:
    store: dict[str, Any] = {}
    regions = [make_region().configure("dogpile.cache.memory", arguments={"cache_dict": store}) for _ in range(3)]
    region, guarded, plain = regions
    invalidate(region, shop.Product, key=price_key, listener=listener)
    with Listener(shop.engine, shop.Product) as of_another_process:
        invalidate(guarded, shop.Product, key=price_key, listener=of_another_process)
        region.get_or_create("price:1", lambda: shop.price(1))
        guarded.get_or_create("price:2", lambda: shop.price(2))
        assert plain.get_multi(["price:1", "price:2"]) == [100, 100]
        slow = SlowLoad(lambda load: region.get_or_create("price:3", load), lambda: shop.price(3))
        guard = region.backend
        guard.renew()  # type: ignore[attr-defined] # as at a resync of the first process alone
        slow.store()
        assert guarded.get_multi(["price:1", "price:2", "price:3"]) == [NO_VALUE] * 3
        assert plain.get("price:1") is NO_VALUE


def test_load_of_another_process_that_began_before_a_resync_is_not_served(shop: Shop, listener: Listener) -> None:
    store: dict[str, Any] = {}
    region, other = (make_region().configure("dogpile.cache.memory", arguments={"cache_dict": store}) for _ in range(2))
    invalidate(region, shop.Product, key=price_key, listener=listener)
    with Listener(shop.engine, shop.Product) as of_another_process:
        invalidate(other, shop.Product, key=price_key, listener=of_another_process)
        slow = SlowLoad(lambda load: other.get_or_create("price:1", load), lambda: shop.price(1))
        region.backend.renew()  # type: ignore[attr-defined] # of which the other process does not hear
        slow.store()
        assert (region.get("price:1"), other.get("price:1")) == (NO_VALUE, NO_VALUE)


def test_what_is_older_than_the_hearing_is_passed_over(shop: Shop, region: CacheRegion) -> None:
    region.set("price:1", shop.price(1))
    listener = Listener(shop.engine, shop.Product)
    invalidate(region, shop.Product, key=price_key, listener=listener)
    shop.run("UPDATE products SET price = 200")
    with listener:
        listener.catch_up()
        assert region.get_or_create("price:1", lambda: shop.price(1)) == 200
    shop.run("UPDATE products SET price = 300")
    with listener:  # once more: what changed meanwhile was not heard
        listener.catch_up()
        assert region.get_or_create("price:1", lambda: shop.price(1)) == 300


def test_late_start_leaves_the_entries_of_other_processes_alone(shop: Shop, listener: Listener) -> None:
    store: dict[str, Any] = {}
    region, other = (make_region().configure("dogpile.cache.memory", arguments={"cache_dict": store}) for _ in range(2))
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.get_or_create("price:1", lambda: shop.price(1))
    late = Listener(shop.engine, shop.Product)
    invalidate(other, shop.Product, key=price_key, listener=late)
    heard = resynced(late)
    late.start(wait=False)
    try:
        assert heard.wait(20)
        late.catch_up()
        assert other.get("price:1") is NO_VALUE
        assert region.get("price:1") == 100
    finally:
        late.stop()


def test_without_a_running_listener_nothing_is_stored(shop: Shop, region: CacheRegion) -> None:
    listener = Listener(shop.engine, shop.Product)
    with records_of("sqlalchemy_watch.caching.regions") as records:
        invalidation = invalidate(region, shop.Product, key=price_key, listener=listener)
        assert region.get_or_create("price:1", lambda: shop.price(1)) == 100
        assert region.get("price:1") is NO_VALUE
        with listener:
            listener.catch_up()
            region.get_or_create("price:1", lambda: shop.price(1))
        assert region.get("price:1") == 100  # served still
        region.get_or_create("price:2", lambda: shop.price(2))
        assert region.get("price:2") is NO_VALUE
    assert invalidation.refused == 2
    assert "nothing is stored" in records.get_nowait().getMessage()
    assert records.empty()


def test_another_listener_of_the_process_does_not_count(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    """The signals go on, by the other listener; whether that one misses anything is not known here."""
    with Listener(shop.engine, shop.Product) as own:
        invalidate(region, shop.Product, key=price_key, listener=own)
        region.get_or_create("price:1", lambda: shop.price(1))
    assert region.get("price:1") == 100
    region.get_or_create("price:2", lambda: shop.price(2))
    assert region.get("price:2") is NO_VALUE


@pytest.mark.parametrize("while_disconnected", ["serve", "bypass"])
def test_while_the_connection_is_lost(
    shop: Shop, client: Client, engine_through_proxy: Engine, proxy: Proxy, region: CacheRegion,
    while_disconnected: Any,
) -> None:  # fmt: skip
    with Listener(engine_through_proxy, shop.Product) as listener:
        invalidation = invalidate(
            region, shop.Product, key=price_key, listener=listener, while_disconnected=while_disconnected
        )
        region.get_or_create("price:1", lambda: shop.price(1))
        back = resynced(listener)
        proxy.refuse()
        wait_until(client, lambda: not invalidation._hearing._is_connected)
        shop.run("UPDATE products SET price = 200")
        serves = while_disconnected == "serve"
        assert region.get_or_create("price:1", lambda: shop.price(1)) == (100 if serves else 200)
        assert region.get_or_create("price:2", lambda: shop.price(2)) == 200
        assert region.get("price:2") == (200 if serves else NO_VALUE)
        proxy.resume()
        assert back.wait(20)
        listener.catch_up()
        assert region.get_multi(["price:1", "price:2"]) == [NO_VALUE, NO_VALUE]
        region.get_or_create("price:1", lambda: shop.price(1))
        assert region.get("price:1") == 200


def test_entry_that_could_not_be_deleted_is_not_served(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    failed: list[Any] = []
    listener.receiver_failed.connect(lambda listener, receiver, event, error: failed.append(error))
    delete = region.backend.delete

    def fail(key: str) -> None:
        raise ConnectionError("the store is away")

    region.backend.delete = fail  # type: ignore[method-assign]
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.get_or_create("price:1", lambda: shop.price(1))
    shop.run("UPDATE products SET price = 200")
    listener.catch_up()
    assert len(failed) == 5
    region.actual_backend.delete = delete
    assert region.get_or_create("price:1", lambda: shop.price(1)) == 200


def test_store_that_loses_its_epoch_serves_nothing_older(shop: Shop, listener: Listener) -> None:
    store: dict[str, Any] = {}
    region = make_region().configure("dogpile.cache.memory", arguments={"cache_dict": store})
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.get_or_create("price:1", lambda: shop.price(1))
    del store["sqlalchemy_watch:epoch"]
    assert region.get("price:1") is NO_VALUE
    region.get_or_create("price:1", lambda: shop.price(1))
    assert region.get("price:1") == 100
