"""Streams that end when the server is told to stop.

A server waits for responses that are under way before it says anything to the application. So whoever ends them has
to hear the signal itself, beside the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: By loop: what ends the streams that are open.
_open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Callable[[], None], None]] = (
    weakref.WeakKeyDictionary()
)
#: The loops whose streams have been ended.
_ended: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


@contextlib.contextmanager
def open_stream(end: Callable[[], None]) -> Iterator[None]:
    """Have a stream of the running loop ended by `end_streams`, as long as the block runs."""
    loop = asyncio.get_running_loop()
    streams = _open.setdefault(loop, {})
    streams[end] = None
    if loop in _ended:
        end()
    try:
        yield
    finally:
        streams.pop(end, None)


def end_streams(loop: asyncio.AbstractEventLoop) -> None:
    """End the streams of a loop, and those that begin yet; called on it."""
    _ended.add(loop)
    for end in list(_open.get(loop, ())):
        end()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the streams of the running loop at SIGTERM and Ctrl-C, and have the server hear these as before.

    Outside of the main thread, where nobody can hear signals, at the end of the block alone.
    """
    loop = asyncio.get_running_loop()
    _ended.discard(loop)

    def end() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end_streams, loop)

    chained = chain_signals(end)
    try:
        yield
    finally:
        end_streams(loop)
        for number, (handler, before) in chained.items():
            if signal.getsignal(number) is handler:  # whoever came later gives back what was before him
                signal.signal(number, before)


def chain_signals(call: Callable[[], object]) -> Mapping[int, tuple[Any, Any]]:
    """Have a function called at SIGTERM and Ctrl-C, before whoever hears these now.

    :returns: by signal the new handler, and the one before; none outside of the main thread.
    """
    chained: dict[int, tuple[Any, Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before is signal.SIG_IGN or before is None:  # ignored, or another library's in C, which can't be called
                continue
            handler = _chain(call, before)
            signal.signal(number, handler)
            chained[number] = handler, before
    return chained


def _chain(call: Callable[[], object], before: Any) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        call()
        if callable(before):
            before(number, frame)
        else:  # the default
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    return handle
