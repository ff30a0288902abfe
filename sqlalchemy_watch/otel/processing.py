"""A span for each call of a receiver, linked to the spans of the writers, and the time that it took.

The span is the root of a trace of its own, as the conventions have it: a call may come long after the write, serve
many writes, and happen once in each process that listens.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from types import TracebackType
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from ..events.event import Event
from ..events.messages import parts_of
from ..events.models import table_name_of_model
from ..listener.dispatch.calls import Call
from .writing import TRACEPARENT

#: As the conventions name it, and as the system has no name of its own.
OPERATION: Final = "process"

#: The links of a span that SDKs keep by default.
MOST_LINKS: Final = 128

_propagator = TraceContextTextMapPropagator()


@lru_cache(maxsize=1024)
def _read(traceparent: str) -> SpanContext | None:
    found = _propagator.extract({TRACEPARENT: traceparent}, otel_context.Context())
    span = trace.get_current_span(found).get_span_context()
    return span if span.is_valid else None


def links_to(*events: Event[Any]) -> list[Link]:
    """Return links to the spans in which events were written, for a span of your own, as around what a stream gives::

        with tracer.start_as_current_span("push", links=links_to(event)): ...

    Each span once, and 128 at the most. Events of writers that are not instrumented, or whose trace is not sampled,
    have none.
    """
    found: dict[tuple[int, int], SpanContext] = {}
    for event in events:
        traceparent = event.context.get(TRACEPARENT)
        span = _read(traceparent) if isinstance(traceparent, str) else None
        if span is not None:
            found.setdefault((span.trace_id, span.span_id), span)
            if len(found) == MOST_LINKS:
                break
    return [Link(span) for span in found.values()]


def error_type_of(error: BaseException) -> str:
    """Return the name of an error's class, with its module where that is not Python's own."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


class Processing:
    """Surrounds the calls of a listener's receivers.

    :param common: attributes of every span and every measurement.
    """

    def __init__(self, tracer: Tracer, durations: Histogram, common: Mapping[str, AttributeValue]) -> None:
        self._tracer, self._durations = tracer, durations
        self._common = {**common, "messaging.operation.name": OPERATION}

    def __call__(self, call: Call) -> AbstractContextManager[None]:
        """Return what a call is made inside of."""
        events = call.events
        channel = _common_channel(events)
        measured: dict[str, AttributeValue] = {**self._common, "code.function.name": call.function_name}
        if channel:
            measured["messaging.destination.name"] = channel
        attributes = {**measured, **_details(call, events)}
        name = f"{OPERATION} {channel}" if channel else OPERATION
        span = self._tracer.start_span(name, None, SpanKind.CONSUMER, attributes, links_to(*events))
        return _Processed(span, self._durations, measured)


def _details(call: Call, events: Any) -> dict[str, AttributeValue]:
    """Return the attributes of one call: they may have as many values as there are calls."""
    found: dict[str, AttributeValue] = {"messaging.operation.type": OPERATION}
    if isinstance(call.argument, Event):
        found["messaging.message.id"] = call.argument.id
    else:
        found["messaging.batch.message_count"] = len(events)
    if call.name != call.function_name:
        found["sqlalchemy_watch.receiver.name"] = call.name
    if events:
        transaction = parts_of(events[0])[0].transaction
        if transaction is not None and transaction.consumer is not None:
            found["messaging.consumer.group.name"] = transaction.consumer.group
        tables = {table_name_of_model(model) for model in {event.model for event in events}}
        if len(tables) == 1:
            found["db.collection.name"] = tables.pop()
    return found


def _common_channel(events: Any) -> str | None:
    """Return the channel that all events came by; None where they came by several."""
    channels = {_channel_of(event) for event in events}
    return channels.pop() if len(channels) == 1 else None


def _channel_of(event: Event[Any]) -> str | None:
    message = parts_of(event)[0]
    return message.channel or getattr(message.origin, "channel", None)


class _Processed(AbstractContextManager[None]):
    def __init__(self, span: Span, durations: Histogram, measured: dict[str, AttributeValue]) -> None:
        self._span, self._durations, self._measured = span, durations, measured
        self._token: Any = None
        self._began = 0.0

    def __enter__(self) -> None:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        self._began = time.perf_counter()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._began
        try:
            if exc is not None:  # by its type alone: messages quote values
                self._measured["error.type"] = error_type = error_type_of(exc)
                self._span.set_attribute("error.type", error_type)
                self._span.set_status(Status(StatusCode.ERROR, error_type))
            self._durations.record(seconds, self._measured)
        finally:
            otel_context.detach(self._token)
            self._span.end()
