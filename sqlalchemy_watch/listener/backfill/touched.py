"""The rows that have been told of while existing rows are read. All in the dispatch thread, but for making one.

A row that was read is older than what has been told of it, if a transaction changed it that has been delivered and that
the snapshot of reading does not see.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from ...events.messages import Message
from ...signals.matching import freeze
from ..decoding.rows import Row
from ..xids import Snapshot


class Touched:
    """The rows of one table, with the transaction that each was told of by last.

    :param table: its key.
    """

    def __init__(self, table: str) -> None:
        self.table: str = table
        self._rows: dict[Hashable, int] = {}
        self._truncated_by: int | None = None

    def note(self, message: Message, rows: Iterable[Row]) -> None:
        """Note the rows of a message."""
        kind, txid = message.kind, message.txid
        if kind.operation == "truncated":
            self._truncated_by = txid
        names = kind.attributes[: kind.key_length]
        for row, extras in rows:
            self._rows[_hashable(row[: kind.key_length])] = txid
            old = None if extras is None else extras.old
            if old is not None:  # the key may have been another one
                self._rows[_hashable(tuple([old[name] for name in names if name in old]))] = txid

    def is_stale(self, snapshot: Snapshot, key: tuple[Any, ...]) -> bool:
        """Return True for the key of a row that was told of by a transaction which the snapshot does not see."""
        if self._truncated_by is not None and not snapshot.sees(self._truncated_by):
            return True
        txid = self._rows.get(_hashable(key))
        return txid is not None and not snapshot.sees(txid)

    def prune(self, snapshot: Snapshot) -> None:
        """Forget what no later snapshot can miss."""
        self._rows = {key: txid for key, txid in self._rows.items() if not snapshot.sees(txid)}

    def __len__(self) -> int:
        return len(self._rows)


def _hashable(key: tuple[Any, ...]) -> Hashable:
    try:
        hash(key)
        return key
    except TypeError:  # such as an array
        return freeze(key)
