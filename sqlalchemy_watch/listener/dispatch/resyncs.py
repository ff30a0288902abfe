"""The resyncs that messages ask for: for one reason not more often than now and then."""

from __future__ import annotations

import math
import time

from ..pipeline.gate import Gate
from ..pipeline.parts import Transaction

#: Seconds between two resyncs that messages ask for, for the same reason. Otherwise a client that floods a channel
#: would keep everybody reloading.
RESYNC_SECONDS = 1.0


class Resyncs:
    """The resyncs that are put off. Each holds the transaction that asked for it first."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        #: By reason: when it is due, by `time.monotonic()`, and what is held.
        self._put_off: dict[str, tuple[float, Transaction | None]] = {}
        #: When one was sent last, by reason.
        self._sent: dict[str, float] = {}

    def ask(self, reason: str, transaction: Transaction | None) -> None:
        """Have a resync sent: now, or `RESYNC_SECONDS` after the last one for this reason."""
        if reason not in self._put_off:
            if transaction is not None:
                self._gate.served.hold(transaction, 0)
            self._put_off[reason] = self._sent.get(reason, -math.inf) + RESYNC_SECONDS, transaction

    @property
    def deadline(self) -> float:
        """The time at which the first is due; infinite without any."""
        return min([due for due, _ in self._put_off.values()], default=math.inf)

    def due(self, now: float = math.inf) -> list[str]:
        """Return the reasons of those that are due by then; without a time, of all."""
        return [reason for reason, (due, _) in self._put_off.items() if due <= now]

    def sent(self, reason: str, *, is_heard: bool) -> None:
        """Note that one was sent.

        :param is_heard: False where `stop()` has cut that short: then it is asked for again by the next process.
        """
        _, transaction = self._put_off.pop(reason, (0.0, None))
        self._sent[reason] = time.monotonic()
        if transaction is not None and is_heard:
            self._gate.served.done(transaction, 0)

    def __bool__(self) -> bool:
        return bool(self._put_off)

    def forget(self) -> None:
        """Drop all, in a new tenure."""
        self._put_off = {}
