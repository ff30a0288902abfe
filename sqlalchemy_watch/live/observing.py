"""One run of a query: in a snapshot, each statement observed before it is executed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Table, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import Compiled

from ..errors import ConfigurationError, ListenerError, sqlstate
from .index import Concerned, Subscriptions, check, moment
from .reads import Read, analyse, reads_of, text_words

#: A transaction of several statements sees one state of the database; and it writes nothing.
SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

#: SQLSTATEs after which the same statement may succeed: of lost and refused connections, of servers that stop and
#: start, and of what a standby cancels.
_PASSING_CLASSES = ("08", "40", "53", "57P", "58")

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
        if tables is not None and not is_timed:
            check(tables)

    def begin(self, statement: Compiled | None) -> None:
        """Hear of all that is known before the first run.

        :raises ListenerError: where no running listener hears of it.
        """
        if self._tables is not None:
            self._add([Read(table) for table in self._tables], moment())
        elif statement is not None:
            self._add(reads_of(statement, None), moment())

    def check(self, statement: Compiled) -> None:
        """Raise where a statement has what a live query can't have.

        :raises ConfigurationError: for a statement that writes or locks; and for what nobody would hear of.
        """
        analysis = analyse(statement)
        if analysis.forbidden:
            raise ConfigurationError(FORBIDDEN.format(", ".join(analysis.forbidden)))
        self._refuse(analysis.refusals)
        if self._must_hear_all:
            check(table for table, _ in analysis.tables)

    def look(self, context: ExecutionContext, sql: str, since: int) -> tuple[frozenset[Read], bool]:
        """Hear of what is about to be read.

        :returns: it, and True where a change of it may have been missed since that moment.
        """
        statement: Compiled | None = getattr(context, "compiled", None)
        if statement is None:  # `exec_driver_sql`
            self._refuse([text_words(sql)])
            return frozenset(), False
        analysis = analyse(statement)
        if analysis.forbidden or (analysis.refusals and self._must_hear_all):
            self.check(statement)
        if self._tables is not None:
            return frozenset(), False
        parameters = getattr(context, "compiled_parameters", None)
        found = reads_of(statement, parameters[0] if parameters else {})
        new = [read for read in found if read not in self._subscriptions]
        if new and self._must_hear_all:
            check(read.table for read in new)
        return found, self._add(new, since)

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

    def _refuse(self, refusals: Sequence[str]) -> None:
        if refusals and self._must_hear_all:
            raise ConfigurationError(UNTOLD.format(", ".join(refusals)))

    def _add(self, found: Iterable[Read], since: int) -> bool:
        missed = False
        for read in found:
            try:
                missed |= self._subscriptions.add(read, since)
            except ListenerError:
                if not self._is_timed:
                    raise
        return missed


class Observed:
    """The statements of one run.

    :param connection: on which its transaction has begun.
    :param since: the moment before that.
    """

    def __init__(self, dependencies: Dependencies, session: Session, connection: Connection, since: int) -> None:
        self._dependencies, self._since = dependencies, since
        self.reads: set[Read] = set()
        #: True where something was first heard of after the snapshot was taken, and may have changed before that.
        self.is_late: bool = False
        # A hook may have taken the snapshot already, by reading something.
        self._has_snapshot = bool(session.dispatch.after_begin or connection.engine.dispatch.begin)
        event.listen(connection, "before_cursor_execute", self._look)

    def _look(self, connection: Any, cursor: Any, sql: str, parameters: Any, context: Any, executemany: bool) -> None:
        found, has_missed = self._dependencies.look(context, sql, self._since)
        self.reads |= found
        self.is_late |= has_missed and self._has_snapshot
        self._has_snapshot = True


def is_passing(error: BaseException) -> bool:
    """Return True for an error of a connection, or of a server that is away, after which a run is tried again."""
    if isinstance(error, (OSError, sa_exc.TimeoutError)):
        return True
    if not isinstance(error, sa_exc.DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state = sqlstate(error.orig) if error.orig is not None else None
    if state:
        return state.startswith(_PASSING_CLASSES)
    return isinstance(error, (sa_exc.OperationalError, sa_exc.InterfaceError, sa_exc.InternalError))
