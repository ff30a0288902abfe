"""The look at the triggers is a courtesy: nobody waits for it, whatever is the matter with the catalog."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from support import insert, wait_until

from sqlalchemy_watch import Listener
from sqlalchemy_watch.catalog import problems

from ..conftest import MakeListener

#: As a maintenance job locks it; LISTEN does not read it.
LOCK = "BEGIN; LOCK TABLE pg_catalog.pg_trigger IN ACCESS EXCLUSIVE MODE"


@pytest.mark.server
def test_listening_goes_on_where_the_catalog_does_not_answer(
    cluster: Cluster, database: str, engine: Engine, User: Any, client: psycopg.Connection[Any], recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    User.watch.connect(recorder)
    insert(client, "users", 1)  # this client has all it needs to know of the triggers
    with cluster.connect(database) as job:
        job.execute(LOCK)
        listener = Listener(engine, User, heartbeat_timeout=2.0)
        listener.start()
        insert(client, "users", 2)
        listener.catch_up()
        assert recorder.heard() == [("inserted", (2,))]
        assert listener.stats().reconnects == 0
        listener.stop()
    assert [r.levelno for r in caplog.records if "did not look at the triggers" in r.message] == [logging.WARNING]


@pytest.mark.server
@needs_logical_messages
def test_a_durable_listener_goes_on_where_the_catalog_does_not_answer(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, recorder: Recorder,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Not by a lock: a walsender reads the catalog as well.
    def look_for_long(connection: psycopg.Connection[Any], *arguments: Any) -> list[str]:
        connection.execute("SELECT pg_sleep(600)")
        return []

    monkeypatch.setattr(problems, "describe_problems", look_for_long)
    Order.watch.connect(recorder)
    with durable() as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        assert [identity for _, identity in recorder.heard()] == [(1,)]
        wait_until(client, lambda: "did not look at the triggers" in caplog.text)
        assert listener.stats().reconnects == 0


def test_a_missing_trigger_is_named_soon_after_the_start(
    engine: Engine, User: Any, client: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    client.execute(f"DROP TRIGGER {User.watch.inserted.details.trigger_name} ON users")
    with Listener(engine, User):
        wait_until(client, lambda: "the trigger of users/inserted is missing" in caplog.text)


@needs_logical_messages
def test_a_missing_trigger_is_named_soon_after_the_start_of_a_durable_listener(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, caplog: pytest.LogCaptureFixture
) -> None:
    client.execute(f"DROP TRIGGER {Order.watch.inserted.details.trigger_name} ON orders")
    with durable():
        wait_until(client, lambda: "the trigger of orders/inserted is missing" in caplog.text)
