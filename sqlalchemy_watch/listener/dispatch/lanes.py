"""Lanes: events of one key come one after the other, those of different keys side by side.

A lane is there while its key has events. It is ready, running, or waits for the time of its next attempt; no worker
sleeps for it. Only whoever runs a lane touches what is in front of it.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from ..pipeline.gate import Gate
from ..pipeline.ledger import Ledger
from ..pipeline.parts import Transaction
from ..waiting import Waiting
from .calls import Call, make_all
from .failures import Policy

log: logging.Logger = logging.getLogger(__name__)


class _Lane:
    """The events of one key, and the calls that each of them is for."""

    def __init__(self, key: Hashable, ledger: Ledger) -> None:
        self.key, self.ledger = key, ledger
        self.items: deque[tuple[Transaction, deque[Call]]] = deque()
        #: Attempts at the call in front.
        self.attempts = 0


class Lanes:
    """The lanes of a listener, and their workers.

    :param workers: lanes that run at the same time at the most.
    """

    def __init__(self, workers: int, gate: Gate, waiting: Waiting, policy: Policy) -> None:
        self._workers, self._gate, self._waiting, self._policy = workers, gate, waiting, policy
        self._lock = threading.RLock()  # reentrant: a garbage collection may run somebody's stop() in this very thread
        self._changed = threading.Condition(self._lock)
        self._lanes: dict[tuple[int, Hashable], _Lane] = {}
        self._ready: deque[_Lane] = deque()
        #: Lanes that wait, by the time of their next attempt.
        self._later: list[tuple[float, int, _Lane]] = []
        self._numbers = itertools.count()
        self._idle = 0
        self._stopped = False
        self.threads: list[threading.Thread] = []

    def take(self, transaction: Transaction, key: Hashable, calls: list[Call]) -> None:
        """In the dispatch thread: have these calls made, behind those of earlier events of the key."""
        ledger = self._gate.served
        ledger.hold(transaction)
        with self._lock:
            place = id(ledger), key
            lane = self._lanes.get(place)
            if lane is not None:
                lane.items.append((transaction, deque(calls)))
                return
            lane = self._lanes[place] = _Lane(key, ledger)
            lane.items.append((transaction, deque(calls)))
            self._ready.append(lane)
            if self._idle:
                self._changed.notify()
            elif len(self.threads) < self._workers:
                self._start_worker()

    def drain(self) -> None:
        """In the dispatch thread: wait until all lanes of this tenure are empty.

        :raises Revoked: where the tenure is over.
        """
        while any(lane.ledger is self._gate.served for lane in list(self._lanes.values())):
            if self._gate.needs_attention and not self._gate.await_turn():
                return
            with self._lock:
                self._changed.wait(0.05)

    def stop(self) -> None:
        """Let the workers end after the receivers that they are calling."""
        with self._lock:
            self._stopped = True
            self._changed.notify_all()

    def _start_worker(self) -> None:
        name = f"sqlalchemy-watch-worker-{len(self.threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (lane := self._next()) is not None:
            try:
                self._run(lane)
            except BaseException:
                # A bug of ours: what is in front comes again, here or in the next process.
                with contextlib.suppress(Exception):
                    log.exception("unexpected error in a lane; nothing of it is acknowledged, and tried again")
                self._put_off(lane, 1.0)

    def _next(self) -> _Lane | None:
        with self._lock:
            while not self._stopped:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._ready.append(heapq.heappop(self._later)[2])
                if self._ready:
                    return self._ready.popleft()
                self._idle += 1
                try:
                    self._changed.wait(self._later[0][0] - now if self._later else None)
                finally:
                    self._idle -= 1
            return None

    def _put_off(self, lane: _Lane, seconds: float) -> None:
        with self._lock:
            heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), lane))
            self._changed.notify()

    def _run(self, lane: _Lane) -> None:
        while True:
            transaction, calls = lane.items[0]
            while calls:
                if not self._gate.admits(lane.ledger) or self._stopped:
                    self._drop(lane)
                    return
                seconds = self._call(lane, calls[0])
                if self._waiting.was_cut_short:
                    self._drop(lane)
                    return
                if seconds is not None:
                    self._put_off(lane, seconds)
                    return
                calls.popleft()
                lane.attempts = 0
            lane.ledger.done(transaction)
            with self._lock:
                lane.items.popleft()
                if not lane.items:
                    self._forget(lane)
                    return

    def _call(self, lane: _Lane, call: Call) -> float | None:
        """Make a call; return the seconds after which it is made again, None where it is not."""
        if lane.attempts and not call.is_wanted:
            return None
        failures = make_all(self._waiting, [call])
        if not failures or self._waiting.was_cut_short:
            return None
        lane.attempts += 1
        return self._policy.failed_in_lane(call, failures[0][1], lane.attempts)

    def _drop(self, lane: _Lane) -> None:
        """Drop what is in a lane: it comes again, or another consumer delivered it."""
        with self._lock:
            self._forget(lane)

    def _forget(self, lane: _Lane) -> None:
        self._lanes.pop((id(lane.ledger), lane.key), None)
        self._changed.notify_all()


#: Returns the key of an event, of which the lane is.
KeyOf = Callable[[Any], Hashable]
