"""What goes with every transaction of an engine that writes, beside the values that `context()` sets.

It is put into the writer's context right before the first statement that writes, in one more statement. A transaction
that only reads has none of it. Nothing here makes a write fail that would not fail as well without: where it can't be
said, it is left out.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Engine, TextClause, event, text
from sqlalchemy.exc import DBAPIError

from . import wire
from .errors import one_line, sqlstate

log: logging.Logger = logging.getLogger(__name__)


class Ambient(NamedTuple):
    """A name and a value, as they stand in JSON, such as `"traceparent":"00-..."`; of letters, digits and dashes."""

    pair: str
    #: Of those of one origin the first one stays for the whole transaction.
    origin: Hashable


#: In `Connection.info`, what is known of the present transaction.
_KEY: Final = "sqlalchemy_watch.ambient"

#: Pairs of a transaction that are remembered, to be replaced.
_MOST_PAIRS: Final = 4

#: In front of what the writer has set: of two values of one name the last one counts, and so it is the writer's.
_SAY = f"""
SELECT pg_catalog.set_config('{wire.CONTEXT_SETTING}', CASE
  WHEN pg_catalog.octet_length(CAST(pg_catalog.to_json(said.new) AS text)) <= {wire.MAX_CONTEXT_BYTES} THEN said.new
  ELSE said.old END, true)
FROM (
  SELECT present.old, CASE
    WHEN present.old IN ('', '{{}}') THEN pg_catalog.concat('{{', present.pair, '}}')%s
    WHEN pg_catalog.left(present.old, 1) = '{{'
      THEN pg_catalog.concat('{{', present.pair, ',', pg_catalog.substr(present.old, 2))
    ELSE present.old END AS new
  FROM (SELECT CAST(:pair AS text) AS pair,
    COALESCE(pg_catalog.current_setting('{wire.CONTEXT_SETTING}', true), '') AS old) AS present) AS said
"""

_SAY_FIRST = text(_SAY % "")

#: Where it may stand there already: in place of that. Regular expressions are expensive.
_SAY_AGAIN = text(
    _SAY
    % """
    WHEN present.old ~ CAST(:known AS text)
      THEN pg_catalog.regexp_replace(present.old, CAST(:known AS text), present.pair)"""
)

#: As a statement of its own, whatever the connection's options are for others.
_OPTIONS: Final = {"stream_results": False, "yield_per": None}

_FAILED_BEFORE: Final = "25P02"  # in_failed_sql_transaction

_FIRST_WORD = re.compile(r"(?:\s++|\(|--[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)*+(\w*)")

_WRITING = frozenset(["INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "TRUNCATE", "CALL", "DO", "EXECUTE"])

_HIDES_WRITES = frozenset(["WITH", "EXPLAIN"])

_ANYWHERE = re.compile(rf"\b(?:{'|'.join(sorted(_WRITING))})\b", re.IGNORECASE)


def writes(statement: str) -> bool:
    """Return True for SQL that writes rows, as far as its text says so: a function that does is not recognized.

    True also for some SQL that might, of several statements or with a CTE.
    """
    found = _FIRST_WORD.match(statement)
    word = found[1].upper() if found else ""
    if word in _WRITING:
        return True
    may_hide = word in _HIDES_WRITES or ";" in statement.rstrip("; \t\r\n")
    return may_hide and _ANYWHERE.search(statement) is not None


@dataclass
class _Said:
    """What was put into the context of a transaction."""

    transaction: weakref.ref[Any]
    origin: Hashable
    #: All that may stand there, the newest last.
    pairs: tuple[str, ...]
    #: False where it may have been taken back meanwhile.
    is_sure: bool = True


class AmbientContext:
    """Puts into the context of an engine's transactions, before they write, what a function finds then.

    :param engine: for PostgreSQL.
    :param find: returns None where there is nothing to say at present.
    """

    def __init__(self, engine: Engine, find: Callable[[], Ambient | None]) -> None:
        # Weakly, since whoever ends it keeps it: an engine that nobody uses any more is not kept by that.
        self._engine, self._find = weakref.ref(engine), find
        self._is_proven = self._has_warned = False
        self._compiled: dict[TextClause, Any] = {}
        event.listen(engine, "before_cursor_execute", self._before_statement)
        event.listen(engine, "rollback_savepoint", _doubt)

    def close(self) -> None:
        """End it: transactions that have it keep it. Done twice it does nothing."""
        engine = self._engine()
        for name, function in (("before_cursor_execute", self._before_statement), ("rollback_savepoint", _doubt)):
            if engine is not None and event.contains(engine, name, function):
                event.remove(engine, name, function)

    def _before_statement(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        is_dml = context is not None and (context.isinsert or context.isupdate or context.isdelete)
        if not (is_dml or writes(statement)):
            return
        try:
            self._say(connection)
        except Exception as error:
            if isinstance(error, DBAPIError):
                if sqlstate(error) == _FAILED_BEFORE:
                    return  # the statement is going to fail as well, and says so
                if self._is_proven or error.connection_invalidated:
                    self._is_proven = False  # where it may not be said any more, this transaction alone is lost
                    raise  # the transaction is lost, and nothing after this could say why: canceled, disconnected
            log.log(
                logging.DEBUG if self._has_warned else logging.WARNING,
                "events of this transaction lack what goes with all others (%s)", one_line(error),
            )  # fmt: skip
            self._has_warned = True

    def _say(self, connection: Connection) -> None:
        found, transaction = self._find(), connection.get_transaction()
        if found is None or transaction is None or _is_in_autocommit(connection):
            return
        said: _Said | None = connection.info.get(_KEY)
        before: tuple[str, ...] = ()
        if said is not None and said.transaction() is transaction:
            if said.is_sure and said.origin == found.origin:
                return
            before = said.pairs
        pairs = (*(pair for pair in before if pair != found.pair), found.pair)[-_MOST_PAIRS:]
        # A failure must not take the transaction with it: somebody may have revoked set_config.
        with nullcontext() if self._is_proven else connection.begin_nested():
            if before:
                self._execute(connection, _SAY_AGAIN, {"pair": found.pair, "known": "|".join(pairs)})
            else:
                self._execute(connection, _SAY_FIRST, {"pair": found.pair})
        self._is_proven = True
        connection.info[_KEY] = _Said(weakref.ref(transaction), found.origin, pairs)

    def _execute(self, connection: Connection, statement: TextClause, values: dict[str, str]) -> None:
        """Execute a statement as the driver has it: that takes a third of the time less."""
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = self._compiled[statement] = statement.compile(dialect=connection.dialect)
        names = compiled.positiontup
        parameters = values if names is None else tuple(values[name] for name in names)
        connection.exec_driver_sql(compiled.string, parameters, _OPTIONS).close()


def _doubt(connection: Connection, name: str, context: None) -> None:
    said: _Said | None = connection.info.get(_KEY)
    if said is not None:
        said.is_sure = False


def note(connection: Connection, value: str) -> None:
    """Note that the context of a connection's transaction was set to this text."""
    said: _Said | None = connection.info.get(_KEY)
    if said is not None:
        said.is_sure = said.pairs[-1] in value


def without(connection: Connection, value: str) -> str:
    """Return the text of a context without what was put there by itself."""
    said: _Said | None = connection.info.get(_KEY)
    for pair in () if said is None else said.pairs:
        value = value.replace(f"{pair},", "").replace(pair, "")
    return value


def _is_in_autocommit(connection: Connection) -> bool:
    return bool(getattr(connection.connection.dbapi_connection, "autocommit", False))
