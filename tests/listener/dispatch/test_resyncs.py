"""Payloads that ask to resync, as the dispatcher sees them: no server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from models import declare_base, declare_user
from sqlalchemy import create_engine
from support import MADE_UP

from sqlalchemy_watch import wire
from sqlalchemy_watch.listener.decoding.routes import Router
from sqlalchemy_watch.listener.decoding.values import ValueDecoders
from sqlalchemy_watch.listener.dispatch import resyncs as module
from sqlalchemy_watch.listener.dispatch.dispatcher import UNREADABLE, Dispatcher
from sqlalchemy_watch.listener.dispatch.failures import NotTriedAgain, Reports
from sqlalchemy_watch.listener.pipeline.gate import Gate
from sqlalchemy_watch.listener.pipeline.inbox import Inbox, Lot
from sqlalchemy_watch.listener.pipeline.ledger import Ledger
from sqlalchemy_watch.listener.pipeline.parts import News, Notification, Part, Resync, Transaction
from sqlalchemy_watch.listener.stats import Stats
from sqlalchemy_watch.listener.waiting import Waiting
from sqlalchemy_watch.signals.transactions import Chunks

Base = declare_base()
declare_user(Base)
ROUTER = Router(Base.metadata.tables.values(), ValueDecoders(create_engine("postgresql+psycopg://")))
(ROUTE,) = ROUTER.routes


class Dispatching:
    """A dispatcher at work, and what it told."""

    def __init__(self) -> None:
        self.inbox, self.ledger, stats = Inbox(100), Ledger(100), Stats()
        self.told: SimpleQueue[News] = SimpleQueue()
        policy = NotTriedAgain(Reports(stats, self._note_failure))
        gate = Gate(self.inbox, self.ledger)
        self.dispatcher = Dispatcher(self.inbox, gate, ROUTER, stats, self.told.put, policy, Waiting(), Chunks())

    def __enter__(self) -> Dispatching:
        self.dispatcher.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.dispatcher.stop()
        self.dispatcher.thread.join(10)

    def _note_failure(self, receiver: Any, event: Any, error: BaseException, fate: str) -> None:
        raise AssertionError(error)


@pytest.fixture
def dispatching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatching]:
    """One that puts resyncs off by less than a server's would."""
    monkeypatch.setattr(module, "RESYNC_SECONDS", 0.05)
    with Dispatching() as dispatching:
        yield dispatching


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_resync_that_stop_has_cut_short_is_not_acknowledged(is_heard: bool) -> None:
    gate = Gate(Inbox(10), Ledger(10))
    transaction = Transaction(5)
    gate.ledger.begin([Part(transaction, [], True)], 1.0)
    resyncs = module.Resyncs(gate)
    resyncs.ask("a gap", transaction)
    gate.ledger.handled(transaction)
    gate.ledger.settle()
    assert not gate.ledger.is_idle
    assert resyncs.due() == ["a gap"]
    resyncs.sent("a gap", is_heard=is_heard)
    assert gate.ledger.is_idle is is_heard


def test_the_reader_is_told_of_space_with_each_part_of_a_transaction(dispatching: Dispatching) -> None:
    has_space = threading.Event()
    dispatching.ledger.on_progress = has_space.set
    parts = [Part(Transaction(5), [Notification("another", b"{}")], False)]
    dispatching.ledger.begin(parts, 1.0)
    dispatching.inbox.put(Lot(dispatching.ledger, parts, 1, 2))
    assert has_space.wait(10)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"v": 99}, UNREADABLE),
        ({"resync": wire.TOO_LARGE}, wire.TOO_LARGE),
        ({"resync": "anything"}, "the database says that rows are missing"),
        ({"rows": [["no number"]]}, "a row could not be decoded"),
    ],
    ids=str,
)
def test_the_last_payload_that_asks_to_resync_is_followed_by_a_resync(
    dispatching: Dispatching, changes: dict[str, Any], reason: str
) -> None:
    fields = {**wire.head_fields(ROUTE.watch), **MADE_UP, "rows": []}
    asks = Notification(ROUTE.watch.channel, json.dumps({**fields, **changes}).encode())
    dispatching.inbox.put_or_drop(dispatching.ledger, [asks, asks])
    told = [dispatching.told.get(timeout=10) for _ in range(2)]  # the second by itself, with nothing behind it
    assert told == [Resync(reason)] * 2
