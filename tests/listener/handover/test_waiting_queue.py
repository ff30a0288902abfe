"""The queue of durable delivery, which can be held and emptied in the middle of an item: no server, no thread."""

from __future__ import annotations

import pytest

from sqlalchemy_watch.listener.handover.items import (
    Committed,
    Connected,
    Discarded,
    Disconnected,
    Item,
    Notification,
    Resync,
    RetryDue,
)
from sqlalchemy_watch.listener.handover.queue import WaitingQueue


def event(number: int, size: int = 1) -> Notification:
    return Notification("orders", b"x" * size, number)


@pytest.fixture
def queue() -> WaitingQueue:
    """A queue of which one event was taken, and is being handled; two more, and a transaction's end, wait."""
    queue = WaitingQueue(10)
    queue.put([event(1), event(2), event(3), Committed(40)])
    assert queue.get() == event(1)
    return queue


def take_all(queue: WaitingQueue) -> list[Item | None]:
    return [queue.get() for _ in range(len(queue))]


def test_what_was_read_and_is_discarded_is_not_taken_and_what_comes_behind_it_is(queue: WaitingQueue) -> None:
    queue.pause()
    queue.discard(35)
    queue.put([event(100), Committed(110)])
    queue.resume()
    assert queue.get() == Discarded()
    assert take_all(queue) == [event(100), Committed(110)]
    assert queue.acknowledged == 35


def test_what_is_being_handled_when_it_is_discarded_is_lost_and_not_acknowledged(queue: WaitingQueue) -> None:
    assert not queue.is_revoked
    queue.pause()
    assert queue.needs_attention
    assert not queue.is_revoked  # it may be resumed
    queue.discard(0)
    queue.resume()
    assert queue.needs_attention
    assert queue.is_revoked
    assert not queue.acknowledge(20)
    assert queue.acknowledged == 0
    assert queue.get() == Discarded()
    assert not queue.needs_attention
    assert not queue.is_revoked
    assert queue.acknowledge(20)
    assert queue.acknowledged == 20


def test_what_is_being_handled_when_it_is_held_is_resumed_and_acknowledged_afterwards(queue: WaitingQueue) -> None:
    queue.pause()
    assert not queue.acknowledge(20)
    queue.resume()
    assert not queue.needs_attention
    assert queue.acknowledge(20)
    assert take_all(queue) == [event(2), event(3), Committed(40)]


def test_a_resync_is_told_before_it_is_known_that_what_is_being_handled_is_lost(queue: WaitingQueue) -> None:
    queue.pause()
    queue.put_urgent(Disconnected(None))
    queue.discard(0)
    queue.put_urgent(Resync("another server"))
    queue.resume()
    queue.put_urgent(Connected())
    queue.put([event(100)])
    assert [queue.get_urgent() for _ in range(4)] == [
        Disconnected(None), Resync("another server"), Connected(), None,
    ]  # fmt: skip
    assert queue.is_revoked
    assert (queue.get(), queue.get()) == (Discarded(), event(100))


def test_a_server_that_lacks_what_was_acknowledged_sets_it_back(queue: WaitingQueue) -> None:
    assert queue.acknowledge(500)
    assert queue.acknowledge(400)
    assert queue.acknowledged == 500  # otherwise it never goes back
    queue.discard(300)
    assert queue.acknowledged == 300


def test_what_is_discarded_takes_no_space() -> None:
    queue = WaitingQueue(10, max_bytes=100)
    queue.put([event(1, 60), event(2, 60)])
    assert queue.full
    queue.discard(0)
    assert not queue.full
    queue.put([event(3, 99)])
    assert not queue.full
    queue.put([event(4, 1)])
    assert queue.full


def test_a_retry_that_was_discarded_is_asked_for_anew() -> None:
    queue = WaitingQueue(10)
    queue.put_retry_due()
    queue.put_retry_due()
    assert len(queue) == 1
    queue.discard(0)
    queue.put_retry_due()
    assert (queue.get(), queue.get()) == (Discarded(), RetryDue())


def test_a_connection_that_comes_and_goes_while_a_receiver_blocks_fills_no_memory() -> None:
    queue = WaitingQueue(10)
    for i in range(1000):
        queue.pause()
        queue.put_urgent(Disconnected(ConnectionError(str(i))))
        queue.resume()
        queue.put_urgent(Connected())
    told = []
    while (item := queue.get_urgent()) is not None:
        told.append(item)
    assert len(told) < 20
    assert isinstance([item for item in told if isinstance(item, (Connected, Disconnected))][-1], Connected)
