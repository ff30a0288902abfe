"""Metrics of a listener for Prometheus, which scrapes them by HTTP, and traces from the writer to the receiver.

The rules for its alerts are in prometheus_alerts.yml.
"""

from __future__ import annotations

import urllib.request

from embedded import embedded_engine
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_tracer, set_tracer_provider
from prometheus_client import start_http_server
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_watch import Listener, Watched
from sqlalchemy_watch.otel import instrument


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = ("inserted",)

    id: Mapped[int] = mapped_column(primary_key=True)


@Order.watch.inserted.connect
def send_receipt(sender, event):
    pass


def main() -> None:
    set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    server, _ = start_http_server(0)  # Prometheus wants a port that it knows, such as 9464
    exporter = InMemorySpanExporter()  # in production one for OTLP, and a BatchSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    set_tracer_provider(provider)

    with embedded_engine() as engine:
        Base.metadata.create_all(engine)
        listener = Listener(engine, Base)
        with instrument(listener, engine, attributes={"listener": "receipts"}), listener:
            with get_tracer("shop").start_as_current_span("checkout"), Session(engine) as session:
                session.add_all([Order(id=1), Order(id=2)])
                session.commit()
            listener.catch_up()
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5) as response:
                scraped = response.read().decode()
    server.shutdown()
    server.server_close()

    for line in scraped.splitlines():
        if line.startswith(("messaging_client_consumed", "messaging_process_duration_seconds_count", "sqlalchemy_")):
            print(line)
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans}
    for span in spans:
        for link in span.links:
            print(f"the span {span.name!r} is linked to {names[link.context.span_id]!r}")


if __name__ == "__main__":
    main()
