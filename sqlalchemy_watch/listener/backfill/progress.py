"""How far backfills have got: in a table for a consumer group, whose next process goes on; in memory without."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import psycopg

from ...errors import OwnershipError
from ...wire import BACKFILL_PREFIX
from ..server.own_tables import OwnTable
from .reading import Key

BACKFILLS = OwnTable(
    "backfills",
    "existing rows",
    {
        "consumer_group": "text NOT NULL",
        "model": "text NOT NULL",
        "started_at": "timestamp with time zone NOT NULL",
        "progress": "text",
        "rows_read": "bigint NOT NULL",
        "done_at": "timestamp with time zone",
    },
    ("consumer_group", "model"),
)

_TABLE = BACKFILLS.full_name

#: Anew, wherever the one before has got.
_REQUEST = (
    f"INSERT INTO {_TABLE} (consumer_group, model, started_at, rows_read) "
    f"VALUES (%s, %s, pg_catalog.clock_timestamp(), 0) ON CONFLICT (consumer_group, model) DO "
)
_ANEW = (
    "UPDATE SET started_at = excluded.started_at, progress = NULL, rows_read = 0, done_at = NULL RETURNING started_at"
)

#: So that the active consumer looks at once.
_TELL = "SELECT pg_catalog.pg_logical_emit_message(true, %s, %s)"


@dataclass
class Place:
    """How far the rows of one schema's table have been read."""

    schema: str
    #: The highest key when that began.
    end: Key
    behind: Key | None = None
    #: The keys of rows that are to be read again.
    again: list[Key] = field(default_factory=list)


@dataclass
class Backfill:
    """One that is not done."""

    #: The key of the table.
    table: str
    #: By the server's clock.
    started_at: datetime
    #: None at the beginning.
    place: Place | None = None
    rows_read: int = 0


class State(NamedTuple):
    """What can be seen of a backfill from outside."""

    rows_read: int
    is_done: bool


class Progress(Protocol):
    """Knows which backfills are to be done, and how far they are. Over a connection in autocommit."""

    @property
    def is_idle(self) -> bool:
        """True if nothing is to be done, as far as that is known without asking."""

    def request(self, connection: psycopg.Connection[Any], table: str) -> datetime:
        """Have the existing rows of a table read, anew if that is under way; return when that begins."""

    def request_once(self, connection: psycopg.Connection[Any], tables: Collection[str]) -> None:
        """Have them read, unless that was requested before."""

    def next(self, connection: psycopg.Connection[Any], tables: Collection[str]) -> Backfill | None:
        """Return the oldest backfill of these tables that is not done; None without any."""

    def save(self, connection: psycopg.Connection[Any], backfill: Backfill, *, is_done: bool = False) -> bool:
        """Note how far it is; return False where it was requested anew meanwhile."""


class InMemory:
    """Of a listener without a group: a new one begins anew."""

    def __init__(self) -> None:
        self._waiting: dict[str, Backfill] = {}
        self._had: set[str] = set()

    @property
    def is_idle(self) -> bool:
        """True if nothing is to be done."""
        return not self._waiting

    def request(self, connection: psycopg.Connection[Any], table: str) -> datetime:
        """Have the existing rows of a table read, anew if that is under way."""
        row = connection.execute("SELECT pg_catalog.clock_timestamp()").fetchone()
        assert row is not None
        self._waiting[table] = Backfill(table, row[0])
        self._had.add(table)
        return row[0]  # type: ignore[no-any-return]

    def request_once(self, connection: psycopg.Connection[Any], tables: Collection[str]) -> None:
        """Have them read, unless that was requested before."""
        for table in tables:
            if table not in self._had:
                self.request(connection, table)

    def next(self, connection: psycopg.Connection[Any], tables: Collection[str]) -> Backfill | None:
        """Return the oldest backfill of these tables that is not done; None without any."""
        return next((found for table, found in self._waiting.copy().items() if table in tables), None)

    def save(self, connection: psycopg.Connection[Any], backfill: Backfill, *, is_done: bool = False) -> bool:
        """Note how far it is: the object itself says so."""
        if self._waiting.get(backfill.table) is not backfill:
            return False
        if is_done:
            del self._waiting[backfill.table]
        return True


class InTable:
    """Of a consumer group."""

    #: Another process may have requested something.
    is_idle = False

    def __init__(self, group: str) -> None:
        self._group = group

    def request(self, connection: psycopg.Connection[Any], table: str) -> datetime:
        """Have the existing rows of a table read, anew if that is under way; return when that begins.

        :raises WatchError: where the table of backfills can't be made or used.
        """
        BACKFILLS.ensure(connection)
        with connection.transaction():
            row = connection.execute(_REQUEST + _ANEW, [self._group, table]).fetchone()
            connection.execute(_TELL, [BACKFILL_PREFIX, self._group])
        assert row is not None
        return row[0]  # type: ignore[no-any-return]

    def request_once(self, connection: psycopg.Connection[Any], tables: Collection[str]) -> None:
        """Have them read, unless that was requested before.

        :raises WatchError: as `request` does.
        """
        if tables:
            BACKFILLS.ensure(connection)
        for table in tables:
            connection.execute(f"{_REQUEST}NOTHING", [self._group, table])

    def next(self, connection: psycopg.Connection[Any], tables: Collection[str]) -> Backfill | None:
        """Return the oldest backfill of these tables that is not done; None without any."""
        try:
            if not BACKFILLS.may_be_used(connection):
                return None
        except OwnershipError:  # whoever requests one is told
            return None
        row = connection.execute(
            f"SELECT model, started_at, progress, rows_read FROM {_TABLE} "
            f"WHERE consumer_group = %s AND model = ANY (%s) AND done_at IS NULL ORDER BY started_at LIMIT 1",
            [self._group, list(tables)],
        ).fetchone()
        return None if row is None else Backfill(row[0], row[1], _read_place(row[2]), row[3])

    def save(self, connection: psycopg.Connection[Any], backfill: Backfill, *, is_done: bool = False) -> bool:
        """Note how far it is; return False where it was requested anew meanwhile."""
        return connection.execute(
            f"UPDATE {_TABLE} SET progress = %s, rows_read = %s, "
            f"done_at = CASE WHEN %s THEN pg_catalog.clock_timestamp() END "
            f"WHERE consumer_group = %s AND model = %s AND started_at = %s",
            [
                _write_place(backfill.place), backfill.rows_read, is_done, self._group, backfill.table,
                backfill.started_at,
            ],
        ).rowcount > 0  # fmt: skip

    def state(self, connection: psycopg.Connection[Any], table: str, started_at: datetime) -> State | None:
        """Return how far one is; None where it was requested anew meanwhile, or removed."""
        row = connection.execute(
            f"SELECT rows_read, done_at IS NOT NULL FROM {_TABLE} "
            f"WHERE consumer_group = %s AND model = %s AND started_at = %s",
            [self._group, table, started_at],
        ).fetchone()
        return None if row is None else State(*row)


def _write_place(place: Place | None) -> str | None:
    """Return a place in ASCII, which a database of any encoding can hold."""
    if place is None:
        return None
    return json.dumps({"schema": place.schema, "end": place.end, "behind": place.behind, "again": place.again})


def _read_place(text: str | None) -> Place | None:
    if text is None:
        return None
    fields = json.loads(text)
    behind = fields["behind"]
    again = [_key(key) for key in fields["again"]]
    return Place(fields["schema"], _key(fields["end"]), None if behind is None else _key(behind), again)


def _key(parts: Sequence[str]) -> Key:
    return tuple(map(str, parts))
