"""Lanes: events of one key come one after the other, those of different keys side by side.

A lane is there while its key has events. It is ready, running, or waits for the time of its next attempt; no worker
sleeps for it. Only whoever runs a lane touches what is in front of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from ..pipeline.gate import Gate
from ..pipeline.ledger import Ledger
from ..pipeline.parts import Transaction
from ..waiting import Waiting
from .calls import Call, make_one
from .failures import CutShort, Policy, counts

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between looks at the gate, while lanes are drained.
LOOK_SECONDS = 0.05

#: Seconds before a lane goes on after an error of the library's own.
BUG_SECONDS = 1.0


#: What is done in a lane: a receiver's call, or something else.
Action = Call | Callable[[], None]


class _Item(NamedTuple):
    """An event, and the calls that it is for; or something else to do."""

    ledger: Ledger
    #: Held until all is done; None without an event.
    transaction: Transaction | None
    actions: deque[Action]


class _Lane:
    """The events of one key."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.items: deque[_Item] = deque()
        #: Attempts at the call in front.
        self.attempts = 0
        #: Those that don't count.
        self.excused = 0


class Lanes:
    """The lanes of a listener, and their workers.

    :param workers: lanes that run at the same time at the most.
    :param waiting: for coroutine receivers, of the workers alone.
    """

    def __init__(self, workers: int, gate: Gate, waiting: Waiting, policy: Policy) -> None:
        self._workers, self._gate, self._waiting, self._policy = workers, gate, waiting, policy
        self._lock = threading.RLock()  # reentrant: a garbage collection may run somebody's stop() in this very thread
        self._changed = threading.Condition(self._lock)
        self._lanes: dict[Hashable, _Lane] = {}
        self._ready: deque[_Lane] = deque()
        #: Lanes that wait, by the time of their next attempt.
        self._later: list[tuple[float, int, _Lane]] = []
        self._numbers = itertools.count()
        self._idle = 0
        self._stopped = False
        #: When the calls that are being made began, by thread.
        self._begun: dict[int, float] = {}
        self.threads: list[threading.Thread] = []

    @property
    def busy_since(self) -> float | None:
        """When the call that takes longest began, by `time.monotonic()`; None where none is being made."""
        return min(self._begun.copy().values(), default=None)

    def is_calling(self, task: asyncio.Task[Any] | None) -> bool:
        """Return True if this task is a receiver's call that is not done; called on the task's loop."""
        return self._waiting.is_for(task)

    def take(self, transaction: Transaction, key: Hashable, calls: list[Call]) -> None:
        """In the dispatch thread: have these calls made, behind those of earlier events of the key."""
        ledger = self._gate.served
        ledger.hold(transaction)
        self._put(key, _Item(ledger, transaction, deque(calls)))

    def do(self, key: Hashable, action: Callable[[], None]) -> None:
        """In the dispatch thread: have something done behind all earlier events of the key."""
        self._put(key, _Item(self._gate.served, None, deque([action])))

    def _put(self, key: Hashable, item: _Item) -> None:
        with self._lock:
            lane = self._lanes.get(key)
            is_new = lane is None
            if lane is None:
                lane = self._lanes[key] = _Lane(key)
                self._ready.append(lane)
            lane.items.append(item)
            needs_worker = is_new and len(self._ready) > self._idle and len(self.threads) < self._workers
            if is_new and self._idle:
                self._changed.notify()
        if needs_worker:  # without the lock: a new thread may run finalizers before it counts as started
            self._start_worker()

    def drain(self) -> None:
        """In the dispatch thread: wait until all lanes are empty.

        :raises Revoked: where the tenure is over.
        """
        while self._lanes:
            if self._gate.needs_attention and not self._gate.await_turn():
                return
            with self._lock:
                if self._lanes:
                    self._changed.wait(LOOK_SECONDS)

    def forget(self) -> None:
        """In a new tenure: let the lanes that wait drop what belongs to the one before."""
        with self._lock:
            self._ready += [lane for _, _, lane in self._later]
            self._later = []
            self._changed.notify_all()

    def stop(self) -> None:
        """Let the workers end after the receivers that they are calling; coroutines are no longer awaited."""
        with self._lock:
            self._stopped = True
            self._changed.notify_all()
        self._waiting.stop()

    def _start_worker(self) -> None:
        name = f"sqlalchemy-watch-worker-{len(self.threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.threads.append(thread)
        try:
            thread.start()
        except BaseException:
            self.threads.remove(thread)
            raise

    def _work(self) -> None:
        while not self._stopped:  # a bug of ours must not end a worker
            lane: _Lane | None = None
            try:
                lane = self._next()
                if lane is not None:
                    self._run(lane)
            except BaseException:
                with contextlib.suppress(Exception):
                    log.exception("unexpected error in a lane; nothing of it is acknowledged, and tried again")
                if lane is not None:
                    self._put_off(lane, BUG_SECONDS)

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
            item = lane.items[0]
            while item.actions and self._gate.admits(item.ledger):
                try:
                    seconds = self._do(lane, item)
                except CutShort:
                    return
                if self._waiting.was_cut_short:
                    break
                if seconds is not None:
                    self._put_off(lane, seconds)
                    return
                item.actions.popleft()
                lane.attempts = lane.excused = 0
            if self._gate.is_stopped and item.actions:  # it comes again, and all behind it
                return
            if not item.actions and item.transaction is not None:
                item.ledger.done(item.transaction)
            lane.attempts = lane.excused = 0
            with self._lock:
                lane.items.popleft()
                if not lane.items:
                    del self._lanes[lane.key]
                    self._changed.notify_all()
                    return

    def _do(self, lane: _Lane, item: _Item) -> float | None:
        """Do what is in front; return the seconds after which it is done again, None where it is not."""
        action, thread = item.actions[0], threading.get_ident()
        self._begun[thread] = time.monotonic()
        try:
            if isinstance(action, Call):
                return self._call(lane, action, item.ledger)
            action()
            return None
        finally:
            del self._begun[thread]

    def _call(self, lane: _Lane, action: Call, ledger: Ledger) -> float | None:
        call = self._policy.unparked(action)
        if call is None or (lane.attempts and not call.is_wanted):
            return None
        error = make_one(self._waiting, call)
        if error is None or self._waiting.was_cut_short:
            return None
        self._gate.look(time.monotonic())
        if not self._gate.admits(ledger):  # whoever is active by now has it
            if self._gate.is_stopped:
                raise CutShort
            return None
        lane.attempts += 1
        lane.excused += not counts(error)
        return self._policy.failed_in_lane(call, error, lane.attempts - lane.excused)
