"""Numbers of transactions: of their 64 bits the log, and the rows of the catalog, have the lower 32. Pure."""

from __future__ import annotations

from typing import NamedTuple

_EPOCH = 2**32


def widened(xid: int, near: int) -> int:
    """Return the number of a transaction in 64 bits: of those with these lower 32 bits the one nearest to another.

    A server that still has what a transaction wrote begins none whose number is 2**31 or more above it. So the other
    one may be any of about that time, an older or a newer one.
    """
    found = near + (xid - near + _EPOCH // 2) % _EPOCH - _EPOCH // 2
    return found if found >= 0 else found + _EPOCH  # there is none before the first one


class Snapshot(NamedTuple):
    """The transactions that a query of the server sees."""

    #: All below are seen, and none from the second on.
    lowest: int
    next_one: int
    #: Those in between that are not seen.
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Return a snapshot as `pg_current_snapshot()` writes it: `xmin:xmax:` and those in between."""
        lowest, next_one, running = text.split(":")
        return cls(int(lowest), int(next_one), frozenset(map(int, filter(None, running.split(",")))))

    def sees(self, txid: int) -> bool:
        """Return True if it sees what this transaction has changed."""
        return txid < self.lowest or (txid < self.next_one and txid not in self.running)


def widened_before(xid: int, end: int) -> int:
    """Return the highest number below `end` that has these lower 32 bits.

    Of a row that is seen, however old: that is not begun after those that are seen.
    """
    return end - 1 - (end - 1 - xid) % _EPOCH


class Xids:
    """The numbers of one server's transactions. Those in its log are near to the newest that is known."""

    def __init__(self, newest: int = 0) -> None:
        self._newest = newest

    def begin(self, newest: int) -> None:
        """Begin anew, with another server perhaps."""
        self._newest = newest

    def note(self, txid: int) -> None:
        """Note a number: the log may be silent for a long time, while others write."""
        self._newest = max(self._newest, txid)

    def widen(self, xid: int) -> int:
        """Return the number in 64 bits of a transaction in the log, which may be older than others before it."""
        txid = widened(xid, self._newest)
        if txid > self._newest:
            self._newest = txid
        return txid
