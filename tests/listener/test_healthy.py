"""`healthy()`, for probes, and `start(wait=False)`, where the database may still be down."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, create_engine
from support import insert, records_of, wait_until

from sqlalchemy_watch import Listener, ListenerStartError, UnsupportedServerError
from sqlalchemy_watch.listener.notify.source import RECONNECTED
from sqlalchemy_watch.listener.source import STARTED_LATE

from . import programs
from .clusters import Standby, removed_afterwards
from .conftest import MakeListener
from .journal import Journal
from .proxy import Proxy

Client = psycopg.Connection[Any]


def test_it_is_so_from_start_to_stop(engine: Engine, User: Any) -> None:
    listener = Listener(engine, User)
    assert not listener.healthy()
    with listener:
        assert listener.healthy()
        assert listener.healthy(max_lag=0)
    assert not listener.healthy()


def test_a_lost_connection_is_not(listening: MakeListener, proxy: Proxy, client: Client, journal: Journal) -> None:
    listener = listening(proxy.port)
    assert listener.healthy()
    proxy.freeze()
    journal.wait_for_count("disconnected", 1)
    assert not listener.healthy()
    proxy.resume(thaw=False)
    journal.wait_for_count("resync", 1)
    assert journal.entries[-1] == ("resync", RECONNECTED)
    wait_until(client, listener.healthy)


def test_a_receiver_that_blocks_is_not_and_events_behind_it_grow_old(
    listening: MakeListener, cluster: Cluster, User: Any, client: Client
) -> None:
    entered, leave = threading.Event(), threading.Event()

    @User.watch.inserted.connect
    def block(sender: Any, event: Any) -> None:
        entered.set()
        leave.wait(20)

    listener = listening(cluster.port, heartbeat_interval=2)
    insert(client, "users", 1, 2)
    assert entered.wait(5)
    assert listener.healthy(max_lag=60)
    wait_until(client, lambda: not listener.healthy(max_lag=0.3))
    assert listener.healthy()
    wait_until(client, lambda: not listener.healthy())
    leave.set()
    listener.catch_up()
    assert listener.healthy(max_lag=0.3)


def test_in_a_forked_child_it_is_not(cluster: Cluster, database: str) -> None:
    code = """
    with Listener(engine, Base) as listener:
        child = os.fork()
        if child == 0:
            os._exit(listener.healthy())
        print(os.waitpid(child, 0)[1], listener.healthy())
    """
    assert programs.run(cluster.url(database, "psycopg"), code) == "0 True"


@needs_logical_messages
def test_consumers_of_a_group_are_the_active_one_and_the_one_that_stands_by(
    durable: MakeListener, Order: Any, client: Client, group: str
) -> None:
    first, second = durable(), durable()
    first.start()
    second.start()
    assert (first.stats().active, second.stats().active) == (True, False)
    assert first.healthy()
    assert second.healthy()
    first.stop()
    wait_until(client, lambda: second.stats().active)
    wait_until(client, second.healthy)
    insert(client, "orders", 1)
    second.catch_up()
    assert second.healthy(max_lag=10)


@needs_logical_messages
def test_a_group_that_works_off_what_was_kept_lags(
    durable: MakeListener, Order: Any, client: Client, cluster: Cluster
) -> None:
    first = durable()
    first.start()
    first.stop()
    insert(client, "orders", 1, 2, 3)
    client.execute("SELECT pg_sleep(1.1)")
    second, entered, leave = durable(), threading.Event(), threading.Event()

    @Order.watch.inserted.connect
    def block(sender: Any, event: Any) -> None:
        entered.set()
        leave.wait(20)

    second.start()
    assert entered.wait(5)
    wait_until(client, lambda: not second.healthy(max_lag=1))
    assert second.healthy(max_lag=60)
    leave.set()
    second.catch_up()
    assert second.healthy(max_lag=1)


def test_a_start_that_does_not_wait_returns_while_the_database_is_down(User: Any, journal: Journal) -> None:
    with removed_afterwards(Cluster()) as cluster:
        engine = create_engine(cluster.url(driver="psycopg"))
        User.metadata.create_all(engine)
        engine.dispose()
        cluster.stop()
        listener = Listener(engine, User)
        journal.attach(listener)
        User.watch.inserted.connect(journal)
        listener.start(wait=False)
        listener.start(wait=False)
        assert listener.running
        assert not listener.healthy()
        with pytest.raises(ListenerStartError, match="not in force within 0.1 s"):
            listener.start(0.1)
        assert listener.running  # and so goes on
        cluster.start()
        listener.start()
        assert listener.healthy()
        with cluster.connect() as client:
            insert(client, "users", 1)
        listener.catch_up()
        assert journal.entries == [("connected",), ("resync", STARTED_LATE), ("event", 1)]
        listener.stop()


@pytest.mark.slow
def test_what_somebody_has_to_mend_is_an_error_and_is_tried_again(User: Any, journal: Journal) -> None:
    with removed_afterwards(Cluster()) as primary, removed_afterwards(Standby(primary)) as standby:
        engine = create_engine(standby.url(driver="psycopg"))
        listener = Listener(engine, User)
        journal.attach(listener)
        with records_of("sqlalchemy_watch.listener.notify.source") as records:
            listener.start(wait=False)
            record = records.get(timeout=10)
        assert record.levelname == "ERROR"
        assert "hot standby" in record.getMessage()
        assert not listener.healthy()
        with pytest.raises(UnsupportedServerError, match="hot standby"):
            Listener(engine, User).start()
        standby.promote()
        journal.wait_for_count("resync", 1)
        assert listener.healthy()
        listener.stop()


@needs_logical_messages
def test_a_group_has_a_resync_only_where_its_slot_had_to_be_made(
    durable: MakeListener, Order: Any, client: Client
) -> None:
    kinds = []
    for _ in range(2):
        listener, journal = durable(), Journal()
        journal.attach(listener)
        listener.start(wait=False)
        listener.start()
        listener.catch_up()
        listener.stop()
        kinds.append(journal.entries)
    assert kinds == [[("connected",), ("resync", STARTED_LATE)], [("connected",)]]
