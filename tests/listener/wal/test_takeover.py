"""The fate of the events read before, once the slot is there again: tables of cases, without a server."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from sqlalchemy_watch.listener.wal.takeover import Before, Decision, Log, parse_history, take_up

FIRST = Log("system", 1, 900, {})


def later(written: int = 950) -> Log:
    """The same server, later."""
    return replace(FIRST, written=written)


def promoted(left_at: int, written: int = 950) -> Log:
    """A standby that was promoted when it had replayed the log up to there."""
    return Log("system", 2, written, {1: left_at})


#: Acknowledged up to 500, taken up to the commit at 550, and nobody else has been active.
ALONE = Before(FIRST, acknowledged=500, newest=550, moved_to=500, others_since=False)
RIVALLED = replace(ALONE, others_since=True)
#: A process that stood by from the beginning.
STOOD_BY = Before(FIRST)
NEW_SLOT = replace(ALONE, moved_to=600, slot_is_new=True)

GO_ON, START_OVER = True, False

CASES = {
    # On the same server.
    "a first start begins where the slot is": (Before(), FIRST, 300, Decision(START_OVER, 300, 300, False)),
    "a first start on a slot that nobody moved": (Before(moved_to=300), FIRST, 300, Decision(GO_ON, 300, 300, False)),
    "the slot is where it was left": (ALONE, later(), 500, Decision(GO_ON, 500, 500, False)),
    "the server has not noted the last acknowledgement": (ALONE, later(), 480, Decision(GO_ON, 500, 500, False)),
    "the server went back behind a crash, others meanwhile": (RIVALLED, later(), 480, Decision(GO_ON, 500, 500, False)),
    "another consumer has moved the slot": (RIVALLED, later(), 700, Decision(START_OVER, 700, 700, False)),
    "the slot moved though no other was seen": (ALONE, later(), 501, Decision(START_OVER, 501, 501, False)),
    "this process moved it over unwatched writes": (
        replace(ALONE, moved_to=800), later(), 800, Decision(GO_ON, 800, 800, False),
    ),
    "another consumer was active, and moved nothing": (RIVALLED, later(), 500, Decision(GO_ON, 500, 500, False)),
    "exactly all that was dispatched is in the log": (ALONE, later(500), 500, Decision(GO_ON, 500, 500, False)),
    # Restored to an earlier time.
    "restored, and lacks the newest acknowledged": (ALONE, later(499), 400, Decision(START_OVER, 400, 400, True)),
    "restored to before the slot was moved": (ALONE, later(400), 300, Decision(START_OVER, 300, 300, True)),
    "restored with a slot made anew": (NEW_SLOT, later(400), 390, Decision(START_OVER, 390, 600, False)),
    # Another server.
    "promoted with all that was taken": (ALONE, promoted(800), 450, Decision(GO_ON, 500, 500, False)),
    "promoted, others have consumed there": (RIVALLED, promoted(800), 850, Decision(START_OVER, 850, 850, False)),
    "promoted, another was active before": (RIVALLED, promoted(800), 450, Decision(GO_ON, 500, 500, True)),
    "promoted, and has gone on from there": (RIVALLED, promoted(400, 950), 600, Decision(START_OVER, 600, 600, True)),
    "promoted, and lacks what was acknowledged": (ALONE, promoted(480), 450, Decision(START_OVER, 480, 480, True)),
    "promoted, and lacks what was taken": (ALONE, promoted(520), 450, Decision(START_OVER, 500, 500, True)),
    "promoted right at the newest commit": (ALONE, promoted(550), 450, Decision(START_OVER, 500, 500, True)),
    "promoted right behind the newest commit": (ALONE, promoted(551), 450, Decision(GO_ON, 500, 500, False)),
    "promoted right at what was acknowledged, nothing taken": (
        replace(ALONE, newest=0), promoted(500), 450, Decision(GO_ON, 500, 500, False),
    ),
    "promoted with a slot made anew": (NEW_SLOT, promoted(480), 600, Decision(START_OVER, 600, 600, False)),
    "promoted, slot made anew, nothing lacking": (NEW_SLOT, promoted(800), 600, Decision(GO_ON, 600, 600, False)),
    "another system altogether": (ALONE, Log("other", 1, 100, {}), 50, Decision(START_OVER, 50, 50, True)),
    "a timeline that is not its ancestor": (
        ALONE, Log("system", 3, 950, {2: 800}), 450, Decision(START_OVER, 450, 450, True),
    ),
    "two promotions further": (ALONE, Log("system", 3, 990, {1: 800, 2: 900}), 450, Decision(GO_ON, 500, 500, False)),
    # A process that stood by.
    "stood by, and the other one went on": (STOOD_BY, later(), 700, Decision(START_OVER, 700, 700, False)),
    "stood by, first after a failover": (STOOD_BY, promoted(800), 700, Decision(START_OVER, 700, 700, True)),
    "stood by, the other went on after a failover": (
        STOOD_BY, promoted(800), 801, Decision(START_OVER, 801, 801, False),
    ),
    "stood by, the slot stands where the timeline begins": (
        STOOD_BY, promoted(800), 800, Decision(START_OVER, 800, 800, True),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "log", "slot_end", "decision"), CASES.values(), ids=CASES)
def test_take_up(before: Before, log: Log, slot_end: int, decision: Decision) -> None:
    assert take_up(before, log, slot_end) == decision


LOGS = [later(), later(300), promoted(800), promoted(500), promoted(200), Log("other", 1, 9, {})]


def test_nothing_that_the_slot_has_passed_is_waited_for() -> None:
    for others_since, slot_is_new, log, newest, moved_to, slot_end in itertools.product(
        [False, True], [False, True], LOGS, [0, 450, 550, 900], [0, 500, 700], [1, 500, 700, 940]
    ):
        before = Before(FIRST, 500, newest, moved_to, others_since, slot_is_new)
        decision = take_up(before, log, slot_end)
        assert decision.acknowledged >= slot_end
        if decision.goes_on:  # whatever was read stands for the same on this server
            assert log.continues(FIRST) or newest < log.shared_with(FIRST)
            assert slot_end <= moved_to
        if slot_is_new and not others_since:
            assert not decision.resync  # the slot says it itself


def test_a_server_that_lacked_something_lacks_it_whatever_it_has_written_by_now() -> None:
    """Restored to an earlier time, and seen then, but another consumer had the slot, or the connection was lost."""
    seen = RIVALLED.look_at(later(400))
    assert take_up(seen, later(2000), 450) == Decision(START_OVER, 450, 450, True)
    assert take_up(seen, promoted(1500, 2000), 450) == Decision(START_OVER, 450, 450, True)
    assert take_up(RIVALLED.look_at(later(600)), later(2000), 450) == Decision(GO_ON, 500, 500, False)


def test_a_slot_made_anew_is_not_new_any_more_once_another_consumer_had_it() -> None:
    """That one was told what the slot says of itself; what this one lost with the server, nobody else says."""
    before = NEW_SLOT.note_rival()
    assert take_up(before, promoted(480), 470) == Decision(START_OVER, 480, 480, True)
    assert take_up(before, later(), 600) == Decision(GO_ON, 600, 600, False)


def test_history_files_of_the_server() -> None:
    text = "1\t0/3000148\tno recovery target specified\n\n2\t1/A0\tbefore 2026-01-01 00:00:00\n"
    assert parse_history(text) == {1: 0x3000148, 2: 0x1000000A0}
    assert parse_history("") == {}
    assert parse_history("# a comment\n3\t0/10\n") == {3: 0x10}
