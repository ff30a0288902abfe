"""Conditions are tried on the table's row type: PL/pgSQL itself looks at their names only when a row is written.

The server analyses a statement with the condition in it, as the function will, and does not run it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, text
from sqlalchemy.exc import CompileError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement

from ..declaring.conditions import STATEMENT_ALIASES
from ..declaring.dialect import POSTGRESQL
from ..declaring.spec import TableWatch
from ..errors import ConfigurationError
from ..functions.quoting import literal, quote
from .ddl import dollar_quoted

_SETTING = "sqlalchemy_watch.condition_problems"

#: What a trigger function may name beside the rows. A column of the same name comes first, as in the function.
_TRIGGER = (
    "SELECT NULL::pg_catalog.name AS tg_name, NULL::pg_catalog.text AS tg_when, NULL::pg_catalog.text AS tg_level, "
    "NULL::pg_catalog.text AS tg_op, NULL::pg_catalog.oid AS tg_relid, NULL::pg_catalog.name AS tg_relname, "
    "NULL::pg_catalog.name AS tg_table_name, NULL::pg_catalog.name AS tg_table_schema, NULL::integer AS tg_nargs, "
    "NULL::pg_catalog.text[] AS tg_argv"
)


#: Who installs a watch need not have the rights of those who write.
_RIGHTS = "insufficient_privilege"

_YET_TO_COME = f"{_RIGHTS} OR undefined_table OR undefined_function OR undefined_object OR invalid_schema_name"


class _Attempt(NamedTuple):
    """A condition to be tried on a row, which a SELECT gives."""

    watch: TableWatch
    row: str
    #: The names of errors that say nothing about it.
    ignored: str


class _TryConditions(ExecutableDDLElement):
    """A block that leaves the server's words on each statement, as a JSON list, in a setting of the session."""

    def __init__(self, attempts: Sequence[_Attempt]) -> None:
        self.attempts = attempts


@compiles(_TryConditions, "postgresql")
def _compile(element: _TryConditions, compiler: Any, **kw: Any) -> str:
    tries = "\n".join(
        _TRY.format(statement=literal(_statement(attempt)), ignored=attempt.ignored) for attempt in element.attempts
    )
    block = f"""
DECLARE
  problems pg_catalog.text[];
BEGIN
{tries}
  PERFORM pg_catalog.set_config('{_SETTING}', pg_catalog.array_to_json(problems)::pg_catalog.text, false);
END
"""
    return str(compiler.sql_compiler.post_process_text(f"DO {dollar_quoted(block)}"))


_TRY = """\
  BEGIN
    EXECUTE {statement};
    DEALLOCATE sqlalchemy_watch_condition;
    problems := pg_catalog.array_append(problems, NULL);
  EXCEPTION
    WHEN {ignored} THEN
      problems := pg_catalog.array_append(problems, NULL);
    WHEN OTHERS THEN
      problems := pg_catalog.array_append(problems, SQLERRM);
  END;"""


def refuse_broken_conditions(
    connection: Connection, watches: Iterable[TableWatch], *, others_exist: bool = True
) -> None:
    """Raise if a function would fail on the `when` of one of these watches, whose tables exist.

    :param others_exist: False where tables and functions that a condition names may be yet to come.
    :raises ConfigurationError: with the server's words.
    """
    ignored = _RIGHTS if others_exist else _YET_TO_COME
    attempts = [_Attempt(watch, _existing_row(watch), ignored) for watch in watches if watch.condition is not None]
    for watch, problem in _problems(connection, attempts):
        raise ConfigurationError(
            f"the watch {watch.table_key}/{watch.label}: its when can't work: {problem}: in {_condition(watch)}"
        )


def suspect_conditions(
    connection: Connection, watches: Iterable[TableWatch], tables: Iterable[Table]
) -> list[tuple[TableWatch, str]]:
    """Return the watches whose `when` the server can't make sense of at present, each with the server's words.

    :param tables: theirs, as they are declared: a migration that makes the columns is yet to run.
    """
    by_name = {(table.schema, table.name): table for table in tables}
    attempts = []
    for watch in watches:
        row = None if watch.condition is None else _declared_row(by_name[watch.schema, watch.table])
        if row is not None:
            # The migration may make the table that a subquery names.
            others = " OR undefined_table" if "select" in _condition(watch).lower() else ""
            attempts.append(_Attempt(watch, row, f"{_RIGHTS} OR undefined_object{others}"))
    return _problems(connection, attempts)


def _problems(connection: Connection, attempts: Sequence[_Attempt]) -> list[tuple[TableWatch, str]]:
    """Return the watches whose attempt failed, each with the server's words."""
    if not attempts:
        return []
    connection.execute(_TryConditions(attempts))
    found = json.loads(connection.scalar(text(f"SELECT pg_catalog.current_setting('{_SETTING}')")))
    return [(attempt.watch, words) for attempt, words in zip(attempts, found, strict=True) if words is not None]


def _existing_row(watch: TableWatch) -> str:
    names = [name for name in (watch.schema, watch.table) if name is not None]
    return f"SELECT (NULL::{'.'.join(map(_as_type, names))}).*"


def _as_type(name: str) -> str:
    """Return a name in quotes: a table may be called `values` without them, and a type may not."""
    quoted = quote(name)
    return quoted if quoted.startswith('"') else f'"{quoted.lower()}"'


def _declared_row(table: Table) -> str | None:
    """Return the row that the table is to have; None where a column's type is not known."""
    try:
        columns = [
            f"CAST(NULL AS {column.type.compile(dialect=POSTGRESQL)}) AS {quote(column.name)}"
            for column in table.columns
        ]
    except CompileError:
        return None
    return f"SELECT {', '.join(columns)}"


def _condition(watch: TableWatch) -> str:
    assert watch.condition is not None
    return watch.condition.row_sql if watch.fires_per_row else watch.condition.statement_sql


def _statement(attempt: _Attempt) -> str:
    watch, row, _ = attempt
    aliases = STATEMENT_ALIASES if watch.needs_old_rows else STATEMENT_ALIASES[:1]
    if watch.fires_per_row:  # both, so that a name without an alias is as ambiguous here as it is unknown there
        aliases = ("new", "old")
    rows = ", ".join(f"({row}) AS {quote(alias)}" for alias in aliases)
    return (
        f"PREPARE sqlalchemy_watch_condition AS SELECT FROM ({_TRIGGER}) AS watch_trigger "
        f"WHERE EXISTS (SELECT FROM {rows} WHERE ({_condition(watch)}))"
    )
