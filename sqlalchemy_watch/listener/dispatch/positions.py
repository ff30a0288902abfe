"""The positions of events in their transactions: they count what the server has sent, not what is watched here.

So they are the same for a release that watches one table more or less, has another label, or can't read a row.
"""

from __future__ import annotations

from ..decoding.payload import count_rows, count_rows_of
from ..pipeline.parts import Notification, Transaction


class Positions:
    """Counts the rows of one transaction after another. Notifications come in the order of the log."""

    def __init__(self) -> None:
        self._transaction: Transaction | None = None
        self._notification: Notification | None = None
        self._first = 0
        self._rows: int | None = None

    def first_of(self, transaction: Transaction, notification: Notification) -> int:
        """Return the position of the first row; the same where a notification is handled anew."""
        before = self._notification
        if before is None or transaction is not self._transaction:
            self._first = notification.skipped_rows
        elif notification is not before:
            rows = count_rows(before.payload) if self._rows is None else self._rows
            self._first += rows + notification.skipped_rows
        if notification is not before:
            self._transaction, self._notification, self._rows = transaction, notification, None
        return self._first

    def note_rows(self, rows: int) -> None:
        """Note the number of rows of this notification, which was decoded; it is counted otherwise."""
        self._rows = rows


class Numbers:
    """Without durable delivery: counts the rows of a transaction on each channel. A transaction comes in one piece."""

    def __init__(self) -> None:
        #: By channel: the transaction, and the number of its next row.
        self._next: dict[str, tuple[int, int]] = {}

    def take(self, notification: Notification, txid: int, rows: int) -> int:
        """Return the number of the first row of a notification that was decoded, or counted."""
        known, following = self._next.get(notification.channel, (txid, 0))
        first = (following if known == txid else 0) + notification.skipped_rows
        self._next[notification.channel] = txid, first + rows
        return first

    def pass_over(self, notification: Notification) -> None:
        """Count a notification that is not heard."""
        txid, rows = count_rows_of(notification.payload)
        if txid is not None:
            self.take(notification, txid, rows)
