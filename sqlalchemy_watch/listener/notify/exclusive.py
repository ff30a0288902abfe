"""One of several processes hears: whoever holds an advisory lock, which goes with its session.

The lock's key is a bigint: the first 8 bytes, as a signed number, of the SHA-256 of "sqlalchemy_watch exclusive " and
the name. It is a lock of the database. Those who stand by try again and again: to wait in the server for the lock would
hold a snapshot, and with it vacuum, for as long as that takes.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
from typing import Any, NamedTuple

import psycopg

from ..options import Options
from ..server.deadline import Unanswered
from ..source import SourceState
from ..stats import ReadingStats

log: logging.Logger = logging.getLogger(__name__)

#: Seconds at the most between attempts to get the lock.
STANDBY_INTERVAL = 1.0

TAKEN_OVER = "this process has taken over from another one, which was heard until then"

_HOLDER = """
SELECT l.pid, a.usename, a.application_name, pg_catalog.host(a.client_addr), a.usename IS DISTINCT FROM session_user
FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""

#: A process that is frozen, or cut off, sends no heartbeat: the server ends its session then, and the lock is free.
#: `idle_session_timeout` came with PostgreSQL 14; the others do for the network alone.
_LIMIT_SILENCE = """
SELECT pg_catalog.set_config(s.name, v.value, false)
FROM (VALUES ('idle_session_timeout', %(milliseconds)s), ('tcp_user_timeout', %(milliseconds)s),
  ('tcp_keepalives_idle', %(seconds)s), ('tcp_keepalives_interval', %(seconds)s)) AS v(name, value)
JOIN pg_catalog.pg_settings AS s ON s.name = v.name
"""


class Holder(NamedTuple):
    """The session that has the lock."""

    pid: int | None
    user: str | None
    application_name: str | None
    address: str | None
    #: True if it is another role's: anybody who may connect may take any number.
    is_foreign: bool

    def __str__(self) -> str:
        where = f"from {self.address}" if self.address else ""
        words = [f"pid {self.pid}", f"user {self.user}", self.application_name or "", where]
        return ", ".join(word for word in words if word)


def lock_key(name: str) -> int:
    """Return the number of the advisory lock that goes with a name."""
    return int.from_bytes(hashlib.sha256(b"sqlalchemy_watch exclusive " + name.encode()).digest()[:8], signed=True)


def find_holder(connection: psycopg.Connection[Any], name: str) -> Holder | None:
    """Return the session that has the lock of a name; None where nobody has it."""
    found = connection.execute(_HOLDER, [lock_key(name)]).fetchone()
    return None if found is None else Holder(*found)


class Exclusive:
    """Gets the lock on a connection, and stands by until then."""

    def __init__(self, options: Options, state: SourceState, stats: ReadingStats) -> None:
        assert options.exclusive is not None
        self._name, self._key = options.exclusive, lock_key(options.exclusive)
        self._silence = options.heartbeat_interval + 2 * options.heartbeat_timeout
        self._state, self._stats = state, stats
        self._known: Holder | None = None
        #: True if another process was heard before this one got the lock.
        self.took_over: bool = False

    def acquire(self, connection: psycopg.Connection[Any], stopping: threading.Event) -> None:
        """Return once this connection holds the lock.

        :raises Unanswered: where `stopping` is set before.
        """
        self._known, self.took_over = None, False
        while not self._try(connection):
            holder = find_holder(connection, self._name)
            if holder is not None:  # otherwise it has left meanwhile
                self._stand_by(holder)
            if stopping.wait(STANDBY_INTERVAL * random.uniform(0.5, 1.0)):
                raise Unanswered("the listener was stopped meanwhile")
        seconds = max(1, round(self._silence / 4))
        connection.execute(_LIMIT_SILENCE, {"milliseconds": f"{self._silence * 1000:.0f}", "seconds": f"{seconds}"})
        self._state.standing_by = None

    def _try(self, connection: psycopg.Connection[Any]) -> bool:
        return connection.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", [self._key]).fetchone() == (True,)

    def _stand_by(self, holder: Holder) -> None:
        if holder != self._known:
            self._known = holder
            if holder.is_foreign:
                log.warning(
                    "the lock of exclusive=%r is held by another role (%s): nobody may be heard at all; see pg_locks, "
                    "and choose a name that is nobody else's",
                    self._name, holder,
                )  # fmt: skip
            else:
                log.info("another process has exclusive=%r (%s): standing by", self._name, holder)
        self.took_over, self._stats.active = True, False
        self._state.stand_by(f"another process has exclusive={self._name!r} ({holder})", holder.is_foreign)
