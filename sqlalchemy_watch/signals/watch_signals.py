"""The signals of a model: `WatchSignal` is `User.watch.updated`, `WatchSignals` the collection `User.watch`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Number
from typing import Any

from blinker import ANY
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..declaring.spec import READ, CarriedColumn, Delivery, EventOperation
from ..errors import ConfigurationError, one_line
from ..events.event import T
from .feeds import Feed
from .filters import EventSignal, FilteredSignal
from .guard import lock
from .matching import Keys, TouchingKeys, freeze
from .once import Once
from .receivers import ClaimsNames, Names, ReceiverName, ReceiverSignal, Subscriber


@dataclass(frozen=True)
class Details:
    """The names in the database that belong to a signal: function, trigger, channel, table, carried columns."""

    function_name: str
    trigger_name: str
    channel: str
    table: str
    columns: tuple[str, ...]


class WatchSignal(EventSignal[T], ReceiverSignal):  # type: ignore[misc, override]
    """The signal of one watch, such as `User.watch.updated`: a blinker signal that a listener sends::

        @User.watch.updated.connect
        def greet(sender, event):
            print(sender.__name__, event.identity)

    Receivers are called as `receiver(sender, event=event)`, with the model class and an `Event`. `filter_by()` hears
    rows with certain values alone, `touching()` rows that lose them as well, `batches()` many rows at once, and
    `stream()` iterates. `muted()` silences all that is connected, also to filters, batches and streams.
    """

    def __init__(
        self,
        name: str,
        operation: EventOperation,
        details: Details,
        key: tuple[str, ...],
        carried: Mapping[str, CarriedColumn],
        delivery: Delivery = "notify",
        has_old: bool = False,
        model: Callable[[], Any] = lambda: None,
    ) -> None:
        self._model = model
        self._feed = feed = Feed(name, delivery)
        super().__init__(name, f"{operation} rows of {details.table}", feed, feed.names)
        self.operation: EventOperation = operation
        #: The way in which events come: `"notify"`, `"durable"` or `"both"`.
        self.delivery: Delivery = delivery
        #: The names in the database that belong to the signal.
        self.details: Details = details
        self._key = key
        self._has_old = has_old
        #: The Python type of each key's values; None where any is right.
        self._python_types = {name: _python_type(column.type) for name, column in carried.items()}

    @property
    def _feeds(self) -> Sequence[Feed]:
        return (self._feed,)

    def filter_by(self, /, **values: Any) -> FilteredSignal[T]:
        """Return a view of the signal: the events of rows that have all of these values::

            Order.watch.updated.filter_by(customer_id=42).connect(refresh)

        :param values: attribute names and values, compared as Python values of the column's type.
        :raises ConfigurationError: without values; for an attribute that isn't carried; for a value of another type
            than the column's, or of one that can't be hashed; and for the whole primary key of `inserted`, which
            nobody can know beforehand.
        """
        keys, frozen = self._check_filters("filter_by", values)
        if self.operation == "inserted" and set(self._key) <= values.keys():
            raise ConfigurationError(
                f"signal {self.name!r}: the primary key of a row isn't known before it is inserted: filter by an "
                f"association column, or connect without a filter"
            )
        return FilteredSignal(self._feed, keys, frozen)

    def touching(self, /, **values: Any) -> FilteredSignal[T]:
        """Return a view of the signal: the events of rows that have all of these values, or had them before::

            Order.watch.updated.touching(customer_id=42).connect(refresh)  # leaving included

        A row is told once, whether it has the values, had them, or both. Of several values either all are those of
        the row, or all are those of the row before. A deleted row has its last values alone, so that it is the same as
        `filter_by()` there. Of a `partial` row the previous values are not known: there is a resync.

        :param values: as for `filter_by`.
        :raises ConfigurationError: as `filter_by` does; for `updated` without `Watch(old=True)`; and for `inserted`
            and `truncated`, which have no row before.
        """
        if self.operation == "deleted":
            return self.filter_by(**values)
        if self.operation != "updated":
            raise ConfigurationError(
                f"signal {self.name!r}: {self.operation} rows have no previous values that touching() could compare: "
                f"use filter_by()"
            )
        if not self._has_old:
            raise ConfigurationError(
                f"signal {self.name!r}: touching() compares the previous values, too, and they are not carried: "
                f"declare old=True in its Watch"
            )
        keys, frozen = self._check_filters("touching", values)
        return FilteredSignal(self._feed, TouchingKeys(keys), frozen)

    def _check_filters(self, method: str, values: Mapping[str, Any]) -> tuple[Keys, Hashable]:
        if not values:
            raise ConfigurationError(f"signal {self.name!r}: {method}() needs at least one key, such as id=7")
        for key, value in values.items():
            self._check_filter(key, value)
        keys = tuple(sorted(values))
        return keys, self._frozen(keys, values)

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
            frozen = freeze(values[keys[0]] if len(keys) == 1 else tuple([values[key] for key in keys]))
            hash(frozen)
        except Exception as error:  # from the code of the values' types
            raise ConfigurationError(
                f"signal {self.name!r}: can't filter by {', '.join(map(repr, keys))}: {one_line(error)}: give the type "
                f"a __hash__ that goes with its __eq__, or look at event.values in the receiver"
            ) from error
        return frozen

    def _keep_batch(self, subscriber: Subscriber) -> None:
        self._feed.subscribers.add(subscriber)

    def _release_batch(self, subscriber: Subscriber) -> None:
        self._feed.subscribers.remove(subscriber.receiver_id)


def feed_of(signal: WatchSignal[Any] | EventsSignal) -> Feed:
    """Return the listener's side of a signal: no member of it, since users need none of that."""
    return signal._feed  # noqa: SLF001 - of the same module


def _python_type(type_: TypeEngine[Any]) -> type | None:
    if isinstance(type_, TypeDecorator):  # its python_type is the implementation's
        return None
    try:
        python_type = type_.python_type
    except NotImplementedError:
        return None
    return Number if issubclass(python_type, Number) else python_type


def model_of(signal: WatchSignal[Any]) -> Any:
    """Return the class, or the `Table`, that it is the signal of."""
    return signal._model()  # noqa: SLF001 - of the same module


class WatchSignals(EventSignal[T]):
    """The signals of one model: `User.watch`. Iterable; each signal is also an attribute, by its label.

    What is connected to all of them at once hears their events in the order of the log, those of `read` included.
    """

    def __init__(
        self,
        owner: str,
        signals: Mapping[str, WatchSignal[T]],
        model: Any = None,
        make_read: Callable[[], WatchSignal[T] | None] = lambda: None,
    ) -> None:
        self._owner, self._model, self._make_read = owner, model, make_read
        self._signals = dict(signals)
        self._read: WatchSignal[T] | None = None

    @property
    def name(self) -> str:
        """The name of the model, with `.watch`."""
        return f"{self._owner}.watch"

    @property
    def read(self) -> WatchSignal[T]:
        """The signal of rows that were there before: see `Listener(backfill=)`. No trigger emits it."""
        with lock:
            self._read = self._read or self._make_read()
        if self._read is None:
            raise AttributeError(
                f"{self._owner} does not watch 'read': it watches no operation that carries rows; add one to __watch__"
            )
        return self._read

    @property
    def _all(self) -> list[WatchSignal[T]]:
        """All signals, that of existing rows included."""
        return [*self, self.read] if any(signal.operation != "truncated" for signal in self) else list(self)

    @property
    def _feeds(self) -> Sequence[Feed]:
        return [feed_of(signal) for signal in self._all]

    @property
    def _names_of_receivers(self) -> ClaimsNames:
        return _CommonNames([feed.names for feed in self._feeds])

    @property
    def _common_sender(self) -> Any:
        return self._model() if isinstance(self._model, weakref.ref) else self._model

    def _keep_batch(self, subscriber: Subscriber) -> None:
        for feed in self._feeds:
            feed.subscribers.add(subscriber)

    def _release_batch(self, subscriber: Subscriber) -> None:
        for feed in self._feeds:
            feed.subscribers.remove(subscriber.receiver_id)

    def __getattr__(self, label: str) -> WatchSignal[T]:
        try:
            return self.__dict__["_signals"][label]  # type: ignore[no-any-return]
        except KeyError:
            if label.startswith("_"):
                raise AttributeError(label) from None
            if hasattr(WatchSignal, label):
                first = next(iter(self._signals), "updated")
                raise AttributeError(f"{label!r} is of a single signal: {self._owner}.watch.{first}.{label}") from None
            raise AttributeError(
                f"{self._owner} does not watch {label!r}: it watches "
                f"{', '.join(map(repr, self._signals)) or 'nothing'}; add it to __watch__"
            ) from None

    def __getitem__(self, label: str) -> WatchSignal[T]:
        return self.read if label == READ else self._signals[label]

    def __contains__(self, label: object) -> bool:
        return label in self._signals

    def __iter__(self) -> Iterator[WatchSignal[T]]:
        return iter(self._signals.values())

    def __len__(self) -> int:
        return len(self._signals)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._signals]

    def _connect(self, receiver: Any, sender: Any, weak: bool, name: str | None, once: Once | None = None) -> None:
        self._names_of_receivers.claim(name, receiver)  # of all of them or none
        for signal in self._all:
            signal.connect(receiver, sender, weak, name)

    def _connect_once(self, receiver: Any, session_factory: Any, sender: Any, name: str) -> None:
        self._names_of_receivers.claim(name, receiver)
        for signal in self._all:
            signal.connect_once(receiver, session_factory, sender=sender, name=name)

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        """Disconnect a receiver from all signals of the model."""
        for signal in self._all:
            signal.disconnect(receiver, sender)

    def connected_to(self, receiver: Callable[..., Any], sender: Any = ANY) -> AbstractContextManager[None]:
        """Connect a receiver to all signals of the model while a `with` block runs."""

        @contextmanager
        def connected() -> Iterator[None]:
            with ExitStack() as stack:
                for signal in self._all:
                    stack.enter_context(signal.connected_to(receiver, sender))
                yield

        return connected()

    def __repr__(self) -> str:
        return f"<WatchSignals {self._owner}: {', '.join(self._signals) or 'none'}>"


class _CommonNames:
    """The names of receivers that are connected to several signals at once."""

    def __init__(self, names: Sequence[Names]) -> None:
        self._names = names

    def claim(self, name: str | None, receiver: Callable[..., Any]) -> ReceiverName | None:
        """Return the name for a receiver: all signals have it, or none."""
        claimed = [names.claim(name, receiver) for names in self._names]
        return claimed[0] if claimed else None


class EventsSignal(EventSignal[Any], ReceiverSignal):  # type: ignore[misc, override]
    """All events of one listener, in the order of the log: `listener.events`. Senders are the models."""

    def __init__(self, sender: object, has_group: bool) -> None:
        self._feed = feed = Feed("listener.events", "durable" if has_group else "notify")
        self._sender = weakref.ref(sender)
        super().__init__(feed.name, "all events of a listener", feed, feed.names)

    @property
    def _feeds(self) -> Sequence[Feed]:
        return (self._feed,)

    @property
    def _common_sender(self) -> Any:
        return self._sender()

    @property
    def _remedy_for_once(self) -> str:
        return "start the listener with durable='a_group', or use connect()"

    def _keep_batch(self, subscriber: Subscriber) -> None:
        self._feed.subscribers.add(subscriber)

    def _release_batch(self, subscriber: Subscriber) -> None:
        self._feed.subscribers.remove(subscriber.receiver_id)
