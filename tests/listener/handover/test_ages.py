"""The age of the oldest of what waits, without a time for each item: pure."""

from __future__ import annotations

import random

import pytest

from sqlalchemy_watch.listener.handover.ages import MOST_MARKS, STEP, Ages


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
