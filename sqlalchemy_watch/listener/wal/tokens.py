"""What `catch_up` of a durable listener waits for: messages of its own in the log, behind all that is committed."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from typing import Any, Final

import psycopg

from ...wire import DURABLE_PREFIX
from ..server.connect import Connect
from ..server.watchdog import limited

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between attempts to reach the server.
TOKEN_INTERVAL: Final = 0.2

_PREFIX: Final = DURABLE_PREFIX + "token"

#: As it stands in the log.
TOKEN_PREFIX: Final = _PREFIX.encode()


class Tokens:
    """The tokens that are on their way.

    :param timeout: seconds for a query.
    :param stopping: set when no more are to be sent.
    """

    def __init__(self, connect: Connect, timeout: float, stopping: threading.Event) -> None:
        self._connect, self._timeout, self._stopping = connect, timeout, stopping
        self._waiting: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def send(self, done: threading.Event, deadline: float) -> None:
        """Write one into the log; `done` is set by whoever reads it there.

        :param deadline: by `time.monotonic()`: for how long to try.
        """
        with self._lock:
            self._waiting = {token: event for token, event in self._waiting.items() if not event.is_set()}
            self._waiting[token := uuid.uuid4().hex] = done
        while not done.is_set():
            try:
                with limited(self._connect(), self._timeout) as (connection, _):
                    _emit(connection, token)
                return
            except psycopg.Error as error:
                log.debug("can't ask where the log ends: %s", error)
            if time.monotonic() + TOKEN_INTERVAL > deadline or self._stopping.wait(TOKEN_INTERVAL):
                return

    def send_again(self, connection: psycopg.Connection[Any]) -> None:
        """Those on the way may be lost: discarded, gone to another consumer, or not on a server that took over."""
        with self._lock:
            self._waiting = {uuid.uuid4().hex: done for done in self._waiting.values() if not done.is_set()}
            waiting = list(self._waiting)
        for token in waiting:
            _emit(connection, token)

    def find(self, content: bytes) -> threading.Event | None:
        """Whom a message of the log is for; None where for another process."""
        with self._lock:
            return self._waiting.get(content.decode(errors="replace"))

    def forget(self, done: threading.Event) -> None:
        """Stop waiting for it."""
        with self._lock:
            self._waiting = {token: event for token, event in self._waiting.items() if event is not done}


def _emit(connection: psycopg.Connection[Any], token: str) -> None:
    connection.execute("SELECT pg_catalog.pg_logical_emit_message(true, %s, %s)", [_PREFIX, token])
