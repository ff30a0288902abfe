"""Watches filed in the MetaData, where the triggers, the listener and the migrations find them.

They are those of a Table, not of its name: once that is removed from its MetaData they are gone, and a copy, which
`Table.to_metadata()` makes, has them too. Those of a class are gone once it is not mapped any more.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

from sqlalchemy import MetaData, Table, event
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import Mapper

from ..errors import ConfigurationError
from .spec import RootLookup, TableWatch

#: Under this key of `MetaData.info` stand the watches: `{Table.key: {label: TableWatch}}`. Not on
#: `Table.info`, which Alembic renders into `create_table(info=...)`.
INFO_KEY = "sqlalchemy_watch"

#: Under this key of `MetaData.info` an application may name itself, where several share a schema.
APPLICATION_KEY = "sqlalchemy_watch_application"

#: Under this key of `MetaData.info` stands the delivery of watches that don't name one themselves.
DELIVERY_KEY = "sqlalchemy_watch_delivery"

_with_watches: weakref.WeakSet[MetaData] = weakref.WeakSet()


class Endpoint(NamedTuple):
    """A signal that a table's watch feeds, and its owner: a mapper, or the Table itself."""

    owner: Mapper[Any] | Table
    #: A `WatchSignal`, of which this room knows nothing.
    signal: Any

    @property
    def is_living(self) -> bool:
        """False for a class that is not mapped any more, or anew."""
        return isinstance(self.owner, Table) or sa_inspect(self.owner.class_, raiseerr=False) is self.owner


class Filed(dict[str, TableWatch]):
    """The watches of one Table, by label."""

    def __init__(self, table: Table, original: Filed | None = None) -> None:
        super().__init__()
        self.table: weakref.ref[Table] = weakref.ref(table)
        #: The signals that each watch feeds. A copy's are those of the original.
        self.endpoints: dict[str, list[Endpoint]] = {} if original is None else original.endpoints
        self.original: Filed = original or self

    def living(self) -> tuple[TableWatch, ...]:
        """Return the watches that feed a signal of a Table, or of a class that is mapped."""
        return tuple(w for label, w in self.items() if any(e.is_living for e in self.endpoints.get(label, ())))

    def forget_unmapped(self) -> None:
        """Drop the watches of classes that are not mapped any more."""
        for label in list(self):
            endpoints = self.endpoints.get(label, [])
            endpoints[:] = [endpoint for endpoint in endpoints if endpoint.is_living]
            if not endpoints:
                self.drop(label)

    def drop(self, label: str) -> None:
        del self[label]
        if not self.endpoints.get(label):
            self.endpoints.pop(label, None)


class _Follows:
    """Stands among the listeners of a Table that go over to its copies, so that these find what is filed for it."""

    def __init__(self, filed: Filed) -> None:
        self.filed = filed

    def __call__(self, table: Table, parent: object) -> None:
        """Do nothing: a table that is copied has a MetaData already."""


def watches_in(metadata: MetaData) -> dict[str, Filed]:
    """Return the watches filed in this MetaData, by `Table.key` and label: the mapping itself, not a copy."""
    return cast(dict[str, Filed], metadata.info.setdefault(INFO_KEY, {}))


def living_watches(table: Table) -> tuple[TableWatch, ...]:
    """Return the watches of one table that feed a signal of it, or of a class that is mapped."""
    filed = _filed_for(table)
    return () if filed is None else filed.living()


def endpoints_of(table: Table) -> Mapping[str, list[Endpoint]]:
    """Return the signals that the table's watches feed, by label: lists that grow with further classes."""
    filed = _filed_for(table)
    return {} if filed is None else filed.endpoints


def original_of(table: Table) -> Table:
    """Return the Table that this one is a copy of, if its watches were declared there; else the Table itself."""
    filed = _filed_for(table)
    original = None if filed is None else filed.original.table()
    return table if original is None else original


def _filed_for(table: Table) -> Filed | None:
    in_metadata = watches_in(table.metadata)
    filed = in_metadata.get(table.key)
    if filed is not None and filed.table() is table:
        return filed
    followed = [f.filed for f in table.dispatch.after_parent_attach if isinstance(f, _Follows)]
    if not followed or followed[-1].table() is table:
        return followed[-1] if followed else None
    filed = Filed(table, followed[-1].original)
    filed.update((label, _moved(watch, table)) for label, watch in followed[-1].items())
    if table.metadata.tables.get(table.key) is table:
        in_metadata[table.key] = filed
    return filed


def _moved(watch: TableWatch, table: Table) -> TableWatch:
    """Return the watch of a table for its copy, which may have another name, and another schema."""
    discriminator = watch.discriminator
    if discriminator is not None and discriminator.lookup is not None:
        lookup = discriminator.lookup
        schema = table.schema if lookup.schema == watch.schema else lookup.schema
        discriminator = replace(discriminator, lookup=replace(lookup, schema=_root_schema(table, lookup, schema)))
    return replace(
        watch,
        schema=table.schema,
        table=table.name,
        discriminator=discriminator,
        application=application_of(table.metadata) or watch.application,
    )


def _root_schema(table: Table, lookup: RootLookup, default: str | None) -> str | None:
    """Return the schema of the root of a copy, to which the foreign keys lead, table by table."""
    schema, child = default, table
    for name in (*lookup.between, lookup.table):
        above = (fk.target_fullname.rpartition(".")[0] for fk in child.foreign_keys)
        key = next((key for key in above if key == name or key.endswith(f".{name}")), None)
        if key is None:
            return default
        schema = key.removesuffix(name).removesuffix(".") or None
        child = table.metadata.tables.get(key, child)
    return schema


def _iter_watches(metadata: MetaData) -> Iterator[TableWatch]:
    for filed in watches_in(metadata).values():
        yield from filed.values()


def owners_in(metadata: MetaData) -> dict[tuple[str, str], list[Mapper[Any] | Table]]:
    """Return the mappers and Tables that have declared each watch, by `Table.key` and label."""
    return {
        (key, label): [endpoint.owner for endpoint in endpoints]
        for key, filed in watches_in(metadata).items()
        for label, endpoints in filed.endpoints.items()
    }


def metadata_with_watches() -> list[MetaData]:
    """Return every MetaData of this process in which a watch was filed."""
    return list(_with_watches)


def application_of(metadata: MetaData) -> str:
    """Return the name of this MetaData's application; empty where it has none."""
    name = metadata.info.get(APPLICATION_KEY, "")
    if not isinstance(name, str):
        raise ConfigurationError(f"MetaData.info[{APPLICATION_KEY!r}] must be a string, not {name!r}")
    return name


def file_watches(filings: Iterable[tuple[Table, TableWatch, Endpoint]]) -> None:
    """File all of the watches, each with a signal that it feeds, or none where one can't be filed.

    :raises ConfigurationError: for a label that the table has with other options, and for a trigger name
        that another watch of the schema has after cutting.
    """
    filings = list(filings)
    for metadata in {table.metadata for table, _, _ in filings}:
        _forget_removed(metadata)
    places = {table: _place_for(table) for table, _, _ in filings}
    new: list[tuple[Filed, str]] = []
    try:
        for table, watch, _ in filings:
            if _file_watch(table.metadata, places[table], watch):
                new.append((places[table], watch.label))
    except ConfigurationError:
        for filed, label in new:
            filed.drop(label)
        raise
    finally:
        for table, filed in places.items():
            if not filed:
                del watches_in(table.metadata)[table.key]
    for table, watch, endpoint in filings:
        places[table].endpoints[watch.label].append(endpoint)


def _forget_removed(metadata: MetaData) -> None:
    """Drop the watches of tables that were removed from the MetaData."""
    in_metadata = watches_in(metadata)
    for key, filed in list(in_metadata.items()):
        table = filed.table()
        if table is None or metadata.tables.get(key) is not table:
            del in_metadata[key]


def _place_for(table: Table) -> Filed:
    """Return what is filed for the table; new and empty where that is nothing."""
    filed = _filed_for(table)
    if filed is None:
        filed = Filed(table)
    if not any(isinstance(f, _Follows) and f.filed is filed for f in table.dispatch.after_parent_attach):
        event.listen(table, "after_parent_attach", _Follows(filed), propagate=True)
    filed.forget_unmapped()
    watches_in(table.metadata)[table.key] = filed
    return filed


def _file_watch(metadata: MetaData, filed: Filed, watch: TableWatch) -> bool:
    """File a watch; return False if the same one is there already."""
    same = filed.get(watch.label)
    if same is not None:
        if same != watch:
            raise ConfigurationError(
                f"table {watch.table_key!r}: the watch {watch.label!r} is already declared with other options: "
                f"give this one a label= of its own"
            )
        return False
    for other in _iter_watches(metadata):
        if other.schema == watch.schema and other.function_name == watch.function_name:
            raise ConfigurationError(shared_name(other, watch))
    filed[watch.label] = watch
    filed.endpoints.setdefault(watch.label, [])
    _with_watches.add(metadata)
    return True


def shared_name(one: TableWatch, other: TableWatch) -> str:
    """Say that two watches need the same function, and the remedy."""
    return (
        f"the watches {one.table_key!r}/{one.label!r} and {other.table_key!r}/{other.label!r} would both have the "
        f"trigger function {one.function_name!r}: give one of them another label="
    )
