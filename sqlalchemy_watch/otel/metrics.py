"""Metrics: the numbers of `stats()`, read when they are collected, and how long calls of receivers take.

Instruments can't be taken back. So there is one set of them for a provider, which asks whoever is instrumented.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation
from opentelemetry.util.types import AttributeValue

from ..listener.listener import Listener

#: The name under which all of it is made.
SCOPE = "sqlalchemy_watch"

_PREFIX, _RELAY = "sqlalchemy_watch.listener", "sqlalchemy_watch.relay"

Attributes = Mapping[str, AttributeValue]

#: Computes one value of the numbers; None where there is none yet.
Statistic = Callable[[Any], float | int | None]


class Metric(NamedTuple):
    """An instrument for one of the numbers."""

    name: str
    unit: str
    description: str
    statistic: Statistic


#: Of a listener's `Stats`.
COUNTERS: Sequence[Metric] = (
    Metric(f"{_PREFIX}.notifications", "{notification}", "Notifications that arrived", lambda s: s.notifications),
    Metric(f"{_PREFIX}.dropped", "{notification}", "Notifications dropped", lambda s: s.dropped),
    Metric(f"{_PREFIX}.garbage", "{notification}", "Notifications that were no payload", lambda s: s.garbage),
    Metric(f"{_PREFIX}.ignored", "{notification}", "Notifications of tables that are not heard", lambda s: s.ignored),
    Metric(f"{_PREFIX}.unplaced", "{notification}", "Notifications of unknown tables", lambda s: s.unplaced),
    Metric(f"{_PREFIX}.receivers.failed", "{call}", "Calls of receivers that raised", lambda s: s.failed_receivers),
    Metric(f"{_PREFIX}.reconnects", "{connection}", "Connections after the first", lambda s: s.reconnects),
    Metric(f"{_PREFIX}.resyncs", "{signal}", "Times something may have been missed", lambda s: s.resyncs),
    Metric(f"{_PREFIX}.retries", "{call}", "Calls of receivers tried again", lambda s: s.retries),
    Metric(f"{_PREFIX}.dead_letters", "{event}", "Events given up", lambda s: s.dead_letters),
)

#: Of a listener's `Stats`.
GAUGES: Sequence[Metric] = (
    Metric(f"{_PREFIX}.connected", "", "1 while there is a connection", lambda s: int(s.connected_since is not None)),
    Metric(f"{_PREFIX}.active", "", "1 where it is heard, 0 where it stands by", lambda s: _as_int(s.active)),
    Metric(f"{_PREFIX}.queue.depth", "{notification}", "Notifications that wait", lambda s: s.queue_depth),
    Metric(f"{_PREFIX}.lag", "s", "From emission to dispatch, of the newest event", lambda s: s.lag),
    Metric(
        f"{_PREFIX}.notify_queue.utilization", "1", "How full the server's NOTIFY queue is",
        lambda s: s.notify_queue_usage,
    ),
    Metric(f"{_PREFIX}.slot.lag", "By", "Log written since the last acknowledgement", lambda s: s.lag_bytes),
    Metric(f"{_PREFIX}.slot.held", "By", "Log the server keeps for the slot", lambda s: s.wal_held_bytes),
)  # fmt: skip

#: Of a relay's `RelayStats`.
RELAY_COUNTERS: Sequence[Metric] = (
    Metric(f"{_RELAY}.attempts.failed", "{attempt}", "Attempts to publish that failed", lambda s: s.failed),
)

#: Of a relay's `RelayStats`.
RELAY_GAUGES: Sequence[Metric] = (
    Metric(f"{_RELAY}.waiting", "", "1 while the broker takes nothing", lambda s: int(s.waits_for is not None)),
    Metric(f"{_RELAY}.delay", "s", "From commit to confirmation, of the newest message", lambda s: s.delay),
)

CONSUMED, SENT = "messaging.client.consumed.messages", "messaging.client.sent.messages"

DURATION, HEALTHY = "messaging.process.duration", f"{_PREFIX}.healthy"

#: Seconds, as the conventions have them.
_BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


def _as_int(value: bool | None) -> int | None:
    return None if value is None else int(value)


class Relaying(Protocol):
    """A `Relay`, as seen from here."""

    listener: Listener

    @property
    def system(self) -> str:
        """The broker's name, as the conventions have it."""

    def stats(self) -> Any:
        """Return its `RelayStats`."""


class _Observed:
    """Those whose numbers are collected, with the attributes of each."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a garbage collection may run a finalizer that removes one
        self._sources: dict[object, tuple[Any, Attributes]] = {}

    def add(self, source: Any, attributes: Attributes) -> Callable[[], None]:
        """Add one; return a function that takes it away again."""
        key = object()
        with self._lock:
            self._sources = {**self._sources, key: (source, attributes)}

        def remove() -> None:
            with self._lock:
                self._sources = {other: found for other, found in self._sources.items() if other is not key}

        return remove

    def __iter__(self) -> Iterator[tuple[Any, Attributes]]:
        return iter(self._sources.values())


class Instruments:
    """All instruments of one provider."""

    def __init__(self, provider: MeterProvider, version: str) -> None:
        meter = provider.get_meter(SCOPE, version)
        self.listeners: _Observed = _Observed()
        self.relays: _Observed = _Observed()
        _observe(meter, COUNTERS, GAUGES, self.listeners)
        _observe(meter, RELAY_COUNTERS, RELAY_GAUGES, self.relays)
        meter.create_observable_counter(CONSUMED, [self._observe_consumed], "{message}", "Events handed to receivers")
        meter.create_observable_counter(SENT, [self._observe_sent], "{message}", "Messages sent to the broker")
        meter.create_observable_gauge(HEALTHY, [self._observe_health], "", "1 while healthy() is True")
        self.durations: Histogram = meter.create_histogram(
            DURATION, "s", "How long calls of receivers take", explicit_bucket_boundaries_advisory=_BOUNDARIES
        )

    def _observe_consumed(self, options: CallbackOptions) -> Iterable[Observation]:
        for listener, attributes in self.listeners:
            yield Observation(listener.stats().events, {"messaging.operation.name": "process", **attributes})

    def _observe_health(self, options: CallbackOptions) -> Iterable[Observation]:
        for listener, attributes in self.listeners:
            yield Observation(int(listener.healthy()), attributes)

    def _observe_sent(self, options: CallbackOptions) -> Iterable[Observation]:
        for relay, attributes in self.relays:
            stats = relay.stats()
            operation = {"messaging.operation.name": "publish", **attributes}
            yield Observation(stats.published, operation)
            yield Observation(stats.refused, {"error.type": "refused", **operation})


def _observe(meter: Meter, counters: Sequence[Metric], gauges: Sequence[Metric], observed: _Observed) -> None:
    for metric in counters:
        callbacks = [_callback(metric.statistic, observed)]
        meter.create_observable_counter(metric.name, callbacks, metric.unit, metric.description)
    for metric in gauges:
        callbacks = [_callback(metric.statistic, observed)]
        meter.create_observable_gauge(metric.name, callbacks, metric.unit, metric.description)


def _callback(statistic: Statistic, observed: _Observed) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        for source, attributes in observed:
            value = statistic(source.stats())
            if value is not None:
                yield Observation(value, attributes)

    return observe


_by_provider: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()
_lock = threading.RLock()


def instruments_of(provider: MeterProvider | None, version: str) -> Instruments:
    """Return the instruments of a provider, by default the global one."""
    provider = provider or metrics.get_meter_provider()
    with _lock:
        found = _by_provider.get(provider)
        if found is None:
            found = _by_provider[provider] = Instruments(provider, version)
    return found
