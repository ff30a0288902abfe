"""Gathering events for receivers of batches, and delivering them. All in the dispatch thread."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable
from typing import Any

from ...events.event import Event
from ...signals.matching import freeze
from ...signals.receivers import Batching
from ..pipeline.gate import Gate, Revoked
from ..pipeline.parts import Transaction
from ..waiting import Waiting
from .calls import Call, make_all
from .failures import CutShort, Policy

#: What the events of a batch have in common: the signal, and the sender.
BatchKey = tuple[int, int]


class Batch:
    """Events of one sender, gathered for the receivers of one signal."""

    def __init__(self, signal: Batching, sender: Any) -> None:
        self.signal: Batching = signal
        self.sender: Any = sender
        #: The time at which it is delivered, by `time.monotonic()`, unless it is full before.
        self.deadline: float = time.monotonic() + signal.max_wait
        #: That of its first event, which it holds: nothing behind that is acknowledged.
        self.transaction: Transaction | None = None
        #: The events by running number; by identity where only the latest counts.
        self._by_key: dict[Hashable, Event[Any]] = {}
        self._added = 0

    @property
    def events(self) -> list[Event[Any]]:
        """The events in order of arrival."""
        return list(self._by_key.values())

    @property
    def is_full(self) -> bool:
        """True if it is to be delivered at once."""
        return len(self._by_key) >= self.signal.max_size

    def add(self, event: Event[Any]) -> None:
        """Add an event; where only the latest counts, in the place of the one before of its identity."""
        self._added += 1
        key: Hashable = self._added
        if self.signal.latest_only:
            try:
                key = event.model, freeze(event.identity)
                self._by_key.pop(key, None)
                self._by_key[key] = event
                return
            except Exception:  # from the value's own code: what can't be compared replaces nothing
                key = object()
        self._by_key[key] = event


class Batches:
    """The batches that are being gathered."""

    def __init__(self, gate: Gate, waiting: Waiting, policy: Policy) -> None:
        self._gate, self._waiting, self._policy = gate, waiting, policy
        self._batches: dict[BatchKey, Batch] = {}

    def take(self, transaction: Transaction, signal: Batching, sender: Any, event: Event[Any]) -> None:
        """Add an event, and deliver the batch where that made it full."""
        if signal.sender is not None:
            sender = signal.sender
        key = (id(signal), id(sender))
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = Batch(signal, sender)
        if batch.transaction is None:
            self._gate.served.hold(transaction, 0)
            batch.transaction = transaction
        batch.add(event)
        if batch.is_full:
            self._deliver([key])

    @property
    def deadline(self) -> float:
        """The time at which the first batch is due; infinite without any."""
        return min([batch.deadline for batch in self._batches.values()], default=math.inf)

    def deliver_due(self, now: float = math.inf) -> None:
        """Deliver the batches that are due by then; without a time all of them."""
        self._deliver([key for key, batch in self._batches.items() if batch.deadline <= now])

    def forget(self) -> None:
        """Drop all, in a new tenure."""
        self._batches = {}

    def __bool__(self) -> bool:
        return bool(self._batches)

    def _deliver(self, keys: Iterable[BatchKey]) -> None:
        for key in keys:
            batch, attempts = self._batches.pop(key, None), 0
            while batch is not None:
                try:
                    self._call(batch)
                except Revoked:
                    raise
                except BaseException:
                    attempts += 1
                    if not self._policy.repeats:  # that is a gap; nobody has these events any more
                        self._let_go(batch)
                        raise
                    if not self._policy.pause_after_bug(attempts):
                        return
                else:
                    batch = None

    def _call(self, batch: Batch) -> None:
        for subscriber in batch.signal.subscribers_for(batch.sender):
            if self._gate.needs_attention:
                self._gate.await_turn()
            try:
                call = self._policy.unparked(Call(batch.signal, subscriber, batch.sender, batch.events))
            except CutShort:
                self._waiting.was_cut_short = True
                return
            for failed, error in [] if call is None else make_all(self._waiting, [call]):
                self._policy.failed(failed, error)
        if not self._waiting.was_cut_short:
            self._let_go(batch)

    def _let_go(self, batch: Batch) -> None:
        if batch.transaction is not None:
            self._gate.served.done(batch.transaction, 0)
