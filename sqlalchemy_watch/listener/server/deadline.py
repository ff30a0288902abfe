"""A limit in seconds for each query made through psycopg's own blocking calls.

A server that stops answering in the middle of a query would hold the thread for ever: a blocking call has no timeout
of its own. psycopg waits by running a generator that says what it waits for, and resumes it at least ten times a
second. The limit stands between the two, and so needs no thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")


class Unanswered(psycopg.OperationalError):
    """Raised where a query took too long, or `stop()` was called meanwhile; the connection is of no more use."""


def limit_queries(connection: psycopg.Connection[Any], seconds: float, stopping: threading.Event | None = None) -> None:
    """Have every query of this connection raise `Unanswered` after so many seconds, or once `stopping` is set."""

    def wait(generator: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        return type(connection).wait(connection, _limited(generator, seconds, stopping), *args, **kwargs)

    vars(connection)["wait"] = wait


def _limited(
    generator: Generator[Any, Any, T], seconds: float, stopping: threading.Event | None
) -> Generator[Any, Any, T]:
    deadline = time.monotonic() + seconds
    ready: Any = None
    while True:
        try:
            wanted = generator.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
        # Whatever came has been handled by now. psycopg 3.2.10 is no help there: its loop in C always says "ready".
        if ready is not None:
            if stopping is not None and stopping.is_set():
                raise Unanswered("the listener was stopped meanwhile")
            if time.monotonic() >= deadline:
                raise Unanswered(f"no answer from the server within {seconds:g} s")
        ready = yield wanted
