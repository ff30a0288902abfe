"""A change between a load and its store: what was loaded before is not kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE
from support import PATIENCE

from sqlalchemy_watch import Listener
from sqlalchemy_watch.caching import invalidate, regions

from .conftest import Shop, SlowLoad, price_key

RAISE = "UPDATE products SET price = 200 WHERE id = 1"


def through(region: CacheRegion) -> Callable[[Callable[[], Any]], Any]:
    return lambda load: region.get_or_create("price:1", load)


def overtake(shop: Shop, listener: Listener, region: CacheRegion) -> Any:
    """Have a change come between a load and its store; return what the cache has afterwards."""
    slow = SlowLoad(through(region), lambda: shop.price(1))
    shop.run(RAISE)
    listener.catch_up()
    assert slow.store() == 100  # the caller has what it loaded
    return region.get("price:1")


def test_delete_on_event_alone_leaves_a_stale_entry_for_ever(
    shop: Shop, listener: Listener, region: CacheRegion
) -> None:
    shop.Product.watch.updated.connect(lambda sender, event: region.delete(price_key(event.values)))
    assert overtake(shop, listener, region) == 100


def test_value_that_a_change_overtakes_is_not_kept(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    invalidation = invalidate(region, shop.Product, key=price_key, listener=listener)
    assert overtake(shop, listener, region) is NO_VALUE
    assert invalidation.refused == 1
    assert region.get_or_create("price:1", lambda: shop.price(1)) == 200
    assert region.get("price:1") == 200


@pytest.mark.parametrize("backend", ["dogpile.cache.memory", "dogpile.cache.memory_pickle"])
def test_change_during_the_store_itself_deletes_it_again(shop: Shop, listener: Listener, backend: str) -> None:
    region = make_region().configure(backend)
    is_storing, may_end = threading.Event(), threading.Event()
    plain = "set_serialized" if region.serializer else "set"
    store = getattr(region.backend, plain)

    def store_slowly(key: Any, value: Any) -> None:
        if key == "price:1":
            is_storing.set()
            assert may_end.wait(PATIENCE)
        store(key, value)

    setattr(region.backend, plain, store_slowly)
    invalidation = invalidate(region, shop.Product, key=price_key, listener=listener)
    thread = threading.Thread(target=lambda: region.get_or_create("price:1", lambda: shop.price(1)))
    thread.start()
    assert is_storing.wait(PATIENCE)
    shop.run(RAISE)
    listener.catch_up()
    may_end.set()
    thread.join(PATIENCE)
    assert region.get("price:1") is NO_VALUE
    assert invalidation.refused == 1


def test_many_keys_at_once_are_refused_one_by_one(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    invalidate(region, shop.Product, key=price_key, listener=listener)
    keys = [f"price:{i}" for i in range(1, 4)]
    slow = SlowLoad(
        lambda load: region.get_or_create_multi(keys, lambda *missing: load()),
        lambda: [shop.price(i) for i in (1, 2, 3)],
    )
    shop.run("UPDATE products SET price = 200 WHERE id = 2")
    listener.catch_up()
    assert slow.store() == [100, 100, 100]
    assert region.get_multi(keys) == [100, NO_VALUE, 100]


def test_decorated_function_needs_no_change(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    @region.cache_on_arguments(namespace="price")
    def price_of(product_id: int) -> int | None:
        return shop.price(product_id)

    key_of = region.function_key_generator("price", price_of.original)  # type: ignore[attr-defined]
    invalidate(region, shop.Product, key=lambda row: key_of(row["id"]), listener=listener)
    assert price_of(1) == 100
    shop.run(RAISE)
    listener.catch_up()
    assert price_of(1) == 200


def test_expired_value_that_is_made_anew_is_refused_as_well(
    shop: Shop, listener: Listener, region: CacheRegion
) -> None:
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.get_or_create("price:1", lambda: shop.price(1))
    slow = SlowLoad(lambda load: region.get_or_create("price:1", load, expiration_time=1e-9), lambda: shop.price(1))
    shop.run(RAISE)
    listener.catch_up()
    slow.store()
    assert region.get("price:1") is NO_VALUE


def test_value_made_in_another_thread_is_refused_as_well(
    shop: Shop, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "LOAD_SECONDS", 0)  # it is known when the load began
    threads: list[threading.Thread] = []
    has_loaded, may_store = threading.Event(), threading.Event()

    def run_aside(region: CacheRegion, key: str, creator: Callable[[], Any], mutex: Any) -> None:
        def run() -> None:
            try:
                value = creator()
                has_loaded.set()
                assert may_store.wait(PATIENCE)
                region.set(key, value)
            finally:
                mutex.release()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    region = make_region(async_creation_runner=run_aside).configure("dogpile.cache.memory")
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.get_or_create("price:1", lambda: shop.price(1))
    region.get_or_create("price:1", lambda: shop.price(1), expiration_time=1e-9)
    assert has_loaded.wait(PATIENCE)
    shop.run(RAISE)
    listener.catch_up()
    assert region.get("price:1") is NO_VALUE  # by the thread that has begun the other one: that is no news for it
    may_store.set()
    threads[0].join(PATIENCE)
    assert region.get("price:1") is NO_VALUE


def test_value_made_in_another_thread_is_kept_where_nothing_changed(shop: Shop, listener: Listener) -> None:
    threads: list[threading.Thread] = []

    def run_aside(region: CacheRegion, key: str, creator: Callable[[], Any], mutex: Any) -> None:
        def run() -> None:
            region.set(key, creator())
            mutex.release()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    region = make_region(async_creation_runner=run_aside).configure("dogpile.cache.memory")
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.get_or_create("price:1", lambda: 1)
    region.get_or_create("price:1", lambda: 2, expiration_time=1e-9)
    threads[0].join(PATIENCE)
    assert region.get("price:1") == 2


def test_value_that_nobody_looked_for_is_kept_unless_the_key_has_just_changed(
    shop: Shop, listener: Listener, region: CacheRegion
) -> None:
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.set("price:1", 100)
    region.set_multi({"price:2": 100, "price:3": 100})
    assert region.get_multi(["price:1", "price:2", "price:3"]) == [100, 100, 100]
    value = shop.price(4)
    shop.run("UPDATE products SET price = 200 WHERE id = 4")
    listener.catch_up()
    region.set("price:4", value)
    assert region.get("price:4") is NO_VALUE


def test_loading_says_when_the_load_of_a_value_began_that_is_set(
    shop: Shop, listener: Listener, region: CacheRegion
) -> None:
    invalidation = invalidate(region, shop.Product, key=price_key, listener=listener)
    shop.run(RAISE)
    listener.catch_up()
    with invalidation.loading("price:1", "price:2") as loading:
        region.set_multi({"price:1": shop.price(1), "price:2": shop.price(2)})
        assert loading.is_current
    assert region.get_multi(["price:1", "price:2"]) == [200, 100]
    with invalidation.loading("price:1") as loading:
        value = shop.price(1)
        shop.run("UPDATE products SET price = 300 WHERE id = 1")
        listener.catch_up()
        assert not loading.is_current
        region.set("price:1", value)
    assert region.get("price:1") is NO_VALUE


def test_two_tasks_of_one_thread_have_loads_of_their_own(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    invalidate(region, shop.Product, key=price_key, listener=listener)

    async def load_and_store(has_loaded: asyncio.Event, may_store: asyncio.Event) -> None:
        assert region.get("price:1") is NO_VALUE
        value = await asyncio.to_thread(shop.price, 1)
        has_loaded.set()
        await may_store.wait()
        region.set("price:1", value)

    async def main() -> None:
        loaded, may_store = [asyncio.Event(), asyncio.Event()], [asyncio.Event(), asyncio.Event()]
        slow = asyncio.create_task(load_and_store(loaded[0], may_store[0]))
        await loaded[0].wait()
        await asyncio.to_thread(shop.run, RAISE)
        await listener.catch_up_async()
        quick = asyncio.create_task(load_and_store(loaded[1], may_store[1]))
        await loaded[1].wait()
        may_store[1].set()
        await quick
        assert region.get("price:1") == 200
        may_store[0].set()
        await slow
        assert region.get("price:1") == 200

    asyncio.run(main())
