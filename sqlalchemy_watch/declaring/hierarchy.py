"""Mapped inheritance: the tables of a class's rows, and the column that tells a row's own class.

Single table: one table, whose discriminator is carried. Joined: inserts and deletes are heard from the root
table alone, updates from every table of the chain; the function of a table below the root looks the
discriminator up in the root. Concrete: each class has a table of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, ColumnElement
from sqlalchemy.sql.selectable import FromClause

from ..errors import ConfigurationError
from .spec import CarriedColumn, Discriminator, RootLookup, Watch


@dataclass(frozen=True)
class Part:
    """A table of a class, with the class's attribute names for its columns."""

    table: Table
    columns: dict[str, Column[Any]]
    #: The columns that identify the row, in the order of the mapper's primary key.
    key: tuple[Column[Any], ...]
    #: The names of the key's attributes in the root, which serve for every table of the hierarchy.
    key_attributes: tuple[str, ...]
    is_root: bool


def parts_of(mapper: Mapper[Any]) -> tuple[Part, ...]:
    """Return the tables whose triggers a class needs, its own first, the root last.

    :raises ConfigurationError: where the class is mapped to something else than tables.
    """
    mappers = list(_joined_mappers(mapper))
    tables = [_local_table(m) for m in mappers]
    keys = _keys(mapper)
    root = tables[-1]
    key_attributes = tuple(_attribute_of(mappers[-1], column) for column in mappers[-1].primary_key)
    return tuple(
        Part(table, _columns(mapper, table), keys[table], key_attributes, table is root)
        for table in dict.fromkeys(tables)
    )


def root_table(mapper: Mapper[Any]) -> FromClause:
    """Return the table that has a row for each row of a class, whatever classes are below it."""
    return list(_joined_mappers(mapper))[-1].local_table


def _keys(mapper: Mapper[Any]) -> dict[FromClause, tuple[Any, ...]]:
    """Return the columns that identify a row in each table of the class, by the joins from the topmost one down."""
    above = list(mapper.iterate_to_root())
    above = above[: next((n for n, m in enumerate(above, 1) if m.concrete), len(above))]
    key: tuple[Any, ...] = tuple(above[-1].primary_key)
    keys = {above[-1].local_table: key}
    for below in reversed(above[:-1]):
        if below.local_table not in keys:
            pairs = _join_pairs(below.inherit_condition, below.local_table)
            key = tuple(pairs.get(column, column) for column in key)
            keys[below.local_table] = key
    return keys


def is_heard_from(part: Part, spec: Watch) -> bool:
    """Return True if a watch needs a trigger on this table of its class."""
    if spec.operation != "updated":
        return part.is_root
    if not spec.trigger_columns:
        return True
    names = {r if isinstance(r, str) else getattr(r, "key", None) for r in spec.trigger_columns}
    inner = {id(c) for r in spec.trigger_columns for c in (r, getattr(r, "column", None))}
    return any(attribute in names or id(column) in inner for attribute, column in part.columns.items())


def discriminator(mapper: Mapper[Any], part: Part) -> Discriminator | None:
    """Return the column by which the function on this table tells the class of a row.

    :raises ConfigurationError: where the hierarchy is told apart by an expression.
    """
    column: Any = mapper.polymorphic_on
    if column is None:
        return None
    *mappers, topmost = _joined_mappers(mapper)
    root = _local_table(topmost)
    if topmost.concrete and getattr(column, "table", None) is not root:
        return None  # a union's column, which tells concrete classes apart: the table does
    if not isinstance(column, Column) or column.table is not root:
        raise ConfigurationError(
            f"{mapper.class_.__name__}: its polymorphic_on is not a column of table {root.key!r}, so a trigger can't "
            f"tell the class of a row: watch the Table with watch({root.key!r} table, ...) instead"
        )
    carried = CarriedColumn(_attribute_of(mapper, column), column.name, column.type)
    if part.is_root:
        return Discriminator(carried)
    root_key = tuple(c.name for c in topmost.primary_key)
    tables = list(dict.fromkeys(map(_local_table, mappers)))
    between = tuple(table.name for table in tables[tables.index(part.table) + 1 :])
    return Discriminator(carried, RootLookup(root.schema, root.name, root_key, between))


def _joined_mappers(mapper: Mapper[Any]) -> Iterator[Mapper[Any]]:
    """Iterate over the mapper and those above it whose rows it shares; without a discriminator, the mapper alone."""
    for current in mapper.iterate_to_root():
        yield current
        if current.concrete or mapper.polymorphic_on is None:
            return


def _local_table(mapper: Mapper[Any]) -> Table:
    if not isinstance(mapper.local_table, Table):
        raise ConfigurationError(
            f"{mapper.class_.__name__} is mapped to {type(mapper.local_table).__name__}, and only tables can have "
            f"triggers: watch the tables it selects from"
        )
    return mapper.local_table


def _columns(mapper: Mapper[Any], table: Table) -> dict[str, Column[Any]]:
    found = {}
    for column in table.columns:
        try:
            found[mapper.get_property_by_column(column).key] = column
        except UnmappedColumnError:
            continue
    return found


def _attribute_of(mapper: Mapper[Any], column: Any) -> str:
    try:
        return mapper.get_property_by_column(column).key
    except UnmappedColumnError:
        return str(column.key)


def _join_pairs(condition: ColumnElement[Any] | None, table: FromClause) -> dict[Any, Column[Any]]:
    """Map the columns of the table above to those of this table, by the inheritance join."""
    pairs: dict[Any, Column[Any]] = {}
    if condition is not None:
        for element in visitors.iterate(condition):
            if isinstance(element, BinaryExpression) and element.operator is operators.eq:
                left, right = element.left, element.right
                if isinstance(left, Column) and isinstance(right, Column):
                    above, below = (right, left) if left.table is table else (left, right)
                    pairs[above] = below
    return pairs
