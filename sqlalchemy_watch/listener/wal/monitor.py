"""The thread that looks at the slot of an active consumer from outside, and at parked events that are due."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from ..dispatch import dead_letters
from ..handover.queue import WaitingQueue
from ..server.connect import Connect
from ..server.watchdog import Watchdog
from ..stats import Stats
from . import slots

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between looks at the table of dead letters, where this listener makes some.
RETRY_INTERVAL = 1.0

#: Seconds between looks for a slot that is being made.
UNTIL_MADE = 0.2

#: Of the log a slot may hold (`max_slot_wal_keep_size`), the share from which on there is a warning.
WARN_FROM = 0.5


class SlotMonitor:
    """Keeps the slot's part of `stats()` up to date, and warns well before the server drops the slot."""

    def __init__(
        self,
        connect: Connect,
        group: str,
        queue: WaitingQueue,
        stats: Stats,
        heartbeat: tuple[float, float],
        needs_table: bool,
        look_at_dispatcher: Callable[[], None],
    ) -> None:
        interval, self._timeout = heartbeat
        self._connect, self._group, self._queue, self._stats = connect, group, queue, stats
        self._interval = min(interval, RETRY_INTERVAL) if needs_table else interval
        self._look_at_dispatcher = look_at_dispatcher
        self._stopping: threading.Event = threading.Event()
        self._warned = False
        self.thread: threading.Thread = threading.Thread(target=self._run, name="sqlalchemy-watch-slot", daemon=True)

    def stop(self) -> None:
        """Let the thread end."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with contextlib.closing(self._connect()) as connection:
                    self._look_until_lost(connection)
            except Exception as error:  # the source says what is wrong with the server
                log.debug("can't look at slot %r: %s", self._group, error)
            self._stopping.wait(self._interval)

    def _look_until_lost(self, connection: psycopg.Connection[Any]) -> None:
        while True:
            with Watchdog(connection, self._timeout):
                is_there = self._look(connection)
            self._look_at_dispatcher()
            if self._stopping.wait(self._interval if is_there else min(self._interval, UNTIL_MADE)):
                return

    def _look(self, connection: psycopg.Connection[Any]) -> bool:
        """Gives whether there is the slot; one that is being made has no position yet."""
        found = [slot for slot in slots.read_slots(connection, self._group) if slot.acknowledged is not None]
        for slot in found:
            stats = self._stats
            stats.lag_bytes, stats.wal_held_bytes, stats.wal_status = slot.lag_bytes, slot.held_bytes, slot.wal_status
            self._warn(slot)
        # Also where this listener makes no letters: earlier ones may have been set to be tried again.
        if self._stats.active and dead_letters.next_due(connection, self._group) is not None:
            self._queue.put_retry_due()
        return bool(found)

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
