"""Filters: the views of a signal that `filter_by()` and `touching()` make.

A view holds nothing: it says which subscriptions are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from blinker import ANY

from ..errors import ConfigurationError
from ..events.event import Event, T
from ..events.messages import parts_of
from .batches import BatchOptions, BatchSignal
from .feeds import Feed
from .guard import lock
from .matching import Keys, TouchingKeys, freeze
from .once import Once
from .receiver_types import LATER, Connects, Decorator, OnceDecorator, R, S
from .receivers import ClaimsNames, Subscriber, function_name, style_of_once
from .streams import EventIterator, EventStream, OnGap, Resync
from .styles import style_of


class EventSignal(Connects[T]):
    """The methods that a signal and the views of it have in common."""

    __slots__ = ()

    @property
    def _feeds(self) -> Sequence[Feed]:
        """Where its events come from."""
        raise NotImplementedError

    @property
    def _names_of_receivers(self) -> ClaimsNames:
        return self._feeds[0].names

    @property
    def _common_sender(self) -> Any:
        """The sender of batches with the events of several signals; None for a single one."""
        return None

    if TYPE_CHECKING:  # blinker's, or the view's

        @property
        def name(self) -> str:
            """The name of the signal."""

        def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
            """Disconnect a receiver."""

        def _connect(
            self, receiver: Any, sender: Any, weak: bool, name: str | None, once: Once | None = None
        ) -> None: ...

        def _keep_batch(self, subscriber: Subscriber) -> None: ...

        def _release_batch(self, subscriber: Subscriber) -> None: ...

    def connect_via(self, sender: Any, weak: bool = False) -> Decorator[T]:
        """Return a decorator that connects a receiver to the events of one model class: `connect` says more.

        :param sender: the model class.
        :param weak: disconnect the receiver when nothing else refers to it.
        """
        return self.connect(sender=sender, weak=weak)

    @overload
    def connect_once(
        self, receiver: Callable[[Any, Event[T], S], R], session_factory: Callable[[], S], *, sender: Any = ...,
        name: str | None = ...,
    ) -> Callable[[Any, Event[T], S], R]: ...  # fmt: skip
    @overload
    def connect_once(
        self, *, session_factory: Callable[[], S], sender: Any = ..., name: str | None = ...
    ) -> OnceDecorator[T, S]: ...

    def connect_once(
        self, receiver: Any = LATER, session_factory: Any = None, *, sender: Any = ANY, name: str | None = None
    ) -> Any:
        """Connect a receiver whose effects happen exactly once, and return it: a decorator as well::

            @Order.watch.inserted.connect_once(session_factory=Session)
            def book(sender, event, session):
                session.add(Booking(order_id=event.values["id"]))

        It is called as `receiver(sender, event, session)`, with a session that commits when it returns, together with
        the event's key, in the table `sqlalchemy_watch.once` of the same database: where it has had the event, it is
        not called. Whatever it does elsewhere may happen twice. For events of a consumer group alone; of a watch with
        delivery "both" it does not have what comes by NOTIFY. A row that is read twice by a backfill is two events.

        :param receiver: a function, or a coroutine function.
        :param session_factory: a `sessionmaker` of the database whose events they are, or another function that
            returns a new `Session`; for a coroutine function an `async_sessionmaker`.
        :param sender: as for `connect`.
        :param name: as for `connect`. By this name it is known in the next process, so a new one is another receiver.
        :raises ConfigurationError: for events that come by NOTIFY, where the receiver can't be called that way, where
            it does not go with the factory, and for a name that another receiver has. At `start()`, or at the first
            event, for sessions of another database.
        """
        if receiver is LATER:
            return lambda found: self.connect_once(found, session_factory, sender=sender, name=name)
        notified = [feed.name for feed in self._feeds if feed.delivery == "notify"]
        if notified:
            raise ConfigurationError(
                f"connect_once: {', '.join(notified)} has no events of a consumer group, which come again until they "
                f"are acknowledged: {self._remedy_for_once}"
            )
        self._connect_once(receiver, session_factory, sender, name or function_name(receiver))
        return receiver

    @property
    def _remedy_for_once(self) -> str:
        return "declare delivery='durable' in its Watch, or use connect()"

    def _connect_once(self, receiver: Any, session_factory: Any, sender: Any, name: str) -> None:
        once = Once(receiver, session_factory, self._feeds[0].name, name)
        self._connect(receiver, sender, False, name, once)
        self._feeds[0].once.add(once)

    @overload
    def stream(self, max_queue: int = ..., *, on_gap: Literal["raise"] = ...) -> EventStream[Event[T]]: ...
    @overload
    def stream(self, max_queue: int = ..., *, on_gap: Literal["yield"]) -> EventStream[Event[T] | Resync]: ...

    def stream(self, max_queue: int = 1000, *, on_gap: OnGap = "raise") -> EventStream[Any]:
        """Return an asynchronous iterator over the events, in the order of the log::

            async with User.watch.updated.stream() as events:
                async for event in events:
                    await websocket.send_json(event.to_dict())

        It ends when the last listener stops that serves it, and with `aclose()`. An event of a consumer group counts as
        delivered once the next one is asked for: nothing of it is dropped.

        :param max_queue: the most events that wait while the consumer is slow, without a group. Beyond that the newest
            are dropped, and there is a gap at that place.
        :param on_gap: what comes where events are missing: `"raise"` raises `EventsDropped`, and iterating may go on
            after it; with `"yield"` a `Resync` comes among the events, so that one loop lives as long as its task.
        :raises ConfigurationError: outside a running event loop, and for parameters out of range.
        """
        return EventStream(self, [feed.streams for feed in self._feeds], max_queue, on_gap)

    @overload
    def iterate(
        self, timeout: float | None = ..., max_queue: int = ..., *, on_gap: Literal["raise"] = ...
    ) -> EventIterator[Event[T]]: ...
    @overload
    def iterate(
        self, timeout: float | None = ..., max_queue: int = ..., *, on_gap: Literal["yield"]
    ) -> EventIterator[Event[T] | Resync]: ...

    def iterate(
        self, timeout: float | None = None, max_queue: int = 1000, *, on_gap: OnGap = "raise"
    ) -> EventIterator[Any]:
        """Return an iterator over the events: `stream()` for threads and scripts::

            with Order.watch.iterate(timeout=5) as events:
                for event in events:
                    print(event)

        :param timeout: seconds to wait for an event, after which iterating ends; None waits for ever.
        :param max_queue: as for `stream`.
        :param on_gap: as for `stream`.
        :raises ConfigurationError: for parameters out of range.
        """
        return EventIterator(self, [feed.streams for feed in self._feeds], max_queue, on_gap, timeout)

    def batches(self, max_size: int = 1000, max_wait: float = 0.1, *, latest_only: bool = False) -> BatchSignal[T]:
        """Return a signal whose receivers get many events at once, as `receiver(sender, events=[...])`::

            @Order.watch.inserted.batches(max_size=500, max_wait=0.5).connect
            def index(sender, events):
                search.add([event.values for event in events])

        A batch of a single signal has the events of one sender. One of several signals (`Order.watch`,
        `listener.events`) has them all, in the order of the log. `catch_up` and `stop` deliver what has been gathered.
        The signal is kept while it has receivers, and the same parameters return the same one.

        :param max_size: the most events of a batch; 1 or more.
        :param max_wait: the time, in seconds, that an event waits for others at the most; 0 gathers what has arrived
            already.
        :param latest_only: keep only the latest event of each identity, that is, the one that was emitted last,
            whatever its operation. That is not the newest state of the row where another AFTER trigger writes to the
            row again: its inner change is emitted before the outer one. Load the rows then, or see "Limits" in the
            documentation.
        :raises ConfigurationError: for values out of range.
        """
        name = f"{self.name}.batches"
        options = BatchOptions(max_size, max_wait, latest_only)
        options.check(name)
        with lock:
            batch = next((feed.batches.get((self, options)) for feed in self._feeds), None)
            if batch is None:
                batch = BatchSignal(
                    name, options, self._names_of_receivers, self._keep_batch, self._release_batch, self._common_sender
                )
                for feed in self._feeds:
                    feed.batches[(self, options)] = batch
            return batch


def feeds_of(signal: EventSignal[Any]) -> Sequence[Feed]:
    """Return the listener's side of a signal: no member of it, since users need none of that."""
    return signal._feeds  # noqa: SLF001 - of the same module


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
    def _feeds(self) -> Sequence[Feed]:
        return (self._feed,)

    @property
    def name(self) -> str:
        """The name of the signal with the keys: `User.updated[id]`."""
        how = "touching " if isinstance(self._keys, TouchingKeys) else ""
        return f"{self._feed.name}[{how}{', '.join(self._keys)}]"

    def _connect(self, receiver: Any, sender: Any, weak: bool, name: str | None, once: Once | None = None) -> None:
        style = style_of(self._name, receiver, "event") if once is None else style_of_once(once)
        registry = self._feed.registry
        if name is None:
            registry.connect(self._keys, self._values, receiver, style, sender, weak, None)
            return
        with lock:  # until it is connected, nobody sees that the name is taken
            claimed = self._feed.names.claim(name, receiver)
            registry.connect(self._keys, self._values, receiver, style, sender, weak, claimed, once)

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


def matches(view: FilteredSignal[Any], event: Event[Any]) -> bool:
    """Return True if the event's row has the values of a view; with `touching()`, has them now.

    :raises LookupError: where the event does not carry one of them.
    """
    message, row, _, _ = parts_of(event)
    indexes, keys = message.kind.indexes, view._keys  # noqa: SLF001 - of the same module
    found = row[indexes[keys[0]]] if len(keys) == 1 else tuple([row[indexes[key]] for key in keys])
    return bool(freeze(found) == view._values)  # noqa: SLF001


def touches(view: FilteredSignal[Any], event: Event[Any]) -> bool:
    """Return True if the event is one of a view: with `touching()` also where the row had the values before.

    :raises LookupError: where the event does not carry one of them, or, for want of space, not the previous row.
    """
    if matches(view, event):
        return True
    keys, old = view._keys, event.old  # noqa: SLF001
    if not isinstance(keys, TouchingKeys):
        return False
    if old is None:
        if event.partial:
            raise LookupError(f"{event.label}: it does not carry its previous values")
        return False
    before = old[keys[0]] if len(keys) == 1 else tuple([old[key] for key in keys])
    return bool(freeze(before) == view._values)  # noqa: SLF001
