"""Gathering events for receivers of batches. No I/O, no threads: the dispatcher asks for the batches that are due."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ...events.event import Event
from ...signals.matching import freeze
from ...signals.receivers import Batching


@dataclass
class Batch:
    """Events of one sender, gathered for the receivers of one signal."""

    signal: Batching
    sender: Any
    #: The time at which it is delivered, by `time.monotonic()`, unless it is full before.
    deadline: float
    #: The end of the last transaction before that of its first event, in the server's log; 0 without durable delivery.
    preceding_end_lsn: int
    #: The events by running number; by identity where only the latest counts.
    by_key: dict[Hashable, Event[Any]] = field(default_factory=dict)
    _added: int = 0

    @property
    def events(self) -> list[Event[Any]]:
        """The events in order of arrival."""
        return list(self.by_key.values())

    def add(self, event: Event[Any]) -> None:
        """Add an event; where only the latest counts, in the place of the one before of its identity."""
        self._added += 1
        key: Hashable = self._added
        if self.signal.latest_only:
            try:
                key = freeze(event.identity)
                self.by_key.pop(key, None)
                self.by_key[key] = event
                return
            except Exception:  # from the value's own code: what can't be compared replaces nothing
                key = object()
        self.by_key[key] = event


class Gatherer:
    """The batches and the resyncs that a dispatcher has put off."""

    def __init__(self) -> None:
        self._batches: dict[tuple[int, int], Batch] = {}
        #: The end of the last transaction that was taken whole, in the server's log; 0 without durable delivery.
        self.last_end_lsn = 0
        #: Nothing behind this is acknowledged, since an event was passed over that is to be looked at again; or None.
        self.held_end_lsn: int | None = None
        #: The reasons of resyncs that were put off, with the time at which each is due, and the end of the last
        #: transaction before the one that asked first.
        self._resyncs: dict[str, tuple[float, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, signal: Batching, sender: Any, event: Event[Any]) -> Batch | None:
        """Add an event, and return the batch where that made it full."""
        key = (id(signal), id(sender))
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = Batch(signal, sender, time.monotonic() + signal.max_wait, self.last_end_lsn)
        batch.add(event)
        return self._batches.pop(key) if len(batch.by_key) >= signal.max_size else None

    def put_back(self, batches: Iterable[Batch]) -> None:
        """Add batches again that could not be delivered."""
        self._batches |= {(id(batch.signal), id(batch.sender)): batch for batch in batches}

    @property
    def batches(self) -> list[Batch]:
        """The batches that wait."""
        return list(self._batches.values())

    @property
    def delivered_end_lsn(self) -> int:
        """The end of the newest transaction up to which no event and no resync waits any more."""
        waiting = [batch.preceding_end_lsn for batch in self._batches.values()]
        if self.held_end_lsn is not None:
            waiting.append(self.held_end_lsn)
        return min([self.last_end_lsn, *waiting, *(preceding for _, preceding in self._resyncs.values())])

    @property
    def deadline(self) -> float | None:
        """The time at which the first batch or resync is due; None without any."""
        if not self._batches and not self._resyncs:
            return None
        return min([*(batch.deadline for batch in self._batches.values()), *(due for due, _ in self._resyncs.values())])

    def take_due(self) -> list[Batch]:
        """Remove the batches that are due, and return them."""
        now = time.monotonic()
        due = [key for key, batch in self._batches.items() if batch.deadline <= now]
        return [self._batches.pop(key) for key in due]

    def put_off_resync(self, reason: str, due: float) -> None:
        """Note that a resync is to be sent, at that time by `time.monotonic()`."""
        _, preceding = self._resyncs.get(reason, (due, self.last_end_lsn))
        self._resyncs[reason] = due, preceding

    def take_resyncs(self, now: float) -> list[str]:
        """Remove the resyncs that are due by then, and return their reasons."""
        due = [reason for reason, (deadline, _) in self._resyncs.items() if deadline <= now]
        for reason in due:
            del self._resyncs[reason]
        return due

    def take_all(self) -> list[Batch]:
        """Remove all batches, and return them."""
        batches, self._batches = list(self._batches.values()), {}
        return batches
