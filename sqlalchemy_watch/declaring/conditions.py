"""`when`: a Python function of two rows becomes the text of a SQL condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Column, Dialect, and_, literal_column
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import QueryableAttribute
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BindParameter, ColumnElement, OperatorExpression
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.types import NullType, UserDefinedType

from ..errors import ConfigurationError
from .dialect import POSTGRESQL, PREPARER
from .operators import QUALIFIED
from .ordering import in_order
from .own_types import UnknownType
from .parentheses import disclosed
from .references import refuse_tables
from .spec import Condition
from .truth import refusing_truth

#: The aliases of a row and of its previous version in statement-level functions.
STATEMENT_ALIASES = ("r", "o")


#: The reason for which such a column can be neither carried nor compared, with the remedy.
VIRTUAL_RULE = (
    "a virtual generated column has no value in a trigger: make it STORED (Computed(..., persisted=True)) "
    "or leave it out"
)


def is_virtual(column: Column[Any]) -> bool:
    """Return True if the column is declared as a generated one that is not stored."""
    return column.computed is not None and column.computed.persisted is False


class UnknownColumn(AttributeError):
    """A condition names a column that the table does not have."""


class _Row:
    """Stands for a row in the user's function: attributes are the table's columns under an alias.

    :param absent: the error for a row that the operation does not have.
    :param used: the names of the columns that the function asks for are added here.
    """

    def __init__(
        self, owner: str, alias: str, columns: Mapping[str, Column[Any]], absent: str | None, used: set[str]
    ) -> None:
        self._owner, self._alias, self._columns, self._absent, self._used = owner, alias, columns, absent, used

    def __getattr__(self, attribute: str) -> ColumnElement[Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if self._absent:
            raise ConfigurationError(self._absent)
        try:
            column = self._columns[attribute]
        except KeyError:
            raise UnknownColumn(
                f"{attribute!r} is no column here: there are {', '.join(map(repr, self._columns))}", name=attribute
            ) from None
        if is_virtual(column):
            raise ConfigurationError(f"{self._owner}: when uses {attribute!r}: {VIRTUAL_RULE}")
        self._used.add(attribute)
        # Not a column of a table: a subquery would list that in its own FROM.
        type_ = UnknownType() if isinstance(column.type, NullType) else column.type
        return literal_column(f"{self._alias}.{PREPARER.quote(column.name)}", type_)


def compile_condition(
    owner: str, operation: str, when: Callable[[Any, Any], Any], columns: Mapping[str, Column[Any]]
) -> Condition:
    """Return the SQL of a `when` over the columns of one table.

    :param columns: by attribute name.

    :raises UnknownColumn: where it names a column that is not among them.
    :raises ConfigurationError: where it is no SQL condition, or uses a row the operation does not have.
    """
    row_alias, old_alias = STATEMENT_ALIASES
    statement_sql, uses_old = _compile(owner, operation, when, columns, row_alias, old_alias)
    new_name = "old" if operation == "deleted" else "new"
    row_sql, _ = _compile(owner, operation, when, columns, new_name, "old")
    return Condition(statement_sql, row_sql, uses_old)


def _compile(
    owner: str,
    operation: str,
    when: Callable[[Any, Any], Any],
    columns: Mapping[str, Column[Any]],
    row_alias: str,
    old_alias: str,
) -> tuple[str, bool]:
    no_old = f"{owner}: when uses old, but {operation} rows have none: use new" if operation == "inserted" else None
    no_new = f"{owner}: when uses new, but {operation} rows have none: use old" if operation == "deleted" else None
    used_of_old: set[str] = set()
    old = _Row(owner, row_alias if operation == "deleted" else old_alias, columns, no_old, used_of_old)
    new = _Row(owner, row_alias, columns, no_new, set())
    clause = _evaluate(owner, when, old, new)
    sql = _render(owner, clause)
    refuse_tables(owner, operation, clause, columns)
    return sql, bool(used_of_old)


def _evaluate(owner: str, when: Callable[[Any, Any], Any], old: _Row, new: _Row) -> Any:
    """Return the clause that the user's function makes of the two rows."""
    try:
        with refusing_truth(f"{owner}: when"):
            clause = when(old, new)
    except (UnknownColumn, ConfigurationError):
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{owner}: when could not be evaluated ({type(error).__name__}: {error}): it must be a function of the "
            f"old and the new row that returns a SQL condition, such as lambda old, new: new.total > 100, with & and | "
            f"in place of and, or"
        ) from error
    if not hasattr(clause, "compile") or not hasattr(clause, "self_group"):
        raise ConfigurationError(
            f"{owner}: when returned {clause!r}, not a SQL condition: combine conditions with & and | "
            f"(not with and, or), and use text() for SQL of your own"
        )
    if isinstance(clause, QueryableAttribute):  # which has no elements to look at
        clause = and_(clause)
    if any(isinstance(element, BindParameter) and element.required for element in visitors.iterate(clause)):
        raise ConfigurationError(
            f"{owner}: when has a bindparam() without a value: a trigger is given none, write it in"
        )
    return clause


def _render(owner: str, clause: Any) -> str:
    sql = _sql(owner, clause, QUALIFIED)
    if not _may_be_boolean(clause):
        raise ConfigurationError(
            f"{owner}: when returned {_sql(owner, clause, POSTGRESQL)}, which is no condition, true or false: compare "
            f"it with something, or use exists() around a select()"
        )
    return disclosed(sql) if isinstance(clause, OperatorExpression) else sql


def _sql(owner: str, clause: Any, dialect: Dialect) -> str:
    try:
        return str(in_order(clause).compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    except (SQLAlchemyError, NotImplementedError) as error:
        raise ConfigurationError(
            f"{owner}: when can't be rendered with its values ({error}): write them as text('...') or literal_column()"
        ) from error


def _may_be_boolean(clause: Any) -> bool:
    """Return False if the clause is certainly no condition; of text() and func.name() only the server knows."""
    if isinstance(clause, SelectBase):
        return False
    type_ = getattr(clause, "type", None)
    if type_ is None or isinstance(type_, (NullType, UserDefinedType)):
        return True
    try:
        return bool(type_.python_type is bool)
    except NotImplementedError:
        return True
