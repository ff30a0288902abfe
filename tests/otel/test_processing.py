"""Spans of receivers, linked to those of the writers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from postgres import needs_logical_messages
from sqlalchemy import Engine, create_engine, insert, text
from sqlalchemy.orm import Session

from sqlalchemy_watch import BatchFailed, ConfigurationError, Listener, RetryPolicy, context
from sqlalchemy_watch.otel import instrument, links_to
from sqlalchemy_watch.relay import Message, Relay

from .conftest import SECRET


@pytest.fixture
def processed(exporter: InMemorySpanExporter) -> Callable[[], list[ReadableSpan]]:
    """Returns the spans of receivers, oldest first."""
    return lambda: [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CONSUMER]


def ids_of(span: Any) -> tuple[int, int]:
    """Return trace and span id of a span, or of a link."""
    found = span.context if hasattr(span, "context") else span.get_span_context()
    return found.trace_id, found.span_id


def links_of(span: ReadableSpan) -> list[tuple[int, int]]:
    return [ids_of(link) for link in span.links]


def test_a_call_is_a_span_linked_to_the_writer_s_and_current_in_the_receiver(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, processed: Any
) -> None:
    seen = []

    def receive(sender: Any, event: Any) -> None:
        seen.append((event.id, dict(event.context), ids_of(trace.get_current_span()), threading.current_thread().name))

    Order.watch.inserted.connect(receive, name="the receiver")
    with Listener(engine, Order) as listener, instrument(listener, engine, tracer_provider=provider):
        with tracer.start_as_current_span("checkout") as writer, Session(engine) as session:
            session.add(Order(id=1))
            session.commit()
        listener.catch_up()
    (span,), ((event_id, said, current, thread),) = processed(), seen
    assert thread == "sqlalchemy-watch-dispatch"
    assert current == ids_of(span)
    assert span.parent is None
    assert span.context.trace_id != ids_of(writer)[0]
    assert links_of(span) == [ids_of(writer)]
    assert span.links[0].context.is_remote
    trace_id, span_id = ids_of(writer)
    assert said == {"traceparent": f"00-{trace_id:032x}-{span_id:016x}-{writer.get_span_context().trace_flags:02x}"}
    channel = Order.watch.inserted.details.channel
    assert span.name == f"process {channel}"
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "messaging.system": "postgresql",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": channel,
        "messaging.message.id": event_id,
        "db.collection.name": "orders",
        "code.function.name": f"{__name__}.{receive.__qualname__}",
        "sqlalchemy_watch.receiver.name": "the receiver",
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "sqlalchemy_watch"


@needs_logical_messages
def test_a_group_s_spans_name_it_and_each_attempt_has_one(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, processed: Any, group: str
) -> None:
    attempts = []

    def fail_once(sender: Any, event: Any) -> None:
        attempts.append(event.id)
        if len(attempts) == 1:
            raise ValueError(SECRET)

    Order.watch.inserted.connect(fail_once)
    retry = RetryPolicy(None, 0.01, 0.01)
    listener = Listener(engine, Order, durable=group, retry=retry)
    with listener, instrument(listener, engine, tracer_provider=provider, attributes={"app": "shop"}):
        with tracer.start_as_current_span("checkout") as writer, engine.begin() as connection:
            connection.execute(insert(Order).values(id=1))
        listener.catch_up()
    first, second = processed()
    for span in (first, second):
        assert links_of(span) == [ids_of(writer)]
        assert span.attributes["messaging.consumer.group.name"] == group
        assert span.attributes["messaging.message.id"] == attempts[0]
        assert span.attributes["messaging.destination.name"] == Order.watch.inserted.details.channel
        assert span.attributes["app"] == "shop"
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "ValueError")
    assert first.attributes["error.type"] == "ValueError"
    assert second.status.status_code is StatusCode.UNSET
    assert "error.type" not in second.attributes


def test_a_span_is_current_inside_a_coroutine_receiver(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, processed: Any
) -> None:
    seen: dict[int, Any] = {}

    async def receive(sender: Any, event: Any) -> None:
        before = ids_of(trace.get_current_span())
        await asyncio.sleep(0.01)  # while the other one runs
        seen[event.identity[0]] = before, ids_of(trace.get_current_span())
        with tracer.start_as_current_span("inner"):
            pass

    async def main() -> None:
        Order.watch.inserted.connect(receive)
        async with Listener(engine, Order, workers=2) as listener:
            with instrument(listener, engine, tracer_provider=provider):
                with tracer.start_as_current_span("checkout") as writer, engine.begin() as connection:
                    connection.execute(insert(Order), [{"id": 1}, {"id": 2}])
                await listener.catch_up_async()
            assert all(links_of(span) == [ids_of(writer)] for span in processed())

    asyncio.run(main())
    spans = {ids_of(span) for span in processed()}
    assert len(spans) == 2
    assert {before for before, _ in seen.values()} == {after for _, after in seen.values()} == spans


def test_a_batch_is_linked_to_each_writer_once(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, processed: Any
) -> None:
    sizes = []
    Order.watch.inserted.batches(max_size=10, max_wait=60).connect(lambda sender, events: sizes.append(len(events)))
    with Listener(engine, Order) as listener, instrument(listener, engine, tracer_provider=provider):
        writers = []
        for first in (1, 4, 7):
            with tracer.start_as_current_span("checkout") as writer, engine.begin() as connection:
                connection.execute(insert(Order), [{"id": first + i} for i in range(3)])
            writers.append(ids_of(writer))
        with engine.begin() as connection:  # of nobody
            connection.execute(insert(Order).values(id=10))
        listener.catch_up()
    (span,) = processed()
    assert sizes == [10]
    assert links_of(span) == writers
    assert span.attributes["messaging.batch.message_count"] == 10
    assert "messaging.message.id" not in span.attributes


@needs_logical_messages
def test_a_batch_of_many_writers_has_as_many_links_as_an_sdk_keeps(
    engine: Engine, client: psycopg.Connection[Any], Order: Any, provider: TracerProvider, processed: Any, group: str
) -> None:
    with Listener(engine, Order, durable=group) as listener, instrument(listener, tracer_provider=provider):
        listener.events.batches(max_size=200, max_wait=60).connect(lambda sender, events: None)
        listener.transactions.connect(lambda sender, transaction: None)
        with client.transaction():
            for n in range(1, 201):
                said = f'{{"traceparent":"00-{n:032x}-{n:016x}-01"}}'
                client.execute("SELECT set_config('sqlalchemy_watch.context', %s, true)", [said])
                client.execute("INSERT INTO orders VALUES (%s, 'a')", [n])
        listener.catch_up()
    assert [links_of(span) for span in processed()] == [[(n, n) for n in range(1, 129)]] * 2
    assert [span.dropped_links for span in processed()] == [0, 0]


def test_no_value_is_in_what_is_exported(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    reader, key = InMemoryMetricReader(), 77881

    def fail(sender: Any, event: Any) -> None:
        raise ValueError(event.values, event.old, event.context, event.identity)

    async def fail_later(sender: Any, event: Any) -> None:
        raise LookupError(str(event.to_dict()))

    def fail_in_part(sender: Any, events: Any) -> None:
        raise BatchFailed(events, f"{events[0].to_json()}")

    Order.watch.connect(fail)
    Order.watch.updated.filter_by(id=key).connect(fail)
    Order.watch.connect(fail_later)
    Order.watch.updated.batches(max_size=1).connect(fail_in_part)

    async def main() -> None:
        async with Listener(engine, Order) as listener:
            providers = {"tracer_provider": provider, "meter_provider": MeterProvider([reader])}
            with instrument(listener, engine, **providers):
                with tracer.start_as_current_span("checkout"), Session(engine) as session:
                    with context(session, who=SECRET):
                        session.add(order := Order(id=key))
                        session.flush()
                        order.note = f"{SECRET} changed"
                        session.flush()
                        session.delete(order)
                    session.commit()
                await listener.catch_up_async()
            measured = reader.get_metrics_data()
            assert measured is not None
            assert SECRET not in measured.to_json()
            assert str(key) not in measured.to_json()

    logging.disable(logging.CRITICAL)  # errors are logged, as they always are
    try:
        asyncio.run(main())
    finally:
        logging.disable(logging.NOTSET)
    exported = [span.to_json() for span in exporter.get_finished_spans()]
    assert len(exported) == 9
    assert sum("ValueError" in each for each in exported) == 4
    assert sum("sqlalchemy_watch.errors.BatchFailed" in each for each in exported) == 1
    assert not any(SECRET in each or str(key) in each for each in exported)


def test_a_traceparent_that_is_none_is_no_link(
    engine: Engine, client: psycopg.Connection[Any], Order: Any, provider: TracerProvider, processed: Any
) -> None:
    values: list[Any] = ["00-x", 7, None, [f"00-{1:032x}-{1:016x}-01"], {"a": 1}, "", "00-" + "é" * 52]
    values += [f"00-{0:032x}-{0:016x}-01", f"ff-{1:032x}-{1:016x}-01"]
    heard = []
    Order.watch.inserted.connect(lambda sender, event: heard.append(event))
    with Listener(engine, Order) as listener, instrument(listener, tracer_provider=provider):
        for number, value in enumerate(values):
            with engine.begin() as connection, context(connection, traceparent=value):
                connection.execute(insert(Order).values(id=number))
        listener.catch_up()
    assert [event.context["traceparent"] for event in heard] == values
    assert [span.links for span in processed()] == [()] * len(values)
    assert links_to(*heard) == []


def test_a_stream_s_reader_links_by_itself(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, processed: Any
) -> None:
    with Listener(engine, Order) as listener, instrument(listener, engine, tracer_provider=provider):
        events = Order.watch.inserted.iterate(timeout=0)
        with tracer.start_as_current_span("checkout") as writer, engine.begin() as connection:
            connection.execute(insert(Order), [{"id": 1}, {"id": 2}])
        listener.catch_up()
        found = links_to(*events)
    assert [ids_of(link) for link in found] == [ids_of(writer)]
    assert processed() == []


class Failing(SpanProcessor):
    """Fails where it can."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise OSError("on_start")

    def on_end(self, span: Any) -> None:
        raise OSError("on_end")


def test_an_error_in_tracing_stops_no_receiver(engine: Engine, client: psycopg.Connection[Any], Order: Any) -> None:
    heard = []
    Order.watch.inserted.connect(lambda sender, event: heard.append(event.identity))
    provider = TracerProvider()
    provider.add_span_processor(Failing())
    with Listener(engine, Order) as listener, instrument(listener, engine, tracer_provider=provider):
        client.execute("INSERT INTO orders VALUES (1, 'a'), (2, 'b')")
        listener.catch_up()
        assert listener.stats().failed_receivers == 0
    assert heard == [(1,), (2,)]
    provider.shutdown()


def test_writes_of_receivers_go_on_from_their_spans(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, processed: Any
) -> None:
    def write(sender: Any, event: Any) -> None:
        with Session(engine) as session:
            session.execute(text("UPDATE orders SET note = 'b' WHERE id = :id"), {"id": event.identity[0]})
            session.commit()

    Order.watch.inserted.connect(write)
    Order.watch.updated.connect(lambda sender, event: None)
    with Listener(engine, Order) as listener, instrument(listener, engine, tracer_provider=provider):
        with tracer.start_as_current_span("checkout") as writer, Session(engine) as session:
            session.add(Order(id=1))
            session.commit()
        listener.catch_up()
        listener.catch_up()
    first, second = processed()
    assert links_of(first) == [ids_of(writer)]
    assert links_of(second) == [ids_of(first)]


class Broker:
    """A publisher that takes everything."""

    system = "broker"

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def publish(self, messages: Sequence[Message]) -> None:
        self.messages += messages


@needs_logical_messages
def test_a_relay_s_publishing_is_a_span_and_its_messages_have_the_writer_s_trace(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, processed: Any, group: str
) -> None:
    broker = Broker()
    relay = Relay(engine, Order, group=group, to=broker)
    with relay, instrument(relay, engine, tracer_provider=provider):
        with tracer.start_as_current_span("checkout") as writer, engine.begin() as connection:
            connection.execute(insert(Order), [{"id": 1}, {"id": 2}])
        relay.listener.catch_up()
    trace_id, span_id = ids_of(writer)
    found = {message.headers["traceparent"][:-3] for message in broker.messages}
    assert found == {f"00-{trace_id:032x}-{span_id:016x}"}
    assert {span.attributes["sqlalchemy_watch.receiver.name"] for span in processed()} == {"relay"}
    assert {link for span in processed() for link in links_of(span)} == {(trace_id, span_id)}


def test_writers_side_by_side_have_each_its_own_trace(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, processed: Any
) -> None:
    written: dict[int, tuple[int, int]] = {}

    def write(thread: int) -> None:
        for number in range(thread * 100, thread * 100 + 10):
            with tracer.start_as_current_span("checkout") as writer, Session(engine) as session:
                written[number] = ids_of(writer)
                session.add(Order(id=number))
                session.commit()

    heard: dict[int, list[Any]] = {}
    Order.watch.inserted.connect(lambda sender, event: heard.update({event.identity[0]: links_to(event)}))
    with Listener(engine, Order) as listener, instrument(listener, engine, tracer_provider=provider):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(1, 9)))
        listener.catch_up()
    assert {number: [ids_of(link) for link in links] for number, links in heard.items()} == {
        number: [ids] for number, ids in written.items()
    }
    assert len(processed()) == len(written) == 80


def test_a_trace_that_is_not_sampled_is_not_told_of(
    engine: Engine, Order: Any, provider: TracerProvider, processed: Any, statements: Any
) -> None:
    unsampled = TracerProvider(sampler=ALWAYS_OFF)
    Order.watch.inserted.connect(lambda sender, event: None)
    with Listener(engine, Order) as listener, instrument(listener, engine, tracer_provider=provider):
        with unsampled.get_tracer("application").start_as_current_span("checkout"), engine.begin() as connection:
            connection.execute(insert(Order).values(id=1))
        listener.catch_up()
    (span,) = processed()
    assert span.links == ()
    assert statements.about_the_trace == 0


def test_durations_are_measured_by_receiver_and_outcome(
    engine: Engine, client: psycopg.Connection[Any], Order: Any, provider: TracerProvider
) -> None:
    reader = InMemoryMetricReader()

    def receive(sender: Any, event: Any) -> None:
        time.sleep(0.03)
        if event.identity == (2,):
            raise KeyError(SECRET)

    Order.watch.inserted.connect(receive)
    listener = Listener(engine, Order)
    with listener, instrument(listener, tracer_provider=provider, meter_provider=MeterProvider([reader])):
        client.execute("INSERT INTO orders VALUES (1, 'a'), (2, 'b'), (3, 'c')")
        listener.catch_up()
        data = reader.get_metrics_data()
    assert data is not None
    (duration,) = [
        m for m in data.resource_metrics[0].scope_metrics[0].metrics if m.name == "messaging.process.duration"
    ]
    points: Any = duration.data.data_points
    assert duration.unit == "s"
    assert {point.attributes.get("error.type"): point.count for point in points} == {None: 2, "KeyError": 1}
    for point in points:
        assert point.attributes["code.function.name"] == f"{__name__}.{receive.__qualname__}"
        assert point.attributes["messaging.destination.name"] == Order.watch.inserted.details.channel
        assert 0.03 * point.count <= point.sum < 0.03 * point.count + 5
        assert point.explicit_bounds[:3] == (0.005, 0.01, 0.025)


def test_instrumented_again_it_is_so_in_the_new_way_alone(
    engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, processed: Any, statements: Any
) -> None:
    Order.watch.inserted.connect(lambda sender, event: None)
    listener = Listener(engine, Order)
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    first = instrument(listener, engine, tracer_provider=provider, meter_provider=meters)
    second = instrument(listener, engine, tracer_provider=provider, meter_provider=meters, attributes={"n": "2"})

    def write(number: int) -> None:
        with tracer.start_as_current_span("checkout"), engine.begin() as connection:
            connection.execute(insert(Order).values(id=number))
        listener.catch_up()

    with listener:
        write(1)
        assert [span.attributes["n"] for span in processed()] == ["2"]
        assert statements.about_the_trace == 1
        first.close()
        write(2)
        assert len(processed()) == statements.about_the_trace == 2
        data = reader.get_metrics_data()
        assert data is not None
        points = [
            point for metric in data.resource_metrics[0].scope_metrics[0].metrics for point in metric.data.data_points
        ]
        assert {(point.attributes or {}).get("n") for point in points} == {"2"}
        second.close()
        second.close()
        write(3)
        assert len(processed()) == statements.about_the_trace == 2
    left = reader.get_metrics_data()
    names = [m.name for m in left.resource_metrics[0].scope_metrics[0].metrics if m.data.data_points] if left else []
    assert names == ["messaging.process.duration"]  # what was measured stays measured


def test_what_can_t_be_instrumented_is_refused(engine: Engine, Order: Any) -> None:
    with pytest.raises(ConfigurationError, match="give it a listener, an engine=, or both"):
        instrument()
    with pytest.raises(ConfigurationError, match=r"write instrument\(engine=engine\)"):
        instrument(engine)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="7 is no Listener and no Relay$"):
        instrument(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="is no Engine or AsyncEngine"):
        instrument(engine=engine.url)  # type: ignore[arg-type]
    sqlite = create_engine("sqlite://")
    with pytest.raises(ConfigurationError, match="has to be of PostgreSQL, and this is of sqlite"):
        instrument(engine=sqlite)
    sqlite.dispose()
