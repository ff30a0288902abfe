"""The level that a watch needs on its table, and the writes that a trigger misses.

Statement triggers fire on the table that a statement names alone, and not for the rows that a subscription writes. A
declaration does not always tell: tables are partitioned by hand-written migrations, and no reflection says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from ..declaring.spec import TableWatch
from .installed import Relation

#: By `pg_class.relkind`.
UNWATCHABLE: Final[Mapping[str, str]] = {
    "v": "it is a view, which can't have such triggers: watch the tables it selects from",
    "m": "it is a materialized view, which can't have such triggers: watch the tables it selects from",
    "f": "it is a foreign table, and what is written on its own server fires no trigger here: watch it there",
}


def at_needed_level(watch: TableWatch, relation: Relation | None) -> TableWatch:
    """Return the watch at the level that it needs on its table, unless the declaration names one."""
    if relation is None or watch.level_is_given or watch.operation == "truncated":
        return watch
    by_row = relation.needs_row_level or watch.fires == "always"
    return replace(watch, level="row" if by_row else "statement")


def level_problems(watch: TableWatch, relation: Relation) -> tuple[str, ...]:
    """Describe why a watch can't be at the level that its declaration names."""
    if not relation.has_foreign_child or watch.fires_per_row or watch.operation == "truncated":
        return ()
    return (
        "a foreign table inherits from the table, or is a partition of it, and with triggers at statement level "
        "PostgreSQL refuses to write to its rows: leave out level=, or write level='row'",
    )


def missed_writes(watch: TableWatch, relation: Relation, heard: Collection[str]) -> tuple[str, ...]:
    """Describe the writes that a trigger misses because of its level, and of the table's kind.

    :param heard: the tables, as `schema.name`, that have a watch of the same operation.
    """
    if watch.operation == "truncated":
        return ()
    return (*_missed_of_subscriptions(watch), *_missed_of_other_tables(watch, relation, heard))


def _missed_of_subscriptions(watch: TableWatch) -> tuple[str, ...]:
    if watch.fires != "always":
        return ()
    if not watch.fires_per_row:
        return (
            "triggers at statement level miss what a subscription writes after its initial copy: leave out level=, or "
            "write level='row'",
        )
    lookup = watch.discriminator.lookup if watch.discriminator is not None else None
    if lookup is None or lookup.schema is not None:
        return ()
    return (
        f"a subscription writes with an empty search_path, which does not lead to {lookup.table!r}, where the class of "
        f"a row stands, so that there is a resync in place of each event: declare the tables with schema=",
    )


def _missed_of_other_tables(watch: TableWatch, relation: Relation, heard: Collection[str]) -> tuple[str, ...]:
    if (relation.kind == "p" or relation.is_partition) and not watch.fires_per_row:
        kind, ways = ("partitioned", "to a partition") if relation.kind == "p" else ("a partition", "to its parent")
        return (
            f"the table is {kind}, and triggers at statement level miss what is written straight {ways}: leave out "
            f"level=, or write level='row'",
        )
    children = [name for name in relation.children if name not in heard]
    if not children:
        return ()
    missed = "their rows" if watch.fires_per_row else "what is written straight to them"
    return (f"{', '.join(children)} inherit from the table, and its triggers miss {missed}: watch them as well",)
