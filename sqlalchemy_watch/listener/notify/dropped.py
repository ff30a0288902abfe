"""Rows that were dropped, since the inbox was full: the numbers of those behind them count these as well. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..decoding.payload import count_rows_of
from ..pipeline.parts import Notification


class DroppedRows:
    """Counts them, by channel, as far as they are of a transaction of which more may come."""

    def __init__(self) -> None:
        self._by_channel: dict[str, tuple[int | None, int]] = {}

    def note(self, dropped: Iterable[Notification]) -> None:
        """Note what was dropped."""
        for notification in dropped:
            txid, rows = count_rows_of(notification.payload)
            known, before = self._by_channel.get(notification.channel, (txid, 0))
            rows += notification.skipped_rows + (before if known == txid else 0)
            self._by_channel[notification.channel] = txid, rows

    def count_in(self, notifications: Sequence[Notification]) -> Sequence[Notification]:
        """Return the notifications that come behind it, of which the first ones tell how many rows were dropped."""
        if not self._by_channel:
            return notifications
        found = []
        for notification in notifications:
            txid, rows = self._by_channel.pop(notification.channel, (None, 0))
            if rows and count_rows_of(notification.payload)[0] == txid:
                notification = notification._replace(skipped_rows=rows + notification.skipped_rows)
            found.append(notification)
        return found
