"""Metrics of a listener, as an OpenTelemetry reader collects them."""

from __future__ import annotations

from typing import Any

import psycopg
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import Engine

from sqlalchemy_watch import Listener
from sqlalchemy_watch.otel import instrument


def test_stats_are_collected_as_metrics(engine: Engine, client: psycopg.Connection[Any], User: Any) -> None:
    reader = InMemoryMetricReader()
    listener = Listener(engine, User)
    instrument(listener, meter_provider=MeterProvider([reader]), attributes={"app": "shop"})

    def collected() -> dict[str, Any]:
        data = reader.get_metrics_data()
        assert data is not None
        found = data.resource_metrics[0].scope_metrics[0].metrics
        assert all(p.attributes["app"] == "shop" for metric in found for p in metric.data.data_points)
        return {metric.name: metric.data.data_points[0].value for metric in found if metric.data.data_points}

    assert collected()["sqlalchemy_watch.listener.connected"] == 0
    with listener:
        client.execute("INSERT INTO users VALUES (1), (2)")
        listener.catch_up()
        metrics = collected()
    assert metrics["messaging.client.consumed.messages"] == 2
    assert metrics["sqlalchemy_watch.listener.notifications"] == 1
    assert metrics["sqlalchemy_watch.listener.connected"] == 1
    assert metrics["sqlalchemy_watch.listener.lag"] > 0
