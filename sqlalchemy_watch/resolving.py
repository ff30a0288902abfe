"""A `Watch` meets a table: the names it gives become columns, and what the table can't do is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.orm import InstrumentedAttribute

from . import wire
from .declaring import conditions
from .declaring.filing import DELIVERY_KEY, application_of
from .declaring.spec import CarriedColumn, Delivery, Discriminator, TableWatch, Watch, check_delivery
from .errors import ConfigurationError


def check_columns(owner: str, tables: Iterable[str], columns: Mapping[str, Column[Any]], spec: Watch) -> None:
    """Raise unless every attribute that the watch names is one of these columns, named once."""
    for option in ("extra_columns", "trigger_columns"):
        names = set()
        for reference in _in_order(getattr(spec, option), columns):
            name = _attribute(reference, columns)
            if name in names:
                raise ConfigurationError(f"{owner}: {spec!r}: {option} names {name!r} twice: remove one")
            names.add(name)
            if name is None:
                raise ConfigurationError(
                    f"{owner}: {spec!r}: {option} names {_spelled(reference)}, which is not a column attribute of "
                    f"{' or '.join(map(repr, tables))}: allowed are {', '.join(map(repr, columns))}"
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
        condition=conditions.compile_condition(f"{owner}: {spec!r}", spec.operation, spec.when, columns)
        if spec.when is not None
        else None,
        old=spec.old,
        level=spec.level or ("row" if _is_partitioned(table) and spec.operation != "truncated" else "statement"),
        application=application_of(table.metadata),
        delivery=_delivery(owner, table, spec, default_delivery),
    )
    _check_table_watch(owner, spec, table, result)
    return result


def _check_table_watch(owner: str, spec: Watch, table: Table, filed: TableWatch) -> None:
    by_name = {column.name: column for column in table.columns}
    for option, columns in (("carry", filed.carried), ("compare", filed.trigger_columns)):
        for column in columns:
            if column.name in by_name and conditions.is_virtual(by_name[column.name]):
                raise ConfigurationError(
                    f"{owner}: {spec!r} can't {option} {column.attribute!r}: {conditions.VIRTUAL_RULE}"
                )
    for column in filed.carried:
        if wire.is_pickled(column.type):
            raise ConfigurationError(
                f"{owner}: {spec!r} can't carry {column.attribute!r}: reading a pickle runs code, and whoever can "
                f"connect to the database can send a notification: leave it out and load the row instead"
            )
    size = wire.names_size(filed)
    if size > wire.MAX_NAMES_BYTES:
        raise ConfigurationError(
            f"{owner}: {spec!r}: the names of its columns take {size} bytes of a notification, and "
            f"{wire.MAX_NAMES_BYTES} are allowed: carry fewer columns and load the row instead"
        )


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
