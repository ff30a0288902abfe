"""`Feed`: a signal as the listener sees it. What users call is on the signal, and this is not."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import chain
from typing import Any, Protocol

from blinker._utilities import make_id  # as in receivers

from ..declaring.spec import Delivery
from ..events.event import Event
from ..events.messages import Extras, parts_of
from .batches import BatchSignal, receiver_of_batches
from .guard import lock
from .matching import Keys, Matches
from .once import Once
from .receivers import Names, Outlet, Subscriber
from .registry import FilterRegistry
from .streams import Tap


class Source(Protocol):
    """A listener that runs, as seen from here."""

    @property
    def is_ready(self) -> bool:
        """True once it has been ready."""

    @property
    def hears_alone(self) -> bool:
        """True if of several processes one alone hears, and this one may stand by."""


class Feed(Outlet):
    """All that is connected to the signal of one watch: to itself, its filters, its batches and its streams.

    :param name: the signal's.
    :param delivery: the watch's.
    """

    def __init__(self, name: str, delivery: Delivery = "notify") -> None:
        super().__init__()
        self.name: str = name
        self.delivery: Delivery = delivery
        self.names: Names = Names(name, self._find)
        self.registry: FilterRegistry = FilterRegistry()
        #: Empty without filtered subscriptions. Read for each row, and so no property.
        self.filters: Mapping[Keys, Mapping[Hashable, object]] = self.registry.by_keys
        #: Of the signal and of its views, for the listener to end.
        self.streams: weakref.WeakSet[Tap] = weakref.WeakSet()
        #: Of the signal and of its views, by these and their parameters, while anybody has them.
        self.batches: weakref.WeakValueDictionary[Hashable, BatchSignal[Any]] = weakref.WeakValueDictionary()
        #: The receivers with a session, of the signal and of its views, while they are connected.
        self.once: weakref.WeakSet[Once] = weakref.WeakSet()
        #: The listeners that serve the signal, by identity.
        self.sources: dict[int, Source] = {}

    @property
    def is_heard(self) -> bool:
        """True once a listener that hears in each process was ready: what is committed from then on comes, or a gap."""
        return any(source.is_ready and not source.hears_alone for source in list(self.sources.values()))

    @property
    def is_served(self) -> bool:
        """True while a listener that serves the signal runs, though it may not have been ready yet."""
        return bool(self.sources)

    def attach(self, source: Source) -> None:
        """Note a listener that starts to serve the signal."""
        with lock:
            self.sources[id(source)] = source

    def detach(self, source: Source) -> None:
        """Note that a listener stopped. Streams end with the last one."""
        with lock:
            self.sources.pop(id(source), None)
            streams = [] if self.sources else list(self.streams)
        for stream in streams:
            stream.end()

    def forget(self, source: Source) -> None:
        """Forget a listener in a forked child, where it does not run. Streams are the parent's, and not woken."""
        self.sources.pop(id(source), None)

    def missed(self, reason: str) -> None:
        """Mark a gap in the streams, where a listener may have missed events."""
        with lock:
            streams = list(self.streams)
        for stream in streams:
            stream.missed(reason)

    def matching_subscribers(
        self, sender: Any, row: tuple[Any, ...], indexes: Mapping[str, int], extras: Extras | None
    ) -> Matches:
        """Return the receivers of filters that match a row.

        :param indexes: of each attribute in the row.
        :param extras: with the row's previous values.
        """
        if self.is_muted:
            return Matches([], False, [])
        return self.registry.matching_subscribers(sender, row, indexes, extras)

    def subscribers_by(self, keys: Keys, sender: Any, event: Event[Any]) -> tuple[Subscriber, ...]:
        """Return the receivers of filters by these keys that match an event.

        :raises Exception: whatever the values' own code raises where it compares them.
        """
        message, row, extras, _ = parts_of(event)
        if self.is_muted:
            return ()
        return self.registry.subscribers_by(keys, sender, row, message.kind.indexes, extras)[0]

    def hear(self, receiver: Callable[[Any, Event[Any]], None], tap: Tap) -> None:
        """Have a receiver called with each event in the order of the log, and `tap` told of gaps and of the end."""
        with lock:
            self.subscribers.add(Subscriber(make_id(receiver), receiver, False, True, False, None, in_order=True))
            self.streams.add(tap)

    def tell(self, tap: Tap) -> None:
        """Have somebody told of gaps and of the end, as long as it lives, or until `tell_no_more`."""
        with lock:
            self.streams.add(tap)

    def tell_no_more(self, tap: Tap) -> None:
        """Tell it nothing any more."""
        with lock:
            self.streams.discard(tap)

    @property
    def has_receivers(self) -> bool:
        """True if anybody would hear an event: of filters, batches and streams as well."""
        return bool(self.subscribers or self.filters)

    def is_connected(self, subscriber: Subscriber, sender: Any, argument: Any) -> bool:
        """Return True if a receiver of an event is connected to the signal, or to a filter that matches the event."""
        if super().is_connected(subscriber, sender, argument):
            return True
        message, row, extras, _ = parts_of(argument)
        found = self.registry.matching_subscribers(sender, row, message.kind.indexes, extras).subscribers
        return any(each.receiver_id == subscriber.receiver_id for matching in found for each in matching)

    def calls_for(self, sender: Any, event: Event[Any]) -> Iterator[tuple[Subscriber, Any]]:
        """Return each receiver of the event, with its argument: the event, or for receivers of batches a list."""
        message, row, extras, _ = parts_of(event)
        filtered = self.matching_subscribers(sender, row, message.kind.indexes, extras).subscribers
        for subscriber in chain(self.subscribers_for(sender), *filtered):
            if subscriber.batch is None:
                yield subscriber, event
            else:
                yield from ((each, [event]) for each in subscriber.batch.subscribers_for(sender))

    def _find(self, receiver_id: Hashable) -> Subscriber | None:
        found = self.subscribers.get(receiver_id) or self.registry.find(receiver_id)
        batches = () if found else list(self.batches.values())
        return found or next(filter(None, (receiver_of_batches(batch, receiver_id) for batch in batches)), None)
