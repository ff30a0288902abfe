"""Servers that restart, connections that end, consumers that take over."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, create_engine
from support import insert, wait_until

from sqlalchemy_watch import Listener

from ..clusters import removed_afterwards
from ..conftest import MakeListener
from ..consumers import Base, Payment
from ..insides import log_known_to
from ..journal import Journal, Writer
from ..proxy import Proxy

pytestmark = needs_logical_messages


def end_stream(client: psycopg.Connection[Any], group: str) -> None:
    """End the connection of the active consumer."""
    query = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active"
    assert client.execute(query, [group]).fetchone() == (True,)


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    with removed_afterwards(Cluster()) as cluster:
        yield cluster


def test_restarts_under_load_lose_nothing(own: Cluster, recorder: Recorder) -> None:
    engine = create_engine(own.url(driver="psycopg"))
    Base.metadata.create_all(engine)
    with (
        Payment.watch.inserted.connected_to(recorder),
        Listener(engine, Base, durable="mailer") as listener,
    ):
        journal = Journal().attach(listener)
        with Writer(own.url(), "payments") as writer:
            for mode in ("fast", "immediate", "immediate", "fast"):
                writer.wait_for_more(20)
                own.stop(mode)
                connections = journal.count("connected")
                own.start()
                journal.wait_for_count("connected", connections + 1)
            writer.wait_for_more(20)
        listener.catch_up()
        with own.connect() as client:
            stored = [row[0] for row in client.execute("SELECT id FROM payments ORDER BY id")]
    heard = [event.identity[0] for event in recorder.events]
    assert heard == stored  # the process went on: each exactly once, in commit order
    assert heard == list(range(1, writer.last + 1))
    assert listener.stats().reconnects >= 4
    assert listener.stats().resyncs == 0
    engine.dispose()


def test_a_server_restored_from_a_backup_is_told_by_a_resync_and_none_of_its_events_is_skipped(
    own: Cluster, recorder: Recorder
) -> None:
    engine = create_engine(own.url(driver="psycopg"))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'bookkeeper'"
    backup = own.data.with_name("backup")
    with Payment.watch.inserted.connected_to(recorder), Listener(engine, Base, durable="bookkeeper") as listener:
        own.stop("fast")
        subprocess.run(["cp", "-a", own.data, backup], check=True)
        own.start()
        with own.connect() as client:
            wait_until(client, active)
            client.execute("INSERT INTO payments SELECT generate_series(1, 5000)")
            listener.catch_up()
        own.stop("fast")
        subprocess.run(["rm", "-r", own.data], check=True)
        backup.rename(own.data)
        own.start()
        with own.connect() as client:
            wait_until(client, active)
            client.execute("INSERT INTO payments VALUES (7)")  # at a position that was acknowledged before
            listener.catch_up()
        assert listener.stats().resyncs == 1
    assert [event.identity[0] for event in recorder.events] == [*range(1, 5001), 7]
    assert recorder.events[-1].lsn < recorder.events[0].lsn
    engine.dispose()


def test_a_terminated_stream_goes_on_where_it_was(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str, recorder: Recorder
) -> None:
    Order.watch.connect(recorder)
    with durable() as listener:
        for i in range(2):
            insert(client, "orders", range(10 * i, 10 * i + 10))
            end_stream(client, group)
            wait_until(client, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", group)
            wait_until(client, "SELECT active FROM pg_replication_slots WHERE slot_name = %s", group)
        listener.catch_up()
        assert listener.stats().reconnects == 2
    assert [event.identity[0] for event in recorder.events] == list(range(20))
    assert [event.position for event in recorder.events] == [*range(10)] * 2


def test_a_stream_that_ends_in_the_middle_of_a_transaction_goes_on_there(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str, recorder: Recorder
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        recorder(sender, event)
        begun.set()
        go_on.wait(20)

    with durable(max_queue=2) as listener:
        with client.transaction():
            for i in range(20):
                insert(client, "orders", range(1000 * i, 1000 * i + 1000))
        assert begun.wait(10)
        end_stream(client, group)
        go_on.set()
        listener.catch_up()
    assert [event.identity[0] for event in recorder.events] == list(range(20_000))
    assert [event.position for event in recorder.events] == list(range(20_000))


def test_a_connection_that_is_cut_is_made_anew(
    client: psycopg.Connection[Any],
    Base: Any,
    Order: Any,
    group: str,
    proxy: Proxy,
    engine_through_proxy: Engine,
    recorder: Recorder,
) -> None:
    Order.watch.connect(recorder)
    with Listener(engine_through_proxy, Base, durable=group) as listener:
        journal = Journal().attach(listener)
        insert(client, "orders", 1)
        listener.catch_up()
        proxy.cut()
        insert(client, "orders", 2)
        journal.wait_for_count("disconnected", 1)
        insert(client, "orders", 3)
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,)), ("inserted", (2,)), ("inserted", (3,))]


def test_a_slow_receiver_is_not_cut_off_by_wal_sender_timeout(
    client: psycopg.Connection[Any], database: str, Order: Any, durable: MakeListener, recorder: Recorder
) -> None:
    client.execute(f"ALTER DATABASE {database} SET wal_sender_timeout = '600ms'")
    begun, go_on = threading.Event(), threading.Event()

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        begun.set()
        go_on.wait(20)

    Order.watch.connect(recorder)
    with durable(max_queue=1) as listener:
        insert(client, "orders", 0)
        assert begun.wait(10)
        for i in range(1, 10):
            insert(client, "orders", i)
        client.execute("SELECT pg_sleep(1.5)")  # the server's time has to pass
        go_on.set()
        listener.catch_up()
        assert listener.stats().reconnects == 0
    assert [event.identity[0] for event in recorder.events] == list(range(10))


def test_a_standby_takes_over_within_seconds_and_hears_again_what_was_not_acknowledged(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str, recorder: Recorder
) -> None:
    active, standby = durable(), durable()
    active.start()
    standby.start()
    assert (active.stats().active, standby.stats().active) == (True, False)
    assert log_known_to(standby) is not None  # to tell a failover by, while it stands by
    insert(client, "orders", range(1, 4))
    active.catch_up()
    journal = Journal().attach(standby)
    released = threading.Event()

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        recorder(sender, event)
        if event.identity == (5,) and not released.is_set():
            released.set()
            active.stop()  # in the middle of a transaction

    insert(client, "orders", range(4, 7))
    began = time.monotonic()
    assert released.wait(10)
    journal.wait_for_count("connected", 1)
    assert time.monotonic() - began < 5
    standby.catch_up()
    insert(client, "orders", 7)
    standby.catch_up()
    assert [event.identity[0] for event in recorder.events] == [4, 5, 4, 5, 6, 7]


def test_a_history_in_another_encoding_stops_nobody(recorder: Recorder) -> None:
    """It names the restore point at which the server was recovered, as whoever made that wrote it."""
    with removed_afterwards(Cluster(restore_command="false")) as cluster:
        cluster.stop("fast")
        (cluster.data / "recovery.signal").touch()
        cluster.start()
        with cluster.connect() as client:
            wait_until(client, "SELECT NOT pg_is_in_recovery()")
        (history,) = (cluster.data / "pg_wal").glob("*.history")
        history.write_bytes(history.read_bytes().replace(b"no recovery target specified", b"at restore point \xfc"))
        engine = create_engine(cluster.url(driver="psycopg"))
        Base.metadata.create_all(engine)
        with Payment.watch.inserted.connected_to(recorder), Listener(engine, Base, durable="mailer") as listener:
            with cluster.connect() as client:
                insert(client, "payments", 1)
            listener.catch_up()
            assert recorder.events[0].identity == (1,)
        engine.dispose()
