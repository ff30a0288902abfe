"""Filters: the views of a signal that `filter_by()` and `touching()` make.

A view holds nothing: it says which subscriptions are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from blinker import ANY

from ..errors import ConfigurationError
from ..events.event import T
from .batches import BatchOptions, BatchSignal
from .feeds import Feed
from .guard import lock
from .matching import Keys, TouchingKeys
from .receiver_types import Connects, Decorator
from .receivers import Subscriber
from .streams import EventStream
from .styles import style_of


class EventSignal(Connects[T]):
    """The methods that a signal and the views of it have in common."""

    __slots__ = ()

    _feed: Feed

    if TYPE_CHECKING:  # blinker's, or the view's

        @property
        def name(self) -> str:
            """The name of the signal."""

        def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
            """Disconnect a receiver."""

        def _keep_batch(self, subscriber: Subscriber) -> None: ...

        def _release_batch(self, subscriber: Subscriber) -> None: ...

    def connect_via(self, sender: Any, weak: bool = False) -> Decorator[T]:
        """Return a decorator that connects a receiver to the events of one model class: `connect` says more.

        :param sender: the model class.
        :param weak: disconnect the receiver when nothing else refers to it.
        """
        return self.connect(sender=sender, weak=weak)

    def stream(self, max_queue: int = 1000) -> EventStream[T]:
        """Return an asynchronous iterator over the events::

            async with User.watch.updated.stream() as events:
                async for event in events:
                    await websocket.send_json(event.to_dict())

        It has the events of listeners without a group: a stream drops what it has no room for, and a group's events
        are acknowledged once they are taken. It ends when the last such listener of this signal stops, and with
        `aclose()`.

        :param max_queue: the most events that wait while the consumer is slow. Beyond that the newest are dropped,
            and `EventsDropped` is raised at that place; iterating may go on after it.
        :raises ConfigurationError: outside a running event loop, for a `max_queue` below 1, and for a signal of
            `delivery="durable"`.
        """
        feed = self._feed
        if feed.delivery == "durable":
            raise ConfigurationError(
                f"signal {self.name!r}: its delivery is 'durable', and a stream would lose what it drops, since that "
                f"counts as delivered: connect a receiver or use batches(), or declare delivery='both' and start a "
                f"listener without a group as well"
            )
        return EventStream(self, feed.streams, feed.sources, max_queue)

    def batches(self, max_size: int = 1000, max_wait: float = 0.1, *, latest_only: bool = False) -> BatchSignal[T]:
        """Return a signal whose receivers get many events at once, as `receiver(sender, events=[...])`::

            @Order.watch.inserted.batches(max_size=500, max_wait=0.5).connect
            def index(sender, events):
                search.add([event.values for event in events])

        A batch has the events of one sender. `catch_up` and `stop` deliver what has been gathered. The signal is kept
        while it has receivers, and the same parameters return the same one.

        :param max_size: the most events of a batch; 1 or more.
        :param max_wait: the time, in seconds, that an event waits for others at the most; 0 gathers what has arrived
            already.
        :param latest_only: keep only the latest event of each identity, that is, the one that was emitted last. That
            is not the newest state of the row where another AFTER trigger writes to the row again: its inner change is
            emitted before the outer one. Load the rows then, or see "Limits" in the documentation.
        :raises ConfigurationError: for values out of range.
        """
        name = f"{self.name}.batches"
        options = BatchOptions(max_size, max_wait, latest_only)
        options.check(name)
        feed = self._feed
        with lock:
            batch = feed.batches.get((self, options))
            if batch is None:
                batch = BatchSignal(name, options, feed.names, self._keep_batch, self._release_batch)
                feed.batches[(self, options)] = batch
            return batch


class FilteredSignal(EventSignal[T]):
    """A view of a `WatchSignal`: the events of rows that have certain values. Made by `filter_by()` or `touching()`::

        Comment.watch.inserted.filter_by(order_id=42).connect(show)

    Views of the same signal with the same keys and values are equal. A receiver that is connected to one of them is
    connected to all, and stays so when no view is left.
    """

    __slots__ = ("_feed", "_keys", "_values")

    def __init__(self, feed: Feed, keys: Keys, values: Hashable) -> None:
        self._feed = feed
        self._keys = keys
        self._values = values

    @property
    def name(self) -> str:
        """The name of the signal with the keys: `User.updated[id]`."""
        how = "touching " if isinstance(self._keys, TouchingKeys) else ""
        return f"{self._feed.name}[{how}{', '.join(self._keys)}]"

    def _connect(self, receiver: Any, sender: Any, weak: bool, name: str | None) -> None:
        style = style_of(self._name, receiver, "event")
        registry = self._feed.registry
        if name is None:
            registry.connect(self._keys, self._values, receiver, style, sender, weak, None)
            return
        with lock:  # until it is connected, nobody sees that the name is taken
            claimed = self._feed.names.claim(name, receiver)
            registry.connect(self._keys, self._values, receiver, style, sender, weak, claimed)

    def _name(self) -> str:
        return self.name

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        """Disconnect a receiver. One that is not connected is ignored.

        :param sender: only from events of this model class, which it was connected to; by default from all.
        """
        self._feed.registry.disconnect(self._keys, self._values, receiver, sender)

    @contextmanager
    def connected_to(self, receiver: Callable[..., Any], sender: Any = ANY) -> Iterator[None]:
        """Connect a receiver while a `with` block runs.

        :param sender: only events of this model class; by default all.
        :raises ConfigurationError: where the receiver can't be called as `receiver(sender, event)`.
        """
        self.connect(receiver, sender)
        try:
            yield
        finally:
            self.disconnect(receiver)

    def _keep_batch(self, subscriber: Subscriber) -> None:
        self._feed.registry.keep_batch(self._keys, self._values, subscriber)

    def _release_batch(self, subscriber: Subscriber) -> None:
        self._feed.registry.release_batch(self._keys, subscriber)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FilteredSignal):
            return NotImplemented
        return self._feed is other._feed and self._keys == other._keys and bool(self._values == other._values)

    def __hash__(self) -> int:
        return hash((id(self._feed), self._keys, self._values))

    def __repr__(self) -> str:
        values = cast("tuple[Hashable, ...]", (self._values,) if len(self._keys) == 1 else self._values)
        words = ", ".join(f"{key}={value!r}" for key, value in zip(self._keys, values, strict=True))
        how = "touching " if isinstance(self._keys, TouchingKeys) else ""
        return f"<FilteredSignal {self._feed.name}: {how}{words}>"
