"""OpenTelemetry metrics of a listener, or of a relay and its listener (extra `otel`)::

    from sqlalchemy_watch.otel import instrument

    instrument(listener)

Nothing else of the library imports this module, and without the extra it can't be imported. Names and units
follow the semantic conventions for messaging where these have one; the rest stands below `sqlalchemy_watch.listener`
and `sqlalchemy_watch.relay`. Values are those of `stats()`, read when metrics are collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from .listener.listener import Listener
from .listener.stats import Stats

#: Computes one value of the counters; None where there is none yet.
Statistic = Callable[[Stats], float | int | None]
RelayStatistic = Callable[[Any], float | int | None]

_PREFIX, _RELAY = "sqlalchemy_watch.listener", "sqlalchemy_watch.relay"

_COUNTERS: Sequence[tuple[str, str, str, Statistic]] = (
    ("messaging.client.consumed.messages", "{message}", "Events handed to receivers", lambda s: s.events),
    (f"{_PREFIX}.notifications", "{notification}", "Notifications that arrived", lambda s: s.notifications),
    (f"{_PREFIX}.dropped", "{notification}", "Notifications dropped", lambda s: s.dropped),
    (f"{_PREFIX}.garbage", "{notification}", "Notifications that were no payload", lambda s: s.garbage),
    (f"{_PREFIX}.receivers.failed", "{call}", "Calls of receivers that raised", lambda s: s.failed_receivers),
    (f"{_PREFIX}.reconnects", "{connection}", "Connections after the first", lambda s: s.reconnects),
    (f"{_PREFIX}.resyncs", "{signal}", "Times something may have been missed", lambda s: s.resyncs),
    (f"{_PREFIX}.retries", "{call}", "Calls of receivers tried again", lambda s: s.retries),
    (f"{_PREFIX}.dead_letters", "{event}", "Events given up", lambda s: s.dead_letters),
)

_GAUGES: Sequence[tuple[str, str, str, Statistic]] = (
    (f"{_PREFIX}.connected", "1", "1 while there is a connection", lambda s: int(s.connected_since is not None)),
    (f"{_PREFIX}.queue.depth", "{notification}", "Notifications that wait", lambda s: s.queue_depth),
    (f"{_PREFIX}.lag", "s", "From emission to dispatch, of the newest event", lambda s: s.lag),
    (f"{_PREFIX}.notify_queue.usage", "1", "How full the server's NOTIFY queue is", lambda s: s.notify_queue_usage),
    (f"{_PREFIX}.slot.lag", "By", "Log written since the last acknowledgement", lambda s: s.lag_bytes),
    (f"{_PREFIX}.slot.held", "By", "Log the server keeps for the slot", lambda s: s.wal_held_bytes),
)


_SENT = "messaging.client.sent.messages"

_RELAY_COUNTERS: Sequence[tuple[str, str, str, RelayStatistic]] = (
    (f"{_RELAY}.attempts.failed", "{attempt}", "Attempts to publish that failed", lambda s: s.failed),
)

_RELAY_GAUGES: Sequence[tuple[str, str, str, RelayStatistic]] = (
    (f"{_RELAY}.waiting", "1", "1 while the broker does not take what comes", lambda s: int(s.waits_for is not None)),
    (f"{_RELAY}.delay", "s", "From commit to confirmation, of the newest message", lambda s: s.delay),
)


class Relaying(Protocol):
    """A `Relay`, as seen from here."""

    listener: Listener

    @property
    def system(self) -> str:
        """The broker's name, as the conventions have it."""

    def stats(self) -> Any:
        """Return its `RelayStats`."""


def instrument(
    listener: Listener | Relaying, *, meter_provider: MeterProvider | None = None,
    attributes: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Have the `stats()` of a listener, or of a relay and its listener, collected as metrics.

    :param meter_provider: by default the global one.
    :param attributes: added to every measurement, to tell listeners of a process apart.
    """
    meter = metrics.get_meter("sqlalchemy_watch", meter_provider=meter_provider)
    if not isinstance(listener, Listener):
        _instrument_relay(listener, meter, attributes or {})
        listener = listener.listener
    common = {"messaging.system": "postgresql", **(attributes or {})}
    for name, unit, description, statistic in _COUNTERS:
        meter.create_observable_counter(name, [_callback(listener, statistic, common)], unit, description)
    for name, unit, description, statistic in _GAUGES:
        meter.create_observable_gauge(name, [_callback(listener, statistic, common)], unit, description)


def _instrument_relay(relay: Relaying, meter: Meter, attributes: dict[str, Any]) -> None:
    common = {"messaging.system": relay.system, **attributes}
    operation = {"messaging.operation.name": "publish", **common}

    def observe_sent(options: CallbackOptions) -> Iterable[Observation]:
        stats = relay.stats()
        yield Observation(stats.published, operation)
        yield Observation(stats.refused, {"error.type": "refused", **operation})

    meter.create_observable_counter(_SENT, [observe_sent], "{message}", "Messages sent to the broker")
    for name, unit, description, statistic in _RELAY_COUNTERS:
        meter.create_observable_counter(name, [_callback(relay, statistic, common)], unit, description)
    for name, unit, description, statistic in _RELAY_GAUGES:
        meter.create_observable_gauge(name, [_callback(relay, statistic, common)], unit, description)


def _callback(
    listener: Listener | Relaying, statistic: Statistic | RelayStatistic, attributes: dict[str, Any]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        value = statistic(listener.stats())
        if value is not None:
            yield Observation(value, attributes)

    return observe
