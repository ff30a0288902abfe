"""Filters: the subscriptions to certain values, and the view of a signal that `filter_by()` makes.

The subscriptions stand in dictionaries by value, one for each combination of keys in use: dispatching a row costs the
same with one of them as with 100,000. A view holds nothing: it says which subscriptions are meant.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, cast

from blinker import ANY
from blinker._utilities import make_id, make_ref  # as in receivers

from .batches import BatchOptions, BatchSignal
from .events import T
from .receivers import Change, Deliveries, Delivery, F, Style, lock, loop_of, style_of
from .streams import EventStream

Keys = tuple[str, ...]

#: The receivers for certain values: mostly a single one, for all senders, and then that plan itself. A receiver's
#: subscriptions share it, so that each takes little memory.
Entry = tuple[Delivery] | Deliveries

#: A receiver of filters by these keys.
SubscriberKey = tuple[Hashable, Keys]

#: The types of keys that `freeze` need not look at, of those that keys mostly are.
_FROZEN = frozenset([int, str, uuid.UUID, type(None)])


def freeze(value: Any) -> Hashable:
    """Return the value as a dictionary key: lists and dictionaries (arrays, JSON) become tuples and sets."""
    if type(value) in _FROZEN:
        return cast(Hashable, value)
    if isinstance(value, list):
        return ("list", *map(freeze, value))
    if isinstance(value, dict):
        return ("dict", frozenset((k, freeze(v)) for k, v in value.items()))
    if isinstance(value, set):
        return frozenset(map(freeze, value))
    if type(value) is tuple:
        return tuple(map(freeze, value))
    return cast(Hashable, value)


class _Subscriber:
    """A receiver of filters by the same keys: how it was connected last, and to which values."""

    __slots__ = ("how", "plan", "values")

    def __init__(self, how: object, plan: tuple[Delivery]) -> None:
        self.how = how
        self.plan = plan
        self.values: set[Hashable] = set()


class FilterRegistry(Generic[T]):
    """Everything that is connected to the views of one signal.

    :param name: the signal's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: keys in use -> their values -> receivers. Dispatch looks at it without the lock.
        self.by_keys: dict[Keys, dict[Hashable, Entry]] = {}
        #: Of the signal and of its views, for the listener to end.
        self.streams: weakref.WeakSet[EventStream[T]] = weakref.WeakSet()
        #: Of the signal and of its views, by these and their parameters, while anybody has them.
        self.batches: weakref.WeakValueDictionary[Hashable, BatchSignal[T]] = weakref.WeakValueDictionary()
        #: With the values of each, so that a receiver that dies is removed without a search.
        self._subscribers: dict[SubscriberKey, _Subscriber] = {}
        self._changing = Change(self._remove_all)

    def connect(
        self, keys: Keys, values: Hashable, receiver: Callable[..., Any], style: Style, sender: Any, weak: bool
    ) -> None:
        """Connect a receiver to the rows with these values of these keys."""
        key = (make_id(receiver), keys)
        how = (weak, style, loop_of(style))
        with self._changing:
            subscriber = self._subscribers.get(key)
            if subscriber is None or subscriber.how != how:
                found = make_ref(receiver, partial(self._changing.forget, key)) if weak else receiver
                subscriber = self._subscriber(key, how, Delivery(key[0], found, weak, *style, how[2]))
            self._add(key, subscriber, values, sender)

    def keep_batch(self, keys: Keys, values: Hashable, delivery: Delivery) -> None:
        """Connect a batch, which has a receiver."""
        key = (delivery.receiver_id, keys)
        with self._changing:
            self._add(key, self._subscriber(key, None, delivery), values, ANY)

    def release_batch(self, keys: Keys, delivery: Delivery) -> None:
        """Disconnect a batch, which has no receiver any more."""
        self._changing.remove((delivery.receiver_id, keys))

    def _subscriber(self, key: SubscriberKey, how: object, delivery: Delivery) -> _Subscriber:
        subscriber = _Subscriber(how, (delivery,))
        before = self._subscribers.get(key)
        if before is not None:
            subscriber.values = before.values
        return subscriber

    def _add(self, key: SubscriberKey, subscriber: _Subscriber, values: Hashable, sender: Any) -> None:
        receiver_id, keys = key
        index = self.by_keys.get(keys, {})
        entry: Entry | None = index.get(values)
        if sender is ANY and (entry is None or (type(entry) is tuple and entry[0].receiver_id == receiver_id)):
            entry = subscriber.plan
        else:
            if not isinstance(entry, Deliveries):
                entry = Deliveries(*(entry or ()))
            entry.add(subscriber.plan[0], sender)
        index[values] = entry
        subscriber.values.add(values)
        self._subscribers[key] = subscriber
        self.by_keys[keys] = index

    def disconnect(self, keys: Keys, values: Hashable, receiver: Callable[..., Any], sender: Any) -> None:
        """Disconnect a receiver from these values; one that is not connected is ignored."""
        key = (make_id(receiver), keys)
        with self._changing:
            subscriber = self._subscribers.get(key)
            if subscriber is None or values not in subscriber.values:
                return
            if self._remove(key, values, sender):
                subscriber.values.discard(values)
                if not subscriber.values:
                    self._subscribers.pop(key, None)

    def _remove_all(self, key: SubscriberKey) -> None:
        subscriber = self._subscribers.pop(key, None)
        if subscriber is not None:
            for values in subscriber.values:
                self._remove(key, values, ANY)

    def _remove(self, key: SubscriberKey, values: Hashable, sender: Any) -> bool:
        """Remove a receiver from an entry, and return True if it is gone from there."""
        receiver_id, keys = key
        index = self.by_keys.get(keys, {})
        entry = index.get(values)
        if isinstance(entry, Deliveries):
            entry.remove(receiver_id, sender)
            if receiver_id in entry:
                return False
        elif sender is not ANY:  # it hears all senders
            return False
        if not entry or isinstance(entry, tuple):
            index.pop(values, None)
        if not index and self.by_keys.get(keys) is index:
            del self.by_keys[keys]
        return True

    def plans(
        self, sender: Any, row: tuple[Any, ...], positions: Mapping[str, int]
    ) -> tuple[list[tuple[Delivery, ...]], bool]:
        """Return the receivers of a row, and True if a filter could not be decided for want of a column.

        :param row: the values of its columns.
        :param positions: where each attribute stands in the row.
        """
        plans: list[tuple[Delivery, ...]] = []
        undecided = False
        for keys, index in self.by_keys.copy().items():  # a garbage collection may change it meanwhile
            try:
                if len(keys) == 1:
                    value = row[positions[keys[0]]]
                    entry = index.get(value if type(value) in _FROZEN else freeze(value))
                else:
                    entry = index.get(tuple([freeze(row[positions[key]]) for key in keys]))
            except LookupError:
                undecided = True
                continue
            except TypeError:  # a value that can't be hashed can't be filtered by either
                continue
            if entry is not None:
                plans.append(entry.plan(sender) if isinstance(entry, Deliveries) else entry)
        return plans, undecided


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
        """Return an asynchronous iterator over the events: `async for event in User.watch.updated.stream():`.

        :param max_queue: how many events wait at the most while the consumer is slow. Beyond that the
            newest are dropped and `EventsDropped` is raised at that place; iterating may go on after it.
        :raises ConfigurationError: outside a running event loop, or for a `max_queue` below 1.

        It ends when the last listener of this signal stops, and with `aclose()`.
        """
        return EventStream(self, self._registry.streams, max_queue)

    def batches(self, max_size: int = 1000, max_wait: float = 0.1, *, latest_only: bool = False) -> BatchSignal[T]:
        """Return a signal for receivers that would rather have many rows at once: `receiver(sender, events=[...])`.

        :param max_size: a batch has at most so many events.
        :param max_wait: seconds an event waits for others at the most; 0 gathers what has arrived already.
        :param latest_only: keep only the latest event of each identity.
        :raises ConfigurationError: for values out of range.

        `catch_up` and `stop` deliver what has been gathered. Batches have the events of one sender. They are kept
        while they have receivers, and found again by the same parameters.
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

    def _keep_batch(self, delivery: Delivery) -> None:
        raise NotImplementedError

    def _release_batch(self, delivery: Delivery) -> None:
        raise NotImplementedError


class FilteredSignal(EventSignal[T]):
    """The events of a `WatchSignal` for certain values alone: a view of it, made by `filter_by()`.

    Views of the same signal with the same keys and values are equal: whatever is connected to one is connected to
    the others, and stays so when none is left.
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
        """Connect a receiver, to be called as `receiver(sender, event)`; returns it, so it decorates.

        :param receiver: a function, or a coroutine function: that runs on the event loop in which it was
            connected, or else the one in which the listener was started.
        :param sender: only events of this model class; by default all.
        :param weak: disconnect the receiver when nothing else refers to it; use False for functions defined
            inside functions.
        :raises ConfigurationError: where the receiver can't be called that way.
        """
        style = style_of(self, receiver, "event")
        self._registry.connect(self._keys, self._values, receiver, style, sender, weak)
        return receiver

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        """Disconnect a receiver; one that is not connected is ignored.

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

    def _keep_batch(self, delivery: Delivery) -> None:
        self._registry.keep_batch(self._keys, self._values, delivery)

    def _release_batch(self, delivery: Delivery) -> None:
        self._registry.release_batch(self._keys, delivery)

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
