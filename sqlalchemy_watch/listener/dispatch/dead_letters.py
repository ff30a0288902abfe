"""Dead letters: events whose receiver kept failing, in a table of the same database.

Those that are tried again are parked. With a key, all later events of the key are parked behind it, for that receiver,
and only the oldest of them is tried.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors

from ...errors import OwnershipError
from ..server.own_tables import OwnTable

LETTERS = OwnTable(
    "dead_letters",
    "dead letters",
    {
        "id": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "consumer_group": "text NOT NULL",
        "channel": "text NOT NULL",
        "payload": "text NOT NULL",
        "lsn": "bigint NOT NULL",
        "position": "integer NOT NULL",
        "receiver": "text NOT NULL",
        "key": "text",
        "error": "text NOT NULL",
        "attempts": "integer NOT NULL",
        "failed_at": "timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp()",
        "retry_at": "timestamp with time zone",
    },
    ("consumer_group", "receiver", "lsn", "position"),
)

_COLUMNS = "id, consumer_group, channel, payload, lsn, position, receiver, key, error, attempts, failed_at, retry_at"

#: Times that Python has, in place of those that somebody wrote by hand.
_BOUNDED = "CASE WHEN {0} IS NOT NULL THEN least(greatest({0}, '0002-01-01 00:00+00'), '9998-12-31 00:00+00') END"

_LISTED = _COLUMNS.replace("failed_at, retry_at", f"{_BOUNDED.format('failed_at')}, {_BOUNDED.format('retry_at')}")

#: Raised for a text that the database, or its protocol, can't hold.
_UNWRITABLE = (errors.UntranslatableCharacter, psycopg.DataError, UnicodeEncodeError)

_TABLE = LETTERS.full_name

# One that is there was parked by a process that died before it acknowledged the event; with a key it may have been
# tried again since.
_PARK = (
    f"INSERT INTO {_TABLE} (consumer_group, channel, payload, lsn, position, receiver, key, error, attempts, retry_at) "
    f"VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => %s)) "
    f"ON CONFLICT (consumer_group, receiver, lsn, position) DO UPDATE SET error = excluded.error, "
    f"attempts = excluded.attempts, failed_at = excluded.failed_at, retry_at = excluded.retry_at "
    f"WHERE excluded.key IS NULL"
)

#: The oldest of each key, of those that are tried again, if that is due.
_DUE_FRONTS = (
    f"SELECT id, retry_at FROM (SELECT DISTINCT ON (receiver, key) id, retry_at FROM {_TABLE} "
    f"WHERE consumer_group = %s AND key IS NOT NULL AND retry_at IS NOT NULL ORDER BY receiver, key, lsn, position"
    f") AS front WHERE retry_at <= pg_catalog.clock_timestamp()"
)

#: Keys of which letters are tried at once.
MOST_FRONTS = 100


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
    #: That of its lane, where later events of the key wait behind it; None for one that nothing waits for.
    key: str | None
    error: str
    attempts: int
    failed_at: datetime
    retry_at: datetime | None


def park(
    connection: psycopg.Connection[Any],
    letter: tuple[str, str, str, int, int, str, str | None, str, int],
    retry_in: float | None,
) -> None:
    """Write a letter: the event, and the receiver that failed on it.

    :param letter: group, channel, payload of the one row, lsn, position, receiver, key, error, attempts.
    :param retry_in: seconds until it is tried again; None where it is given up.
    """
    if not LETTERS.may_be_used(connection):
        LETTERS.ensure(connection)  # somebody has dropped it
    group, channel, payload, lsn, position, receiver, key, error, attempts = letter
    # A database that is not UTF-8 can't hold every text, and none holds NUL or half of a surrogate pair.
    for words in (
        (payload, receiver, error),
        (payload, receiver, as_ascii(error)),
        (json.dumps(json.loads(payload)), as_ascii(receiver), as_ascii(error)),
    ):
        values = [group, channel, words[0], lsn, position, words[1], key, words[2], attempts, retry_in]
        try:
            connection.execute(_PARK, values)
            return
        except _UNWRITABLE as failure:
            refused = failure
    raise refused


def as_ascii(text: str) -> str:
    """Return the text in ASCII, which a database of any encoding can hold."""
    return text.encode("ascii", "backslashreplace").decode().replace("\0", "\\x00")


def list_letters(
    connection: psycopg.Connection[Any], group: str | None = None, *, only_parked: bool = False
) -> list[DeadLetter]:
    """Return the letters of a group, or of all groups, the oldest first; none where there is no table yet.

    :param only_parked: those alone that are tried again.
    """
    if not LETTERS.exists(connection):
        return []
    rows = connection.execute(
        f"SELECT {_LISTED} FROM {_TABLE} WHERE (CAST(%(group)s AS text) IS NULL OR consumer_group = %(group)s) "
        f"AND (retry_at IS NOT NULL OR NOT %(parked)s) ORDER BY id",
        {"group": group, "parked": only_parked},
    )
    return [DeadLetter(*row) for row in rows]


def next_due(connection: psycopg.Connection[Any], group: str) -> DeadLetter | None:
    """Return the oldest letter of a group, of those without a key, that is to be tried now.

    :returns: None where there is none, and where the role may not use the table.
    """
    if not _may_be_read(connection):
        return None
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM {_TABLE} WHERE consumer_group = %s AND key IS NULL "
        f"AND retry_at <= pg_catalog.clock_timestamp() ORDER BY retry_at, id LIMIT 1",
        [group],
    ).fetchone()
    return None if row is None else DeadLetter(*row)


def due_fronts(connection: psycopg.Connection[Any], group: str) -> list[DeadLetter]:
    """Return the oldest letter of each key and receiver that is to be tried now, of so many keys at the most."""
    if not _may_be_read(connection):
        return []
    due = f"SELECT id FROM ({_DUE_FRONTS}) AS due ORDER BY retry_at LIMIT {MOST_FRONTS}"
    query = f"SELECT {_COLUMNS} FROM {_TABLE} WHERE id IN ({due}) ORDER BY retry_at"
    return [DeadLetter(*row) for row in connection.execute(query, [group])]


def has_due(connection: psycopg.Connection[Any], group: str) -> bool:
    """Return True if a letter of a group is to be tried now; False where the role may not use the table."""
    if not _may_be_read(connection):
        return False
    row = connection.execute(
        f"SELECT EXISTS (SELECT FROM {_TABLE} WHERE consumer_group = %s AND key IS NULL "
        f"AND retry_at <= pg_catalog.clock_timestamp()) OR EXISTS ({_DUE_FRONTS})",
        [group, group],
    ).fetchone()
    return row == (True,)


def front(connection: psycopg.Connection[Any], group: str, receiver: str, key: str) -> DeadLetter | None:
    """Return the oldest letter of a key that is tried again, when that is due or not; None where there is none."""
    if not LETTERS.exists(connection):
        return None
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM {_TABLE} WHERE consumer_group = %s AND receiver = %s AND key = %s "
        f"AND retry_at IS NOT NULL ORDER BY lsn, position LIMIT 1",
        [group, receiver, key],
    ).fetchone()
    return None if row is None else DeadLetter(*row)


def parked_keys(connection: psycopg.Connection[Any], group: str) -> set[tuple[str, str]]:
    """Return the receivers and keys of which letters are tried again."""
    if not LETTERS.exists(connection):
        return set()
    query = (
        f"SELECT DISTINCT receiver, key FROM {_TABLE} "
        f"WHERE consumer_group = %s AND key IS NOT NULL AND retry_at IS NOT NULL"
    )
    return {(receiver, key) for receiver, key in connection.execute(query, [group])}


def _may_be_read(connection: psycopg.Connection[Any]) -> bool:
    try:
        return LETTERS.may_be_used(connection)
    except OwnershipError:  # whoever has letters to write says so
        return False


def update(
    connection: psycopg.Connection[Any], letter: DeadLetter, error: str, attempts: int, retry_in: float | None
) -> bool:
    """Note one more failure.

    :param attempts: those that count by now.
    :returns: False where `retry` was called meanwhile: then nothing is noted, and the letter is tried anew.
    """
    if not LETTERS.exists(connection):
        return False
    query = (
        f"UPDATE {_TABLE} SET error = %s, attempts = %s, failed_at = pg_catalog.clock_timestamp(), "
        f"retry_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => %s) "
        f"WHERE id = %s AND retry_at = %s"
    )
    try:
        done = connection.execute(query, [error, attempts, retry_in, letter.id, letter.retry_at])
    except _UNWRITABLE:
        done = connection.execute(query, [as_ascii(error), attempts, retry_in, letter.id, letter.retry_at])
    return done.rowcount > 0


def remove(connection: psycopg.Connection[Any], letter: DeadLetter) -> None:
    """Delete a letter whose receiver has taken the event."""
    if LETTERS.exists(connection):
        connection.execute(f"DELETE FROM {_TABLE} WHERE id = %s", [letter.id])


def retry(connection: psycopg.Connection[Any], group: str, ids: Sequence[int] | None) -> int:
    """Have the running consumer try letters again at once, and return their number."""
    if not LETTERS.exists(connection):
        return 0
    return connection.execute(
        f"UPDATE {_TABLE} SET retry_at = pg_catalog.clock_timestamp(), attempts = 0 "
        f"WHERE consumer_group = %s AND (CAST(%s AS bigint[]) IS NULL OR id = ANY (%s))",
        [group, ids, ids],
    ).rowcount


def drop(connection: psycopg.Connection[Any], group: str, ids: Sequence[int] | None) -> int:
    """Delete letters, and return their number."""
    if not LETTERS.exists(connection):
        return 0
    return connection.execute(
        f"DELETE FROM {_TABLE} WHERE consumer_group = %s AND (CAST(%s AS bigint[]) IS NULL OR id = ANY (%s))",
        [group, ids, ids],
    ).rowcount
