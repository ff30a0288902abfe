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
import random
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.pq import ExecStatus

from ..errors import ConfigurationError, SlotError, UnsupportedServerError
from ..wire import DURABLE_PREFIX
from . import dead_letters, slots
from .backoff import Backoff
from .connect import Connect
from .queue import CaughtUp, Committed, Connected, Disconnected, Notification, Resync, WaitingQueue
from .replication import Begin, Commit, Keepalive, LogicalMessage, format_lsn, parse, parse_lsn, status_update
from .routes import Route
from .server import check_server, resolve_schemas
from .stats import Stats
from .watchdog import Watchdog, let_go, limited

log: logging.Logger = logging.getLogger(__name__)

#: The channel of `catch_up`'s tokens.
TOKENS = "token"

#: Seconds between attempts to become the active consumer, while another one is.
STANDBY_INTERVAL = 1.0

#: Seconds that the consumer before gets to notice that its connection is gone, and to stop dispatching.
HANDOVER_SECONDS = 0.2

#: Seconds between acknowledgements at the least, unless somebody waits for one.
ACKNOWLEDGE_INTERVAL = 0.05

#: Seconds that the server gets at the end to note the last acknowledgement; in the middle of a large transaction
#: it sends the rest of that first.
FINISH_SECONDS = 0.5

SERVER_CHANGED = "the server's log is another one than before (restored, or failed over without this slot)"


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
        self._connect, self._group, self._channels, self._routes = connect, group, channels, routes
        self._queue, self._stats = queue, stats
        self._interval, self._timeout = heartbeat
        self._status_interval = self._interval
        self._on_connected = on_connected
        self._tokens: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._stopping: threading.Event = threading.Event()
        self._position = _Position()
        #: The furthest that the slot can be, if no other process moved it.
        self._known_end = 0
        #: Whether the thread waits without anything to acknowledge; otherwise it looks in a moment anyway.
        self._wake_wanted = True
        self._had_slot = False
        self._was_active = False
        self._encoding = "utf-8"
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

    def send_token(self, done: threading.Event) -> None:
        """Set `done` when all that is committed by now has been dispatched and acknowledged."""
        with self._lock:
            self._tokens = {token: event for token, event in self._tokens.items() if not event.is_set()}
            self._tokens[token := uuid.uuid4().hex] = done
        with limited(self._connect(), self._timeout) as (connection, _):
            _emit_token(connection, token)

    def confirm(self, deadline: float) -> bool:
        """Wait until the server has noted what is acknowledged by now; False where it has not by the deadline."""
        wanted = self._queue.acknowledged
        with limited(self._connect(), self._timeout) as (connection, watchdog):
            while time.monotonic() < deadline:
                watchdog.pat()
                found = slots.read_slots(connection, self._group)
                if found and found[0].acknowledged and parse_lsn(found[0].acknowledged) >= wanted:
                    return True
                self._stopping.wait(0.01)
        return False

    def forget_token(self, done: threading.Event) -> None:
        """Stop waiting for a token."""
        with self._lock:
            self._tokens = {token: event for token, event in self._tokens.items() if event is not done}

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
            try:
                self._prepare()
                with contextlib.closing(self._connect(replication=True)) as connection, self._owning(connection):
                    self._check_server(connection)
                    stream = _Stream(connection, self)
                    if self._start_when_free(stream):
                        backoff = Backoff()
                        self._go_on()
                        self._announce()
                        stream.run()
            except (UnsupportedServerError, SlotError, ConfigurationError) as error:
                failure = error
                if not self.settled.is_set():
                    self.error = error
                    self.settled.set()
                    return
            except Exception as error:
                failure = error
            self._note_loss(failure)
            if not self._stopping.is_set():
                delay = backoff.next()
                log.warning("not reading slot %r (%s): trying again in %.1f s", self._group, _line(failure), delay)
                self._stopping.wait(delay)

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
            begins = slots.ensure_slot(connection, self._group, existed=self._had_slot)
            # Logical messages come in the database's own encoding.
            connection.execute("SELECT pg_catalog.set_config('client_encoding', getdatabaseencoding(), false)")
            self._encoding = connection.info.encoding
            self._status_interval = self._find_status_interval(connection)
            resolve_schemas(connection, self._routes)
            watchdog.pat()
            self._on_connected(connection)
        if begins is not None:
            self._known_end = begins
            log.info("made the slot %r: events from now on are kept for this consumer group", self._group)
        self._had_slot = True

    def _start_over(self, acknowledged: int) -> None:
        """Forget what was read and is not acknowledged: the slot holds it, or another consumer has delivered it."""
        self._queue.discard(acknowledged)
        self._position = _Position(self._position.identity)

    def _find_status_interval(self, connection: psycopg.Connection[Any]) -> float:
        """Seconds between status updates: the server ends a connection that is silent for `wal_sender_timeout`."""
        row = connection.execute(
            "SELECT setting::bigint / 1000.0 FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'"
        ).fetchone()
        allowed = float(row[0]) if row is not None else 0.0  # 0 is no limit
        return min(self._interval, allowed / 4) if allowed else self._interval

    def _check_server(self, connection: psycopg.Connection[Any]) -> None:
        with Watchdog(connection, self._timeout):
            result = connection.pgconn.exec_(b"IDENTIFY_SYSTEM")
        if result.status != ExecStatus.TUPLES_OK:
            raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
        # A server that was promoted goes on in a timeline of its own.
        identity = b"/".join(bytes(result.get_value(0, column) or b"") for column in (0, 1)).decode()
        written = parse_lsn(bytes(result.get_value(0, 2) or b"0/0").decode())
        if self._position.identity not in (None, identity) or written < self._queue.acknowledged:
            self._start_over(0)  # positions stand for something else in another log
            self._known_end = 0
            self._queue.put_urgent(Resync(SERVER_CHANGED))
        self._position.identity = identity

    def _start_when_free(self, stream: _Stream) -> bool:
        """Start reading; while another consumer is active, stand by."""
        waiting = False
        while not self._stopping.is_set():
            try:
                stream.start(self._group, self._queue.acknowledged)
                if waiting or self._was_active:  # another one was active just now, or may have been
                    self._stopping.wait(HANDOVER_SECONDS)
                return True
            except errors.ObjectInUse:
                if not waiting:
                    log.info("another consumer of %r is active: standing by", self._group)
                waiting = True
                self._stats.active = False
                self.settled.set()
                self._stopping.wait(STANDBY_INTERVAL * random.uniform(0.5, 1.0))
        return False

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
                self._send_tokens_again(connection)
                self._known_end = slot_end
        self._position.known_new_from = new_from
        self._queue.resume(new_from)
        self._queue.acknowledge(slot_end)

    def _send_tokens_again(self, connection: psycopg.Connection[Any]) -> None:
        """Those on the way were discarded, or went to another consumer."""
        with self._lock:
            waiting = {uuid.uuid4().hex: done for done in self._tokens.values() if not done.is_set()}
            self._tokens = waiting
        for token in waiting:
            _emit_token(connection, token)

    def check_slot(self, pid: int) -> None:
        """See from outside that the slot is still this consumer's, and the server within reach.

        :raises psycopg.Error: where it isn't.
        """
        with limited(self._connect(), self._timeout) as (connection, _):
            found = slots.read_slots(connection, self._group)
        if not found or found[0].active_pid != pid:
            raise psycopg.OperationalError("the server ended the stream meanwhile")

    def _announce(self) -> None:
        if self._was_active:
            self._stats.reconnects += 1
        self._was_active = True
        self.listening, self.error = True, None
        self._stats.active = True
        self._stats.connected_since = datetime.now(UTC)
        self._queue.put_urgent(Connected())
        self.settled.set()

    def take(self, received: Begin | LogicalMessage | Commit) -> None:
        """Pass a piece of a transaction on, unless it has been taken before."""
        position = self._position
        if isinstance(received, Begin):
            position.begin(received)
        elif isinstance(received, Commit):
            if position.commit(received):
                self._queue.put_control(Committed(received.end_lsn))
                for done in position.take_tokens():
                    self._queue.put_control(CaughtUp(done))
        elif received.transactional and received.prefix.startswith(DURABLE_PREFIX):
            self._take_message(received.prefix[len(DURABLE_PREFIX) :], received.content)

    def _take_message(self, channel: str, content: bytes) -> None:
        position = self._position
        if channel == TOKENS:
            with self._lock:
                done = self._tokens.get(content.decode(errors="replace"))
            if done is not None:
                position.tokens.append(done)
        elif channel == slots.RESYNC and position.message():
            self._queue.put_control(Resync(content.decode(errors="replace")))
        elif channel in self._channels and position.message():
            self._stats.notifications += 1
            if self._encoding != "utf-8":
                content = content.decode(self._encoding, "replace").encode()
            self._queue.put([Notification(channel, content, position.commit_lsn, position.redelivered)])

    @property
    def all_taken(self) -> bool:
        """Whether nothing that was received waits for its acknowledgement."""
        return self._position.in_transaction is False and self._position.last_end <= self._queue.acknowledged


class _Position:
    """Where in the log this process is, and what of it has been taken."""

    def __init__(self, identity: str | None = None) -> None:
        self.identity = identity
        #: Commits after this can't have been delivered by another consumer.
        self.known_new_from: int | None = None
        self.in_transaction = False
        self.commit_lsn = 0
        self.redelivered: bool | None = None
        self.tokens: list[threading.Event] = []
        #: The newest transaction taken in full, and how much of the one after it.
        self._taken_commit = 0
        self.last_end = 0
        self._partly_taken: tuple[int, int] = (0, 0)
        self._messages = 0

    def begin(self, begin: Begin) -> None:
        self.in_transaction = True
        self.commit_lsn = begin.commit_lsn
        self._messages = 0
        self.tokens = []
        new_from = self.known_new_from
        self.redelivered = None if new_from is None or begin.commit_lsn <= new_from else False

    def message(self) -> bool:
        """Whether this message of the transaction is to be taken."""
        self._messages += 1
        lsn, count = self._partly_taken
        if self.commit_lsn <= self._taken_commit or (lsn == self.commit_lsn and self._messages <= count):
            return False
        self._partly_taken = (self.commit_lsn, self._messages)
        return True

    def commit(self, commit: Commit) -> bool:
        """Whether the end of the transaction is to be passed on."""
        self.in_transaction = False
        if commit.commit_lsn <= self._taken_commit:
            return False
        self._taken_commit = commit.commit_lsn
        self.last_end = commit.end_lsn
        return True

    def take_tokens(self) -> list[threading.Event]:
        tokens, self.tokens = self.tokens, []
        return tokens


class _Stream:
    """One walsender connection."""

    def __init__(self, connection: psycopg.Connection[Any], source: WalSource) -> None:
        self._pgconn = connection.pgconn
        self._source = source
        self._received = 0
        self._sent_acknowledged = -1
        self._sent_at = 0.0
        self._asked_at: float | None = None
        self._heard_at = time.monotonic()

    def start(self, slot: str, acknowledged: int) -> None:
        """START_REPLICATION.

        :raises psycopg.errors.ObjectInUse: while another consumer is active.
        """
        command = sql.SQL(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {}, messages 'true')"
        )
        text = command.format(sql.Identifier(slot), sql.SQL(format_lsn(acknowledged)), _quoted_list(slots.PUBLICATION))
        self._pgconn.send_query(text.as_bytes(None))
        self._pgconn.flush()
        result = self._get_result()
        if result is None or result.status == ExecStatus.COPY_BOTH:
            return
        while self._get_result() is not None:
            pass
        raise _error(result)

    def _get_result(self) -> Any:
        """The next result of a command; libpq's own waiting for it has no limit, and stops every other thread too."""
        deadline = time.monotonic() + self._source._timeout
        while self._pgconn.is_busy():
            if not self._readable(deadline - time.monotonic()):
                raise psycopg.OperationalError(f"no answer from the server within {self._source._timeout:g} s")
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def run(self) -> None:
        """Read until stopped.

        :raises psycopg.Error: where the connection is lost, or silent for too long.
        """
        while not self._source._stopping.is_set():
            self._take_all()
            self._send_due()
            self._wait()
        self._finish()

    def _finish(self) -> None:
        """Send what was acknowledged last, and wait until the server has read it and let go of the slot.

        A connection closed while something unread lies in it is reset, and what the server has not read is lost.
        """
        self._send_status(reply_wanted=False)
        self._pgconn.put_copy_end()
        self._pgconn.flush()
        deadline = time.monotonic() + FINISH_SECONDS
        ended = False
        while time.monotonic() < deadline:
            size = 0 if ended else self._pgconn.get_copy_data(1)[0]
            ended = ended or size < 0
            if ended and not self._pgconn.is_busy():
                return
            if size == 0:
                if not self._readable(deadline - time.monotonic()):
                    return
                self._pgconn.consume_input()

    def _take_all(self) -> None:
        queue = self._source._queue
        while not queue.full:
            size, data = self._pgconn.get_copy_data(1)
            if size == 0:
                return
            if size < 0:
                result = self._get_result()
                raise psycopg.OperationalError("the server ended the stream") if result is None else _error(result)
            self._heard_at, self._asked_at = time.monotonic(), None
            received = parse(data)
            if isinstance(received, Keepalive):
                self._received = max(self._received, received.wal_end)
                if received.reply_wanted:
                    self._send_status(reply_wanted=False)
            elif isinstance(received, (Begin, LogicalMessage, Commit)):
                if isinstance(received, Commit):
                    self._received = max(self._received, received.end_lsn)
                self._source.take(received)

    def _send_due(self) -> None:
        now = time.monotonic()
        source = self._source
        paused = source._queue.full
        if self._asked_at is not None and not paused and now - self._asked_at > source._timeout:
            raise psycopg.OperationalError(f"no answer to the heartbeat within {source._timeout:g} s")
        if paused and now - self._heard_at >= source._interval:
            source.check_slot(self._pgconn.backend_pid)  # here the answer would come behind what isn't read
            self._heard_at = now = time.monotonic()
        if self._acknowledgeable != self._sent_acknowledged and now - self._sent_at >= ACKNOWLEDGE_INTERVAL:
            self._send_status(reply_wanted=False)
        if (
            now - max(self._heard_at, self._asked_at or 0.0) >= source._interval
            or now - self._sent_at >= source._status_interval
        ):
            self._send_status(reply_wanted=True)
            self._asked_at = self._asked_at or now

    @property
    def _acknowledgeable(self) -> int:
        # With nothing under way, writes to unwatched tables are acknowledged too: the slot must not hold the
        # disk for nothing.
        source = self._source
        acknowledged = source._queue.acknowledged
        return max(acknowledged, self._received) if source.all_taken else acknowledged

    def _send_status(self, *, reply_wanted: bool) -> None:
        acknowledged = self._acknowledgeable
        self._source._known_end = max(self._source._known_end, acknowledged)  # whether or not it arrives
        self._pgconn.put_copy_data(status_update(self._received, acknowledged, reply_wanted=reply_wanted))
        self._pgconn.flush()
        self._sent_acknowledged, self._sent_at = acknowledged, time.monotonic()
        self._source._stats.acknowledged = format_lsn(acknowledged)

    def _wait(self) -> None:
        source = self._source
        now = time.monotonic()
        seconds = min(source._interval, source._status_interval) - (now - self._sent_at)
        source._wake_wanted = True  # before looking, so that nothing is missed in between
        if self._acknowledgeable != self._sent_acknowledged:
            source._wake_wanted = False
            seconds = ACKNOWLEDGE_INTERVAL - (now - self._sent_at)
        if self._asked_at is not None:
            seconds = min(seconds, source._timeout - (now - self._asked_at))
        full = source._queue.lacks_space()
        watched = [source._wake_out] if full else [source._wake_out, self._pgconn.socket]
        ready = _poll(watched, max(0.0, seconds), ending=[self._pgconn.socket] if full else [])
        if source._wake_out.fileno() in ready:
            _drain(source._wake_out)
        if self._pgconn.socket in ready:
            if full:
                raise psycopg.OperationalError("the server ended the connection")
            self._pgconn.consume_input()

    def _readable(self, seconds: float) -> bool:
        return bool(_poll([self._pgconn.socket], max(0.0, seconds)))


def _poll(watched: list[Any], seconds: float, ending: Sequence[int] = ()) -> set[int]:
    """Which of them are readable, or, of `ending`, at an end whatever there is to read before."""
    if hasattr(select, "poll"):
        poll = select.poll()
        for file in watched:
            poll.register(file, select.POLLIN)
        for descriptor in ending:
            poll.register(descriptor, getattr(select, "POLLRDHUP", 0))
        return {fd for fd, _ in poll.poll(seconds * 1000)}
    return {f if isinstance(f, int) else f.fileno() for f in select.select(watched, [], [], seconds)[0]}


def _drain(wakes: socket.socket) -> None:
    try:
        while wakes.recv(4096):
            pass
    except OSError:
        pass


def _emit_token(connection: psycopg.Connection[Any], token: str) -> None:
    connection.execute("SELECT pg_catalog.pg_logical_emit_message(true, %s, %s)", [DURABLE_PREFIX + TOKENS, token])


def _quoted_list(name: str) -> sql.Composable:
    return sql.Literal('"' + name + '"')


def _error(result: Any) -> psycopg.Error:
    return errors.error_from_result(result)


def _line(error: BaseException | None) -> str:
    return str(error or "the stream ended").strip().replace("\n", " ")
