"""One run of a query: in a snapshot, each statement observed before it is executed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Executable, Table, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.engine.result import FilterResult, Result
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import Compiled

from ..errors import ConfigurationError, ListenerError, sqlstate
from .index import Concerned, Subscriptions, check, moment
from .reads import Analysis, Read, reads_of, reads_of_executed, text_words

#: A transaction of several statements sees one state of the database; and it writes nothing.
SNAPSHOT: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

#: SQLSTATEs after which the same statement may succeed: of lost and refused connections, of servers that stop and
#: start, and of what a standby cancels.
_PASSING_CLASSES = ("08", "40", "53", "57P", "58")

#: asyncpg's, for a statement whose plan a migration has overtaken.
_STALE_PLAN = "InvalidCachedStatementError"

FORBIDDEN = "live(): {} can't be run again and again: give a SELECT, and write elsewhere"
UNTOLD = (
    "live(): it can't be told when the result of {} changes: leave it out, or give tables= (all models and tables that "
    "the query reads), or every= (seconds)"
)


class Dependencies:
    """The rows on which a query is said, or found, to depend.

    :param tables: instead of what is found in its statements; None for that.
    :param is_timed: True where it is run again in any case, so that not everything need be heard.
    """

    def __init__(self, query: Concerned, tables: tuple[Table, ...] | None, is_timed: bool, narrow: bool) -> None:
        self._tables, self._is_timed = tables, is_timed
        self._subscriptions = Subscriptions(query, narrow)
        #: What it reads for sure.
        self._known: tuple[Read, ...] = tuple(Read(table) for table in tables or ())
        if tables is not None and not is_timed:
            check(tables)

    def expect(self, statement: Executable) -> None:
        """Take a statement that it will run.

        :raises ConfigurationError: for one that can't be a live query.
        """
        analysis, parameters = reads_of(statement)
        self._check(analysis)
        if self._tables is None:
            self._known = tuple(analysis.reads(parameters))
        if self._must_hear_all:
            check(read.table for read in self._known)

    def begin(self) -> None:
        """Hear of all that is known before the first run.

        :raises ListenerError: where no running listener hears of it.
        """
        try:
            self._add(self._known, moment())
        except ListenerError:
            self._subscriptions.keep(())
            raise

    def look(self, context: ExecutionContext, sql: str, since: int) -> tuple[frozenset[Read], bool]:
        """Hear of what is about to be read.

        :returns: it, and True where a change of it may have been missed since that moment.
        :raises ConfigurationError: for what a live query can't run.
        """
        statement: Compiled | None = getattr(context, "compiled", None)
        if statement is None:  # `exec_driver_sql`
            self._check(Analysis((), (text_words(sql),), ()))
            return frozenset(), False
        analysis = reads_of_executed(statement)
        self._check(analysis)
        if self._tables is not None:
            return frozenset(), False
        parameters = getattr(context, "compiled_parameters", None)
        found = analysis.reads(parameters[0] if parameters else {})
        new = [read for read in found if read not in self._subscriptions]
        if new and self._must_hear_all:
            check(read.table for read in new)
        return found, self._add(new, since)

    def _check(self, analysis: Analysis) -> None:
        if analysis.forbidden:
            raise ConfigurationError(FORBIDDEN.format(", ".join(analysis.forbidden)))
        if analysis.refusals and self._must_hear_all:
            raise ConfigurationError(UNTOLD.format(", ".join(analysis.refusals)))

    def keep(self, reads: Iterable[Read]) -> None:
        """Hear of that alone which was read in a whole run."""
        if self._tables is None:
            self._subscriptions.keep(reads)

    def end(self) -> None:
        """Hear of nothing more."""
        self._subscriptions.end()

    @property
    def _must_hear_all(self) -> bool:
        return self._tables is None and not self._is_timed

    def _add(self, found: Iterable[Read], since: int) -> bool:
        missed = False
        for read in found:
            try:
                missed |= self._subscriptions.add(read, since)
            except ListenerError:
                if not self._is_timed:
                    raise
        return missed


class Run:
    """The statements of one run."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._since = 0
        self._connection: Connection | None = None
        self._has_hooks = False
        self.reads: set[Read] = set()
        #: True where something was first heard of after the snapshot was taken, and may have changed before that.
        self.is_late: bool = False
        #: True once its result was taken: what fails later is no matter.
        self.is_whole: bool = False
        #: True once it is known that its result differs.
        self.is_new: bool = False
        self._has_snapshot = False

    @property
    def is_connected(self) -> bool:
        """True once its transaction has begun."""
        return self._connection is not None

    def begin(self, session: Session) -> None:
        """Note that its transaction is about to begin.

        :raises ConfigurationError: for a session that is in the midst of one.
        """
        if session.in_transaction():
            raise ConfigurationError(
                "live(): the session is in a transaction already: give a factory that makes new ones"
            )
        self._has_hooks = bool(session.dispatch.after_begin)
        self._since = moment()

    def observe(self, connection: Connection) -> None:
        """Look at each statement from now on, right before it is executed."""
        self._connection = connection
        # A hook may have taken the snapshot already, by reading something.
        self._has_snapshot = bool(self._has_hooks or connection.engine.dispatch.begin)
        event.listen(connection, "before_cursor_execute", self._look)

    def _look(self, connection: Any, cursor: Any, sql: str, parameters: Any, context: Any, executemany: bool) -> None:
        found, has_missed = self._dependencies.look(context, sql, self._since)
        self.reads |= found
        self.is_late |= has_missed and self._has_snapshot
        self._has_snapshot = True

    def check(self, result: object) -> None:
        """Raise where the transaction has ended, or the result can be read once alone.

        :raises ConfigurationError: naming the remedy.
        """
        if self._connection is None or self._connection.closed or not self._connection.in_transaction():
            raise ConfigurationError(
                "live(): the function must leave its session's transaction alone: no commit(), rollback() or close(), "
                "after which another state of the database would be read, and nobody would hear of it"
            )
        if isinstance(result, Awaitable) and hasattr(result, "close"):
            result.close()  # a coroutine that nobody will run
        if isinstance(result, (Awaitable, Iterator, AsyncIterator, FilterResult, Result)):
            raise ConfigurationError(
                f"live(): the function returned a {type(result).__name__}, which can be read once: return a list: "
                f"list(await session.scalars(...))"
            )


def is_passing(error: BaseException, is_connected: bool) -> bool:
    """Return True for an error of a connection, or of a server that is away, after which a run is tried again.

    :param is_connected: False where it was raised in connecting, which drivers say in errors of the system.
    """
    if isinstance(error, sa_exc.TimeoutError):
        return True
    if not isinstance(error, sa_exc.DBAPIError):
        return isinstance(error, OSError) and not is_connected
    if error.connection_invalidated or type(getattr(error.orig, "__cause__", None)).__name__ == _STALE_PLAN:
        return True
    state = sqlstate(error.orig) if error.orig is not None else None
    if state:
        return state.startswith(_PASSING_CLASSES)
    return isinstance(error, (sa_exc.OperationalError, sa_exc.InterfaceError, sa_exc.InternalError))
