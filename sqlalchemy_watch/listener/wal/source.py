"""The WAL source: a thread that reads logical messages from a replication slot, in commit order.

The server keeps its log from where the consumer group last acknowledged, so a slow consumer simply stops
reading: nothing is ever dropped. Status updates go on meanwhile, so that `wal_sender_timeout` does not cut
the connection.

With the connection the slot is lost to whoever stands by, so dispatching pauses until this process is the active
consumer again. Where the slot has not moved meanwhile, it goes on where it was; otherwise with what the slot holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors

from ...errors import SlotError, one_line
from ...signals.once import Once
from ...wire import DURABLE_PREFIX
from ..decoding.encodings import adopt_encoding, converter
from ..decoding.routes import Route
from ..dispatch.once import consumer_of
from ..heartbeat import Heartbeat
from ..options import Options
from ..pipeline.gate import Gate
from ..pipeline.inbox import Inbox
from ..pipeline.ledger import Ledger
from ..pipeline.parts import CaughtUp, Connected, Disconnected, Mark, Resync, Transaction
from ..server.connect import Connect
from ..source import STARTED_LATE, Keeper, Marks, SourceState, Tokens, Wake
from ..stats import ReadingStats
from . import slots
from .liveness import Liveness
from .messages import TOKEN_PREFIX, parse_lsn
from .monitor import SlotMonitor, next_txid
from .preparing import Preparation, Prepared
from .protocol import Contents, Position, WalCore
from .session import WalSession, read_log, start_replication
from .standby import Standby
from .takeover import Before, Log, take_up

log: logging.Logger = logging.getLogger(__name__)

#: Seconds of reading after which the next attempt to connect does not wait as long as the last one.
STEADY_SECONDS = 5.0

#: Seconds that the consumer before gets to notice that its connection is gone, and to stop dispatching.
HANDOVER_SECONDS = 0.2

#: Seconds between attempts of a caller's thread to reach the server.
RETRY_SECONDS = 0.2

LEFT_UNSEEN = "a stream was left before its end, and nothing is connected that would hear the rest"

SERVER_CHANGED = "the server is another one than before (restored, or failed over): it may lack what was delivered last"


class WalSource:
    """Becomes the active consumer of a group, reads, acknowledges, reconnects."""

    def __init__(
        self,
        connect: Connect,
        options: Options,
        routes: Sequence[Route],
        inbox: Inbox,
        gate: Gate,
        stats: ReadingStats,
        monitor: SlotMonitor,
        has_receivers: Callable[[], bool],
        once: Callable[[], Sequence[Once]],
    ) -> None:
        self._connect, self._options, self._has_receivers = connect, options, has_receivers
        self._channels = sorted({route.watch.channel for route in routes})
        self._inbox, self._gate, self._stats, self._monitor = inbox, gate, stats, monitor
        self._preparation = Preparation(connect, options, monitor.look_at_triggers, once)
        self._wake = Wake()
        self._tokens = Tokens()
        self.marks: Marks = Marks()
        #: Called in the source's thread before anything is delivered, whoever was active before.
        self.before_open: Callable[[], None] = lambda: None
        #: Called in the dispatch thread where somebody has requested a backfill for the group.
        self.on_request: Callable[[Transaction], None] = lambda transaction: None
        self._position = Position()
        self._before = Before()
        self.state: SourceState = SourceState("there is no connection at present")
        self._standby = Standby(connect, options.slot, self.state, stats)
        self._keeper = Keeper(
            self, self.state, stats, name="sqlalchemy-watch-wal", activity=f"reading slot {self._options.slot!r}",
            steady=STEADY_SECONDS, log=log,
        )  # fmt: skip
        gate.ledger.on_progress = self._wake.nudge

    @property
    def thread(self) -> threading.Thread:
        """The thread that reads."""
        return self._keeper.thread

    def stop(self) -> None:
        """Let the thread send what is acknowledged, and end."""
        self._keeper.stopping.set()
        self._wake.set()

    def disown(self) -> None:
        """Give up the parent's socket, in a forked child.

        Were the child to keep it open, a dead parent's slot would stay active, and the others stand by.
        """
        self._keeper.disown()

    def send_token(self, done: threading.Event, deadline: float) -> None:
        """Have `done` set when everything that is committed by now has been dispatched and acknowledged.

        :param deadline: by `time.monotonic()`: until when to try.
        :raises Exception: where the server could not be asked by then: of psycopg, of the engine's hooks, or OSError
            where there are no more file descriptors.
        """
        name = self._tokens.add(done)
        while not done.is_set():
            try:
                with contextlib.closing(self._connect()) as connection:
                    _emit(connection, name)
                return
            except Exception as error:
                log.debug("can't ask where the log ends: %s", one_line(error))
                if time.monotonic() + RETRY_SECONDS > deadline:
                    raise
            if self._keeper.stopping.wait(RETRY_SECONDS):
                return

    def forget_token(self, done: threading.Event) -> None:
        """Stop waiting for a token."""
        self._tokens.forget(done)

    def send_mark(self, connection: psycopg.Connection[Any], name: str) -> tuple[int, datetime]:
        """Have a mark come where the present transaction commits; return the number of that, and the time."""
        return _emit(connection, name)

    def confirm(self, deadline: float) -> bool:
        """Return True once the server has noted everything that is acknowledged by now, False at the deadline.

        :raises Exception: as `send_token` does.
        """
        wanted = self._gate.ledger.acknowledged
        while time.monotonic() < deadline:
            try:
                with contextlib.closing(self._connect()) as connection:
                    while time.monotonic() < deadline:
                        found = slots.read_slots(connection, self._options.slot)
                        if found and found[0].acknowledged and parse_lsn(found[0].acknowledged) >= wanted:
                            return True
                        time.sleep(0.01)
            except Exception as error:
                log.debug("can't see what is acknowledged: %s", one_line(error))
                if time.monotonic() + RETRY_SECONDS > deadline:
                    raise
                time.sleep(RETRY_SECONDS)
        return False

    def connect_and_read(self) -> None:
        """Read the slot until stopped or lost; where another consumer is active, stand by until it is free."""
        stopping = self._keeper.stopping
        if self._gate.ledger.is_abandoned:
            self._wait_for_receivers()
        prepared = self._preparation.prepare(self.state, stopping)
        if prepared.begins is not None:
            self._know(moved_to=prepared.begins, slot_is_new=True)
        if stopping.is_set():  # making a slot may take long
            return
        try:
            with self._keeper.holding(self._connect_walsender()) as connection:
                if self._read(connection, prepared):
                    return
        except Exception as error:
            self._preparation.note_failure(error)
            raise
        self._before = self._before.note_rival()
        self._standby.wait_until_free(stopping)

    def note_loss(self) -> None:
        """Pause dispatching: another consumer may be active from now on."""
        self._gate.close()
        self._stats.active = False

    def tell(self, item: Connected | Disconnected) -> None:
        """Pass on that the connection is there, or lost."""
        self._gate.tell(item)

    def close(self) -> None:
        """Close what the thread was woken by."""
        self._wake.close()

    def _wait_for_receivers(self) -> None:
        """Wait until somebody is connected: what a stream has left unseen would be acknowledged unheard."""
        if self._has_receivers():
            return
        log.warning("not reading slot %r: %s", self._options.slot, LEFT_UNSEEN)
        missing, self.state.missing = self.state.missing, LEFT_UNSEEN
        while not (self._has_receivers() or self._keeper.stopping.wait(RETRY_SECONDS)):
            pass
        self.state.missing = missing

    def _connect_walsender(self) -> psycopg.Connection[Any]:
        try:
            return self._connect(replication=True, stopping=self._keeper.stopping)
        except psycopg.OperationalError as error:
            if re.search("start wal ?sender", str(error), re.IGNORECASE):
                slot, words = self._options.slot, one_line(error)
                raise SlotError(
                    f"the role may not read the slot {slot!r} ({words}): ALTER ROLE ... REPLICATION"
                ) from error
            raise

    def _read(self, connection: psycopg.Connection[Any], prepared: Prepared) -> bool:
        """Read until stopped; return False, with nothing read, where another consumer is active."""
        codec = adopt_encoding(connection)  # the contents of messages are never converted by the server
        log_now = read_log(connection)
        ledger = self._gate.ledger
        ledger.settle()
        self._know(acknowledged=ledger.acknowledged)
        self._before = self._before.look_at(log_now)
        seconds = self._options.heartbeat_timeout
        try:
            start_replication(connection, self._options.slot, seconds, self._options.decoding_memory)
        except errors.ObjectInUse:
            return False
        if self._standby.had_rival or not self._before.others_since:  # another one may have been active just now
            self._keeper.stopping.wait(HANDOVER_SECONDS)
        slot_is_new = self._before.slot_is_new
        acknowledged = self._take_up(log_now)
        self._standby.end()
        core = self._core(codec, prepared.sender_timeout)
        self._gate.ledger.acknowledge(acknowledged)
        session = WalSession(
            connection, core, self._inbox, self._gate, self._wake, self._monitor, seconds, self._note_moved
        )
        self._gate.ledger.on_progress = session.note_progress
        self._stats.active = True
        if not self._keeper.announce() and slot_is_new and self.state.keeps_trying:
            self._gate.tell(Resync(STARTED_LATE))
        self.before_open()
        self._gate.trust()
        self._gate.open()
        self.state.ready.set()
        session.run(self._keeper.stopping.is_set)
        return True

    def _take_up(self, log_now: Log) -> int:
        """Decide, now that no other consumer can be active any more, which events to go on with.

        :returns: up to where everything counts as dispatched.
        """
        with contextlib.closing(self._connect(stopping=self._keeper.stopping)) as connection:
            row = connection.execute(
                "SELECT confirmed_flush_lsn::text FROM pg_catalog.pg_replication_slots WHERE slot_name = %s",
                [self._options.slot],
            ).fetchone()
            assert row is not None
            self._monitor.xids.begin(next_txid(connection))
            self._know(newest=self._position.newest)
            decision = take_up(self._before, log_now, parse_lsn(row[0]))
            if not decision.goes_on or self._gate.ledger.is_abandoned:
                self._begin_tenure(decision.acknowledged)
                self._position = Position(decision.acknowledged)
            self._gate.ledger.consumer = consumer_of(connection, self._options.slot)
            self._monitor.consumer = self._gate.ledger.consumer
            if decision.resync:
                self._gate.tell(Resync(SERVER_CHANGED))
            self._know(log=log_now, moved_to=decision.moved_to, others_since=False, slot_is_new=False, is_undone=False)
            for name in self._tokens.rename():  # those on their way may be lost
                _emit(connection, name)
        return decision.acknowledged

    def _begin_tenure(self, acknowledged: int) -> None:
        """Drop what was read and is not acknowledged: it comes again, or another consumer delivered it."""
        ledger = Ledger(self._options.max_queue, acknowledged)
        ledger.on_progress = self._wake.nudge
        self._gate.renew(ledger)

    def _core(self, codec: str, sender_timeout: float) -> WalCore:
        options = self._options
        interval, timeout = options.heartbeat_interval, options.heartbeat_timeout
        channels = {(DURABLE_PREFIX + name).encode(codec, "replace"): name for name in self._channels}
        return WalCore(
            Contents(self._options.slot.encode(), channels, self._find_mark, self.on_request, converter(codec)),
            self._position,
            Liveness(Heartbeat(interval, timeout, time.monotonic()), interval + timeout + sender_timeout),
            min(interval, sender_timeout / 4),
            self._stats,
            self._monitor.xids,
        )

    def _find_mark(self, name: str) -> Mark | None:
        done = self._tokens.find(name)
        return self.marks.take(name) if done is None else CaughtUp(done.set)

    def _know(self, **changes: Any) -> None:
        self._before = dataclasses.replace(self._before, **changes)

    def _note_moved(self, lsn: int) -> None:
        self._know(moved_to=max(self._before.moved_to, lsn))


_EMIT = (
    "SELECT CAST(CAST(pg_catalog.pg_current_xact_id() AS text) AS bigint), pg_catalog.clock_timestamp(), "
    "pg_catalog.pg_logical_emit_message(true, %s, %s)"
)


def _emit(connection: psycopg.Connection[Any], name: str) -> tuple[int, datetime]:
    row = connection.execute(_EMIT, [TOKEN_PREFIX, name]).fetchone()
    assert row is not None
    return row[0], row[1]
