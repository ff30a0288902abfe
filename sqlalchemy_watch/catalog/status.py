"""`WatchStatus`: how a watch, or a left-over, stands in the database."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..declaring.spec import TableWatch
from .comparing import function_problems, trigger_problems
from .installed import InstalledFunction

State = Literal["installed", "outdated", "missing", "orphaned"]

NO_TABLE = "the table does not exist"

IS_VIEW = "it is a view, which can't have such triggers"


@dataclass(frozen=True)
class WatchStatus:
    """How a watch, or a left-over, stands in the database.

    `state` is `"installed"`, `"outdated"` (the database has it in another form), `"missing"` (declared,
    not there) or `"orphaned"` (there and ours, not declared). `problems` says in words what differs, and
    why a watch can't work though it is installed.
    """

    state: State
    table: str
    label: str
    function_name: str
    trigger_name: str
    problems: tuple[str, ...] = ()
    watch: TableWatch | None = field(default=None, repr=False)
    installed: InstalledFunction | None = field(default=None, repr=False)
    #: Whether another watch or another trigger needs the installed function.
    shares_function: bool = field(default=False, repr=False)
    #: What stands under the watch's name, where its trigger calls another function.
    displaced: InstalledFunction | None = field(default=None, repr=False)
    #: Why the watch can't work, whatever is installed: of columns that it needs.
    column_problems: tuple[str, ...] = field(default=(), repr=False)

    @property
    def drops_function(self) -> bool:
        """Whether nothing that is declared keeps the installed function under its name."""
        return self.installed is not None and (self.watch is None or self.installed.name != self.watch.function_name)

    @property
    def is_foreign(self) -> bool:
        """Whether something that is not ours, or that nobody can read, stands in its place."""
        return any(f is not None and f.mark is None for f in (self.installed, self.displaced))

    @property
    def function_differs(self) -> bool:
        """Whether the function has to be created or replaced."""
        return self.watch is None or self.installed is None or bool(function_problems(self.watch, self.installed))

    @property
    def trigger_differs(self) -> bool:
        """Whether replacing the function alone would not do."""
        return self.watch is None or self.installed is None or bool(trigger_problems(self.watch, self.installed))

    @property
    def trigger_has_other_shape(self) -> bool:
        """Whether switching the trigger on would not do."""
        trigger = self.installed.trigger if self.installed is not None else None
        if self.watch is None or self.installed is None or trigger is None:
            return True
        return bool(trigger_problems(self.watch, replace(self.installed, trigger=replace(trigger, enabled="O"))))
