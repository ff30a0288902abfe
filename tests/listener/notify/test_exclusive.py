"""`exclusive=`: of several processes one hears, and another takes over when it is gone."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs
from sqlalchemy import Engine, create_engine
from support import end_listeners, insert, records_of, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, ListenerError
from sqlalchemy_watch.listener.notify.exclusive import TAKEN_OVER, lock_key
from sqlalchemy_watch.listener.notify.source import RECONNECTED

from ..journal import Journal
from ..programs import Program
from ..proxy import Proxy

#: A session that says nothing any more, while its TCP connection is alive, ends there by itself.
needs_session_timeout = needs(14, "idle_session_timeout")

LOGGER = "sqlalchemy_watch.listener.notify.exclusive"

Make = Callable[..., tuple[Listener, Journal]]


@pytest.fixture
def make(engine: Engine, User: Any) -> Iterator[Make]:
    """Makes and starts listeners that are exclusive, each with a journal of what it sends itself."""
    made: list[Listener] = []

    def make(name: str = "mailer", on: Engine = engine, **options: Any) -> tuple[Listener, Journal]:
        options = {"heartbeat_interval": 0.3, "heartbeat_timeout": 0.3, **options}
        listener = Listener(on, User, exclusive=name, **options)
        made.append(listener)
        journal = Journal().attach(listener)
        listener.start()
        return listener, journal

    yield make
    for listener in made:
        listener.stop()


def test_one_hears_and_the_other_stands_by(make: Make, client: psycopg.Connection[Any], User: Any) -> None:
    heard: list[Any] = []

    @User.watch.inserted.connect
    def note(sender: Any, event: Any) -> None:
        heard.append((event.listener, event.identity[0]))

    first, _ = make()
    with records_of(LOGGER) as records:
        second, journal = make()
    insert(client, "users", 1)
    first.catch_up()
    assert heard == [(first, 1)]
    assert (first.stats().active, second.stats().active) == (True, False)
    assert first.healthy()
    assert second.healthy()
    assert second.running
    assert journal.entries == []
    (pid,) = client.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch' AND query LIKE '%notify%'"
    ).fetchone() or (0,)
    with pytest.raises(ListenerError, match=rf"stands by.*exclusive='mailer' \(pid {pid}, user postgres, sqlalchemy-w"):
        second.catch_up()
    assert records.qsize() == 0  # at INFO there is a line

    first.stop()
    journal.wait_for_count("resync", 1)
    assert journal.entries == [("connected",), ("resync", TAKEN_OVER)]
    insert(client, "users", 2)
    second.catch_up()
    assert heard == [(first, 1), (second, 2)]
    assert second.stats().active is True


def test_a_first_start_that_finds_the_lock_free_has_no_resync(make: Make, client: psycopg.Connection[Any]) -> None:
    listener, journal = make()
    listener.catch_up()
    assert journal.entries == [("connected",)]


def test_other_names_and_other_databases_are_heard_side_by_side(
    make: Make, cluster: Cluster, client: psycopg.Connection[Any]
) -> None:
    listeners = [make("mailer")[0], make("cache")[0], make("Mailer")[0]]
    other = create_engine(cluster.url("postgres", "psycopg"))
    listeners.append(make("mailer", on=other)[0])
    assert [listener.stats().active for listener in listeners] == [True] * 4
    other.dispose()


def test_no_transaction_is_held_open_by_standing_by(make: Make, client: psycopg.Connection[Any]) -> None:
    make()
    make()
    for _ in range(10):
        wait_until(
            client, "SELECT count(*) = 2 FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch' "
            "AND state = 'idle' AND backend_xmin IS NULL"
        )  # fmt: skip
    assert client.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,)


def test_lost_connection_of_the_one_that_hears_makes_another_one_hear(
    make: Make, cluster: Cluster, client: psycopg.Connection[Any], database: str
) -> None:
    first, told = make()
    second, others = make()
    end_listeners(client)  # the one that stands by reconnects as well
    told.wait_for_count("disconnected", 1)
    wait_until(client, lambda: first.stats().active or second.stats().active)
    wait_until(client, lambda: first.healthy() and second.healthy())
    assert {first.stats().active, second.stats().active} == {True, False}
    heard, journal = (first, told) if first.stats().active else (second, others)
    journal.wait_for_count("resync", 1)
    insert(client, "users", 1)
    heard.catch_up()
    assert journal.entries[-1][1] in (RECONNECTED, TAKEN_OVER)


@needs_session_timeout
def test_network_cut_makes_another_one_hear(
    make: Make, engine_through_proxy: Engine, proxy: Proxy, client: psycopg.Connection[Any]
) -> None:
    first, told = make(on=engine_through_proxy)
    second, journal = make()
    proxy.freeze()
    journal.wait_for_count("resync", 1)
    told.wait_for_count("disconnected", 1)
    assert not first.healthy()
    proxy.resume(thaw=False)
    wait_until(client, first.healthy)
    assert (first.stats().active, second.stats().active) == (False, True)
    assert told.entries == [("connected",), ("disconnected",)]
    second.stop()
    told.wait_for_count("resync", 1)
    assert told.entries[2:] == [("connected",), ("resync", TAKEN_OVER)]


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=needs_session_timeout)])
def test_process_that_is_killed_or_frozen_makes_another_one_hear(
    make: Make, cluster: Cluster, database: str, client: psycopg.Connection[Any], how: signal.Signals
) -> None:
    holder = Program(
        cluster.url(database, "psycopg"),
        """
        listener = Listener(engine, Base, exclusive="mailer", heartbeat_interval=0.3, heartbeat_timeout=0.3)
        listener.start()
        print(listener.stats().active, flush=True)
        while listener.stats().active:
            time.sleep(0.01)
        while not listener.healthy():
            time.sleep(0.01)
        print(listener.stats().active, flush=True)
        """,
    )
    try:
        assert holder.line() == "True"
        listener, journal = make()
        assert listener.stats().active is False
        os.kill(holder.process.pid, how)
        journal.wait_for_count("resync", 1)
        insert(client, "users", 1)
        listener.catch_up()
        if how == signal.SIGSTOP:  # once it goes on, it stands by
            os.kill(holder.process.pid, signal.SIGCONT)
            assert holder.line() == "False"
    finally:
        holder.process.kill()
        holder.finish()


def test_lock_of_another_role_is_a_warning_and_not_healthy(
    make: Make, cluster: Cluster, database: str, client: psycopg.Connection[Any]
) -> None:
    client.execute(f"CREATE ROLE stranger_{database} LOGIN")
    key = lock_key("mailer")
    with contextlib.closing(
        psycopg.connect(cluster.url(database), user=f"stranger_{database}", application_name="guess", autocommit=True)
    ) as stranger:
        stranger.execute("SELECT pg_advisory_lock(%s)", [key])
        with records_of(LOGGER) as records:
            listener, journal = make()
            record = records.get(timeout=5)
        assert record.levelname == "WARNING"
        assert f"user stranger_{database}, guess" in record.getMessage()
        assert not listener.healthy()
        assert listener.stats().active is False
    journal.wait_for_count("resync", 1)
    assert listener.healthy()
    client.execute(f"DROP ROLE stranger_{database}")


def test_stop_does_not_wait_for_the_lock(make: Make) -> None:
    make()
    second, _ = make()
    second.stop(timeout=2)
    assert not second.running
    assert not second.healthy()


@needs_session_timeout
def test_catch_up_under_way_ends_when_another_process_is_heard(
    make: Make, engine_through_proxy: Engine, proxy: Proxy, client: psycopg.Connection[Any]
) -> None:
    first, told = make(on=engine_through_proxy)
    _, journal = make()
    proxy.freeze()
    journal.wait_for_count("resync", 1)
    told.wait_for_count("disconnected", 1)
    proxy.resume(thaw=False)
    with pytest.raises(ListenerError, match="stands by"):
        first.catch_up()


@pytest.mark.parametrize("name", ["", "  ", 7, b"mailer", "a\nb", "\x1b[2J", "x" * 201, True])
def test_name_that_is_none_is_refused(engine: Engine, User: Any, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="exclusive=.*1 to 200 printable characters"):
        Listener(engine, User, exclusive=name)


def test_exclusive_and_durable_do_not_go_together(engine: Engine, User: Any) -> None:
    with pytest.raises(ConfigurationError, match="exclusive='mailer' and durable='group'.*remove exclusive"):
        Listener(engine, User, exclusive="mailer", durable="group")


def test_the_key_of_a_name_never_changes() -> None:
    assert lock_key("mailer") == 1071316440291282482 != lock_key("Mailer")
    assert -(2**63) <= lock_key("größe") < 2**63
