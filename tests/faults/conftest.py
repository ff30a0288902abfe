"""Fixtures of the fault tests: a proxy, a watched model, a journal, listeners with a fast heartbeat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from postgres import Cluster
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watched

from .proxy import Proxy, proxied
from .support import Journal

MakeListener = Callable[..., Listener]


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    with proxied(cluster.port) as proxy:
        yield proxy


@pytest.fixture
def User(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    return User


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def listening(database: str, User: Any, journal: Journal) -> Iterator[MakeListener]:
    """Makes and starts a listener at a port, with its journal; afterwards none of its threads is left."""
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
