"""Checks of the server and of the triggers, made once for each connection."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql
from sqlalchemy import Table

from ...catalog import listening, problems
from ...declaring.translating import NO_MAP, SchemaMap
from ...errors import UnsupportedServerError, one_line
from .connect import Connect
from .deadline import Unanswered

log: logging.Logger = logging.getLogger(__name__)

OLDEST_VERSION = 13

#: Seconds to wait for a notification behind something that may be a transaction pooler.
PROBE_SECONDS = 3.0


def check_server(connection: psycopg.Connection[Any]) -> None:
    """Raise where LISTEN can't work here.

    :raises UnsupportedServerError: for a server too old, and for a hot standby.
    """
    version = connection.info.server_version // 10_000
    if version < OLDEST_VERSION:
        raise UnsupportedServerError(f"the server is PostgreSQL {version}: {OLDEST_VERSION} or later is needed")
    row = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
    if row is not None and row[0]:
        raise UnsupportedServerError(
            "the server is a hot standby, where LISTEN is not possible: connect to the primary, with several hosts in "
            "the URL by target_session_attrs=read-write, or pass listen_url='postgresql://...' to the Listener"
        )


def check_not_pooled(connection: psycopg.Connection[Any], connect: Connect, seconds: float) -> None:
    """Raise behind a pooler that lends the server's session to others between transactions.

    A pooler makes up its own cancel key, so the process id libpq knows isn't the session's. Whether it pools
    sessions (then LISTEN works) or transactions shows when a second connection gets the same session, when
    this one is given another, or when what the second one sends does not reach this one while it is idle.

    :param seconds: at most half of this time is waited for what the second connection sends.
    :raises UnsupportedServerError: behind a transaction pooler.
    """
    pid = _backend_pid(connection)
    if pid == connection.info.backend_pid:
        return
    with contextlib.closing(connect()) as other:
        other.autocommit = False
        shared = _backend_pid(other) == pid
        pooled = shared or _backend_pid(connection) != pid  # the other one holds its session meanwhile
        other.rollback()
        pooled = pooled or not _reaches(connection, other, min(seconds / 2, PROBE_SECONDS))
    if pooled:
        raise UnsupportedServerError(
            "the connection goes through a transaction pooler (PgBouncer with pool_mode = transaction?), which loses "
            "LISTEN: give the listener a direct connection with listen_url='postgresql://...'"
        )


def _reaches(connection: psycopg.Connection[Any], other: psycopg.Connection[Any], seconds: float) -> bool:
    """Return True if a notification reaches a connection that is idle."""
    channel = f"watch_probe_{uuid.uuid4().hex}"
    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    other.execute("SELECT pg_catalog.pg_notify(%s, '')", [channel])
    other.commit()
    reached = any(notify.channel == channel for notify in connection.notifies(timeout=seconds, stop_after=1))
    connection.execute(sql.SQL("UNLISTEN {}").format(sql.Identifier(channel)))
    return reached


def keep_alive_when_idle(connection: psycopg.Connection[Any]) -> None:
    """Switch `idle_session_timeout` (PostgreSQL 14) off: a listener is idle most of the time, and each end is a gap."""
    connection.execute(
        "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'"
    )


@contextlib.contextmanager
def within(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Give each query of a block no more than this time: for what is a courtesy, and must not cost the connection.

    :raises psycopg.OperationalError: where the connection is lost, or the server does not answer at all.
    """
    milliseconds = max(1, round(seconds * 1000))
    connection.execute(
        f"BEGIN; SET LOCAL statement_timeout = {milliseconds}; "
        # A process that is frozen in here must not keep the lock of `exclusive`: no other limit holds in a transaction.
        f"SET LOCAL idle_in_transaction_session_timeout = {10 * milliseconds}"
    )
    yield
    connection.execute("ROLLBACK")


def warn_of_triggers(
    connection: psycopg.Connection[Any], tables: Sequence[Table], seconds: float, schemas: SchemaMap = NO_MAP
) -> None:
    """Log a warning for each trigger of these tables that is missing, outdated or can't work.

    :param seconds: the time for each query; where that is not enough, a warning says so.
    :raises psycopg.OperationalError: where the connection is lost, or the server does not answer at all.
    """
    found: list[str] = []
    with within(connection, seconds):
        try:
            found += problems.describe_problems(connection, tables, schemas)
        except Unanswered:
            raise
        except errors.QueryCanceled:
            log.warning(
                "did not look at the triggers: the catalog gave no answer within %g s (a lock, or a busy server); "
                "listening goes on, and `sqlalchemy-watch status` says if one is missing",
                seconds,
            )
        except psycopg.OperationalError as error:  # the connection is lost, most likely, and whoever reads it says so
            log.warning("could not look at the triggers (%s)", one_line(error))
        except Exception:  # looking is a courtesy; listening goes on
            log.exception("could not look at the triggers")
    for problem in found:
        log.warning("%s", problem)


def warn_of_many(connection: psycopg.Connection[Any], seconds: float) -> None:
    """Log a warning where many sessions listen: writers pay for each.

    :param seconds: the time for the query; where that is not enough, nothing is said.
    :raises psycopg.OperationalError: where the connection is lost, or the server does not answer at all.
    """
    with within(connection, seconds):
        try:
            words = listening.words_for(listening.count_listening(lambda query: _value(connection, query)))
        except errors.QueryCanceled:
            return
    if words is not None:
        log.warning("%s", words)


def _value(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _backend_pid(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])
