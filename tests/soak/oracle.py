"""Judges what was heard: pure.

Of each row the changes that were committed are known, in order. A journal may leave changes of a row out only where
it has a reading behind the last event of that row that it heard, and before the next one, that saw them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .schema import MUTED_FROM, step_of

#: Faults of one kind that are told in full.
TOLD = 3


class Committed(NamedTuple):
    """A change of the ledger."""

    operation: str
    version: int
    txid: int


@dataclass
class Verdict:
    """What was found about one journal."""

    heard: int = 0
    #: Changes that were not heard, and read instead.
    read_instead: int = 0
    resyncs: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def blame(self, kind: str, words: str) -> None:
        self.kinds[kind] += 1
        if self.kinds[kind] <= TOLD:
            self.faults.append(f"{kind}: {words}")
        elif self.kinds[kind] == TOLD + 1:
            self.faults.append(f"{kind}: and more")


class _Row:
    """The changes of one row, and how far a journal has got with them."""

    def __init__(self) -> None:
        self.changes: list[Committed] = []
        self.places: dict[tuple[str, int], int] = {}
        #: The next change to be heard, and the one up to which everything was read since the last event.
        self.next = self.read = 0

    def add(self, change: Committed) -> None:
        self.places[change[:2]] = len(self.changes)
        self.changes.append(change)

    def note_read(self, step: int) -> None:
        while self.read < len(self.changes):
            change = self.changes[self.read]
            if step_of(change.operation, change.version) > step:
                break
            self.read += 1

    def find(self, operation: str, version: int | None, txid: int) -> int | None:
        """The place of an event among the changes; of one without a version the next that it can be."""
        if version is not None:
            place = self.places.get((operation, version))
            return place if place is not None and self.changes[place].txid == txid else None
        same = [n for n, change in enumerate(self.changes) if (change.operation, change.txid) == (operation, txid)]
        return next((n for n in same if n >= self.next), same[-1] if same else None)


class Oracle:
    """Compares one journal with the ledger.

    :param changes: id and change, those of a row in order.
    :param latest_only: changes may be left out where a later one of the same row is heard.
    """

    def __init__(self, changes: Iterable[tuple[int, Committed]], *, latest_only: bool = False) -> None:
        self._rows: dict[int, _Row] = {}
        self._latest_only = latest_only
        for id_, change in changes:
            self._rows.setdefault(id_, _Row()).add(change)
        self.verdict = Verdict()
        #: Transactions of which the last event was heard.
        self._ended: set[int] = set()
        self._txid = 0

    def judge(self, journal: Iterable[str]) -> Verdict:
        for line in journal:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "e":
                operation, id_, version, txid = rest.split()
                self._hear(operation, int(id_), None if version == "-" else int(version), int(txid))
            elif kind == "l":
                for read, step in _steps(rest):
                    if read in self._rows:
                        self._rows[read].note_read(step)
            else:
                self.verdict.resyncs[rest] += 1
        for number, row in self._rows.items():
            self._skip(number, row, len(row.changes), "at the end")
        return self.verdict

    def _hear(self, operation: str, id_: int, version: int | None, txid: int) -> None:
        words = f"{operation} {id_}, version {version}, transaction {txid}"
        self._note_transaction(txid, words)
        row = self._rows.get(id_)
        place = None if row is None else row.find(operation, version, txid)
        if row is None or place is None:
            muted = id_ >= MUTED_FROM
            self.verdict.blame("a muted change was heard" if muted else "what was not committed was heard", words)
            return
        if place < row.next:
            self.verdict.blame("heard twice, or too late", words)
            return
        if place > row.next and not self._latest_only:
            self._skip(id_, row, place, f"before {words}")
        self.verdict.heard += 1
        row.next = place + 1
        # A reading excuses what is missing in its own place, and not for ever.
        row.read = min(row.read, row.next)

    def _skip(self, id_: int, row: _Row, until: int, where: str) -> None:
        missing = until - row.next
        self.verdict.read_instead += missing
        if missing and row.read < until:
            first = row.changes[max(row.read, row.next)]
            self.verdict.blame("missed without a resync", f"{first.operation} {id_}, version {first.version} {where}")

    def _note_transaction(self, txid: int, words: str) -> None:
        if txid != self._txid:
            if txid in self._ended and not self._latest_only:
                self.verdict.blame("a transaction was interrupted", words)
            self._ended.add(self._txid)
            self._txid = txid


def _steps(words: str) -> Iterator[tuple[int, int]]:
    for word in words.split():
        id_, _, step = word.partition("=")
        yield int(id_), int(step)
