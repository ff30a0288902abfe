"""OpenTelemetry metrics of a listener (extra `otel`)::

    from sqlalchemy_watch.otel import instrument

    instrument(listener)

Nothing else of the library imports this module, and without the extra it can't be imported. Names and units
follow the semantic conventions for messaging where these have one; the rest stands below
`sqlalchemy_watch.listener`. Values are those of `Listener.stats()`, read when metrics are collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from .listener.listener import Listener
from .listener.stats import Stats

#: Computes one value of the counters; None where there is none yet.
Statistic = Callable[[Stats], float | int | None]

_PREFIX = "sqlalchemy_watch.listener"

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


def instrument(
    listener: Listener, *, meter_provider: MeterProvider | None = None, attributes: dict[str, Any] | None = None
) -> None:
    """Have a listener's `stats()` collected as metrics.

    :param meter_provider: by default the global one.
    :param attributes: added to every measurement, to tell listeners of a process apart.
    """
    meter = metrics.get_meter("sqlalchemy_watch", meter_provider=meter_provider)
    common = {"messaging.system": "postgresql", **(attributes or {})}
    for name, unit, description, statistic in _COUNTERS:
        meter.create_observable_counter(name, [_callback(listener, statistic, common)], unit, description)
    for name, unit, description, statistic in _GAUGES:
        meter.create_observable_gauge(name, [_callback(listener, statistic, common)], unit, description)


def _callback(
    listener: Listener, statistic: Statistic, attributes: dict[str, Any]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        value = statistic(listener.stats())
        if value is not None:
            yield Observation(value, attributes)

    return observe
