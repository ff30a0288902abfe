"""One connection to a walsender: carries bytes to the protocol and back, and waits. No decision is made here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
from psycopg import errors, generators, sql
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from ..pipeline.gate import Gate
from ..pipeline.inbox import Inbox, Lot
from ..source import Poller, Wake
from .answers import is_readable, next_result
from .large import LargePieces
from .messages import parse_lsn
from .monitor import Look, SlotMonitor
from .protocol import ACKNOWLEDGE_INTERVAL, WalCore
from .slots import PUBLICATION
from .takeover import Log, parse_history

#: Seconds that the server gets at the end to note the last acknowledgement; in the middle of a large transaction
#: it sends the rest of that first.
FINISH_SECONDS = 0.5

#: Pieces that are taken together: of short transactions each has three.
PIECES_AT_ONCE = 192

#: Seconds between looks at what is acknowledged, and at the clock.
LOOK_SECONDS = 0.25

#: Bytes that libpq's buffer, of 16 kB at first, holds as soon as it has met a larger piece.
FIRST_BUFFER = 16_384

#: From so many transactions per second on, measured over so many seconds, several are read at once, which come
#: later by that long.
BUSY_RATE = 4_000
RATE_SECONDS = 0.02
LINGER_SECONDS = 0.001

_START = "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {}, messages 'true')"


def read_log(connection: psycopg.Connection[Any]) -> Log:
    """Ask a walsender whose log it sends."""
    system, timeline, written = _ask(connection, "IDENTIFY_SYSTEM")[:3]
    ancestors: Mapping[int, int] = {}
    if int(timeline) > 1:
        try:
            ancestors = parse_history(_ask(connection, f"TIMELINE_HISTORY {timeline}")[1])
        except psycopg.DatabaseError as error:
            if error.sqlstate is None:
                raise
            # The server has no such file: nothing is known to be shared.
    return Log(system, int(timeline), parse_lsn(written), ancestors)


def _ask(connection: psycopg.Connection[Any], command: str) -> list[str]:
    """Return the row that answers, as it is: the words in a history file may be of another encoding."""
    result = _command(connection, command)
    return [bytes(result.get_value(0, column) or b"").decode(errors="replace") for column in range(result.nfields)]


def _command(connection: psycopg.Connection[Any], command: str) -> PGresult:
    connection.pgconn.send_query(command.encode())
    result: PGresult = connection.wait(generators.execute(connection.pgconn))[-1]
    if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        raise errors.error_from_result(result)
    return result


def start_replication(
    connection: psycopg.Connection[Any], slot: str, seconds: float, decoding_memory: str | None
) -> None:
    """Have a walsender send the slot's log, from where that is acknowledged.

    :param decoding_memory: for a transaction's changes, before it writes them to disk; as PostgreSQL spells a size.
    :raises psycopg.errors.ObjectInUse: while another consumer is active.
    """
    pgconn = connection.pgconn
    if decoding_memory is not None:
        # By hand: a walsender knows no parameters.
        _command(connection, f"SET logical_decoding_work_mem = '{decoding_memory}'")
    names = sql.Literal('"' + PUBLICATION + '"')
    pgconn.send_query(sql.SQL(_START).format(sql.Identifier(slot), names).as_bytes(None))
    pgconn.flush()
    result = next_result(pgconn, seconds)
    if result is None or result.status == ExecStatus.COPY_BOTH:
        return
    while next_result(pgconn, seconds) is not None:
        pass
    raise errors.error_from_result(result)


class WalSession:
    """Reads a slot over one connection, once that is started, until stopped or lost.

    :param seconds: the time for the server to say why it ended the stream.
    :param on_sent: told of each position that is acknowledged to the server, whether or not it arrives there.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        core: WalCore,
        inbox: Inbox,
        gate: Gate,
        wake: Wake,
        monitor: SlotMonitor,
        seconds: float,
        on_sent: Callable[[int], None],
    ) -> None:
        self._pgconn, self._core, self._inbox, self._gate = connection.pgconn, core, inbox, gate
        self._ledger = gate.ledger
        self._wake, self._monitor, self._seconds, self._on_sent = wake, monitor, seconds, on_sent
        self._socket = self._pgconn.socket
        self._reading = Poller([wake.fileno(), self._socket])
        self._paused = Poller([wake.fileno()], ending=[self._socket])
        #: The monitor is looking.
        self._look: Look | None = None
        #: The look that is to tell whether this process is the active consumer still.
        self._asked_in_doubt: Look | None = None
        self._rate = _Rate()
        #: True while it waits for space.
        self._is_starved = False
        self._large = LargePieces(self._pgconn, core.pass_over)
        #: True once there was a piece larger than libpq's buffer is at first.
        self._had_large = False

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Read until stopped, and then let go of the slot.

        :raises psycopg.Error: where the connection is lost.
        :raises Silent: where the server is silent for too long.
        """
        try:
            while not (is_stopping() or self._ledger.is_abandoned):
                self._take_all()
                self._send_due()
                self._wait()
                if self._rate.is_busy(time.monotonic(), self._core.commits) and not self._is_full:
                    # To wake two threads for each transaction takes more of the processor than handling it.
                    time.sleep(LINGER_SECONDS)
                    self._pgconn.consume_input()
        finally:
            if self._look is not None:
                self._monitor.forget(self._look)
        self._finish()

    def note_progress(self) -> None:
        """Have it read on, or acknowledge, if that is worth it; called by whoever is through with something."""
        if not self._is_starved or self._ledger.is_abandoned or (self._inbox.is_low and self._ledger.is_low):
            self._wake.nudge()

    @property
    def _is_full(self) -> bool:
        return self._inbox.is_full or self._ledger.is_full

    def _take_all(self) -> None:
        """Take the messages that libpq has, as far as there is space."""
        while not self._is_full:
            try:
                is_all = self._take_some()
            finally:  # whatever counts as taken is not sent again
                self._hand_on()
            if is_all:
                return
            self._send_due()

    def _hand_on(self) -> None:
        self._core.cut()
        parts, notifications, size = self._core.take()
        if parts:
            self._ledger.begin(parts, time.monotonic())
            self._inbox.put(Lot(self._ledger, parts, notifications, size))

    def _take_some(self) -> bool:
        """Take messages, up to a bound; return True if those were all."""
        core, get, now = self._core, self._pgconn.get_copy_data, time.monotonic()
        receive, heard = core.receive, False
        for number in range(PIECES_AT_ONCE):
            # A large piece has not arrived whole the first time, unless libpq's buffer is large already.
            size, data = get(1) if number and not self._had_large else self._large.take()
            if size <= 0:
                if heard:
                    core.liveness.hear(now)
                if size < 0:
                    raise self._ended()
                return True
            heard = True
            self._had_large = self._had_large or size > FIRST_BUFFER
            if data:  # otherwise it was passed over
                receive(data, now)
        core.liveness.hear(now)
        return False

    def _ended(self) -> psycopg.Error:
        result = next_result(self._pgconn, self._seconds)
        if result is None:
            return psycopg.OperationalError("the server ended the stream")
        return errors.error_from_result(result)

    def _send_due(self) -> None:
        core, now = self._core, time.monotonic()
        self._look_at_gate(now)
        core.liveness.pause(self._is_full, now)
        if self._look is not None and self._look.seen is not None:
            seen, was_in_doubt = self._look.seen, self._look is self._asked_in_doubt
            self._look = None
            if was_in_doubt:
                if not seen.is_ours:
                    raise psycopg.OperationalError("the slot was given to another one meanwhile")
                self._asked_in_doubt = None
                self._gate.trust()
            core.liveness.see(seen, now)
        if self._look is not None and self._look.is_refused:
            core.liveness.refuse()
        self._note_acknowledged()
        status = core.send(now)
        if status is not None:
            self._send(status)
        if core.liveness.wants_look(now):
            self._look = self._monitor.look_at(self._pgconn.backend_pid, self._wake.set)

    def _note_acknowledged(self) -> None:
        ledger = self._ledger
        ledger.settle()
        self._core.acknowledge(ledger.acknowledged, is_idle=ledger.is_idle)

    def _look_at_gate(self, now: float) -> None:
        """Ask whether the slot is ours still, where the process was suspended: what tells of that comes at the end."""
        self._gate.look(now)
        if not self._gate.is_doubted:
            self._gate.looked_at = now
        elif self._asked_in_doubt is None:  # an answer from before does not count
            if self._look is not None:
                self._monitor.forget(self._look)
            self._look = self._asked_in_doubt = self._monitor.look_at(self._pgconn.backend_pid, self._wake.set)

    def _send(self, status: bytes) -> None:
        self._on_sent(self._core.sent)
        self._pgconn.put_copy_data(status)
        self._pgconn.flush()

    def _wait(self) -> None:
        core, now = self._core, time.monotonic()
        self._wake.is_wanted = True  # before looking, so that nothing is missed in between
        self._note_acknowledged()
        is_full = self._is_starved = self._is_full
        if core.has_news and not is_full:
            self._wake.is_wanted = False  # it looks in a moment anyway
        seconds = max(0.0, min(core.deadline(now) - now, ACKNOWLEDGE_INTERVAL if is_full else LOOK_SECONDS))
        ready = (self._paused if is_full else self._reading).wait(seconds)
        if self._wake.fileno() in ready:
            self._wake.drain()
        if self._socket in ready:
            if is_full:
                raise psycopg.OperationalError("the server ended the connection")
            self._pgconn.consume_input()

    def _finish(self) -> None:
        """Send the last acknowledgement, and wait until the server has read it and let go of the slot.

        A connection closed while something unread lies in it is reset, and what the server has not read is lost.
        """
        now = time.monotonic()
        self._note_acknowledged()
        self._send(self._core.status(now))
        self._pgconn.put_copy_end()
        self._pgconn.flush()
        deadline = now + FINISH_SECONDS
        ended = False
        while time.monotonic() < deadline:
            try:
                size = 0 if ended else self._large.take()[0]
            except psycopg.Error:  # the stream has ended, and libpq has noticed
                size = -1
            ended = ended or size < 0
            if ended and not self._pgconn.is_busy():
                return
            if size == 0:
                if not is_readable(self._pgconn, deadline - time.monotonic()):
                    return
                self._pgconn.consume_input()


class _Rate:
    """Measures the number of transactions per second."""

    def __init__(self) -> None:
        self._counted_at, self._counted = time.monotonic(), 0
        self._is_busy = False

    def is_busy(self, now: float, commits: int) -> bool:
        """Return True if there are, given the number of transactions so far."""
        if now - self._counted_at >= RATE_SECONDS:
            self._is_busy = commits - self._counted >= BUSY_RATE * (now - self._counted_at)
            self._counted_at, self._counted = now, commits
        return self._is_busy
