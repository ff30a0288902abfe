"""The listener comes back whatever becomes of its connection, LISTENs again, and says that there was a gap."""

from __future__ import annotations

import itertools
import re
import threading
import time
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import Engine, create_engine
from support import end_listeners, insert, records_of, wait_until

from sqlalchemy_watch import Listener, ListenerStartError
from sqlalchemy_watch.catalog import problems
from sqlalchemy_watch.listener.run import Run
from sqlalchemy_watch.listener.source import BACKOFF_MAX, Backoff

from ..conftest import MakeListener
from ..journal import Journal, Writer
from ..proxy import READY, Proxy

NO_LISTENER = (
    "SELECT count(*) = 0 FROM pg_stat_activity "
    "WHERE application_name = 'sqlalchemy-watch' AND datname = current_database()"
)

#: Entries of a journal: the connection was lost and came back, before id 2 was inserted.
ONE_GAP = [("disconnected",), ("connected",), ("resync", "the connection was lost and is back"), ("event", 2)]


def test_backend_terminated_5_times_under_load(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], listener: Listener, journal: Journal
) -> None:
    with Writer(cluster.url(database)) as writer:
        for number in range(5):
            writer.wait_for_more()
            end_listeners(client)
            journal.wait_for_count("connected", number + 2)
        writer.wait_for_more()
    listener.catch_up()
    assert (journal.count("disconnected"), journal.count("resync"), listener.stats().reconnects) == (5, 5, 5)
    journal.check(writer.last)


def test_connection_cut_by_rst_under_load(
    cluster: Cluster, database: str, proxy: Proxy, listening: MakeListener, journal: Journal
) -> None:
    listener = listening(proxy.port)
    with Writer(cluster.url(database)) as writer:
        for number in range(5):
            writer.wait_for_more()
            proxy.cut()
            journal.wait_for_count("connected", number + 2)
    listener.catch_up()
    assert journal.count("resync") == 5
    journal.check(writer.last)


def test_notifications_that_arrived_before_the_connection_ended_are_dispatched(
    client: psycopg.Connection[Any], User: Any, proxy: Proxy, listening: MakeListener, journal: Journal
) -> None:
    listener = listening(proxy.port, heartbeat_interval=60, heartbeat_timeout=60)
    channel = User.watch.inserted.details.channel.encode()
    for round_ in range(5):
        listener.catch_up()  # it has looked at the triggers
        proxy.freeze()
        # In the server's stream the notifications lie right before the end.
        insert(client, "users", *range(round_ * 10 + 1, round_ * 10 + 11))
        wait_until(client, lambda: proxy.waiting().count(channel + b"\0") == 10)
        end_listeners(client)
        wait_until(client, NO_LISTENER)
        proxy.resume()
        journal.wait_for_count("connected", round_ + 2)
    listener.catch_up()
    assert journal.ids() == list(range(1, 51))
    assert journal.count("resync") == 5


def test_burst_right_before_a_rst_is_dispatched(
    client: psycopg.Connection[Any],
    User: Any,
    proxy: Proxy,
    listening: MakeListener,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With its large buffer libpq reads on behind what it has, and reports the RST instead of what it read.
    def look_at_much(connection: psycopg.Connection[Any], tables: Any) -> list[str]:
        connection.execute("SELECT repeat('x', 300000)")
        return []

    monkeypatch.setattr(problems, "describe_problems", look_at_much)
    held, go_on = threading.Event(), threading.Event()

    def hold(run: Run) -> None:
        held.set()
        go_on.wait()

    monkeypatch.setattr(Run, "_look_at_dispatcher", hold)
    listening(proxy.port)
    try:
        assert held.wait(5)
        passed = proxy.passed
        client.execute("INSERT INTO users SELECT generate_series(1, 10000)")
        wait_until(client, lambda: proxy.passed - passed >= 45_000)
        total = -1
        while total != proxy.passed:  # all of it is in the listener's socket
            total = proxy.passed
            client.execute("SELECT pg_sleep(0.05)")
        proxy.cut()
    finally:
        go_on.set()
    journal.wait_for_count("resync", 1)
    assert journal.ids() == list(range(1, 10_001))


def test_frozen_connection_is_noticed_within_interval_and_timeout(
    client: psycopg.Connection[Any], proxy: Proxy, listening: MakeListener, journal: Journal
) -> None:
    listening(proxy.port)
    proxy.freeze()
    began = time.monotonic()
    journal.wait_for_count("disconnected", 1)
    assert time.monotonic() - began < 0.2 + 0.3 + 0.4
    insert(client, "users", 1)
    proxy.resume(thaw=False)
    journal.wait_for_count("resync", 1)
    insert(client, "users", 2)
    journal.wait_for_count("event", 1)
    assert journal.entries[1:] == ONE_GAP


def test_lost_listen_is_noticed_though_queries_are_answered(
    client: psycopg.Connection[Any], proxy: Proxy, listening: MakeListener, journal: Journal
) -> None:
    listening(proxy.port)
    proxy.inject("UNLISTEN *")
    journal.wait_for_count("resync", 1)
    insert(client, "users", 1)
    journal.wait_for_count("event", 1)
    assert journal.count("disconnected") == 1


def test_answer_that_stops_half_way_is_noticed(
    client: psycopg.Connection[Any], proxy: Proxy, listening: MakeListener, journal: Journal
) -> None:
    # The heartbeat's notification comes, and the end of the query behind it doesn't.
    listening(proxy.port)
    assert proxy.hold_back(READY).wait(5)
    began = time.process_time()
    journal.wait_for_count("disconnected", 1)
    assert time.process_time() - began < 0.3  # nothing was spinning
    proxy.resume(thaw=False)
    journal.wait_for_count("resync", 1)


def test_events_between_heartbeats_do_not_wait_for_one(
    client: psycopg.Connection[Any], proxy: Proxy, listening: MakeListener, journal: Journal
) -> None:
    listening(proxy.port, heartbeat_interval=600)
    for id_ in range(1, 50):
        insert(client, "users", id_)
        journal.wait_for_count("event", id_, 5)
    journal.check(49)
    assert journal.count("disconnected") == 0


def test_slow_network_is_no_loss(
    cluster: Cluster, database: str, proxy: Proxy, listening: MakeListener, journal: Journal
) -> None:
    listener = listening(proxy.port)
    proxy.delay = 0.08
    with Writer(cluster.url(database)) as writer:
        writer.wait_for_more(150)
    listener.catch_up()
    assert journal.ids() == list(range(1, writer.last + 1))
    assert journal.count("disconnected") == 0


def test_refused_connections_are_tried_again_with_backoff(
    client: psycopg.Connection[Any],
    proxy: Proxy,
    listening: MakeListener,
    journal: Journal,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = listening(proxy.port)
    with records_of("sqlalchemy_watch.listener.notify.source") as attempts:
        proxy.refuse()
        for _ in range(4):
            attempts.get(timeout=10)
    assert listener.running
    assert listener.stats().connected_since is None
    insert(client, "users", 1)
    proxy.resume()
    journal.wait_for_count("resync", 1)
    insert(client, "users", 2)
    journal.wait_for_count("event", 1)
    assert journal.entries[1:] == ONE_GAP
    delays = [float(found[1]) for found in re.finditer(r"trying again in ([\d.]+) s", caplog.text)]
    assert delays[3] > delays[0]
    assert "Connection refused" in caplog.text


def test_backoff_is_exponential_with_jitter_and_bounded() -> None:
    rounds = []
    for _ in range(50):
        backoff = Backoff()
        rounds.append([backoff.next() for _ in range(12)])
    for number, delays in enumerate(zip(*rounds, strict=True)):
        full = min(0.1 * 2**number, BACKOFF_MAX)
        assert all(full / 2 <= delay <= full for delay in delays)
        assert len(set(delays)) > 40


@pytest.mark.parametrize("share", [0.0, 0.75, 0.99])
def test_server_that_falls_silent_while_connecting_is_given_up(
    client: psycopg.Connection[Any], proxy: Proxy, listening: MakeListener, journal: Journal, share: float
) -> None:
    listening(proxy.port)
    # A share of the bytes that the server sends until LISTEN is in force and the triggers have been looked at.
    proxy.freeze_after = int(proxy.passed * share) + 1
    proxy.cut()
    accepted = proxy.accepted
    wait_until(client, lambda: proxy.accepted > accepted)
    proxy.resume(thaw=False)
    insert(client, "users", 1)
    journal.wait_for_count("resync", 1, 6)
    ids = itertools.count(2)

    def is_heard() -> bool:
        insert(client, "users", next(ids))
        return journal.count("event") > 0

    wait_until(client, is_heard)
    # LISTEN is in force while the triggers are looked at: to fall silent then makes a gap of its own.
    gaps = [entry for entry in journal.entries[1:] if entry[0] != "event"]
    assert gaps in (ONE_GAP[:-1], 2 * ONE_GAP[:-1])


@pytest.mark.parametrize("at", [1, 700])
def test_start_returns_though_the_server_falls_silent(database: str, User: Any, proxy: Proxy, at: int) -> None:
    proxy.freeze_after = at
    url = f"postgresql+psycopg://postgres@127.0.0.1:{proxy.port}/{database}"
    listener = Listener(create_engine(url, connect_args={"connect_timeout": 2}), User, heartbeat_timeout=0.3)
    began = time.monotonic()
    with pytest.raises(ListenerStartError, match=r"not in force within 0\.5 s"):
        listener.start(timeout=0.5)
    assert time.monotonic() - began < 2
    assert not listener.running
    for thread in threading.enumerate():
        if thread.name.startswith("sqlalchemy-watch"):
            thread.join(5)
            assert not thread.is_alive()
    proxy.resume(thaw=False)
    listener.start()
    listener.stop()


def test_ready_made_connection_to_a_server_that_falls_silent_is_given_up(
    database: str,
    client: psycopg.Connection[Any],
    User: Any,
    proxy: Proxy,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sqlalchemy_watch.listener.server.connect.CONNECT_TIMEOUT", 0.3)
    silent, asked = threading.Event(), threading.Event()

    def create() -> psycopg.Connection[Any]:
        made = psycopg.connect(f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}", connect_timeout=2)
        if silent.is_set():
            proxy.freeze()
            asked.set()
        return made

    engine = create_engine("postgresql+psycopg://", creator=create)
    User.watch.inserted.connect(journal)
    listener = Listener(engine, User, heartbeat_interval=0.2, heartbeat_timeout=0.3)
    journal.attach(listener)
    with listener:
        silent.set()
        proxy.cut()
        assert asked.wait(5)
        silent.clear()
        proxy.resume(thaw=False)
        journal.wait_for_count("resync", 1, 6)
        insert(client, "users", 1)
        listener.catch_up()
    assert journal.entries[-1] == ("event", 1)
    engine.dispose()


def test_stop_does_not_wait_for_a_silent_server(proxy: Proxy, listening: MakeListener) -> None:
    listener = listening(proxy.port, heartbeat_timeout=60)
    proxy.freeze()
    began = time.monotonic()
    listener.stop()
    assert time.monotonic() - began < 1


def test_catch_up_asked_for_while_disconnected_is_answered_afterwards(
    client: psycopg.Connection[Any], proxy: Proxy, listening: MakeListener, journal: Journal
) -> None:
    # More of them than one notification has space for.
    listener = listening(proxy.port)
    proxy.refuse()
    journal.wait_for_count("disconnected", 1)
    threads = [threading.Thread(target=listener.catch_up, args=[20]) for _ in range(400)]
    for thread in threads:
        thread.start()
    proxy.resume()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert journal.count("connected") == 2


@pytest.mark.server
def test_idle_session_timeout_does_not_end_the_listener(
    engine: Engine,
    cluster: Cluster,
    client: psycopg.Connection[Any],
    database: str,
    listening: MakeListener,
    journal: Journal,
) -> None:
    if client.info.server_version >= 140_000:
        client.execute(f"ALTER DATABASE {database} SET idle_session_timeout = '200ms'")
    listener = listening(cluster.port, heartbeat_interval=600)
    client.execute("SELECT pg_sleep(0.5)")
    listener.catch_up()
    assert journal.count("disconnected") == 0


def test_error_of_any_kind_while_reading_leads_to_a_new_connection(
    cluster: Cluster,
    client: psycopg.Connection[Any],
    listening: MakeListener,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = threading.Event()

    def fail_once(run: Run) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("a bug")

    monkeypatch.setattr(Run, "_look_at_dispatcher", fail_once)
    listener = listening(cluster.port)
    journal.wait_for_count("resync", 1)
    insert(client, "users", 1)
    listener.catch_up()
    assert journal.entries[-1] == ("event", 1)


def test_connection_lost_between_listen_and_reading_is_noticed(
    client: psycopg.Connection[Any],
    listener: Listener,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inspect = problems.describe_problems

    def inspect_and_lose(connection: psycopg.Connection[Any], *arguments: Any) -> Any:
        monkeypatch.setattr(problems, "describe_problems", inspect)
        client.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        connection.execute("SELECT 1")

    listener.catch_up()  # it has looked at the triggers
    monkeypatch.setattr(problems, "describe_problems", inspect_and_lose)
    end_listeners(client)
    journal.wait_for_count("resync", 2)  # LISTEN was in force in between
    insert(client, "users", 1)
    journal.wait_for_count("event", 1)
    journal.check(1)


def test_resync_comes_before_events_committed_while_connecting(
    client: psycopg.Connection[Any],
    listener: Listener,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inspect = problems.describe_problems

    def inspect_and_insert(*arguments: Any) -> Any:
        insert(client, "users", 1)  # LISTEN is in force already
        return inspect(*arguments)

    listener.catch_up()  # it has looked at the triggers
    monkeypatch.setattr(problems, "describe_problems", inspect_and_insert)
    end_listeners(client)
    journal.wait_for_count("event", 1)
    assert [entry[0] for entry in journal.entries] == ["connected", "disconnected", "connected", "resync", "event"]
