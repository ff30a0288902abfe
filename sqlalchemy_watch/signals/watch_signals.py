"""The signals of a model: `WatchSignal` is `User.watch.updated`, `WatchSignals` the collection `User.watch`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from numbers import Number
from typing import Any, Generic

from blinker import ANY
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..declaring.spec import CarriedColumn, Delivery, Operation
from ..errors import ConfigurationError, one_line
from .events import Event, T, parts_of
from .filters import EventSignal, FilteredSignal, FilterRegistry
from .matching import Keys, Matches, freeze
from .receivers import F, ReceiverSignal, Subscriber, lock


@dataclass(frozen=True)
class Details:
    """The names in the database that belong to a signal: function, trigger, channel, table, carried columns."""

    function_name: str
    trigger_name: str
    channel: str
    table: str
    columns: tuple[str, ...]


class WatchSignal(ReceiverSignal, EventSignal[T]):
    """The signal of one watch, such as `User.watch.updated`: a blinker signal that a listener sends::

        @User.watch.updated.connect
        def greet(sender, event):
            print(sender.__name__, event.identity)

    Receivers are called as `receiver(sender, event=event)`, with the model class and an `Event`. `filter_by()` hears
    rows with certain values alone, `batches()` many rows at once, and `stream()` iterates. `muted()` silences all that
    is connected, also to filters, batches and streams.
    """

    def __init__(
        self,
        name: str,
        operation: Operation,
        details: Details,
        key: tuple[str, ...],
        carried: Mapping[str, CarriedColumn],
        delivery: Delivery = "notify",
    ) -> None:
        super().__init__(name, doc=f"{operation} rows of {details.table}")
        self.operation: Operation = operation
        #: The way in which events come: `"notify"`, `"durable"` or `"both"`.
        self.delivery: Delivery = delivery
        #: The names in the database that belong to the signal.
        self.details: Details = details
        self._key = key
        #: The Python type of each key's values; None where any is right.
        self._python_types = {name: _python_type(column.type) for name, column in carried.items()}
        self._registry: FilterRegistry[T] = FilterRegistry(name, delivery == "durable")
        #: Empty without filtered subscriptions. Read for each row, and so no property.
        self.filters: Mapping[Keys, object] = self._registry.by_keys

    def attach(self, source: object) -> None:
        """Note a listener without a group that starts to serve this signal from this source."""
        with lock:
            self._registry.sources.add(id(source))

    def detach(self, source: object) -> None:
        """Note that such a listener stopped. Streams end with the last one."""
        sources = self._registry.sources
        with lock:
            sources.discard(id(source))
            streams = [] if sources else list(self._registry.streams)
        for stream in streams:
            stream.end()

    def forget(self, source: object) -> None:
        """Forget a listener in a forked child, where it does not run. Streams are the parent's, and not woken."""
        self._registry.sources.discard(id(source))

    def missed(self, reason: str) -> None:
        """Mark a gap in the streams. Called by a listener that may have missed events."""
        with lock:
            streams = list(self._registry.streams)
        for stream in streams:
            stream.missed(reason)

    def filter_by(self, /, **values: Any) -> FilteredSignal[T]:
        """Return a view of the signal: the events of rows that have all of these values::

            Order.watch.updated.filter_by(customer_id=42).connect(refresh)

        :param values: attribute names and values, compared as Python values of the column's type.
        :raises ConfigurationError: without values; for an attribute that isn't carried; for a value of another type
            than the column's, or of one that can't be hashed; and for the whole primary key of `inserted`, which
            nobody can know beforehand.
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
        return FilteredSignal(self._registry, keys, self._frozen(keys, values))

    def _check_filter(self, key: str, value: object) -> None:
        try:
            expected = self._python_types[key]
        except KeyError:
            raise ConfigurationError(
                f"signal {self.name!r}: can't filter by {key!r}, because it isn't carried: add it to extra_columns, "
                f"or use {', '.join(map(repr, self._python_types)) or 'another operation'}"
            ) from None
        if value is None or expected is None or isinstance(value, expected):
            return
        raise ConfigurationError(
            f"signal {self.name!r}: {key}={value!r} would never match, because {key!r} holds "
            f"{getattr(expected, '__name__', 'numbers')} values"
        )

    def _frozen(self, keys: Keys, values: Mapping[str, Any]) -> Hashable:
        try:
            frozen = freeze(values[keys[0]] if len(keys) == 1 else tuple(values[key] for key in keys))
            hash(frozen)
        except Exception as error:  # from the code of the values' types
            raise ConfigurationError(
                f"signal {self.name!r}: can't filter by {', '.join(map(repr, keys))}: {one_line(error)}: give the type "
                f"a __hash__ that goes with its __eq__, or look at event.values in the receiver"
            ) from error
        return frozen

    def _keep_batch(self, subscriber: Subscriber) -> None:
        self._subscribers.add(subscriber)

    def _release_batch(self, subscriber: Subscriber) -> None:
        self._subscribers.remove(subscriber.receiver_id)

    @property
    def has_receivers(self) -> bool:
        """True if anybody would hear an event: of filters, batches and streams as well."""
        return bool(self._subscribers or self.filters)

    def matching_subscribers(self, sender: Any, row: tuple[Any, ...], indexes: Mapping[str, int]) -> Matches:
        """Return the receivers of filters that match a row.

        :param indexes: of each attribute in the row.
        """
        return Matches([], False, []) if self.is_muted else self._registry.matching_subscribers(sender, row, indexes)

    def subscribers_by(self, keys: Keys, sender: Any, event: Event[T]) -> tuple[Subscriber, ...]:
        """Return the receivers of filters by these keys that match an event.

        :raises MissingColumn: where the event lacks one of them.
        :raises Exception: whatever the values' own code raises where it compares them.
        """
        message, row, _ = parts_of(event)
        return () if self.is_muted else self._registry.subscribers_by(keys, sender, row, message.kind.indexes)

    def is_connected(self, subscriber: Subscriber, sender: Any, argument: Any) -> bool:
        """Return True if a receiver of an event is connected to the signal, or to a filter that matches the event."""
        if super().is_connected(subscriber, sender, argument):
            return True
        message, row, _ = parts_of(argument)
        found = self._registry.matching_subscribers(sender, row, message.kind.indexes).subscribers
        return any(each.receiver_id == subscriber.receiver_id for matching in found for each in matching)

    def calls_for(self, sender: Any, event: Event[T]) -> Iterator[tuple[Subscriber, Any]]:
        """Return each receiver of the event, with its argument: the event, or for receivers of batches a list."""
        message, row, _ = parts_of(event)
        filtered = self.matching_subscribers(sender, row, message.kind.indexes).subscribers
        for subscriber in chain(self.subscribers_for(sender), *filtered):
            if subscriber.batch is None:
                yield subscriber, event
            else:
                yield from ((each, [event]) for each in subscriber.batch.subscribers_for(sender))


def _python_type(type_: TypeEngine[Any]) -> type | None:
    if isinstance(type_, TypeDecorator):  # its python_type is the implementation's
        return None
    try:
        python_type = type_.python_type
    except NotImplementedError:
        return None
    return Number if issubclass(python_type, Number) else python_type


class WatchSignals(Generic[T]):
    """The signals of one model: `User.watch`. Iterable; each signal is also an attribute, by its label."""

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
        """Connect a receiver to all signals of the model, and return it: a decorator as well.

        The parameters are those of `WatchSignal.connect`.

        :raises ConfigurationError: where the receiver can't be called as `receiver(sender, event=event)`.
        """
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
