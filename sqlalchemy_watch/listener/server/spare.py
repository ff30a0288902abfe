"""Connections that are kept for the next use: opening one takes longer than most of what is done with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg

from .connect import Connect

# What was acknowledged must not be lost with the server, as without this setting the last moment's commits would be.
_DURABLE = (
    "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) "
    "WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
)

#: Connections that are kept while nobody uses them.
MOST_IDLE = 2


class Spare:
    """Connections in autocommit, for one user at a time each."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        #: Changed by any thread, an element at a time.
        self._idle: list[psycopg.Connection[Any]] = []
        self._is_over = False

    @contextlib.contextmanager
    def use(self) -> Iterator[psycopg.Connection[Any]]:
        """Give a connection for the block; one in which the block raised is closed."""
        connection = self._take() or self._open()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self._is_over or len(self._idle) >= MOST_IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def end(self) -> None:
        """Keep none any more."""
        self._is_over = True
        self.close()

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()

    def _open(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        try:
            connection.execute(_DURABLE)
        except BaseException:
            connection.close()
            raise
        return connection

    def _take(self) -> psycopg.Connection[Any] | None:
        """Return one that the server has not closed meanwhile; None without any."""
        while self._idle:
            with contextlib.suppress(IndexError, psycopg.Error):
                connection = self._idle.pop()
                connection.pgconn.consume_input()
                return connection
        return None
