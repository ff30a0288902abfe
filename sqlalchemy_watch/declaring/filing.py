"""Watches filed in the MetaData, where the triggers, the listener and the migrations find them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, cast

from sqlalchemy import MetaData, Table
from sqlalchemy.orm import Mapper

from ..errors import ConfigurationError
from .spec import TableWatch

#: Under this key of `MetaData.info` stand the watches: `{Table.key: {label: TableWatch}}`. Not on
#: `Table.info`, which Alembic renders into `create_table(info=...)`.
INFO_KEY = "sqlalchemy_watch"

#: Under this key of `MetaData.info` an application may name itself, where several share a schema.
APPLICATION_KEY = "sqlalchemy_watch_application"

#: Under this key of `MetaData.info` stands the delivery of watches that don't name one themselves.
DELIVERY_KEY = "sqlalchemy_watch_delivery"

#: Under this key of `MetaData.info` stand the signals with their owners: `{(Table.key, label): [Endpoint, ...]}`.
ENDPOINTS_KEY = "sqlalchemy_watch_endpoints"

_with_watches: weakref.WeakSet[MetaData] = weakref.WeakSet()


def watches_in(metadata: MetaData) -> dict[str, dict[str, TableWatch]]:
    """Return the watches filed in this MetaData, by `Table.key` and label: the mapping itself, not a copy."""
    return cast(dict[str, dict[str, TableWatch]], metadata.info.setdefault(INFO_KEY, {}))


def iter_watches(metadata: MetaData) -> Iterator[TableWatch]:
    """Iterate over the watches filed in this MetaData."""
    for by_label in watches_in(metadata).values():
        yield from by_label.values()


def owners_in(metadata: MetaData) -> dict[tuple[str, str], list[Mapper[Any] | Table]]:
    """Return the mappers and Tables that have declared each watch, by `Table.key` and label."""
    endpoints = metadata.info.get(ENDPOINTS_KEY, {})
    return {key: [endpoint.owner for endpoint in found] for key, found in endpoints.items()}


def metadata_with_watches() -> list[MetaData]:
    """Return every MetaData of this process in which a watch was filed."""
    return list(_with_watches)


def application_of(metadata: MetaData) -> str:
    """Return the name of this MetaData's application; empty where it has none."""
    name = metadata.info.get(APPLICATION_KEY, "")
    if not isinstance(name, str):
        raise ConfigurationError(f"MetaData.info[{APPLICATION_KEY!r}] must be a string, not {name!r}")
    return name


def file_watches(filings: Iterable[tuple[MetaData, TableWatch]]) -> None:
    """File all of the watches, or none where one can't be filed.

    :raises ConfigurationError: as `file_watch` does.
    """
    filed: list[tuple[MetaData, TableWatch]] = []
    try:
        for metadata, watch in filings:
            if file_watch(metadata, watch):
                filed.append((metadata, watch))
    except ConfigurationError:
        for metadata, watch in filed:
            by_label = watches_in(metadata)[watch.table_key]
            del by_label[watch.label]
            if not by_label:
                del watches_in(metadata)[watch.table_key]
        raise


def file_watch(metadata: MetaData, watch: TableWatch) -> bool:
    """File a watch; return False if the same one is there already.

    :raises ConfigurationError: for a label that the table has with other options, and for a trigger name
        that another watch of the schema has after cutting.
    """
    filed = watches_in(metadata).get(watch.table_key, {}).get(watch.label)
    if filed is not None:
        if filed != watch:
            raise ConfigurationError(
                f"table {watch.table_key!r}: the watch {watch.label!r} is already declared with other options: "
                f"give this one a label= of its own"
            )
        return False
    for other in iter_watches(metadata):
        if other.schema == watch.schema and other.function_name == watch.function_name:
            raise ConfigurationError(shared_name(other, watch))
    watches_in(metadata).setdefault(watch.table_key, {})[watch.label] = watch
    _with_watches.add(metadata)
    return True


def shared_name(one: TableWatch, other: TableWatch) -> str:
    """Say that two watches need the same function, and the remedy."""
    return (
        f"the watches {one.table_key!r}/{one.label!r} and {other.table_key!r}/{other.label!r} would both have the "
        f"trigger function {one.function_name!r}: give one of them another label="
    )
