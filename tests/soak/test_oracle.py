"""The oracles of the soaks find what is wrong, and nothing else: no server."""

from __future__ import annotations

from typing import Any

import pytest
from listener.consumers import Heard, Word

from .hearing import Acknowledged, Hearing, History
from .oracle import Committed, Oracle

#: Of row 1; versions 10, 11 and 12, each by a transaction of its own.
CHANGES = [(1, Committed("inserted", 10, 100)), (1, Committed("updated", 11, 101)), (1, Committed("updated", 12, 102))]
HEARD = ["e inserted 1 10 100", "e updated 1 11 101", "e updated 1 12 102"]


def kinds(journal: list[str], changes: Any = CHANGES, **options: Any) -> list[str]:
    return list(Oracle(changes, **options).judge(journal).kinds)


@pytest.mark.parametrize(
    "journal",
    [
        HEARD,
        [*HEARD[:1], "r lost", "l 1=22", *HEARD[2:]],
        [*HEARD[:1], "r lost", "l 1=24", *HEARD[2:]],
        [*HEARD[:1], "r lost", "l 1=24", *HEARD[1:]],
        [*HEARD[:1], "r lost", "l 1=24"],
        ["l 1=24"],
        ["e inserted 1 10 100", "e updated 1 - 101", "e updated 1 12 102"],
    ],
    ids=str,
)
def test_what_is_heard_or_read_is_in_order(journal: list[str]) -> None:
    assert kinds(journal) == []


@pytest.mark.parametrize(
    ("journal", "kind"),
    [
        ([*HEARD, HEARD[2]], "heard twice, or too late"),
        ([HEARD[0], HEARD[2], HEARD[1]], "missed without a resync"),
        ([HEARD[0], HEARD[2]], "missed without a resync"),
        (HEARD[:2], "missed without a resync"),
        ([], "missed without a resync"),
        ([HEARD[0], "r lost", "l 1=20", HEARD[2]], "missed without a resync"),
        ([HEARD[0], HEARD[2], "r lost", "l 1=24"], "missed without a resync"),
        (["l 1=24", HEARD[0], HEARD[2]], "missed without a resync"),
        ([HEARD[0], "r lost", "l 1=22"], "missed without a resync"),
        ([*HEARD, "e updated 1 13 103"], "what was not committed was heard"),
        ([*HEARD, "e updated 2 13 103"], "what was not committed was heard"),
        ([*HEARD, "e deleted 1 12 102"], "what was not committed was heard"),
        ([*HEARD[:2], "e updated 1 12 999"], "what was not committed was heard"),
        ([*HEARD, "e updated 10001 13 103"], "a muted change was heard"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_journal_is_found(journal: list[str], kind: str) -> None:
    assert kind in kinds(journal)


def test_of_batches_of_the_latest_the_last_one_has_to_come() -> None:
    assert kinds([HEARD[2]], latest_only=True) == []
    assert kinds([HEARD[1]], latest_only=True) == ["missed without a resync"]
    assert kinds([HEARD[2], HEARD[1]], latest_only=True) == ["heard twice, or too late"]


def test_a_transaction_comes_in_one_piece() -> None:
    changes = [
        (row, Committed("updated", version, txid)) for row, version, txid in ((1, 10, 100), (2, 11, 101), (3, 12, 100))
    ]
    journal = [f"e updated {row} {change.version} {change.txid}" for row, change in changes]
    assert kinds(journal, changes) == ["a transaction was interrupted"]


def history(**changes: Any) -> History:
    """Consumer 7 heard payments 1 and 2, and consumer 8 took over, and heard 2 again, and 3."""
    usual: dict[str, Any] = {
        "heard": {7: [Heard(10, 0, 1, 110), Heard(20, 0, 2, 120)], 8: [Heard(20, 0, 2, 220), Heard(30, 0, 3, 230)]},
        "said": [Word("active", 7, 100), Word("active", 8, 200)],
        "committed": {1, 2, 3},
        "writers": {1: 0, 2: 0, 3: 1},
        "acknowledged": [Acknowledged(90, 5), Acknowledged(130, 15), Acknowledged(240, 35)],
    }
    return History(**usual | changes)


def test_a_takeover_may_deliver_again_what_was_not_acknowledged() -> None:
    hearing = Hearing(history())
    assert hearing.judge().kinds == {}
    assert (hearing.duplicates, hearing.late) == (1, 0)


FIRST, SECOND = history().heard[7], history().heard[8]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"committed": {1, 2, 3, 4}, "writers": {1: 0, 2: 0, 3: 1, 4: 1}}, "lost"),
        ({"committed": {1, 2}}, "what was not committed was heard"),
        ({"acknowledged": [Acknowledged(130, 25)]}, "heard again though acknowledged"),
        ({"acknowledged": [Acknowledged(130, 35)]}, "acknowledged unheard"),
        ({"heard": {7: FIRST, 8: [*SECOND, Heard(10, 0, 1, 240)]}}, "out of order"),
        ({"heard": {7: FIRST, 8: [Heard(30, 0, 3, 220), Heard(20, 0, 2, 230)]}}, "out of order"),
        ({"heard": {7: FIRST, 8: [Heard(30, 0, 3, 220), Heard(31, 0, 2, 230)]}}, "heard at two places"),
        ({"heard": {7: FIRST, 8: [Heard(30, 0, 3, 220), Heard(40, 0, 2, 230)]}}, "heard again in the middle"),
        ({"heard": {7: [Heard(20, 0, 2, 110), Heard(10, 0, 1, 120)], 8: SECOND}}, "out of order"),
        ({"heard": {7: [Heard(10, 0, 2, 110)], 8: [Heard(20, 0, 1, 220)]}}, "not in commit order"),
        ({"heard": {7: [*FIRST, Heard(30, 0, 3, 210)], 8: SECOND}}, "heard by who stands by"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_with_a_takeover_is_found(changes: dict[str, Any], kind: str) -> None:
    assert kind in Hearing(history(**changes)).judge().kinds


def test_a_consumer_that_lives_may_end_its_call_after_the_loss() -> None:
    said = [Word("active", 7, 100), Word("active", 8, 200), Word("lost", 7, 215)]
    late = history(heard={7: [*FIRST, Heard(30, 0, 3, 210)], 8: SECOND}, said=said)
    hearing = Hearing(late)
    assert hearing.judge().kinds == {}
    assert hearing.late == 1


def test_a_consumer_that_goes_on_does_not_hear_again_what_it_heard_after_the_loss() -> None:
    said = [Word("active", 7, 100), Word("active", 8, 200), Word("lost", 7, 215), Word("active", 7, 220)]
    went_on = history(heard={7: [*FIRST, Heard(30, 0, 3, 210)], 8: []}, said=said, acknowledged=[])
    assert Hearing(went_on).judge().kinds == {}


def test_a_slot_may_go_back_when_the_server_is_restarted() -> None:
    acknowledged = [Acknowledged(130, 25), Acknowledged(240, 35)]
    assert Hearing(history(acknowledged=acknowledged, restarts=[150])).judge().kinds == {}
