"""Dead letters: events whose receiver kept failing. They wait in a table of the same database.

The table has a schema of its own, out of sight of migrations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors, sql

from ...errors import OwnershipError
from .letters_table import TABLE, ensure_table, has_table, may_use_table

_COLUMNS = "id, consumer_group, channel, payload, lsn, position, receiver, error, attempts, failed_at, retry_at"

#: Times that Python has, in place of those that somebody wrote by hand.
_BOUNDED = "CASE WHEN {0} IS NOT NULL THEN least(greatest({0}, '0002-01-01 00:00+00'), '9998-12-31 00:00+00') END"

_LISTED = _COLUMNS.replace("failed_at, retry_at", f"{_BOUNDED.format('failed_at')}, {_BOUNDED.format('retry_at')}")

#: Raised for a text that the database, or its protocol, can't hold.
_UNWRITABLE = (errors.UntranslatableCharacter, psycopg.DataError, UnicodeEncodeError)

_PARK = (
    f"INSERT INTO {TABLE} (consumer_group, channel, payload, lsn, position, receiver, error, attempts, retry_at) "
    f"VALUES (%s, %s, %s, %s, %s, %s, %s, %s, pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => %s)) "
    f"ON CONFLICT (consumer_group, lsn, position, receiver) DO UPDATE SET error = excluded.error, "
    f"attempts = excluded.attempts, failed_at = excluded.failed_at, retry_at = excluded.retry_at"
)


@dataclass(frozen=True)
class DeadLetter:
    """An event that a receiver failed on. `retry_at` is None for one that is given up."""

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


def grant(connection: psycopg.Connection[Any], role: str) -> None:
    """Let a role use the table."""
    name = sql.Identifier(role)
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA sqlalchemy_watch TO {}").format(name))
    connection.execute(sql.SQL(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO {{}}").format(name))


def park(
    connection: psycopg.Connection[Any],
    letter: tuple[str, str, str, int, int, str, str, int],
    retry_in: float | None,
) -> None:
    """Write a letter: the event, and the receiver that failed on it.

    :param letter: group, channel, payload of the one row, lsn, position, receiver, error, attempts.
    :param retry_in: seconds until it is tried again; None where it is given up.
    """
    if not may_use_table(connection):
        ensure_table(connection)  # somebody has dropped it
    group, channel, payload, lsn, position, receiver, error, attempts = letter
    # A database that is not UTF-8 can't hold every text, and none holds NUL or half of a surrogate pair.
    for words in (
        (payload, receiver, error),
        (payload, receiver, as_ascii(error)),
        (json.dumps(json.loads(payload)), as_ascii(receiver), as_ascii(error)),
    ):
        values = [group, channel, words[0], lsn, position, *words[1:], attempts, retry_in]
        try:
            connection.execute(_PARK, values)
            return
        except _UNWRITABLE as failure:
            refused = failure
    raise refused


def as_ascii(text: str) -> str:
    """Return the text in ASCII, which a database of any encoding can hold."""
    return text.encode("ascii", "backslashreplace").decode().replace("\0", "\\x00")


def list_letters(connection: psycopg.Connection[Any], group: str | None = None) -> list[DeadLetter]:
    """Return the letters of a group, or of all groups, the oldest first; none where there is no table yet."""
    if not has_table(connection):
        return []
    rows = connection.execute(
        f"SELECT {_LISTED} FROM {TABLE} "
        f"WHERE CAST(%(group)s AS text) IS NULL OR consumer_group = %(group)s ORDER BY id",
        {"group": group},
    )
    return [DeadLetter(*row) for row in rows]


def next_due(connection: psycopg.Connection[Any], group: str) -> DeadLetter | None:
    """Return the oldest letter of a group that is to be tried now.

    :returns: None where there is none, and where the role may not use the table.
    """
    try:
        if not may_use_table(connection):
            return None
    except OwnershipError:  # whoever has letters to write says so
        return None
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM {TABLE} WHERE consumer_group = %s AND retry_at <= pg_catalog.clock_timestamp() "
        f"ORDER BY retry_at, id LIMIT 1",
        [group],
    ).fetchone()
    return None if row is None else DeadLetter(*row)


def update(connection: psycopg.Connection[Any], letter: DeadLetter, error: str, retry_in: float | None) -> bool:
    """Note one more failure.

    :returns: False where `retry` was called meanwhile: then nothing is noted, and the letter is tried anew.
    """
    if not has_table(connection):
        return False
    query = (
        f"UPDATE {TABLE} SET error = %s, attempts = attempts + 1, failed_at = pg_catalog.clock_timestamp(), "
        f"retry_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => %s) "
        f"WHERE id = %s AND retry_at = %s"
    )
    try:
        done = connection.execute(query, [error, retry_in, letter.id, letter.retry_at])
    except _UNWRITABLE:
        done = connection.execute(query, [as_ascii(error), retry_in, letter.id, letter.retry_at])
    return done.rowcount > 0


def remove(connection: psycopg.Connection[Any], letter: DeadLetter) -> None:
    """Delete a letter whose receiver has taken the event."""
    if has_table(connection):
        connection.execute(f"DELETE FROM {TABLE} WHERE id = %s", [letter.id])


def retry(connection: psycopg.Connection[Any], group: str, ids: Sequence[int] | None) -> int:
    """Have the running consumer try letters again at once, and return their number."""
    if not has_table(connection):
        return 0
    return connection.execute(
        f"UPDATE {TABLE} SET retry_at = pg_catalog.clock_timestamp(), attempts = 0 "
        f"WHERE consumer_group = %s AND (CAST(%s AS bigint[]) IS NULL OR id = ANY (%s))",
        [group, ids, ids],
    ).rowcount


def drop(connection: psycopg.Connection[Any], group: str, ids: Sequence[int] | None) -> int:
    """Delete letters, and return their number."""
    if not has_table(connection):
        return 0
    return connection.execute(
        f"DELETE FROM {TABLE} WHERE consumer_group = %s AND (CAST(%s AS bigint[]) IS NULL OR id = ANY (%s))",
        [group, ids, ids],
    ).rowcount
