"""Receivers that come and go while events are dispatched: what they hear is what the one that stays hears meanwhile."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from .schema import GAUGES, PLACES, Gauge

#: Events that are remembered.
REMEMBERED = 5_000

#: Faults that are told.
TOLD = 5

#: Seconds for a receiver that nothing refers to any more to be gone.
PATIENCE = 10.0


class Heard(NamedTuple):
    """An event of a gauge."""

    number: int
    id: int
    place: int
    version: int


class Coming:
    """A receiver that comes and goes."""

    def __init__(self) -> None:
        self.versions: list[int] = []

    def hear(self, sender: Any, event: Any) -> None:
        self.versions.append(event.values["version"])


class Churn:
    """A thread that connects receivers, waits, disconnects them, and compares."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(f"{seed} churn")
        self._heard: deque[Heard] = deque(maxlen=REMEMBERED)
        self._numbers = itertools.count(1)
        self._newest = 0
        #: Changed whenever the listener stops: then what comes and what stays need not agree.
        self._generation = 0
        self._going, self._resting = threading.Event(), threading.Event()
        self._moment = threading.Event()  # never set: for waiting
        self.rounds = 0
        self.faults: list[str] = []
        self._thread = threading.Thread(target=self._run, name="churn", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def remember(self, sender: Any, event: Any) -> None:
        """The receiver that stays; it has to be the first of all."""
        number = next(self._numbers)
        values = event.values
        self._heard.append(Heard(number, values["id"], values["place"], values["version"]))
        self._newest = number

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if not self._thread.is_alive():
            self._thread.start()
        self.resume()

    def end(self) -> None:
        self._generation += 1
        self.pause()

    def resume(self) -> None:
        self._resting.clear()
        self._going.set()

    def pause(self) -> None:
        """Return when no receiver of its is connected."""
        self._going.clear()
        if not self._resting.wait(PATIENCE * 2):
            self.faults.append("the thread that connects and disconnects hangs")

    def _run(self) -> None:
        rounds = (self._filtered_by_id, self._filtered_by_place, self._plain, self._weak, self._streams)
        while True:
            if not self._going.is_set():
                self._resting.set()
                self._going.wait()
            try:
                self._chance.choice(rounds)()
            except Exception as error:
                self._blame(f"receivers that come and go: {error!r}")
            self.rounds += 1

    def _filtered_by_id(self) -> None:
        id_ = self._chance.randint(1, GAUGES)
        self._compare(Gauge.watch.updated.filter_by(id=id_), lambda heard: heard.id == id_)

    def _filtered_by_place(self) -> None:
        place = self._chance.randrange(PLACES)
        self._compare(Gauge.watch.updated.filter_by(place=place), lambda heard: heard.place == place)

    def _plain(self) -> None:
        self._compare(Gauge.watch.updated, lambda heard: True)

    def _weak(self) -> None:
        """Several for one key, which go because nothing refers to them any more."""
        signal = Gauge.watch.updated
        view = signal.filter_by(id=self._chance.randint(1, GAUGES)) if self._chance.random() < 0.5 else signal
        coming = [Coming() for _ in range(self._chance.randint(1, 20))]
        for one in coming:
            view.connect(one.hear, weak=True)
        self._wait()
        references = [weakref.ref(one) for one in coming]
        del coming, one
        gc.collect()
        for _ in range(int(PATIENCE / 0.01)):  # a dispatch may be under way that holds them
            if not any(reference() for reference in references):
                return
            self._moment.wait(0.01)
        self._blame("a receiver that was connected weakly stays")

    def _streams(self) -> None:
        """Iterators that nobody iterates: they fill, and are given back."""
        assert self._loop is not None

        async def make() -> None:
            async with Gauge.watch.updated.filter_by(place=1).stream(max_queue=5), Gauge.watch.updated.stream():
                await asyncio.sleep(0.02)

        asyncio.run_coroutine_threadsafe(make(), self._loop).result(PATIENCE)

    def _compare(self, signal: Any, matches: Callable[[Heard], bool]) -> None:
        coming, generation = Coming(), self._generation
        with ExitStack() as stack:
            if self._chance.random() < 0.5:
                stack.enter_context(signal.connected_to(coming.hear))
            else:
                signal.connect(coming.hear, weak=False)
            # An event that is being dispatched may have looked at the receivers before.
            connected = self._newest + 1
            self._wait()
            disconnected = self._newest - 1
            signal.disconnect(coming.hear)
        heard, end = list(coming.versions), self._newest + 1
        if generation != self._generation or not self._going.is_set():
            return
        allowed = [one for one in list(self._heard) if connected - 1 <= one.number <= end and matches(one)]
        wanted = [one.version for one in allowed if connected < one.number <= disconnected]
        if not _is_within(wanted, heard) or not _is_within(heard, [one.version for one in allowed]):
            self._blame(f"a receiver that came and went heard {len(heard)} events of {len(wanted)}: {heard} {wanted}")

    def _wait(self) -> None:
        self._moment.wait(self._chance.uniform(0, 0.2))

    def _blame(self, words: str) -> None:
        if len(self.faults) < TOLD:
            self.faults.append(words[:500])


def _is_within(part: list[int], whole: list[int]) -> bool:
    """True if the part stands somewhere in the whole, without a hole."""
    if not part:
        return True
    return any(whole[n : n + len(part)] == part for n, first in enumerate(whole) if first == part[0])
