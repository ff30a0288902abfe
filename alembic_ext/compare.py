"""Declarations and database become operations, in the order that a migration needs.

Removals first, then Alembic's own operations, then the rest; a downgrade, the reversed list of the reversed
operations, is then in order as well. Watches that step aside for a column stand around its table's operations.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from alembic.util import to_list
from sqlalchemy import Connection, Table

from sqlalchemy_watch.catalog.installed import InstalledFunction
from sqlalchemy_watch.catalog.matching import match_watches
from sqlalchemy_watch.catalog.reading import fetcher, read_definitions
from sqlalchemy_watch.catalog.status import NO_TABLE, WatchStatus
from sqlalchemy_watch.declaring.filing import application_of
from sqlalchemy_watch.declaring.translating import map_of
from sqlalchemy_watch.functions.body import function_body
from sqlalchemy_watch.functions.quoting import quote
from sqlalchemy_watch.triggers.checking import suspect_conditions

from .altering import AlteredTableOps, Aside, altered_columns
from .operations import WatchOp, WatchOps
from .others import split_drops
from .render import render_watches as render_watches  # so that Alembic finds them
from .states import NOTHING, State, declared_state, installed_state, needed_definitions

log = logging.getLogger("alembic.autogenerate.sqlalchemy_watch")

#: Schema (None for the default one) and name of a table, as Alembic keys them.
Place = tuple[str | None, str]


def add_operations(
    context: AutogenContext, upgrade: ops.UpgradeOps, tables: Mapping[Place, tuple[Table | None, Table | None]]
) -> None:
    """Put the operations that watches need in front of Alembic's, and behind them.

    :param tables: those that Alembic compares: as they exist, and as they are declared.
    """
    assert context.connection is not None
    if map_of(context.connection):
        log.warning(
            "migrations of watches do not follow schema_translate_map, since they are plain SQL: set the search_path, "
            "as Alembic's recipe for tenants does"
        )
    declared = [table for _, table in tables.values() if table is not None]
    leaving = [existing for existing, table in tables.values() if existing is not None and table is None]
    applications = {application_of(metadata) for metadata in to_list(context.metadata, [])}
    fetch = fetcher(context.connection)
    matching = match_watches(fetch, declared, applications, leaving)
    for function in matching.unreadable:
        log.warning(
            "the function %s.%s has the mark of sqlalchemy_watch, but its first line can't be read: it is left alone; "
            "restore the line, or drop the function",
            *function.name_key,
        )
    _warn_of_conditions(context.connection, matching.items, declared)
    _leave_out_drops_of_ours(upgrade, matching.functions)
    for words in matching.left_alone:
        log.warning("%s", words)
    asides = _Asides(upgrade.ops, context.dialect.default_schema_name)
    changing = []
    for item in matching.items:
        if not _is_left_out(item):
            place = _place(item, matching.declared_schemas)
            altered = asides.columns(item, *place)
            if item.state != "installed" or altered:
                changing.append((item, place, altered))
    definitions = read_definitions(fetch, [f for item, _, _ in changing for f in needed_definitions(item)])
    front, behind = WatchOps(), WatchOps()
    for item, place, altered in changing:
        old = installed_state(item, *place, definitions)
        new = declared_state(item.watch, item.wanted_mode) if item.watch is not None else NOTHING
        steps_aside = bool(altered) and item.watch is not None and old.trigger is not None
        if steps_aside:
            asides.add(item, *place, new, altered)
        if item.state != "installed":
            reason = "its table is new" if NO_TABLE in item.problems else "; ".join(item.problems)
            operation = WatchOp(item.table, item.label, old, new, reason=reason)
            log.info("Detected %s", operation.message)
            (front if item.watch is None or steps_aside else behind).ops.append(operation)
    first, last = ([watches] if watches.ops else [] for watches in (front, behind))
    upgrade.ops[:] = [*first, *asides.put_around(upgrade.ops), *last]


def _leave_out_drops_of_ours(upgrade: ops.UpgradeOps, functions: Iterable[InstalledFunction]) -> None:
    upgrade.ops[:], left_out = split_drops(upgrade.ops, functions)
    if left_out:
        log.warning(
            "another tool would drop what belongs to watches: left out of the migration are %s; tell the tool to "
            "ignore functions and triggers named watch_*",
            ", ".join(left_out),
        )


class _Asides:
    """The watches that step aside for a table's operations, by table."""

    def __init__(self, operations: Iterable[ops.MigrateOperation], default_schema: str | None) -> None:
        self._default_schema = default_schema
        self._columns: dict[Place, list[str]] = {}
        self._asides: dict[Place, list[Aside]] = {}
        for operation in operations:
            if isinstance(operation, ops.ModifyTableOps):
                place = operation.schema, operation.table_name
                self._columns.setdefault(place, []).extend(altered_columns(operation.ops))

    def columns(self, item: WatchStatus, schema: str | None, table: str) -> frozenset[str]:
        """Return those of the columns that change which a watch names: the reason to step aside."""
        return _named(item, self._columns.get(self._place(schema, table), ()))

    def add(self, item: WatchStatus, schema: str | None, table: str, state: State, columns: frozenset[str]) -> None:
        """Have a watch step aside for these columns, and come back.

        :param state: in front of the table's operations, and behind them.
        """
        away = State(state.functions, None)
        reason = f"it names {', '.join(map(repr, sorted(columns)))}, which changes"
        aside = Aside(
            columns,
            WatchOp(item.table, item.label, state, away, reason=reason, aside=True),
            WatchOp(item.table, item.label, away, state, reason=reason, aside=True),
        )
        if item.state == "installed":
            log.info("Detected %s", aside.away.message)
        self._asides.setdefault(self._place(schema, table), []).append(aside)

    def _place(self, schema: str | None, table: str) -> Place:
        return None if schema == self._default_schema else schema, table

    def put_around(self, operations: Iterable[ops.MigrateOperation]) -> Iterator[ops.MigrateOperation]:
        """Return the operations, those of each table with its watches."""
        for operation in operations:
            if isinstance(operation, ops.ModifyTableOps) and (
                asides := self._asides.get((operation.schema, operation.table_name))
            ):
                yield AlteredTableOps(operation.table_name, operation.ops, schema=operation.schema, asides=asides)
            else:
                yield operation


def _is_left_out(item: WatchStatus) -> bool:
    """Return True if the item can't be in a migration, and say why; warn of what it misses or lacks."""
    for obstacle in item.obstacles:
        log.warning("the watch %s/%s can't work: %s", item.table, item.label, obstacle)
    for missed in item.missed:
        log.warning("the watch %s/%s misses writes: %s", item.table, item.label, missed)
    if item.refusal is not None:
        log.warning("the watch %s/%s is not in the migration: %s", item.table, item.label, item.refusal)
        return True
    return item.is_unreadable or item.is_unwatchable


def _place(item: WatchStatus, schemas: Mapping[int, str | None]) -> Place:
    """Return the item's table, its schema as the declaration spells it."""
    if item.watch is not None:
        return item.watch.schema, item.watch.table
    assert item.installed is not None
    assert item.installed.mark is not None
    if (trigger := item.installed.trigger) is not None:
        return schemas[trigger.relation.oid], trigger.relation.name
    fields = item.installed.mark[1]
    return fields["schema"], fields["table"]


def _warn_of_conditions(connection: Connection, items: Iterable[WatchStatus], declared: Sequence[Table]) -> None:
    changed = [item.watch for item in items if item.watch is not None and item.state != "installed"]
    for watch, problem in suspect_conditions(connection, changed, declared):
        log.warning(
            "the when of the watch %s/%s can't work as the database is now: %s: right it, unless this migration makes "
            "what is missing",
            watch.table_key,
            watch.label,
            problem,
        )


def _named(item: WatchStatus, columns: Sequence[str]) -> frozenset[str]:
    """Return those of the columns that the function names, as it is or as it is to be.

    A condition is text of the user's own, so the names are looked for in the text. A trigger that steps aside
    without need does no harm: the table is locked anyway.
    """
    if not columns:
        return frozenset()
    bodies = [item.installed.body] if item.installed is not None else []
    bodies += [function_body(item.watch)] if item.watch is not None else []
    return frozenset(
        c for c in columns if any(re.search(rf"(?<!\w){re.escape(quote(c))}(?!\w)", body) for body in bodies)
    )
