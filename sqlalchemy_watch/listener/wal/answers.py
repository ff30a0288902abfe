"""Answers of the server, waited for through libpq itself, whose own waiting has no limit and stops every thread."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from psycopg.pq.abc import PGconn, PGresult

from ..source import Poller

#: Seconds between looks whether the answer is still wanted.
LOOK_SECONDS = 0.2


def next_result(pgconn: PGconn, seconds: float, is_over: Callable[[], bool] = lambda: False) -> PGresult | None:
    """Return the next result of a command.

    :param seconds: to wait for it.
    :param is_over: returns True once it is of no use any more.
    :raises psycopg.OperationalError: where it does not come in time, is of no use, or the connection is lost.
    """
    deadline = time.monotonic() + seconds
    while pgconn.is_busy():
        left = deadline - time.monotonic()
        if not is_readable(pgconn, min(left, LOOK_SECONDS)):
            if left <= 0:
                raise psycopg.OperationalError(f"no answer from the server within {seconds:g} s")
            if is_over():
                raise psycopg.OperationalError("the listener was stopped meanwhile")
            continue
        pgconn.consume_input()
    return pgconn.get_result()


def is_readable(pgconn: PGconn, seconds: float) -> bool:
    """Return True once the server has sent something, False where it has not within these seconds."""
    return bool(Poller([pgconn.socket]).wait(max(0.0, seconds)))
