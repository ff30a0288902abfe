"""Which entries an event drops, in a region."""

from __future__ import annotations

from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE
from dogpile.cache.proxy import ProxyBackend
from dogpile.cache.util import sha1_mangle_key

from sqlalchemy_watch import Listener, Watched
from sqlalchemy_watch.caching import invalidate

from .conftest import Shop, price_key


def counted(region: CacheRegion, shop: Shop, *customers: int) -> list[int]:
    """Return the numbers of customers' orders, from the cache if they are there."""
    return [region.get_or_create(f"orders:{c}", lambda c=c: shop.count(c)) for c in customers]


def by_customer(row: Any) -> str:
    return f"orders:{row['customer_id']}"


@pytest.fixture
def orders(shop: Shop, listener: Listener, region: CacheRegion) -> CacheRegion:
    invalidate(region, shop.Order, key=by_customer, listener=listener)
    assert counted(region, shop, 7, 8, 9) == [2, 1, 0]
    return region


CHANGES = {
    "inserted": ("INSERT INTO orders VALUES (4, 8)", [2, 2, 0]),
    "deleted": ("DELETE FROM orders WHERE id = 1", [1, 1, 0]),
    "moved to another parent": ("UPDATE orders SET customer_id = 9 WHERE id = 1", [1, 1, 1]),
    "moved, and another key": ("UPDATE orders SET id = id + 10, customer_id = 9 WHERE customer_id = 7", [0, 1, 2]),
    "truncated": ("TRUNCATE orders", [0, 0, 0]),
    "partial": ("UPDATE orders SET customer_id = 9, note = repeat('x', 9000) WHERE id = 1", [1, 1, 1]),
    "partial and deleted": (
        "UPDATE orders SET note = repeat('x', 9000) WHERE id = 1; DELETE FROM orders WHERE id = 1", [1, 1, 0]
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sql", "expected"), CHANGES.values(), ids=CHANGES)
def test_no_entry_is_left_that_a_change_touches(
    shop: Shop, listener: Listener, orders: CacheRegion, sql: str, expected: list[int]
) -> None:
    failed: list[BaseException] = []
    listener.receiver_failed.connect(lambda listener, receiver, event, error: failed.append(error))
    shop.run(sql)
    listener.catch_up()
    assert failed == []
    assert counted(orders, shop, 7, 8, 9) == expected


def test_entries_of_other_rows_stay(shop: Shop, listener: Listener, orders: CacheRegion) -> None:
    shop.run("UPDATE orders SET customer_id = 9 WHERE id = 1")
    listener.catch_up()
    assert orders.get("orders:8") == 1


def test_partial_row_has_its_primary_key_still(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    invalidate(region, shop.Order, key=lambda row: f"order:{row['id']}", listener=listener)
    region.get_or_create_multi(["order:1", "order:2"], lambda *missing: [0] * len(missing))
    shop.run("UPDATE orders SET note = repeat('x', 9000) WHERE id = 1")
    listener.catch_up()
    assert region.get_multi(["order:1", "order:2"]) == [NO_VALUE, 0]


def test_key_that_can_not_be_told_drops_all_and_is_reported(
    shop: Shop, listener: Listener, region: CacheRegion
) -> None:
    failed: list[BaseException] = []
    listener.receiver_failed.connect(lambda listener, receiver, event, error: failed.append(error))
    names = {7: "Ada", 8: "Grace"}
    invalidate(region, shop.Order, key=lambda row: f"orders:{names[row['customer_id']]}", listener=listener)
    assert region.get_or_create("orders:Ada", lambda: shop.count(7)) == 2
    shop.run("UPDATE orders SET customer_id = 9 WHERE customer_id = 7")
    listener.catch_up()
    assert region.get("orders:Ada") is NO_VALUE
    assert [type(error) for error in failed] == [KeyError, KeyError]


def test_several_keys_and_none(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    def keys(row: Any) -> list[str] | None:
        return None if row["id"] == 2 else [f"price:{row['id']}", "all prices"]

    invalidate(region, shop.Product, key=keys, listener=listener)
    names = ["price:1", "price:2", "all prices"]
    region.get_or_create_multi(names, lambda *missing: [0] * len(missing))
    shop.run("UPDATE products SET price = 7 WHERE id = 2")
    listener.catch_up()
    assert region.get_multi(names) == [0, 0, 0]
    shop.run("DELETE FROM products WHERE id = 1")
    listener.catch_up()
    assert region.get_multi(names) == [NO_VALUE, 0, NO_VALUE]


def test_key_mangler_applies(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    region.key_mangler = sha1_mangle_key
    invalidate(region, shop.Product, key=price_key, listener=listener)
    region.get_or_create("price:1", lambda: shop.price(1))
    shop.run("UPDATE products SET price = 200")
    listener.catch_up()
    assert region.get_or_create("price:1", lambda: shop.price(1)) == 200


class Counting(ProxyBackend):
    """Another proxy, which knows single keys alone, and changes what it stores."""

    def get(self, key: Any) -> Any:
        value = self.proxied.get(key)
        return value if value is NO_VALUE else value._replace(payload=value.payload[0])

    def set(self, key: Any, value: Any) -> None:
        self.proxied.set(key, value._replace(payload=[value.payload]))  # type: ignore[union-attr]


@pytest.mark.parametrize("is_before", [True, False])
def test_other_proxies_go_on(shop: Shop, listener: Listener, region: CacheRegion, is_before: bool) -> None:
    if is_before:
        region.wrap(Counting)
    invalidate(region, shop.Product, key=price_key, listener=listener)
    if not is_before:
        region.wrap(Counting)
    assert region.get_or_create("price:1", lambda: shop.price(1)) == 100
    assert region.get("price:1") == 100
    shop.run("UPDATE products SET price = 200")
    listener.catch_up()
    assert region.get_or_create("price:1", lambda: shop.price(1)) == 200


class Packing(ProxyBackend):
    """Another proxy, which packs what is serialized."""

    def get_serialized(self, key: Any) -> Any:
        value = self.proxied.get_serialized(key)
        return value if value is NO_VALUE else value[::-1]  # type: ignore[index]

    def set_serialized(self, key: Any, value: bytes) -> None:
        self.proxied.set_serialized(key, value[::-1])


@pytest.mark.parametrize("is_before", [True, False])
def test_proxies_that_pack_go_on(shop: Shop, listener: Listener, is_before: bool) -> None:
    region = make_region().configure("dogpile.cache.memory_pickle")
    if is_before:
        region.wrap(Packing)
    invalidate(region, shop.Product, key=price_key, listener=listener)
    if not is_before:
        region.wrap(Packing)
    assert region.get_or_create("price:1", lambda: shop.price(1)) == 100
    assert region.get("price:1") == 100
    shop.run("UPDATE products SET price = 200")
    listener.catch_up()
    assert region.get_or_create("price:1", lambda: shop.price(1)) == 200


def test_models_of_one_region_drop_each_others_entries(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    for model in (shop.Product, shop.Order):
        invalidate(region, model, key=lambda row: "page", listener=listener)
    for sql in ("UPDATE products SET price = 3 WHERE id = 1", "DELETE FROM orders WHERE id = 1"):
        region.get_or_create("page", lambda: "made")
        shop.run(sql)
        listener.catch_up()
        assert region.get("page") is NO_VALUE


def test_after_close_nothing_is_dropped(shop: Shop, listener: Listener, region: CacheRegion) -> None:
    with invalidate(region, shop.Product, key=price_key, listener=listener):
        pass
    region.get_or_create("price:1", lambda: shop.price(1))
    shop.run("UPDATE products SET price = 200")
    listener.catch_up()
    assert region.get("price:1") == 100


def test_with_workers_entries_are_dropped_before_slow_receivers(shop: Shop, region: CacheRegion) -> None:
    seen: list[Any] = []

    def look(sender: type[Watched], event: Any) -> None:
        seen.append(region.get(price_key(event.values)))

    shop.Product.watch.updated.connect(look)
    with Listener(shop.engine, shop.Product, workers=4) as listener:
        invalidate(region, shop.Product, key=price_key, listener=listener)
        for i in range(1, 6):
            region.get_or_create(f"price:{i}", lambda i=i: shop.price(i))
        shop.run("UPDATE products SET price = 200")
        listener.catch_up()
    assert seen == [NO_VALUE] * 5
