"""Targets of `Listener`, `install` and the others: bases, registries, MetaData, models, Tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import MetaData, Table
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import Mapper, registry

from ..errors import ConfigurationError
from .filing import living_watches, shared_name
from .spec import TableWatch


def tables_of(*targets: Any) -> tuple[Table, ...]:
    """Return all tables of the targets, watched or not, each once.

    :raises ConfigurationError: for no target at all, for one of another kind, and where two watches need one name.
    """
    if not targets:
        raise ConfigurationError("nothing to watch is given: pass a declarative base, a MetaData, models or Tables")
    tables = tuple(dict.fromkeys(table for target in targets for table in _tables(target)))
    refuse_shared_names(tables)
    return tables


def refuse_shared_names(tables: Iterable[Table]) -> None:
    """Raise where two watches, each of another MetaData, need the same function.

    :raises ConfigurationError: naming both, and the remedy.
    """
    tables = tuple(tables)
    if len({table.metadata for table in tables}) < 2:  # of one MetaData they are refused where they are declared
        return
    owners: dict[tuple[str | None, str], TableWatch] = {}
    for table in tables:
        for watch in watches_of_table(table):
            other = owners.setdefault((watch.schema, watch.function_name), watch)
            if other.identity != watch.identity:
                raise ConfigurationError(shared_name(other, watch))


def watches_of(*targets: Any) -> tuple[TableWatch, ...]:
    """Return all watches of the targets' tables."""
    return tuple(watch for table in tables_of(*targets) for watch in watches_of_table(table))


def watches_of_table(table: Table) -> tuple[TableWatch, ...]:
    """Return the watches of one table."""
    return living_watches(table)


def mappers_of(*targets: Any) -> list[Mapper[Any]]:
    """Return the mappers of bases, registries and models, by their classes' names; MetaData and Tables know of none."""
    found: dict[Mapper[Any], None] = {}
    for target in targets:
        mapper = sa_inspect(target, raiseerr=False) if isinstance(target, type) else None
        known = target if isinstance(target, registry) else getattr(target, "registry", None)
        if isinstance(mapper, Mapper):
            found |= dict.fromkeys(mapper.self_and_descendants)
        elif isinstance(known, registry):
            found |= dict.fromkeys(known.mappers)
    return sorted(found, key=lambda mapper: mapper.class_.__qualname__)


def _tables(target: Any) -> Iterator[Table]:
    if isinstance(target, Table):
        yield target
        return
    if isinstance(target, MetaData):
        yield from target.tables.values()
        return
    if isinstance(target, registry):
        yield from target.metadata.tables.values()
        return
    mapper = sa_inspect(target, raiseerr=False) if isinstance(target, type) else None
    if isinstance(mapper, Mapper):
        # Rows of subclasses are rows of the model, and an update may touch their tables alone.
        for below in mapper.self_and_descendants:
            for selectable in below.tables:
                if isinstance(selectable, Table):
                    yield selectable
        return
    metadata = getattr(target, "metadata", None)
    if isinstance(metadata, MetaData):
        yield from metadata.tables.values()
        return
    raise ConfigurationError(
        f"{target!r} can't be watched: pass a declarative base, a registry, a MetaData, a mapped class or a Table"
    )
