"""Replication slots and the publication: making, looking at and dropping them, with errors that say what to do.

A consumer group is a slot: the server keeps its log from where the group last acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql

from ...errors import SlotError, UnsupportedServerError, one_line
from ...wire import DURABLE_SINCE, lowest_wal_level
from .messages import RESYNC_PREFIX, parse_lsn

#: It has no tables: pgoutput wants a publication, and logical messages belong to none.
PUBLICATION = "sqlalchemy_watch"

PLUGIN = "pgoutput"

FAILOVER_VERSION = 17

_SLOTS = """
SELECT s.slot_name, s.database, s.plugin, s.active, s.active_pid,
  pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.confirmed_flush_lsn)::bigint,
  pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint,
  s.wal_status, s.safe_wal_size, s.confirmed_flush_lsn::text,
  a.application_name, a.client_addr::text, extract(epoch FROM r.flush_lag)::float8
FROM pg_catalog.pg_replication_slots AS s
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.active_pid
LEFT JOIN pg_catalog.pg_stat_replication AS r ON r.pid = s.active_pid
WHERE s.slot_type = 'logical' AND (CAST(%(name)s AS text) IS NULL OR s.slot_name = %(name)s)
ORDER BY s.slot_name
"""


_IS_PHYSICAL = "SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = %s AND slot_type = 'physical'"

_DROP = "SELECT pg_catalog.pg_drop_replication_slot({name});"
_CREATE = "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot({name}, {plugin}{options});"
_SAY_LOST = "SELECT pg_catalog.pg_logical_emit_message(true, {prefix}, {name});"


@dataclass(frozen=True)
class Slot:
    """A logical replication slot as the server shows it."""

    name: str
    database: str
    plugin: str
    active: bool
    active_pid: int | None
    #: Bytes of log written since what was last acknowledged.
    lag_bytes: int | None
    #: Bytes of log the server keeps for the slot.
    held_bytes: int | None
    #: `reserved`, `extended`, `unreserved` or `lost`.
    wal_status: str | None
    #: Bytes that may still be written before the slot is in danger; None where there is no limit.
    safe_bytes: int | None
    acknowledged: str | None
    consumer: str | None
    consumer_address: str | None
    #: Seconds between the newest change sent and its acknowledgement, as the server measures it.
    lag_seconds: float | None

    @property
    def is_lost(self) -> bool:
        """True if the server has given up the log that the slot needs."""
        return self.wal_status == "lost"


def size_text(number: int | None) -> str:
    """Return a number of bytes in a unit that makes it short; an empty text for None."""
    if number is None:
        return ""
    size = float(number)
    for unit in ("B", "kB", "MB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"


def read_slots(connection: psycopg.Connection[Any], name: str | None = None) -> list[Slot]:
    """The logical slots of the server, or the one of that name."""
    return [Slot(*row) for row in connection.execute(_SLOTS, {"name": name})]


def ensure_publication(connection: psycopg.Connection[Any]) -> None:
    """Make the publication of no tables, unless it is there."""
    found = connection.execute("SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = %s", [PUBLICATION])
    if found.fetchone() is not None:
        return
    try:
        connection.execute(sql.SQL("CREATE PUBLICATION {}").format(sql.Identifier(PUBLICATION)))
    except (errors.DuplicateObject, errors.UniqueViolation):
        pass  # another consumer was faster
    except errors.InsufficientPrivilege as error:
        raise SlotError(
            f"the role may not create the publication {PUBLICATION!r} ({one_line(error, brief=True)}): have an "
            f"administrator run `sqlalchemy-watch slots create`, or grant CREATE on the database"
        ) from error


def ensure_slot(
    connection: psycopg.Connection[Any], name: str, *, existed: bool = False, is_unreadable: bool = False
) -> int | None:
    """Make the group's slot, unless it is there and usable; return its beginning, if it was made now.

    A slot that the server has given up is made anew. What lay between is lost, and the first message in the new one
    says so: whoever acknowledges it has dispatched it, however many consumers die before.

    :param existed: True if there was a slot, as far as the caller knows.
    :param is_unreadable: True if the log that it holds can't be decoded, since the publication was missing.
    :raises UnsupportedServerError: where the server does no logical decoding, or has no such messages.
    :raises SlotError: where the slot belongs to something else, or can't be made.
    """
    if connection.info.server_version // 10_000 < DURABLE_SINCE:
        raise UnsupportedServerError(f"durable delivery needs PostgreSQL {DURABLE_SINCE} or later")
    found = read_slots(connection, name)
    if found:
        _check_slot(connection, found[0])
        is_lost = found[0].is_lost or is_unreadable
        return _create(connection, name, _DROP + _CREATE + _SAY_LOST) if is_lost else None
    if connection.execute(_IS_PHYSICAL, [name]).fetchone() is not None:
        raise SlotError(
            f"the slot {name!r} is a physical one, and so something else's: choose another name for this consumer group"
        )
    return _create(connection, name, _CREATE + (_SAY_LOST if existed else ""))


def drop_slot(connection: psycopg.Connection[Any], name: str) -> None:
    """Drop a group's slot, and with it the log kept for it.

    :raises SlotError: where there is none, it is in use, or it belongs to something else.
    """
    found = read_slots(connection, name)
    if not found:
        is_physical = connection.execute(_IS_PHYSICAL, [name]).fetchone() is not None
        why = f"the slot {name!r} is a physical one, of something else" if is_physical else f"there is no slot {name!r}"
        raise SlotError(f"{why}: `sqlalchemy-watch slots list` shows those there are")
    slot = found[0]
    if slot.database != _database(connection):
        raise SlotError(
            f"the slot {name!r} is of database {slot.database!r}: drop it there, with that database in --url"
        )
    if slot.plugin != PLUGIN:
        raise SlotError(f"the slot {name!r} is of the plugin {slot.plugin!r}, not {PLUGIN}, so it is something else's")
    try:
        connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", [name])
    except errors.ObjectInUse as error:
        raise _in_use(name, error) from error


def _check_slot(connection: psycopg.Connection[Any], slot: Slot) -> None:
    if slot.database != _database(connection):
        raise SlotError(
            f"the slot {slot.name!r} is held by database {slot.database!r}, and names of slots are shared by the whole "
            f"server: choose another name for this consumer group"
        )
    if slot.plugin != PLUGIN:
        raise SlotError(
            f"the slot {slot.name!r} is of the plugin {slot.plugin!r}, not {PLUGIN}, so it is something else's: choose "
            f"another name for this consumer group"
        )


def _database(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute("SELECT pg_catalog.current_database()").fetchone()
    assert row is not None
    return str(row[0])


def _create(connection: psycopg.Connection[Any], name: str, statements: str) -> int | None:
    """Run all the statements at once: this process may die in between, but the server goes on."""
    failover = connection.info.server_version // 10_000 >= FAILOVER_VERSION
    query = sql.SQL(statements).format(
        name=sql.Literal(name),
        plugin=sql.Literal(PLUGIN),
        options=sql.SQL(", false, false, true" if failover else ""),
        prefix=sql.Literal(RESYNC_PREFIX),
    )
    cursor = connection.cursor()
    try:
        cursor.execute(query)
        while cursor.description is None or cursor.description[0].name != "lsn":
            cursor.nextset()
        (begins,) = cursor.fetchone() or ("0/0",)
        return parse_lsn(begins)
    except (errors.DuplicateObject, errors.UndefinedObject):
        return None  # another consumer was faster
    except errors.ObjectInUse as error:
        raise _in_use(name, error) from error
    except errors.InsufficientPrivilege as error:
        raise SlotError(
            f"the role may not create the slot {name!r} ({one_line(error, brief=True)}): ALTER ROLE ... REPLICATION, "
            f"or have an administrator run `sqlalchemy-watch slots create {name}`"
        ) from error
    except errors.ConfigurationLimitExceeded as error:
        raise SlotError(
            f"the server has no room for the slot {name!r} ({one_line(error, brief=True)}): raise "
            f"max_replication_slots, or drop one that nobody uses (`sqlalchemy-watch slots list`)"
        ) from error
    except errors.ObjectNotInPrerequisiteState as error:
        raise UnsupportedServerError(
            f"the server does no logical decoding ({one_line(error, brief=True)}): set wal_level = "
            f"{lowest_wal_level(connection.info.server_version // 10_000)} and restart it"
        ) from error


def _in_use(name: str, error: errors.ObjectInUse) -> SlotError:
    return SlotError(f"the slot {name!r} has an active consumer: stop it first ({one_line(error, brief=True)})")
