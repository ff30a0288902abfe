"""The demo's application: two watched models. Another process writes the rows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import MetaData, Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ..declaring.spec import Delivery, Watch
from ..watched import Watched

SCHEMA = "sqlalchemy_watch_demo"


class Shop(NamedTuple):
    """The models, and their base."""

    Base: Any
    Customer: Any
    Order: Any


def declare(delivery: Delivery) -> Shop:
    """Declare the models, whose events come by NOTIFY, or that way and through the log as well."""

    class Base(DeclarativeBase):
        metadata = MetaData(schema=SCHEMA)

    class Customer(Watched, Base):
        __tablename__ = "customers"
        __watch_delivery__ = delivery
        __watch__ = (
            Watch("inserted", extra_columns=("name",)),
            Watch("updated", label="email_changed", trigger_columns=("email",), extra_columns=("name",), old=True),
            Watch("deleted", extra_columns=("name",)),
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        email: Mapped[str]

    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch_delivery__ = delivery
        __watch__ = (
            Watch("inserted", extra_columns=("customer_id", "total")),
            Watch("updated", extra_columns=("status",)),
            Watch(
                "updated",
                label="shipped",
                extra_columns=("customer_id", "total"),
                trigger_columns=("status",),
                when=lambda old, new: new.status == "shipped",
            ),
            "deleted",
            "truncated",
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        customer_id: Mapped[int]
        total: Mapped[Decimal] = mapped_column(Numeric(10, 2))
        status: Mapped[str] = mapped_column(server_default="new")

    return Shop(Base, Customer, Order)
