"""The number of a transaction and the time of its commit: from the log, whatever a payload says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from models import declare_base, declare_user
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase
from support import MADE_UP

from sqlalchemy_watch import Listener, Watch, wire
from sqlalchemy_watch.declaring.targets import watches_of_table

from ..clusters import removed_afterwards

pytestmark = needs_logical_messages

Client = psycopg.Connection[Any]


def now(client: Client) -> datetime:
    row = client.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    found: datetime = row[0]
    return found


def write(client: Client, *statements: str) -> tuple[int, datetime, datetime]:
    """Run statements in a transaction; return its number, and the times before and after all of them."""
    with client.transaction():
        before = now(client)
        for statement in statements:
            client.execute(statement.encode())
        row = client.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert row is not None
        return row[0], before, now(client)


@pytest.mark.parametrize("level", ["statement", "row"])
@pytest.mark.parametrize("zone", ["Asia/Kolkata", "5.8911", "-11.9997"])
def test_an_event_has_the_commits_time_and_one_by_notify_the_triggers(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str, level: Any, zone: str
) -> None:
    User = declare_user(Base, Watch("inserted", delivery="both", level=level))
    Base.metadata.create_all(engine)
    heard: dict[Any, list[Any]] = {}
    User.watch.inserted.connect(lambda sender, event: heard.setdefault(event.listener, []).append(event))
    with Listener(engine, User) as live, Listener(engine, User, durable=group) as safe:
        client.execute(f"SET TimeZone = '{zone}'")
        txid, before, after = write(client, "INSERT INTO users VALUES (1)", "INSERT INTO users VALUES (2)")
        committed = now(client)
        for listener in (live, safe):
            listener.catch_up()
        assert {event.txid for events in heard.values() for event in events} == {txid}
        first, second = heard[live]
        assert before < first.emitted_at < second.emitted_at < after
        first, second = heard[safe]
        assert after < first.emitted_at == second.emitted_at < committed
        assert {event.emitted_at.tzinfo for events in heard.values() for event in events} == {UTC}
        for listener in (live, safe):
            lag = listener.stats().lag
            assert lag is not None
            assert -1 < lag < 20


def test_a_payload_can_not_say_another_transaction_or_time(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str, recorder: Recorder
) -> None:
    User = declare_user(Base, Watch("inserted", delivery="durable"))
    Base.metadata.create_all(engine)
    User.watch.inserted.connect(recorder)
    (watch,) = watches_of_table(User.__table__)
    forged = json.dumps({**wire.head_fields(watch), **MADE_UP, "txid": 2**63, "rows": [[1]]})
    emit = f"SELECT pg_logical_emit_message(true, '{wire.DURABLE_PREFIX}{watch.channel}', '{forged}')"
    with Listener(engine, User, durable=group) as listener:
        txid, _, after = write(client, emit)
        listener.catch_up()
    (event,) = recorder.events
    assert event.txid == txid
    assert event.emitted_at > after


def test_numbers_of_a_later_epoch_and_of_transactions_older_than_the_listener_are_whole(recorder: Recorder) -> None:
    base = declare_base()
    User = declare_user(base, Watch("inserted", delivery="durable"))
    User.watch.inserted.connect(recorder)
    cluster = Cluster()
    cluster.run("pg_resetwal", "-e", "5", "-D", str(cluster.data))
    with removed_afterwards(cluster):
        engine = create_engine(cluster.url(driver="psycopg"))
        base.metadata.create_all(engine)
        with Listener(engine, base, durable="a_group"):
            pass
        with cluster.connect() as client, cluster.connect() as other:
            with client.transaction():
                older, _, _ = write(client, "INSERT INTO users VALUES (1)")
                newer, _, _ = write(other, "INSERT INTO users VALUES (2)")
            with Listener(engine, base, durable="a_group") as listener:
                listener.catch_up()
                newest, _, _ = write(other, "INSERT INTO users VALUES (3)")
                listener.catch_up()
        engine.dispose()
    assert [(event.identity[0], event.txid) for event in recorder.events] == [(2, newer), (1, older), (3, newest)]
    assert 5 * 2**32 < older < newer < newest
