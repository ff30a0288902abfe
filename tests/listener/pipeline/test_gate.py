"""The gate in front of receivers: tenures that are gone on with, and those that are over. No server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sqlalchemy_watch.listener.pipeline.gate import DOUBT_SECONDS, Gate, Revoked
from sqlalchemy_watch.listener.pipeline.inbox import MAX_NEWS, Inbox
from sqlalchemy_watch.listener.pipeline.ledger import Ledger
from sqlalchemy_watch.listener.pipeline.parts import Connected, Disconnected, News, Resync


class Passing:
    """A gate, and a thread that wants to pass."""

    def __init__(self) -> None:
        self.inbox = Inbox(10)
        self.gate = Gate(self.inbox, Ledger(10))
        self.heard: list[News] = []
        self.outcome: bool | type[Revoked] | None = None
        self.gate.on_news = self.heard.append
        self._thread = threading.Thread(target=self._pass, daemon=True)

    def _pass(self) -> None:
        try:
            self.outcome = self.gate.await_turn()
        except Revoked:
            self.outcome = Revoked

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> bool | type[Revoked] | None:
        self._thread.join(5)
        assert not self._thread.is_alive()
        return self.outcome


@pytest.fixture
def passing() -> Iterator[Passing]:
    passing = Passing()
    yield passing
    passing.gate.stop()


def test_everyone_passes_without_a_look_while_nothing_happened(passing: Passing) -> None:
    assert not passing.gate.needs_attention
    assert passing.gate.await_turn()


def test_it_goes_on_where_the_gate_opens_again(passing: Passing) -> None:
    passing.gate.close()
    assert passing.gate.needs_attention
    passing.begin()
    passing.gate.open()
    assert passing.end() is True
    assert not passing.gate.needs_attention


def test_what_is_handled_when_the_tenure_ends_is_not_gone_on_with(passing: Passing) -> None:
    passing.gate.close()
    passing.begin()
    passing.gate.renew(Ledger(10))
    assert passing.end() is Revoked
    passing.gate.open()
    assert passing.gate.needs_attention
    passing.gate.serve(passing.gate.ledger)
    assert not passing.gate.needs_attention
    assert passing.gate.await_turn()


def test_news_are_heard_while_it_is_closed(passing: Passing) -> None:
    passing.gate.close()
    passing.gate.tell(Disconnected(None))
    passing.begin()
    passing.gate.tell(Connected())
    passing.gate.open()
    assert passing.end() is True
    assert passing.heard == [Disconnected(None), Connected()]


def test_a_resync_is_heard_before_it_is_known_that_the_tenure_is_over(passing: Passing) -> None:
    passing.gate.close()
    passing.gate.renew(Ledger(10))
    passing.gate.tell(Resync("another server"))
    passing.begin()
    assert passing.end() is Revoked
    assert passing.heard == [Resync("another server")]


@pytest.mark.parametrize(("is_closed", "outcome"), [(False, False), (True, Revoked)])
def test_nobody_passes_once_it_is_stopped(passing: Passing, is_closed: bool, outcome: bool | type[Revoked]) -> None:
    if is_closed:
        passing.gate.close()
    passing.gate.stop()
    passing.begin()
    assert passing.end() is outcome


def test_whoever_waits_for_something_to_do_is_woken(passing: Passing) -> None:
    for change in (passing.gate.close, lambda: passing.gate.tell(Connected()), passing.gate.stop):
        change()
        assert passing.inbox.get(0.0) is not None


def test_a_connection_that_comes_and_goes_while_a_receiver_blocks_fills_no_memory(passing: Passing) -> None:
    for number in range(1000):
        passing.gate.close()
        passing.gate.tell(Disconnected(ConnectionError(str(number))))
        passing.gate.open()
        passing.gate.tell(Connected())
    assert passing.gate.await_turn()
    assert len(passing.heard) <= MAX_NEWS
    assert passing.heard[-1] == Connected()


def test_nobody_passes_after_the_process_was_suspended_before_the_server_was_asked(passing: Passing) -> None:
    passing.gate.trust()
    passing.gate.look(passing.gate.looked_at + DOUBT_SECONDS)
    assert not passing.gate.is_doubted
    passing.gate.look(passing.gate.looked_at + DOUBT_SECONDS + 0.1)
    assert passing.gate.is_doubted
    passing.begin()
    assert passing.outcome is None
    passing.gate.trust()
    assert passing.end() is True
    assert not passing.gate.needs_attention
