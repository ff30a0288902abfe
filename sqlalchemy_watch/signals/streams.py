"""`EventStream`: a bounded asynchronous iterator over a signal, for web sockets and server-sent events."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, Generic, Protocol

from ..errors import ConfigurationError, EventsDropped
from ..events.event import Event, T

log: logging.Logger = logging.getLogger(__name__)


class Streamed(Protocol):
    """The signal that a stream is connected to."""

    @property
    def name(self) -> str:
        """Its name."""

    def connect(self, receiver: Callable[..., Any], *, weak: bool) -> Any:
        """Connect the stream."""

    def disconnect(self, receiver: Callable[..., Any]) -> None:
        """Disconnect the stream."""


class EventStream(AsyncIterator[Event[T]], Generic[T]):
    """An asynchronous iterator over the events of a signal. Made by `signal.stream()`::

        async with User.watch.updated.stream(max_queue=100) as events:
            try:
                async for event in events:
                    await websocket.send_json(event.to_dict())
            except EventsDropped:
                ...  # reload what the page shows, and iterate again

    It is connected as soon as it is made, so that nothing is missed before the first `await`. It is disconnected at
    the end of the `async with` block, by `aclose()`, and when it is garbage collected.

    :raises ConfigurationError: outside a running event loop, or for a `max_queue` below 1.
    :raises EventsDropped: in iterating, once at each place where events are missing: the consumer was too slow, or
        the listener may have missed something. Iterating may go on after it.
    """

    def __init__(
        self, signal: Streamed, streams: weakref.WeakSet[EventStream[T]], sources: Collection[int], max_queue: int
    ) -> None:
        if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 1:
            raise ConfigurationError(
                f"signal {signal.name!r}: max_queue must be an int of at least 1, not {max_queue!r}"
            )
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                f"signal {signal.name!r}: stream() needs a running event loop: call it inside a coroutine"
            ) from None
        self._signal = signal
        self._streams, self._sources = streams, sources
        self._max_queue = max_queue
        self._lock = threading.Lock()
        #: Events, and the gaps between them. Two gaps side by side become one, so that both kinds are bounded.
        self._items: deque[Event[T] | EventsDropped] = deque()
        self._waiting = 0  # the number of events among them
        self._arrived = asyncio.Event()
        self._waking = False
        self._ended = False
        self._warned = False
        #: The number of events that did not fit, in all.
        self.dropped: int = 0
        signal.connect(self._receive, weak=True)
        streams.add(self)

    def _receive(self, sender: Any, event: Event[T]) -> None:
        if event.lsn is not None:
            self._pass_over()
            return
        with self._lock:
            if self._waiting < self._max_queue:
                self._items.append(event)
                self._waiting += 1
            else:
                self.dropped += 1
                self._mark_gap(f"the stream's queue of {self._max_queue} events was full", 1)
        self._wake()

    def _pass_over(self) -> None:
        """Leave a group's event alone: it counts as delivered from now on, and a stream may drop it."""
        if not self._sources and not self._warned:
            self._warned = True
            log.warning(
                "a stream of %s hears nothing: the events of a consumer group do not go to streams; start a listener "
                "without durable= as well",
                self._signal.name,
            )

    def _mark_gap(self, reason: str, dropped: int) -> None:
        gap = self._items[-1] if self._items else None
        if not isinstance(gap, EventsDropped):
            gap = EventsDropped(reason)
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
        with self._lock:
            if self._waking:  # one callback is enough: the loop's own queue stays bounded
                return
            self._waking = True
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed: nobody will iterate any more
            self._signal.disconnect(self._receive)

    def __aiter__(self) -> EventStream[T]:
        return self

    async def __anext__(self) -> Event[T]:
        while True:
            with self._lock:
                self._arrived.clear()
                self._waking = False
                item = self._items.popleft() if self._items else None
                self._waiting -= isinstance(item, Event)
            if isinstance(item, EventsDropped):
                raise item
            if item is not None:
                return item
            if self._ended:
                await self.aclose()
                raise StopAsyncIteration
            await self._arrived.wait()

    async def aclose(self) -> None:
        """Disconnect. Iterating ends after the events that wait."""
        self._ended = True
        self._signal.disconnect(self._receive)
        self._streams.discard(self)
        self._arrived.set()

    async def __aenter__(self) -> EventStream[T]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
