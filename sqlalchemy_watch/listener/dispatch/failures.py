"""The treatment of receivers that raise, and of errors of the library's own: one policy for each way of delivery."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from ...errors import BatchFailed, RetryAfter
from ...signals.transactions import Transaction
from ..naming import event_words
from ..options import RetryPolicy
from ..pipeline.gate import Gate
from ..stats import DispatchStats
from ..waiting import Waiting
from .calls import Call, FilterReceiver, make_one, release

log: logging.Logger = logging.getLogger(__name__)

#: Called when a receiver raised, with receiver, event, error, and what comes of it in words.
OnFailure = Callable[[Any, Any, BaseException, str], None]

#: Seconds between looks at a receiver that is to be called again: it may have been disconnected.
LOOK_SECONDS = 0.2


class Reports:
    """Counts and reports failures."""

    def __init__(self, stats: DispatchStats, on_failure: OnFailure) -> None:
        self._stats, self._on_failure = stats, on_failure
        self._lock = threading.RLock()  # of lanes, which run side by side

    def report(self, call: Call, error: BaseException, fate: str) -> None:
        """Report a failure, with what comes of the event in words."""
        with self._lock:
            self._stats.failed_receivers += 1
        with contextlib.suppress(Exception):  # a failure to log
            self._on_failure(call.subscriber.connected, call.argument, error, fate)


def part_that_failed(call: Call, error: BaseException) -> Call:
    """Return the call for those events of a batch that have failed, or wait for one that has.

    :returns: the whole call where its receiver does not say.
    """
    if not isinstance(error, BatchFailed) or not isinstance(call.argument, list):
        return call
    left = {id(event) for event in (*error.events, *error.untried)}
    return call._replace(argument=[event for event in call.argument if id(event) in left] or call.argument)


def untried(call: Call, error: BaseException) -> list[Any]:
    """Return the events of a batch that were not tried, since they come after one that has failed."""
    if not isinstance(error, BatchFailed) or not isinstance(call.argument, list):
        return []
    left = {id(event) for event in error.untried} - {id(event) for event in error.events}
    found = [event for event in call.argument if id(event) in left]
    return found if len(found) < len(call.argument) else []


def counts(error: BaseException) -> bool:
    """Return True if an error is an attempt at the event; False where its receiver can't take any at present."""
    return not isinstance(error, RetryAfter) or error.is_attempt


class Policy(Protocol):
    """What becomes of an event that a receiver, or the library itself, fails on."""

    #: True if a message is handled anew where an error of the library's own ended that. Otherwise that is a gap.
    repeats: bool

    def failed(self, call: Call, error: BaseException) -> None:
        """Deal with a receiver that raised.

        :raises Revoked: where the tenure is over.
        """

    def failed_in_lane(self, call: Call, error: BaseException, attempts: int) -> float | None:
        """Deal with a receiver that raised in a lane, which waits by itself.

        :returns: seconds after which it is called again; None where it is not.
        :raises CutShort: where `stop()` kept it from being parked.
        """

    def unparked(self, call: Call) -> Call | None:
        """Return the call without events that have to wait behind others of their key; those are parked.

        :returns: None where none is left.
        :raises CutShort: where `stop()` kept one from being parked.
        """

    def pause_after_bug(self, attempts: int) -> bool:
        """Wait before a message is handled anew; return False where it is not."""


class NotTriedAgain:
    """A failure is reported, and the event counts as heard: nobody has it any more."""

    repeats = False

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def failed(self, call: Call, error: BaseException) -> None:
        """Report it."""
        self._reports.report(part_that_failed(call, error), error, "not tried again")

    def failed_in_lane(self, call: Call, error: BaseException, attempts: int) -> float | None:
        """Report it."""
        self.failed(call, error)
        return None

    def unparked(self, call: Call) -> Call | None:
        """Return the call."""
        return call

    def pause_after_bug(self, attempts: int) -> bool:
        """Return False: that is a gap."""
        return False


class CutShort(Exception):
    """Raised where `stop()` came before an event was parked: it is delivered again."""


class Parks(Protocol):
    """Writes dead letters, however long that takes."""

    def park(self, call: Call, event: Any, error: BaseException | None, attempts: int, *, with_key: bool) -> None:
        """Write one.

        :param error: None for one that was not tried.
        :param with_key: True to have later events of its key wait behind it.
        :raises CutShort: where `stop()` came before.
        """

    def unparked(self, call: Call) -> Call | None:
        """Return the call without events that have to wait behind others of their key; those are parked."""


class TriedAgain:
    """A receiver is called again until it takes the event, is disconnected, or the event is given up.

    All in the dispatch thread.
    """

    repeats = True

    def __init__(
        self, policy: RetryPolicy, reports: Reports, gate: Gate, waiting: Waiting, stats: DispatchStats
    ) -> None:
        self._policy, self._reports, self._gate, self._waiting, self._stats = policy, reports, gate, waiting, stats
        #: Set once the letters are there.
        self.parking: Parks

    def failed(self, call: Call, error: BaseException) -> None:
        """Call the receiver again until it takes the event, is disconnected, or the policy gives the event up."""
        waiting, attempts = self._waiting, 0
        while True:
            call = part_that_failed(call, error)
            attempts += counts(error)
            self._reports.report(call, error, self._fate(call, error, attempts))
            release(error)
            if waiting.is_over:
                break
            self._gate.await_turn()
            if not call.is_wanted:
                return
            if self._is_given_up(call, error, attempts):
                try:
                    rest = self._park(call, error, attempts)
                except CutShort:
                    break
                failure = make_one(waiting, rest) if rest is not None else None
                if rest is None or failure is None:
                    return
                call, error, attempts = rest, failure, 0
                continue
            self._pause_for(call, self._policy.delay_after(error, attempts))
            self._gate.await_turn()
            if waiting.is_over:
                break
            if not call.is_wanted:
                log.info("%s: its receiver was disconnected, and is not called again", event_words(call.argument))
                return
            self._stats.retries += 1
            failure = make_one(waiting, call)
            if failure is None:
                return
            error = failure
        waiting.was_cut_short = True

    def failed_in_lane(self, call: Call, error: BaseException, attempts: int) -> float | None:
        """Return after how many seconds the receiver is called again; None where the event is given up, or parked.

        :param attempts: those that count.
        :raises CutShort: where `stop()` came before it was parked.
        """
        if attempts > 1:
            self._stats.retries += 1
        self._reports.report(call, error, self._fate(call, error, attempts))
        release(error)
        if not call.is_wanted:
            return None
        if self._is_given_up(call, error, attempts):
            self._park(call, error, attempts)
            return None
        return self._policy.delay_after(error, attempts)

    def unparked(self, call: Call) -> Call | None:
        """Return the call without events that have to wait behind others of their key; those are parked."""
        return call if self._policy.in_order != "key" else self.parking.unparked(call)

    def _is_given_up(self, call: Call, error: BaseException, attempts: int) -> bool:
        """Return True if the event goes to the dead letters, to be tried again or not."""
        policy = self._policy
        if not counts(error):
            return not policy.in_order
        if policy.is_exhausted(error, attempts):
            return True
        if policy.in_order == "key":
            return attempts >= policy.attempts and not isinstance(call.argument, Transaction)
        return not policy.in_order

    def _park(self, call: Call, error: BaseException, attempts: int) -> Call | None:
        """Write letters; return the call for what the receiver has not tried, and nothing keeps it from any more."""
        waits = self._policy.in_order == "key" and not isinstance(call.signal, FilterReceiver)
        with_key = waits and not self._policy.is_exhausted(error, attempts)
        rest = untried(call, error)
        behind = {id(event) for event in rest}
        for event in call.events:
            if id(event) not in behind:
                self.parking.park(call, event, error, attempts, with_key=with_key)
            elif with_key:
                self.parking.park(call, event, None, 0, with_key=True)
        return call._replace(argument=rest) if rest and not with_key else None

    def _fate(self, call: Call, error: BaseException, attempts: int) -> str:
        if counts(error) and self._policy.is_exhausted(error, attempts):
            return "it goes to the dead letters"
        again = f"tried again in {self._policy.delay_after(error, attempts):g} s"
        return f"parked among the dead letters, and {again}" if self._is_given_up(call, error, attempts) else again

    def _pause_for(self, call: Call, seconds: float) -> None:
        """Wait for this time, or until the receiver is disconnected: then nothing holds the line up any more."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._waiting.is_over and call.is_wanted:
            self._waiting.pause(min(left, LOOK_SECONDS))

    def pause_after_bug(self, attempts: int) -> bool:
        """Wait before a message is handled anew; return False where that is left to the next process."""
        delay = self._policy.delay(attempts)
        with contextlib.suppress(Exception):
            log.exception("unexpected error while dispatching; nothing is acknowledged, and tried again in %g s", delay)
        self._waiting.pause(delay)
        if self._waiting.is_over:
            self._waiting.was_cut_short = True
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Wait before an event is looked up again; return False where that is left to whoever reads the log next.

        :raises Revoked: where the tenure is over.
        """
        self._waiting.pause(seconds)
        self._gate.await_turn()
        self._waiting.was_cut_short |= self._waiting.is_over
        return not self._waiting.was_cut_short
