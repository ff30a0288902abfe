"""Receivers that fail, block, are slow, connect others, stop the listener, or write: it goes on."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine
from typing import Any, cast

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster
from sqlalchemy import Engine, text
from support import end_listeners, insert, records_of

from sqlalchemy_watch import Listener
from sqlalchemy_watch.listener.dispatch.dispatcher import UNEXPECTED

from ..conftest import MakeListener
from ..insides import dispatcher_of
from ..journal import Journal


class Stop(BaseException):
    """An error that is not even an Exception."""


@pytest.mark.parametrize("error", [ValueError("no"), Stop(), SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_receiver_error_stops_neither_listener_nor_others(
    client: psycopg.Connection[Any],
    User: Any,
    listener: Listener,
    journal: Journal,
    error: BaseException,
) -> None:
    def fail(sender: Any, event: Any) -> None:
        raise error

    failed: list[tuple[Any, Any, BaseException]] = []

    def note(listener: Any, receiver: Any, event: Any, error: BaseException) -> None:
        failed.append((receiver, event.identity, error))

    User.watch.inserted.disconnect(journal)
    User.watch.inserted.connect(fail)
    User.watch.inserted.connect(journal)
    listener.receiver_failed.connect(note)
    insert(client, "users", 1, 2)
    listener.catch_up()
    assert journal.ids() == [1, 2]
    assert failed == [(fail, (1,), error), (fail, (2,), error)]
    assert listener.stats().failed_receivers == 2


def test_lifecycle_receiver_error_is_kept_from_the_listener(
    client: psycopg.Connection[Any], User: Any, listener: Listener, journal: Journal
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise Stop

    User.watch.inserted.connect(fail)
    for signal in (listener.connected, listener.disconnected, listener.resync, listener.receiver_failed):
        signal.connect(fail)
    insert(client, "users", 1)
    listener.catch_up()
    end_listeners(client)
    journal.wait_for_count("resync", 1)
    insert(client, "users", 2)
    listener.catch_up()
    assert journal.ids() == [1, 2]


def test_failure_inside_the_dispatcher_is_a_resync_even_if_logging_fails_too(
    client: psycopg.Connection[Any],
    listener: Listener,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the disk is full")

    log = logging.getLogger("sqlalchemy_watch.listener")
    log.addHandler(handler := Broken())
    try:
        with monkeypatch.context() as patched:
            patched.setattr(dispatcher_of(listener), "_handle_notification", None)
            insert(client, "users", 1)
            journal.wait_for_count("resync", 1)
    finally:
        log.removeHandler(handler)
    insert(client, "users", 2)
    listener.catch_up()
    assert journal.entries[1:] == [("resync", UNEXPECTED), ("event", 2)]


def test_failure_while_the_dispatch_thread_waits_does_not_silence_the_listener(
    client: psycopg.Connection[Any],
    listener: Listener,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dispatcher = dispatcher_of(listener)
    assert dispatcher is not None
    with monkeypatch.context() as patched:
        patched.setattr(dispatcher, "_read_source", None)
        insert(client, "users", 1)
        journal.wait_for_count("resync", 1)
    insert(client, "users", 2)
    listener.catch_up()
    assert ("resync", UNEXPECTED) in journal.entries
    assert journal.ids() == [1, 2]


def test_receiver_that_blocks_is_told_of_and_nothing_is_lost(
    client: psycopg.Connection[Any],
    User: Any,
    listener: Listener,
    journal: Journal,
) -> None:
    release = threading.Event()

    def wait_for_the_mainframe(sender: Any, event: Any) -> None:
        release.wait()

    User.watch.inserted.connect(wait_for_the_mainframe)
    try:
        with records_of("sqlalchemy_watch.listener.run") as records:
            insert(client, "users", 1, 2, 3)
            message = records.get(timeout=5).getMessage()
        assert "no event was dispatched for" in message
        assert "2 notifications are waiting: the dispatch thread is in wait_for_the_mainframe" in message
        assert journal.ids() == [1]
        assert listener.running
    finally:
        release.set()
    listener.catch_up()
    assert journal.ids() == [1, 2, 3]
    assert journal.count("disconnected") == 0


def test_stop_leaves_a_receiver_that_blocks_for_ever(
    cluster: Cluster, engine: Engine, client: psycopg.Connection[Any], User: Any, caplog: pytest.LogCaptureFixture
) -> None:
    release, called = threading.Event(), threading.Event()

    def wait_for_ever(sender: Any, event: Any) -> None:
        called.set()
        release.wait()

    recorder = Recorder()
    User.watch.inserted.connect(wait_for_ever)
    User.watch.inserted.connect(recorder)
    listener = Listener(engine, User)
    listener.start()
    insert(client, "users", 1, 2)
    assert called.wait(5)
    thread = next(t for t in threading.enumerate() if t.name == "sqlalchemy-watch-dispatch")
    began = time.monotonic()
    listener.stop(timeout=0.3)
    assert time.monotonic() - began < 2
    assert "did not end in time; it is in wait_for_ever" in caplog.text
    assert [t.name for t in threading.enumerate() if t.name.startswith("sqlalchemy-watch")] == [thread.name]
    # The old thread delivers nothing of another run.
    User.watch.inserted.disconnect(wait_for_ever)
    with listener:
        insert(client, "users", 3)
        listener.catch_up()
    release.set()
    thread.join(5)
    assert recorder.heard() == [("inserted", (3,))]


def test_slow_receiver_hears_everything(
    client: psycopg.Connection[Any], User: Any, listener: Listener, journal: Journal
) -> None:
    def be_slow(sender: Any, event: Any) -> None:
        time.sleep(0.01)

    User.watch.inserted.connect(be_slow)
    insert(client, "users", *range(1, 101))
    listener.catch_up()
    assert journal.ids() == list(range(1, 101))
    assert journal.count("disconnected") == 0


def test_receiver_that_disconnects_itself_is_called_once(
    client: psycopg.Connection[Any], User: Any, listener: Listener, journal: Journal
) -> None:
    calls: list[Any] = []

    def call_once(sender: Any, event: Any) -> None:
        calls.append(event.identity)
        User.watch.inserted.disconnect(call_once)

    User.watch.inserted.connect(call_once)
    insert(client, "users", 1, 2)
    listener.catch_up()
    assert calls == [(1,)]
    assert journal.ids() == [1, 2]


def test_receiver_may_connect_another(
    client: psycopg.Connection[Any], User: Any, listener: Listener, journal: Journal
) -> None:
    late = Recorder()

    def connect_late(sender: Any, event: Any) -> None:
        User.watch.inserted.filter_by
        User.watch.inserted.connect(late)

    User.watch.inserted.connect(connect_late)
    client.execute("INSERT INTO users SELECT generate_series(1, 3)")
    listener.catch_up()
    assert journal.ids() == [1, 2, 3]
    assert late.heard()[-2:] == [("inserted", (2,)), ("inserted", (3,))]


def test_receivers_are_connected_and_disconnected_by_other_threads_meanwhile(
    cluster: Cluster, client: psycopg.Connection[Any], User: Any, listening: MakeListener, journal: Journal
) -> None:
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            recorder = Recorder()
            User.watch.inserted.connect(recorder)
            User.watch.inserted.disconnect(recorder)
            User.watch.inserted.connect(Recorder())  # and one that is garbage at once

    threads = [threading.Thread(target=change) for _ in range(3)]
    listener = listening(cluster.port, heartbeat_timeout=10)
    for thread in threads:
        thread.start()
    try:
        insert(client, "users", *range(1, 101))
        listener.catch_up()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert journal.ids() == list(range(1, 101))


def test_receiver_may_stop_the_listener_and_none_is_called_after_it(
    engine: Engine, client: psycopg.Connection[Any], User: Any
) -> None:
    listener = Listener(engine, User)
    stopped = threading.Event()
    after = Recorder()

    def stop_it(sender: Any, event: Any) -> None:
        listener.stop()
        stopped.set()

    User.watch.inserted.connect(stop_it)
    User.watch.inserted.connect(after)
    listener.start()
    thread = next(t for t in threading.enumerate() if t.name == "sqlalchemy-watch-dispatch")
    client.execute("INSERT INTO users SELECT generate_series(1, 100)")
    assert stopped.wait(5)
    thread.join(5)
    assert not listener.running
    assert after.events == []
    assert not thread.is_alive()
    User.watch.inserted.disconnect(stop_it)
    with listener:
        insert(client, "users", 101)
        listener.catch_up()
    assert after.heard() == [("inserted", (101,))]


def test_receiver_may_restart_the_listener(engine: Engine, client: psycopg.Connection[Any], User: Any) -> None:
    listener = Listener(engine, User)
    restarted = threading.Event()

    def restart(sender: Any, event: Any) -> None:
        if event.identity == (1,):
            listener.stop()
            listener.start()
            restarted.set()

    recorder = Recorder()
    User.watch.inserted.connect(restart)
    User.watch.inserted.connect(recorder)
    with listener:
        insert(client, "users", 1)
        assert restarted.wait(5)
        insert(client, "users", 2)
        listener.catch_up()
    assert recorder.heard() == [("inserted", (2,))]


def test_receiver_may_write_to_the_watched_table(
    engine: Engine,
    client: psycopg.Connection[Any],
    User: Any,
    listener: Listener,
    journal: Journal,
) -> None:
    def insert_next(sender: Any, event: Any) -> None:
        if event.identity[0] < 50:
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO users VALUES (:id)"), {"id": event.identity[0] + 1})

    User.watch.inserted.connect(insert_next)
    insert(client, "users", 1)
    journal.wait_for_count("event", 50)
    assert journal.ids() == list(range(1, 51))


def test_coroutine_receiver_whose_loop_ends_does_not_hold_up_the_listener(
    client: psycopg.Connection[Any], User: Any, listener: Listener, journal: Journal
) -> None:
    began = threading.Event()
    loop = asyncio.new_event_loop()

    async def wait_for_ever(sender: Any, event: Any) -> None:
        began.set()
        await asyncio.sleep(600)

    async def connect() -> None:
        User.watch.inserted.connect(wait_for_ever)

    loop.run_until_complete(connect())
    running = threading.Thread(target=loop.run_forever)
    running.start()
    insert(client, "users", 1, 2)
    assert began.wait(5)
    loop.call_soon_threadsafe(loop.stop)
    running.join()
    for task in asyncio.all_tasks(loop):
        cast("Coroutine[Any, Any, None]", task.get_coro()).close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    listener.catch_up()
    assert journal.ids() == [1, 2]
    assert listener.stats().failed_receivers == 2
