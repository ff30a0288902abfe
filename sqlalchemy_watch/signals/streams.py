"""Iterating over events, for web sockets, server-sent events and scripts: `EventStream` with `await`, and
`EventIterator` without.

An event of a consumer group is held while it waits, and while the consumer is at work on it: it counts as delivered
once the next one is asked for. So a stream of a group loses nothing, and drops nothing; what it has no room for waits
in the server's log. Other streams drop what they have no room for, and say so at that place.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from ..errors import ConfigurationError, EventsDropped
from ..events.event import Event
from ..events.messages import parts_of
from .guard import lock

#: An event, or an event and the gaps.
I = TypeVar("I")  # noqa: E741 - of an iterator's items

OnGap = Literal["raise", "yield"]

#: Seconds between looks at a group's events that must not be taken at present.
PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Resync:
    """Stands in a stream where events are missing: reload what you hold. With `stream(on_gap="yield")`."""

    #: In words.
    reason: str
    #: The number of events that the stream itself dropped; 0 where the listener missed something.
    dropped: int = 0


class Streamed(Protocol):
    """What a stream is connected to: a signal, or several."""

    @property
    def name(self) -> str:
        """Its name."""

    def connect(self, receiver: Callable[..., Any], *, weak: bool) -> Any:
        """Connect the stream."""

    def disconnect(self, receiver: Callable[..., Any]) -> None:
        """Disconnect the stream."""


class Tap(Protocol):
    """Hears of a signal what is no event."""

    def missed(self, reason: str) -> None:
        """Hear that events may be missing here."""

    def end(self) -> None:
        """Hear that the last listener that serves the signal has stopped."""


class Held(Protocol):
    """The transaction of a consumer group's event, which is not acknowledged while anybody holds it."""

    #: True once the event is not this process's to deliver any more: it comes again, or another one delivered it.
    is_over: bool
    #: True while another process may be the active consumer.
    is_paused: bool

    def hold(self) -> None:
        """Hold it for an event more."""

    def done(self) -> None:
        """Let go of it for an event."""

    def abandon(self) -> None:
        """Have all come again that is not acknowledged: nobody will let go."""


class _Gap:
    def __init__(self, reason: str) -> None:
        self.reason, self.dropped = reason, 0


class Stream(Generic[I]):
    """The common part of the two iterators. Connected as soon as it is made, so that nothing is missed."""

    #: The event that the consumer is at work on, as far as it is held.
    _current: Held | None = None
    #: Events, and the gaps between them. Two gaps side by side become one, so that both kinds are bounded.
    _items: deque[Event[Any] | _Gap] = deque()

    def __init__(
        self, signal: Streamed, streams: Collection[weakref.WeakSet[Tap]], max_queue: int, on_gap: OnGap
    ) -> None:
        if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 1:
            raise ConfigurationError(
                f"signal {signal.name!r}: max_queue must be an int of at least 1, not {max_queue!r}"
            )
        if on_gap not in ("raise", "yield"):
            raise ConfigurationError(f"signal {signal.name!r}: on_gap must be 'raise' or 'yield', not {on_gap!r}")
        self._signal, self._streams, self._max_queue, self._on_gap = signal, streams, max_queue, on_gap
        self._lock = threading.RLock()  # reentrant: a garbage collection may close it in this very thread
        self._items = deque()
        self._waiting = 0  # the number of events among them that may be dropped
        self._ended = self._closed = False
        #: The number of events that did not fit, in all.
        self.dropped: int = 0
        signal.connect(self._receive, weak=True)
        with lock:
            for known in streams:
                known.add(self)

    def _receive(self, sender: Any, event: Event[Any]) -> None:
        held = _held_of(event)
        if held is not None:
            held.hold()
        with self._lock:
            if self._closed:
                pass
            elif held is not None:
                self._items.append(event)
            elif self._waiting < self._max_queue:
                self._items.append(event)
                self._waiting += 1
            else:
                self.dropped += 1
                self._mark_gap(f"the stream's queue of {self._max_queue} events was full", 1)
        if self._closed and held is not None:  # nobody will let go
            held.abandon()
        self._wake()

    #: Not among keys side by side: in the order of the log.
    _receive.in_order = True  # type: ignore[attr-defined]

    def _mark_gap(self, reason: str, dropped: int) -> None:
        gap = self._items[-1] if self._items else None
        if not isinstance(gap, _Gap):
            gap = _Gap(reason)
            self._items.append(gap)
        gap.dropped += dropped

    def missed(self, reason: str) -> None:
        """Mark a gap. Called by the listener where it may have missed something itself."""
        with self._lock:
            self._mark_gap(reason, 0)
        self._wake()

    def end(self) -> None:
        """End after the events that wait. Called when the last listener that feeds it has stopped."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        raise NotImplementedError

    def _next(self) -> Event[Any] | Resync | None:
        """Let go of the event before, and return the next item; None where there is none at present.

        :raises EventsDropped: where events are missing.
        """
        current, self._current = self._current, None
        if current is not None:
            current.done()
        with self._lock:
            while self._items:
                item = self._items[0]
                held = None if isinstance(item, _Gap) else _held_of(item)
                if held is not None and held.is_paused and not (held.is_over or self._ended):
                    return None
                self._items.popleft()
                if isinstance(item, _Gap):
                    if self._on_gap == "raise":
                        raise EventsDropped(item.reason, item.dropped)
                    return Resync(item.reason, item.dropped)
                if held is None:
                    self._waiting -= 1
                elif held.is_over or self._ended:  # it comes again
                    continue
                self._current = held
                return item
            return None

    @property
    def _is_paused(self) -> bool:
        return bool(self._items)

    def _close(self, *, is_done: bool) -> None:
        """Disconnect, and let go.

        :param is_done: True if the consumer is through with the event that it had last.
        """
        self._signal.disconnect(self._receive)
        with lock:
            for known in self._streams:
                known.discard(self)
        self._ended = True
        current, self._current = self._current, None
        with self._lock:
            self._closed = True
            unseen = {id(held): held for item in self._items if (held := _held(item)) is not None}
            if unseen:
                self._items.clear()
        if current is not None and is_done:
            current.done()
        elif current is not None:
            unseen[id(current)] = current
        for held in unseen.values():
            held.abandon()

    def __del__(self) -> None:
        if self._current is not None or any(_held(item) is not None for item in self._items):
            self._close(is_done=False)


def _held_of(event: Event[Any]) -> Held | None:
    held: Held | None = parts_of(event)[0].transaction
    return held


def _held(item: Event[Any] | _Gap) -> Held | None:
    return None if isinstance(item, _Gap) else _held_of(item)


class EventStream(Stream[I], AsyncIterator[I]):
    """An asynchronous iterator over events. Made by `stream()`::

        async with User.watch.updated.stream(max_queue=100) as events:
            try:
                async for event in events:
                    await websocket.send_json(event.to_dict())
            except EventsDropped:
                ...  # reload what the page shows, and iterate again

    It is connected as soon as it is made, so that nothing is missed before the first `await`. It is disconnected at
    the end of the `async with` block, by `aclose()`, and when it is garbage collected.

    An event of a consumer group counts as delivered once the next one is asked for, and the last one when the block is
    left without an exception. Where it is left before that, what was not seen comes again, to whoever is connected
    then; the listener does not read on before somebody is.

    :raises ConfigurationError: outside a running event loop, and for parameters out of range.
    :raises EventsDropped: in iterating, once at each place where events are missing, unless `on_gap="yield"`: the
        consumer was too slow, or the listener may have missed something. Iterating may go on after it.
    """

    def __init__(
        self, signal: Streamed, streams: Collection[weakref.WeakSet[Tap]], max_queue: int, on_gap: OnGap
    ) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                f"signal {signal.name!r}: stream() needs a running event loop: call it inside a coroutine, or use "
                f"iterate()"
            ) from None
        self._arrived = asyncio.Event()
        self._waking = False
        super().__init__(signal, streams, max_queue, on_gap)

    def _wake(self) -> None:
        with self._lock:
            if self._waking:  # one callback is enough: the loop's own queue stays bounded
                return
            self._waking = True
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed: nobody will iterate any more
            self._close(is_done=False)

    def __aiter__(self) -> EventStream[I]:
        return self

    async def __anext__(self) -> I:
        while True:
            with self._lock:
                self._arrived.clear()
                self._waking = False
            item: Any = self._next()
            if item is not None:
                return item  # type: ignore[no-any-return]
            if self._ended and not self._is_paused:
                await self.aclose()
                raise StopAsyncIteration
            await self._wait()

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._arrived.wait(), PAUSE_SECONDS if self._is_paused else None)
        except TimeoutError:
            pass

    async def aclose(self) -> None:
        """Disconnect. Iterating ends after the events that wait; those of a group come again."""
        self._close(is_done=True)
        self._arrived.set()

    async def __aenter__(self) -> EventStream[I]:
        return self

    async def __aexit__(self, exc_type: object, *exc_info: object) -> None:
        self._close(is_done=exc_type is None)
        self._arrived.set()


class EventIterator(Stream[I], Iterator[I]):
    """An iterator over events, for threads and scripts. Made by `iterate()`::

        with Order.watch.iterate(timeout=5) as events:
            for event in events:  # ends once none has come for 5 seconds
                print(event)

    All else is as with `EventStream`.

    :raises ConfigurationError: for parameters out of range.
    :raises EventsDropped: as `EventStream` does.
    """

    def __init__(
        self, signal: Streamed, streams: Collection[weakref.WeakSet[Tap]], max_queue: int, on_gap: OnGap,
        timeout: float | None,
    ) -> None:  # fmt: skip
        is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        if timeout is not None and not (is_number and 0 <= timeout < float("inf")):
            raise ConfigurationError(
                f"signal {signal.name!r}: timeout must be seconds from 0 on, or None, not {timeout!r}"
            )
        self._timeout = timeout
        self._arrived = False
        self._changed = threading.Condition(threading.RLock())  # reentrant, as a garbage collection may end it
        super().__init__(signal, streams, max_queue, on_gap)

    def _wake(self) -> None:
        with self._changed:
            self._arrived = True
            self._changed.notify_all()

    def __iter__(self) -> EventIterator[I]:
        return self

    def __next__(self) -> I:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            self._arrived = False
            item: Any = self._next()
            if item is not None:
                return item  # type: ignore[no-any-return]
            if self._ended and not self._is_paused:
                self.close()
                raise StopIteration
            left = 0.5 if deadline is None else deadline - time.monotonic()  # in steps, so that Ctrl-C is heard
            if left <= 0:
                raise StopIteration
            with self._changed:
                if not self._arrived:
                    self._changed.wait(min(left, PAUSE_SECONDS if self._is_paused else 0.5))

    def close(self) -> None:
        """Disconnect. Iterating ends after the events that wait; those of a group come again."""
        self._close(is_done=True)
        self._wake()

    def __enter__(self) -> EventIterator[I]:
        return self

    def __exit__(self, exc_type: object, *exc_info: object) -> None:
        self._close(is_done=exc_type is None)
        self._wake()
