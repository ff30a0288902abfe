"""Servers that restart, connections that end, consumers that take over."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster
from sqlalchemy import create_engine

from sqlalchemy_watch import Listener

from ..conftest import wait_until
from ..consumers import Base, Payment
from ..proxy import proxied

Make = Callable[..., Listener]


def insert(client: psycopg.Connection[Any], first: int, last: int) -> None:
    client.execute("INSERT INTO orders (id) SELECT * FROM generate_series(%s::int, %s)", [first, last])


def end_stream(client: psycopg.Connection[Any], group: str) -> None:
    """End the connection of the active consumer."""
    query = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active"
    assert client.execute(query, [group]).fetchone() == (True,)


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    cluster = Cluster().start()
    yield cluster
    cluster.remove()


class Writer:
    """Commits ids one by one, whatever becomes of the server, and knows which are committed for certain."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._next = 1
        self.committed: list[int] = []

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_for_more(self, count: int) -> None:
        wanted = len(self.committed) + count
        deadline = time.monotonic() + 20
        while len(self.committed) < wanted:
            assert time.monotonic() < deadline
            self._stopping.wait(0.01)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True) as connection:
                    while not self._stopping.wait(0.001):
                        self._next += 1
                        connection.execute("INSERT INTO payments VALUES (%s)", [self._next])
                        self.committed.append(self._next)
            except psycopg.OperationalError:
                self._stopping.wait(0.02)


def test_restarts_under_load_lose_nothing(own: Cluster, recorder: Recorder) -> None:
    engine = create_engine(own.url(driver="psycopg"))
    Base.metadata.create_all(engine)
    connected = threading.Event()

    def note_connected(sender: Any) -> None:
        connected.set()

    with (
        Payment.watch.inserted.connected_to(recorder),
        Listener(engine, Base, durable="mailer") as listener,
    ):
        listener.connected.connect(note_connected)
        with Writer(own.url()) as writer:
            for mode in ("fast", "immediate", "immediate", "fast"):
                writer.wait_for_more(20)
                own.stop(mode)
                connected.clear()
                own.start()
                assert connected.wait(20)
            writer.wait_for_more(20)
        listener.catch_up()
        with own.connect() as client:
            stored = [row[0] for row in client.execute("SELECT id FROM payments ORDER BY id")]
    heard = [event.identity[0] for event in recorder.events]
    assert heard == stored  # the process went on: each exactly once, in commit order
    assert set(writer.committed) <= set(heard)
    assert listener.stats().reconnects >= 4
    assert listener.stats().resyncs == 0
    engine.dispose()


def test_of_a_server_restored_from_a_backup_nothing_new_is_skipped_and_a_resync_says_that_it_is_another(
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
    client: psycopg.Connection[Any], Order: Any, durable: Make, group: str, recorder: Recorder
) -> None:
    Order.watch.connect(recorder)
    with durable() as listener:
        for i in range(5):
            insert(client, 10 * i, 10 * i + 9)
            end_stream(client, group)
            wait_until(client, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", group)
            wait_until(client, "SELECT active FROM pg_replication_slots WHERE slot_name = %s", group)
        listener.catch_up()
        assert listener.stats().reconnects == 5
    assert [event.identity[0] for event in recorder.events] == list(range(50))
    assert [event.position for event in recorder.events] == [*range(10)] * 5


def test_a_stream_that_ends_in_the_middle_of_a_transaction_goes_on_there(
    client: psycopg.Connection[Any], Order: Any, durable: Make, group: str, recorder: Recorder
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
                insert(client, 1000 * i, 1000 * i + 999)
        assert begun.wait(10)
        end_stream(client, group)
        go_on.set()
        listener.catch_up()
    assert [event.identity[0] for event in recorder.events] == list(range(20_000))
    assert [event.position for event in recorder.events] == list(range(20_000))


@pytest.mark.parametrize("failure", ["cut", "freeze"])
def test_a_connection_that_is_cut_or_frozen_is_made_anew(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], Base: Any, Order: Any, group: str, failure: str,
    recorder: Recorder,
) -> None:  # fmt: skip
    Order.watch.connect(recorder)
    again = threading.Event()

    def note_disconnected(sender: Any, error: BaseException | None) -> None:
        again.set()

    client.execute(f"ALTER DATABASE {database} SET wal_sender_timeout = '1s'")
    with proxied(cluster.port) as proxy:
        engine = create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{proxy.port}/{database}")
        with Listener(engine, Base, durable=group, heartbeat_interval=0.2, heartbeat_timeout=0.3) as listener:
            listener.disconnected.connect(note_disconnected)
            insert(client, 1, 1)
            listener.catch_up()
            getattr(proxy, failure)()
            insert(client, 2, 2)
            assert again.wait(10)
            proxy.resume(thaw=False)
            insert(client, 3, 3)
            listener.catch_up()
        engine.dispose()
    assert recorder.heard() == [("inserted", (1,)), ("inserted", (2,)), ("inserted", (3,))]


@pytest.mark.parametrize("max_queue", [1, 50_000])
def test_a_slow_receiver_is_not_cut_off_by_wal_sender_timeout(
    client: psycopg.Connection[Any], database: str, Order: Any, durable: Make, recorder: Recorder, max_queue: int
) -> None:
    client.execute(f"ALTER DATABASE {database} SET wal_sender_timeout = '600ms'")
    begun, go_on = threading.Event(), threading.Event()

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        begun.set()
        go_on.wait(20)

    Order.watch.connect(recorder)
    with durable(max_queue=max_queue) as listener:
        insert(client, 0, 0)
        assert begun.wait(10)
        for i in range(1, 10):
            insert(client, i, i)
        client.execute("SELECT pg_sleep(1.5)")  # the server's time has to pass
        go_on.set()
        listener.catch_up()
        assert listener.stats().reconnects == 0
    assert [event.identity[0] for event in recorder.events] == list(range(10))


def test_a_standby_takes_over_within_seconds_and_cannot_say_what_was_delivered_before_it_did(
    client: psycopg.Connection[Any], Order: Any, durable: Make, group: str, recorder: Recorder
) -> None:
    active, standby = durable(), durable()
    active.start()
    standby.start()
    assert (active.stats().active, standby.stats().active) == (True, False)
    insert(client, 1, 3)
    active.catch_up()
    took_over = threading.Event()

    def note_connected(sender: Any) -> None:
        took_over.set()

    standby.connected.connect(note_connected)
    released = threading.Event()

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        recorder(sender, event)
        if event.identity == (5,) and not released.is_set():
            released.set()
            active.stop()  # in the middle of a transaction

    insert(client, 4, 6)
    began = time.monotonic()
    assert released.wait(10)
    assert took_over.wait(10)
    assert time.monotonic() - began < 5
    standby.catch_up()
    insert(client, 7, 7)
    standby.catch_up()
    assert [(event.identity[0], event.redelivered) for event in recorder.events] == [
        (4, False), (5, False), (4, None), (5, None), (6, None), (7, False),
    ]  # fmt: skip
