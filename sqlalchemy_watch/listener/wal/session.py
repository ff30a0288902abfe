"""One walsender connection: starting it, reading, status updates and heartbeats, and its end."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, sql
from psycopg.pq import ExecStatus

from ..handover.queue import Item
from ..server.watchdog import limited
from . import slots
from .messages import Begin, Commit, Keepalive, LogicalMessage, format_lsn, parse, status_update

if TYPE_CHECKING:
    from .source import WalSource

#: Seconds between acknowledgements at the least, unless somebody waits for one.
ACKNOWLEDGE_INTERVAL = 0.05

#: Seconds that the server gets at the end to note the last acknowledgement; in the middle of a large transaction
#: it sends the rest of that first.
FINISH_SECONDS = 0.5

#: The share of the time for an answer to a heartbeat after which the server is asked otherwise what keeps it.
PROBE_AFTER = 0.25

#: Messages whose items are put into the queue together.
TAKEN_AT_ONCE = 64

#: From so many transactions per second on, measured over so many seconds, several are read at once, which come
#: later by that long.
BUSY_RATE = 4_000
RATE_SECONDS = 0.02
LINGER_SECONDS = 0.001


_IS_DECODING = """
SELECT coalesce(a.wait_event_type IN ('IO', 'LWLock', 'BufferPin', 'Buffer'), true)
FROM pg_catalog.pg_replication_slots AS s JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.active_pid
WHERE s.slot_name = %s AND a.pid = %s
"""


class Stream:
    """One walsender connection."""

    def __init__(self, connection: psycopg.Connection[Any], source: WalSource) -> None:
        self._pgconn = connection.pgconn
        self._source = source
        self._received = 0
        self._sent_acknowledged = -1
        self._sent_at = 0.0
        self._asked_at: float | None = None
        #: Set where the server says that it has no time to answer.
        self._probe: threading.Event | None = None
        self._heard_at = self._counted_at = time.monotonic()
        #: Transactions since that was counted, and whether there were many.
        self._commits = 0
        self._is_busy = False

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
            self._let_more_come()
        self._finish()

    def _let_more_come(self) -> None:
        """Under load: to wake two threads for each transaction takes more of the processor than handling it."""
        now = time.monotonic()
        if now - self._counted_at >= RATE_SECONDS:
            self._is_busy = self._commits >= BUSY_RATE * (now - self._counted_at)
            self._commits, self._counted_at = 0, now
        if self._is_busy and not self._source._queue.full:
            time.sleep(LINGER_SECONDS)
            self._pgconn.consume_input()

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
        """Take what libpq has, as far as the queue has space."""
        while not self._source._queue.full:
            taken: list[Item] = []
            try:
                ended = self._take_some(taken)
            finally:  # what counts as taken is not sent again
                if taken:
                    self._source._queue.put(taken)
            if ended:
                return

    def _take_some(self, taken: list[Item]) -> bool:
        """Take what libpq has, up to a bound; gives whether that was all."""
        source, get, now = self._source, self._pgconn.get_copy_data, time.monotonic()
        for _ in range(TAKEN_AT_ONCE):
            size, data = get(1)
            if size == 0:
                return True
            if size < 0:
                result = self._get_result()
                raise psycopg.OperationalError("the server ended the stream") if result is None else _error(result)
            self._heard_at, self._asked_at, self._probe = now, None, None
            received = parse(data)
            if isinstance(received, LogicalMessage):
                taken += source.take_message(received)
            elif isinstance(received, Begin):
                source.begin(received)
            elif isinstance(received, Commit):
                taken += source.take_commit(received)
                self._received = max(self._received, received.end_lsn)
                self._commits += 1
            elif isinstance(received, Keepalive):
                self._received = max(self._received, received.wal_end)
                if received.reply_wanted:
                    self._send_status(reply_wanted=False)
        return False

    def _send_due(self) -> None:
        now = time.monotonic()
        source = self._source
        paused = source._queue.full
        if self._asked_at is not None and not paused:
            self._asked_at = self._still_waiting(self._asked_at, now)
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

    def _still_waiting(self, asked_at: float, now: float) -> float:
        """Since when the answer to a heartbeat is waited for.

        :raises psycopg.OperationalError: where it is no longer waited for.
        """
        waited, limit = now - asked_at, self._source._timeout
        if waited > limit:
            # Where the server says that it is decoding, it answers when it has time for that.
            if self._probe is None or not self._probe.is_set() or now - self._heard_at > self._source.longest_silence:
                raise psycopg.OperationalError(f"no answer to the heartbeat within {limit:g} s")
            asked_at, self._probe = now, None
        elif waited > limit * PROBE_AFTER and self._probe is None:
            self._probe = self._ask_whether_decoding()
        return asked_at

    def _ask_whether_decoding(self) -> threading.Event:
        """Gives what is set as soon as the server says that the walsender works its way through the log.

        It then looks at what it is sent only after half of `wal_sender_timeout`. In a thread of its own: on a network
        that is dead, not even the attempt to connect ends soon.
        """
        source, pid, decoding = self._source, self._pgconn.backend_pid, threading.Event()

        def ask() -> None:
            with contextlib.suppress(Exception), limited(source._connect(), source._timeout) as (connection, _):
                if connection.execute(_IS_DECODING, [source._group, pid]).fetchone() == (True,):
                    decoding.set()

        threading.Thread(target=ask, name="sqlalchemy-watch-probe", daemon=True).start()
        return decoding

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
            limit = source._timeout * (PROBE_AFTER if self._probe is None else 1.0)
            seconds = min(seconds, limit - (now - self._asked_at))
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


def sender_timeout(connection: psycopg.Connection[Any]) -> float:
    """After how many seconds of silence the server ends the connection."""
    row = connection.execute(
        "SELECT setting::bigint / 1000.0 FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'"
    ).fetchone()
    return float(row[0]) if row is not None and row[0] else math.inf  # 0 is no limit


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


def _quoted_list(name: str) -> sql.Composable:
    return sql.Literal('"' + name + '"')


def _error(result: Any) -> psycopg.Error:
    return errors.error_from_result(result)
