"""The rows in a transaction that nobody watches here: positions count them as well. Pure."""

from __future__ import annotations

from ..decoding.payload import MAX_COUNTED_BYTES, count_rows


class SkippedRows:
    """Counts them, as late as possible: only once the same transaction has something that needs a position."""

    def __init__(self) -> None:
        self._rows = self._size = 0
        self._uncounted: list[bytes] = []

    def add(self, payload: bytes) -> None:
        """Add the rows of a message. A short one is kept until it is counted, or not wanted."""
        if len(payload) > MAX_COUNTED_BYTES:
            self._rows += count_rows(payload)
            return
        self._uncounted.append(payload)
        self._size += len(payload)
        if self._size > MAX_COUNTED_BYTES:
            self._count()

    def take(self) -> int:
        """Return the number of rows since the last time."""
        if self._uncounted:
            self._count()
        rows, self._rows = self._rows, 0
        return rows

    def forget(self) -> None:
        """Begin anew."""
        self._uncounted, self._rows, self._size = [], 0, 0

    def _count(self) -> None:
        self._rows += sum(map(count_rows, self._uncounted))
        self._uncounted, self._size = [], 0
