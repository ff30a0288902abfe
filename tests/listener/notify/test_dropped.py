"""Rows that were dropped count for the numbers of those behind them. Pure."""

from __future__ import annotations

import json

from sqlalchemy_watch.listener.notify.dropped import DroppedRows
from sqlalchemy_watch.listener.pipeline.parts import Notification


def rows(number: int, txid: int = 7, channel: str = "c") -> Notification:
    return Notification(channel, json.dumps({"txid": txid, "rows": [[1]] * number}).encode())


def skipped(dropped: DroppedRows, *notifications: Notification) -> list[int]:
    return [notification.skipped_rows for notification in dropped.count_in(notifications)]


def test_the_first_behind_them_on_the_channel_tells_how_many_they_were() -> None:
    dropped = DroppedRows()
    assert skipped(dropped, rows(1)) == [0]
    dropped.note([rows(2), rows(3), rows(1, channel="d")])
    dropped.note([rows(4)])
    assert skipped(dropped, rows(1), rows(1, channel="d"), rows(1)) == [9, 1, 0]
    assert skipped(dropped, rows(1)) == [0]


def test_one_that_tells_and_is_dropped_as_well_is_counted_with_them() -> None:
    dropped = DroppedRows()
    dropped.note([rows(2)])
    dropped.note(dropped.count_in([rows(3)]))
    assert skipped(dropped, rows(1)) == [5]


def test_those_of_another_transaction_do_not_count() -> None:
    dropped = DroppedRows()
    dropped.note([rows(2), rows(3, txid=8)])
    assert skipped(dropped, rows(1, txid=8)) == [3]
    dropped.note([rows(2)])
    assert skipped(dropped, rows(1, txid=8)) == [0]


def test_what_is_no_payload_counts_nothing() -> None:
    dropped = DroppedRows()
    dropped.note([rows(2), Notification("c", b"garbage")])
    assert skipped(dropped, rows(1)) == [0]
