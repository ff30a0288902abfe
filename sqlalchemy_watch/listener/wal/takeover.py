"""The decision, once the slot is there again: are the events that were read before still this process's to deliver?

Pure: no connection, no clock. With its connection a consumer loses the slot to whoever stands by, and a server that was
promoted, or recovered to a point in time, goes on in a timeline of its own. Up to where that begins its log is the one
before it, byte for byte; behind that, positions stand for something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .messages import parse_lsn


@dataclass(frozen=True)
class Log:
    """The log of a server, at one time."""

    system: str
    timeline: int
    #: Up to where it was written.
    written: int
    #: The timelines before this one, and where each was left.
    ancestors: Mapping[int, int]

    @property
    def begins(self) -> int:
        """The point at which its timeline begins."""
        return max(self.ancestors.values(), default=0)

    def continues(self, other: Log) -> bool:
        """Return True if it is the same log, as far as one can see."""
        return (self.system, self.timeline) == (other.system, other.timeline)

    def shared_with(self, before: Log) -> int:
        """Return up to where this log and one of another timeline are the same; 0 where they have nothing in common."""
        return self.ancestors.get(before.timeline, 0) if self.system == before.system else 0


def parse_history(text: str) -> dict[int, int]:
    """Return timelines and where they were left, from a history file: a line for each, `1\\t0/3000148\\treason`."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        words = line.split(None, 2)
        if len(words) >= 2 and words[0].isdigit():
            found[int(words[0])] = parse_lsn(words[1])
    return found


@dataclass(frozen=True)
class Before:
    """Knowledge of the process from the time before."""

    #: The log when it last had the slot, or first looked at it; None where it has done neither.
    log: Log | None = None
    #: Up to where everything has been dispatched.
    acknowledged: int = 0
    #: The commit of the newest transaction of which something was read.
    newest: int = 0
    #: The point to which this process has moved the slot; any further, and another process has.
    moved_to: int = 0
    #: True if another process may have been the active consumer since this one was.
    others_since: bool = True
    #: True if this process has made the slot, and read nothing from it.
    slot_is_new: bool = False
    #: True if the server was seen to lack some of that since, whatever it has written by now.
    is_undone: bool = False

    def look_at(self, log: Log) -> Before:
        """Return what is known once a server has been looked at, whether or not the slot is to be had there."""
        if self.log is None:
            return replace(self, log=log)
        return replace(self, is_undone=self.is_undone or _lacks(log, self.log, self.acknowledged))

    def note_rival(self) -> Before:
        """Return what is known once another consumer has the slot: that one hears what a new slot says of itself."""
        return replace(self, others_since=True, slot_is_new=False)


@dataclass(frozen=True)
class Decision:
    """The fate of the events that were read and are not acknowledged."""

    #: True to deliver them; False to forget them, since the slot holds them, or another consumer has delivered them.
    goes_on: bool
    #: Up to where everything counts as dispatched.
    acknowledged: int
    moved_to: int
    #: True to say that the server may lack what was delivered last.
    resync: bool


def take_up(before: Before, log: Log, slot_end: int) -> Decision:
    """Decide how to go on.

    :param log: of the server that has the slot now.
    :param slot_end: up to where the slot says that it is acknowledged.
    """
    goes_on, resync = True, False
    acknowledged, moved_to = before.acknowledged, before.moved_to
    before = before.look_at(log)
    assert before.log is not None
    if before.is_undone or not log.continues(before.log):
        shared = 0 if before.is_undone else log.shared_with(before.log)
        if not before.slot_is_new:
            moved_to = min(moved_to, shared)
        if not shared or max(acknowledged, before.newest + 1) > shared:
            # Positions stand for something else from there on, and what they stood for is undone.
            goes_on, acknowledged = False, min(acknowledged, shared)
            resync = not before.slot_is_new  # a slot made anew says it itself
        elif before.others_since:
            # Nobody knows how far the other one was on the server before, unless it has moved the slot here.
            resync = slot_end <= log.begins
    if slot_end > moved_to:
        goes_on, moved_to = False, slot_end
    return Decision(goes_on, max(acknowledged, slot_end), moved_to, resync)


def _lacks(log: Log, before: Log, acknowledged: int) -> bool:
    """Return True if some of what was dispatched is not in the log: that of a server restored to an earlier time."""
    return log.continues(before) and log.written < acknowledged
