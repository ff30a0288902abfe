"""The operations: a watch goes from one state to another; watches that go one after the other."""

from __future__ import annotations

from typing import Any

from alembic.operations.ops import MigrateOperation, OpContainer

from sqlalchemy_watch.errors import in_one_line

from .states import NOTHING, State


class WatchOp(MigrateOperation):
    """Take the watch of a table from one state to another; reversing it swaps them.

    :param table: as the declaration, or the function's mark, names it (`Table.key`).
    :param label: the signal's name.
    :param reason: the differences, in words: of a column or an option its name, of a function never its text.
    :param aside: True if this makes way for another operation, or comes back after it.
    """

    def __init__(
        self, table: str, label: str, old: State, new: State, *, reason: str = "", aside: bool = False
    ) -> None:
        self.table = table
        self.label = label
        self.old = old
        self.new = new
        self.reason = in_one_line(reason)
        self.aside = aside

    @property
    def verb(self) -> str:
        """The name of the change, in a word or two."""
        if self.aside:
            return "step aside" if self.new.trigger is None else "step back"
        if self.new == NOTHING:
            return "remove"
        return "add" if self.old == NOTHING else "change"

    @property
    def message(self) -> str:
        """The change and its reason, in one line."""
        done = {"add": "added", "change": "changed", "remove": "removed"}.get(self.verb, "stepping aside of")
        return f"{done} watch {self.table!r}, signal {self.label!r}: {self.reason}"

    def reverse(self) -> WatchOp:
        return WatchOp(self.table, self.label, self.new, self.old, aside=self.aside)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return (f"{self.verb.replace(' ', '_')}_watch", self.table, self.label, self.reason)

    def statements(self) -> list[str]:
        """Return the SQL statements, in order."""
        return self.old.leave(self.new) + self.new.enter(self.old)


class WatchOps(OpContainer):
    """Operations on watches, which follow one another, so that they can share in text what they have in common.

    Hooks may take operations out, and put others in.
    """

    def reverse(self) -> WatchOps:
        return WatchOps([operation.reverse() for operation in reversed(self.ops)])
