"""Two listeners that have to hear the same, and tenants to be heard or not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from postgres import VERSION, Cluster
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import resync_reasons

from sqlalchemy_watch import Listener, Watch, Watched
from sqlalchemy_watch.declaring.targets import watches_of_table

Client = psycopg.Connection[Any]

LEVELS = ["statement", "row"]

#: For tests of what the schema in a payload says, or of durable delivery.
by_both = pytest.mark.parametrize("Account", ["both"], indirect=True)
DRIVERS = ["psycopg", "psycopg2", "pg8000", "asyncpg", "psycopg_async"]


def declare(Base: type[DeclarativeBase], level: Any = "statement", delivery: Any = "both", **options: Any) -> Any:
    class Account(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "accounts"
        __table_args__ = options
        __watch__ = [Watch(operation, delivery=delivery, level=level) for operation in ("inserted", "deleted")]
        id: Mapped[int] = mapped_column(primary_key=True)

    return Account


class Ears:
    """Listeners, one for each route of the watches, that have to hear the same; before PostgreSQL 14 there is one."""

    def __init__(self, engine: Any, Account: Any, group: str, **options: Any) -> None:
        watch = next(iter(watches_of_table(Account.__table__)))
        routes: list[str | None] = [None] if watch.is_notified else []
        routes += [group] if watch.is_durable and VERSION >= 14 else []
        self.listeners = [Listener(engine, Account, durable=durable, **options) for durable in routes]
        self.reasons = [resync_reasons(listener) for listener in self.listeners]
        self._heard: dict[Any, list[tuple[str, int]]] = {listener: [] for listener in self.listeners}
        for signal in Account.watch:
            signal.connect(self._hear, weak=False)

    def _hear(self, sender: Any, event: Any) -> None:
        sign = 1 if event.operation == "inserted" else -1
        self._heard[event.listener].append((event.schema, sign * event.identity[0]))

    def heard(self) -> list[tuple[str, int]]:
        """What came since the last call; a deleted row has a negative id."""
        first, *others = map(self.heard_by, self.listeners)
        assert all(rows == first for rows in others)
        return first

    def heard_by(self, listener: Listener) -> list[tuple[str, int]]:
        """What one of them has heard since the last call."""
        listener.catch_up()
        rows, self._heard[listener] = self._heard[listener], []
        return rows

    def resyncs(self) -> set[str]:
        """The reasons that both have given since the last call."""
        live, *safe = (set(reasons) for reasons in self.reasons)
        for reasons in self.reasons:
            reasons.clear()
        assert all(reasons == live for reasons in safe)
        return live

    def counts(self, name: str) -> set[int]:
        return {getattr(listener.stats(), name) for listener in self.listeners}


#: Starts a pair of listeners.
OpenEars = Callable[..., Ears]


def make_tenant(client: Client, url: Any, Account: Any, *schemas: str) -> None:
    """Create schemas, each with a table and triggers of its own."""
    for schema in schemas:
        client.execute(psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(psycopg.sql.Identifier(schema)))
        engine = create_engine(url, connect_args={"options": "-csearch_path=" + f'"{schema}"'.replace(" ", "\\ ")})
        Account.metadata.create_all(engine)
        engine.dispose()


def insert(client: Client, schema: str, *ids: int) -> None:
    """Insert rows of these ids, in one statement."""
    statement = psycopg.sql.SQL("INSERT INTO {} SELECT unnest(%s::int[])")
    client.execute(statement.format(psycopg.sql.Identifier(schema, "accounts")), [list(ids)])


def run_on_connect(engine: Any, *statements: str) -> list[Any]:
    """Have the pool run statements on each new connection; return a list of these that grows."""
    connections: list[Any] = []

    @event.listens_for(getattr(engine, "sync_engine", engine), "connect", insert=True)
    def prepare(connection: Any, record: Any) -> None:
        connections.append(connection)
        before, connection.autocommit = connection.autocommit, True
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        connection.autocommit = before

    return connections


def make_engine(cluster: Cluster, database: str, driver: str, **options: Any) -> Any:
    if driver in ("asyncpg", "psycopg_async"):
        return create_async_engine(cluster.url(database, driver.removesuffix("_async")), **options)
    return create_engine(cluster.url(database, driver), **options)


def warnings_in(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and words in r.getMessage()]


def forge(client: Client, channel: str, place: str, count: int, *, durable: bool = False) -> None:
    """Tell what a trigger would, so many times.

    :param place: the fields that say whose it is; with an `@` in the place of a running number.
    """
    head = '{"v":1,"table":"accounts","label":"inserted","op":"inserted","columns":["id"],"txid":1,'
    rest = ',"at":"2023-11-14T22:13:20+00:00","rows":[[1]]}'
    call = "pg_logical_emit_message(true, 'sqlalchemy_watch/' || %s," if durable else "pg_notify(%s,"
    statement = f"SELECT {call} replace(%s, '@', n::text)) FROM generate_series(1, %s) AS n"
    client.execute(statement.encode(), [channel, head + place + rest, count])
