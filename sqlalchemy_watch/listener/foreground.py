"""Listeners as a whole program: they run until the process is told to end, and then stop in order.

The main thread runs an event loop meanwhile, for coroutine receivers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Protocol

from ..errors import ListenerError

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between looks if all listeners were stopped by somebody else, or a signal came.
LOOK_SECONDS = 0.5


class Runnable(Protocol):
    """A listener, as seen from here."""

    @property
    def running(self) -> bool:
        """True from `start()` to `stop()`."""

    def start(self, *, wait: bool) -> None:
        """Start in the running loop; where `wait` is False, return at once."""

    def stop(self, timeout: float) -> None:
        """Stop within so many seconds."""


def run_until_told(listeners: Sequence[Runnable], stop_timeout: float) -> None:
    """Start what is not running, and return once all have stopped: after SIGTERM or Ctrl-C, or a `stop()`.

    :param stop_timeout: seconds for each listener to stop in.
    :raises ListenerError: in another thread than the main one, which alone gets signals, or in a running event loop.
    :raises KeyboardInterrupt: at a second Ctrl-C, without waiting any longer.
    """
    _check_place()
    told = _Told()
    with told.by_signals(), asyncio.Runner() as runner:
        runner.run(_run(listeners, told, stop_timeout))


def _check_place() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise ListenerError("run() would block the running event loop: use `async with listener:` there")
    if threading.current_thread() is not threading.main_thread():
        raise ListenerError("only the main thread gets signals: call run() there, or start() and stop() in place of it")


class _Told:
    """Whether the process was told to end."""

    def __init__(self) -> None:
        self._is_told = False
        #: True after a second Ctrl-C: nothing is waited for any more.
        self.is_urgent: bool = False
        #: Called in the signal's handler.
        self.wake: Callable[[], Any] = lambda: None

    def __bool__(self) -> bool:
        return self._is_told

    @contextlib.contextmanager
    def by_signals(self) -> Iterator[None]:
        """Note signals that ask the process to end; give them back to their handlers afterwards."""
        wanted = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._note) for number in wanted}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._is_told:
            self._is_told = True
            self.wake()
        elif number == signal.SIGINT:
            self.is_urgent = True
            raise KeyboardInterrupt


async def _run(listeners: Sequence[Runnable], told: _Told, stop_timeout: float) -> None:
    woken = asyncio.Event()
    loop = asyncio.get_running_loop()
    told.wake = lambda: loop.call_soon_threadsafe(woken.set)
    try:
        for listener in listeners:
            if not listener.running:
                listener.start(wait=False)
        while not told and any(listener.running for listener in listeners):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), LOOK_SECONDS)
        if told:
            log.info("told to end: stopping")
    finally:
        if not told.is_urgent:
            await _stop(listeners, stop_timeout)
    log.info("stopped")


async def _stop(listeners: Sequence[Runnable], timeout: float) -> None:
    """Stop all side by side, while the loop goes on for their coroutine receivers; these may end within the time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    stopped: list[asyncio.Event] = []
    for listener in listeners:
        stopped.append(done := asyncio.Event())
        # A daemon, unlike those of the loop's executor: a second Ctrl-C does not wait for it.
        threading.Thread(target=_stop_one, args=[listener, timeout, loop, done], daemon=True).start()
    # In steps: a signal that comes right before the loop waits does not end that.
    for done in stopped:
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), LOOK_SECONDS)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    while others and (left := deadline - loop.time()) > 0:
        _, others = await asyncio.wait(others, timeout=min(LOOK_SECONDS, left))


def _stop_one(listener: Runnable, timeout: float, loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    try:
        listener.stop(timeout)
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed, after a second Ctrl-C
            loop.call_soon_threadsafe(done.set)
