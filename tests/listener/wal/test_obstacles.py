"""Obstacles to a durable listener: told at once where they won't go away by themselves, waited out where they will."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pytest
from postgres import VERSION, Cluster, needs, needs_logical_messages
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase
from support import insert, wait_until

from sqlalchemy_watch import CatchUpTimeout, Listener, ListenerStartError, SlotError
from sqlalchemy_watch.listener.dispatch.dead_letters import LETTERS
from sqlalchemy_watch.listener.wal import slots
from sqlalchemy_watch.listener.wal.liveness import Liveness

from ..conftest import MakeListener
from ..proxy import Proxy

pytestmark = needs_logical_messages

#: Seconds within which an error is raised that waiting would not change; `start()` itself would try for longer.
AT_ONCE = 5.0
TIMEOUT = 20.0


def refusal(listener: Listener) -> str:
    """Start a listener that is refused at once; return the error's text."""
    begun = time.monotonic()
    with pytest.raises(SlotError) as caught:
        listener.start(timeout=TIMEOUT)
    assert time.monotonic() - begun < AT_ONCE
    assert not listener.running
    return str(caught.value)


@pytest.fixture
def transaction(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], group: str
) -> Iterator[psycopg.Connection[Any]]:
    """A program in the middle of a transaction that has written something; a slot can't be made meanwhile."""
    with closing(psycopg.connect(cluster.url(database))) as connection:
        connection.execute("CREATE TABLE reports (id int)")
        yield connection
    # Listeners that were stopped while they waited for the slot get it now.
    for thread in threading.enumerate():
        if thread.name == "sqlalchemy-watch-wal":
            thread.join(TIMEOUT)
    wait_until(client, "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = %s AND active", group)


def test_start_names_the_open_transactions_that_a_new_slot_waits_for(
    transaction: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    listener = durable()
    with pytest.raises(ListenerStartError, match="transactions"):
        listener.start(timeout=2)
    assert not listener.running


def test_a_second_start_waits_for_the_open_transactions_too_and_what_commits_after_it_is_heard(
    transaction: psycopg.Connection[Any],
    client: psycopg.Connection[Any],
    Order: Any,
    durable: MakeListener,
    recorder: Any,
) -> None:
    Order.watch.connect(recorder)
    listener = durable()
    with pytest.raises(ListenerStartError):
        listener.start(timeout=1)
    with ThreadPoolExecutor() as pool:
        started = pool.submit(listener.start, TIMEOUT)
        client.execute("SELECT pg_sleep(1.5)")  # for longer than it takes to find the slot in the making
        returned_early = started.done()
        transaction.commit()
        started.result()
    assert not returned_early
    client.execute("INSERT INTO orders VALUES (1)")
    listener.catch_up()
    assert recorder.heard() == [("inserted", (1,))]
    assert listener.stats().resyncs == 0


def test_another_process_does_not_stand_by_behind_a_slot_in_the_making(
    transaction: psycopg.Connection[Any], client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    one, other = durable(), durable()
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(one.start, TIMEOUT)]
        wait_until(client, "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = %s AND active", group)
        started.append(pool.submit(other.start, TIMEOUT))
        client.execute("SELECT pg_sleep(1.5)")  # for longer than it takes to find the slot in the making
        returned_early = [start.done() for start in started]
        transaction.commit()
        for start in started:
            start.result()
    assert returned_early == [False, False]
    assert {bool(one.stats().active), bool(other.stats().active)} == {True, False}


@needs(15, "row filters of publications")
def test_a_server_too_busy_to_answer_a_heartbeat_is_waited_for(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue: list[float] = []
    check = Liveness.check

    def note_and_check(liveness: Liveness, now: float) -> None:
        if liveness.heartbeat.is_overdue(now):
            overdue.append(now)
        check(liveness, now)

    monkeypatch.setattr(Liveness, "check", note_and_check)
    client.execute("CREATE TABLE unwatched (id int)")
    Order.watch.connect(recorder)
    with durable(heartbeat_interval=0.1, heartbeat_timeout=0.8) as listener:
        # To find that none of some rows is to be sent takes as long then as in a transaction of a million.
        client.execute(
            "ALTER PUBLICATION sqlalchemy_watch ADD TABLE unwatched WHERE (md5(repeat('x', 10000000 + id)) = '')"
        )
        for rows in (20, 40, 80, 160):
            client.execute("INSERT INTO unwatched SELECT generate_series(1, %s)", [rows])
            insert(client, "orders", rows)
            listener.catch_up()
            assert recorder.events[-1].identity == (rows,)
            if overdue:
                break
        assert overdue
        assert listener.stats().reconnects == 0


@pytest.mark.server
def test_a_name_that_a_physical_slot_has_is_refused(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    client.execute("SELECT pg_create_physical_replication_slot(%s)", [group])
    try:
        words = refusal(durable())
        with pytest.raises(SlotError) as caught:
            slots.ensure_slot(client, group)
    finally:
        client.execute("SELECT pg_drop_replication_slot(%s)", [group])
    for message in (words, str(caught.value)):
        assert group in message
        assert "physical" in message


@pytest.mark.server
def test_a_publication_that_was_dropped_while_nobody_listened_is_made_anew(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, recorder: Any
) -> None:
    Order.watch.connect(recorder)
    with durable() as listener:
        client.execute("INSERT INTO orders VALUES (1)")
        listener.catch_up()
    client.execute("DROP PUBLICATION sqlalchemy_watch")
    client.execute("INSERT INTO orders VALUES (2)")
    connections: list[Listener] = []

    def note_connected(sender: Listener) -> None:
        connections.append(sender)

    listener = durable()
    listener.connected.connect(note_connected)
    with listener:
        assert client.execute("SELECT pubname FROM pg_publication").fetchall() == [("sqlalchemy_watch",)]
        # A server before 18 looks it up as it was when a row was written, and so can't decode the log any more.
        readable = VERSION >= 18
        if not readable:
            wait_until(client, lambda: listener.stats().resyncs > 0, seconds=TIMEOUT)
        client.execute("INSERT INTO orders VALUES (3)")
        listener.catch_up()
        assert listener.stats().resyncs == (0 if readable else 1)
    assert [identity for _, identity in recorder.heard()] == ([(1,), (2,), (3,)] if readable else [(1,), (3,)])
    assert 1 <= len(connections) <= 3  # not one for each attempt


@pytest.fixture
def role(client: psycopg.Connection[Any], database: str) -> Iterator[str]:
    """A role that may log in, and whose privileges a test chooses; roles belong to the whole server."""
    name = f"app_{database}"
    client.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    client.execute(f"DROP OWNED BY {name}")
    client.execute(f"DROP ROLE {name}")


@pytest.fixture
def as_role(
    cluster: Cluster, database: str, Base: type[DeclarativeBase], group: str, role: str
) -> Iterator[MakeListener]:
    """Makes the listeners of the role."""
    engine = create_engine(f"postgresql+psycopg://{role}@127.0.0.1:{cluster.port}/{database}")
    with ExitStack() as stack:
        stack.callback(engine.dispose)

        def make(**options: Any) -> Listener:
            listener = Listener(engine, Base, durable=group, **options)
            stack.callback(listener.stop)
            return listener

        yield make


@pytest.mark.server
def test_a_role_that_may_not_replicate_is_told_so_where_an_administrator_made_the_slot(
    client: psycopg.Connection[Any], Order: Any, group: str, role: str, as_role: MakeListener
) -> None:
    slots.ensure_publication(client)
    slots.ensure_slot(client, group)
    words = refusal(as_role())
    assert "ALTER ROLE" in words
    assert "REPLICATION" in words
    client.execute(f"ALTER ROLE {role} REPLICATION")
    with as_role() as listener:
        listener.catch_up()


@pytest.mark.server
def test_a_role_that_may_not_use_the_table_of_dead_letters_is_told_what_to_grant(
    client: psycopg.Connection[Any], Order: Any, group: str, role: str, as_role: MakeListener
) -> None:
    slots.ensure_publication(client)
    slots.ensure_slot(client, group)
    LETTERS.ensure(client)
    client.execute(f"ALTER ROLE {role} REPLICATION")
    assert "GRANT USAGE ON SCHEMA sqlalchemy_watch" in refusal(as_role(max_attempts=3))
    client.execute(f"GRANT USAGE ON SCHEMA sqlalchemy_watch TO {role}")
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON sqlalchemy_watch.dead_letters" in refusal(as_role(max_attempts=3))
    client.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON sqlalchemy_watch.dead_letters TO {role}")

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        raise ConnectionError("the mail server is down")

    with as_role(max_attempts=1) as listener:
        client.execute("INSERT INTO orders VALUES (1)")
        listener.catch_up()
        assert listener.stats().dead_letters == 1


@pytest.mark.server
def test_a_role_that_may_not_use_the_table_of_dead_letters_listens_where_it_needs_none(
    client: psycopg.Connection[Any], Order: Any, group: str, role: str, as_role: MakeListener, recorder: Any
) -> None:
    slots.ensure_publication(client)
    slots.ensure_slot(client, group)
    LETTERS.ensure(client)
    client.execute(f"ALTER ROLE {role} REPLICATION")
    Order.watch.connect(recorder)
    with as_role(heartbeat_interval=0.1) as listener:
        client.execute("INSERT INTO orders VALUES (1)")
        listener.catch_up()
        wait_until(client, lambda: listener.stats().wal_status is not None, seconds=AT_ONCE)
        assert listener.stats().reconnects == 0
    assert recorder.heard() == [("inserted", (1,))]


def test_catch_up_with_a_server_that_falls_silent_times_out(
    client: psycopg.Connection[Any],
    Base: Any,
    Order: Any,
    group: str,
    proxy: Proxy,
    engine_through_proxy: Engine,
    recorder: Any,
) -> None:
    Order.watch.connect(recorder)
    with Listener(engine_through_proxy, Base, durable=group) as listener:
        listener.catch_up()
        proxy.freeze()
        client.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(CatchUpTimeout):
            listener.catch_up(timeout=1)
        proxy.resume()
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,))]


def test_the_state_of_the_slot_is_known_soon_after_start(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    with durable() as listener:
        wait_until(client, lambda: listener.stats().wal_status is not None, seconds=AT_ONCE)
        stats = listener.stats()
    assert stats.wal_status == "reserved"
    assert stats.lag_bytes is not None
    assert stats.lag_bytes >= 0
