"""The age of the oldest of what waits, without a time for each item: pure."""

from __future__ import annotations

import random

import pytest

from sqlalchemy_watch.listener.handover.ages import MOST_MARKS, STEP, Ages
from sqlalchemy_watch.listener.handover.items import Connected, Notification
from sqlalchemy_watch.listener.handover.queue import EventQueue


def test_what_came_in_one_burst_has_one_age_and_what_came_later_another() -> None:
    ages = Ages()
    assert ages.since(0) is None
    ages.note(0, 0, 10.0)
    ages.note(500, 0, 20.0)
    assert [ages.since(place) for place in (0, 499, 500, 900)] == [10.0, 10.0, 20.0, 20.0]


@pytest.mark.parametrize("seed", range(5))
def test_an_age_is_never_too_low_and_hardly_too_high(seed: int) -> None:
    rng, ages, came, now, taken = random.Random(seed), Ages(), [], 0.0, 0
    for place in range(400):
        now += rng.expovariate(1 / STEP)
        ages.note(place, taken, now)
        came.append(now)
        taken = min(place, taken + rng.randrange(3))
        since = ages.since(taken)
        assert since is not None
        assert came[taken] - STEP < since <= came[taken]


def test_a_backlog_however_long_needs_few_marks() -> None:
    ages = Ages()
    for place in range(50_000):
        ages.note(place, 0, float(place))
        assert len(ages._marks) <= MOST_MARKS
    for place in (0, 1_000, 25_000, 49_999):
        since = ages.since(place)
        assert since is not None
        assert place - 50_000 * 4 / MOST_MARKS <= since <= place


def test_a_queue_knows_since_when_its_oldest_notification_waits() -> None:
    queue = EventQueue(10)
    assert queue.waiting_since(is_busy=False) is None
    queue.put_control(Connected())
    assert queue.waiting_since(is_busy=False) is None
    queue.put([Notification("c", b"first"), Notification("c", b"second")])
    since = queue.waiting_since(is_busy=False)
    assert since is not None
    queue.get()  # what tells of the connection is no event
    assert queue.waiting_since(is_busy=True) == since
    queue.get()
    assert queue.waiting_since(is_busy=True) == queue.waiting_since(is_busy=False) == since
    queue.get()
    assert queue.waiting_since(is_busy=True) == since
    assert queue.waiting_since(is_busy=False) is None
    queue.put_control(Connected())
    queue.get()
    assert queue.waiting_since(is_busy=True) is None
