"""Rows that are in the log, and not yet to be seen.

A commit is in the log before its rows are visible to others: for a moment, and behind a synchronous standby that does
not answer for as long as that takes. A receiver that loads the row would get the state before. So the dispatch thread
asks first. One question does for all transactions of a burst, and none is asked where a snapshot has told already.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import ExecStatus

from ...errors import one_line
from ..server.connect import Connect
from ..xids import Snapshot
from .answers import next_result

log: logging.Logger = logging.getLogger(__name__)

#: Seconds before a transaction is asked for again, doubled each time, and the longest.
FIRST_DELAY, LONGEST_DELAY = 0.001, 1.0

#: Seconds between attempts where the server can't be asked.
RETRY_SECONDS = 0.2

#: Seconds after which somebody should know.
WARN_SECONDS = 10.0

_SNAPSHOT = b"SELECT pg_catalog.pg_current_snapshot()"


class Visibility:
    """Waits for transactions to be visible, in the dispatch thread, over a connection of its own.

    :param seconds: the time for an answer.
    :param wait: waits for some seconds, and returns False where there is nothing to wait for any more.
    """

    def __init__(self, connect: Connect, seconds: float, wait: Callable[[float], bool]) -> None:
        self._connect, self._seconds, self._wait = connect, seconds, wait
        self._connection: psycopg.Connection[Any] | None = None
        self._snapshot = Snapshot.parse("0:0:")

    def is_known(self, txid: int) -> bool:
        """Return True if the transaction is visible, as far as that is known without a question."""
        return self._snapshot.sees(txid)

    def await_visible(self, txid: int) -> bool:
        """Return True once the transaction is visible, False where there is nothing to wait for any more."""
        began, delay, is_told = time.monotonic(), FIRST_DELAY, False
        while not self._snapshot.sees(txid):
            pause = delay if self._ask() else RETRY_SECONDS
            if self._snapshot.sees(txid):
                break
            if not is_told and time.monotonic() - began >= WARN_SECONDS:
                is_told = True
                log.warning(
                    "transaction %d is in the log for %g s and not yet visible: does its COMMIT wait for a synchronous "
                    "standby? Events wait for it, see wait_visible", txid, WARN_SECONDS,
                )  # fmt: skip
            if not self._wait(pause):
                return False
            delay = min(delay * 2, LONGEST_DELAY)
        return True

    def forget(self) -> None:
        """Trust no snapshot any more: the server may be another one."""
        self._snapshot = Snapshot.parse("0:0:")
        self.close()

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _ask(self) -> bool:
        """Take a snapshot; return False where the server can't be asked."""
        try:
            connection = self._connection = self._connection or self._connect()
            connection.pgconn.send_query(_SNAPSHOT)
            connection.pgconn.flush()
            result = next_result(connection.pgconn, self._seconds, lambda: not self._wait(0.0))
            if result is None or result.status != ExecStatus.TUPLES_OK:
                raise psycopg.OperationalError("no snapshot") if result is None else errors.error_from_result(result)
            self._snapshot = Snapshot.parse((result.get_value(0, 0) or b"").decode())
            while next_result(connection.pgconn, self._seconds) is not None:
                pass
        except Exception as error:  # of psycopg, of the engine's hooks, or of the system
            log.warning("can't ask whether what was committed is visible (%s): trying again", one_line(error))
            self.close()
            return False
        return True
