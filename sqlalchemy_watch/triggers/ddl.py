"""DDL elements for a watch; SQLAlchemy compiles them, for PostgreSQL only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement

from ..catalog.modes import DEFAULT, declared_mode
from ..declaring.spec import TableWatch
from ..functions.body import function_body, settings
from ..functions.expressions import TRIGGER_EVENTS, transition_tables
from ..functions.quoting import qualified, quote

#: By the mode that a trigger is to be in.
_SWITCHES: Final = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


class WatchDDL(ExecutableDDLElement):
    """A statement about one watch."""

    def __init__(self, watch: TableWatch) -> None:
        self.watch = watch


class CreateFunction(WatchDDL):
    """`CREATE OR REPLACE FUNCTION`, which takes no lock on the table."""


class RevokeExecute(WatchDDL):
    """`REVOKE ALL ON FUNCTION`: only its owner can call the function. Firing a trigger asks for no such right."""


class CreateTrigger(WatchDDL):
    """`CREATE TRIGGER`."""


class ReplaceTrigger(WatchDDL):
    """`CREATE OR REPLACE TRIGGER` (PostgreSQL 14), which takes no more than the right TRIGGER; it also enables it."""


class SwitchTrigger(WatchDDL):
    """`ALTER TABLE ... ENABLE ... TRIGGER`, which takes the table's owner; its copies on partitions follow.

    :param mode: as in `pg_trigger.tgenabled`.
    """

    def __init__(self, watch: TableWatch, mode: str) -> None:
        super().__init__(watch)
        self.mode = mode


class DropTrigger(WatchDDL):
    """`DROP TRIGGER IF EXISTS`."""


class DropFunction(WatchDDL):
    """`DROP FUNCTION IF EXISTS`."""


def create_statements(watch: TableWatch) -> tuple[WatchDDL, ...]:
    """Return the statements that create a watch, in order."""
    return CreateFunction(watch), RevokeExecute(watch), *create_trigger_statements(watch, declared_mode(watch))


def create_trigger_statements(watch: TableWatch, mode: str, *, replaces: bool = False) -> tuple[WatchDDL, ...]:
    """Return the statements that create a trigger in a mode, in order."""
    create = (ReplaceTrigger if replaces else CreateTrigger)(watch)
    return (create,) if mode == DEFAULT else (create, SwitchTrigger(watch, mode))


def drop_statements(watch: TableWatch) -> tuple[WatchDDL, ...]:
    """Return the statements that drop a watch, in order."""
    return DropTrigger(watch), DropFunction(watch)


def _function(watch: TableWatch) -> str:
    return qualified(watch.home, watch.function_name)


def _table(watch: TableWatch) -> str:
    return qualified(watch.home, watch.table)


def dollar_quoted(body: str) -> str:
    """Return a function body as a literal whose tag does not occur in it."""
    tag = "$watch$"
    number = 0
    while tag in body:
        number += 1
        tag = f"$watch{number}$"
    return f"{tag}{body}{tag}"


def create_function(watch: TableWatch) -> str:
    lines = [f"CREATE OR REPLACE FUNCTION {_function(watch)}() RETURNS trigger LANGUAGE plpgsql"]
    for name, value in settings(watch):
        lines.append(f"SET {quote(name)} = '{value}'")
    return "\n".join([*lines, f"AS {dollar_quoted(function_body(watch))}"])


def revoke_execute(watch: TableWatch) -> str:
    return f"REVOKE ALL ON FUNCTION {_function(watch)}() FROM PUBLIC"


def create_trigger(watch: TableWatch) -> str:
    return trigger_text(
        watch.trigger_name,
        f"AFTER {TRIGGER_EVENTS[watch.operation]}",
        _table(watch),
        transition_tables(watch),
        "ROW" if watch.fires_per_row else "STATEMENT",
        _function(watch),
    )


def trigger_text(
    name: str, events: str, table: str, transition: tuple[str | None, str | None], level: str, function: str
) -> str:
    """Return `CREATE TRIGGER`; all but `name` and the names of the transition tables is quoted already."""
    old, new = transition
    names = [f"OLD TABLE AS {quote(old)}"] if old else []
    names += [f"NEW TABLE AS {quote(new)}"] if new else []
    referencing = f" REFERENCING {' '.join(names)}" if names else ""
    return (
        f"CREATE TRIGGER {quote(name)} {events} ON {table}{referencing} FOR EACH {level} EXECUTE FUNCTION {function}()"
    )


def replace_trigger(watch: TableWatch) -> str:
    return create_trigger(watch).replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)


def switch_trigger(name: str, table: str, mode: str) -> str:
    """Return `ALTER TABLE ... TRIGGER`; the table is quoted already."""
    return f"ALTER TABLE {table} {_SWITCHES[mode]} TRIGGER {quote(name)}"


def drop_trigger(watch: TableWatch) -> str:
    return f"DROP TRIGGER IF EXISTS {quote(watch.trigger_name)} ON {_table(watch)}"


def drop_function(watch: TableWatch) -> str:
    return f"DROP FUNCTION IF EXISTS {_function(watch)}()"


def _register(element: type[WatchDDL], text: Callable[[TableWatch], str]) -> None:
    @compiles(element, "postgresql")
    def compile_(element: WatchDDL, compiler: Any, **kw: Any) -> str:
        return _as_drivers_read_it(text(element.watch), compiler)


def _as_drivers_read_it(statement: str, compiler: Any) -> str:
    # Some read percent signs even in a statement without parameters; the compiler knows which.
    return str(compiler.sql_compiler.post_process_text(statement))


@compiles(SwitchTrigger, "postgresql")
def _compile_switch(element: SwitchTrigger, compiler: Any, **kw: Any) -> str:
    watch = element.watch
    return _as_drivers_read_it(switch_trigger(watch.trigger_name, _table(watch), element.mode), compiler)


_register(CreateFunction, create_function)
_register(RevokeExecute, revoke_execute)
_register(CreateTrigger, create_trigger)
_register(ReplaceTrigger, replace_trigger)
_register(DropTrigger, drop_trigger)
_register(DropFunction, drop_function)
