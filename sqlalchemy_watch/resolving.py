"""A `Watch` meets a table: the names it gives become columns, and what the table can't do is refused."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.orm import InstrumentedAttribute

from . import wire
from .declaring import conditions
from .declaring.dialect import POSTGRESQL
from .declaring.filing import DELIVERY_KEY, application_of
from .declaring.spec import CarriedColumn, Delivery, Discriminator, Level, TableWatch, Watch, check_delivery
from .errors import ConfigurationError


def check_columns(
    owner: str,
    tables: Iterable[str],
    columns: Mapping[str, Column[Any]],
    spec: Watch,
    below: Mapping[str, Column[Any]] = types.MappingProxyType({}),
) -> None:
    """Raise unless every attribute that the watch names is one of these columns, named once.

    :param below: columns of the tables below the root, where the operation is heard from the root alone.
    """
    for option in ("extra_columns", "trigger_columns"):
        names = set()
        for reference in _in_order(getattr(spec, option), columns):
            name = _attribute(reference, columns)
            if name in names:
                raise ConfigurationError(f"{owner}: {option} names {name!r} twice: remove one: in {spec!r}")
            names.add(name)
            if name is not None:
                continue
            if (attribute := _attribute(reference, below)) is not None:
                raise ConfigurationError(f"{owner}: {option}: {heard_from_root(attribute, below, spec)}: in {spec!r}")
            raise ConfigurationError(
                f"{owner}: {option} names {_spelled(reference)}, which is not a column attribute of "
                f"{' or '.join(map(repr, tables))}: allowed are {', '.join(map(repr, columns))}: in {spec!r}"
            )


def heard_from_root(attribute: str, below: Mapping[str, Column[Any]], spec: Watch) -> str:
    """Return the reason for which a joined subclass's own column is not at hand, with the remedy."""
    return (
        f"{attribute!r} is a column of {below[attribute].table.key!r}, and {spec.operation} rows of a joined hierarchy "
        f"are heard from its root table alone: leave it out and load the row (event.load(session))"
    )


def check_old(owner: str, spec: Watch, resolved: Iterable[TableWatch]) -> None:
    """Raise where `changed` would tell of nothing but the key, whatever changed.

    :param resolved: the watch on each of its tables.
    """
    if not spec.old or spec.operation != "updated" or spec.is_for_keys:
        return
    if all({*w.extra, *w.trigger_columns} <= {*w.key} for w in resolved):
        raise ConfigurationError(
            f"{owner}: old=True compares the columns that the watch names, and it names none but the key: name those "
            f"whose previous values you want in extra_columns= or trigger_columns=: in {spec!r}"
        )


def resolve(
    owner: str,
    table: Table,
    columns: Mapping[str, Column[Any]],
    key: Mapping[str, Column[Any]],
    spec: Watch,
    discriminator: Discriminator | None = None,
    default_delivery: object = None,
) -> TableWatch:
    """Return the watch as it applies to one table.

    :param columns: by attribute name.
    :param key: the columns that identify a row, by attribute name.
    :raises UnknownColumn: where the condition names a column that is not among them.
    :raises ConfigurationError: for what the table, or the wire, can't do.
    """

    def carried(references: Iterable[Any]) -> tuple[CarriedColumn, ...]:
        found = (_attribute(reference, columns) for reference in _in_order(references, columns))
        return tuple(CarriedColumn(a, columns[a].name, columns[a].type) for a in found if a is not None)

    extra = carried(spec.extra_columns)
    result = TableWatch(
        schema=table.schema,
        table=table.name,
        label=spec.name,
        operation=spec.operation,
        key=tuple(CarriedColumn(a, c.name, c.type, c.primary_key) for a, c in key.items())
        if spec.operation != "truncated"
        else (),
        extra=extra,
        trigger_columns=carried(spec.trigger_columns),
        discriminator=discriminator if spec.operation != "truncated" else None,
        condition=conditions.compile_condition(f"{owner}: watch {spec.name!r}", spec.operation, spec.when, columns)
        if spec.when is not None
        else None,
        old=spec.old,
        level=_level(table, spec),
        application=application_of(table.metadata),
        delivery=_delivery(owner, table, spec, default_delivery),
        level_is_given=spec.level is not None,
        fires=spec.fires,
    )
    _check_table_watch(owner, spec, table, result)
    return result


def _check_table_watch(owner: str, spec: Watch, table: Table, filed: TableWatch) -> None:
    by_name = {column.name: column for column in table.columns}
    for option, columns in (("carry", filed.carried), ("compare", filed.trigger_columns)):
        for column in columns:
            if column.name in by_name and conditions.is_virtual(by_name[column.name]):
                raise ConfigurationError(
                    f"{owner}: can't {option} {column.attribute!r}: {conditions.VIRTUAL_RULE}: in {spec!r}"
                )
    for column in filed.carried:
        if wire.is_pickled(column.type):
            raise ConfigurationError(
                f"{owner}: can't carry {column.attribute!r}: reading a pickle runs code, and whoever can connect to "
                f"the database can send a notification: leave it out and load the row instead: in {spec!r}"
            )
    for column in (*filed.carried, *(filed.compared if filed.old else ())):
        if column.name in by_name and _is_loaded_as_another(by_name[column.name]):
            raise ConfigurationError(
                f"{owner}: can't carry {column.attribute!r}: loading it changes the value (column_expression of its "
                f"type), and a trigger has the stored one: {_without(column, filed)}: in {spec!r}"
            )
    size = wire.names_size(filed)
    if size > wire.MAX_NAMES_BYTES:
        raise ConfigurationError(
            f"{owner}: the names of the carried columns take {size} bytes of a notification, and "
            f"{wire.MAX_NAMES_BYTES} are allowed: carry fewer columns and load the row instead: in {spec!r}"
        )


def _is_loaded_as_another(column: Column[Any]) -> bool:
    """Return True if a SELECT of the ORM asks for an expression in place of the column, such as the decrypted value."""
    expression = column.type.dialect_impl(POSTGRESQL).column_expression(column)
    return expression is not None and expression is not column


def _without(column: CarriedColumn, filed: TableWatch) -> str:
    """Return what to do in place of carrying the column."""
    if column in filed.always:
        return "every event carries it, so watch a table whose key is of another type"
    if column in filed.extra:
        return "leave it out of extra_columns and load the row (event.load(session))"
    return "leave out old=True, or leave it out of trigger_columns"


def _level(table: Table, spec: Watch) -> Level:
    if spec.level is not None or spec.operation == "truncated":
        return spec.level or "statement"
    return "row" if spec.fires == "always" or _is_partitioned(table) else "statement"


def _delivery(owner: str, table: Table, spec: Watch, default: object) -> Delivery:
    if spec.delivery is not None:
        return spec.delivery
    return check_delivery(owner, default or table.metadata.info.get(DELIVERY_KEY, "notify"))


def _attribute(reference: Any, columns: Mapping[str, Column[Any]]) -> str | None:
    """Return the attribute name of a reference: a name, an instrumented attribute or a Column."""
    if isinstance(reference, str):
        return reference if reference in columns else None
    if isinstance(reference, InstrumentedAttribute):
        candidates = getattr(reference.property, "columns", ())
    else:
        candidates = (reference, getattr(reference, "column", None))  # mapped_column() has a Column inside
    return next((name for name, column in columns.items() for c in candidates if c is column), None)


def _in_order(references: Iterable[Any], columns: Mapping[str, Column[Any]]) -> Iterable[Any]:
    """Return the references; those of a set in the order of the table's columns."""
    if not isinstance(references, frozenset):
        return references
    places = {name: place for place, name in enumerate(columns)}
    return sorted(references, key=lambda r: (places.get(_attribute(r, columns) or "", len(places)), _spelled(r)))


def _spelled(reference: Any) -> str:
    return repr(reference if isinstance(reference, str) else str(reference))


def _is_partitioned(table: Table) -> bool:
    return table.dialect_options["postgresql"].get("partition_by") is not None
