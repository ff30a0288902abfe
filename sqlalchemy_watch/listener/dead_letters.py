"""Events whose receiver kept failing: a table in the same database, where they wait for somebody to look.

The table has a schema of its own, out of sight of migrations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors

from ..errors import SlotError

TABLE = "sqlalchemy_watch.dead_letters"

_CREATE = f"""
CREATE SCHEMA IF NOT EXISTS sqlalchemy_watch;
CREATE TABLE IF NOT EXISTS {TABLE} (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  consumer_group text NOT NULL,
  channel text NOT NULL,
  payload text NOT NULL,
  lsn bigint NOT NULL,
  position integer NOT NULL,
  receiver text NOT NULL,
  error text NOT NULL,
  attempts integer NOT NULL,
  failed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  retry_at timestamptz,
  UNIQUE (consumer_group, lsn, position, receiver)
)
"""

_COLUMNS = "id, consumer_group, channel, payload, lsn, position, receiver, error, attempts, failed_at, retry_at"

_PARK = (
    f"INSERT INTO {TABLE} (consumer_group, channel, payload, lsn, position, receiver, error, attempts, retry_at) "
    f"VALUES (%s, %s, %s, %s, %s, %s, %s, %s, pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => %s)) "
    f"ON CONFLICT (consumer_group, lsn, position, receiver) DO UPDATE SET error = excluded.error, "
    f"attempts = excluded.attempts, failed_at = excluded.failed_at, retry_at = excluded.retry_at"
)


@dataclass(frozen=True)
class DeadLetter:
    """One event and one receiver. `retry_at` is None for those that are given up."""

    id: int
    consumer_group: str
    channel: str
    payload: str
    lsn: int
    position: int
    receiver: str
    error: str
    attempts: int
    failed_at: datetime
    retry_at: datetime | None


def ensure_table(connection: psycopg.Connection[Any]) -> None:
    """Make the table, unless it is there.

    :raises SlotError: where the role may not.
    """
    if connection.execute("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", [TABLE]).fetchone() == (True,):
        return
    try:
        connection.execute(_CREATE)
    except (errors.DuplicateObject, errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateSchema):
        pass  # another consumer was faster
    except errors.InsufficientPrivilege as error:
        raise SlotError(
            f"the role may not create the table {TABLE} for dead letters ({error.diag.message_primary}): have an "
            f"administrator run `sqlalchemy-watch slots create`, or grant CREATE on the database"
        ) from error


def park(
    connection: psycopg.Connection[Any],
    letter: tuple[str, str, str, int, int, str, str, int],
    retry_in: float | None,
) -> None:
    """Keep an event for a receiver that failed on it.

    :param letter: group, channel, payload of the one row, lsn, position, receiver, error, attempts.
    :param retry_in: seconds until it is tried again; None where it is given up.
    """
    group, channel, payload, lsn, position, receiver, error, attempts = letter
    # A database that is not UTF-8 can't hold every text.
    for words in (
        (payload, receiver, error),
        (payload, receiver, as_ascii(error)),
        (json.dumps(json.loads(payload)), as_ascii(receiver), as_ascii(error)),
    ):
        values = [group, channel, words[0], lsn, position, *words[1:], attempts, retry_in]
        try:
            connection.execute(_PARK, values)
            return
        except errors.UntranslatableCharacter as failure:
            refused = failure
    raise refused


def as_ascii(text: str) -> str:
    """A text that a database of any encoding can hold."""
    return text.encode("ascii", "backslashreplace").decode()


def read(connection: psycopg.Connection[Any], group: str | None = None) -> list[DeadLetter]:
    """The letters of a group, or of all, the oldest first; none where there is no table yet."""
    try:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM {TABLE} "
            f"WHERE CAST(%(group)s AS text) IS NULL OR consumer_group = %(group)s ORDER BY id",
            {"group": group},
        )
    except errors.UndefinedTable:
        return []
    return [DeadLetter(*row) for row in rows]


def due(connection: psycopg.Connection[Any], group: str) -> list[DeadLetter]:
    """The letters of a group that are to be tried now."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM {TABLE} WHERE consumer_group = %s AND retry_at <= pg_catalog.clock_timestamp() "
        f"ORDER BY id LIMIT 100",
        [group],
    )
    return [DeadLetter(*row) for row in rows]


def update(connection: psycopg.Connection[Any], letter: DeadLetter, error: str, retry_in: float | None) -> None:
    """Note one more failure."""
    query = (
        f"UPDATE {TABLE} SET error = %s, attempts = attempts + 1, failed_at = pg_catalog.clock_timestamp(), "
        f"retry_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => %s) WHERE id = %s"
    )
    try:
        connection.execute(query, [error, retry_in, letter.id])
    except errors.UntranslatableCharacter:
        connection.execute(query, [as_ascii(error), retry_in, letter.id])


def retry(connection: psycopg.Connection[Any], group: str, ids: Sequence[int] | None) -> int:
    """Have the running consumer try letters again at once; gives how many."""
    return connection.execute(
        f"UPDATE {TABLE} SET retry_at = pg_catalog.clock_timestamp(), attempts = 0 "
        f"WHERE consumer_group = %s AND (CAST(%s AS bigint[]) IS NULL OR id = ANY (%s))",
        [group, ids, ids],
    ).rowcount


def drop(connection: psycopg.Connection[Any], group: str, ids: Sequence[int] | None) -> int:
    """Delete letters; gives how many."""
    return connection.execute(
        f"DELETE FROM {TABLE} WHERE consumer_group = %s AND (CAST(%s AS bigint[]) IS NULL OR id = ANY (%s))",
        [group, ids, ids],
    ).rowcount
