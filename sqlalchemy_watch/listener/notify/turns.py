"""Turns at reading: the dispatch thread's while it has nothing to do, and the source's own otherwise.

A notification that is handed from one thread to another comes later by the time that waking a thread takes: 7 to 9 % of
the median between a commit and its receiver, and up to 28 % of the 99th percentile. So the dispatch thread waits at the
socket itself. Reading must never wait for receivers, though: as soon as that thread has not had to wait for anything
for `PATIENCE`, since a receiver takes its time or more comes than it can dispatch, the source's thread reads, until the
queue is empty again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds for which the socket may be left alone.
PATIENCE = 0.005

#: Times that long for which the source's thread looks if the other one is busy, before it sleeps until that is.
#: Waking it for each event would cost more than looking.
ROUNDS = 10

#: Reads once, waiting until something comes, is due, or is wanted by a deadline of `time.monotonic()`; returns True if
#: there was anything to wait for.
Step = Callable[[float | None], bool]


class Turns:
    """Lets one of two threads read at a time.

    :param wake: makes a `Step` that waits return.
    :param is_idle: returns True if nothing that was read waits for the dispatcher.
    """

    def __init__(self, wake: Callable[[], None], is_idle: Callable[[], bool] = lambda: True) -> None:
        self._wake, self._is_idle = wake, is_idle
        self._lock = threading.RLock()  # a collection meanwhile may run somebody's stop() in this very thread
        self._changed = threading.Condition(self._lock)
        #: While there is a connection.
        self._step: Step | None = None
        self._failure: BaseException | None = None
        self._stopped = False
        self._dispatcher_reads = self._source_reads = False
        #: True while the dispatcher waits for its turn; True while the source's thread is to be told that it is busy.
        self._wanted = self._sleeps = False
        #: When the dispatcher last had to wait, and how often it has read.
        self._idle_at = 0.0
        self._reads = 0

    def stop(self) -> None:
        """Let both return."""
        with self._lock:
            self._stopped, self._step = True, None
            self._changed.notify_all()
        self._wake()

    def run(self, step: Step) -> None:
        """In the source's thread: have the connection read, until `stop` or an error, which is raised here."""
        with self._lock:
            self._step, self._failure = (None if self._stopped else step), None
            self._idle_at = time.monotonic()
        try:
            while self._wait_for_turn():
                step(None)
                self._give_up_turn()
        finally:
            with self._lock:
                self._step, self._source_reads = None, False
                self._changed.notify_all()
                while self._dispatcher_reads:
                    self._wake()
                    self._changed.wait(0.1)

    def _wait_for_turn(self) -> bool:
        """Until the socket has been left alone for too long; False where there is nothing to read any more."""
        rounds, reads = 0, 0
        with self._lock:
            while self._step is not None and not self._source_reads:
                now = time.monotonic()
                if self._reads != reads:
                    rounds, reads = 0, self._reads
                if not self._dispatcher_reads and self._idle_at + PATIENCE <= now:
                    self._source_reads = True
                elif not self._dispatcher_reads:
                    self._changed.wait(self._idle_at + PATIENCE - now)
                elif rounds < ROUNDS:
                    rounds += 1
                    self._changed.wait(PATIENCE)
                else:
                    self._sleeps = True
                    self._changed.wait()
                    self._sleeps = False
            if self._failure is not None:
                raise self._failure
            return self._step is not None

    def _give_up_turn(self) -> None:
        if self._wanted:
            with self._lock:
                self._wanted = self._source_reads = False
                self._idle_at = time.monotonic()
                self._changed.notify_all()

    def read(self, deadline: float | None) -> bool:
        """In the dispatch thread, which has nothing to do: read once, unless something has been read meanwhile.

        :param deadline: by `time.monotonic()`; when to return even where nothing comes.
        :returns: False where there is no connection.
        """
        with self._lock:
            while self._source_reads:
                self._wanted = True
                self._wake()
                self._changed.wait()
            step = self._step
            if step is None:
                return False
            # From here on nobody else reads. What was read until here, nothing at the socket would tell of.
            if not self._is_idle():
                return True
            self._dispatcher_reads = True
        failure: BaseException | None = None
        waited = False
        try:
            waited = step(deadline)
        except BaseException as error:
            failure = error
        with self._lock:
            self._dispatcher_reads = False
            self._reads += 1
            if waited:
                self._idle_at = time.monotonic()
            if failure is not None:
                self._failure, self._step = failure, None
            if self._sleeps or self._step is None:
                self._changed.notify_all()
        return True
