"""Gathering the events of a transaction for receivers of whole transactions. All in the dispatch thread."""

from __future__ import annotations

from typing import Any

from ...events.event import Event
from ...signals.transactions import Chunks, Transaction
from ..pipeline.gate import Gate, Revoked
from ..waiting import Waiting
from .calls import Call, make_all
from .failures import Policy


class _Gathered:
    """The part that is being gathered, of one size."""

    def __init__(self) -> None:
        self.events: list[Event[Any]] = []
        self.number = 0


class Transactions:
    """The transaction that is being gathered. Nobody holds it: the dispatch thread is not through with it before."""

    def __init__(self, chunks: Chunks, listener: object, gate: Gate, waiting: Waiting, policy: Policy) -> None:
        self._chunks, self._listener = chunks, listener
        self._gate, self._waiting, self._policy = gate, waiting, policy
        #: By size.
        self._gathered: dict[int, _Gathered] = {}

    @property
    def are_wanted(self) -> bool:
        """True if anybody gets transactions."""
        return bool(self._chunks.sizes)

    @property
    def are_gathered(self) -> bool:
        """True if there is something to deliver at the end."""
        return bool(self._gathered)

    def take(self, event: Event[Any]) -> None:
        """Add an event, and deliver the part in front of it where that is full."""
        if not self._gathered:
            self._gathered = {size: _Gathered() for size in set(self._chunks.sizes.values())}
        for size, gathered in self._gathered.items():
            if len(gathered.events) >= size:
                self._deliver(size, gathered, is_last=False)
            gathered.events.append(event)

    def end(self) -> None:
        """Deliver what is left of a transaction that has ended."""
        for size, gathered in self._gathered.items():
            self._deliver(size, gathered, is_last=True)
        self._gathered = {}

    def forget(self) -> None:
        """Drop all, in a new tenure."""
        self._gathered = {}

    def _deliver(self, size: int, gathered: _Gathered, *, is_last: bool) -> None:
        if not gathered.events:
            return
        transaction, attempts = transaction_of(gathered.events, gathered.number, is_last=is_last), 0
        gathered.events, gathered.number = [], gathered.number + 1
        while True:
            try:
                self._call(size, transaction)
                return
            except Revoked:
                raise
            except BaseException:
                attempts += 1
                if not self._policy.pause_after_bug(attempts):
                    return

    def _call(self, size: int, transaction: Transaction) -> None:
        for subscriber in self._chunks.subscribers_of(size):
            if self._gate.needs_attention and not self._gate.await_turn():
                self._waiting.was_cut_short = True
                return
            for failed, error in make_all(self._waiting, [Call(self._chunks, subscriber, self._listener, transaction)]):
                self._policy.failed(failed, error)


def transaction_of(events: list[Event[Any]], part: int, *, is_last: bool) -> Transaction:
    """Return a transaction, or a part of one, as receivers get it."""
    first = events[0]
    assert first.lsn is not None
    return Transaction(events, first.lsn, first.txid, first.emitted_at, first.context, part, is_last)
