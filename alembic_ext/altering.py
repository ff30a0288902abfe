"""A table's own operations, with the watches that step aside for them.

The watches go where the table's operations go: a hook that takes a column's change out of the migration takes out what
was to be done for it as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op
from alembic.operations import ops

from .operations import WatchOp


@dataclass(frozen=True)
class Aside:
    """A watch that steps aside, and comes back, where one of these columns changes."""

    columns: frozenset[str]
    away: WatchOp
    back: WatchOp

    def reversed(self) -> Aside:
        return Aside(self.columns, self.back.reverse(), self.away.reverse())


class AlteredTableOps(ops.ModifyTableOps):
    """Operations on one table, between those that its watches need.

    :param asides: the watches; only those whose columns still change are in the migration.
    """

    def __init__(
        self,
        table_name: str,
        ops: Sequence[ops.MigrateOperation],
        *,
        schema: str | None = None,
        asides: Sequence[Aside] = (),
    ) -> None:
        super().__init__(table_name, ops, schema=schema)
        self.asides = tuple(asides)

    def reverse(self) -> AlteredTableOps:
        return AlteredTableOps(
            self.table_name,
            [operation.reverse() for operation in reversed(self.ops)],
            schema=self.schema,
            asides=[aside.reversed() for aside in reversed(self.asides)],
        )

    @property
    def needed(self) -> list[Aside]:
        """The watches whose columns change."""
        changed = {name for operation in self.ops for name in changed_columns(operation)}
        return [aside for aside in self.asides if not changed.isdisjoint(aside.columns)]


@renderers.dispatch_for(AlteredTableOps)
def render_altered_table(context: AutogenContext, operation: AlteredTableOps) -> list[str]:
    """Return the lines of the watches around those of the table."""
    plain = ops.ModifyTableOps(operation.table_name, operation.ops, schema=operation.schema)
    away = [line for aside in operation.needed for line in render_op(context, aside.away)]
    back = [line for aside in operation.needed for line in render_op(context, aside.back)]
    return [*away, *render_op(context, plain), *back]


def altered_columns(operations: Iterable[ops.MigrateOperation]) -> list[str]:
    """Return the columns that are dropped, retyped or renamed."""
    return [name for o in operations if not isinstance(o, ops.AddColumnOp) for name in changed_columns(o)]


def changed_columns(operation: ops.MigrateOperation) -> list[str]:
    """Return the column that is added, dropped, retyped or renamed, under all its names."""
    if isinstance(operation, ops.AddColumnOp):
        return [operation.column.name]
    if isinstance(operation, ops.DropColumnOp):
        return [operation.column_name]
    if isinstance(operation, ops.AlterColumnOp) and (operation.modify_type is not None or operation.modify_name):
        return [name for name in (operation.column_name, operation.modify_name) if name]
    return []
