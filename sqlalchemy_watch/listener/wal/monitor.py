"""The thread that looks at the slot of an active consumer from outside, and at parked events that are due."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from ...errors import WatchError, one_line
from ...signals.once import Consumer
from ..dispatch import dead_letters, once
from ..options import Options
from ..server.connect import Connect
from ..stats import Stats
from ..xids import Xids
from . import slots
from .liveness import Seen

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between looks at the table of dead letters, where this listener makes some.
RETRY_INTERVAL = 1.0

#: Seconds between removals of keys of `connect_once`.
CLEAN_SECONDS = 60.0

#: Seconds between looks for a slot that is being made, and between attempts while somebody waits for a look.
SOON = 0.2

#: Share of the log that a slot may hold (`max_slot_wal_keep_size`), from which on there is a warning.
WARN_FROM = 0.5

#: Only the server knows what a process of its own waits for; a walsender that decodes is busy, or waits for the disk.
_SEEN = """
SELECT a.pid IS NOT NULL,
  a.pid IS NOT NULL AND coalesce(a.wait_event_type IN ('IO', 'LWLock', 'BufferPin', 'Buffer'), true)
FROM (SELECT) AS one
LEFT JOIN pg_catalog.pg_replication_slots AS s ON s.slot_name = %(group)s AND s.active_pid = %(pid)s
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.active_pid
"""

_NEXT_TXID = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text"


def next_txid(connection: psycopg.Connection[Any]) -> int:
    """Return the number of the transaction that is the next to begin."""
    row = connection.execute(_NEXT_TXID).fetchone()
    assert row is not None
    return int(row[0])


class Look:
    """A look at the slot that was asked for, and its outcome."""

    def __init__(self, pid: int, answered: Callable[[], None]) -> None:
        self.pid = pid
        #: Called when `seen` or `is_refused` is set, in the monitor's thread.
        self.answered = answered
        self.seen: Seen | None = None
        #: True once the server has refused a connection to look over; it is tried again.
        self.is_refused: bool = False


class SlotMonitor:
    """Keeps the slot's part of `stats()` up to date, and warns well before the server drops the slot.

    :param on_look: called after each look.
    :param on_triggers: looks at the triggers, over the connection it is given.
    """

    def __init__(
        self,
        connect: Connect,
        options: Options,
        stats: Stats,
        on_look: Callable[[], None],
        on_triggers: Callable[[psycopg.Connection[Any]], None],
    ) -> None:
        self._on_triggers, self._wants_triggers = on_triggers, False
        self._connect, self._group, self._stats = connect, options.slot, stats
        interval = options.heartbeat_interval
        self._interval = min(interval, RETRY_INTERVAL) if options.retry.needs_table else interval
        self._on_look = on_look
        #: Returns True if receivers have sessions.
        self.has_once: Callable[[], bool] = lambda: False
        #: Called where a dead letter is to be tried again.
        self.on_letter_due: Callable[[], None] = lambda: None
        #: Who consumes, once that is known.
        self.consumer: Consumer | None = None
        self._cleaned_at = -math.inf
        #: The numbers of the server's transactions, whose newest is noted at each look.
        self.xids: Xids = Xids()
        self._stopping: threading.Event = threading.Event()
        #: Set to have it look at once, or end.
        self._woken = threading.Event()
        self._asked: Look | None = None
        self._lock = threading.Lock()
        self._warned = False
        self.thread: threading.Thread = threading.Thread(target=self._run, name="sqlalchemy-watch-slot", daemon=True)

    def stop(self) -> None:
        """Let the thread end."""
        self._stopping.set()
        self._woken.set()

    def look_at(self, pid: int, answered: Callable[[], None]) -> Look:
        """Have it see at once whether this process of the server reads the slot, and is busy decoding.

        :param answered: called when it has seen that, and whenever it is refused a connection.
        """
        look = Look(pid, answered)
        with self._lock:
            self._asked = look
        self._woken.set()
        return look

    def look_at_triggers(self) -> None:
        """Have it look at the triggers soon: a courtesy, for which nobody waits."""
        self._wants_triggers = True
        self._woken.set()

    def forget(self, look: Look) -> None:
        """Look no more for somebody who does not wait any more."""
        with self._lock:
            if self._asked is look:
                self._asked = None

    def _run(self) -> None:
        while self._goes_on():
            try:
                with contextlib.closing(self._connect_to_look()) as connection:
                    self._look_until_lost(connection)
                    return
            except Exception as error:  # the source says what is wrong with the server
                log.debug("can't look at slot %r: %s", self._group, error)
            if self._asked is None:
                self._woken.wait(self._interval)
            else:  # it is woken already, and must not try without a pause
                self._stopping.wait(min(self._interval, SOON))

    def _connect_to_look(self) -> psycopg.Connection[Any]:
        try:
            return self._connect(stopping=self._stopping)
        except Exception:
            look = self._asked
            if look is not None:
                look.is_refused = True
                look.answered()
            raise

    def _goes_on(self) -> bool:
        """Return True unless it is to end; from here on it is woken by whatever comes."""
        self._woken.clear()  # first: `stop` and `look_at` wake it behind what they say
        return not self._stopping.is_set()

    def _look_until_lost(self, connection: psycopg.Connection[Any]) -> None:
        """Look until stopped.

        :raises psycopg.Error: where the connection is lost.
        """
        while self._goes_on():
            look = self._asked
            if look is not None:
                self._answer(connection, look)
            is_there = self._look(connection)
            self._on_look()
            if self._wants_triggers:
                self._wants_triggers = False
                self._on_triggers(connection)
            self._woken.wait(self._interval if is_there else min(self._interval, SOON))

    def _answer(self, connection: psycopg.Connection[Any], look: Look) -> None:
        row = connection.execute(_SEEN, {"group": self._group, "pid": look.pid}).fetchone()
        assert row is not None
        self.forget(look)
        look.seen = Seen(*row)
        look.answered()

    def _look(self, connection: psycopg.Connection[Any]) -> bool:
        """Return True if there is the slot; one that is being made has no position yet."""
        self.xids.note(next_txid(connection))
        found = [slot for slot in slots.read_slots(connection, self._group) if slot.acknowledged is not None]
        for slot in found:
            stats = self._stats
            stats.lag_bytes, stats.wal_held_bytes, stats.wal_status = slot.lag_bytes, slot.held_bytes, slot.wal_status
            self._warn(slot)
        # Also where this listener makes no letters: earlier ones may have been set to be tried again.
        if self._stats.active and dead_letters.has_due(connection, self._group):
            self.on_letter_due()
        if self._stats.active and self.consumer is not None and time.monotonic() - self._cleaned_at >= CLEAN_SECONDS:
            self._cleaned_at = time.monotonic()
            self._clean(connection, self.consumer)
        return bool(found)

    def _clean(self, connection: psycopg.Connection[Any], consumer: Consumer) -> None:
        """Remove keys that `connect_once` needs no more; make its table for a receiver connected since the start."""
        try:
            if self.has_once():
                once.ONCE.ensure(connection)
            once.clean(connection, consumer)
        except WatchError as error:
            log.warning("can't clean the table of connect_once: %s", one_line(error))

    def _warn(self, slot: slots.Slot) -> None:
        held = slot.held_bytes or 0
        in_danger = slot.wal_status in ("unreserved", "lost") or (
            slot.safe_bytes is not None and held >= WARN_FROM * (held + slot.safe_bytes)
        )
        if in_danger and not self._warned:
            log.warning(
                "slot %r holds %d bytes of log (wal_status %s), and the server gives it up in %s more: receivers are "
                "too slow, or raise max_slot_wal_keep_size",
                slot.name, held, slot.wal_status, slot.safe_bytes,
            )  # fmt: skip
        self._warned = in_danger
