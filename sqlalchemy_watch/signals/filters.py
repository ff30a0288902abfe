"""Filters: the subscriptions to certain values, and the view of a signal that `filter_by()` makes.

The subscriptions stand in dictionaries by value, one for each combination of keys in use: dispatching a row costs the
same with one of them as with 100,000. A view holds nothing: it says which subscriptions are meant.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, cast

from blinker import ANY
from blinker._utilities import make_id, make_ref  # as in receivers

from ..errors import ConfigurationError
from .batches import BatchOptions, BatchSignal
from .events import T
from .matching import FROZEN, Keys, Matches, MissingColumn, freeze
from .receivers import Change, F, Style, Subscriber, Subscribers, lock, loop_of, style_of
from .streams import EventStream

#: The receivers for certain values: mostly a single one, for all senders, which then needs no more than a tuple. The
#: subscriptions of a receiver share that tuple, so that each takes little memory.
Entry = tuple[Subscriber] | Subscribers

#: The identity of a receiver, and the keys that it filters by.
SubscriberKey = tuple[Hashable, Keys]


class _Subscriptions:
    """The subscriptions of one receiver by the same keys: their values, and the parameters of the last one."""

    __slots__ = ("how", "sole_entry", "values")

    def __init__(self, how: object, sole_entry: tuple[Subscriber]) -> None:
        self.how = how
        self.sole_entry = sole_entry
        self.values: set[Hashable] = set()


class FilterRegistry(Generic[T]):
    """Everything that is connected to the views of one signal.

    :param name: the signal's.
    :param is_durable_only: True for one that only listeners of a consumer group hear.
    """

    def __init__(self, name: str, is_durable_only: bool = False) -> None:
        self.name = name
        #: keys in use -> their values -> receivers. Dispatch looks at it without the lock.
        self.by_keys: dict[Keys, dict[Hashable, Entry]] = {}
        #: True for a signal that only listeners of a consumer group hear.
        self.is_durable_only = is_durable_only
        #: Of the signal and of its views, for the listener to end.
        self.streams: weakref.WeakSet[EventStream[T]] = weakref.WeakSet()
        #: The listeners without a group that serve the signal, by identity: they alone feed streams.
        self.sources: set[int] = set()
        #: Of the signal and of its views, by these and their parameters, while anybody has them.
        self.batches: weakref.WeakValueDictionary[Hashable, BatchSignal[T]] = weakref.WeakValueDictionary()
        #: With the values of each, so that a receiver that dies is removed without a search.
        self._subscriptions: dict[SubscriberKey, _Subscriptions] = {}
        self._changing = Change(self._remove_all)

    def connect(
        self, keys: Keys, values: Hashable, receiver: Callable[..., Any], style: Style, sender: Any, weak: bool
    ) -> None:
        """Connect a receiver to the rows with these values of these keys."""
        key = (make_id(receiver), keys)
        how = (weak, style, loop_of(style))
        with self._changing:
            subscriptions = self._subscriptions.get(key)
            if subscriptions is None or subscriptions.how != how:
                found = make_ref(receiver, partial(self._changing.forget, key)) if weak else receiver
                subscriptions = self._subscriptions_with(key, how, Subscriber(key[0], found, weak, *style, how[2]))
            self._add(key, subscriptions, values, sender)

    def keep_batch(self, keys: Keys, values: Hashable, subscriber: Subscriber) -> None:
        """Connect a batch, which has a receiver."""
        key = (subscriber.receiver_id, keys)
        with self._changing:
            self._add(key, self._subscriptions_with(key, None, subscriber), values, ANY)

    def release_batch(self, keys: Keys, subscriber: Subscriber) -> None:
        """Disconnect a batch, which has no receiver any more."""
        self._changing.remove((subscriber.receiver_id, keys))

    def _subscriptions_with(self, key: SubscriberKey, how: object, subscriber: Subscriber) -> _Subscriptions:
        subscriptions = _Subscriptions(how, (subscriber,))
        before = self._subscriptions.get(key)
        if before is not None:
            subscriptions.values = before.values
        return subscriptions

    def _add(self, key: SubscriberKey, subscriptions: _Subscriptions, values: Hashable, sender: Any) -> None:
        receiver_id, keys = key
        entries = self.by_keys.get(keys, {})
        entry: Entry | None = entries.get(values)
        if sender is ANY and (entry is None or (type(entry) is tuple and entry[0].receiver_id == receiver_id)):
            entry = subscriptions.sole_entry
        else:
            if not isinstance(entry, Subscribers):
                entry = Subscribers(*(entry or ()))
            entry.add(subscriptions.sole_entry[0], sender)
        entries[values] = entry
        subscriptions.values.add(values)
        self._subscriptions[key] = subscriptions
        self.by_keys[keys] = entries

    def disconnect(self, keys: Keys, values: Hashable, receiver: Callable[..., Any], sender: Any) -> None:
        """Disconnect a receiver from these values; one that is not connected is ignored."""
        key = (make_id(receiver), keys)
        with self._changing:
            subscriptions = self._subscriptions.get(key)
            if subscriptions is None or values not in subscriptions.values:
                return
            if self._remove(key, values, sender):
                subscriptions.values.discard(values)
                if not subscriptions.values:
                    self._subscriptions.pop(key, None)

    def _remove_all(self, key: SubscriberKey) -> None:
        subscriptions = self._subscriptions.pop(key, None)
        if subscriptions is not None:
            for values in subscriptions.values:
                self._remove(key, values, ANY)

    def _remove(self, key: SubscriberKey, values: Hashable, sender: Any) -> bool:
        """Remove a receiver from an entry, and return True if it is gone from there."""
        receiver_id, keys = key
        entries = self.by_keys.get(keys, {})
        entry = entries.get(values)
        if isinstance(entry, Subscribers):
            entry.remove(receiver_id, sender)
            if receiver_id in entry:
                return False
        elif sender is not ANY:  # it hears all senders
            return False
        if not entry or isinstance(entry, tuple):
            entries.pop(values, None)
        if not entries and self.by_keys.get(keys) is entries:
            del self.by_keys[keys]
        return True

    def matching_subscribers(self, sender: Any, row: tuple[Any, ...], indexes: Mapping[str, int]) -> Matches:
        """Return the receivers of a row.

        :param row: the values of its columns.
        :param indexes: of each attribute in the row.
        """
        found: list[tuple[Subscriber, ...]] = []
        undecided = False
        failed: list[tuple[Keys, Exception]] = []
        for keys in self.by_keys.copy():  # a garbage collection may change it meanwhile
            try:
                subscribers = self.subscribers_by(keys, sender, row, indexes)
            except MissingColumn:
                undecided = True
            except Exception as error:  # from the code of the value's type
                failed.append((keys, error))
            else:
                if subscribers:
                    found.append(subscribers)
        return Matches(found, undecided, failed)

    def subscribers_by(
        self, keys: Keys, sender: Any, row: tuple[Any, ...], indexes: Mapping[str, int]
    ) -> tuple[Subscriber, ...]:
        """Return the receivers of a row that filter by these keys.

        :raises MissingColumn: where the row lacks one of them.
        :raises Exception: whatever the values' own code raises where it compares them.
        """
        entries = self.by_keys.get(keys)
        if entries is None:
            return ()
        try:
            values = [row[indexes[key]] for key in keys]
        except LookupError:
            raise MissingColumn from None
        value = values[0] if len(values) == 1 else tuple(values)
        if type(value) not in FROZEN:
            try:
                value = freeze(value)
                hash(value)
            except TypeError:  # a value that can't be hashed can't be filtered by either
                return ()
        entry = entries.get(value)
        if entry is None:
            return ()
        return entry.for_sender(sender) if isinstance(entry, Subscribers) else entry


class EventSignal(Generic[T]):
    """The methods that a signal and the views of it have in common."""

    __slots__ = ()

    _registry: FilterRegistry[T]

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        """Connect a receiver."""
        raise NotImplementedError

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        """Disconnect a receiver."""
        raise NotImplementedError

    def stream(self, max_queue: int = 1000) -> EventStream[T]:
        """Return an asynchronous iterator over the events::

            async with User.watch.updated.stream() as events:
                async for event in events:
                    await websocket.send_json(event.values)

        It has the events of listeners without a group: a stream drops what it has no room for, and a group's events
        are acknowledged once they are taken. It ends when the last such listener of this signal stops, and with
        `aclose()`.

        :param max_queue: the most events that wait while the consumer is slow. Beyond that the newest are dropped,
            and `EventsDropped` is raised at that place; iterating may go on after it.
        :raises ConfigurationError: outside a running event loop, for a `max_queue` below 1, and for a signal of
            `delivery="durable"`.
        """
        registry = self._registry
        if registry.is_durable_only:
            raise ConfigurationError(
                f"signal {self.name!r}: its delivery is 'durable', and a stream would lose what it drops, since that "
                f"counts as delivered: connect a receiver or use batches(), or declare delivery='both' and start a "
                f"listener without a group as well"
            )
        return EventStream(self, registry.streams, registry.sources, max_queue)

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
        with lock:
            batch = self._registry.batches.get((self, options))
            if batch is None:
                batch = BatchSignal(name, options, self._keep_batch, self._release_batch)
                self._registry.batches[(self, options)] = batch
            return batch

    if TYPE_CHECKING:  # blinker sets it on the signal, and a view makes it

        @property
        def name(self) -> str:
            """The name of the signal."""

    def _keep_batch(self, subscriber: Subscriber) -> None:
        raise NotImplementedError

    def _release_batch(self, subscriber: Subscriber) -> None:
        raise NotImplementedError


class FilteredSignal(EventSignal[T]):
    """A view of a `WatchSignal`: the events of rows that have certain values. Made by `filter_by()`::

        Comment.watch.inserted.filter_by(order_id=42).connect(show)

    Views of the same signal with the same keys and values are equal. A receiver that is connected to one of them is
    connected to all, and stays so when no view is left.
    """

    __slots__ = ("_keys", "_registry", "_values")

    def __init__(self, registry: FilterRegistry[T], keys: Keys, values: Hashable) -> None:
        self._registry = registry
        self._keys = keys
        self._values = values

    @property
    def name(self) -> str:
        """The name of the signal with the keys: `User.updated[id]`."""
        return f"{self._registry.name}[{', '.join(self._keys)}]"

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        """Connect a receiver, to be called as `receiver(sender, event=event)`, and return it: a decorator as well.

        :param receiver: a function, or a coroutine function. A coroutine function runs on the event loop in which it
            was connected; if none was running, on the one in which the listener was started.
        :param sender: only events of this model class; by default all.
        :param weak: disconnect the receiver when nothing else refers to it. Use False for functions defined inside
            functions.
        :raises ConfigurationError: where the receiver can't be called that way.
        """
        style = style_of(self, receiver, "event")
        self._registry.connect(self._keys, self._values, receiver, style, sender, weak)
        return receiver

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        """Disconnect a receiver. One that is not connected is ignored.

        :param sender: only from events of this model class, which it was connected to; by default from all.
        """
        self._registry.disconnect(self._keys, self._values, receiver, sender)

    @contextmanager
    def connected_to(self, receiver: Callable[..., Any], sender: Any = ANY) -> Iterator[None]:
        """Connect a receiver while a `with` block runs.

        :param sender: only events of this model class; by default all.
        :raises ConfigurationError: where the receiver can't be called as `receiver(sender, event)`.
        """
        self.connect(receiver, sender, weak=False)
        try:
            yield
        finally:
            self.disconnect(receiver)

    def _keep_batch(self, subscriber: Subscriber) -> None:
        self._registry.keep_batch(self._keys, self._values, subscriber)

    def _release_batch(self, subscriber: Subscriber) -> None:
        self._registry.release_batch(self._keys, subscriber)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FilteredSignal):
            return NotImplemented
        return self._registry is other._registry and self._keys == other._keys and bool(self._values == other._values)

    def __hash__(self) -> int:
        return hash((id(self._registry), self._keys, self._values))

    def __repr__(self) -> str:
        values = cast("tuple[Hashable, ...]", (self._values,) if len(self._keys) == 1 else self._values)
        words = ", ".join(f"{key}={value!r}" for key, value in zip(self._keys, values, strict=True))
        return f"<FilteredSignal {self._registry.name}: {words}>"
