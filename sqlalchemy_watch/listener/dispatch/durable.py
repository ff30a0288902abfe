"""Dispatching with acknowledgement.

Receivers that raise are called again. Transactions are acknowledged in order.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from ...errors import PayloadError, one_line
from ...signals.events import Event, parts_of
from ...signals.receivers import Subscriber
from ..decoding.payload import Decoded
from ..decoding.routes import Elsewhere, Route
from ..handover.items import Committed, Control, Discarded, Notification, RetryDue
from ..handover.queue import WaitingQueue
from ..options import RetryPolicy
from ..server.connect import Connect
from . import dead_letters
from .dispatcher import Dispatcher, try_call
from .gather import Batch, Gatherer

log: logging.Logger = logging.getLogger(__name__)

#: Called when an event was given up, with receiver, event and error.
OnDeadLetter = Callable[[Any, Any, BaseException], None]

#: Characters of an error that a letter keeps.
MAX_ERROR_LENGTH = 2000


class _Revoked(Exception):
    """Raised where the item that is being handled is no longer this process's to deliver."""


class DurableDispatcher(Dispatcher):
    """A dispatcher of a consumer group.

    While its process is not the active consumer, no receiver is called, and the item that was being handled waits.
    It is resumed if nobody else consumed meanwhile; otherwise it is given up.
    """

    _queue: WaitingQueue

    def configure(
        self,
        group: str,
        policy: RetryPolicy,
        connect: Connect,
        acknowledge: Callable[[int], bool],
        on_dead_letter: OnDeadLetter,
    ) -> None:
        """Set what the base class does not know of. Called once, before the thread starts."""
        self._group, self._policy, self._connect = group, policy, connect
        self._acknowledge, self._on_dead_letter = acknowledge, on_dead_letter
        self._acknowledged = 0
        self._lsn = -1
        self._next_position = 0
        self.placing.wait = self._wait_to_place

    def _handle(self, item: Notification | Control) -> None:
        try:
            if isinstance(item, Notification):
                self._handle_notification(item)
            elif isinstance(item, Committed):
                if self._gatherer.resyncs:  # they would not come again after the acknowledgement
                    self._send_resyncs()
                self._gatherer.last_end_lsn = item.end_lsn
                self._acknowledge_delivered()
            elif isinstance(item, RetryDue):
                self._retry_next_parked()
            elif isinstance(item, Discarded):
                self._forget()
            else:
                super()._handle(item)
        except _Revoked:
            self._forget()

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
        self._lsn = -1

    def _last_batches(self) -> None:
        if self._queue.is_revoked:
            self._forget()
        with contextlib.suppress(_Revoked):
            super()._last_batches()
        self._give_up()

    def _handle_notification(self, notification: Notification) -> None:
        if notification.lsn != self._lsn:
            self._lsn, self._next_position = notification.lsn or 0, 0
        super()._handle_notification(notification)

    def _deliver(self, notification: Notification, route: Route, decoded: Decoded) -> None:
        # Counted even without receivers, so that events that come again have the same positions.
        message = decoded.message
        message.origin, message.first_position = (notification, decoded.lost), self._next_position
        self._next_position += len(decoded.rows)
        message.lsn = notification.lsn
        super()._deliver(notification, route, decoded)

    def _deliver_batches(self, batches: list[Batch]) -> None:
        super()._deliver_batches(batches)
        self._acknowledge_delivered()

    def _acknowledge_delivered(self) -> None:
        """Acknowledge the transactions of which no event waits in a batch any more.

        Nothing is acknowledged after `stop()` has cut an event short: that event comes again, and all behind it.
        """
        delivered = self._gatherer.delivered_end_lsn
        if delivered > self._acknowledged and not self._abandoned:
            while not self._acknowledge(delivered):
                self._await_turn()
            self._acknowledged = delivered

    def _failed(self, subscriber: Subscriber, sender: Any, event: Any, error: BaseException) -> None:
        """Call the receiver again until it takes the event, or the policy gives the event up."""
        attempts = 1
        super()._failed(subscriber, sender, event, error)
        while not self._stopped.done():
            self._await_turn()
            if self._policy.is_exhausted(attempts) or not self._policy.in_order:
                for each in event if isinstance(event, list) else [event]:
                    self._park(subscriber, each, error, attempts)
                return
            self._stats.retries += 1
            self._pause(self._policy.delay(attempts))
            self._await_turn()
            if self._stopped.done():
                break
            failure = self._call_again(subscriber, sender, event)
            if failure is None:
                return
            error = failure
            attempts += 1
            super()._failed(subscriber, sender, event, error)
        self._abandoned = True

    def _call_again(self, subscriber: Subscriber, sender: Any, argument: Any) -> BaseException | None:
        if subscriber.is_async:
            return next((error for _, error in self._await([subscriber], sender, argument)), None)
        return try_call(subscriber, sender, argument)

    def _park(self, subscriber: Subscriber, event: Event[Any], error: BaseException, attempts: int) -> None:
        """Write a dead letter. Later events wait until that has succeeded."""
        exhausted = self._policy.is_exhausted(attempts)
        receiver = subscriber.resolve()
        retry_in = None if exhausted else self._policy.delay(attempts)
        tries = 0
        while not self._stopped.done():
            try:
                channel, payload = _origin_of(event)
                letter = (
                    self._group, channel, payload, event.lsn or 0,
                    event.position or 0, receiver_name(receiver), _describe(error), attempts,
                )  # fmt: skip
                with contextlib.closing(self._connect()) as connection:
                    dead_letters.park(connection, letter, retry_in)
                break
            except Exception as failure:  # of any kind: to go on would acknowledge an event that nobody has
                tries += 1
                log.warning("can't write a dead letter (%s): trying again", _describe(failure))
                self._pause(self._policy.delay(tries))
        else:
            self._abandoned = True
            return
        if exhausted:
            self._gave_up(receiver, event, error)

    def _gave_up(self, receiver: Any, event: Any, error: BaseException) -> None:
        self._stats.dead_letters += 1
        log.error("gave up %s.%s for receiver %r: it is among the dead letters", event.model, event.label, receiver)
        self._on_dead_letter(receiver, event, error)

    def _retry_next_parked(self) -> None:
        """Try one letter. Items that have come meanwhile are handled before the next letter."""
        self._queue.retry_is_due = False
        try:
            with contextlib.closing(self._connect()) as connection:
                letter = dead_letters.next_due(connection, self._group)
            if letter is None or self._stopped.done() or self._queue.needs_attention:
                return
            change = self._retry(letter)
            if self._abandoned:  # by `stop()`: the letter stays as it is
                return
            with contextlib.closing(self._connect()) as connection:
                change(connection)
        except Exception as error:
            log.warning("can't try the dead letters again (%s)", _describe(error))
            return
        self._queue.put_retry_due()

    def _retry(self, letter: dead_letters.DeadLetter) -> Callable[[psycopg.Connection[Any]], None]:
        """Call the letter's receiver, and return the change to be made to the letter."""
        notification = Notification(letter.channel, letter.payload.encode(), letter.lsn)
        failure: tuple[Any, Any, BaseException] | None = None
        found = False
        words = "no such receiver is connected any more"
        try:
            for subscriber, sender, event, argument in self._calls_for_row(notification, letter.position):
                name = receiver_name(subscriber.resolve())
                if letter.receiver not in (name, dead_letters.as_ascii(name)):
                    continue
                found = True
                error = self._call_again(subscriber, sender, argument)
                if error is not None:
                    failure, words = (subscriber.resolve(), event, error), _describe(error)
                    super()._failed(subscriber, sender, argument, error)
        except PayloadError as error:
            words = f"it can't be read any more: {error}"
        if found and failure is None:
            return lambda connection: dead_letters.remove(connection, letter)
        attempts = letter.attempts + 1
        exhausted = self._policy.is_exhausted(attempts) or not found
        retry_in = None if exhausted else self._policy.delay(attempts)

        def note(connection: psycopg.Connection[Any]) -> None:
            noted = dead_letters.update(connection, letter, words, retry_in)
            if noted and exhausted and failure is not None:
                self._gave_up(*failure)

        return note

    def _calls_for_row(self, notification: Notification, position: int) -> Iterator[tuple[Subscriber, Any, Any, Any]]:
        """Return each receiver of the one row of a dead letter, with sender, event and argument.

        :raises PayloadError: where the payload can't be read any more.
        """
        found = self._router.decode(notification.channel, notification.payload)
        if found is None:
            raise PayloadError("it is of no watch that there is here")
        if isinstance(found, Elsewhere):  # its table was known to be ours when the letter was written
            found = self._router.decode_as_ours(found)
        route, decoded = found
        message = decoded.message
        message.lsn, message.first_position = notification.lsn, position
        message.origin = (notification, decoded.lost)
        for row in decoded.rows:
            for sender, signals in route.destinations(row[0]):
                event: Event[Any] = Event(sender, message, *row)
                for subscriber, argument in (call for signal in signals for call in signal.calls_for(sender, event)):
                    yield subscriber, sender, event, argument

    def _wait_to_place(self, seconds: float) -> bool:
        """Wait before an event is looked up again; return False where it is left to whoever reads the slot next."""
        self._pause(seconds)
        self._await_turn()
        self._abandoned |= self._stopped.done()
        return not self._abandoned

    def _pause(self, seconds: float) -> None:
        """Wait for this time, or until `stop()`."""
        try:
            self._stopped.result(timeout=seconds)
        except TimeoutError:
            pass


def receiver_name(receiver: Any) -> str:
    """Return the name of a receiver in dead letters: module and qualified name, which are the same in every process."""
    function = getattr(receiver, "func", receiver)  # functools.partial
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"


def _origin_of(event: Event[Any]) -> tuple[str, str]:
    """Return the channel of an event, and the payload of its row alone."""
    message, _, index = parts_of(event)
    notification, lost = message.origin
    fields = json.loads(notification.payload)
    rows = [row for number, row in enumerate(fields["rows"]) if number not in lost]
    fields["rows"] = rows[index : index + 1]
    fields.pop("resync", None)
    return notification.channel, json.dumps(fields, ensure_ascii=False)


def _describe(error: BaseException) -> str:
    """Return an error in one line of at most `MAX_ERROR_LENGTH` characters, for a dead letter."""
    name, words = type(error).__name__, one_line(error)
    return (name if words == name else f"{name}: {words}")[:MAX_ERROR_LENGTH]
