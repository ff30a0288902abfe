"""`stats()` tells what is wrong."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from postgres import Cluster
from support import insert, wait_until

from .conftest import MakeListener
from .journal import Journal
from .proxy import Proxy


def test_stats_tell_what_happened(
    cluster: Cluster,
    client: psycopg.Connection[Any],
    User: Any,
    proxy: Proxy,
    listening: MakeListener,
    journal: Journal,
) -> None:
    go_on, called = threading.Event(), threading.Event()

    def fail_late(sender: Any, event: Any) -> None:
        called.set()
        go_on.wait()
        raise ValueError

    User.watch.inserted.connect(fail_late)
    listener = listening(proxy.port, max_queue=3)
    first = listener.stats().connected_since
    assert first is not None
    assert timedelta() <= datetime.now(UTC) - first < timedelta(seconds=10)
    for id_ in range(1, 8):
        insert(client, "users", id_)
        called.wait(5)
    client.execute("SELECT pg_notify(%s, 'garbage')", [User.watch.inserted.details.channel])
    wait_until(client, lambda: listener.stats().notifications == 8)
    stats = listener.stats()
    assert (stats.queue_depth, stats.dropped, stats.events, stats.resyncs) == (3, 4, 1, 0)
    go_on.set()
    listener.catch_up()
    client.execute("SELECT pg_notify(%s, 'garbage')", [User.watch.inserted.details.channel])
    listener.catch_up()
    proxy.refuse()
    journal.wait_for_count("disconnected", 1)
    assert listener.stats().connected_since is None
    proxy.resume()
    journal.wait_for_count("resync", 2)
    listener.catch_up()
    stats = listener.stats()
    assert stats.connected_since is not None
    assert stats.connected_since > first
    assert (stats.reconnects, stats.notifications, stats.events, stats.garbage) == (1, 9, 4, 1)
    assert (stats.failed_receivers, stats.resyncs, stats.queue_depth, stats.dropped) == (4, 2, 0, 4)
    assert stats.lag is not None
    assert -1 < stats.lag < 10
    assert stats.notify_queue_usage == 0.0
