"""Signals: blinker's, with filters by value and coroutine receivers.

`WatchSignal` is what `User.watch.updated` is, `FilteredSignal` what its `filter_by` gives, `WatchSignals`
the collection `User.watch`. Dispatching a row costs the same with one filtered subscription as with
100,000: subscriptions stand in a dictionary by value, one for each combination of keys in use.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Number
from typing import Any, Generic, cast

from blinker import ANY
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..declaring.spec import CarriedColumn, Operation
from ..errors import ConfigurationError
from .events import Event, T
from .receivers import CompactSignal, Delivery, F, ReceiverSignal, SoleReceivers, lock
from .streams import EventStream


@dataclass(frozen=True)
class Details:
    """What stands in the database for a signal."""

    function_name: str
    trigger_name: str
    channel: str
    table: str
    columns: tuple[str, ...]


class EventSignal(ReceiverSignal, Generic[T]):
    """What `WatchSignal` and `FilteredSignal` share."""

    def __init__(self, name: str, doc: str | None = None) -> None:
        super().__init__(name, doc)
        #: By their parameters; those with receivers are kept, and are part of the plan.
        self._batches: dict[tuple[int, float, bool], BatchSignal[T]] = {}
        self._batch_views: weakref.WeakValueDictionary[tuple[int, float, bool], BatchSignal[T]] | None = None

    @property
    def streams(self) -> weakref.WeakSet[EventStream[T]]:
        """Streams of the watch's own signal and its filtered ones, for the listener to end."""
        raise NotImplementedError

    def stream(self, max_queue: int = 1000) -> EventStream[T]:
        """An asynchronous iterator over the events: `async for event in User.watch.updated.stream():`.

        :param max_queue: how many events wait at the most while the consumer is slow. Beyond that the
            newest are dropped and `EventsDropped` is raised at that place; iterating may go on after it.
        :raises ConfigurationError: outside a running event loop, or for a `max_queue` below 1.

        It ends when the last listener of this signal stops, and with `aclose()`.
        """
        return EventStream(self, max_queue)

    def batches(self, max_size: int = 1000, max_wait: float = 0.1, *, latest_only: bool = False) -> BatchSignal[T]:
        """A signal for receivers that would rather have many rows at once: `receiver(sender, events=[...])`.

        :param max_size: a batch has at most so many events.
        :param max_wait: seconds an event waits for others at the most; 0 gathers what has arrived already.
        :param latest_only: keep only the latest event of each identity.
        :raises ConfigurationError: for values out of range.

        `catch_up` and `stop` deliver what has been gathered. Batches have the events of one sender.
        """
        parameters = (max_size, max_wait, latest_only)
        with lock:
            if self._batch_views is None:
                self._batch_views = weakref.WeakValueDictionary()
            batch = self._batch_views.get(parameters)
            if batch is None:
                batch = self._batch_views[parameters] = BatchSignal(self, *parameters)
            return batch

    def _extra_deliveries(self) -> list[Delivery]:
        return [Delivery(batch, False, False, False, None, batch) for batch in self._batches.copy().values()]

    @property
    def in_use(self) -> bool:
        """Whether anything is connected, batches included."""
        return bool(self.receivers or self._batches)

    def _keep_batch(self, batch: BatchSignal[T]) -> None:
        self._batches[batch.parameters] = batch
        self._plan = None

    def _drop_batch(self, batch: BatchSignal[T]) -> None:
        if self._batches.pop(batch.parameters, None) is not None:
            self._plan = None


class BatchSignal(ReceiverSignal, Generic[T]):
    """What `batches()` gives; the listener gathers the events."""

    keyword = "events"

    def __init__(self, parent: EventSignal[T], max_size: int, max_wait: float, latest_only: bool) -> None:
        super().__init__(f"{parent.name}.batches")
        if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
            raise ConfigurationError(f"signal {self.name!r}: max_size must be an int of at least 1, not {max_size!r}")
        if isinstance(max_wait, bool) or not isinstance(max_wait, (int, float)) or not 0 <= max_wait < float("inf"):
            raise ConfigurationError(f"signal {self.name!r}: max_wait must be seconds from 0 on, not {max_wait!r}")
        self._parent = parent
        self.max_size: int = max_size
        self.max_wait: float = max_wait
        self.latest_only: bool = latest_only

    @property
    def parameters(self) -> tuple[int, float, bool]:
        """By which the same batches are found again."""
        return (self.max_size, self.max_wait, self.latest_only)

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        """Connect a receiver, to be called as `receiver(sender, events)`; see `EventSignal.connect`."""
        with lock:
            super().connect(receiver, sender, weak)
            self._parent._keep_batch(self)
        return receiver

    def _disconnect(self, receiver_id: Hashable, sender_id: Hashable) -> None:
        with lock:
            super()._disconnect(receiver_id, sender_id)
            if not self.receivers:
                self._parent._drop_batch(self)


class FilteredSignal(CompactSignal, EventSignal[T]):
    """The events of a `WatchSignal` for certain values alone; kept by it while it has receivers."""

    def __init__(self, parent: WatchSignal[T], keys: tuple[str, ...], values: Hashable) -> None:
        super().__init__(parent.filtered_name(keys), parent.sole_receivers)
        self._parent, self._keys, self._values = parent, keys, values

    @property
    def streams(self) -> weakref.WeakSet[EventStream[T]]:
        return self._parent.streams

    @property
    def in_use(self) -> bool:
        return super().in_use or (not self._is_compact and bool(self._batches))

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        with lock:
            super().connect(receiver, sender, weak)
            self._parent.keep_filter(self, self._keys, self._values)
        return receiver

    connect.__doc__ = ReceiverSignal.connect.__doc__

    def _disconnect(self, receiver_id: Hashable, sender_id: Hashable) -> None:
        with lock:
            super()._disconnect(receiver_id, sender_id)
            self._release()

    def _keep_batch(self, batch: BatchSignal[T]) -> None:
        super()._keep_batch(batch)
        self._parent.keep_filter(self, self._keys, self._values)

    def _drop_batch(self, batch: BatchSignal[T]) -> None:
        super()._drop_batch(batch)
        self._release()

    def _release(self) -> None:
        if not self.in_use:
            self._parent.drop_filter(self, self._keys, self._values)


class WatchSignal(EventSignal[T]):
    """The signal of one watch: `User.watch.updated`."""

    def __init__(
        self,
        name: str,
        operation: Operation,
        details: Details,
        key: tuple[str, ...],
        carried: Mapping[str, CarriedColumn],
    ) -> None:
        super().__init__(name, doc=f"{operation} rows of {details.table}")
        self.operation = operation
        #: Names of the function, the trigger, the channel and the table, and the columns carried.
        self.details = details
        self._key = key
        self._carried = carried
        #: keys in use -> their values -> signal. Strong: a filtered signal lives while it has receivers. Looked at for
        #: each row, and so no property.
        self.filters: dict[tuple[str, ...], dict[Hashable, FilteredSignal[T]]] = {}
        #: Those without, while anybody has them.
        self._unused_filters: weakref.WeakValueDictionary[Hashable, FilteredSignal[T]] = weakref.WeakValueDictionary()
        self.sole_receivers: SoleReceivers = SoleReceivers()
        self._streams: weakref.WeakSet[EventStream[T]] = weakref.WeakSet()
        self._sources: set[int] = set()
        self._filtered_names: dict[tuple[str, ...], str] = {}
        #: By key: what `isinstance` is asked of values; None for anything.
        self._python_types = {name: _python_type(column.type) for name, column in carried.items()}

    @property
    def streams(self) -> weakref.WeakSet[EventStream[T]]:
        return self._streams

    def filtered_name(self, keys: tuple[str, ...]) -> str:
        """What filtered signals of these keys are called: one string for all."""
        return self._filtered_names.setdefault(keys, f"{self.name}[{', '.join(keys)}]")

    def attach(self, source: object) -> None:
        """Called by a listener that starts to serve this signal from this source."""
        with lock:
            self._sources.add(id(source))

    def detach(self, source: object) -> None:
        """Called by a listener that stopped: streams end with the last one."""
        with lock:
            self._sources.discard(id(source))
            streams = [] if self._sources else list(self.streams)
        for stream in streams:
            stream.end()

    def forget(self, source: object) -> None:
        """In a forked child: the listener does not run here. Streams are the parent's, and not woken."""
        self._sources.discard(id(source))

    def missed(self, reason: str) -> None:
        """Called by a listener that may have missed events: streams say so at this place."""
        with lock:
            streams = list(self.streams)
        for stream in streams:
            stream.missed(reason)

    def filter_by(self, /, **values: Any) -> FilteredSignal[T]:
        """A signal for the rows alone that have these values, all of them.

        :param values: attribute name and value, compared as Python values of the column's type.
        :raises ConfigurationError: for an attribute that isn't carried, for a value of another type than
            the column's, and for the whole primary key of `inserted`, which nobody can know beforehand.
        """
        if not values:
            raise ConfigurationError(f"signal {self.name!r}: filter_by() needs at least one key, such as id=7")
        for key, value in values.items():
            self._check_filter(key, value)
        if self.operation == "inserted" and set(self._key) <= values.keys():
            raise ConfigurationError(
                f"signal {self.name!r}: the primary key of a row isn't known before it is inserted: filter by an "
                f"association column, or connect without a filter"
            )
        keys = tuple(sorted(values))
        frozen = freeze(values[keys[0]]) if len(keys) == 1 else tuple(freeze(values[k]) for k in keys)
        try:
            hash(frozen)
        except TypeError as error:
            raise ConfigurationError(
                f"signal {self.name!r}: can't filter by {', '.join(map(repr, keys))}: {error}: give the type a "
                f"__hash__ that goes with its __eq__, or look at event.values in the receiver"
            ) from None
        with lock:
            index = self.filters.get(keys)
            signal = None if index is None else index.get(frozen)
            if signal is None:
                signal = self._unused_filters.get((keys, frozen))
            if signal is None:
                signal = self._unused_filters[(keys, frozen)] = FilteredSignal(self, keys, frozen)
            return signal

    def keep_filter(self, signal: FilteredSignal[T], keys: tuple[str, ...], values: Hashable) -> None:
        """Called by a filtered signal that has got a receiver."""
        index = self.filters.get(keys, {})
        index[values] = signal
        self.filters[keys] = index  # again: a garbage collection meanwhile may have taken an empty one away
        self._unused_filters.pop((keys, values), None)

    def drop_filter(self, signal: FilteredSignal[T], keys: tuple[str, ...], values: Hashable) -> None:
        """Called by a filtered signal that has lost its last receiver."""
        index = self.filters.get(keys)
        if index is not None and index.get(values) is signal:
            del index[values]
            self._unused_filters[(keys, values)] = signal
            if not index and self.filters.get(keys) is index:  # a garbage collection meanwhile may have done it
                del self.filters[keys]

    def _check_filter(self, key: str, value: object) -> None:
        if key not in self._carried:
            raise ConfigurationError(
                f"signal {self.name!r}: can't filter by {key!r}, because it isn't carried: add it to extra_columns, "
                f"or use {', '.join(map(repr, self._carried)) or 'another operation'}"
            )
        expected = self._python_types[key]
        if value is None or expected is None or isinstance(value, expected):
            return
        raise ConfigurationError(
            f"signal {self.name!r}: {key}={value!r} would never match, because {key!r} holds "
            f"{getattr(expected, '__name__', 'numbers')} values"
        )

    def filtered_plans(self, sender: Any, event: Event[T]) -> tuple[list[tuple[Delivery, ...]], bool]:
        """Receivers of the filters that match, and whether one could not be decided for want of a column."""
        plans = []
        undecided = False
        row, positions = event._row, event._message.kind.positions
        for keys, index in self.filters.copy().items():  # a garbage collection may change it meanwhile
            try:
                if len(keys) == 1:
                    value = row[positions[keys[0]]]
                    signal = index.get(value if type(value) in _FROZEN else freeze(value))
                else:
                    signal = index.get(tuple([freeze(row[positions[key]]) for key in keys]))
            except LookupError:
                undecided = True
                continue
            except TypeError:  # a value that can't be hashed can't be filtered by either
                continue
            if signal is not None:
                plans.append(signal.plan(sender))
        return plans, undecided

    def all_deliveries(self, sender: Any, event: Event[T]) -> Iterator[tuple[Delivery, Any]]:
        """Every receiver of the event, those of filters and batches included, and what it is called with."""
        filtered, _ = self.filtered_plans(sender, event)
        for delivery in (delivery for plan in (self.plan(sender), *filtered) for delivery in plan):
            if delivery.batch is None:
                yield delivery, event
            else:
                yield from ((each, [event]) for each in delivery.batch.plan(sender))


#: What `freeze` leaves alone, of what keys mostly are.
_FROZEN = frozenset([int, str, uuid.UUID, type(None)])


def freeze(value: Any) -> Hashable:
    """The value as a dictionary key: lists and dictionaries (arrays, JSON) become tuples and sets."""
    if isinstance(value, list):
        return ("list", *map(freeze, value))
    if isinstance(value, dict):
        return ("dict", frozenset((k, freeze(v)) for k, v in value.items()))
    if isinstance(value, set):
        return frozenset(map(freeze, value))
    if type(value) is tuple:
        return tuple(map(freeze, value))
    return cast(Hashable, value)


def _python_type(type_: TypeEngine[Any]) -> type | None:
    if isinstance(type_, TypeDecorator):  # its python_type is the implementation's
        return None
    try:
        python_type = type_.python_type
    except NotImplementedError:
        return None
    return Number if issubclass(python_type, Number) else python_type


class WatchSignals(Generic[T]):
    """The signals of one model: `User.watch`. Iterates over them; attributes are their labels."""

    def __init__(self, owner: str, signals: Mapping[str, WatchSignal[T]]) -> None:
        self._owner = owner
        self._signals = dict(signals)

    def __getattr__(self, label: str) -> WatchSignal[T]:
        try:
            return self.__dict__["_signals"][label]  # type: ignore[no-any-return]
        except KeyError:
            if label.startswith("_"):
                raise AttributeError(label) from None
            raise AttributeError(
                f"{self._owner} does not watch {label!r}: it watches "
                f"{', '.join(map(repr, self._signals)) or 'nothing'}; add it to __watch__"
            ) from None

    def __getitem__(self, label: str) -> WatchSignal[T]:
        return self._signals[label]

    def __contains__(self, label: object) -> bool:
        return label in self._signals

    def __iter__(self) -> Iterator[WatchSignal[T]]:
        return iter(self._signals.values())

    def __len__(self) -> int:
        return len(self._signals)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._signals]

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        """Connect a receiver to all signals of the model; returns it, so it decorates."""
        for signal in self:
            signal.connect(receiver, sender, weak)
        return receiver

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        """Disconnect a receiver from all signals of the model."""
        for signal in self:
            signal.disconnect(receiver, sender)

    def connected_to(self, receiver: Callable[..., Any], sender: Any = ANY) -> AbstractContextManager[None]:
        """Connect a receiver to all signals of the model while a `with` block runs."""

        @contextmanager
        def connected() -> Iterator[None]:
            with ExitStack() as stack:
                for signal in self:
                    stack.enter_context(signal.connected_to(receiver, sender))
                yield

        return connected()

    def __repr__(self) -> str:
        return f"<WatchSignals {self._owner}: {', '.join(self._signals) or 'none'}>"
