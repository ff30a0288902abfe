"""An application whose receivers print as soon as it is imported, for the command line's tests."""

from __future__ import annotations

import sys

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from sqlalchemy_watch import Watched, everything


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = everything("status", delivery="both")
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(server_default="new")


def tell(*args: object, **kwargs: object) -> None:
    sys.stdout.write("a receiver was called\n")


Order.watch.inserted.connect(tell)
Order.watch.connect(lambda sender, event: tell())
Order.watch.updated.filter_by(id=1).connect(tell)
Order.watch.inserted.batches(max_wait=0).connect(lambda sender, events: tell())
Order.watch.inserted.connect_once(
    lambda sender, event, session: tell(), sessionmaker(create_engine("postgresql+psycopg://127.0.0.1:1/x")), name="x"
)
