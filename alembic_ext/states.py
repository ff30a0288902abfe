"""A watch as statements: as it is declared, and as the database holds it.

A downgrade is made of what the database holds, not of what today's library would make: function text comes
from `pg_get_functiondef`, with the name as the declaration spells it, so that it works in every tenant's schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy_watch.catalog.installed import InstalledFunction, InstalledTrigger
from sqlalchemy_watch.catalog.modes import DEFAULT, declared_mode, has_odd_copies
from sqlalchemy_watch.catalog.ownership import may_be_made_again
from sqlalchemy_watch.catalog.status import WatchStatus
from sqlalchemy_watch.declaring.spec import TableWatch
from sqlalchemy_watch.errors import WatchError
from sqlalchemy_watch.functions.quoting import qualified, quote
from sqlalchemy_watch.triggers import ddl

_NEW = ("CREATE OR REPLACE FUNCTION", "CREATE FUNCTION")

_NAME = r'(?:"(?:[^"]|"")*"|\w+)'
_EVENT = rf"(?:INSERT|DELETE|TRUNCATE|UPDATE(?: OF {_NAME}(?:, {_NAME})*)?)"
#: A statement from `pg_get_triggerdef`: always with the table's schema, and at times with the function's.
_SPELLED_TRIGGER = re.compile(
    rf"^(?P<head>CREATE (?:CONSTRAINT )?TRIGGER {_NAME} (?:BEFORE|AFTER|INSTEAD OF) {_EVENT}(?: OR {_EVENT})*)"
    rf" ON {_NAME}\.{_NAME} (?P<middle>.*) EXECUTE FUNCTION {_NAME}(?:\.{_NAME})?"
    r"(?P<arguments>\((?:E?'(?:[^']|'')*'(?:, )?)*\))$",
    re.DOTALL,
)


@dataclass(frozen=True)
class Function:
    """A trigger function; `grants` are those that a new one needs beside its owner's."""

    name: str
    #: None for one that is not made again.
    create: str | None = field(repr=False)
    grants: tuple[str, ...] | None = ()

    def permissions(self) -> list[str]:
        """Return the statements that have to follow its creation."""
        if self.grants is None:
            return []
        lines = [] if "PUBLIC" in self.grants else [f"REVOKE ALL ON FUNCTION {self.name}() FROM PUBLIC"]
        others = [grantee for grantee in self.grants if grantee != "PUBLIC"]
        return lines + [f"GRANT EXECUTE ON FUNCTION {self.name}() TO {grantee}" for grantee in others]


@dataclass(frozen=True)
class Trigger:
    """A trigger; `create` is None for one that does not exist in this database."""

    name: str
    table: str
    create: str | None
    mode: str = DEFAULT
    #: True if its copy on a partition is in a mode in which it should not be.
    has_odd_copies: bool = False

    def switch(self) -> str:
        """Return the statement that brings it into its mode, with its copies on partitions."""
        return ddl.switch_trigger(self.name, self.table, self.mode)

    @property
    def drop(self) -> str:
        return f"DROP TRIGGER IF EXISTS {quote(self.name)} ON {self.table}"

    def differs_in_mode_alone(self, other: Trigger | None) -> bool:
        if other is None or self == other:
            return False
        return replace(self, mode=other.mode, has_odd_copies=other.has_odd_copies) == other


@dataclass(frozen=True)
class State:
    """The parts of a watch; two functions where the trigger calls another one than that of its name."""

    functions: tuple[Function, ...] = ()
    trigger: Trigger | None = None

    def leave(self, new: State) -> list[str]:
        """Return the statements that drop what the new state does not have."""
        lines = []
        trigger = self.trigger
        if trigger is not None and trigger != new.trigger and not trigger.differs_in_mode_alone(new.trigger):
            lines.append(trigger.drop)
        kept = {function.name for function in new.functions}
        return lines + [f"DROP FUNCTION IF EXISTS {f.name}()" for f in self.functions if f.name not in kept]

    def enter(self, old: State) -> list[str]:
        """Return the statements that create what the old state does not have."""
        lines = []
        trigger, present = self.trigger, {function.name: function for function in old.functions}
        for function in self.functions:
            if function.create is None or function == present.get(function.name):
                continue
            if function.name in present:
                lines.append(function.create)
            else:  # a new one never replaces what stands in its place: that would stay somebody else's
                lines += [function.create.replace(*_NEW, 1), *function.permissions()]
        if trigger is None or trigger.create is None or trigger == old.trigger:
            return lines
        if trigger.differs_in_mode_alone(old.trigger):
            return [*lines, trigger.switch()]
        return [*lines, trigger.create, *([trigger.switch()] if trigger.mode != DEFAULT else [])]


NOTHING = State()


def declared_state(watch: TableWatch, mode: str | None = None) -> State:
    """Return the state that the declaration asks for.

    :param mode: that of the trigger, where somebody chose it by hand.
    """
    table, mode = qualified(watch.schema, watch.table), mode or declared_mode(watch)
    return State(
        (Function(qualified(watch.schema, watch.function_name), ddl.create_function(watch)),),
        Trigger(watch.trigger_name, table, ddl.create_trigger(watch), mode),
    )


#: What follows the name in the `CREATE OR REPLACE FUNCTION` of a function, by its schema and name.
Definitions = Mapping[tuple[str, str], str]


def needed_definitions(item: WatchStatus) -> list[InstalledFunction]:
    """Return the functions that the installed state makes again."""
    own = item.installed if item.function_differs and not item.shares_function else None
    return [f for f in (own, item.displaced) if f is not None and not f.stranger and may_be_made_again(f)]


def installed_state(item: WatchStatus, schema: str | None, table: str, definitions: Definitions) -> State:
    """Return the state in the database; parts of a declared watch that do not differ are spelled as declared.

    :param schema: of the table, as it is declared.
    :param definitions: those that it needs.
    """
    found = item.installed
    if found is None:
        return NOTHING
    declared = declared_state(item.watch) if item.watch is not None else NOTHING
    functions = declared.functions
    if item.shares_function:
        functions = ()
    elif item.function_differs:
        functions = (_function(found, schema, definitions),)
    if item.displaced is not None:
        functions += (_function(item.displaced, schema, definitions),)
    trigger: Trigger | None
    if found.trigger is not None:
        trigger = _trigger(found, found.trigger, schema)
        if declared.trigger is not None and not item.trigger_has_other_shape:
            odd = item.watch is not None and has_odd_copies(item.watch, found)
            trigger = replace(declared.trigger, mode=trigger.mode, has_odd_copies=odd)
        if found.name != item.function_name and not may_be_made_again(found):  # what it calls is not made again
            trigger = replace(trigger, create=None)
    else:
        # Of a left-over it is gone here; where the migration is replayed it may exist.
        is_left_over = item.watch is None and not found.name_is_taken
        trigger = Trigger(found.name, qualified(schema, table), None) if is_left_over else None
    return State(functions, trigger)


def _function_name(found: InstalledFunction, schema: str | None) -> str:
    elsewhere = found.trigger is not None and found.schema != found.trigger.relation.schema
    return qualified(found.schema if elsewhere else schema, found.name)


def _function(found: InstalledFunction, schema: str | None, definitions: Definitions) -> Function:
    name = _function_name(found, schema)
    if found.stranger or not may_be_made_again(found):  # made again, it would be that of whoever runs the migration
        return Function(name, None, found.grants)
    if found.name_key not in definitions:
        raise WatchError(f"the function {'.'.join(found.name_key)} was changed meanwhile: run the command again")
    return Function(name, f"CREATE OR REPLACE FUNCTION {name}{definitions[found.name_key].rstrip()}", found.grants)


def _trigger(found: InstalledFunction, trigger: InstalledTrigger, schema: str | None) -> Trigger:
    table, function = qualified(schema, trigger.relation.name), _function_name(found, schema)
    if trigger.plain:
        events = f"{trigger.timing} {' OR '.join(trigger.events)}"
        level = "ROW" if trigger.fires_per_row else "STATEMENT"
        create = ddl.trigger_text(trigger.name, events, table, trigger.transition_tables, level, function)
    else:
        create = _SPELLED_TRIGGER.sub(
            lambda m: f"{m['head']} ON {table} {m['middle']} EXECUTE FUNCTION {function}{m['arguments']}",
            trigger.definition,
        )
    return Trigger(trigger.name, table, create, trigger.enabled)
