"""Virtual generated columns, which have no value in a trigger, and the watches that need one.

A declaration does not always tell: `Computed(...)` without `persisted` is STORED or VIRTUAL by the versions of
SQLAlchemy and of the server. So the catalog is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..declaring.conditions import STATEMENT_ALIASES
from ..declaring.spec import TableWatch

_LITERAL = re.compile(r"'(?:[^']|'')*'")

#: A name that needs no quotes behind a row's, where a word of the grammar is a name like any other.
_BARE = re.compile(r"[^\W\d][\w$]*")


def virtual_problems(watch: TableWatch, columns: Iterable[str]) -> tuple[str, ...]:
    """Describe the virtual columns that a watch needs.

    :param columns: the virtual generated columns of its table.
    """
    return tuple(
        f"{column!r} is a virtual generated column in the database, which has no value in a trigger: make it a stored "
        f"one (Computed(..., persisted=True), and drop the column and add it again), or leave it out"
        for column in _needed(watch, columns)
    )


def _needed(watch: TableWatch, columns: Iterable[str]) -> tuple[str, ...]:
    """Return those of the columns that the watch carries, compares, or has in its condition."""
    if watch.operation == "truncated":  # names no rows
        return ()
    named = {column.name for column in (*watch.key, *watch.extra, *watch.trigger_columns)}
    if watch.discriminator is not None and watch.discriminator.lookup is None:
        named.add(watch.discriminator.column.name)
    return tuple(column for column in columns if column in named or _is_in_condition(watch, column))


def _is_in_condition(watch: TableWatch, column: str) -> bool:
    """Return True if the condition names the column of the old row, or of the new one.

    It is looked for in the text, a part of which may be the user's own.
    """
    if watch.condition is None:
        return False
    by_row = watch.fires_per_row
    sql = _LITERAL.sub("''", watch.condition.row_sql if by_row else watch.condition.statement_sql)
    aliases = "|".join(("new", "old") if by_row else STATEMENT_ALIASES)
    always_quoted = '"' + column.replace('"', '""') + '"'
    bare = rf"(?i:{re.escape(column)})|" if _BARE.fullmatch(column) and column == column.lower() else ""
    return re.search(rf'(?<![\w."])(?i:{aliases})\.(?:{bare}{re.escape(always_quoted)})(?![\w$])', sql) is not None
