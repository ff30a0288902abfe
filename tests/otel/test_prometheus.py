"""Metrics as Prometheus scrapes them; what the documentation says of them, and the rules of alerts."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from postgres import needs_logical_messages
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from support import wait_until

from sqlalchemy_watch import Listener
from sqlalchemy_watch.otel import instrument
from sqlalchemy_watch.relay import Relay

from .test_metrics import Picky

ROOT = Path(__file__).parents[2]

#: OpenTelemetry's name, and that of Prometheus.
_ROW = re.compile(r"^\| `([\w.]+)` \| `(\w+)` \|", re.MULTILINE)

_NAME = re.compile(r"\b(?:sqlalchemy_watch|messaging)_\w+")

#: The samples of each name, with their labels.
Scrape = dict[str, list[dict[str, str]]]


@pytest.fixture
def scrape() -> Iterator[tuple[MeterProvider, Callable[[], Scrape]]]:
    """A provider, and a function that gets its samples by HTTP."""
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)])
    server, thread = start_http_server(0, "127.0.0.1", registry)

    def get() -> Scrape:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10) as response:
            found: Scrape = {}
            for family in text_string_to_metric_families(response.read().decode()):
                for sample in family.samples:
                    found.setdefault(sample.name, []).append(sample.labels)
            return found

    yield provider, get
    server.shutdown()
    server.server_close()
    thread.join()
    provider.shutdown()


def families(scraped: Scrape) -> set[str]:
    """Return the names of what is ours, of a histogram without its endings."""
    ours = {name for name in scraped if name.startswith(("sqlalchemy_watch_", "messaging_"))}
    return {re.sub(r"(_seconds)_(bucket|count|sum)$", r"\1", name) for name in ours}


def rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((ROOT / "examples" / "prometheus_alerts.yml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


@needs_logical_messages
def test_prometheus_gets_what_is_documented_and_what_alerts_ask_for(
    engine: Engine, client: psycopg.Connection[Any], Order: Any, group: str, scrape: Any
) -> None:
    provider, get = scrape
    Order.watch.inserted.connect(lambda sender, event: None)
    listener = Listener(engine, Order, heartbeat_interval=0.1)
    relay = Relay(engine, Order, group=group, to=Picky())
    instrument(listener, meter_provider=provider, attributes={"listener": "receipts"})
    instrument(relay, meter_provider=provider, attributes={"listener": "relay"})
    with listener, relay:
        client.execute("INSERT INTO orders VALUES (1, 'a')")
        listener.catch_up()
        relay.listener.catch_up()
        wait_until(client, lambda: listener.stats().notify_queue_usage is not None)
        wait_until(client, lambda: relay.listener.stats().wal_held_bytes is not None)
        scraped = get()
    documented = _ROW.findall((ROOT / "docs" / "observability.md").read_text())
    assert families(scraped) == {prometheus for _, prometheus in documented}
    assert all(prometheus.startswith(name.replace(".", "_")) for name, prometheus in documented)
    whose = {labels["listener"] for labels in scraped["messaging_client_consumed_messages_total"]}
    assert whose == {"receipts", "relay"}
    for rule in rules():
        asked = set(_NAME.findall(rule["expr"]))
        assert asked, rule["alert"]
        assert asked <= scraped.keys(), rule["alert"]
        words = str(rule["annotations"])
        known = {"instance", "job"} | {label for name in asked for labels in scraped[name] for label in labels}
        assert set(re.findall(r"\$labels\.(\w+)", words)) <= known, rule["alert"]


def test_rules_have_what_prometheus_wants() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) >= 10
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert re.fullmatch(r"\d+m", rule.get("for", "0m"))
