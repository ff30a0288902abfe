"""The LISTEN source: a thread that owns a connection, drains its socket and does nothing else.

A heartbeat is a notification to a channel of the listener's own: what comes back proves that LISTEN is in
force, not merely that a socket is open. `catch_up` uses the same channel: notifications come in commit order,
so what lies before the token was committed before it.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus

from ..errors import ConfigurationError, UnsupportedServerError
from .backoff import Backoff
from .connect import Connect
from .queue import CaughtUp, Connected, Disconnected, EventQueue, Notification, Resync
from .routes import Route
from .server import check_not_pooled, check_server, resolve_schemas
from .stats import Stats

log: logging.Logger = logging.getLogger(__name__)

RECONNECTED = "the connection was lost and is back"

_BEAT = "beat"


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
    ) -> None:
        self._connect, self._channels, self._routes = connect, channels, routes
        self._queue, self._stats = queue, stats
        self._interval, self._timeout = heartbeat
        self._on_listening = on_listening
        self._own_channel = f"watch_listener_{uuid.uuid4().hex}"
        self._tokens: dict[str, threading.Event] = {}
        self._unsent: list[str] = []
        self._lock = threading.Lock()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._stopping: threading.Event = threading.Event()
        #: Set once LISTEN is in force for the first time, or can't be.
        self.settled: threading.Event = threading.Event()
        #: Why it could not, or the last attempt could not.
        self.error: BaseException | None = None
        self.listening: bool = False
        self.thread: threading.Thread = threading.Thread(target=self._run, name="sqlalchemy-watch-listen", daemon=True)

    def stop(self) -> None:
        """Let the thread end and close the connection."""
        self._stopping.set()
        self._wake()

    def send_token(self, done: threading.Event) -> None:
        """Set `done` when all that is committed by now has passed through the queue."""
        token = uuid.uuid4().hex
        with self._lock:
            self._tokens[token] = done
            self._unsent.append(token)
        self._wake()

    def confirm(self, deadline: float) -> bool:
        """Nothing is acknowledged here."""
        return True

    def forget_token(self, done: threading.Event) -> None:
        """Stop waiting for a token."""
        with self._lock:
            self._tokens = {token: event for token, event in self._tokens.items() if event is not done}

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"x")
        except (BlockingIOError, OSError):  # awake anyway, or gone
            pass

    def _run(self) -> None:
        backoff = Backoff()
        first = True
        while not self._stopping.is_set():
            try:
                connection = self._listen()
            except Exception as error:
                self.error = error
                if first and isinstance(error, (UnsupportedServerError, ConfigurationError)):
                    self.settled.set()
                    return
                delay = backoff.next()
                log.warning("can't listen (%s): trying again in %.1f s", str(error).strip(), delay)
                self._stopping.wait(delay)
                continue
            self._announce(first)
            backoff, first = Backoff(), False
            failure = self._read_until_lost(connection)
            self._abandon(connection)
            self.listening = False
            self._stats.connected_since = None
            if not self._stopping.is_set():
                log.warning("the connection to the server was lost (%s): reconnecting", str(failure).strip())
                self._queue.put_control(Disconnected(failure))
        self._wake_in.close()
        self._wake_out.close()

    def _listen(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        try:
            connection.add_notify_handler(self._early)
            check_server(connection)
            check_not_pooled(connection, self._connect)
            statements = [sql.SQL("LISTEN {}").format(sql.Identifier(c)) for c in (*self._channels, self._own_channel)]
            connection.execute(sql.SQL("; ").join(statements))
            resolve_schemas(connection, self._routes)
            self._on_listening(connection)
            return connection
        except BaseException:
            connection.close()
            raise

    def _early(self, notify: psycopg.Notify) -> None:
        """What comes while psycopg still runs the queries above; later ones are read straight from libpq."""
        if notify.channel != self._own_channel:
            self._stats.notifications += 1
            self._queue.put([Notification(notify.channel, notify.payload.encode())])

    def _announce(self, first: bool) -> None:
        self.listening, self.error = True, None
        self._stats.connected_since = datetime.now(UTC)
        self._queue.put_control(Connected())
        if not first:
            self._stats.reconnects += 1
            self._queue.put_control(Resync(RECONNECTED))
        with self._lock:  # tokens that got lost on the way
            self._unsent = list(self._tokens)
        self.settled.set()

    def _read_until_lost(self, connection: psycopg.Connection[Any]) -> BaseException | None:
        reader = _Reader(connection, self)
        try:
            while not self._stopping.is_set():
                reader.step()
        except (psycopg.Error, OSError) as error:
            return error
        return None

    def _abandon(self, connection: psycopg.Connection[Any]) -> None:
        try:
            connection.close()
        except psycopg.Error:
            pass

    def take_unsent(self) -> list[str]:
        """The tokens to send next."""
        with self._lock:
            unsent, self._unsent = [t for t in self._unsent if t in self._tokens], []
            return unsent

    def token_came(self, token: str) -> None:
        """A token came back: it takes its place in the queue."""
        with self._lock:
            done = self._tokens.pop(token, None)
        if done is not None:
            self._queue.put_control(CaughtUp(done))


class _Reader:
    """Reads one connection, through libpq itself: psycopg's generator costs more than twice as much."""

    def __init__(self, connection: psycopg.Connection[Any], source: NotifySource) -> None:
        self._pgconn = connection.pgconn
        self._source = source
        self._own = source._own_channel.encode()
        self._names = {name.encode(): name for name in source._channels}
        self._poll = select.poll() if hasattr(select, "poll") else None
        self._busy = False
        self._beat_sent: float | None = None
        self._heard = time.monotonic()
        if self._poll is not None:
            self._poll.register(self._pgconn.socket, select.POLLIN)
            self._poll.register(source._wake_out, select.POLLIN)
        # What psycopg's own queries left in libpq's buffer.
        self._drain()

    def step(self) -> None:
        """Wait for something to come or to be due, and handle it.

        :raises psycopg.OperationalError: where the connection is lost, or silent for too long.
        """
        self._send_due()
        readable, woken = self._wait(self._seconds_left())
        if woken:
            self._drain_wakes()
        if readable:
            self._pgconn.consume_input()
            self._drain()

    def _wait(self, seconds: float) -> tuple[bool, bool]:
        wake = self._source._wake_out
        if self._poll is not None:
            ready = {fd for fd, _ in self._poll.poll(max(0.0, seconds) * 1000)}
        else:  # Windows has no poll()
            ready = set(select.select([self._pgconn.socket, wake.fileno()], [], [], max(0.0, seconds))[0])
        return self._pgconn.socket in ready, wake.fileno() in ready

    def _seconds_left(self) -> float:
        now = time.monotonic()
        if self._beat_sent is not None:
            left = self._beat_sent + self._source._timeout - now
            if left <= 0:
                raise psycopg.OperationalError(
                    f"no answer to the heartbeat within {self._source._timeout:g} s, so LISTEN is not in force"
                )
            return left
        return self._heard + self._source._interval - now

    def _send_due(self) -> None:
        if self._busy:
            return
        payload = ",".join(self._source.take_unsent())
        if not payload:
            if self._beat_sent is not None or self._heard + self._source._interval > time.monotonic():
                return
            payload = _BEAT
        if self._beat_sent is None:
            self._beat_sent = time.monotonic()
        self._busy = True
        self._pgconn.send_query_params(
            b"SELECT pg_catalog.pg_notify($1, $2), pg_catalog.pg_notification_queue_usage()",
            [self._own, payload.encode()],
        )
        self._pgconn.flush()

    def _drain_wakes(self) -> None:
        try:
            while self._source._wake_out.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _drain(self) -> None:
        arrived: list[Notification] = []
        while (notify := self._pgconn.notifies()) is not None:
            if notify.relname == self._own:  # its place among the others matters
                self._put(arrived)
                arrived = []
                self._own_came(notify.extra)
            elif (name := self._names.get(notify.relname)) is not None:
                arrived.append(Notification(name, notify.extra))
        self._put(arrived)
        self._read_results()

    def _put(self, arrived: list[Notification]) -> None:
        if arrived:
            if self._beat_sent is not None:  # it comes behind a backlog; only silence is a loss
                self._beat_sent = time.monotonic()
            self._source._stats.notifications += len(arrived)
            self._source._queue.put(arrived)

    def _own_came(self, payload: bytes) -> None:
        self._beat_sent, self._heard = None, time.monotonic()
        for token in payload.decode(errors="replace").split(","):
            self._source.token_came(token)

    def _read_results(self) -> None:
        while self._busy and not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                self._busy = False
            elif result.status == ExecStatus.TUPLES_OK:
                usage = result.get_value(0, 1)
                self._source._stats.notify_queue_usage = float(usage) if usage is not None else None
            elif result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
