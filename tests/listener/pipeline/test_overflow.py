"""Receivers that are slower than writers cost the listener its memory's bound, and the server nothing."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any

import psycopg
import pytest
from models import declare_user
from postgres import Cluster
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase
from support import end_listeners, insert, wait_until

from sqlalchemy_watch import Watch
from sqlalchemy_watch.listener.pipeline.inbox import OVERFLOW

from ..conftest import MakeListener
from ..journal import Journal


@pytest.fixture
def User(Base: type[DeclarativeBase], engine: Engine) -> Any:
    """A notification for each row."""

    User = declare_user(Base, Watch("inserted", level="row"))
    Base.metadata.create_all(engine)
    return User


def test_queue_overflow_of_200_000_events(
    cluster: Cluster,
    client: psycopg.Connection[Any],
    User: Any,
    listening: MakeListener,
    journal: Journal,
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on, called = threading.Event(), threading.Event()

    def be_slow(sender: Any, event: Any) -> None:
        called.set()
        go_on.wait()

    User.watch.inserted.connect(be_slow)
    listener = listening(cluster.port, max_queue=1000, heartbeat_timeout=10)
    client.execute("INSERT INTO users VALUES (1)")
    assert called.wait(5)
    tracemalloc.start()
    for number in range(20):
        client.execute(
            "INSERT INTO users SELECT generate_series(%s::int, %s)", [number * 10_000 + 2, number * 10_000 + 10_001]
        )
    wait_until(client, lambda: listener.stats().notifications == 200_001, seconds=100)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The receiver still blocks, and the server has been rid of everything.
    assert client.execute("SELECT pg_notification_queue_usage()").fetchone() == (0.0,)
    stats = listener.stats()
    assert (stats.notifications, stats.dropped, stats.queue_depth) == (200_001, 199_000, 1000)
    assert peak < 8_000_000
    assert held < 2_000_000
    assert journal.count("disconnected") == 0
    assert caplog.messages.count(f"{OVERFLOW}: dropping what comes until it is empty (1000 are waiting)") == 1
    go_on.set()
    listener.catch_up()
    client.execute("INSERT INTO users VALUES (300000)")
    listener.catch_up()
    assert [entry for entry in journal.entries if entry[0] != "event"] == [("connected",), ("resync", OVERFLOW)]
    assert journal.entries[-2:] == [("resync", OVERFLOW), ("event", 300_000)]
    assert journal.ids()[:1001] == list(range(1, 1002))


def test_stuck_receiver_and_a_flapping_connection_do_not_fill_the_memory(
    cluster: Cluster, client: psycopg.Connection[Any], User: Any, listening: MakeListener, journal: Journal
) -> None:
    go_on, called = threading.Event(), threading.Event()

    def block(sender: Any, event: Any) -> None:
        called.set()
        go_on.wait()

    User.watch.inserted.connect(block)
    listener = listening(cluster.port, max_queue=10)
    client.execute("INSERT INTO users VALUES (1)")
    assert called.wait(5)
    for number in range(15):
        insert(client, "users", number + 2)
        end_listeners(client)
        wait_until(client, lambda number=number: listener.stats().reconnects > number)
    assert listener.stats().queue_depth <= 10 + 20
    go_on.set()
    listener.catch_up()
    client.execute("INSERT INTO users VALUES (100)")
    listener.catch_up()
    assert (journal.entries[-2][0], journal.entries[-1]) == ("resync", ("event", 100))
