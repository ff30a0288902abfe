"""Calling the receivers of one event, in the dispatch thread. One that raises does not disturb the others."""

from __future__ import annotations

import logging
from typing import Any

from ...events.event import Event
from ...events.messages import parts_of
from ...signals.feeds import Feed
from ...signals.receivers import Subscriber
from ..naming import event_words
from ..pipeline.gate import Gate
from ..pipeline.parts import Transaction
from ..waiting import Waiting
from .batches import Batches
from .calls import Call, FilterReceiver, make_all
from .failures import Policy

log: logging.Logger = logging.getLogger(__name__)

UNCOMPARED = "a filter could not compare a value"
UNDECIDED = "an event came without a column that filters compare: too large, or of an outdated trigger"


class Receivers:
    """All that is connected, as the dispatch thread calls it."""

    def __init__(self, gate: Gate, waiting: Waiting, policy: Policy, batches: Batches) -> None:
        self._gate, self._waiting, self._policy, self._batches = gate, waiting, policy, batches
        #: That of the event.
        self.transaction: Transaction = Transaction()
        #: While lanes are in use: the calls of the present event that go into one; None where all are made at once.
        self.collected: list[Call] | None = None

    def call_all(self, signal: Feed, subscribers: tuple[Subscriber, ...], sender: Any, event: Event[Any]) -> None:
        """Call receivers. Failures are dealt with after all have been called."""
        coroutines: list[Call] | None = None
        failures: list[tuple[Call, BaseException]] | None = None
        gate, surroundings = self._gate, self._waiting.surroundings
        is_surrounded = bool(surroundings.makers)
        for subscriber in subscribers:
            if gate.needs_attention and not gate.await_turn():  # by the receiver before
                self._waiting.was_cut_short = True
                break
            if self.collected is not None and subscriber.batch is None and not subscriber.in_order:
                self.collected.append(Call(signal, subscriber, sender, event))
                continue
            if subscriber.is_async:
                coroutines = [*(coroutines or ()), Call(signal, subscriber, sender, event)]
                continue
            if subscriber.batch is not None:
                self._batches.take(self.transaction, subscriber.batch, sender, event)
                continue
            receiver = subscriber.receiver() if subscriber.weak else subscriber.receiver  # resolve(), without the call
            if receiver is None:
                continue
            try:
                if is_surrounded:
                    Call(signal, subscriber, sender, event).begin_inside(surroundings, receiver)
                elif subscriber.positional:
                    receiver(sender, event)
                else:
                    receiver(sender, event=event)
            except BaseException as error:
                failures = [*(failures or ()), (Call(signal, subscriber, sender, event), error)]
        receiver = None  # weakly connected ones may die while a failure is dealt with
        if coroutines:
            if gate.needs_attention and not gate.await_turn():
                self._waiting.was_cut_short = True
            else:
                failures = [*(failures or ()), *make_all(self._waiting, coroutines)]
        for call, raised in failures or ():
            self._policy.failed(call, raised)

    def call_filtered(self, signal: Feed, sender: Any, event: Event[Any]) -> set[str]:
        """Call the receivers of filters, and return the reasons for which some may have missed the event."""
        message, row, extras, _ = parts_of(event)
        matches = signal.matching_subscribers(sender, row, message.kind.indexes, extras)
        for filtered in matches.subscribers:
            self.call_all(signal, filtered, sender, event)
        reasons = {UNDECIDED} if matches.is_undecided else set()
        for keys, error in matches.failed:
            if self._policy.repeats:  # they are compared again, as a receiver that raised is called again
                filters = FilterReceiver(signal, keys, self.call_all)
                self._policy.failed(Call(filters, filters.as_subscriber(), sender, event), error)
            else:
                words = ", ".join(keys)
                log.error("filters of %s by %s could not be compared", event_words(event), words, exc_info=error)
                reasons.add(UNCOMPARED)
        return reasons
