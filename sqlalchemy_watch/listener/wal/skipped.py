"""The rows in a transaction that nobody watches here: positions count them as well. Pure."""

from __future__ import annotations

from ..decoding.payload import MAX_COUNTED_BYTES, count_rows
from .messages import HEAD_BYTES

#: The size of a message, with all that stands before its payload, from which on the payload is too large to count.
TOO_LARGE_TO_COUNT = MAX_COUNTED_BYTES + HEAD_BYTES


class SkippedRows:
    """Counts them, as late as possible: only once the same transaction has something that needs a position."""

    def __init__(self) -> None:
        self._rows = self._size = 0
        self._uncounted: list[bytes] = []

    @staticmethod
    def is_large(size: int) -> bool:
        """Return True if a message of this size can be counted without being read."""
        return size > TOO_LARGE_TO_COUNT

    def add_large(self) -> None:
        """Add a large message: triggers write so much for a single row alone."""
        self._rows += 1

    def add(self, payload: bytes | memoryview) -> None:
        """Add the rows of a message. A short one is kept until it is counted, or not wanted."""
        if len(payload) > MAX_COUNTED_BYTES:
            self.add_large()
            return
        self._uncounted.append(bytes(payload))
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
        if self._uncounted or self._rows:
            self._uncounted, self._rows, self._size = [], 0, 0

    def _count(self) -> None:
        self._rows += sum(map(count_rows, self._uncounted))
        self._uncounted, self._size = [], 0
