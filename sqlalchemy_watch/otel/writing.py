"""The trace of a transaction that writes: W3C's `traceparent`, in the context that goes with its events.

`traceparent` alone: what comes beside it in a request, `tracestate` and `baggage`, would be in every notification.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import trace

from ..ambient import Ambient

#: The name in `event.context`.
TRACEPARENT: Final = "traceparent"


def find_trace() -> Ambient | None:
    """Return what says which span is current; None where there is none, or where its trace is not sampled.

    In a trace, the span of a transaction's first write stands for all of that transaction.
    """
    span = trace.get_current_span().get_span_context()
    if not (span.is_valid and span.trace_flags.sampled):
        return None
    ids = f"{trace.format_trace_id(span.trace_id)}-{trace.format_span_id(span.span_id)}"
    return Ambient(f'"{TRACEPARENT}":"00-{ids}-{span.trace_flags:02x}"', span.trace_id)
