"""Turns at reading: the dispatch thread's while it keeps up, the source's own as soon as it doesn't."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from support import wait_until

from sqlalchemy_watch.listener.heartbeat import Heartbeat
from sqlalchemy_watch.listener.notify.protocol import NotifyProtocol
from sqlalchemy_watch.listener.notify.session import NotifySession
from sqlalchemy_watch.listener.notify.turns import Turns
from sqlalchemy_watch.listener.pipeline.inbox import Inbox, Lot
from sqlalchemy_watch.listener.pipeline.ledger import Ledger
from sqlalchemy_watch.listener.pipeline.parts import CaughtUp, Message, Notification
from sqlalchemy_watch.listener.source import Tokens, Wake
from sqlalchemy_watch.listener.stats import Stats


class Source:
    """A source's thread, and steps that note who read."""

    def __init__(self) -> None:
        self.readers: list[threading.Thread] = []
        self._has_read = threading.Condition()
        #: Answer of a step of the dispatcher.
        self.waits = True
        self.failure: Exception | None = None
        self.raised: BaseException | None = None
        self.woken, self.ready = threading.Event(), threading.Event()
        self.turns = Turns(self.woken.set)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def step(self, deadline: float | None) -> bool:
        with self._has_read:
            self.readers.append(threading.current_thread())
            self._has_read.notify_all()
        self.ready.set()
        if self.failure is not None:
            raise self.failure
        if threading.current_thread() is self.thread or deadline is not None:
            self.woken.wait()
            self.woken.clear()
        return self.waits

    def wait_for_reader(self, thread: threading.Thread) -> None:
        """Wait until this thread is the last one to have read."""
        with self._has_read:
            assert self._has_read.wait_for(lambda: self.readers[-1] is thread, 5)

    def _run(self) -> None:
        try:
            self.turns.run(self.step)
        except Exception as error:
            self.raised = error


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    source.thread.start()
    yield source
    source.turns.stop()
    source.thread.join(5)
    assert not source.thread.is_alive()


def test_dispatcher_that_is_idle_gets_its_turn(source: Source) -> None:
    assert source.ready.wait(5)
    assert source.turns.read(None)
    assert source.readers[-1] is threading.current_thread()


def test_source_reads_once_the_dispatcher_is_busy(source: Source) -> None:
    assert source.ready.wait(5)
    assert source.turns.read(None)
    source.wait_for_reader(source.thread)


def test_source_reads_once_more_comes_than_the_dispatcher_can_read(source: Source) -> None:
    assert source.ready.wait(5)
    source.waits = False
    source.turns.read(None)
    before = source.readers.count(source.thread)
    while source.readers.count(source.thread) == before:
        assert source.turns.read(None)


def test_error_of_a_read_by_the_dispatcher_is_the_sources(source: Source) -> None:
    assert source.ready.wait(5)
    source.failure = OSError("gone")
    while source.turns.read(None):
        pass
    source.thread.join(5)
    assert source.raised is source.failure


def test_stop_ends_a_read_that_waits(source: Source) -> None:
    assert source.ready.wait(5)
    reading = threading.Thread(target=source.turns.read, args=[1.0], daemon=True)
    reading.start()
    source.wait_for_reader(reading)
    source.turns.stop()
    reading.join(5)
    assert not reading.is_alive()
    assert not source.turns.read(None)


def test_notifications_read_before_a_turn_was_given_up_are_looked_at_first() -> None:
    """The dispatcher asks for its turn while the source puts an event into the queue: it must not wait for more."""
    queue: list[str] = []
    reading, asked, waited = threading.Event(), threading.Event(), threading.Event()
    turns = Turns(asked.set, is_idle=lambda: not queue)

    def step(deadline: float | None) -> bool:
        if threading.current_thread() is thread:
            reading.set()
            asked.wait()
            queue.append("event")
        else:
            waited.set()
        return True

    thread = threading.Thread(target=turns.run, args=[step], daemon=True)
    thread.start()
    try:
        assert reading.wait(5)
        assert turns.read(None)
        assert queue
        assert not waited.is_set()
    finally:
        turns.stop()
        thread.join(5)


def test_notifications_that_came_before_the_connection_are_looked_at_first() -> None:
    reading, waited = threading.Event(), threading.Event()
    turns = Turns(lambda: None, is_idle=lambda: False)

    def step(deadline: float | None) -> bool:
        (reading if threading.current_thread() is thread else waited).set()
        return True

    thread = threading.Thread(target=turns.run, args=[step], daemon=True)
    thread.start()
    try:
        assert reading.wait(5)
        assert turns.read(None)
        assert not waited.is_set()
    finally:
        turns.stop()
        thread.join(5)


def test_notifications_behind_the_answer_to_a_heartbeat_are_read_with_it(
    cluster: Cluster, database: str, client: psycopg.Connection[Any]
) -> None:
    inbox, tokens, wake = Inbox(10), Tokens(), Wake()
    protocol = NotifyProtocol({b"a_channel": "a_channel"}, b"own_channel", Heartbeat(30.0, 10.0, time.monotonic()))
    with cluster.connect(database) as connection:
        connection.execute("LISTEN a_channel; LISTEN own_channel")
        session = NotifySession(connection, protocol, tokens, wake, inbox, Ledger(10), Stats(), lambda: None)
        tokens.add(threading.Event())
        session._send_due()
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as peeked:
            select.select([peeked], [], [], 10)
            client.execute("NOTIFY a_channel, 'behind'")
            wait_until(client, lambda: b"behind" in peeked.recv(65536, socket.MSG_PEEK))
        session.step(time.monotonic())
    wake.close()
    found: list[Message] = []
    while not inbox.is_empty:
        lot = inbox.get()
        assert isinstance(lot, Lot)
        found += [message for part in lot.parts for message in part.messages]
    assert [type(message) for message in found] == [CaughtUp, Notification]
