"""The module that the entry points name: loaded by every `import alembic`, wherever this library is installed.

So it imports nothing that can fail: a failure here would break every alembic command, also of projects that
watch nothing. Other imports wait for the first comparison.

Alembic 1.20.1 wants a module that has `setup`, the versions before it iterate over what the entry point
names: `plugin` is a module, and iterates over itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import ModifyTableOps, UpgradeOps
    from alembic.runtime.plugins import Plugin
    from alembic.util import PriorityDispatchResult
    from sqlalchemy import Table

#: Below "alembic", so that a stock alembic.ini shows it, and `fileConfig` leaves it enabled.
log = logging.getLogger("alembic.autogenerate.sqlalchemy_watch")

#: The first Alembic this works with, and the first PostgreSQL.
MINIMUM_ALEMBIC = (1, 20, 1)
MINIMUM_SERVER = (13,)

#: Alembic stops the functions of one element together; this one is ours.
_ELEMENT = "sqlalchemy_watch"

#: On the autogenerate context, while the plugin is enabled under both of its names.
_DONE = "_sqlalchemy_watch_done"


class WatchPlugin(ModuleType):
    """A module, as Alembic 1.20.1 wants it, and a collection of modules, as it was before."""

    def __iter__(self) -> Iterator[WatchPlugin]:
        yield self

    def setup(self, plugin: Plugin) -> None:
        """Register the comparators; called in the middle of `import alembic`."""
        from alembic.util import DispatchPriority

        plugin.add_autogenerate_comparator(_see_table, "table", _ELEMENT, qualifier="postgresql")
        plugin.add_autogenerate_comparator(
            _compare, "schema", _ELEMENT, qualifier="postgresql", priority=DispatchPriority.LAST
        )


def _see_table(
    context: AutogenContext,
    operations: ModifyTableOps,
    schema: str | None,
    name: str,
    existing: Table | None,
    declared: Table | None,
) -> PriorityDispatchResult:
    """Remember a table that Alembic compares: the user's `include_name` and `include_object` let it pass."""
    seen: dict[tuple[str | None, str], tuple[Any, Any]] = vars(context).setdefault(_ELEMENT, {})
    seen[schema, name] = existing, declared
    return _go_on()


def _compare(context: AutogenContext, upgrade: UpgradeOps, schemas: set[str | None]) -> PriorityDispatchResult:
    """Add the operations that watches need, after all tables are compared."""
    if vars(context).get(_DONE) or not _is_supported(context):
        return _go_on()
    vars(context)[_DONE] = True
    try:
        from . import compare
    except ImportError as error:
        # psycopg without libpq, say: a project that watches nothing goes on.
        log.warning("watches are not compared, because sqlalchemy_watch can't be imported: %s", error)
        return _go_on()
    compare.add_operations(context, upgrade, vars(context).get(_ELEMENT, {}))
    return _go_on()


def _go_on() -> PriorityDispatchResult:
    from alembic.util import PriorityDispatchResult

    return PriorityDispatchResult.CONTINUE


def _is_supported(context: AutogenContext) -> bool:
    server = getattr(context.dialect, "server_version_info", None) or MINIMUM_SERVER
    if server < MINIMUM_SERVER:
        return False
    from alembic import __version__

    version = tuple(int(part) for part in __version__.split(".")[:3] if part.isdigit())
    if version >= MINIMUM_ALEMBIC:
        return True
    from alembic.util import to_list

    if any(metadata.info.get("sqlalchemy_watch") for metadata in to_list(context.metadata, [])):
        log.warning(
            "watches are not compared: migrations of sqlalchemy_watch need Alembic %s or later, and this is %s: "
            "pip install 'sqlalchemy-watch[alembic]'",
            ".".join(map(str, MINIMUM_ALEMBIC)),
            __version__,
        )
    return False


plugin = WatchPlugin("alembic_ext.plugin")
