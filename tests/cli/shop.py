"""A small application for the command line's tests, imported by its processes."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = (
        "inserted",
        Watch("updated", extra_columns=("status",), old=True),
        Watch("updated", label="fully", trigger_columns=("status",), when=lambda old, new: new.status.like("100%")),
        Watch("deleted", delivery="durable"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(server_default="new")


class Unwatched(Base):
    __tablename__ = "unwatched"
    id: Mapped[int] = mapped_column(primary_key=True)
