"""The LISTEN source: a thread that owns a connection, and drains its socket in turns with the dispatch thread.

A heartbeat is a notification to a channel of the listener's own: what comes back proves that LISTEN is in
force, not merely that a socket is open. `catch_up` uses the same round trip: notifications come in commit
order, so what lies before it was committed before it. Its payload is a secret of the process: nobody else can
make one up.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import psycopg
from psycopg import sql
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.misc import PGnotify

from ...errors import ConfigurationError, UnsupportedServerError, WatchError
from ..backoff import Backoff
from ..decoding.encodings import adopt_encoding, converter
from ..decoding.routes import Route
from ..handover.queue import CaughtUp, Connected, Disconnected, EventQueue, Notification, Resync
from ..server.checks import check_not_pooled, check_server, keep_alive_when_idle, resolve_schemas
from ..server.connect import Connect
from ..server.watchdog import Watchdog, let_go
from ..stats import Stats
from .turns import Turns

log: logging.Logger = logging.getLogger(__name__)

#: Reads over TLS before the other thread has its turn; without, a single one.
READS_AT_ONCE = 100

RECONNECTED = "the connection was lost and is back"


class NotifySource:
    """Connects, LISTENs, reads, reconnects."""

    def __init__(
        self,
        connect: Connect,
        channels: Sequence[str],
        routes: Sequence[Route],
        queue: EventQueue,
        stats: Stats,
        heartbeat: tuple[float, float],
        on_listening: Callable[[psycopg.Connection[Any]], None],
        on_heartbeat: Callable[[], None],
    ) -> None:
        self._connect, self._channels, self._routes = connect, channels, routes
        self._queue, self._stats = queue, stats
        self._interval, self._timeout = heartbeat
        self._on_listening, self._on_heartbeat = on_listening, on_heartbeat
        self._own_channel = f"watch_listener_{uuid.uuid4().hex}"
        #: What catch_up() waits for, and what of it is not on its way yet.
        self._tokens: dict[threading.Event, None] = {}
        self._unsent: list[threading.Event] = []
        self._lock = threading.Lock()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._stopping: threading.Event = threading.Event()
        self.turns: Turns = Turns(self._wake, lambda: queue.is_idle)
        self._backoff = Backoff()
        #: In which the server sends.
        self._codec = "utf-8"
        #: While there is a connection: its socket's descriptor, and what can interrupt its first queries.
        self._descriptor: int | None = None
        self._watchdog: Watchdog | None = None
        #: Set once LISTEN is in force for the first time, or can't be.
        self.settled: threading.Event = threading.Event()
        #: Why it could not, or the last attempt could not.
        self.error: BaseException | None = None
        self.listening: bool = False
        self.thread: threading.Thread = threading.Thread(target=self._run, name="sqlalchemy-watch-listen", daemon=True)

    def stop(self) -> None:
        """Let the thread end and close the connection."""
        self._stopping.set()
        self.turns.stop()
        watchdog = self._watchdog
        if watchdog is not None:
            watchdog.bite()

    #: Why nothing is heard, while it isn't listening.
    absence: ClassVar[str] = "there is no connection at present"

    def send_token(self, done: threading.Event, deadline: float) -> None:
        """Set `done` when all that is committed by now has passed through the queue."""
        with self._lock:
            self._tokens[done] = None
            self._unsent.append(done)
        self._wake()

    def confirm(self, deadline: float) -> bool:
        """Nothing is acknowledged here."""
        return True

    def forget_token(self, done: threading.Event) -> None:
        """Stop waiting for a token."""
        with self._lock:
            self._tokens.pop(done, None)

    def disown(self) -> None:
        """In a forked child: let go of the parent's socket without a byte being sent.

        Were the child to keep it open, the server would not notice the parent's death, and would wait for
        somebody to read, with the NOTIFY queue of the whole cluster held up behind that.
        """
        let_go(self._descriptor)
        if self._watchdog is not None:
            self._watchdog.disown()

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"x")
        except OSError:  # awake anyway (the pipe is full), or gone
            pass

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                error = self._listen_until_lost()
                if self._stopping.is_set():
                    return
                self.error = error
                if isinstance(error, (UnsupportedServerError, ConfigurationError)) and not self.settled.is_set():
                    self.settled.set()
                    return
                delay = self._backoff.next()
                with contextlib.suppress(Exception):  # a failure to log must not end the thread
                    log.warning("not listening (%s): trying again in %.1f s", _line(error), delay)
                self._stopping.wait(delay)
        finally:
            self._wake_in.close()
            self._wake_out.close()

    def _listen_until_lost(self) -> BaseException | None:
        """One connection, from its beginning to its end; gives why it ended."""
        connection: psycopg.Connection[Any] | None = None
        failure: BaseException | None = None
        try:
            connection = self._connect()
            self._descriptor = connection.pgconn.socket
            early = self._listen(connection)
            reader = _Reader(connection, self)
            self._announce()
            reader.take(early)
            self.turns.run(reader.step)
        except Exception as error:  # whatever it was, the answer is a new connection, and never silence
            if connection is not None and not isinstance(error, (psycopg.Error, OSError, WatchError)):
                with contextlib.suppress(Exception):
                    log.exception("unexpected error while listening; going on with a new connection")
            failure = error
        self._note_loss(failure)
        self._descriptor = None
        if connection is not None:
            try:
                connection.close()
            except psycopg.Error:
                pass
        return failure

    def _note_loss(self, failure: BaseException | None) -> None:
        if self.listening:
            self.listening = False
            self._stats.connected_since = None
            if not self._stopping.is_set():
                self._queue.put_control(Disconnected(failure))

    def _listen(self, connection: psycopg.Connection[Any]) -> list[PGnotify]:
        """LISTEN; gives what arrived while that and the queries behind it ran."""
        early: list[PGnotify] = []
        connection.pgconn.notify_handler = early.append
        with Watchdog(connection, self._timeout) as self._watchdog:
            check_server(connection)
            check_not_pooled(connection, self._connect, self._timeout)
            keep_alive_when_idle(connection)
            self._watchdog.pat()
            self._codec = adopt_encoding(connection)  # before the first notification
            statements = [sql.SQL("LISTEN {}").format(sql.Identifier(c)) for c in (*self._channels, self._own_channel)]
            connection.execute(sql.SQL("; ").join(statements).as_string(None).encode(self._codec))
            self._watchdog.pat()
            resolve_schemas(connection, self._routes)
            self._watchdog.pat()
            self._on_listening(connection)
        self._watchdog = None
        if connection.pgconn.status != ConnStatus.OK:  # looking at the triggers hides its errors
            raise psycopg.OperationalError(f"no answer from the server within {self._timeout:g} s")
        connection.pgconn.notify_handler = None
        return early

    def _announce(self) -> None:
        first = not self.settled.is_set()
        self._backoff = Backoff()
        self.listening, self.error = True, None
        self._stats.connected_since = datetime.now(UTC)
        self._queue.put_control(Connected())
        if not first:
            self._stats.reconnects += 1
            self._queue.put_control(Resync(RECONNECTED))
        with self._lock:  # those that got lost on the way
            self._unsent = list(self._tokens)
        self.settled.set()

    @property
    def has_unsent(self) -> bool:
        """Whether `take_unsent` may have something."""
        return bool(self._unsent)

    def take_unsent(self) -> list[threading.Event]:
        """The tokens to send next."""
        with self._lock:
            unsent, self._unsent = [t for t in self._unsent if t in self._tokens], []
            return unsent

    def token_came(self, done: threading.Event) -> None:
        """A token came back: it takes its place in the queue."""
        with self._lock:
            if self._tokens.pop(done, self) is self:
                return
        self._queue.put_control(CaughtUp(done))


class _Reader:
    """Reads one connection, through libpq itself: psycopg's generator costs more than twice as much."""

    def __init__(self, connection: psycopg.Connection[Any], source: NotifySource) -> None:
        self._pgconn = connection.pgconn
        self._socket = self._pgconn.socket
        self._encrypted = self._pgconn.ssl_in_use
        self._source = source
        self._own = source._own_channel.encode()
        self._names = {name.encode(source._codec): name for name in source._channels}
        self._convert = converter(source._codec)
        #: Whether there may be something that no poll() tells of.
        self._is_more = False
        self._wakes = source._wake_out.fileno()
        self._poll = select.poll() if hasattr(select, "poll") else None
        # A round trip: what was sent and when, for whom, and whether notification and result are back.
        self._sent: bytes | None = None
        self._sent_at = 0.0
        self._tokens: list[threading.Event] = []
        self._proved = self._busy = False
        self._heard = time.monotonic()
        if self._poll is not None:
            self._poll.register(self._socket, select.POLLIN)
            self._poll.register(self._wakes, select.POLLIN)

    def step(self, deadline: float | None) -> bool:
        """Wait for something to come or to be due, and handle it; gives whether there was anything to wait for.

        :raises psycopg.OperationalError: where the connection is lost, or silent for too long.
        """
        self._send_due()
        due = self._heard + self._source._interval if self._sent is None else self._sent_at + self._source._timeout
        readable, woken = self._wait(0.0)
        readable |= self._is_more
        waits = not readable
        if waits and not woken:
            due = due if deadline is None else min(due, deadline)
            readable, woken = self._wait(max(0.0, due - time.monotonic()))
        if woken:
            self._drain_wakes()
        if readable:
            self._receive()
        # Only after reading: the answer may have come while this process was suspended.
        if self._sent is not None and self._sent_at + self._source._timeout <= time.monotonic():
            raise psycopg.OperationalError(
                f"no answer to the heartbeat within {self._source._timeout:g} s, so LISTEN is not in force"
            )
        return waits

    def _wait(self, seconds: float) -> tuple[bool, bool]:
        """Whether the connection, and whether the pipe for wakes, is readable."""
        if self._poll is not None:  # select() fails for descriptors from 1,024 on
            ready = [fd for fd, _ in self._poll.poll(seconds * 1000)]
        else:  # Windows has no poll()
            ready = select.select([self._socket, self._wakes], [], [], seconds)[0]
        return self._socket in ready, self._wakes in ready

    def _send_due(self) -> None:
        if self._sent is not None:
            return
        if not self._source.has_unsent and self._heard + self._source._interval > time.monotonic():
            return
        self._tokens = self._source.take_unsent()
        self._sent, self._sent_at = uuid.uuid4().hex.encode(), time.monotonic()
        self._proved, self._busy = False, True
        self._pgconn.send_query_params(
            b"SELECT pg_catalog.pg_notify($1, $2), pg_catalog.pg_notification_queue_usage()", [self._own, self._sent]
        )
        self._pgconn.flush()

    def _drain_wakes(self) -> None:
        try:
            while self._source._wake_out.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _receive(self) -> None:
        try:
            # What OpenSSL has decrypted already, no poll() tells of; late versions of libpq take it by themselves.
            for _ in range(READS_AT_ONCE):
                self._pgconn.consume_input()
                self._is_more = self._drain() and self._encrypted
                if not self._is_more:
                    break
        except psycopg.Error:
            self._drain()  # what came before the end counts
            raise
        if self._busy:  # libpq looks behind a result only once that is taken, and then no poll() tells of it
            self._read_results()
            self._drain()

    def _drain(self) -> bool:
        """Take the notifications that libpq has; gives whether there were any."""
        arrived: list[PGnotify] = []
        notifies = self._pgconn.notifies
        while (notify := notifies()) is not None:
            arrived.append(notify)
        self.take(arrived)
        return bool(arrived)

    def take(self, arrived: list[PGnotify]) -> None:
        """Put notifications into the queue."""
        ours: list[Notification] = []
        for notify in arrived:
            if (name := self._names.get(notify.relname)) is not None:
                payload = notify.extra if self._convert is None else self._convert(notify.extra)
                ours.append(Notification(name, payload))
            elif notify.relname == self._own:  # its place among the others matters
                self._put(ours)
                ours = []
                self._own_came(notify.extra)
        self._put(ours)

    def _put(self, arrived: list[Notification]) -> None:
        if arrived:
            # An answer comes behind a backlog; only silence is a loss.
            self._sent_at = time.monotonic()
            self._source._stats.notifications += len(arrived)
            self._source._queue.put(arrived)

    def _own_came(self, payload: bytes) -> None:
        if payload != self._sent:  # whoever knows the channel's name can NOTIFY there as well
            return
        self._proved = True
        for token in self._tokens:
            self._source.token_came(token)
        self._tokens = []
        self._complete()

    def _read_results(self) -> None:
        while self._busy and not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                self._busy = False
                self._complete()
            elif result.status == ExecStatus.TUPLES_OK:
                usage = result.get_value(0, 1)
                self._source._stats.notify_queue_usage = float(usage) if usage is not None else None
            elif result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError(result.error_message.decode(errors="replace"))

    def _complete(self) -> None:
        """The round trip is over when both are back: a result alone does not prove LISTEN."""
        if self._proved and not self._busy:
            self._sent, self._heard = None, time.monotonic()
            self._source._on_heartbeat()


def _line(error: BaseException | None) -> str:
    return (str(error).strip() or repr(error)).replace("\n", " ")
