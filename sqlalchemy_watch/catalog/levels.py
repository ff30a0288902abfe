"""The level that a table needs in the database: statement triggers fire on the table that a statement names alone.

A declaration does not always tell: tables are partitioned by hand-written migrations, and no reflection says so.
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
    """Return the watch at the level that its table needs, unless the declaration names one."""
    if relation is None or watch.level_is_given or watch.operation == "truncated":
        return watch
    return replace(watch, level="row" if relation.needs_row_level else "statement")


def missed_writes(watch: TableWatch, relation: Relation, heard: Collection[str]) -> tuple[str, ...]:
    """Describe the writes that a trigger misses because of the table's kind.

    :param heard: the tables, as `schema.name`, that have a watch of the same operation.
    """
    if watch.operation == "truncated":
        return ()
    if relation.needs_row_level and not watch.fires_per_row:
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
