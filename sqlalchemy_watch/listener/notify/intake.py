"""Notifications on their way into the inbox: counted, and dropped where that is full."""

from __future__ import annotations

from collections.abc import Sequence

from ..pipeline.inbox import Inbox
from ..pipeline.ledger import Ledger
from ..pipeline.parts import Notification
from ..stats import ReadingStats
from .dropped import DroppedRows


class Intake:
    """Puts notifications into an inbox, as long as a connection lasts."""

    def __init__(self, inbox: Inbox, ledger: Ledger, stats: ReadingStats) -> None:
        self._inbox, self._ledger, self._stats = inbox, ledger, stats
        self._dropped = DroppedRows()

    def take(self, notifications: Sequence[Notification]) -> None:
        """Put notifications into the inbox, those that there is space for."""
        self._stats.notifications += len(notifications)
        dropped = self._inbox.put_or_drop(self._ledger, self._dropped.count_in(notifications))
        if dropped:
            self._dropped.note(dropped)
