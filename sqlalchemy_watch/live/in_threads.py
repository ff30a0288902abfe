"""`LiveQuery`: results of a query as they change, as a signal."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple, overload

import blinker
from blinker import ANY
from sqlalchemy import Engine, Executable, Row
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import TypedReturnsRows

from ..aio import is_async
from ..errors import ConfigurationError, ListenerError
from ..signals.coroutines import is_coroutine_function
from ..signals.receivers import function_name
from .observing import Run
from .query import MOST_RUNS, Options, Query, Rows, statement_of

log: logging.Logger = logging.getLogger(__name__)

R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)
Ts = TypeVarTuple("Ts")


class ChangedReceiver(Protocol[R_contra]):
    """A receiver of `LiveQuery.changed`."""

    def __call__(self, query: Any, result: R_contra, /) -> Any:
        """Take a result."""


class FailedReceiver(Protocol):
    """A receiver of `LiveQuery.failed`."""

    def __call__(self, query: Any, error: BaseException, /) -> Any:
        """Hear what the query raised."""


class LiveQuery(Generic[R]):
    """A query whose results are sent as a signal: the first at once, then each that differs from the one before::

        orders = LiveQuery(sessionmaker, select(Order).where(Order.customer_id == 42))

        @orders.changed.connect
        def show(query: LiveQuery, rows: list[Row]) -> None: ...

    The synchronous twin of `live()`, which says what it hears, and takes the same parameters but for `share`; the query
    is a SELECT, or a function of a `Session`. It begins when the first receiver is connected to `changed`, and goes on
    until `close()`, or the end of its `with` block, whoever else refers to it.

    Receivers are called as `receiver(query, result)`, in threads of the library (a few for all live queries), never two
    of one query at once. One that raises is logged, and stops neither the others nor the query.

    :param factory: makes sessions, of the primary server: a `sessionmaker`.
    :raises ConfigurationError: as `live()` does.
    """

    @overload
    def __init__(
        self: LiveQuery[list[Row[*Ts]]], factory: Callable[[], Session], query: TypedReturnsRows[*Ts], *,
        min_interval: float = ..., every: float | None = ..., tables: Iterable[Any] = ..., narrow: bool = ...,
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self, factory: Callable[[], Session], query: Callable[[Session], R], *,
        min_interval: float = ..., every: float | None = ..., tables: Iterable[Any] = ..., narrow: bool = ...,
    ) -> None: ...  # fmt: skip

    def __init__(
        self,
        factory: Callable[[], Session],
        query: Any,
        *,
        min_interval: float = 0.1,
        every: float | None = None,
        tables: Iterable[Any] = (),
        narrow: bool = True,
    ) -> None:
        if is_async(factory, "async_sessionmaker", "AsyncEngine"):
            raise ConfigurationError("LiveQuery: give a sessionmaker; for an async_sessionmaker there is live()")
        if isinstance(factory, Engine) or not callable(factory):
            raise ConfigurationError(f"LiveQuery: {factory!r} makes no sessions: give sessionmaker(engine)")
        if is_coroutine_function(getattr(query, "func", query)):
            name = function_name(query)
            raise ConfigurationError(f"LiveQuery: {name} is a coroutine function: for these there is live()")
        options = Options.of("LiveQuery", min_interval, every, tables, narrow)
        statement = statement_of("LiveQuery", query)
        load = query if statement is None else Rows(statement)
        self._query = ThreadQuery(factory, load, statement, options, self._send, self._fail)
        self._lock = threading.Lock()
        self._is_started = False
        #: Sent when the result differs. What is connected first begins the query.
        self.changed: ResultSignal[ChangedReceiver[R]] = ResultSignal(
            "Sent when the result of a live query differs.", self._start
        )
        #: Sent with what the query raised, beside a log message.
        self.failed: ResultSignal[FailedReceiver] = ResultSignal("Sent when a live query has failed.")

    @property
    def result(self) -> R | None:
        """The newest result; None before the first."""
        found: R | None = self._query.result
        return found

    def _start(self) -> None:
        with self._lock:
            if self._query.is_ended:
                raise ListenerError("LiveQuery: it was closed, or its listener has stopped: make another one")
            if not self._is_started:
                self._query.begin()
                self._is_started = True

    def close(self) -> None:
        """Run no more. A run that is under way is waited for, unless a receiver calls this."""
        self._query.close()

    def __enter__(self) -> LiveQuery[R]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _send(self, result: R) -> None:
        _call_all(self.changed, self, result)

    def _fail(self, error: BaseException) -> None:
        log.error("a live query failed", exc_info=error)
        _call_all(self.failed, self, error)


F = TypeVar("F", bound=Callable[..., Any])


class ResultSignal(blinker.Signal, Generic[F]):
    """A signal of a live query, typed by its receivers.

    :param connected: called when a receiver was connected.
    """

    def __init__(self, doc: str, connected: Callable[[], None] = lambda: None) -> None:
        super().__init__(doc)
        self._connected = connected

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = False) -> F:  # type: ignore[override]
        """Connect a receiver, and return it: a decorator as well.

        :param weak: disconnect the receiver when nothing else refers to it.
        :raises ConfigurationError: for a coroutine function.
        :raises ListenerError: where no running listener hears the tables of the query, and where it has ended.
        """
        if is_coroutine_function(receiver):
            raise ConfigurationError(
                f"LiveQuery: {function_name(receiver)} is a coroutine function, and its receivers run in threads: give "
                f"a plain one, or use live()"
            )
        super().connect(receiver, sender, weak)
        try:
            self._connected()
        except BaseException:
            self.disconnect(receiver, sender)
            raise
        return receiver


def _call_all(signal: blinker.Signal, query: LiveQuery[Any], argument: Any) -> None:
    for receiver in list(signal.receivers_for(query)):
        try:
            receiver(query, argument)
        except BaseException:  # SystemExit, too, ends no thread here
            log.exception("receiver %s of a live query failed", function_name(receiver))


class ThreadQuery(Query[R]):
    """A query that runs in the library's threads.

    :param send: called with each result that differs.
    :param fail: called with what the query raised.
    """

    def __init__(
        self, factory: Callable[[], Session], load: Callable[[Session], R], statement: Executable | None,
        options: Options, send: Callable[[R], None], fail: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        super().__init__(statement, options)
        self._factory, self._load, self._send, self._fail = factory, load, send, fail
        #: Held while it runs.
        self._running = threading.RLock()

    def _schedule(self, delay: float, ticket: int) -> None:
        _workers.schedule(time.monotonic() + delay, self, ticket)

    def run_if_due(self, ticket: int) -> None:
        """Run it, if that is due."""
        with self._running:
            if self.is_due(ticket):
                self.context.run(self._run)

    def _run(self) -> None:
        error: BaseException | None = None
        run = Run(self.dependencies)
        try:
            self.start()
            with self._factory() as session:
                self.execute(session, self._load, run)
        except BaseException as raised:
            error = self.error_that_counts(raised, run)
        if run.is_new:
            self._send(self.result)
        if self.finish(error, is_connected=run.is_connected) and error is not None:
            self._fail(error)

    def end(self) -> None:
        """Run no more. Called in any thread."""
        super().end()
        _workers.forget(self)

    def close(self) -> None:
        """Run no more, and wait for the run that is under way; not in a receiver, which it may be waiting for."""
        self.end()
        if not _is_worker():
            with self._running:
                pass


def _is_worker() -> bool:
    return threading.current_thread().name == THREAD_NAME


THREAD_NAME = "sqlalchemy-watch live queries"


class _Workers:
    """The threads in which queries run when they are due. There are some as long as anything is to be run."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, ThreadQuery[Any], int]] = []
        self._numbers = itertools.count()
        self._threads = 0
        #: For each thread that waits, and that nobody has woken.
        self._idle: list[object] = []

    def schedule(self, at: float, query: ThreadQuery[Any], ticket: int) -> None:
        """Run a query at a time of `time.monotonic()`, if it is due then, in place of what was scheduled for it."""
        with self._changed:
            self._remove(query)
            heapq.heappush(self._due, (at, next(self._numbers), query, ticket))
            if self._idle:
                self._idle.pop()
                self._changed.notify()
            elif self._threads < MOST_RUNS:
                self._threads += 1
                threading.Thread(target=self._work, name=THREAD_NAME, daemon=True).start()

    def forget(self, query: ThreadQuery[Any]) -> None:
        """Run a query no more."""
        with self._changed:
            self._remove(query)
            self._idle.clear()
            self._changed.notify_all()

    def _remove(self, query: ThreadQuery[Any]) -> None:
        kept = [each for each in self._due if each[2] is not query]
        if len(kept) < len(self._due):
            heapq.heapify(kept)
            self._due = kept

    def _work(self) -> None:
        while (found := self._next()) is not None:
            query, ticket = found
            query.run_if_due(ticket)

    def _next(self) -> tuple[ThreadQuery[Any], int] | None:
        with self._changed:
            while self._due:
                wait = self._due[0][0] - time.monotonic()
                if wait <= 0:
                    _, _, query, ticket = heapq.heappop(self._due)
                    return query, ticket
                mark = object()
                self._idle.append(mark)
                self._changed.wait(wait)
                if mark in self._idle:  # it has woken by itself
                    self._idle.remove(mark)
            self._threads -= 1
            return None


_workers = _Workers()


def _begin_anew() -> None:
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
