"""`WatchStatus`: the state of a watch, or of a left-over, in the database."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..declaring.spec import TableWatch
from .comparing import trigger_problems
from .installed import InstalledFunction, Relation
from .levels import UNWATCHABLE
from .modes import DEFAULT, declared_mode, wanted_mode

WatchState = Literal["installed", "outdated", "missing", "orphaned"]

NO_TABLE = "the table does not exist"


@dataclass(frozen=True)
class WatchStatus:
    """The state of a watch, or of a left-over, in the database.

    `state` is `"installed"`, `"outdated"` (the database has it in another form), `"missing"` (declared,
    not there) or `"orphaned"` (there and ours, not declared). `problems` describes the differences, and the
    reasons for which a watch can't work though it is installed.
    """

    state: WatchState
    table: str
    label: str
    function_name: str
    trigger_name: str
    problems: tuple[str, ...] = ()
    watch: TableWatch | None = field(default=None, repr=False)
    installed: InstalledFunction | None = field(default=None, repr=False)
    #: True if another watch or another trigger needs the installed function.
    shares_function: bool = field(default=False, repr=False)
    #: The function that has the watch's name, where its trigger calls another one.
    displaced: InstalledFunction | None = field(default=None, repr=False)
    #: Why it can't work, whatever is installed: the table's kind, or the columns that it needs.
    obstacles: tuple[str, ...] = field(default=(), repr=False)
    #: Why it can't be installed: something that is not ours, or another watch's, has its name.
    refusal: str | None = field(default=None, repr=False)
    #: The watch's table, where it exists.
    relation: Relation | None = field(default=None, repr=False)
    #: The writes that it misses though it is installed as it is declared.
    missed: tuple[str, ...] = field(default=(), repr=False)
    #: True if the function has to be created or replaced.
    function_differs: bool = field(default=True, repr=False)
    #: True if the trigger has to be created or changed.
    trigger_differs: bool = field(default=True, repr=False)

    @property
    def is_unwatchable(self) -> bool:
        """True if its table is of a kind that can't have such triggers."""
        return any(obstacle in UNWATCHABLE.values() for obstacle in self.obstacles)

    @property
    def drops_function(self) -> bool:
        """True if no declaration keeps the installed function under its name."""
        return self.installed is not None and (self.watch is None or self.installed.name != self.watch.function_name)

    @property
    def is_unreadable(self) -> bool:
        """True if something in its place has a mark that can't be read."""
        return any(f is not None and f.mark is None for f in (self.installed, self.displaced))

    @property
    def trigger_has_other_shape(self) -> bool:
        """True if the trigger has to be created anew: to switch its mode is not enough."""
        trigger = self.installed.trigger if self.installed is not None else None
        if self.watch is None or self.installed is None or trigger is None:
            return True
        in_its_mode = replace(trigger, enabled=self.wanted_mode, copies=())
        return bool(trigger_problems(self.watch, replace(self.installed, trigger=in_its_mode)))

    @property
    def wanted_mode(self) -> str:
        """The mode in which its trigger should be, as in `pg_trigger.tgenabled`."""
        if self.watch is None:
            return DEFAULT
        return declared_mode(self.watch) if self.installed is None else wanted_mode(self.watch, self.installed)
