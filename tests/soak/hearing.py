"""Judges what the consumers of a group heard, one taking over from the other: pure.

All times are nanoseconds of the system-wide monotonic clock.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from listener.consumers import Heard, Word

from .oracle import Verdict


class Acknowledged(NamedTuple):
    """Up to where the group had acknowledged at a time, as the server said."""

    at: int
    lsn: int


class Call(NamedTuple):
    """A call of a receiver."""

    pid: int
    heard: Heard
    #: The number of the active time in which it fell: how often consumers had become active by then.
    turn: int


@dataclass
class History:
    """What happened, and what was heard."""

    heard: Mapping[int, Sequence[Heard]]
    said: Iterable[Word]
    #: Ids that were committed, and the writer of each.
    committed: set[int]
    writers: Mapping[int, int]
    acknowledged: Sequence[Acknowledged]
    #: When the server was down: a slot may go back then, to what the server has on its disk.
    restarts: Sequence[int] = ()
    #: The key of each id: events of one key come in order, those of different keys side by side. Without, all do.
    key_of: Callable[[int], int] | None = None
    #: True if an event may be heard again long after it was acknowledged: what was parked is tried again.
    parks: bool = False


@dataclass
class _Line:
    """What of one key was heard."""

    place: tuple[int, int] = (0, 0)
    #: The farthest place that was heard.
    latest: tuple[int, int] = (0, 0)
    turn: int = -1
    #: True once something new was heard in this turn.
    is_fresh: bool = False


class Hearing:
    """One history, judged."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.verdict = Verdict()
        self.duplicates = self.late = 0
        #: Processes that lost the slot while they lived.
        self._survivors = {word.pid for word in history.said if word.what == "lost"}
        self._turns = sorted((word.at, word.pid) for word in history.said if word.what == "active")
        #: By id: where it was heard at first, and when.
        self._first: dict[int, Heard] = {}
        #: Heard by a process that had yet to notice its loss: it does not hear them again when it goes on.
        self._heard_late: set[int] = set()

    def judge(self) -> Verdict:
        calls = sorted(self._calls(), key=lambda call: call.heard.at)
        self._look_at_each(calls)
        if self._history.key_of is None:
            self._look_at_writers()
        self._look_at_ids()
        if not self._history.parks:
            self._look_at_acknowledged(calls)
        self.verdict.heard = len(self._first.keys() | self._heard_late)
        return self.verdict

    def _calls(self) -> Iterable[Call]:
        times = [at for at, _ in self._turns]
        for pid, heard in self._history.heard.items():
            for one in heard:
                turn = bisect_right(times, one.at) - 1
                if turn >= 0 and self._turns[turn][1] == pid:
                    yield Call(pid, one, turn)
                else:
                    self._note_late(pid, one)

    def _note_late(self, pid: int, one: Heard) -> None:
        """A call while another consumer is active: of a process that has yet to notice its loss."""
        self.late += 1
        self._heard_late.add(one.id)
        if pid not in self._survivors:
            self.verdict.blame("heard by who stands by", f"payment {one.id} by {pid}")

    def _look_at_each(self, calls: list[Call]) -> None:
        """In order, from one to the next; what comes again does so when somebody takes over, and before all else.

        Of each key by itself, where those are side by side.
        """
        key_of, parks = self._history.key_of or (lambda id_: 0), self._history.parks
        lines: dict[int, _Line] = {}
        for call in calls:
            one, line = call.heard, lines.setdefault(key_of(call.heard.id), _Line())
            place, before = (one.lsn, one.position), line.place
            line.place = place
            if call.turn != line.turn:
                line.turn, line.is_fresh = call.turn, False
            elif place <= before and not parks:  # what is tried again comes again
                self.verdict.blame("out of order", f"payment {one.id} at {place}, behind {before}")
            first = self._first.setdefault(one.id, one)
            if first is not one:
                self.duplicates += 1
                if (first.lsn, first.position) != place:
                    self.verdict.blame("heard at two places", f"payment {one.id}: {first[:2]}, {place}")
                if line.is_fresh and not parks:
                    self.verdict.blame("heard again in the middle", f"payment {one.id}")
            else:
                line.is_fresh = True
                if place <= line.latest:
                    self.verdict.blame("out of order", f"payment {one.id} at {place}, behind {line.latest}")
                line.latest = max(line.latest, place)

    def _look_at_writers(self) -> None:
        """A writer's transactions are heard in the order in which it committed them."""
        newest: dict[int, int] = {}
        for id_ in self._first:
            writer = self._history.writers[id_]
            if id_ < newest.get(writer, 0):
                self.verdict.blame("not in commit order", f"payment {id_} after {newest[writer]}")
            newest[writer] = id_

    def _look_at_ids(self) -> None:
        for id_ in sorted(self._history.committed - self._first.keys() - self._heard_late):
            self.verdict.blame("lost", f"payment {id_}")
        for id_ in sorted(self._first.keys() - self._history.committed):
            self.verdict.blame("what was not committed was heard", f"payment {id_}")

    def _look_at_acknowledged(self, calls: list[Call]) -> None:
        """What was acknowledged had been heard, and does not come again."""
        edges = [0, *sorted(self._history.restarts), 1 << 63]
        for start, end in itertools.pairwise(edges):
            samples = [one for one in self._history.acknowledged if start <= one.at < end]
            positions = list(itertools.accumulate((one.lsn for one in samples), max))
            for call in calls:
                if start <= call.heard.at < end:
                    number = bisect_left(positions, call.heard.lsn + 1)  # the first that is beyond its commit
                    if number < len(samples) and samples[number].at < call.heard.at:
                        self._blame_acknowledged(call.heard)

    def _blame_acknowledged(self, one: Heard) -> None:
        kind = "acknowledged unheard" if self._first[one.id] is one else "heard again though acknowledged"
        self.verdict.blame(kind, f"payment {one.id} at {one.lsn}")
