"""`instrument`, and what it returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue
from sqlalchemy import Engine

from .. import __version__
from ..aio import sync_engine_of
from ..ambient import AmbientContext
from ..errors import ConfigurationError
from ..listener.listener import Listener
from .metrics import SCOPE, Instruments, Relaying, instruments_of
from .processing import Processing
from .writing import find_trace

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

#: Begins something, and returns the function that ends it.
Begin = Callable[[], Callable[[], None]]

#: What is instrumented at present, with the function that ends it.
_present: WeakKeyDictionary[Any, Callable[[], None]] = WeakKeyDictionary()
_lock = threading.RLock()


class Instrumentation:
    """What `instrument` has begun. As a context manager it ends with the block."""

    def __init__(self, parts: Sequence[tuple[Any, Begin]]) -> None:
        self._parts: list[tuple[Any, Callable[[], None]]] = []
        with _lock:
            for target, begin in parts:
                before = _present.pop(target, None)
                if before is not None:
                    before()
                end = _present[target] = begin()
                self._parts.append((target, end))

    def close(self) -> None:
        """End it. Doing so twice does nothing, nor does it where a later `instrument` has taken its place."""
        with _lock:
            for target, end in self._parts:
                if _present.get(target) is end:
                    del _present[target]
                    end()
            self._parts = []

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def instrument(
    listener: Listener | Relaying | None = None, engine: Engine | AsyncEngine | None = None, *,
    tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Instrumentation:  # fmt: skip
    """Trace writers and receivers, and have the numbers of `stats()` collected as metrics::

        instrument(listener, engine)
        instrument(engine=engine)       # a process that only writes
        instrument(listener)            # one that only listens, or a relay

    What is instrumented a second time is so in the new way alone. A listener is kept until `close()` of what is
    returned.

    :param listener: each call of its receivers becomes a span, linked to the spans of the writers. Of a `Relay`, its
        listener is meant, and its own numbers are collected as well.
    :param engine: its transactions that write, while a span is current whose trace is sampled, say so in
        `event.context["traceparent"]`. That is one more statement, before the first that writes.
    :param tracer_provider: by default the global one.
    :param meter_provider: by default the global one.
    :param attributes: of every span and every measurement, to tell listeners of a process apart.
    :raises ConfigurationError: without a listener and an engine, for anything else in their place, and for an engine
        of another database.
    """
    plain = _engine_of(engine)
    if listener is not None and not isinstance(getattr(listener, "listener", listener), Listener):
        words = ": write instrument(engine=engine)" if isinstance(sync_engine_of(listener), Engine) else ""
        raise ConfigurationError(f"instrument: {listener!r} is no Listener and no Relay{words}")
    if listener is None and plain is None:
        raise ConfigurationError("instrument: give it a listener, an engine=, or both")
    parts: list[tuple[Any, Begin]] = []
    if plain is not None:
        parts.append((plain, lambda: AmbientContext(plain, find_trace).close))
    if listener is not None:
        instruments = instruments_of(meter_provider, __version__)
        tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
        parts += _parts_of(listener, tracer, instruments, attributes or {})
    return Instrumentation(parts)


def _engine_of(engine: Any) -> Engine | None:
    plain = sync_engine_of(engine)
    if plain is None:
        return None
    if not isinstance(plain, Engine):
        raise ConfigurationError(f"instrument: engine={engine!r} is no Engine or AsyncEngine")
    if plain.dialect.name != "postgresql":
        raise ConfigurationError(f"instrument: engine= has to be of PostgreSQL, and this is of {plain.dialect.name}")
    return plain


def _parts_of(
    listener: Listener | Relaying, tracer: Tracer, instruments: Instruments, own: Mapping[str, AttributeValue]
) -> list[tuple[Any, Begin]]:
    """Return what is instrumented: a listener, or a relay and its listener."""
    if isinstance(listener, Listener):
        return [(listener, partial(_begin, listener, tracer, instruments, {"messaging.system": "postgresql", **own}))]
    of_relay = partial(instruments.relays.add, listener, {"messaging.system": listener.system, **own})
    return [(listener, of_relay), *_parts_of(listener.listener, tracer, instruments, own)]


def _begin(
    listener: Listener, tracer: Tracer, instruments: Instruments, attributes: Mapping[str, AttributeValue]
) -> Callable[[], None]:
    end_observing = instruments.listeners.add(listener, attributes)
    end_surrounding = listener.surround_calls(Processing(tracer, instruments.durations, attributes))

    def end() -> None:
        end_observing()
        end_surrounding()

    return end
