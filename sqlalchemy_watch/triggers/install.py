"""Triggers without Alembic: along with `create_all`/`drop_all`, or by `install` and `uninstall`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, Table, event, text
from sqlalchemy.exc import DBAPIError

from ..aio import is_async
from ..catalog.installed import InstalledTrigger
from ..catalog.matching import read_status
from ..catalog.problems import with_hidden_tables, with_mute_writers, with_server_problems
from ..catalog.reading import Scope, fetcher, read_functions
from ..catalog.status import NO_TABLE, WatchStatus
from ..declaring.spec import TableWatch
from ..declaring.targets import tables_of, watches_of_table
from ..declaring.translating import map_of
from ..errors import ConfigurationError, OwnershipError
from ..functions.quoting import qualified, quote
from .checking import refuse_broken_conditions
from .ddl import (
    CreateFunction,
    RevokeExecute,
    SwitchTrigger,
    WatchDDL,
    create_statements,
    create_trigger_statements,
    drop_statements,
)
from .roles import naming_the_role, owners_of

#: Attempts where another process changes the same triggers at the same time.
ATTEMPTS = 5


def status(bind: Engine | Connection, *targets: Any) -> list[WatchStatus]:
    """Return the state of every watch of the targets in the database, and of each left-over. Read-only.

    :param bind: an Engine or a Connection; for an AsyncConnection, `await conn.run_sync(status, Base)`.
    :param targets: declarative bases, registries, MetaData, mapped classes, Tables.
    """
    tables = tables_of(*targets)
    with _connection(bind) as connection:
        fetch = fetcher(connection)
        items = with_mute_writers(fetch, with_hidden_tables(fetch, _read(connection, tables)))
        return with_server_problems(fetch, items)


def install(bind: Engine | Connection, *targets: Any, remove_orphaned: bool = False) -> list[WatchStatus]:
    """Create missing triggers and replace outdated ones, in one transaction; return the changed items.

    Where only a function's body differs it is replaced without a lock on the table.

    :param bind: as for `status`.
    :param remove_orphaned: drop left-overs of ours as well.
    :raises ConfigurationError: where a table does not exist, or is a view, or has a virtual generated column that a
        watch needs, and where the server can't make sense of a `when`; nothing is changed.
    :raises OwnershipError: where something that is not ours, or another watch's, has a name we need, and where another
        role has to do it; nothing is changed.
    """
    tables = tables_of(*targets)

    def change(connection: Connection, items: list[WatchStatus]) -> list[WatchStatus]:
        for item in items:
            _refuse(item)
        refuse_broken_conditions(connection, [item.watch for item in items if item.watch is not None])
        if not remove_orphaned:
            _refuse_used_left_overs(items)
        wanting = ("missing", "outdated", "orphaned") if remove_orphaned else ("missing", "outdated")
        changed = [item for item in items if item.state in wanting]
        owners = owners_of(connection, changed)
        for item in changed:
            with naming_the_role(item, owners):
                if item.watch is None:
                    _drop_installed(connection, [item])
                else:
                    _install_one(connection, item, item.watch)
        _refuse_taken(connection, tables if changed else ())
        return changed

    with _connection(bind) as connection:
        return _changed(connection, tables, change)


def uninstall(bind: Engine | Connection, *targets: Any) -> list[WatchStatus]:
    """Drop the triggers and functions of the targets' tables, left-overs included; return the dropped items.

    Nothing without our mark is touched.

    :param bind: as for `status`.
    """
    tables = tables_of(*targets)

    def change(connection: Connection, items: list[WatchStatus]) -> list[WatchStatus]:
        dropped = [item for item in items if item.installed is not None and item.installed.looks_marked]
        _drop_installed(connection, dropped)
        return dropped

    with _connection(bind) as connection:
        return _changed(connection, tables, change)


def _changed(
    connection: Connection,
    tables: Sequence[Table],
    change: Callable[[Connection, list[WatchStatus]], list[WatchStatus]],
) -> list[WatchStatus]:
    """Change what is installed; begin again where another process was faster, and return the changed items.

    There is no lock of a number of its own, which anybody could take: what both change makes the second one wait, and
    fail.
    """
    items = _read(connection, tables)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _savepoint(connection):
                return change(connection, items)
        except DBAPIError as error:
            if error.connection_invalidated or attempt == ATTEMPTS:
                raise
            before, items = items, _read(connection, tables)
            if items == before:  # nobody was
                raise
    raise AssertionError("unreachable")


def _savepoint(connection: Connection) -> AbstractContextManager[Any]:
    autocommit = getattr(connection.connection.dbapi_connection, "autocommit", False)
    return nullcontext() if autocommit is True else connection.begin_nested()


@contextmanager
def _connection(bind: Engine | Connection) -> Iterator[Connection]:
    if isinstance(bind, Connection):
        _check_dialect(bind)
        yield bind
    elif isinstance(bind, Engine):
        _check_dialect(bind)
        with bind.begin() as connection:
            yield connection
    elif is_async(bind, "AsyncEngine", "AsyncConnection"):
        raise ConfigurationError(
            "this function is synchronous: use `async with engine.begin() as conn: await conn.run_sync(install, Base)`"
        )
    else:
        raise ConfigurationError(f"{bind!r} is neither an Engine nor a Connection")


def _check_dialect(bind: Engine | Connection) -> None:
    if bind.dialect.name != "postgresql":
        raise ConfigurationError(f"only PostgreSQL can be watched, and this is {bind.dialect.name}")


def _read(connection: Connection, tables: Iterable[Table], *, finds_leftovers: bool = True) -> list[WatchStatus]:
    return read_status(fetcher(connection), tables, map_of(connection), finds_leftovers=finds_leftovers)


def _install_one(connection: Connection, item: WatchStatus, watch: TableWatch) -> None:
    statements: list[WatchDDL] = [CreateFunction(watch), RevokeExecute(watch)] if item.function_differs else []
    if item.trigger_differs:
        trigger = item.installed.trigger if item.installed is not None else None
        replaces = trigger is not None and _can_replace(connection, item, trigger)
        if not (replaces or item.trigger_has_other_shape):
            statements.append(SwitchTrigger(watch, item.wanted_mode))
        else:
            if trigger is not None and not replaces:
                connection.execute(text(drop_trigger_sql(trigger)))
            statements += create_trigger_statements(watch, item.wanted_mode, replaces=replaces)
    for statement in statements:
        with _briefly():
            connection.execute(statement)


@contextmanager
def _briefly() -> Iterator[None]:
    """Have an error tell which function or trigger it is of, and not the function's whole text."""
    try:
        yield
    except DBAPIError as error:
        first, *more = (error.statement or "").split("\n", 1)
        error.statement = f"{first} ..." if more else first
        raise


def _can_replace(connection: Connection, item: WatchStatus, trigger: InstalledTrigger) -> bool:
    version = connection.dialect.server_version_info
    # PostgreSQL would leave a row trigger's copies on the partitions, where one for statements takes its place.
    has_copies = trigger.fires_per_row and item.relation is not None and item.relation.kind == "p"
    return version is not None and version >= (14,) and not trigger.is_constraint and not has_copies


def _refuse(item: WatchStatus) -> None:
    if item.watch is None:
        return
    if item.refusal is not None:
        raise OwnershipError(item.refusal)
    if NO_TABLE in item.problems:
        raise ConfigurationError(f"table {item.table!r} does not exist: create it first (metadata.create_all)")
    if item.obstacles:
        raise ConfigurationError(f"the watch {item.table}/{item.label} can't work: {'; '.join(item.obstacles)}")


def _refuse_taken(connection: Connection, tables: Sequence[Table]) -> None:
    """Raise where a stranger was faster with the name of a function: CREATE OR REPLACE leaves it the stranger's."""
    for item in _read(connection, tables, finds_leftovers=False) if tables else ():
        _refuse(item)


def _refuse_used_left_overs(items: Sequence[WatchStatus]) -> None:
    """Raise where a left-over's trigger would go on calling a function that a watch is to take over."""
    used = {
        item.installed.name_key: item
        for item in items
        if item.watch is None and item.installed is not None and item.installed.trigger is not None
    }
    for item in items:
        for function in (item.installed, item.displaced) if item.watch is not None else ():
            left = None if function is None or function.name != item.function_name else used.get(function.name_key)
            if left is not None and (left.table, left.label) != (item.table, item.label):
                raise OwnershipError(
                    f"the watch {item.table}/{item.label} needs the name of the function that the trigger of "
                    f"{left.table}/{left.label} calls, which is not declared any more: remove that one as well, with "
                    f"install(..., remove_orphaned=True)"
                )


def drop_trigger_sql(trigger: InstalledTrigger) -> str:
    """Return DROP TRIGGER for a trigger that exists."""
    relation = trigger.relation
    return _escaped(f"DROP TRIGGER {quote(trigger.name)} ON {qualified(relation.schema, relation.name)}")


def _escaped(sql: str) -> str:
    return sql.replace(":", "\\:")  # text() reads :name as a parameter


def _drop_installed(connection: Connection, items: Iterable[WatchStatus]) -> None:
    found = [item.installed for item in items if item.installed is not None]
    for function in found:
        if function.trigger is not None:
            connection.execute(text(drop_trigger_sql(function.trigger)))
    names = {function.name_key for function in found}
    scope = Scope([name for _, name in names], [], {schema for schema, _ in names}, finds_leftovers=False)
    # A function stays where a trigger outside of these tables calls it.
    for function in read_functions(fetcher(connection), scope).functions if names else ():
        if function.name_key in names and not function.is_called_elsewhere:
            connection.execute(text(_escaped(f"DROP FUNCTION IF EXISTS {qualified(*function.name_key)}()")))


@event.listens_for(Table, "after_create")
def _create_along(table: Table, connection: Any, **kw: Any) -> None:
    watches = watches_of_table(table)
    if not watches or connection.dialect.name != "postgresql":
        return
    if isinstance(connection, Connection):
        items = [item for item in _read(connection, [table]) if item.watch is not None]
        for item in items:
            _refuse(item)
        refuse_broken_conditions(
            connection, [item.watch for item in items if item.watch is not None], others_exist=False
        )
        for item in items:
            if item.watch is not None and item.state != "installed":
                _install_one(connection, item, item.watch)
        _refuse_taken(connection, [table])
        return
    for watch in watches:  # the mock that prints DDL
        for statement in create_statements(watch):
            connection.execute(statement)


@event.listens_for(MetaData, "after_create")
def _check_along(metadata: MetaData, connection: Any, tables: Iterable[Table], **kw: Any) -> None:
    # Once more, as all tables are there that a subquery may name.
    if connection.dialect.name != "postgresql" or not isinstance(connection, Connection):
        return
    if not connection.get_execution_options().get("schema_translate_map"):
        refuse_broken_conditions(connection, (watch for table in tables for watch in watches_of_table(table)))


@event.listens_for(Table, "before_drop")
def _drop_along(table: Table, connection: Any, **kw: Any) -> None:
    watches = watches_of_table(table)
    if not watches or connection.dialect.name != "postgresql":
        return
    if isinstance(connection, Connection):
        items = _read(connection, [table])
        _drop_installed(connection, [item for item in items if item.installed and item.installed.looks_marked])
        return
    for watch in watches:
        for statement in drop_statements(watch):
            connection.execute(statement)
