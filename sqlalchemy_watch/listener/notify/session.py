"""One connection that LISTENs: carries notifications to the protocol, and waits.

Through libpq itself: psycopg's generator costs more than twice as much. Whichever thread has the turn calls `step`, one
at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.misc import PGnotify

from ..pipeline.inbox import Inbox
from ..pipeline.ledger import Ledger
from ..pipeline.parts import CaughtUp, Here
from ..source import Poller, Tokens, Wake
from ..stats import ReadingStats
from .intake import Intake
from .protocol import NotifyProtocol, Returned

#: Reads over TLS before the other thread has its turn; without, a single one.
READS_AT_ONCE = 100

_ROUND_TRIP = b"SELECT pg_catalog.pg_notify($1, $2), pg_catalog.pg_notification_queue_usage()"


class NotifySession:
    """Reads one connection.

    :param on_heartbeat: called after each round trip.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        protocol: NotifyProtocol,
        tokens: Tokens,
        wake: Wake,
        inbox: Inbox,
        ledger: Ledger,
        stats: ReadingStats,
        on_heartbeat: Callable[[], None],
    ) -> None:
        self._pgconn, self._protocol = connection.pgconn, protocol
        self._tokens, self._wake, self._stats = tokens, wake, stats
        self._inbox, self._ledger = inbox, ledger
        self._on_heartbeat = on_heartbeat
        self._intake = Intake(inbox, ledger, stats)
        self._socket = self._pgconn.socket
        self._poller = Poller([self._socket, wake.fileno()])
        #: True while there may be something that no poll tells of.
        self._is_more = False
        #: True while the result of a query is to come.
        self._is_busy = False

    def step(self, deadline: float | None) -> bool:
        """Wait for something to come or to be due, and handle it; return True if there was anything to wait for.

        :param deadline: by `time.monotonic()`: when to return even where nothing comes.
        :raises psycopg.OperationalError: where the connection is lost.
        :raises Silent: where the server is silent for too long.
        """
        self._send_due()
        ready = self._poller.wait(0.0)
        waits = not self._is_more and self._socket not in ready
        if waits and not ready:
            due = self._protocol.deadline if deadline is None else min(self._protocol.deadline, deadline)
            ready = self._poller.wait(max(0.0, due - time.monotonic()))
        if self._is_more or self._socket in ready:
            self._receive()
        if ready and ready != [self._socket]:
            self._wake.drain()
        self._protocol.check(time.monotonic())  # after reading: the process may have been suspended meanwhile
        return waits

    def take(self, arrived: list[PGnotify]) -> None:
        """Put notifications into the inbox."""
        for part in self._protocol.receive(arrived, time.monotonic()):
            if isinstance(part, Returned):
                for name in part.tokens:
                    done = self._tokens.take(name)
                    if done is not None:
                        self._inbox.put_mark(self._ledger, CaughtUp(done.set))
            elif isinstance(part, Here):
                self._inbox.put_mark(self._ledger, part)
            else:
                self._intake.take(part)

    def _send_due(self) -> None:
        now = time.monotonic()
        if not self._protocol.wants_trip(now, bool(self._tokens)):
            return
        channel, payload = self._protocol.begin_trip(self._tokens.names(), now)
        self._is_busy = True
        self._pgconn.send_query_params(_ROUND_TRIP, [channel, payload])
        self._pgconn.flush()

    def _receive(self) -> None:
        try:
            # No poll tells of what OpenSSL has decrypted already; late versions of libpq take it by themselves.
            for _ in range(READS_AT_ONCE):
                self._pgconn.consume_input()
                self._is_more = self.take_all() and self._pgconn.ssl_in_use
                if not self._is_more:
                    break
        except psycopg.Error:
            self.take_all()  # what came before the end counts
            raise
        if self._is_busy:  # libpq looks behind a result only once that is taken, and then no poll tells of it
            self._read_results()
            self.take_all()
        if self._protocol.end_trip(time.monotonic()):
            self._on_heartbeat()

    def take_all(self) -> bool:
        """Take the notifications that libpq has; return True if there were any."""
        arrived: list[PGnotify] = []
        notifies = self._pgconn.notifies
        while (notify := notifies()) is not None:
            arrived.append(notify)
        if arrived:
            self.take(arrived)
        return bool(arrived)

    def _read_results(self) -> None:
        while self._is_busy and not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                self._is_busy = False
                self._protocol.answer()
            elif result.status == ExecStatus.TUPLES_OK:
                usage = result.get_value(0, 1)
                self._stats.notify_queue_usage = float(usage) if usage is not None else None
            elif result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
