"""The waiting of the dispatch thread: for coroutine receivers, and for time to pass. `stop()` ends all of it.

A coroutine receiver runs on an event loop that is somebody else's. It is waited for, so that events stay in order and
few are in memory. A loop that is closed, or has ended without being closed, would never answer: then the call counts
as failed, and the thread goes on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from ..errors import ListenerError
from ..signals.receivers import function_name
from .surrounding import Surroundings

#: Seconds between checks of the loops in which coroutines are awaited.
LOOP_CHECK_SECONDS = 0.25

#: Seconds for which a loop may stand still. A script may run its loop in pieces, with a moment in between.
LOOP_GRACE_SECONDS = 2.0

_REMEDY = "connect it, or start the listener, inside a running loop"


class Coroutine(NamedTuple):
    """A call of a coroutine receiver."""

    receiver: Any
    #: Called on the loop.
    begin: Callable[[], Awaitable[Any]]
    #: None where there was none when the receiver was connected, or the listener started.
    loop: asyncio.AbstractEventLoop | None


class _Running:
    """A call on its way: `done` gets its end. Where `done` is cancelled before it has begun, it never does."""

    def __init__(self, call: Coroutine, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]]) -> None:
        """Begin soon.

        :param tasks: has the call's task while that is not done.
        :raises RuntimeError: where the loop is closed.
        """
        self.call, self.loop, self._tasks = call, loop, tasks
        self.done: concurrent.futures.Future[None] = concurrent.futures.Future()
        #: The time since which the loop has not been seen running, by `time.monotonic()`; None while it runs.
        self.still_since: float | None = None
        self._task: asyncio.Task[Any] | None = None
        loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self.done.set_running_or_notify_cancel():
            self._task = self.loop.create_task(self._run())
            self._task.add_done_callback(self._end)

    async def _run(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        await self.call.begin()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = concurrent.futures.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)

    def give_up(self) -> None:
        """Have it not begin any more, or be cancelled when its loop runs again: it may be called anew by then."""
        if not self.done.cancel() and self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._task.cancel)


class Waiting:
    """Used by the dispatch thread alone, but for `stop()`.

    :param loop: of coroutine receivers that were connected while no loop ran: the one in which the listener was
        started.
    :param surroundings: of the calls that it waits for, and of all others of its thread; None for none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, surroundings: Surroundings | None = None) -> None:
        self.loop = loop
        self.surroundings: Surroundings = surroundings or Surroundings()
        #: Done once nothing is to be waited for any more.
        self.stopped: concurrent.futures.Future[None] = concurrent.futures.Future()
        #: While the last batches are delivered: when that ends, by `time.monotonic()`, whatever `stopped` says.
        self._deadline: float | None = None
        #: The loops that stood still when they were wanted last: they are not waited for once more.
        self._still: set[asyncio.AbstractEventLoop] = set()
        #: True if the end kept a receiver from something that it should have had.
        self.was_cut_short: bool = False
        #: Changed on the loops, an element at a time.
        self._tasks: set[asyncio.Task[Any]] = set()

    def is_for(self, task: asyncio.Task[Any] | None) -> bool:
        """Return True if this task is a receiver's call that is not done; called on the task's loop."""
        return task in self._tasks

    def stop(self) -> None:
        """End all waiting; called by any thread."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.stopped.set_result(None)

    def extend(self, seconds: float) -> None:
        """Wait once more, for so many seconds in all."""
        self._deadline = time.monotonic() + seconds
        self.stopped = concurrent.futures.Future()

    @property
    def is_over(self) -> bool:
        """True once nothing is waited for any more."""
        return self.stopped.done() if self._deadline is None else time.monotonic() >= self._deadline

    def pause(self, seconds: float) -> None:
        """Wait for this time, or until it is over."""
        if self._deadline is not None:
            time.sleep(max(0.0, min(seconds, self._deadline - time.monotonic())))
            return
        with contextlib.suppress(TimeoutError):
            self.stopped.result(timeout=seconds)

    def run(self, calls: Sequence[Coroutine]) -> list[BaseException | None]:
        """Run coroutine receivers side by side, and wait for them.

        :returns: for each what it raised, or the reason for which it could not be run; None where there is none.
        """
        outcomes: list[BaseException | None] = [None] * len(calls)
        if self.is_over:  # one that is begun now might get far before it is cancelled
            self.was_cut_short |= bool(calls)
            return outcomes
        running: dict[concurrent.futures.Future[None], tuple[int, _Running]] = {}
        for number, call in enumerate(calls):
            try:
                started = _Running(call, self._loop_for(call), self._tasks)
                running[started.done] = number, started
            except (ListenerError, RuntimeError) as error:
                outcomes[number] = error
        while running and not self.is_over:
            done, _ = self._wait(running)
            for future in done:
                outcomes[running.pop(future)[0]] = future.exception()
            for future, (number, started) in list(running.items()):
                fault = self._fault(started)
                if fault is not None:
                    del running[future]
                    started.give_up()
                    outcomes[number] = fault
        for future in running:
            future.cancel()  # those that have not begun
        self.was_cut_short |= bool(running)
        return outcomes

    def _wait(
        self, running: dict[concurrent.futures.Future[None], Any]
    ) -> tuple[set[concurrent.futures.Future[None]], Any]:
        seconds, futures, stopped = LOOP_CHECK_SECONDS, set(running), self.stopped
        if self._deadline is None:
            futures.add(stopped)
        else:
            seconds = max(0.0, min(seconds, self._deadline - time.monotonic()))
        done, pending = concurrent.futures.wait(futures, seconds, concurrent.futures.FIRST_COMPLETED)
        return done - {stopped}, pending

    def _loop_for(self, call: Coroutine) -> asyncio.AbstractEventLoop:
        loop = call.loop or self.loop
        if loop is None:
            raise ListenerError(f"{_subject(call)} was not running: {_REMEDY}")
        if loop.is_closed():
            self._still.discard(loop)
            raise ListenerError(f"{_subject(call)} is closed: {_REMEDY}")
        if loop in self._still:
            if not loop.is_running():
                raise _standing_still(call)
            self._still.discard(loop)
        return loop

    def _fault(self, started: _Running) -> ListenerError | None:
        """Return the reason for which a call would never be done; None where it may be."""
        loop, now = started.loop, time.monotonic()
        if loop.is_closed():
            return ListenerError(f"{_subject(started.call)} was closed meanwhile: {_REMEDY}")
        if loop.is_running():
            started.still_since = None
            return None
        started.still_since = started.still_since or now
        if now - started.still_since < LOOP_GRACE_SECONDS:
            return None
        self._still.add(loop)
        return _standing_still(started.call)


def _subject(call: Coroutine) -> str:
    return f"the event loop of the coroutine receiver {function_name(call.receiver)}"


def _standing_still(call: Coroutine) -> ListenerError:
    return ListenerError(
        f"{_subject(call)} does not run, though it is not closed: keep it running while the listener runs, or {_REMEDY}"
    )
