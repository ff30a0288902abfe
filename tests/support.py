"""Helpers of all tests: inserting, waiting, reasons to resync, records of a log, databases."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any

import psycopg
from postgres import Cluster
from psycopg import sql

from sqlalchemy_watch import Listener

#: Seconds; long for what always comes.
PATIENCE = 20.0

#: The fields of a payload that is made up: of a table in the schema public, at some time.
MADE_UP: dict[str, Any] = {"schema": "public", "txid": 7, "at": "2023-11-14T22:13:20+00:00"}

Client = psycopg.Connection[Any]


def insert(client: Client, table: str, *ids: int | Iterable[int]) -> None:
    """Insert rows of these ids, a statement for each argument: for a row, or for all rows of a range."""
    statement = sql.SQL("INSERT INTO {} (id) SELECT unnest(%s::int[])").format(sql.Identifier(table))
    for argument in ids:
        client.execute(statement, [[argument] if isinstance(argument, int) else list(argument)])


def oid_of(client: Client, table: str) -> int:
    """Return the oid of a table."""
    row = client.execute("SELECT %s::regclass::oid", [table]).fetchone()
    assert row is not None
    return int(row[0])


def wait_until(
    client: Client, condition: str | Callable[[], object], *parameters: Any, seconds: float = PATIENCE
) -> None:
    """Wait until a query's answer, or that of a function, is true; the waiting is the server's.

    :param condition: the query, whose parameters follow, or the function.
    :raises AssertionError: not so within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (_answer(client, condition, parameters) if isinstance(condition, str) else condition()):
        assert time.monotonic() < deadline, f"not so within {seconds:g} s: {condition} {parameters}"
        client.execute("SELECT pg_sleep(0.01)")


def _answer(client: Client, query: str, parameters: tuple[Any, ...]) -> Any:
    row = client.execute(query.encode(), parameters).fetchone()
    return row is not None and row[0]


def resync_reasons(listener: Listener) -> list[str]:
    """The reasons of the listener's resyncs from now on, in a list that grows."""
    reasons: list[str] = []
    listener.resync.connect(lambda listener, reason: reasons.append(reason))
    return reasons


def end_listeners(client: Client) -> None:
    """Have the server end the session of every listener in this database."""
    client.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'sqlalchemy-watch' AND datname = current_database()"
    )


@contextmanager
def records_of(logger: str) -> Iterator[SimpleQueue[logging.LogRecord]]:
    """The records of a logger, as they come."""
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(records)
    logging.getLogger(logger).addHandler(handler)
    yield records
    logging.getLogger(logger).removeHandler(handler)


@contextmanager
def created_database(cluster: Cluster, name: str, options: str = "") -> Iterator[str]:
    """Create an empty database, and drop it afterwards, whoever is connected to it."""
    template = "" if "TEMPLATE" in options else "TEMPLATE template0"
    strategy = "STRATEGY file_copy" if cluster.version >= 15 else ""  # half the time of one that goes to the log
    with cluster.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} {template} {strategy} {options}")
    yield name
    with cluster.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def set_for(cluster: Cluster, database: str, **settings: str) -> None:
    """Give a database settings of its own, for connections to come."""
    with cluster.connect() as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
