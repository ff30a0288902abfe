"""The ledger: which transactions were taken and are not done, and so up to where all is.

One lock guards it, under which nobody's code is called. It is reentrant: a garbage collection may end a stream, or stop
the listener, in the very thread that has it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from ...signals.once import Consumer
from .parts import Part, Transaction

#: Transactions that may be done and not acknowledged, beside twice as many as are held.
COMPACT_FROM = 1_000


class Ledger:
    """The transactions that were taken and are not done, in commit order.

    One is done when nobody holds it. Acknowledged is the end of the longest run of done ones. Whoever keeps an event
    beyond the dispatch thread's present step holds its transaction.

    :param limit: of events that are kept so.
    :param acknowledged: up to where all was done before.
    """

    def __init__(self, limit: int, acknowledged: int = 0) -> None:
        self._limit = limit
        self._lock = threading.RLock()
        self._open: deque[Transaction] = deque()
        #: The number of those that somebody holds.
        self._held = 0
        #: Transactions of which the last part was handled; noted without the lock, since there are so many.
        self._handled: deque[Transaction] = deque()
        #: The end of the last transaction before which all are done.
        self.acknowledged: int = acknowledged
        #: Events that are kept beyond the dispatch thread's present step.
        self.kept: int = 0
        #: Called when more is acknowledged, or fewer events are kept than before; and when all is abandoned.
        self.on_progress: Callable[[], None] = lambda: None
        #: The gate's: True while nobody passes it, and once another tenure has begun.
        self.is_paused: bool = False
        self.is_over: bool = False
        #: Who consumes, once that is known; None without durable delivery.
        self.consumer: Consumer | None = None
        #: True once somebody will not let go of what is held, so that it is to be read again.
        self.is_abandoned: bool = False

    def begin(self, parts: Iterable[Part], now: float) -> None:
        """Note the transactions that begin with these parts, before these are handed on.

        :param now: by `time.monotonic()`.
        """
        with self._lock:
            for part in parts:
                transaction = part.transaction
                if not transaction.taken_at:
                    transaction.taken_at, transaction.ledger = now, self
                    self._held += 1
                    self._open.append(transaction)

    def hold(self, transaction: Transaction, events: int = 1) -> None:
        """Hold a transaction, before an event of it is given away.

        :param events: that are kept; 0 where it is held for something else.
        """
        with self._lock:
            transaction.holds += 1
            self.kept += events

    def done(self, transaction: Transaction, events: int = 1) -> None:
        """Let go of a transaction that was held for so many events."""
        with self._lock:
            self._let_go(transaction)
            self.kept -= events
            calls = self._advance()
        self._call(calls)

    def handled(self, transaction: Transaction) -> None:
        """Note that the last part of a transaction was handled: the reader's hold ends. `settle` draws the balance."""
        self._handled.append(transaction)

    def settle(self) -> None:
        """Draw the balance of what was handled."""
        if self._handled:
            with self._lock:
                handled = self._handled
                while handled:
                    self._let_go(handled.popleft())
                calls = self._advance()
            self._call(calls)

    def when_done(self, transaction: Transaction, call: Callable[[], None]) -> None:
        """Have this called once the transaction is done, and all before it."""
        with self._lock:
            transaction.when_done = [*(transaction.when_done or ()), call]

    def abandon(self) -> None:
        """Have all come again that is not acknowledged: somebody who holds an event will never let go."""
        self.is_abandoned = True
        self.on_progress()

    def acknowledge(self, lsn: int) -> None:
        """Note that all up to there was done, here or elsewhere."""
        with self._lock:
            if lsn > self.acknowledged:
                self.acknowledged = lsn

    @property
    def is_full(self) -> bool:
        """True while as many events are kept as may be."""
        return self.kept >= self._limit

    @property
    def is_low(self) -> bool:
        """True if half as many events are kept as may be, or fewer."""
        return 2 * self.kept <= self._limit

    @property
    def is_idle(self) -> bool:
        """True if all that was taken is done."""
        return not self._open

    @property
    def waiting_since(self) -> float | None:
        """The time, by `time.monotonic()`, since which the oldest that is not done has been here; None without any."""
        try:
            return self._open[0].taken_at
        except IndexError:
            return None

    def _let_go(self, transaction: Transaction) -> None:
        transaction.holds -= 1
        if not transaction.holds and transaction.taken_at:
            self._held -= 1

    def _advance(self) -> list[Callable[[], None]]:
        calls: list[Callable[[], None]] = []
        waiting = self._open
        while waiting and not waiting[0].holds:
            transaction = waiting.popleft()
            if transaction.end > self.acknowledged:
                self.acknowledged = transaction.end
            if transaction.when_done:
                calls += transaction.when_done
        if len(waiting) > 2 * self._held + COMPACT_FROM:
            self._compact()
        return calls

    def _compact(self) -> None:
        """Keep of neighbours that are done the last one: an event that is kept for long must not keep all behind it."""
        kept: deque[Transaction] = deque()
        for transaction in self._open:
            if kept and not kept[-1].holds and not transaction.holds:
                before = kept.pop()
                if before.when_done:
                    transaction.when_done = [*before.when_done, *(transaction.when_done or ())]
                transaction.taken_at = before.taken_at
                transaction.end = max(before.end, transaction.end)
            kept.append(transaction)
        self._open = kept

    def _call(self, calls: list[Callable[[], None]]) -> None:
        for call in calls:
            call()
        self.on_progress()
