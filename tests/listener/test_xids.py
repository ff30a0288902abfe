"""The numbers of transactions, of which the log has the lower 32 bits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlalchemy_watch.listener.xids import Xids, widened, widened_before

EPOCH = 2**32
HALF = 2**31


@given(st.integers(3, 2**60), st.integers(1 - HALF, HALF - 1))
def test_a_number_that_is_less_than_half_an_epoch_away_is_found(near: int, away: int) -> None:
    txid = near + away
    if txid >= 3:
        assert widened(txid % EPOCH, near) == txid


@pytest.mark.parametrize(
    ("xid", "near", "txid"),
    [
        (700, 750, 700),
        (EPOCH - 5, EPOCH + 3, EPOCH - 5),  # begun before the epoch, and committed after it
        (3, EPOCH - 5, EPOCH + 3),  # the newest that is known is of the epoch before
        (EPOCH - 1, 7 * EPOCH, 7 * EPOCH - 1),
        (EPOCH - 5, 750, EPOCH - 5),  # none has a number below 0
    ],
)
def test_numbers_near_the_end_of_an_epoch(xid: int, near: int, txid: int) -> None:
    assert widened(xid, near) == txid


@given(st.integers(0, 2**40), st.integers(1, EPOCH))
def test_a_row_that_is_seen_was_written_before(txid: int, later: int) -> None:
    assert widened_before(txid % EPOCH, txid + later) == txid


@given(st.integers(HALF, 2**40), st.lists(st.integers(-1000, 2**29), max_size=100))
def test_the_log_is_followed_through_epochs(newest: int, steps: list[int]) -> None:
    xids = Xids(newest)
    for step in steps:
        txid = newest + step
        assert xids.widen(txid % EPOCH) == txid
        newest = max(newest, txid)


def test_what_others_write_while_the_log_is_silent_is_kept_up_with() -> None:
    xids = Xids()
    xids.begin(1000)
    for number in range(1, 9):
        xids.note(1000 + number * HALF // 2)
    assert xids.widen(1007) == 2 * EPOCH + 1007
    xids.begin(2000)  # another server
    assert xids.widen(1007) == 1007
