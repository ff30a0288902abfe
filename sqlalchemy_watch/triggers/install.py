"""Triggers without Alembic: along with `create_all`/`drop_all`, or by `install` and `uninstall`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, event, text

from ..aio import is_async
from ..catalog.installed import InstalledFunction
from ..catalog.matching import read_status
from ..catalog.problems import with_server_problems
from ..catalog.reading import fetcher, read_functions, read_relations
from ..catalog.status import IS_VIEW, NO_TABLE, WatchStatus
from ..catalog.virtual import virtual_problems
from ..declaring.spec import TableWatch
from ..declaring.targets import tables_of, watches_of_table
from ..errors import ConfigurationError, OwnershipError
from ..functions.quoting import qualified, quote
from .ddl import CreateFunction, RevokeExecute, create_statements, drop_statements

#: Two processes that install at once wait for each other, instead of failing on a tuple both update.
_LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(7301977042117)"


def status(bind: Engine | Connection, *targets: Any) -> list[WatchStatus]:
    """Return the state of every watch of the targets in the database, and of each left-over. Read-only.

    :param bind: an Engine or a Connection; for an AsyncConnection, `await conn.run_sync(status, Base)`.
    :param targets: declarative bases, registries, MetaData, mapped classes, Tables.
    """
    tables = tables_of(*targets)
    with _connection(bind) as connection:
        fetch = fetcher(connection)
        return with_server_problems(fetch, read_status(fetch, tables))


def install(bind: Engine | Connection, *targets: Any, remove_orphaned: bool = False) -> list[WatchStatus]:
    """Create missing triggers and replace outdated ones, in one transaction; return the changed items.

    Where only a function's body differs it is replaced without a lock on the table.

    :param bind: as for `status`.
    :param remove_orphaned: drop left-overs of ours as well.
    :raises ConfigurationError: where a table does not exist, or is a view, or has a virtual generated column that a
        watch needs; nothing is changed.
    :raises OwnershipError: where something that is not ours has a name we need; nothing is changed.
    """
    tables = tables_of(*targets)
    with _connection(bind) as connection:
        connection.execute(text(_LOCK))
        changed = []
        items = read_status(fetcher(connection), tables)
        for item in items:
            _refuse_unworkable(item.table, item.label, item.column_problems)
        for item in items:
            if item.state == "orphaned" and remove_orphaned:
                _drop_installed(connection, [item])
            elif item.watch is not None and item.state != "installed":
                _install_one(connection, item, item.watch)
            else:
                continue
            changed.append(item)
        return changed


def uninstall(bind: Engine | Connection, *targets: Any) -> list[WatchStatus]:
    """Drop the triggers and functions of the targets' tables, left-overs included; return the dropped items.

    Nothing without our mark is touched.

    :param bind: as for `status`.
    """
    tables = tables_of(*targets)
    with _connection(bind) as connection:
        connection.execute(text(_LOCK))
        items = read_status(fetcher(connection), tables)
        dropped = [item for item in items if item.installed is not None and item.installed.looks_marked]
        _drop_installed(connection, dropped)
        return dropped


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


def _install_one(connection: Connection, item: WatchStatus, watch: TableWatch) -> None:
    if NO_TABLE in item.problems:
        raise ConfigurationError(f"table {item.table!r} does not exist: create it first (metadata.create_all)")
    if IS_VIEW in item.problems:
        raise ConfigurationError(f"{item.table!r} can't be watched: {IS_VIEW}: watch the tables it selects from")
    if item.installed is not None:
        for found in (item.installed, item.displaced):
            if found is not None:
                _refuse_foreign(watch, found)
        if not item.trigger_differs:
            connection.execute(CreateFunction(watch))
            connection.execute(RevokeExecute(watch))
            return
        if item.installed.trigger is not None:
            connection.execute(text(drop_trigger_sql(item.installed)))
    for statement in create_statements(watch):
        connection.execute(statement)


def _refuse_unworkable(table: str, label: str, problems: Sequence[str]) -> None:
    if problems:
        raise ConfigurationError(f"the watch {table}/{label} can't work: {'; '.join(problems)}")


def _refuse_foreign(watch: TableWatch, found: InstalledFunction) -> None:
    if not found.looks_marked:
        raise OwnershipError(
            f"the function {found.schema}.{found.name} is not ours, and the watch {watch.table_key}/{watch.label} "
            f"needs its name: rename or drop the function, or give the watch another label="
        )


def drop_trigger_sql(found: InstalledFunction) -> str:
    """Return DROP TRIGGER for the trigger that exists."""
    assert found.trigger is not None
    relation = found.trigger.relation
    return _escaped(f"DROP TRIGGER {quote(found.trigger.name)} ON {qualified(relation.schema, relation.name)}")


def _escaped(sql: str) -> str:
    return sql.replace(":", "\\:")  # text() reads :name as a parameter


def _drop_installed(connection: Connection, items: Iterable[WatchStatus]) -> None:
    found = [item.installed for item in items if item.installed is not None]
    for function in found:
        if function.trigger is not None:
            connection.execute(text(drop_trigger_sql(function)))
    names = {function.name_key for function in found}
    # A function stays where a trigger outside of these tables calls it.
    for function in read_functions(fetcher(connection), [name for _, name in names]) if names else ():
        if function.name_key in names and function.trigger is None:
            connection.execute(text(_escaped(f"DROP FUNCTION IF EXISTS {qualified(*function.name_key)}()")))


@event.listens_for(Table, "after_create")
def _create_along(table: Table, connection: Any, **kw: Any) -> None:
    watches = watches_of_table(table)
    if not watches or connection.dialect.name != "postgresql":
        return
    if isinstance(connection, Connection):  # not the mock that prints DDL
        _refuse_foreign_functions(connection, table, watches)
        _refuse_virtual_columns(connection, table, watches)
    for watch in watches:
        for statement in create_statements(watch):
            connection.execute(statement)


@event.listens_for(Table, "before_drop")
def _drop_along(table: Table, connection: Any, **kw: Any) -> None:
    watches = watches_of_table(table)
    if not watches or connection.dialect.name != "postgresql":
        return
    if isinstance(connection, Connection):
        items = read_status(fetcher(connection), [table])
        _drop_installed(connection, [item for item in items if item.installed and item.installed.looks_marked])
        return
    for watch in watches:
        for statement in drop_statements(watch):
            connection.execute(statement)


def _refuse_foreign_functions(connection: Connection, table: Table, watches: tuple[TableWatch, ...]) -> None:
    by_name = {watch.function_name: watch for watch in watches}
    schema = table.schema or connection.scalar(text("SELECT pg_catalog.current_schema()"))
    for found in read_functions(fetcher(connection), list(by_name)):
        if found.schema == schema and found.name in by_name:
            _refuse_foreign(by_name[found.name], found)


def _refuse_virtual_columns(connection: Connection, table: Table, watches: tuple[TableWatch, ...]) -> None:
    if all(column.computed is None for column in table.columns):
        return
    for relation in read_relations(fetcher(connection), [(table.schema, table.name)]).values():
        for watch in watches:
            _refuse_unworkable(watch.table_key, watch.label, virtual_problems(watch, relation.virtual_columns))
