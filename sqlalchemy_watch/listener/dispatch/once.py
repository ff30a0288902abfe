"""The table of keys of `connect_once`, and its cleaning.

A key is of use until the event can't come any more: until the server has noted that it is acknowledged. But a process
that was suspended may still have it in its hands. So where the server has got to is noted as a floor first, and what is
below the floor is removed a round later: whoever comes late meets the key or the floor.

Floors carry the server's system identifier: restored from a dump into another server, they would lie above all that
comes there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session

from ...errors import ConfigurationError, one_line
from ...signals.once import FLOOR_POSITION, WHERE, Consumer, Once
from ..server.asking import ask_engine
from ..server.own_tables import OwnTable
from .dead_letters import LETTERS

log: logging.Logger = logging.getLogger(__name__)

ONCE = OwnTable(
    "once",
    "receivers of connect_once",
    {
        "consumer": "text NOT NULL",
        "lsn": "bigint NOT NULL",
        "position": "integer NOT NULL",
        "key": "text NOT NULL",
        "system": "text NOT NULL",
    },
    ("consumer", "system", "key", "lsn", "position"),
)

_TABLE = ONCE.full_name

_FLOOR = (
    f"SELECT max(lsn) FROM {_TABLE} WHERE consumer = %(group)s AND system = %(system)s AND key = '' "
    f"AND position = {FLOOR_POSITION}"
)

_REMOVE = f"DELETE FROM {_TABLE} AS o WHERE o.consumer = %(group)s AND o.system = %(system)s AND o.lsn < ({_FLOOR})"

#: A parked event is acknowledged, and will be tried again.
_UNLESS_PARKED = (
    f" AND NOT EXISTS (SELECT FROM {LETTERS.full_name} AS l "
    f"WHERE l.consumer_group = o.consumer AND l.lsn = o.lsn AND l.position = o.position)"
)

_RAISE_FLOOR = (
    f"INSERT INTO {_TABLE} (consumer, lsn, position, key, system) "
    f"SELECT slot_name, pg_catalog.pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::bigint, {FLOOR_POSITION}, '', "
    f"%(system)s FROM pg_catalog.pg_replication_slots WHERE slot_name = %(group)s AND confirmed_flush_lsn IS NOT NULL "
    f"ON CONFLICT DO NOTHING"
)


def consumer_of(connection: psycopg.Connection[Any], group: str) -> Consumer:
    """Return who consumes as this group."""
    row = connection.execute(WHERE).fetchone()
    assert row is not None
    return Consumer(group, *row)


def check_sessions(receivers: Iterable[Once], consumer: Consumer) -> None:
    """Ask, over connections like those of their sessions, whether they are of the consumer's database.

    Where one can't be reached, that is found out with the first event.

    :raises ConfigurationError: where they are not, and where a factory makes no session.
    """
    for once in receivers:
        if once.checked_for == consumer:
            continue
        try:
            engine = _engine_of(once)
            found = ask_engine(engine, lambda fetch: fetch(WHERE, {})[0])
        except ConfigurationError:
            raise
        except Exception as error:
            log.warning("can't see where the sessions of receiver %s are (%s)", once.name, one_line(error))
            continue
        once.check(consumer, (found[0], found[1]))


def _engine_of(once: Once) -> Engine:
    session = once.make_session()
    plain: Session = getattr(session, "sync_session", session)
    try:
        bind = plain.get_bind()
    except UnboundExecutionError:
        raise ConfigurationError(
            f"connect_once: the sessions of {once.name!r} have no engine: give the session_factory bind=engine"
        ) from None
    finally:
        plain.close()
    return bind.engine


def clean(connection: psycopg.Connection[Any], consumer: Consumer) -> None:
    """Remove keys below the last floor, and raise that; where there is no table, or it may not be used, do nothing.

    :param connection: in autocommit, to the server and database of the consumer.
    :raises OwnershipError: where one of the tables is not used, whoever made it.
    """
    has_letters = LETTERS.exists(connection)
    if not ONCE.may_be_used(connection) or (has_letters and not LETTERS.may_be_used(connection)):
        return
    values = consumer._asdict()
    remove = _REMOVE + (_UNLESS_PARKED if has_letters else "")
    with connection.transaction():
        connection.execute(remove, values)
        connection.execute(_RAISE_FLOOR, values)
