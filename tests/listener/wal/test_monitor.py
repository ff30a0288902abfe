"""The thread that looks at the slot, where the server can't be reached: no server."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sqlalchemy_watch.listener.options import Options, RetryPolicy
from sqlalchemy_watch.listener.stats import Stats
from sqlalchemy_watch.listener.wal.monitor import SOON, SlotMonitor


class Unreachable:
    """Refuses every connection, and counts them."""

    def __init__(self) -> None:
        self.attempts = 0

    def __call__(self, *, replication: bool = False, stopping: Any = None) -> psycopg.Connection[Any]:
        self.attempts += 1
        raise psycopg.OperationalError("connection refused")


@pytest.fixture
def server() -> Unreachable:
    return Unreachable()


@pytest.fixture
def monitor(server: Unreachable) -> Iterator[SlotMonitor]:
    options = Options(10, 30.0, 10.0, "a_group", RetryPolicy())
    monitor = SlotMonitor(server, options, Stats(), lambda: None, lambda connection: None)
    monitor.thread.start()
    yield monitor
    monitor.stop()
    monitor.thread.join(5.0)
    assert not monitor.thread.is_alive()


def test_a_look_that_is_waited_for_does_not_have_it_connect_without_a_pause(
    monitor: SlotMonitor, server: Unreachable
) -> None:
    monitor.look_at(1, lambda: None)
    time.sleep(2.5 * SOON)
    assert 2 <= server.attempts <= 5


def test_nobody_is_connected_for_who_does_not_wait_any_more(monitor: SlotMonitor, server: Unreachable) -> None:
    look = monitor.look_at(1, lambda: None)
    time.sleep(SOON / 2)
    monitor.forget(look)
    time.sleep(SOON)
    attempts = server.attempts
    time.sleep(2.5 * SOON)
    assert server.attempts == attempts


def test_it_ends_at_once_while_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    options = Options(10, 30.0, 10.0, "a_group", RetryPolicy())
    monitor = SlotMonitor(
        lambda **how: io.BytesIO(),  # type: ignore[arg-type]
        options, Stats(), looked.set, lambda connection: None,
    )  # fmt: skip
    monkeypatch.setattr(monitor, "_look", lambda connection: True)
    monitor.thread.start()
    looked.wait()
    monitor.stop()
    monitor.thread.join(5.0)
    assert not monitor.thread.is_alive()


def test_it_ends_though_it_is_stopped_while_it_turns_to_look(server: Unreachable) -> None:
    """The moment between a look and the next one, in which a wake-up would be lost."""
    options = Options(10, 30.0, 10.0, "a_group", RetryPolicy())
    monitor = SlotMonitor(server, options, Stats(), lambda: None, lambda connection: None)

    class StoppedNow(threading.Event):
        def clear(self) -> None:
            monitor.stop()
            super().clear()

    monitor._woken = StoppedNow()
    monitor.thread.start()
    monitor.thread.join(2.0)
    assert not monitor.thread.is_alive()
