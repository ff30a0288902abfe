"""A condition speaks of the two rows it is given: a table's own columns mean no row in a trigger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, FromClause, Select, Table, literal_column, select
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ColumnClause, ColumnElement
from sqlalchemy.sql.selectable import AliasedReturnsRows, SelectBase

from ..errors import ConfigurationError
from .dialect import POSTGRESQL

#: How a condition spells the rows of an operation.
_ROWS = {"inserted": ("new",), "updated": ("new", "old"), "deleted": ("old",)}


def refuse_tables(owner: str, operation: str, clause: ColumnElement[Any], columns: Mapping[str, Column[Any]]) -> None:
    """Raise where a condition names a table, outside of the FROM of a subquery, in place of a row.

    :param columns: of the watched table, by attribute name.
    :raises ConfigurationError: also for a subquery that SQLAlchemy would correlate with the watched table, were it
        in a query of it, and for a CTE, which has no place in a condition.
    """
    query: Select[Any] = select(literal_column("1")).where(clause)
    if froms := query.get_final_froms():
        raise ConfigurationError(f"{owner}: when names {_named(clause, froms, operation, columns)}")
    if not any(isinstance(element, SelectBase) for element in visitors.iterate(clause)):
        return
    sql = _sql(query)
    if sql.startswith("WITH"):
        raise ConfigurationError(
            f"{owner}: when has a CTE, which a condition has no place for: use a subquery, or cte(nesting=True)"
        )
    for table in {column.table: None for column in columns.values()}:
        # Correlated, it has one table less to select from than alone.
        if not _sql(query.select_from(table)).endswith(sql.partition("WHERE ")[2]):
            raise ConfigurationError(
                f"{owner}: a subquery of when selects from {str(table)!r} beside other tables, and so from all its "
                f"rows: write {_spelled(operation, 'column')} for a column of the row, or take an alias "
                f"(aliased(), table.alias()) where all rows are meant"
            )


def _sql(query: Any) -> str:
    return str(query.compile(dialect=POSTGRESQL, compile_kwargs={"literal_binds": True}))


def _spelled(operation: str, attribute: str) -> str:
    return " or ".join(f"{row}.{attribute}" for row in _ROWS[operation])


def _named(
    clause: ColumnElement[Any], froms: Sequence[FromClause], operation: str, columns: Mapping[str, Column[Any]]
) -> str:
    """Describe the first column that is of no row, and say what to write in its place."""
    watched = {column.table for column in columns.values()}
    for element in _columns_of(clause):
        if element.table not in froms or not isinstance(_original(element.table), Table):
            continue
        table = element.table
        attribute = next((name for name, column in columns.items() if column.name == element.name), None)
        if _original(table) in watched and attribute is not None:
            return (
                f"the column {_table_name(table)}.{element.name}, which is of no row: write "
                f"{_spelled(operation, attribute)}"
            )
        return (
            f"the column {_table_name(table)}.{element.name}, and the condition is given the rows of "
            f"{' and '.join(repr(str(t)) for t in watched)} alone: ask for others in a subquery, "
            f"such as exists().where(...)"
        )
    return (
        f"{', '.join(_table_name(table) for table in froms)}, and the condition is given two rows alone: ask for "
        f"others in a subquery, such as exists().where(...)"
    )


def _columns_of(clause: Any) -> Iterator[ColumnClause[Any]]:
    return (element for element in visitors.iterate(clause) if isinstance(element, ColumnClause))


def _original(table: Any) -> Any:
    while isinstance(table, AliasedReturnsRows):
        table = table.element
    return table


def _table_name(table: Any) -> str:
    original = _original(table)
    return str(original if isinstance(original, Table) else table)
