"""Dispatching with acknowledgement.

Receivers that raise are called again. Transactions are acknowledged in order.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from ...events.event import Event
from ...signals.feeds import Feed
from ...signals.matching import Keys
from ..decoding.payload import Decoded
from ..decoding.routes import Route
from ..handover.items import Committed, Connected, Control, Discarded, Disconnected, Notification, Resync, RetryDue
from ..handover.queue import WaitingQueue
from ..naming import event_words
from ..options import RetryPolicy
from ..server.connect import Connect
from .calls import Call, FilterReceiver, make_all, release
from .dispatcher import Dispatcher
from .gather import Batch, Gatherer
from .letters import Calling, Letters, OnDeadLetter, describe
from .positions import Positions

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between looks at a receiver that is to be called again: it may have been disconnected.
LOOK_SECONDS = 0.2


class _Revoked(Exception):
    """Raised where the item that is being handled is no longer this process's to deliver."""


class DurableDispatcher(Dispatcher):
    """A dispatcher of a consumer group.

    While its process is not the active consumer, no receiver is called, and the item that was being handled waits.
    It is resumed if nobody else consumed meanwhile; otherwise it is given up.
    """

    _queue: WaitingQueue
    _repeats = True

    #: True while batches are delivered, which the gatherer does not have any more: a gap may be told of meanwhile.
    _is_delivering = False

    def configure(
        self,
        group: str,
        policy: RetryPolicy,
        connect: Connect,
        acknowledge: Callable[[int], bool],
        on_dead_letter: OnDeadLetter,
    ) -> None:
        """Set what the base class does not know of. Called once, before the thread starts."""
        self._policy, self._acknowledge = policy, acknowledge
        calling = Calling(self._call_all, self._call_again, self._report, on_dead_letter)
        self._letters = Letters(group, policy, connect, self._router, self._waiting, self._stats, calling)
        self._acknowledged = 0
        self._positions = Positions()
        self.placing.wait = self._wait_to_place

    def _handle(self, item: Notification | Control) -> None:
        """Handle an item until that has succeeded: what was not dispatched must not be acknowledged."""
        if isinstance(item, Notification):
            self._next_row = 0
        attempts = 0
        while True:
            try:
                try:
                    self._handle_once(item)
                    return
                except _Revoked:
                    raise
                except BaseException:
                    attempts += 1
                    self._pause_after_bug(attempts)
                if self._waiting.is_over:
                    self._waiting.was_cut_short = True
                    return
                self._await_turn()
            except _Revoked:
                self._forget()
                return

    def _pause_after_bug(self, attempts: int) -> None:
        delay = self._policy.delay(attempts)
        with contextlib.suppress(Exception):
            log.exception("unexpected error while dispatching; nothing is acknowledged, and tried again in %g s", delay)
        self._waiting.pause(delay)

    def _handle_once(self, item: Notification | Control) -> None:
        if isinstance(item, Notification):
            self._handle_notification(item)
        elif isinstance(item, Committed):
            self._gatherer.last_end_lsn = item.end_lsn
            self._acknowledge_delivered()
        elif isinstance(item, RetryDue):
            self._retry_next_parked()
        elif isinstance(item, Discarded):
            self._forget()
        else:
            super()._handle(item)

    def _tell(self, item: Resync | Connected | Disconnected) -> None:
        """Tell of the connection at once, and of a gap behind what has been gathered.

        While another process may be the active consumer, nothing that was gathered may be delivered. Where it is no
        longer this process's, it is forgotten, and lies on neither side of the gap.
        """
        if isinstance(item, Resync):
            with contextlib.suppress(_Revoked):
                self._deliver_batches(self._gatherer.take_all())
        self._on_control(item)

    def _await_turn(self) -> None:
        """Wait while another process may be the active consumer.

        :raises _Revoked: where the item that is being handled will not be resumed.
        """
        while (item := self._queue.get_urgent()) is not None:
            self._handle(item)
        if self._queue.is_revoked:
            raise _Revoked

    def _forget(self) -> None:
        """Forget the items that were taken and are not acknowledged: they come again."""
        self._gatherer = Gatherer()
        self.placing.forget()
        self._acknowledged = 0
        self._positions = Positions()

    def _last_batches(self) -> None:
        if self._queue.is_revoked:
            self._forget()
        with contextlib.suppress(_Revoked):
            super()._last_batches()

    def _handle_notification(self, notification: Notification) -> None:
        self._first_position = self._positions.first_of(notification)
        super()._handle_notification(notification)
        self._hold_passed_over()

    def _hold_passed_over(self) -> None:
        """Acknowledge no event that was passed over by an earlier answer, until that has been asked for again."""
        gatherer = self._gatherer
        if self.placing.due_at == math.inf:
            gatherer.held_end_lsn = None
        elif gatherer.held_end_lsn is None:
            gatherer.held_end_lsn = gatherer.last_end_lsn

    def _deliver(self, notification: Notification, route: Route, decoded: Decoded) -> None:
        message = decoded.message
        message.lsn, message.first_position, message.origin = notification.lsn, self._first_position, notification
        self._positions.note_rows(len(decoded.rows) + len(decoded.lost))
        super()._deliver(notification, route, decoded)

    def _note_uncompared(self, signal: Feed, keys: Keys, sender: Any, event: Event[Any], error: Exception) -> None:
        """Have the values compared again, as a receiver that raised is called again."""
        filters = FilterReceiver(signal, keys, self._call_all)
        self._failed(Call(filters, filters.as_subscriber(), sender, event), error)

    def _deliver_batches(self, batches: list[Batch]) -> None:
        is_inner, self._is_delivering = self._is_delivering, True
        try:
            self._deliver_until_done(batches)
        finally:
            self._is_delivering = is_inner
        self._acknowledge_delivered()

    def _deliver_until_done(self, batches: list[Batch]) -> None:
        attempts = 0
        while batches:
            try:
                super()._deliver_batches(batches)
                return
            except _Revoked:
                raise
            except BaseException:  # here, so that no event is gathered anew, and then twice
                attempts += 1
                self._pause_after_bug(attempts)
            if self._waiting.is_over:
                self._waiting.was_cut_short = True
                return
            batches = self._gatherer.take_all()

    def _send_resyncs(self, now: float = math.inf) -> None:
        is_inner, self._is_delivering = self._is_delivering, True
        try:
            super()._send_resyncs(now)
        finally:
            self._is_delivering = is_inner
        self._acknowledge_delivered()

    def _acknowledge_delivered(self) -> None:
        """Acknowledge the transactions of which no event waits in a batch, and no resync for its time.

        Nothing is acknowledged after `stop()` has cut an event short: that event comes again, and all behind it.
        """
        self._hold_passed_over()
        delivered = self._gatherer.delivered_end_lsn
        if delivered > self._acknowledged and not (self._is_delivering or self._waiting.was_cut_short):
            while not self._acknowledge(delivered):
                self._await_turn()
            self._acknowledged = delivered

    def _failed(self, call: Call, error: BaseException) -> None:
        """Call the receiver again until it takes the event, is disconnected, or the policy gives the event up."""
        policy, attempts = self._policy, 1
        while True:
            self._report(call, error, self._fate(attempts))
            release(error)
            if self._waiting.is_over:
                break
            self._await_turn()
            if not call.is_wanted:
                return
            if policy.is_exhausted(attempts) or not policy.in_order:
                for event in call.argument if isinstance(call.argument, list) else [call.argument]:
                    self._letters.park(call, event, error, attempts)
                return
            self._pause_for(call, policy.delay(attempts))
            self._await_turn()
            if self._waiting.is_over:
                break
            if not call.is_wanted:
                log.info("%s: its receiver was disconnected, and is not called again", event_words(call.argument))
                return
            self._stats.retries += 1
            failure = self._call_again(call)
            if failure is None:
                return
            error = failure
            attempts += 1
        self._waiting.was_cut_short = True

    def _fate(self, attempts: int) -> str:
        policy = self._policy
        if policy.is_exhausted(attempts):
            return "it goes to the dead letters"
        again = f"tried again in {policy.delay(attempts):g} s"
        return again if policy.in_order else f"parked among the dead letters, and {again}"

    def _pause_for(self, call: Call, seconds: float) -> None:
        """Wait for this time, or until the receiver is disconnected: then nothing holds the line up any more."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._waiting.is_over and call.is_wanted:
            self._waiting.pause(min(left, LOOK_SECONDS))

    def _call_again(self, call: Call) -> BaseException | None:
        failures = make_all(self._waiting, [call])
        return failures[0][1] if failures else None

    def _retry_next_parked(self) -> None:
        """Try one letter. Items that have come meanwhile are handled before the next letter."""
        self._queue.retry_is_due = False
        try:
            letter = self._letters.next_due()
            if letter is None or self._waiting.is_over or self._queue.needs_attention:
                return
            self._letters.retry(letter)
        except _Revoked:
            raise
        except Exception as error:
            log.warning("can't try the dead letters again (%s)", describe(error))
            return
        if not self._waiting.was_cut_short:
            self._queue.put_retry_due()

    def _wait_to_place(self, seconds: float) -> bool:
        """Wait before an event is looked up again; return False where it is left to whoever reads the slot next."""
        self._waiting.pause(seconds)
        self._await_turn()
        self._waiting.was_cut_short |= self._waiting.is_over
        return not self._waiting.was_cut_short
