"""Fixtures of the listener's tests: a proxy, watched models, a journal, listeners, groups that leave no slot behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import wait_until

from sqlalchemy_watch import Listener, Watched

from .journal import Journal
from .proxy import Proxy, proxied

MakeListener = Callable[..., Listener]


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    with proxied(cluster.port) as proxy:
        yield proxy


@pytest.fixture
def engine_through_proxy(proxy: Proxy, database: str) -> Iterator[Engine]:
    engine = create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{proxy.port}/{database}?connect_timeout=2")
    yield engine
    engine.dispose()


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def listening(database: str, User: Any, journal: Journal) -> Iterator[MakeListener]:
    """Starts listeners at a port, with their journal; afterwards none of their threads is left."""
    made: list[tuple[Listener, Engine]] = []
    User.watch.inserted.connect(journal)

    def make(port: int, **settings: Any) -> Listener:
        connect_args = {"connect_timeout": 2, **settings.pop("connect_args", {})}
        engine = create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{port}/{database}", connect_args=connect_args)
        settings = {"heartbeat_interval": 0.2, "heartbeat_timeout": 0.3, **settings}
        listener = Listener(engine, User, **settings)
        journal.attach(listener)
        made.append((listener, engine))
        listener.start()
        return listener

    yield make
    for listener, engine in made:
        listener.stop()
        engine.dispose()
    assert [t.name for t in threading.enumerate() if t.name.startswith("sqlalchemy-watch")] == []


@pytest.fixture
def listener(cluster: Cluster, listening: MakeListener) -> Listener:
    """A running listener, whose events and signals are in the journal."""
    return listening(cluster.port)


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


@pytest.fixture(params=[None, pytest.param("group", marks=needs_logical_messages)], ids=["notify", "durable"])
def route(request: pytest.FixtureRequest, group: str) -> dict[str, Any]:
    """The options of a listener without a group, and of one with."""
    return {} if request.param is None else {"durable": group}


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
def Person(Base: type[DeclarativeBase], engine: Engine) -> Any:
    """The class above of a hierarchy of two, joined; heard both ways."""

    class Person(Watched, Base):
        __tablename__ = "people"
        __watch__ = ("inserted", "updated")
        __watch_delivery__ = "both"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    class Employee(Person):
        __tablename__ = "employees"
        id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
        __mapper_args__ = {"polymorphic_identity": "employee"}

    Base.metadata.create_all(engine)
    return Person


@pytest.fixture
def Employee(Person: Any) -> Any:
    return Person.__subclasses__()[0]


@pytest.fixture
def durable(engine: Engine, Base: type[DeclarativeBase], group: str) -> Iterator[MakeListener]:
    """Makes listeners of the group, which are stopped after the test."""
    made: list[Listener] = []

    def make(**options: Any) -> Listener:
        listener = Listener(engine, Base, durable=options.pop("durable", group), **options)
        made.append(listener)
        return listener

    yield make
    for listener in made:
        listener.stop()
