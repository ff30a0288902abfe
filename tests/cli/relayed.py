"""An application whose orders come both ways, for the tests of `relay`."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watched


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = ("inserted", "updated", "deleted")
    __watch_delivery__ = "both"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(server_default="")


class LoudBase(DeclarativeBase):
    pass


class Loud(Watched, LoudBase):
    __tablename__ = "loud"
    __watch__ = ("inserted",)
    id: Mapped[int] = mapped_column(primary_key=True)


class KeptBase(DeclarativeBase):
    pass


class Kept(Watched, KeptBase):
    __tablename__ = "kept"
    __watch__ = ("inserted",)
    __watch_delivery__ = "durable"
    id: Mapped[int] = mapped_column(primary_key=True)
