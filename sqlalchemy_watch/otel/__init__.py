"""OpenTelemetry: traces from writers to receivers, and metrics (extra `otel`)::

    from sqlalchemy_watch.otel import instrument

    instrument(listener, engine)
    instrument(engine=engine)       # a process that only writes

Nothing else of the library imports this room, and without the extra it can't be imported. Names and units are those of
OpenTelemetry's semantic conventions for messaging where these have one. No value of a row, no identity, no context and
no error's message is in any of it.

instrumentation  `instrument`, and how it ends
writing          the trace of a transaction that writes
processing       a span for each call of a receiver, linked to those of the writers
metrics          the numbers of `stats()`, and how long receivers take
"""

from ..extras import needs

with needs("otel", "opentelemetry", __name__):
    from .instrumentation import Instrumentation, instrument
    from .processing import links_to

__all__ = ["Instrumentation", "instrument", "links_to"]
