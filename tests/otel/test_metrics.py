"""Metrics of a listener, as an OpenTelemetry reader collects them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from listener.conftest import drop_slots
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watched
from sqlalchemy_watch.otel import instrument
from sqlalchemy_watch.relay import Message, Refused, Relay


def test_stats_are_collected_as_metrics(engine: Engine, client: psycopg.Connection[Any], User: Any) -> None:
    reader = InMemoryMetricReader()
    listener = Listener(engine, User)
    instrument(listener, meter_provider=MeterProvider([reader]), attributes={"app": "shop"})

    def collected() -> dict[str, Any]:
        data = reader.get_metrics_data()
        assert data is not None
        found = data.resource_metrics[0].scope_metrics[0].metrics
        assert all(p.attributes["app"] == "shop" for metric in found for p in metric.data.data_points)
        points = {metric.name: metric.data.data_points[0] for metric in found if metric.data.data_points}
        return {name: getattr(point, "value", point) for name, point in points.items()}

    assert collected()["sqlalchemy_watch.listener.connected"] == 0
    with listener:
        client.execute("INSERT INTO users VALUES (1), (2)")
        listener.catch_up()
        metrics = collected()
    assert metrics["messaging.client.consumed.messages"] == 2
    assert metrics["sqlalchemy_watch.listener.notifications"] == 1
    assert metrics["sqlalchemy_watch.listener.connected"] == 1
    assert metrics["sqlalchemy_watch.listener.lag"] > 0


class Picky:
    """A publisher that takes no row 2, and fails once."""

    system = "picky"

    def __init__(self) -> None:
        self.fails = 1

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.fails and messages[0].key == "3":
            self.fails -= 1
            raise OSError("not now")
        refused = [message for message in messages if message.key == "2"]
        if refused:
            raise Refused([(message, "never") for message in refused])


@pytest.fixture
def group(cluster: Cluster, database: str) -> Iterator[str]:
    yield f"group_{database}"
    drop_slots(cluster, database)


@needs_logical_messages
def test_a_relay_is_collected_with_its_listener(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], group: str
) -> None:
    class Order(Watched, Base):  # type: ignore[misc, valid-type]
        __tablename__ = "orders"
        __watch__ = ("inserted",)
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    reader = InMemoryMetricReader()
    relay = Relay(engine, Order, group=group, to=Picky())
    instrument(relay, meter_provider=MeterProvider([reader]), attributes={"app": "shop"})

    def collected() -> dict[tuple[str, str, str | None], Any]:
        data = reader.get_metrics_data()
        assert data is not None
        found = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.data.data_points:
                attributes = dict(point.attributes or {})
                assert attributes.pop("app") == "shop"
                key = (metric.name, str(attributes["messaging.system"]), attributes.get("error.type"))
                found[key] = getattr(point, "value", point)
        return found  # type: ignore[return-value]

    assert collected()["sqlalchemy_watch.relay.waiting", "picky", None] == 0
    with relay:
        client.execute("INSERT INTO orders VALUES (1), (2)")
        relay.listener.catch_up()
        client.execute("INSERT INTO orders VALUES (3)")
        relay.listener.catch_up()
        metrics = collected()
    assert metrics["messaging.client.sent.messages", "picky", None] == 2
    assert metrics["messaging.client.sent.messages", "picky", "refused"] == 1
    assert metrics["sqlalchemy_watch.relay.attempts.failed", "picky", None] == 1
    assert metrics["sqlalchemy_watch.relay.delay", "picky", None] > 0
    assert metrics["messaging.client.consumed.messages", "postgresql", None] == 3
    assert metrics["sqlalchemy_watch.listener.slot.held", "postgresql", None] >= 0


def test_the_system_of_a_relay_is_its_broker_s(engine: Engine, Base: type[DeclarativeBase]) -> None:
    class Payment(Watched, Base):  # type: ignore[misc]
        __tablename__ = "payments"
        __watch__ = ("inserted",)
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)

    for url in ("nats://x", "redis://x", "kafka://x"):
        pytest.importorskip({"kafka": "aiokafka"}.get(url[:5], url.partition(":")[0]))
        assert Relay(engine, Base, group="g", to=url).system == url.partition(":")[0]
    other = Picky()
    assert Relay(engine, Base, group="g", to=other).system == "picky"
