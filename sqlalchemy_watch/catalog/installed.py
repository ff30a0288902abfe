"""Tables, triggers and trigger functions as pg_catalog describes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..functions.mark import MARK, read_mark

#: The bits of `pg_trigger.tgtype`.
_ROW_BIT = 1
_TIMING_BITS = {"BEFORE": 2, "INSTEAD OF": 64}
_EVENT_BITS = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}


@dataclass(frozen=True)
class Relation:
    """A table that exists."""

    oid: int
    schema: str
    name: str
    #: As in `pg_class.relkind`.
    kind: str = "r"
    #: True if it is a partition of another table.
    is_partition: bool = False
    owner: str = ""
    #: The tables that inherit from it without being partitions, as `schema.name`.
    children: tuple[str, ...] = ()
    #: Generated columns that are not stored.
    virtual_columns: tuple[str, ...] = ()
    #: True if a foreign table inherits from it, or is a partition of it, at whatever depth.
    has_foreign_child: bool = False

    @property
    def needs_row_level(self) -> bool:
        """True if statement triggers would miss writes, or make them fail.

        They fire on the table that a statement names alone. Where they have transition tables, PostgreSQL refuses to
        write to rows of a foreign table below.
        """
        return self.kind == "p" or self.is_partition or self.has_foreign_child


@dataclass(frozen=True)
class InstalledTrigger:
    """A trigger that exists."""

    name: str
    relation: Relation
    type_bits: int
    #: The mode: the sessions in which it fires.
    enabled: str
    transition_tables: tuple[str | None, str | None]
    #: True without WHEN, column list and arguments, and where it is no constraint trigger.
    plain: bool
    #: The whole statement, from `pg_get_triggerdef`; empty for a plain one.
    definition: str
    #: The modes of its copies on partitions, each once.
    copies: tuple[str, ...] = ()

    @property
    def is_constraint(self) -> bool:
        """True if it is a constraint trigger, which nothing but DROP TRIGGER takes away."""
        return self.definition.startswith("CREATE CONSTRAINT TRIGGER")

    @property
    def timing(self) -> str:
        """`"AFTER"`, `"BEFORE"` or `"INSTEAD OF"`."""
        return next((word for word, bit in _TIMING_BITS.items() if self.type_bits & bit), "AFTER")

    @property
    def events(self) -> tuple[str, ...]:
        """The statements that fire it, as CREATE TRIGGER names them."""
        return tuple(word for word, bit in _EVENT_BITS.items() if self.type_bits & bit)

    @property
    def fires_per_row(self) -> bool:
        """True if it fires for each row, not once for a statement."""
        return bool(self.type_bits & _ROW_BIT)


@dataclass(frozen=True)
class InstalledFunction:
    """A trigger function that exists, with one of its triggers, if it has any."""

    schema: str
    name: str
    body: str
    language: str
    security_definer: bool
    settings: tuple[str, ...]
    #: The roles beside the owner that may call it, as GRANT spells them; None where nothing was granted or revoked.
    grants: tuple[str, ...] | None
    #: True if it is in the first schema of the search path.
    in_default_schema: bool
    trigger: InstalledTrigger | None
    owner: str = ""
    #: True if it belongs to the current role.
    is_own: bool = True
    #: True if its owner is the owner of its schema, a member of that, or a superuser.
    owns_schema: bool = True
    #: The tables on which its owner may make triggers anyway, by their oids.
    owned_tables: frozenset[int] = frozenset()
    #: True if it begins like one of ours, whoever made it.
    is_marked: bool = False
    #: True if a trigger calls it on a table that was not asked for.
    is_called_elsewhere: bool = False
    #: True if a trigger of its name, on one of the tables, calls something else.
    name_is_taken: bool = False
    #: The reason for which it can't be ours, in words; its body is left out then.
    stranger: str | None = None

    @property
    def name_key(self) -> tuple[str, str]:
        """Schema and name, which are unique: trigger functions have no arguments."""
        return self.schema, self.name

    @property
    def key(self) -> tuple[str, str, int | None, str | None]:
        """The function, and the trigger that calls it."""
        trigger = self.trigger
        if trigger is None:
            return (*self.name_key, None, None)
        return (*self.name_key, trigger.relation.oid, trigger.name)

    @cached_property
    def mark(self) -> tuple[int, dict[str, Any]] | None:
        """Template version and fields of the mark; None where the function isn't ours."""
        return read_mark(self.body)

    def seen_from(self, table: int | None) -> InstalledFunction:
        """Return it as it counts for a table: as a stranger's where its owner has no say over that table.

        Whoever may make a trigger on a table runs code with its writers' rights as it is. Anybody else's function is
        neither called, nor replaced (it would stay theirs, to be changed any time), nor dropped, nor made again.

        :param table: its oid; None for a function that is of no table any more.
        """
        if self.stranger or self.is_own or (self.owns_schema if table is None else table in self.owned_tables):
            return self
        what = "the schema" if table is None else "the table"
        return self.as_strangers(f"belongs to the role {self.owner!r}, which has no say over {what}")

    def as_strangers(self, reason: str) -> InstalledFunction:
        """Return it without its body: for that reason it can't be ours."""
        return replace(self, stranger=reason, body="")

    @cached_property
    def looks_marked(self) -> bool:
        """True if it begins like one of ours, even where the mark no longer parses."""
        return self.body.lstrip("\n").startswith(MARK)
