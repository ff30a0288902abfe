"""Fixtures: a server for the session, a database, an engine and a declarative base for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from models import declare_base, declare_user
from postgres import Cluster, ensure_system_user
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase
from support import created_database

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what waits for most of its time, so that others run beside it."""
    items.sort(key=lambda item: item.path.parent.name != "soak")


def pytest_configure(config: pytest.Config) -> None:
    """Make the server's own user, where this is root: workers that make it side by side would fail."""
    if not hasattr(config, "workerinput"):
        ensure_system_user()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running server, one for each worker."""
    cluster = Cluster().start()
    yield cluster
    cluster.remove()


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The name of an empty database; notifications do not cross databases."""
    with created_database(cluster, f"test_{next(_numbers)}") as name:
        yield name


@pytest.fixture
def engine(cluster: Cluster, database: str) -> Iterator[Engine]:
    engine = create_engine(cluster.url(database, "psycopg"))
    yield engine
    engine.dispose()


@pytest.fixture
def client(cluster: Cluster, database: str) -> Iterator[psycopg.Connection[Any]]:
    """Another program: plain SQL over a connection of its own, in autocommit."""
    with cluster.connect(database) as connection:
        yield connection


@pytest.fixture
def Base() -> type[DeclarativeBase]:
    """A declarative base with a MetaData of its own."""
    return declare_base()


@pytest.fixture
def User(Base: type[DeclarativeBase], engine: Engine) -> Any:
    """A model whose inserts are watched; the table exists."""
    User = declare_user(Base)
    Base.metadata.create_all(engine)
    return User


class Recorder:
    """A receiver that keeps what it was called with."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.senders: list[Any] = []

    def __call__(self, sender: Any, event: Any) -> None:
        self.senders.append(sender)
        self.events.append(event)

    def heard(self) -> list[tuple[Any, ...]]:
        """(label, identity) of each event, in order."""
        return [(event.label, event.identity) for event in self.events]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
