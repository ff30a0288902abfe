"""Dead letters of a consumer group: writing them, and finding the receivers that they are for.

A letter names its receiver, for the next process. Where several receivers of an event have the same name, this process
tells them apart by identity, and the next one by the order in which they were connected.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
from blinker._utilities import make_ref  # as in signals.receivers

from ...errors import PayloadError, one_line
from ...events.event import Event
from ...events.messages import parts_of
from ...signals.receivers import name_of
from ...signals.transactions import Chunks
from ..decoding.routes import Elsewhere, Router
from ..naming import event_words, numbered_names
from ..options import RetryPolicy
from ..pipeline.gate import Gate, Revoked
from ..pipeline.inbox import Inbox
from ..pipeline.parts import Notification, Parked
from ..server.spare import Spare
from ..stats import DispatchStats
from ..waiting import Waiting
from . import dead_letters
from .calls import Call, CallAll, FilterReceiver, make_one
from .dead_letters import DeadLetter
from .failures import CutShort, counts
from .transactions import transaction_of

log: logging.Logger = logging.getLogger(__name__)

#: Called when an event was given up, with receiver, event and error.
OnDeadLetter = Callable[[Any, Any, BaseException], None]

#: Characters of an error that a letter keeps.
MAX_ERROR_LENGTH = 2000

BEHIND = "it waits behind an earlier event of its key"

#: Letters of which this process remembers the receiver, where a name alone would not do.
MAX_REMEMBERED = 10_000


class Calling(NamedTuple):
    """The dispatcher, as far as letters need it."""

    #: Calls receivers, and deals with their failures.
    call_all: CallAll
    #: Reports a failure, with what comes of it in words.
    report: Callable[[Call, BaseException, str], None]
    on_dead_letter: OnDeadLetter


class _Addressee(NamedTuple):
    """A receiver that shares its name with others."""

    receiver_id: Any
    #: Weak, where that is possible: no identity is used again while it is alive.
    resolve: Callable[[], Any]


class Letters:
    """The letters of one group.

    With lanes these park as well, and try letters that have a key; all else is done in the dispatch thread, but for
    `note_due`.
    """

    def __init__(
        self, group: str, policy: RetryPolicy, spare: Spare, router: Router, waiting: Waiting,
        stats: DispatchStats, calling: Calling, inbox: Inbox, gate: Gate, chunks: Chunks,
    ) -> None:  # fmt: skip
        self._group, self._policy, self._spare = group, policy, spare
        self._router, self._waiting, self._stats, self._calling = router, waiting, stats, calling
        self._inbox, self._gate, self._chunks = inbox, gate, chunks
        #: True while `retry_next` is in the inbox: once is enough.
        self._is_due = False
        #: By lsn, position and name; the oldest first.
        self._addressees: dict[tuple[int, int, str], _Addressee] = {}
        self._names_told: set[str] = set()
        #: Has those tried that have a key.
        self.retry_keys: Callable[[], None] = lambda: None

    def park(
        self, call: Call, event: Event[Any], error: BaseException | None, attempts: int, key: str | None = None
    ) -> str:
        """Write a letter, however long that takes: later events wait until it has succeeded.

        :param error: None for one that was not tried, since it waits behind another one of its key.
        :returns: the name of the receiver in it.
        :raises CutShort: where `stop()` came before.
        """
        exhausted = error is not None and self._policy.is_exhausted(error, attempts)
        retry_in = 0.0 if error is None else None if exhausted else self._policy.delay_after(error, attempts)
        words = BEHIND if error is None else describe(error)
        tries = 0
        while not self._waiting.is_over:
            try:
                channel, payload = _origin_of(event)
                lsn, position = event.lsn or 0, event.position or 0
                name = self._address(call, Notification(channel, payload.encode()), lsn, position)
                letter = (self._group, channel, payload, lsn, position, name, key, words, attempts)
                with self._spare.use() as connection:
                    dead_letters.park(connection, letter, retry_in)
                break
            except Exception as failure:  # of any kind: to go on would acknowledge an event that nobody has
                tries += 1
                log.warning("can't write a dead letter (%s): trying again", describe(failure))
                self._waiting.pause(self._policy.delay(tries))
        else:
            raise CutShort
        if error is not None and exhausted:
            self._give_up(call, event, error)
        return name

    def name_for(self, call: Call, event: Event[Any]) -> str:
        """Return the name that a call's receiver has in letters of this event."""
        channel, payload = _origin_of(event)
        return self._address(call, Notification(channel, payload.encode()), event.lsn or 0, event.position or 0)

    def _give_up(self, call: Call, event: Event[Any], error: BaseException) -> None:
        self._stats.dead_letters += 1
        name, words = name_of(call.subscriber), event_words(event)
        log.error("gave up %s for receiver %s: it is among the dead letters", words, name)
        self._calling.on_dead_letter(call.subscriber.connected, event, error)

    def _address(self, call: Call, notification: Notification, lsn: int, position: int) -> str:
        """Return the name of a receiver that is different from those of the event's other receivers."""
        name, own_id = name_of(call.subscriber), call.subscriber.receiver_id
        try:
            named = list(self._named_calls(notification, lsn, position))
        except PayloadError:  # it is not read as it was any more
            return name
        namesakes = {each.subscriber.receiver_id for _, each in named if name_of(each.subscriber) == name}
        if len(namesakes) < 2:
            return name
        self._warn(name, call)
        name = next((found for found, each in named if each.subscriber.receiver_id == own_id), name)
        if len(self._addressees) >= MAX_REMEMBERED:
            self._addressees.pop(next(iter(self._addressees.copy())), None)  # lanes park side by side
        receiver = call.subscriber.resolve()
        self._addressees[lsn, position, name] = _Addressee(own_id, _reference(receiver))
        return name

    def _warn(self, name: str, call: Call) -> None:
        if name not in self._names_told:
            self._names_told.add(name)
            log.warning(
                "several receivers of %s are called %s: in the next process their dead letters are told apart by the "
                "order in which they are connected; give them names of their own",
                event_words(call.argument), name,
            )  # fmt: skip

    def note_due(self) -> None:
        """Have a letter tried soon; called by the monitor, in its thread."""
        if not self._is_due:
            self._is_due = True
            self._inbox.put_call(self.retry_next)

    def retry_next(self) -> None:
        """Try one letter. What has come meanwhile is handled before the next one."""
        self._is_due = False
        try:
            if self._waiting.is_over or self._gate.needs_attention:
                return
            self.retry_keys()
            with self._spare.use() as connection:
                letter = dead_letters.next_due(connection, self._group)
            if letter is None:
                return
            self.retry(letter, self._waiting)
        except Revoked:
            raise
        except Exception as error:
            log.warning("can't try the dead letters again (%s)", describe(error))
            return
        if not self._waiting.was_cut_short:
            self.note_due()

    def call_for(self, letter: DeadLetter) -> Call | None:
        """Return the first call that a letter stands for; None where it stands for none any more."""
        try:
            return next(iter(self._calls_for(letter)), None)
        except PayloadError:
            return None

    def retry(self, letter: DeadLetter, waiting: Waiting) -> bool:
        """Call a letter's receiver, and note the outcome; a letter that `stop()` interrupts stays as it is.

        :param waiting: of the thread.
        :returns: True if it is not tried again.
        """
        failure: tuple[Call, BaseException] | None = None
        outcome = ""
        try:
            calls = self._calls_for(letter)
            for call in calls:
                raised = make_one(waiting, call)
                if raised is not None:
                    failure, outcome = (call, raised), describe(raised)
                    self._calling.report(call, raised, self._fate(letter, raised))
            if not calls:
                outcome = "no such receiver is connected any more"
        except PayloadError as error:
            outcome = f"it can't be read any more: {error}"
        if waiting.was_cut_short:
            return False
        with self._spare.use() as connection:
            if outcome:
                return self._note(connection, letter, outcome, failure)
            dead_letters.remove(connection, letter)
            self._addressees.pop((letter.lsn, letter.position, letter.receiver), None)
            return True

    def _note(
        self, connection: psycopg.Connection[Any], letter: DeadLetter, outcome: str,
        failure: tuple[Call, BaseException] | None,
    ) -> bool:  # fmt: skip
        attempts = letter.attempts + (failure is None or counts(failure[1]))
        exhausted = failure is None or self._is_exhausted(failure[1], attempts)
        retry_in = None if failure is None or exhausted else self._policy.delay_after(failure[1], attempts)
        noted = dead_letters.update(connection, letter, outcome, attempts, retry_in)
        if noted and exhausted and failure is not None:
            call, error = failure
            self._give_up(call, call.events[0], error)
        return noted and exhausted

    def _is_exhausted(self, error: BaseException, attempts: int) -> bool:
        return counts(error) and self._policy.is_exhausted(error, attempts)

    def _fate(self, letter: DeadLetter, error: BaseException) -> str:
        attempts = letter.attempts + counts(error)
        if self._is_exhausted(error, attempts):
            return "its dead letter is given up"
        return f"its dead letter is tried again in {self._policy.delay_after(error, attempts):g} s"

    def _calls_for(self, letter: DeadLetter) -> list[Call]:
        """Return the calls that a letter stands for; none where its receiver is not connected any more.

        :raises PayloadError: where the event can't be read any more.
        """
        named = self._named_calls(Notification(letter.channel, letter.payload.encode()), letter.lsn, letter.position)
        addressee = self._addressees.get((letter.lsn, letter.position, letter.receiver))
        if addressee is not None:
            found, is_alive = addressee.receiver_id, addressee.resolve() is not None
            return [call for _, call in named if is_alive and call.subscriber.receiver_id == found]
        return [call for name, call in named if letter.receiver in (name, dead_letters.as_ascii(name))]

    def _named_calls(self, notification: Notification, lsn: int, position: int) -> Iterator[tuple[str, Call]]:
        """Return each receiver of the one row of a letter, under its name in letters.

        :raises PayloadError: where the payload can't be read any more.
        """
        found = self._router.decode(notification.channel, notification.payload)
        if found is None:
            raise PayloadError("it is of no watch that there is here")
        if isinstance(found, Elsewhere):  # its table was known to be ours when the letter was written
            found = self._router.decode_as_ours(found, found.schema or "")
        route, decoded = found
        message = decoded.message
        message.lsn, message.first_position = lsn, position
        message.origin = notification
        message.transaction = Parked(lsn, self._gate.served)
        for row in decoded.rows:
            calls: list[Call] = []
            filtering: list[Call] = []
            for sender, signals in route.destinations(row[0]):
                event: Event[Any] = Event(sender, message, *row)
                for signal in (*signals, self._router.everything):
                    for subscriber, argument in signal.calls_for(sender, event):
                        calls.append(Call(signal, subscriber, sender, argument))
                    for keys in tuple(signal.filters):
                        filters = FilterReceiver(signal, keys, self._calling.call_all)
                        filtering.append(Call(filters, filters.as_subscriber(), sender, event))
                for subscriber in self._chunks.subscribers.for_sender(None):
                    transaction = transaction_of([event], 0, is_last=True)
                    calls.append(Call(self._chunks, subscriber, self._router.listener, transaction))
            calls += filtering
            yield from zip(numbered_names(call.subscriber for call in calls), calls, strict=True)


def _origin_of(event: Event[Any]) -> tuple[str, str]:
    """Return the channel of an event, and the payload of its row alone."""
    message, _, _, number = parts_of(event)
    notification: Notification = message.origin
    fields = json.loads(notification.payload)
    fields["rows"] = fields["rows"][number : number + 1]
    # In place of what is to be looked up, and of what stands in the log.
    fields |= {"schema": message.schema, "txid": message.txid, "at": message.at.isoformat()}
    fields.pop("oid", None)
    fields.pop("resync", None)
    text = json.dumps(fields, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and no database can hold
        text = json.dumps(fields)
    return notification.channel, text


def _reference(receiver: Any) -> Callable[[], Any]:
    try:
        return make_ref(receiver)
    except TypeError:
        return lambda: receiver


def describe(error: BaseException) -> str:
    """Return an error in one line of at most `MAX_ERROR_LENGTH` characters, for a dead letter."""
    name, words = type(error).__name__, one_line(error)
    return (name if words == name else f"{name}: {words}")[:MAX_ERROR_LENGTH]
