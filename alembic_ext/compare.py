"""Declarations and database become operations, in the order that a migration needs.

Removals first, then Alembic's own operations, then the rest; a downgrade, the reversed list of the reversed
operations, is then in order as well.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence

from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from alembic.util import to_list
from sqlalchemy import Table

from sqlalchemy_watch.catalog.matching import match_watches
from sqlalchemy_watch.catalog.reading import fetcher
from sqlalchemy_watch.catalog.status import WatchStatus
from sqlalchemy_watch.declaring.filing import application_of
from sqlalchemy_watch.functions.body import function_body
from sqlalchemy_watch.functions.quoting import quote

from .operations import WatchOp
from .render import render_watch as render_watch  # so that Alembic finds it
from .states import NOTHING, State, declared_state, installed_state

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
    declared = [table for _, table in tables.values() if table is not None]
    leaving = [existing for existing, table in tables.values() if existing is not None and table is None]
    applications = {application_of(metadata) for metadata in to_list(context.metadata, [])}
    matching = match_watches(fetcher(context.connection), declared, applications, leaving)
    for function in matching.unreadable:
        log.warning(
            "the function %s.%s has the mark of sqlalchemy_watch, but its first line can't be read: it is left alone; "
            "restore the line, or drop the function",
            *function.name_key,
        )
    altered = _altered_columns(upgrade.ops)
    default = context.dialect.default_schema_name
    front: list[ops.MigrateOperation] = []
    behind: list[ops.MigrateOperation] = []
    for item in matching.items:
        if item.is_foreign:
            _warn_of_foreign(item)
            continue
        for problem in item.column_problems:
            log.warning("the watch %s/%s can't work: %s", item.table, item.label, problem)
        schema, table = _place(item, matching.declared_schemas)
        old = installed_state(item, schema, table)
        new = declared_state(item.watch) if item.watch is not None else NOTHING
        columns = altered.get((None if schema == default else schema, table), ())
        if item.watch is not None and old.trigger is not None and _names_one(item, columns):
            away = State(old.functions, None)
            front.append(WatchOp(item.table, item.label, old, away, reason="a column it names changes", aside=True))
            behind.append(WatchOp(item.table, item.label, away, new, reason="; ".join(item.problems), aside=True))
        elif item.state != "installed":
            operation = WatchOp(item.table, item.label, old, new, reason="; ".join(item.problems))
            log.info("Detected %s watch %r, signal %r: %s", operation.verb, item.table, item.label, operation.reason)
            (front if item.watch is None else behind).append(operation)
    upgrade.ops[:] = [*front, *upgrade.ops, *behind]


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


def _warn_of_foreign(item: WatchStatus) -> None:
    assert item.installed is not None
    if item.installed.looks_marked:
        return  # among the unreadable ones
    log.warning(
        "the watch %s/%s is not in the migration, because %s: rename or drop it, or give the watch another label=",
        item.table,
        item.label,
        "; ".join(item.problems),
    )


def _altered_columns(operations: Iterable[ops.MigrateOperation]) -> dict[Place, list[str]]:
    """Return the columns that are dropped, retyped or renamed, by table."""
    altered: dict[Place, list[str]] = {}
    for operation in operations:
        if isinstance(operation, ops.ModifyTableOps):
            names = [name for part in operation.ops if (name := _altered_column(part)) is not None]
            altered.setdefault((operation.schema, operation.table_name), []).extend(names)
    return altered


def _altered_column(operation: ops.MigrateOperation) -> str | None:
    if isinstance(operation, ops.DropColumnOp):
        return operation.column_name
    if isinstance(operation, ops.AlterColumnOp) and (operation.modify_type is not None or operation.modify_name):
        return operation.column_name
    return None


def _names_one(item: WatchStatus, columns: Sequence[str]) -> bool:
    """Return True if the function names one of the columns, as it is or as it is to be.

    A condition is text of the user's own, so the names are looked for in the text. A trigger that steps aside
    without need does no harm: the table is locked anyway.
    """
    bodies = [item.installed.body] if item.installed is not None else []
    bodies += [function_body(item.watch)] if item.watch is not None else []
    return any(re.search(rf"(?<!\w){re.escape(quote(c))}(?!\w)", body) for c in columns for body in bodies)
