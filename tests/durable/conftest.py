"""Models with durable watches, and consumer groups that leave no slot behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watched


@pytest.fixture
def group(cluster: Cluster, database: str) -> Iterator[str]:
    """The name of a consumer group; slots belong to the whole server, and so are dropped after the test."""
    yield f"group_{database}"
    drop_slots(cluster, database)


def drop_slots(cluster: Cluster, database: str) -> None:
    """Drop the slots of a database, with whoever reads them."""
    with cluster.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s AND active",
            [database],
        )
        for (name,) in connection.execute(
            "SELECT slot_name FROM pg_replication_slots WHERE database = %s", [database]
        ).fetchall():
            wait_until(connection, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", name)
            connection.execute("SELECT pg_drop_replication_slot(%s)", [name])


def wait_until(connection: psycopg.Connection[Any], query: str, *parameters: Any, seconds: float = 20.0) -> None:
    """Ask the server until the answer is true; the waiting is the server's."""
    for _ in range(int(seconds / 0.02)):
        row = connection.execute(query, parameters).fetchone()
        if row is not None and row[0]:
            return
        connection.execute("SELECT pg_sleep(0.02)")
    raise AssertionError(f"not so within {seconds:g} s: {query} {parameters}")


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    """A model all of whose operations are durable; the table exists."""

    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = ("inserted", "updated", "deleted", "truncated")
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(server_default="")

    Base.metadata.create_all(engine)
    return Order


@pytest.fixture
def durable(engine: Engine, Base: type[DeclarativeBase], group: str) -> Iterator[Callable[..., Listener]]:
    """Makes listeners of the group, which are stopped after the test."""
    made: list[Listener] = []

    def make(**options: Any) -> Listener:
        listener = Listener(engine, Base, durable=options.pop("durable", group), **options)
        made.append(listener)
        return listener

    yield make
    for listener in made:
        listener.stop()
