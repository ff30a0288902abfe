"""Fixtures of the live queries' tests: customers with orders with items, watched for everything, and sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from models import declare_base
from postgres import Cluster
from sqlalchemy import Engine, ForeignKey, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship

from sqlalchemy_watch import Listener, Watched, everything


def declare_shop(Base: type[DeclarativeBase]) -> Any:
    class Customer(Watched, Base):  # type: ignore[misc, valid-type]
        __tablename__ = "customers"
        __watch__ = everything("name")
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    class Order(Watched, Base):  # type: ignore[misc, valid-type]
        __tablename__ = "orders"
        __watch__ = everything("customer_id")
        id: Mapped[int] = mapped_column(primary_key=True)
        customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
        total: Mapped[int] = mapped_column(server_default="0")
        customer: Mapped[Customer] = relationship()
        items: Mapped[list[Item]] = relationship(
            order_by="Item.id", back_populates="order", primaryjoin="Order.id == foreign(Item.order_id)"
        )

    class Item(Watched, Base):  # type: ignore[misc, valid-type]
        __tablename__ = "items"
        __watch__ = everything("order_id")
        id: Mapped[int] = mapped_column(primary_key=True)
        order_id: Mapped[int] = mapped_column()
        price: Mapped[int] = mapped_column(server_default="0")
        order: Mapped[Order] = relationship(back_populates="items", primaryjoin="foreign(Item.order_id) == Order.id")

    class Basket(Base):  # type: ignore[misc, valid-type]
        """An order, with what its items cost."""

        __table__ = Order.__table__
        price: Mapped[int] = column_property(
            select(func.sum(Item.price)).where(Item.order_id == Order.__table__.c.id).scalar_subquery()
        )

    return SimpleNamespace(Base=Base, Customer=Customer, Order=Order, Item=Item, Basket=Basket)


@pytest.fixture
def shop(engine: Engine) -> Any:
    """Eight customers, each with five orders; sixty items."""
    shop = declare_shop(declare_base())
    shop.Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO customers SELECT g, 'c' || g FROM generate_series(1, 8) g",
            "INSERT INTO orders SELECT g, 1 + g % 8, g % 10 FROM generate_series(1, 40) g",
            "INSERT INTO items SELECT g, 1 + g % 40, g % 5 FROM generate_series(1, 60) g",
        ):
            connection.execute(text(statement))
    return shop


@pytest.fixture
def listener(engine: Engine, shop: Any) -> Iterator[Listener]:
    with Listener(engine, shop.Base) as listener:
        yield listener


#: Makes a session factory of the test's database, over a driver; within the running loop.
Sessions = Callable[..., Any]


@pytest.fixture
def sessions(cluster: Cluster, database: str) -> Sessions:
    @asynccontextmanager
    async def make(driver: str = "asyncpg", **options: Any) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
        engine: AsyncEngine = create_async_engine(cluster.url(database, driver), **options)
        try:
            yield async_sessionmaker(engine)
        finally:
            await engine.dispose()

    return make


async def settled(*results: Any) -> None:
    """Wait until none of these live queries is to be run any more."""
    async with asyncio.timeout(20):
        while not all(each._query.is_idle for each in results):
            await asyncio.sleep(0.002)
