"""A shop with a listener: products by their key, and orders, whose entries are those of a customer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region
from listener.conftest import engine_through_proxy, proxy  # noqa: F401 - fixtures
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import PATIENCE

from sqlalchemy_watch import Listener, Watch, Watched


@dataclass
class Shop:
    """The models and what changes and loads their rows: by connections that know nothing of the cache."""

    engine: Engine
    Product: Any
    Order: Any

    def run(self, sql: str) -> None:
        """Run SQL and commit it."""
        with self.engine.begin() as connection:
            connection.execute(text(sql))

    def price(self, product_id: int) -> int | None:
        """Load a price."""
        with self.engine.connect() as connection:
            statement = select(self.Product.price).where(self.Product.id == product_id)
            return connection.execute(statement).scalar()

    def count(self, customer_id: int) -> int:
        """Count a customer's orders."""
        with self.engine.connect() as connection:
            statement = select(func.count()).where(self.Order.customer_id == customer_id)
            return connection.execute(statement).scalar_one()


@pytest.fixture
def shop(Base: type[DeclarativeBase], engine: Engine) -> Shop:
    class Product(Watched, Base):
        __tablename__ = "products"
        __watch__ = ("inserted", "updated", "deleted", "truncated")
        id: Mapped[int] = mapped_column(primary_key=True)
        price: Mapped[int]

    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = (
            Watch("inserted", extra_columns=("customer_id", "note")),
            Watch("updated", extra_columns=("customer_id", "note"), old=True),
            Watch("deleted", extra_columns=("customer_id", "note")),
            "truncated",
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        customer_id: Mapped[int]
        note: Mapped[str] = mapped_column(server_default="")

    Base.metadata.create_all(engine)
    shop = Shop(engine, Product, Order)
    shop.run("INSERT INTO products SELECT i, 100 FROM generate_series(1, 5) AS i")
    shop.run("INSERT INTO orders VALUES (1, 7), (2, 7), (3, 8)")
    return shop


@pytest.fixture
def listener(shop: Shop) -> Iterator[Listener]:
    with Listener(shop.engine, shop.Product, shop.Order) as listener:
        yield listener


@pytest.fixture
def region() -> CacheRegion:
    return make_region().configure("dogpile.cache.memory")


def price_key(row: Any) -> str:
    """The key of a product's price."""
    return f"price:{row['id']}"


class SlowLoad:
    """A load in a thread of its own, which has loaded, and does not store before it is told to.

    :param get: looks in the cache; calls what it is given to load, and stores that.
    :param load: returns the value.
    """

    def __init__(self, get: Callable[[Callable[[], Any]], Any], load: Callable[[], Any]) -> None:
        self._get, self._load = get, load
        self._has_loaded, self._may_store = threading.Event(), threading.Event()
        #: What was returned.
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._has_loaded.wait(PATIENCE)

    def _run(self) -> None:
        def load() -> Any:
            value = self._load()
            self._has_loaded.set()
            assert self._may_store.wait(PATIENCE)
            return value

        self.result = self._get(load)

    def store(self) -> Any:
        """Have it store, and return what it returned."""
        self._may_store.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.result
