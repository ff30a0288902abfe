"""A server that is restarted, crashes, or is down for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Recorder
from models import declare_user
from postgres import Cluster
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase
from support import records_of

from sqlalchemy_watch import Listener, ListenerStartError, install

from ..clusters import removed_afterwards
from ..journal import Journal, Writer


@pytest.fixture(scope="module")
def restartable() -> Iterator[Cluster]:
    """A server of this module's own."""
    with removed_afterwards(Cluster()) as cluster:
        yield cluster


@pytest.fixture
def engine(restartable: Cluster) -> Iterator[Engine]:
    engine = create_engine(restartable.url(driver="psycopg"))
    yield engine
    engine.dispose()


@pytest.fixture
def User(Base: type[DeclarativeBase], restartable: Cluster, engine: Engine) -> Any:
    User = declare_user(Base)
    with restartable.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS users")
    Base.metadata.create_all(engine)
    return User


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_server_restarted_under_load(
    restartable: Cluster, engine: Engine, User: Any, journal: Journal, mode: str
) -> None:
    User.watch.inserted.connect(journal)
    listener = Listener(engine, User, heartbeat_interval=0.2, heartbeat_timeout=0.5)
    journal.attach(listener)
    with listener:
        with Writer(restartable.url()) as writer:
            writer.wait_for_more()
            restartable.restart(mode)
            journal.wait_for_count("resync", 1)
            writer.wait_for_more()
        listener.catch_up()
    journal.check(writer.last)
    assert [entry[0] for entry in journal.entries if entry[0] != "event"] == [
        "connected", "disconnected", "connected", "resync",
    ]  # fmt: skip


def test_server_down_for_a_while_is_one_gap(
    restartable: Cluster, engine: Engine, User: Any, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    User.watch.inserted.connect(journal)
    listener = Listener(engine, User)
    journal.attach(listener)
    with listener, records_of("sqlalchemy_watch.listener.notify.source") as attempts:
        restartable.stop("fast")
        for _ in range(4):
            attempts.get(timeout=10)
        assert listener.running
        restartable.start()
        with restartable.connect() as connection:
            connection.execute("INSERT INTO users VALUES (1)")
        journal.wait_for_count("resync", 1)
        with restartable.connect() as connection:
            connection.execute("INSERT INTO users VALUES (2)")
        listener.catch_up()
    kinds = [entry[0] for entry in journal.entries]
    assert kinds[:4] == ["connected", "disconnected", "connected", "resync"]
    assert journal.ids()[-1] == 2


def test_start_tries_until_its_timeout_and_names_the_servers_own_message(
    restartable: Cluster, engine: Engine, User: Any
) -> None:
    restartable.stop("fast")
    listener = Listener(engine, User)
    with pytest.raises(ListenerStartError, match=r"(?s)not in force within 0\.3 s: .*refused"):
        listener.start(timeout=0.3)
    assert not listener.running
    starting = threading.Thread(target=listener.start, args=[20])
    starting.start()
    restartable.start()
    starting.join(20)
    assert listener.stats().connected_since is not None
    listener.stop()


def test_triggers_that_are_gone_after_the_restart_are_named(
    restartable: Cluster, engine: Engine, User: Any, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(engine, User)
    journal.attach(listener)
    with listener:
        with restartable.connect() as connection:
            connection.execute(f"DROP TRIGGER {User.watch.inserted.details.trigger_name} ON users")
        restartable.restart()
        journal.wait_for_count("resync", 1)
        listener.catch_up()  # reading goes on after the look at the triggers
    assert "the trigger of users/inserted is missing" in caplog.text
    recorder = Recorder()
    engine.dispose()  # its connections went down with the server
    install(engine, User)
    User.watch.inserted.connect(recorder)
    with listener:
        with restartable.connect() as connection:
            connection.execute("INSERT INTO users VALUES (1)")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,))]
