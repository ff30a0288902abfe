"""The parts of a source: tokens, backoff, waiting for sockets. No server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from sqlalchemy_watch.listener.source import BACKOFF_FACTOR, BACKOFF_FIRST, BACKOFF_MAX, Backoff, Poller, Tokens, Wake


def test_a_token_is_found_by_its_name_until_nobody_waits() -> None:
    tokens, done = Tokens(), threading.Event()
    assert not tokens
    name = tokens.add(done)
    assert tokens
    assert tokens.find(name) is done
    assert tokens.find(name) is done
    assert tokens.find("a stranger's") is None
    tokens.forget(done)
    assert tokens.find(name) is None
    assert not tokens


def test_a_token_is_taken_once() -> None:
    tokens, done = Tokens(), threading.Event()
    name = tokens.add(done)
    assert tokens.names() == [name]
    assert tokens.take(name) is done
    assert tokens.take(name) is None
    assert tokens.names() == []


def test_after_renaming_tokens_on_their_way_count_no_more() -> None:
    tokens, waits, came = Tokens(), threading.Event(), threading.Event()
    old, _ = tokens.add(waits), tokens.add(came)
    came.set()
    (new,) = tokens.rename()
    assert tokens.find(old) is None
    assert tokens.find(new) is waits


def test_waiting_doubles_with_jitter_up_to_a_limit() -> None:
    longest = [min(BACKOFF_FIRST * BACKOFF_FACTOR**n, BACKOFF_MAX) for n in range(20)]
    seen = [[backoff.next() for _ in range(20)] for backoff in (Backoff() for _ in range(50))]
    for delays in seen:
        assert all(limit / 2 <= delay <= limit for delay, limit in zip(delays, longest, strict=True))
    assert len({delays[0] for delays in seen}) > 1


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_only_what_is_readable_is_ready(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    wake = Wake()
    poller = Poller([wake.fileno(), ours.fileno()])
    assert poller.wait(0.0) == []
    theirs.send(b"x")
    assert poller.wait(1.0) == [ours.fileno()]
    wake.set()
    assert set(poller.wait(1.0)) == {wake.fileno(), ours.fileno()}
    wake.drain()
    assert poller.wait(0.0) == [ours.fileno()]
    wake.close()


def test_an_end_is_told_of_though_nothing_is_read(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    poller = Poller([], ending=[ours.fileno()])
    theirs.send(b"x")
    assert poller.wait(0.0) == []
    theirs.close()
    assert poller.wait(1.0) == [ours.fileno()]


def test_waking_twice_is_waking_once_and_never_blocks() -> None:
    wake = Wake()
    poller = Poller([wake.fileno()])
    for _ in range(10_000):  # more than the pipe holds
        wake.set()
    wake.drain()
    assert poller.wait(0.0) == []
    wake.close()
    wake.set()  # nobody is there any more


def test_a_nudge_wakes_only_whoever_wants_it() -> None:
    wake = Wake()
    poller = Poller([wake.fileno()])
    wake.is_wanted = False
    wake.nudge()
    assert poller.wait(0.0) == []
    wake.is_wanted = True
    wake.nudge()
    assert poller.wait(0.0) == [wake.fileno()]
    wake.drain()
    wake.nudge()
    assert poller.wait(0.0) == []
    wake.close()
