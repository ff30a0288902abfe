"""The inbox of the dispatch thread: bounds, gaps, and their order. No server, no thread."""

from __future__ import annotations

import time

import pytest

from sqlalchemy_watch.listener.pipeline.inbox import MAX_BYTES, MAX_LOTS, OVERFLOW, Inbox, Lot
from sqlalchemy_watch.listener.pipeline.ledger import Ledger
from sqlalchemy_watch.listener.pipeline.parts import (
    CaughtUp,
    Connected,
    Disconnected,
    Message,
    News,
    Notification,
    Resync,
)


def nothing() -> None:
    """What `catch_up` waits for, where nobody does."""


class Taken:
    """An inbox, and what its thread takes from it."""

    def __init__(self, limit: int = 10, max_bytes: int = MAX_BYTES, kept: int = 10) -> None:
        self.ledger, self.inbox = Ledger(kept), Inbox(limit, max_bytes)

    def put(self, *sizes: int) -> None:
        self.inbox.put_or_drop(self.ledger, [Notification("c", b"x" * size) for size in sizes])

    def tell(self, *marks: News | CaughtUp) -> None:
        for mark in marks:
            self.inbox.put_mark(self.ledger, mark)

    def all(self) -> list[int | News | CaughtUp]:
        """Sizes of notifications, and marks, in order."""
        found: list[Message] = []
        while not self.inbox.is_empty or self.inbox.put_owed(self.ledger):
            work = self.inbox.get()
            if not isinstance(work, Lot):
                continue
            for part in work.parts:
                for message in part.messages:
                    self.inbox.note_taken(message)
                    found.append(message)
        return [len(each.payload) if isinstance(each, Notification) else each for each in found]


def test_notifications_beyond_the_limit_are_dropped_and_owe_a_resync_once_it_is_emptied() -> None:
    taken = Taken(limit=3)
    taken.put(1, 2)
    taken.put(3, 4, 5)
    taken.put(6)
    assert (len(taken.inbox), taken.inbox.dropped) == (3, 3)
    assert taken.all() == [1, 2, 3, Resync(OVERFLOW)]
    taken.put(7)
    assert taken.all() == [7]
    assert taken.inbox.dropped == 3


def test_it_is_bounded_in_bytes_too() -> None:
    taken = Taken(limit=1_000_000)
    taken.put(*[8000] * 20_000)
    waiting = len(taken.inbox)
    assert MAX_BYTES <= waiting * 8000 < MAX_BYTES + 8000
    assert taken.inbox.dropped == 20_000 - waiting
    assert taken.all() == [8000] * waiting + [Resync(OVERFLOW)]


def test_nothing_is_put_while_receivers_keep_as_many_events_as_they_may() -> None:
    taken = Taken(kept=1)
    taken.put(1)
    work = taken.inbox.get()
    assert isinstance(work, Lot)
    taken.ledger.hold(work.parts[0].transaction)
    taken.put(2)
    assert taken.inbox.dropped == 1
    assert taken.all() == []
    taken.ledger.done(work.parts[0].transaction)
    assert taken.all() == [Resync(OVERFLOW)]


def test_who_catches_up_does_so_behind_the_gap() -> None:
    taken = Taken(limit=1)
    taken.put(1, 2)
    taken.tell(CaughtUp(nothing))
    assert taken.all() == [1, Resync(OVERFLOW), CaughtUp(nothing)]


def test_what_is_told_of_the_connection_comes_behind_the_gap() -> None:
    taken = Taken(limit=1)
    taken.put(1, 2)
    taken.tell(Disconnected(None), Connected())
    taken.put(3)
    assert taken.all() == [1, Resync(OVERFLOW), Disconnected(None), Connected()]
    assert taken.inbox.dropped == 2


def test_a_connection_that_comes_and_goes_while_a_receiver_blocks_fills_no_memory() -> None:
    taken = Taken()
    for number in range(1000):
        taken.tell(Disconnected(ConnectionError(str(number))), Connected(), Resync("lost and back"))
    assert taken.inbox._work.qsize() < 40
    told = taken.all()
    assert len(told) < 40
    assert [each for each in told if not isinstance(each, Resync)][-1] == Connected()
    assert told[-1] == Resync("lost and back")


def test_what_is_told_of_the_connection_is_no_event_that_waits() -> None:
    taken = Taken()
    taken.tell(Connected())
    assert taken.ledger.waiting_since is None
    taken.put(1)
    assert taken.ledger.waiting_since is not None


def test_what_waits_is_dropped_at_the_end_and_what_comes_then_is_not_taken() -> None:
    taken = Taken()
    taken.put(1, 2)
    taken.inbox.drop_rest()
    taken.put(3)
    assert (len(taken.inbox), taken.inbox.dropped) == (0, 2)


def test_reading_the_log_ends_when_it_is_full_in_whatever_way() -> None:
    for lot in ((10, 0), (0, 100)):
        taken = Taken(limit=10, max_bytes=100)
        assert not taken.inbox.is_full
        taken.inbox.put(Lot(taken.ledger, [], *lot))
        assert taken.inbox.is_full
    taken = Taken()
    for _ in range(MAX_LOTS):
        assert not taken.inbox.is_full
        taken.inbox.put(Lot(taken.ledger, [], 0, 0))
    assert taken.inbox.is_full


def test_what_was_received_when_a_question_was_asked_is_known_once_it_is_taken() -> None:
    taken = Taken()
    taken.put(5, 5)
    asked = taken.inbox.received
    taken.put(5)
    assert taken.inbox.taken < asked < taken.inbox.received
    taken.all()
    assert taken.inbox.taken == taken.inbox.received


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_waiting_ends_at_the_deadline(seconds: float) -> None:
    begun = time.monotonic()
    assert Inbox(1).get(begun + seconds) is None
    assert time.monotonic() >= begun + seconds
