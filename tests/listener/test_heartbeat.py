"""The heartbeat as tables of cases: no server, no thread, no clock."""

from __future__ import annotations

import pytest

from sqlalchemy_watch.listener.heartbeat import Heartbeat, Silent


def beating(
    *, interval: float = 30.0, timeout: float = 10.0, heard: float = 0.0, asked: float | None = None
) -> Heartbeat:
    return Heartbeat(interval, timeout, heard, asked)


@pytest.mark.parametrize(
    ("heartbeat", "now", "due", "overdue", "deadline"),
    [
        (beating(), 0.0, False, False, 30.0),
        (beating(), 29.9, False, False, 30.0),
        (beating(), 30.0, True, False, 30.0),
        (beating(), 1000.0, True, False, 30.0),
        (beating(heard=7.0), 36.9, False, False, 37.0),
        (beating(heard=7.0), 37.0, True, False, 37.0),
        (beating(asked=30.0), 30.0, False, False, 40.0),
        (beating(asked=30.0), 39.9, False, False, 40.0),
        (beating(asked=30.0), 40.0, False, True, 40.0),
        (beating(asked=5.0), 1000.0, False, True, 15.0),
        (beating(interval=0.1, timeout=60.0, asked=0.1), 30.0, False, False, 60.1),
        (beating(asked=0.0), 10.0, False, True, 10.0),
    ],
)
def test_what_is_due_when(heartbeat: Heartbeat, now: float, due: bool, overdue: bool, deadline: float) -> None:
    assert (heartbeat.is_due(now), heartbeat.is_overdue(now), heartbeat.deadline) == (due, overdue, deadline)


def test_an_answer_begins_a_new_interval() -> None:
    heartbeat = beating()
    heartbeat.ask(30.0)
    heartbeat.hear(35.0)
    assert not heartbeat.is_due(64.9)
    assert heartbeat.is_due(65.0)


def test_asking_again_does_not_extend_the_wait() -> None:
    heartbeat = beating()
    heartbeat.ask(30.0)
    heartbeat.ask(39.0)
    assert heartbeat.is_overdue(40.0)


def test_a_backlog_extends_the_wait_for_an_answer_behind_it() -> None:
    heartbeat = beating()
    heartbeat.ask(30.0)
    heartbeat.postpone(39.0)
    assert not heartbeat.is_overdue(48.9)
    assert heartbeat.is_overdue(49.0)


def test_nothing_is_postponed_that_was_not_asked() -> None:
    heartbeat = beating()
    heartbeat.postpone(29.0)
    assert heartbeat.is_due(30.0)


def test_silence_is_an_error_that_says_how_long_was_waited() -> None:
    heartbeat = beating(timeout=0.5)
    heartbeat.ask(30.0)
    heartbeat.check(30.4)
    with pytest.raises(Silent, match=r"no answer to the heartbeat within 0\.5 s"):
        heartbeat.check(30.5)
