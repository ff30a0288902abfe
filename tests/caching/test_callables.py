"""Any other cache: a function that deletes, one that clears, and loads in `loading()`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from listener.proxy import Proxy
from sqlalchemy import Engine
from support import PATIENCE, end_listeners, wait_until

from sqlalchemy_watch import ConfigurationError, Listener
from sqlalchemy_watch.caching import Invalidation, invalidate

from .conftest import Shop, SlowLoad, price_key

RAISE = "UPDATE products SET price = 200 WHERE id = 1"


class Prices:
    """A cache of one's own, as simple as can be."""

    def __init__(self, shop: Shop, listener: Listener, **options: Any) -> None:
        self.entries: dict[str, Any] = {}
        self.invalidation: Invalidation = invalidate(
            self.delete, shop.Product, key=price_key, everything=self.entries.clear, listener=listener, **options
        )

    def delete(self, key: str) -> None:
        self.entries.pop(key, None)

    def get(self, key: str, load: Callable[[], Any]) -> Any:
        if key not in self.entries:
            with self.invalidation.loading(key):
                self.entries[key] = load()
        return self.entries[key]


@pytest.fixture
def prices(shop: Shop, listener: Listener) -> Prices:
    return Prices(shop, listener)


def test_entry_of_a_changed_row_is_deleted_and_others_stay(shop: Shop, listener: Listener, prices: Prices) -> None:
    for number in (1, 2):
        prices.get(f"price:{number}", lambda: 100)
    shop.run(RAISE)
    listener.catch_up()
    assert prices.entries == {"price:2": 100}
    shop.run("DELETE FROM products WHERE id = 2")
    listener.catch_up()
    assert prices.entries == {}


def test_truncate_clears_all(shop: Shop, listener: Listener, prices: Prices) -> None:
    prices.get("price:1", lambda: 100)
    shop.run("TRUNCATE products")
    listener.catch_up()
    assert prices.entries == {}


@pytest.mark.parametrize("is_stamped", [False, True])
def test_value_that_a_change_overtakes_stays_without_loading_alone(
    shop: Shop, listener: Listener, prices: Prices, is_stamped: bool
) -> None:
    entries = prices.entries

    def get(load: Callable[[], Any]) -> Any:
        return entries.setdefault("price:1", load())

    slow = SlowLoad((lambda load: _loading(prices, load)) if is_stamped else get, lambda: shop.price(1))
    shop.run(RAISE)
    listener.catch_up()
    slow.store()
    assert entries == ({} if is_stamped else {"price:1": 100})
    assert prices.invalidation.refused == int(is_stamped)


def _loading(prices: Prices, load: Callable[[], Any]) -> Any:
    with prices.invalidation.loading("price:1"):
        prices.entries["price:1"] = value = load()
        return value


def test_change_of_any_of_several_models_deletes_what_is_made_of_them(shop: Shop, listener: Listener) -> None:
    entries: dict[str, int] = {}
    products, orders = (
        invalidate(entries.__delitem__, model, key=lambda row: "page", everything=entries.clear, listener=listener)
        for model in (shop.Product, shop.Order)
    )

    def get(load: Callable[[], Any]) -> Any:
        with products.loading("page"), orders.loading("page"):
            entries["page"] = load()

    for sql in (RAISE, "DELETE FROM orders WHERE id = 1"):
        slow = SlowLoad(get, lambda: 1)
        entries["page"] = 0  # there is one to delete
        shop.run(sql)
        listener.catch_up()
        slow.store()
        assert entries == {}


def test_resync_clears_all_and_what_was_loading(
    shop: Shop, listener: Listener, client: psycopg.Connection[Any], prices: Prices
) -> None:
    prices.get("price:2", lambda: 100)
    slow = SlowLoad(lambda load: _loading(prices, load), lambda: shop.price(1))
    heard = threading.Event()
    listener.resync.connect(lambda listener, reason: heard.set())
    end_listeners(client)
    assert heard.wait(PATIENCE)
    listener.catch_up()
    slow.store()
    assert prices.entries == {}


def test_without_a_running_listener_nothing_stays(shop: Shop) -> None:
    prices = Prices(shop, Listener(shop.engine, shop.Product))
    assert _loading(prices, lambda: 100) == 100
    assert prices.entries == {}


def test_bypass_clears_at_the_loss_and_keeps_nothing_meanwhile(
    shop: Shop, client: psycopg.Connection[Any], engine_through_proxy: Engine, proxy: Proxy
) -> None:
    with Listener(engine_through_proxy, shop.Product) as listener:
        prices = Prices(shop, listener, while_disconnected="bypass")
        prices.get("price:1", lambda: 100)
        heard = threading.Event()
        listener.resync.connect(lambda listener, reason: heard.set())
        proxy.refuse()
        wait_until(client, lambda: not prices.entries and not prices.invalidation._hearing.may_store)
        assert _loading(prices, lambda: 100) == 100
        assert prices.entries == {}
        proxy.resume()
        assert heard.wait(PATIENCE)
        listener.catch_up()
        prices.get("price:1", lambda: 100)
        assert prices.entries == {"price:1": 100}


def test_delete_that_fails_is_made_good_with_the_next(shop: Shop, listener: Listener) -> None:
    entries = {"price:1": 100, "price:2": 100}
    outcomes = [ConnectionError("away"), None]

    def delete(key: str) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    invalidate(delete, shop.Product, key=price_key, everything=entries.clear, listener=listener)
    shop.run(RAISE)
    shop.run("UPDATE products SET price = 200 WHERE id = 2")
    listener.catch_up()
    assert entries == {}


def test_lambda_that_returns_a_coroutine_is_told_to_be_one(shop: Shop, listener: Listener) -> None:
    async def delete(key: str) -> None:
        raise AssertionError("nobody awaits it")

    failed: list[BaseException] = []
    listener.receiver_failed.connect(lambda listener, receiver, event, error: failed.append(error))
    invalidate(lambda key: delete(key), shop.Product, key=price_key, everything={}.clear, listener=listener)
    shop.run(RAISE)
    listener.catch_up()
    assert [type(error) for error in failed] == [ConfigurationError]
    assert "pass the coroutine function itself" in str(failed[0])


def run_in_loop(shop: Shop, test: Callable[[Listener], Any]) -> None:
    """Run a test in an event loop with a listener."""

    async def main() -> None:
        async with Listener(shop.engine, shop.Product) as listener:
            await test(listener)

    asyncio.run(main())


async def check_async(shop: Shop, listener: Listener, cache: Any, missing: Any = None) -> None:
    """Check a cache whose functions are coroutine functions: entries go, and what is overtaken does not stay."""
    invalidation = invalidate(cache.delete, shop.Product, key=price_key, everything=cache.clear, listener=listener)
    with pytest.raises(ConfigurationError, match="async with"), invalidation.loading("price:1"):
        pass

    async def price(number: int, between: str = "") -> Any:
        key = f"price:{number}"
        found = await cache.get(key)
        if found is not missing:
            return found
        async with invalidation.loading(key):
            value = await asyncio.to_thread(shop.price, number)
            if between:
                await asyncio.to_thread(shop.run, between)
                await listener.catch_up_async()
            await cache.set(key, value)
        return value

    assert [await price(1), await price(2)] == [100, 100]
    assert await cache.get("price:1") == 100
    await asyncio.to_thread(shop.run, RAISE)
    await listener.catch_up_async()
    assert (await cache.get("price:1"), await cache.get("price:2")) == (missing, 100)
    assert await price(1, "UPDATE products SET price = 300 WHERE id = 1") == 200
    assert await cache.get("price:1") is missing
    await asyncio.to_thread(shop.run, "TRUNCATE products")
    await listener.catch_up_async()
    assert await cache.get("price:2") is missing
    invalidation.close()


def test_aiocache(shop: Shop) -> None:
    from aiocache import Cache

    run_in_loop(shop, lambda listener: check_async(shop, listener, Cache(Cache.MEMORY)))


def test_cashews(shop: Shop) -> None:
    from cashews import Cache

    async def check(listener: Listener) -> None:
        cache = Cache()
        cache.setup("mem://")
        await check_async(shop, listener, cache)
        await cache.close()

    run_in_loop(shop, check)


def test_decorators_of_aiocache_and_cashews_stand_in_loading(shop: Shop) -> None:
    from aiocache import cached
    from cashews import Cache

    cache = Cache()
    cache.setup("mem://")

    async def load(number: int) -> Any:
        return await asyncio.to_thread(shop.price, number)

    async def check(listener: Listener) -> None:
        by_aiocache = cached(key_builder=lambda function, number: f"price:{number}")(load)
        by_cashews = cache(ttl="1h", key="price:{number}")(load)
        for function, of in ((by_aiocache, by_aiocache.cache), (by_cashews, cache)):
            await asyncio.to_thread(shop.run, "UPDATE products SET price = 100")
            await listener.catch_up_async()
            invalidation = invalidate(of.delete, shop.Product, key=price_key, everything=of.clear, listener=listener)
            async with invalidation.loading("price:1"):
                assert await function(1) == 100
            await asyncio.to_thread(shop.run, RAISE)
            await listener.catch_up_async()
            assert await function(1) == 200
            invalidation.close()

    run_in_loop(shop, check)


@pytest.mark.parametrize("is_bound", [True, False])
def test_flask_caching(shop: Shop, listener: Listener, is_bound: bool) -> None:
    from flask import Flask
    from flask_caching import Cache

    app = Flask("shop")
    config = {"CACHE_TYPE": "SimpleCache"}
    cache = Cache(app, config=config) if is_bound else Cache(config=config)
    cache.init_app(app)
    functions = cache if is_bound else app.extensions["cache"][cache]
    invalidation = invalidate(
        functions.delete, shop.Product, key=price_key, everything=functions.clear, listener=listener
    )
    with app.app_context():
        with invalidation.loading("price:1"):
            cache.set("price:1", shop.price(1))
        assert cache.get("price:1") == 100
        shop.run(RAISE)
        listener.catch_up()
        assert cache.get("price:1") is None
        with invalidation.loading("price:1"):
            value = shop.price(1)
            shop.run("UPDATE products SET price = 300 WHERE id = 1")
            listener.catch_up()
            cache.set("price:1", value)
        assert cache.get("price:1") is None
