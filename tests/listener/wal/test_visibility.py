"""A durable event comes once its row is visible to others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from support import insert, wait_until

from sqlalchemy_watch import ConfigurationError, Listener
from sqlalchemy_watch.listener.wal import visibility
from sqlalchemy_watch.listener.wal.visibility import Snapshot

from ..conftest import MakeListener

Client = psycopg.Connection[Any]

#: The sessions that have asked for a snapshot last.
ASKED = """
FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sqlalchemy-watch'
AND query = 'SELECT pg_catalog.pg_current_snapshot()'
"""


@pytest.mark.parametrize(
    ("text", "seen", "unseen"),
    [
        ("10:10:", [0, 9], [10, 11]),
        ("10:15:10,12", [9, 11, 13, 14], [10, 12, 15, 16]),
        ("0:0:", [], [0, 1, 2**64]),
    ],
)
def test_a_snapshot_sees_what_is_over(text: str, seen: list[int], unseen: list[int]) -> None:
    snapshot = Snapshot.parse(text)
    assert all(snapshot.sees(txid) for txid in seen)
    assert not any(snapshot.sees(txid) for txid in unseen)


@contextmanager
def commits_wait(client: Client) -> Iterator[None]:
    """Let commits wait for a standby that there is not."""
    client.execute("SET synchronous_commit = off")
    client.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    client.execute("SELECT pg_reload_conf()")
    try:
        wait_until(client, "SELECT current_setting('synchronous_standby_names') = 'nobody'")
        yield
    finally:
        client.execute("ALTER SYSTEM RESET synchronous_standby_names")
        client.execute("SELECT pg_reload_conf()")


@pytest.fixture
def committing(cluster: Cluster, database: str) -> Iterator[threading.Thread]:
    """Inserts a row."""
    with cluster.connect(database) as writer:
        yield threading.Thread(target=insert, args=[writer, "orders", 1])


WAITS = "SELECT true FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@needs_logical_messages
@pytest.mark.parametrize("wait_visible", [True, False])
def test_an_event_waits_until_its_row_is_visible_unless_it_need_not(
    client: Client, Order: Any, engine: Engine, durable: MakeListener, committing: threading.Thread, wait_visible: bool
) -> None:
    loaded: list[Any] = []

    @Order.watch.inserted.connect
    def load(sender: Any, event: Any) -> None:
        with Session(engine) as session:
            loaded.append(event.load(session))

    with durable(wait_visible=wait_visible) as listener:
        with commits_wait(client):
            committing.start()
            wait_until(client, WAITS)
            wait_until(client, lambda: listener.stats().notifications == 1)
            if wait_visible:
                wait_until(client, f"SELECT count(*) > 0 {ASKED}")
                assert loaded == []
            else:
                wait_until(client, lambda: loaded)
                assert loaded == [None]
        committing.join()
        listener.catch_up()
    assert len(loaded) == 1
    assert wait_visible is (loaded[0] is not None)


@needs_logical_messages
def test_a_long_wait_is_told_with_its_likely_cause_and_goes_on_though_its_connection_is_lost(
    client: Client, Order: Any, durable: MakeListener, committing: threading.Thread,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(visibility, "WARN_SECONDS", 0.3)
    heard: list[int] = []
    Order.watch.inserted.connect(lambda sender, event: heard.append(event.identity[0]))
    with durable() as listener:
        with commits_wait(client):
            committing.start()
            wait_until(client, lambda: "does its COMMIT wait for a synchronous standby?" in caplog.text)
            wait_until(client, f"SELECT bool_or(pg_terminate_backend(pid)) {ASKED}")
            wait_until(client, lambda: "can't ask whether what was committed is visible" in caplog.text)
        committing.join()
        listener.catch_up()
    assert heard == [1]
    assert caplog.text.count("synchronous standby?") == 1


@needs_logical_messages
def test_stop_ends_the_wait_and_the_event_comes_again(
    client: Client, Order: Any, durable: MakeListener, committing: threading.Thread
) -> None:
    heard: list[int] = []
    Order.watch.inserted.connect(lambda sender, event: heard.append(event.identity[0]))
    listener = durable()
    listener.start()
    with commits_wait(client):
        committing.start()
        wait_until(client, WAITS)
        wait_until(client, lambda: listener.stats().notifications == 1)
        listener.stop()
        assert heard == []
    committing.join()
    with durable() as listener:
        listener.catch_up()
    assert heard == [1]


@needs_logical_messages
def test_whatever_many_writers_commit_can_be_loaded(
    cluster: Cluster, database: str, Order: Any, engine: Engine, durable: MakeListener
) -> None:
    missing: list[int] = []

    @Order.watch.inserted.connect
    def load(sender: Any, event: Any) -> None:
        with Session(engine) as session:
            if event.load(session) is None:
                missing.append(event.identity[0])

    def write(first: int) -> None:
        with cluster.connect(database) as writer:
            insert(writer, "orders", *range(first, first + 200))

    writers = [threading.Thread(target=write, args=[1000 * number]) for number in range(4)]
    with durable() as listener:
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        listener.catch_up()
        assert listener.stats().events == 800
    assert missing == []


def test_wait_visible_is_a_bool(engine: Engine, Base: Any) -> None:
    with pytest.raises(ConfigurationError, match="wait_visible must be True or False, not 'yes'"):
        Listener(engine, Base, durable="a_group", wait_visible="yes")  # type: ignore[arg-type]
