"""The last events of each signal, so that a browser that comes back can go on where it was, at any process.

All processes hear the same events under the same ids, and in the same order. So whoever has the one that the browser
had last has all behind it as well, as far as the ring of each signal reaches back.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from ..events.event import Event
from ..signals import guard
from ..signals.feeds import Feed
from ..signals.filters import EventSignal, FilteredSignal, feeds_of, touches

#: Numbers the events of a process in the order in which they come.
_numbers = itertools.count()

#: Of all rings, since several are looked at together.
_lock = threading.Lock()


class History:
    """The last events of one unfiltered signal."""

    def __init__(self, feed: Feed, size: int) -> None:
        self.events: deque[tuple[int, Event[Any]]] = deque(maxlen=size)
        #: Every event from this number on is kept.
        self.begin: float = math.inf
        feed.hear(self.receive, self)
        with _lock:  # from here on, and not before: what came in between was not heard
            self.begin = self.events[0][0] if self.events else next(_numbers)

    def receive(self, sender: Any, event: Event[Any]) -> None:
        """Keep an event; in the dispatch thread."""
        with _lock:
            number = next(_numbers)
            if len(self.events) == self.events.maxlen:
                self.begin = (self.events[0][0] if self.events else number) + 1
            self.events.append((number, event))

    def missed(self, reason: str) -> None:
        """Forget all: what is behind the gap can't be reached from before it."""
        with _lock:
            self.forget()

    def end(self) -> None:
        """Forget all: what comes before the next listener is missed."""
        with _lock:
            self.forget()

    def forget(self) -> None:
        """Forget all; under the lock."""
        self.events.clear()
        self.begin = next(_numbers) + 1

    def grow(self, size: int) -> None:
        """Keep at least so many from now on."""
        with _lock:
            if size > (self.events.maxlen or 0):
                self.events = deque(self.events, maxlen=size)


_histories: weakref.WeakKeyDictionary[Feed, History] = weakref.WeakKeyDictionary()


def keep(signals: Iterable[EventSignal[Any]], size: int) -> None:
    """Keep so many events of each signal, from now on.

    Even where that is none it is done: who keeps events hears them before browsers do, so that whoever comes in between
    has them from one or the other.
    """
    for feed in dict.fromkeys(feed for signal in signals for feed in feeds_of(signal)):
        with guard.lock:
            known = _histories.get(feed)
            if known is None:
                _histories[feed] = History(feed, size)
                continue
        known.grow(size)


def forget(signals: Iterable[EventSignal[Any]]) -> None:
    """Forget the events of these signals, before browsers hear of a gap: so that one that comes then does as well."""
    with _lock:
        for feed in {feed for signal in signals for feed in feeds_of(signal)}:
            if feed in _histories:
                _histories[feed].forget()


def newest_id(signals: Iterable[EventSignal[Any]]) -> str | None:
    """Return the id behind which these signals have had no event yet; None where none is kept."""
    with _lock:
        found = {feed: _histories.get(feed) for signal in signals for feed in feeds_of(signal)}
        last = [history.events[-1] for history in found.values() if history is not None and history.events]
    return max(last, key=lambda numbered: numbered[0])[1].id if last else None


def knows(signals: Iterable[EventSignal[Any]], event_id: str) -> bool:
    """Return True if one of the signals' events has this id, and is kept."""
    with _lock:
        found = {feed: _histories.get(feed) for signal in signals for feed in feeds_of(signal)}
        events = [list(ring.events) for ring in found.values() if ring is not None]
    return any(event.id == event_id for ring in events for _, event in reversed(ring))


def events_behind(signals: Sequence[EventSignal[Any]], last_id: str) -> list[Event[Any]] | None:
    """Return the events of these signals behind the one with this id; None where not all of them are kept."""
    with _lock:
        rings = [(signal, _histories.get(feed)) for signal in signals for feed in feeds_of(signal)]
        copies = [(signal, ring.begin, list(ring.events)) for signal, ring in rings if ring is not None]
    if len(copies) < len(rings):
        return None
    first: dict[str, int] = {}  # an event that fires several signals is one
    kept: dict[int, Event[Any]] = {}
    wanted: set[int] = set()
    undecided: set[int] = set()
    for signal, _, events in copies:
        for ring_number, event in events:
            number = first.setdefault(event.id, ring_number)
            kept.setdefault(number, event)
            try:
                if not isinstance(signal, FilteredSignal) or touches(signal, event):
                    wanted.add(number)
            except LookupError:  # it does not carry the column: nobody knows
                undecided.add(number)
    last = first.get(last_id)
    if last is None or any(last + 1 < begin for _, begin, _ in copies):
        return None
    if any(number > last for number in undecided - wanted):
        return None
    return [kept[number] for number in sorted(wanted) if number > last]


def _begin_anew() -> None:
    """Forget what a forked child's parent has heard: nobody here hears what follows upon it."""
    for history in _histories.values():
        history.forget()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_begin_anew)
