"""The thread that looks at the slot of an active consumer from outside, and at parked events that are due."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

import psycopg

from . import dead_letters, slots
from .connect import Connect
from .queue import EventQueue, RetryDue
from .stats import Stats
from .watchdog import Watchdog

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between looks at the table of dead letters, where there is one.
RETRY_INTERVAL = 1.0

#: Of the log a slot may hold (`max_slot_wal_keep_size`), the share from which on there is a warning.
WARN_FROM = 0.5


class SlotMonitor:
    """Keeps the slot's part of `stats()` up to date, and warns well before the server drops the slot."""

    def __init__(
        self,
        connect: Connect,
        group: str,
        queue: EventQueue,
        stats: Stats,
        heartbeat: tuple[float, float],
        has_table: bool,
    ) -> None:
        interval, self._timeout = heartbeat
        self._connect, self._group, self._queue, self._stats = connect, group, queue, stats
        self._interval = min(interval, RETRY_INTERVAL) if has_table else interval
        self._has_table = has_table
        self._stopping: threading.Event = threading.Event()
        self._warned = False
        self.thread: threading.Thread = threading.Thread(target=self._run, name="sqlalchemy-watch-slot", daemon=True)

    def stop(self) -> None:
        """Let the thread end."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                with contextlib.closing(self._connect()) as connection:
                    self._look_until_lost(connection)
            except Exception as error:  # the source says what is wrong with the server
                log.debug("can't look at slot %r: %s", self._group, error)

    def _look_until_lost(self, connection: psycopg.Connection[Any]) -> None:
        while True:
            with Watchdog(connection, self._timeout):
                self._look(connection)
            if self._stopping.wait(self._interval):
                return

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        for slot in slots.read_slots(connection, self._group):
            stats = self._stats
            stats.lag_bytes, stats.wal_held_bytes, stats.wal_status = slot.lag_bytes, slot.held_bytes, slot.wal_status
            self._warn(slot)
        if self._has_table and self._stats.active and dead_letters.due(connection, self._group):
            self._queue.put_control(RetryDue())

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
