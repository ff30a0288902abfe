"""A limit in seconds for queries made through psycopg's own blocking calls.

A server that stops answering in the middle of them would hold the thread for ever: a blocking call has no
timeout of its own. Shutting the socket down ends it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import psycopg


class Watchdog:
    """Cuts a connection unless `pat()` is called often enough, while a `with` block runs."""

    def __init__(self, connection: psycopg.Connection[Any], seconds: float) -> None:
        # A descriptor of its own: the connection may be closed meanwhile, and its number be another file's.
        self._socket = _duplicate(connection.pgconn.socket)
        self._seconds = seconds
        self._wake = threading.Condition()
        self._pats = 0
        self._done = False
        self._thread = threading.Thread(target=self._run, name="sqlalchemy-watch-watchdog", daemon=True)

    def pat(self) -> None:
        """Something was answered: the time starts anew."""
        with self._wake:
            self._pats += 1
            self._wake.notify_all()

    def bite(self) -> None:
        """Cut the connection now."""
        with self._wake:
            self._done = True
            self._wake.notify_all()
            self._cut()

    def disown(self) -> None:
        """In a forked child: let go of the parent's socket."""
        let_go(self._socket.fileno())

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._wake:
            self._done = True
            self._wake.notify_all()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        with self._wake:
            while not self._done:
                seen = self._pats
                if not self._wake.wait(self._seconds) and not self._done and self._pats == seen:
                    self._done = True
                    self._cut()

    def _cut(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is gone already
            pass


@contextlib.contextmanager
def limited(connection: psycopg.Connection[Any], seconds: float) -> Iterator[tuple[psycopg.Connection[Any], Watchdog]]:
    """A connection with its watchdog, closed at the end whatever state it is in."""
    with contextlib.closing(connection), Watchdog(connection, seconds) as watchdog:
        yield connection, watchdog


def let_go(descriptor: int | None) -> None:
    """In a forked child: give up a socket of the parent's without a byte being sent.

    Closing it would not do: the object it belongs to may use its number once more, for another file by then.
    """
    if descriptor is not None and descriptor >= 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, descriptor)
        os.close(null)


def _duplicate(descriptor: int) -> socket.socket:
    if os.name == "nt":
        return socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)
    return socket.socket(fileno=os.dup(descriptor))
