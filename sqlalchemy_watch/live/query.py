"""A query that is run again: when it is due, and whether its result differs. It waits for nothing itself."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Executable, Table
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session

from ..declaring.targets import tables_of
from ..errors import ConfigurationError, one_line
from .compare import equal, image
from .observing import FORBIDDEN, SNAPSHOT, Dependencies, Run, is_passing

log: logging.Logger = logging.getLogger(__name__)

R = TypeVar("R")

#: Runs at once: of the live queries of an event loop, and of those that run in threads. The others of a pool's
#: connections are the application's.
MOST_RUNS = 4

#: Seconds before a run is tried again whose connection failed: the first time, and at most.
FIRST_BACKOFF, MOST_BACKOFF = 0.1, 5.0

#: Seconds for which a run may take. A connection that is frozen would never answer, and the query would be stale.
MOST_SECONDS = 60.0

#: Seconds after which a failure that should pass is told to whoever waits.
TOLD_AFTER = 10.0


@dataclass(frozen=True)
class Options:
    """The options of a live query, checked."""

    min_interval: float
    every: float | None
    tables: tuple[Table, ...] | None
    narrow: bool

    @classmethod
    def of(cls, owner: str, min_interval: object, every: object, tables: Iterable[Any], narrow: object) -> Options:
        """Return the options.

        :raises ConfigurationError: for values out of range.
        """
        if not _is_number(min_interval) or min_interval < 0:  # type: ignore[operator]
            raise ConfigurationError(f"{owner}: min_interval must be seconds from 0 on, not {min_interval!r}")
        if every is not None and not (_is_number(every) and every > 0):  # type: ignore[operator]
            raise ConfigurationError(f"{owner}: every must be seconds above 0, or None, not {every!r}")
        if not isinstance(narrow, bool):
            raise ConfigurationError(f"{owner}: narrow must be True or False, not {narrow!r}")
        return cls(float(min_interval), every, _tables(owner, tables) or None, narrow)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value < float("inf")


def _tables(owner: str, targets: Iterable[Any]) -> tuple[Table, ...]:
    if isinstance(targets, (str, type, Table)):
        raise ConfigurationError(f"{owner}: tables must be several models or Tables: write tables=({targets!r},)")
    return tuple(dict.fromkeys(table for target in targets for table in tables_of(target)))


def statement_of(owner: str, query: Any) -> Executable | None:
    """Return the query, if it is a statement; None for a function.

    :raises ConfigurationError: for what is neither.
    """
    if isinstance(query, Executable):
        if not getattr(query, "is_select", False):
            raise ConfigurationError(FORBIDDEN.format(type(query).__name__))
        return query
    if isinstance(query, (type, Table)):
        name = query.name if isinstance(query, Table) else query.__name__
        raise ConfigurationError(f"{owner}: {name} is no query: write select({name})")
    if not callable(query):
        raise ConfigurationError(f"{owner}: {query!r} is neither a SELECT nor a function of a session")
    return None


class Query(ABC, Generic[R]):
    """One query, and its newest result.

    :param statement: where it is one.
    :raises ConfigurationError: for what can't be a live query.
    """

    def __init__(self, statement: Executable | None, options: Options) -> None:
        self._options = options
        self.dependencies: Dependencies = Dependencies(self, options.tables, options.every is not None, options.narrow)
        #: What the session is to be told of its connection.
        self.bind_arguments: dict[str, Any] = {} if statement is None else {"clause": statement}
        if statement is not None:
            self.dependencies.expect(statement)
        self._context = contextvars.copy_context()
        self._lock = threading.RLock()
        self._is_dirty = self._is_running = self._has_overrun = False
        self.is_ended: bool = False
        #: Which of the calls of `_schedule` counts.
        self._ticket = 0
        self._started_at = float("-inf")
        self._failures, self._failing_since = 0, 0.0
        #: The number of results that differed.
        self.version: int = 0
        #: True where an error was told last. The error itself is not kept, whose traceback holds whoever iterates.
        self.has_failed: bool = False
        self._image: Any = None
        self._result: R | None = None

    @property
    def context(self) -> contextvars.Context:
        """The context variables of whoever asked for it, for one run."""
        return self._context.copy()

    @property
    def most_seconds(self) -> float:
        """For which a run may take."""
        return MOST_SECONDS

    @property
    def is_idle(self) -> bool:
        """True while it neither runs nor is to be run, but for its time."""
        return not (self._is_dirty or self._is_running)

    @property
    def result(self) -> R:
        """The newest result; before the first there is none."""
        return self._result  # type: ignore[return-value]

    def begin(self) -> None:
        """Hear of what is known to be read, and have the first run scheduled.

        :raises ListenerError: where no running listener hears of it.
        """
        self.dependencies.begin()
        self.mark()

    def mark(self) -> None:
        """Have it run again. Called in any thread."""
        with self._lock:
            self._look_at_the_run()
            if self._is_dirty or self.is_ended:
                return
            self._is_dirty = True
            if not self._is_running:
                self._schedule_run(0)

    def _look_at_the_run(self) -> None:
        """Say so, once, where a run does not come to its end: what changes meanwhile is not told."""
        seconds = time.monotonic() - self._started_at
        if self._is_running and not self._has_overrun and MOST_SECONDS < seconds < float("inf"):
            self._has_overrun = True
            log.warning(
                "a live query has been running for %.0f s, and tells of no change meanwhile: if its connection is "
                "frozen, give the engine tcp_user_timeout and keepalives (connect_args)", seconds,
            )  # fmt: skip

    def end(self) -> None:
        """Run no more, and hear of nothing. Called in any thread."""
        with self._lock:
            self.is_ended = True
            self._ticket += 1
        self.dependencies.end()

    def _schedule_run(self, delay: float) -> None:
        due = self._started_at + self._options.min_interval - time.monotonic()
        self._ticket += 1
        self._schedule(max(delay, due, 0), self._ticket)

    @abstractmethod
    def _schedule(self, delay: float, ticket: int) -> None:
        """Have `is_due` asked in so many seconds, and the query run if that is true, in place of what was scheduled.

        Called in any thread.
        """

    def is_due(self, ticket: int) -> bool:
        """Return True if it is to be run now; until `finish` then, nobody else is told so."""
        with self._lock:
            if ticket != self._ticket or self._is_running or self.is_ended:
                return False
            self._is_running = True
            return True

    def execute(self, session: Session, load: Callable[[Session], R], run: Run) -> None:
        """Run it with a session, and take the result."""
        run.begin(session)
        run.observe(session.connection(bind_arguments=self.bind_arguments, execution_options=SNAPSHOT))
        self.take(load(session), run)

    def start(self) -> None:
        """Note that a run begins: what comes from here on is not in it."""
        with self._lock:
            self._is_dirty = self._has_overrun = False
            self._started_at = time.monotonic()

    def take(self, result: R, run: Run) -> None:
        """Take the result of a run, and note in that whether it differs from what was told before.

        :raises ConfigurationError: for one that can be read once alone.
        """
        run.check(result)
        run.is_whole = True
        self.dependencies.keep(run.reads)
        with self._lock:
            self._failures = 0
            self._is_dirty |= run.is_late
            has_failed, self.has_failed = self.has_failed, False
        new = image(result)
        if self.version and not has_failed and equal(self._image, new):
            return
        self._result, self._image = result, new
        self.version += 1
        run.is_new = True

    def error_that_counts(self, error: BaseException, run: Run) -> BaseException | None:
        """Return the error of a run; None for one of a connection that broke when all had been read."""
        return None if run.is_whole and is_passing(error, True) else error

    def finish(self, error: BaseException | None = None, *, is_connected: bool = True) -> bool:
        """Note that a run has ended.

        :param is_connected: False where the error was raised in connecting.
        :returns: True for an error that is to be told. One that passes is told once it has gone on for a while.
        """
        is_told, delay = error is not None, 0.0
        with self._lock:
            self._is_running = False
            if error is not None and is_passing(error, is_connected):
                is_told, delay = self._note_failure()
            self.has_failed |= is_told
            if self.is_ended:
                return is_told
            if self._is_dirty:
                self._schedule_run(delay)
            elif self._options.every is not None:
                self._ticket += 1
                self._schedule(self._options.every, self._ticket)
        if delay:
            log.warning("live query: %s: it is run again in %.1f s", one_line(error), delay)
        return is_told

    def _note_failure(self) -> tuple[bool, float]:
        """Return True if a failure that passes is to be told by now, and the seconds until the next attempt."""
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        self._is_dirty = True
        is_told = now - self._failing_since >= TOLD_AFTER and not self.has_failed
        return is_told, min(FIRST_BACKOFF * 2 ** (self._failures - 1), MOST_BACKOFF)


class Rows:
    """Loads the rows of a statement, told apart where the statement needs that.

    A joined eager load of a collection repeats its parents, and SQLAlchemy then asks for `unique()`, which would drop
    equal rows of other statements.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._is_unique = False

    def __call__(self, session: Session) -> list[Any]:
        result = session.execute(self._statement)
        if not self._is_unique:
            try:
                return list(result.all())
            except sa_exc.InvalidRequestError:
                self._is_unique = True
                result = session.execute(self._statement)
        return list(result.unique().all())
