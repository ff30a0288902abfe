"""Models that several test modules declare alike, each on a base of the caller's, which has a MetaData of its own."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watched


def declare_base() -> type[DeclarativeBase]:
    """A declarative base with a MetaData of its own."""

    class Base(DeclarativeBase):
        pass

    return Base


def declare_user(Base: type[DeclarativeBase], *watches: Any) -> Any:
    """Users, whose inserts are watched where nothing else is said."""

    class User(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "users"
        __watch__ = watches or ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    return User


def declare_order(Base: type[DeclarativeBase], *watches: Any, delivery: str | None = None) -> Any:
    """Orders, whose inserts are watched where nothing else is said.

    :param delivery: of all watches that don't name their own; None is the base's default.
    """

    class Order(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "orders"
        __watch__ = watches or ("inserted",)
        if delivery is not None:
            __watch_delivery__ = delivery
        id: Mapped[int] = mapped_column(primary_key=True)

    return Order
