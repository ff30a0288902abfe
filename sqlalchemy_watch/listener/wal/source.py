"""The WAL source: a thread that reads logical messages from a replication slot, in commit order.

The server keeps its log from where the consumer group last acknowledged, so a slow consumer simply stops
reading: nothing is ever dropped. Status updates go on meanwhile, so that `wal_sender_timeout` does not cut
the connection. A transaction is acknowledged when its last receiver has returned; what is sent again after
a lost connection, and has been taken already, is passed over.

With the connection the slot is lost to whoever stands by, so dispatching pauses until this process is the active
consumer again. Where the slot has not moved meanwhile, it goes on where it was; otherwise with what the slot holds.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import errors

from ...errors import ConfigurationError, SlotError, UnsupportedServerError
from ...wire import DURABLE_PREFIX
from ..backoff import Backoff
from ..decoding.encodings import Convert, adopt_encoding, converter
from ..decoding.routes import Route
from ..dispatch import dead_letters
from ..handover.queue import CaughtUp, Committed, Connected, Disconnected, Item, Notification, Resync, WaitingQueue
from ..server.checks import check_server, resolve_schemas
from ..server.connect import Connect
from ..server.watchdog import Watchdog, let_go, limited
from ..stats import Stats
from . import slots
from .messages import Begin, Commit, LogicalMessage, parse_lsn
from .position import Position
from .session import Stream, sender_timeout
from .takeover import Log, read_log
from .tokens import TOKEN_INTERVAL, TOKEN_PREFIX, Tokens

log: logging.Logger = logging.getLogger(__name__)

_GAP_PREFIX = (DURABLE_PREFIX + slots.RESYNC).encode()

#: Seconds between attempts to become the active consumer, while another one is.
STANDBY_INTERVAL = 1.0

#: Seconds of reading after which the next attempt to connect does not wait as long as the last one.
STEADY_SECONDS = 5.0

#: Seconds at the most by which those who stood by try one after the other.
RIVALS_SECONDS = 0.1

#: Seconds that the consumer before gets to notice that its connection is gone, and to stop dispatching.
HANDOVER_SECONDS = 0.2

SERVER_CHANGED = "the server is another one than before (restored, or failed over): it may lack what was delivered last"

SLOT_IN_MAKING = (
    "the slot is being made, for which the server waits until transactions have ended that were open before: "
    "see pg_stat_activity"
)


class WalSource:
    """Becomes the active consumer of a group, reads, acknowledges, reconnects."""

    def __init__(
        self,
        connect: Connect,
        group: str,
        channels: frozenset[str],
        routes: Sequence[Route],
        queue: WaitingQueue,
        stats: Stats,
        heartbeat: tuple[float, float],
        on_connected: Callable[[psycopg.Connection[Any]], None],
        needs_table: bool,
    ) -> None:
        self._needs_table = needs_table
        self._connect, self._group, self._routes = connect, group, routes
        self._channel_names = channels
        #: By the prefix of their messages.
        self._channels: dict[bytes, str] = {}
        self._gap_message = (_GAP_PREFIX, group.encode())
        self._convert: Convert | None = None
        self._queue, self._stats = queue, stats
        self._interval, self._timeout = heartbeat
        self._status_interval = self._interval
        self._sender_timeout = math.inf
        #: Whether another consumer is active, and whether one was when this one last tried to be.
        self._stands_by = self._had_rival = False
        #: Whether the log behind the slot can't be decoded, however often that is tried.
        self._is_unreadable = False
        self._on_connected = on_connected
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._stopping: threading.Event = threading.Event()
        self._tokens = Tokens(connect, self._timeout, self._stopping)
        self._position = Position()
        #: The furthest that the slot can be, if no other process moved it.
        self._known_end = 0
        #: Whether the thread waits without anything to acknowledge; otherwise it looks in a moment anyway.
        self._wake_wanted = True
        self._had_slot = False
        #: Made by this process, and nothing read since.
        self._slot_is_new = False
        self._was_active = False
        #: Whether no other process was the active one since this process was.
        self._was_last = False
        self._log: Log | None = None
        #: Up to there the slot was moved on another server, by a consumer of which nobody knows how far it was.
        self._doubtful_to = 0
        #: The walsender connection's socket, while there is one.
        self._descriptor: int | None = None
        #: Set once the slot is read, or waited for behind another consumer, or can't be.
        self.settled: threading.Event = threading.Event()
        self.error: BaseException | None = None
        self.listening: bool = False
        self.thread: threading.Thread = threading.Thread(target=self._run, name="sqlalchemy-watch-wal", daemon=True)
        queue.on_space = self._wake

    def stop(self) -> None:
        """Let the thread send what is acknowledged, and end."""
        self._stopping.set()
        self._wake()

    def acknowledge(self, end_lsn: int) -> bool:
        """All up to there has been dispatched; called by the dispatch thread, in order. False while it is paused."""
        if not self._queue.acknowledge(end_lsn):
            return False
        if self._wake_wanted:  # waking for each transaction would cost more than dispatching it
            self._wake_wanted = False
            self._wake()
        return True

    @property
    def absence(self) -> str:
        """Why nothing is heard, while it isn't listening."""
        if self._stands_by:
            return "another consumer of the group is active, and this one stands by"
        return "there is no connection at present"

    def send_token(self, done: threading.Event, deadline: float) -> None:
        """Set `done` when all that is committed by now has been dispatched and acknowledged.

        :param deadline: by `time.monotonic()`: for how long to try.
        """
        self._tokens.send(done, deadline)

    def confirm(self, deadline: float) -> bool:
        """Wait until the server has noted what is acknowledged by now; False where it has not by the deadline."""
        wanted = self._queue.acknowledged
        while time.monotonic() < deadline:
            try:
                with limited(self._connect(), self._timeout) as (connection, watchdog):
                    while time.monotonic() < deadline:
                        watchdog.pat()
                        found = slots.read_slots(connection, self._group)
                        if found and found[0].acknowledged and parse_lsn(found[0].acknowledged) >= wanted:
                            return True
                        self._stopping.wait(0.01)
            except psycopg.Error as error:
                log.debug("can't see what is acknowledged: %s", error)
                self._stopping.wait(TOKEN_INTERVAL)
        return False

    def forget_token(self, done: threading.Event) -> None:
        """Stop waiting for a token."""
        self._tokens.forget(done)

    def disown(self) -> None:
        """In a forked child: let go of the parent's socket without a byte being sent.

        Were the child to keep it open, a dead parent's slot would stay active, and the others stand by.
        """
        let_go(self._descriptor)

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"x")
        except OSError:  # awake anyway, or gone
            pass

    def _run(self) -> None:
        try:
            self._consume()
        finally:
            self._wake_in.close()
            self._wake_out.close()

    def _consume(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            failure: BaseException | None = None
            begun = time.monotonic()
            try:
                self._prepare()
                if self._stopping.is_set():  # making a slot may take long
                    break
                with contextlib.closing(self._connect_walsender()) as connection, self._owning(connection):
                    self._check_server(connection)
                    stream = Stream(connection, self)
                    is_free = self._start(stream)
                    if is_free:
                        self._go_on()
                        self._announce()
                        stream.run()
                if not is_free:
                    self._wait_until_free()
                    self._stopping.wait(random.uniform(0.0, RIVALS_SECONDS))
                    continue
            except (UnsupportedServerError, SlotError, ConfigurationError) as error:
                failure = error
                if not self.settled.is_set():
                    self.error = error
                    self.settled.set()
                    return
            except Exception as error:
                failure = error
                self._is_unreadable = isinstance(error, errors.UndefinedObject) and self._misses_publication(error)
            if self.listening and time.monotonic() - begun > STEADY_SECONDS:
                backoff = Backoff()
            self._note_loss(failure)
            if not self._stopping.is_set():
                delay = backoff.next()
                log.warning("not reading slot %r (%s): trying again in %.1f s", self._group, _line(failure), delay)
                self._stopping.wait(delay)

    def _misses_publication(self, error: errors.UndefinedObject) -> bool:
        # In whatever language, and whatever else may be missing: a slot has another name.
        found = re.search(rf"\b{slots.PUBLICATION}\b", str(error))
        return found is not None and self._group != slots.PUBLICATION

    def _connect_walsender(self) -> psycopg.Connection[Any]:
        try:
            return self._connect(replication=True)
        except psycopg.OperationalError as error:
            if re.search("start wal ?sender", str(error), re.IGNORECASE):
                raise SlotError(
                    f"the role may not read the slot {self._group!r} ({_line(error)}): ALTER ROLE ... REPLICATION"
                ) from error
            raise

    @contextlib.contextmanager
    def _owning(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """The descriptor is known no longer than it is open: its number may be another file's afterwards."""
        self._descriptor = connection.pgconn.socket
        try:
            yield
        finally:
            self._descriptor = None

    def _note_loss(self, failure: BaseException | None) -> None:
        self.error = failure
        if self.listening:
            self._queue.pause()
            self.listening = False
            self._stats.connected_since = None
            self._stats.active = False
            if not self._stopping.is_set():
                self._queue.put_urgent(Disconnected(failure))

    def _prepare(self) -> None:
        """Have publication and slot."""
        with limited(self._connect(), self._timeout) as (connection, watchdog):
            check_server(connection)
            slots.ensure_publication(connection)
            if self._needs_table:
                dead_letters.ensure_table(connection)
            self._had_slot |= bool(slots.read_slots(connection, self._group))
            self.error = SlotError(SLOT_IN_MAKING)
            begins = slots.ensure_slot(
                connection, self._group, existed=self._had_slot, is_unreadable=self._is_unreadable
            )
            self.error = None
            self._is_unreadable = False
            self._sender_timeout = sender_timeout(connection)
            self._status_interval = min(self._interval, self._sender_timeout / 4)
            resolve_schemas(connection, self._routes)
            watchdog.pat()
            self._on_connected(connection)
        if begins is not None:
            self._known_end, self._slot_is_new = begins, True
            log.info("made the slot %r: events from now on are kept for this consumer group", self._group)
        self._had_slot = True

    def _start_over(self, acknowledged: int) -> None:
        """Forget what was read and is not acknowledged: the slot holds it, or another consumer has delivered it."""
        self._queue.discard(acknowledged)
        self._position = Position()

    def _check_server(self, connection: psycopg.Connection[Any]) -> None:
        with Watchdog(connection, self._timeout):
            codec = adopt_encoding(connection)  # the contents of messages are never converted by the server
            log_now = read_log(connection.pgconn)
        self._convert = converter(codec)
        self._channels = {(DURABLE_PREFIX + name).encode(codec, "replace"): name for name in self._channel_names}
        before, self._log = self._log, log_now
        slot_is_new, self._slot_is_new = self._slot_is_new, False
        if before is None or (log_now.continues(before) and log_now.written >= self._queue.acknowledged):
            return
        shared = 0 if log_now.continues(before) else log_now.shared_with(before)
        if not slot_is_new:
            self._known_end = min(self._known_end, shared)
        if not shared or self._queue.acknowledged > shared or not self._position.is_within(shared):
            # Positions stand for something else from there on, and what they stood for is undone.
            self._start_over(min(self._queue.acknowledged, shared))
            if not slot_is_new:  # or else the slot itself says it
                self._queue.put_urgent(Resync(SERVER_CHANGED))
        elif not self._was_last:
            self._doubtful_to = log_now.begins

    def _wait_until_free(self) -> None:
        """Stand by while another consumer is active; over a plain connection, since walsenders are few."""
        with contextlib.closing(self._connect()) as connection:
            while not self._stopping.is_set():
                with Watchdog(connection, self._timeout):
                    found = slots.read_slots(connection, self._group)
                if not found or (found[0].active_pid is None and found[0].acknowledged is not None):
                    return
                if found[0].acknowledged is None:  # there is nothing yet from which on it would hear
                    self.error = SlotError(SLOT_IN_MAKING)
                else:
                    self._stand_by()
                self._stopping.wait(STANDBY_INTERVAL * random.uniform(0.5, 1.0))

    def _stand_by(self) -> None:
        if not self._stands_by:
            log.info("another consumer of %r is active: standing by", self._group)
        self._stands_by = True
        self._stats.active = False
        self.error = None
        self.settled.set()

    def _start(self, stream: Stream) -> bool:
        """Start reading; False where another consumer was faster."""
        try:
            stream.start(self._group, self._queue.acknowledged)
        except errors.ObjectInUse:
            self._was_last, self._had_rival = False, True
            return False
        if self._had_rival or self._was_active:  # another one was active just now, or may have been
            self._stopping.wait(HANDOVER_SECONDS)
        self._had_rival = self._stands_by = False
        return True

    def _go_on(self) -> None:
        """Dispatch again, now that no other consumer can be active any more: what waits, unless one has consumed."""
        with limited(self._connect(), self._timeout) as (connection, _):
            row = connection.execute(
                "SELECT pg_catalog.pg_current_wal_flush_lsn()::text, confirmed_flush_lsn::text "
                "FROM pg_catalog.pg_replication_slots WHERE slot_name = %s", [self._group],
            ).fetchone()  # fmt: skip
            assert row is not None
            new_from, slot_end = map(parse_lsn, row)
            if slot_end > self._known_end:
                self._start_over(max(self._queue.acknowledged, slot_end))
                self._known_end = slot_end
            self._tokens.send_again(connection)
        if slot_end <= self._doubtful_to:  # nobody has gone on from it yet, so nobody has said so
            self._queue.put_urgent(Resync(SERVER_CHANGED))
        self._doubtful_to = 0
        self._position.known_new_from = new_from
        self._queue.resume(new_from)
        self._queue.acknowledge(slot_end)

    def check_slot(self, pid: int) -> None:
        """See from outside that the slot is still this consumer's, and the server within reach.

        :raises psycopg.Error: where it isn't.
        """
        with limited(self._connect(), self._timeout) as (connection, _):
            found = slots.read_slots(connection, self._group)
        if not found or found[0].active_pid != pid:
            raise psycopg.OperationalError("the server ended the stream meanwhile")

    @property
    def longest_silence(self) -> float:
        """For how many seconds a walsender that decodes may say nothing."""
        return self._interval + self._timeout + self._sender_timeout

    def _announce(self) -> None:
        if self._was_active:
            self._stats.reconnects += 1
        self._was_active = self._was_last = True
        self.listening, self.error = True, None
        self._stats.active = True
        self._stats.connected_since = datetime.now(UTC)
        self._queue.put_urgent(Connected())
        self.settled.set()

    def begin(self, received: Begin) -> None:
        """Note that a transaction begins."""
        self._position.begin(received)

    def take_message(self, received: LogicalMessage) -> Iterable[Item]:
        """What of a message is to be dispatched, and has not been taken before."""
        if not received.transactional:
            return ()
        position, content = self._position, received.content
        channel = self._channels.get(received.prefix)
        if channel is not None:
            if not position.message():
                return ()
            self._stats.notifications += 1
            if self._convert is not None:
                content = self._convert(content)
            return (Notification(channel, content, position.commit_lsn, position.redelivered),)
        if received.prefix == TOKEN_PREFIX:
            done = self._tokens.find(content)
            if done is not None:
                position.tokens.append(done)
        elif (received.prefix, content) == self._gap_message and position.message():
            return (Resync(slots.SLOT_LOST),)
        return ()

    def take_commit(self, received: Commit) -> Iterable[Item]:
        """What follows the last message of a transaction, unless it has been taken before."""
        position = self._position
        if not position.commit(received):
            return ()
        return (Committed(received.end_lsn), *map(CaughtUp, position.take_tokens()))

    @property
    def all_taken(self) -> bool:
        """Whether nothing that was received waits for its acknowledgement."""
        return self._position.in_transaction is False and self._position.last_end <= self._queue.acknowledged


def _line(error: BaseException | None) -> str:
    return str(error or "the stream ended").strip().replace("\n", " ")
