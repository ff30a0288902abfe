"""The thread that decodes payloads and calls receivers. A receiver that raises does not disturb the others."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from ...errors import PayloadError
from ...events.event import Event
from ...events.messages import parts_of
from ...signals.feeds import Feed
from ...signals.matching import Keys
from ...signals.receivers import Subscriber
from ..decoding.payload import Decoded
from ..decoding.routes import Route, Router
from ..handover.items import BatchesDue, CaughtUp, Connected, Control, Disconnected, Notification, Resync
from ..handover.queue import EventQueue
from ..naming import event_words
from ..stats import Stats
from ..waiting import Waiting
from .calls import Call, make_all
from .garbage import GarbageLog
from .gather import Batch, Gatherer
from .placing import Placing

log: logging.Logger = logging.getLogger(__name__)

#: Called with control items, in the dispatch thread.
OnControl = Callable[[Control], None]
#: Called when a receiver raised, with receiver, event, error, and what comes of it in words.
OnFailure = Callable[[Any, Any, BaseException, str], None]

#: Reads from the source, and waits until something comes, or a deadline; returns False where it can't at present.
ReadSource = Callable[[float | None], bool]

#: Seconds that coroutine receivers of batches get at `stop()`.
LAST_BATCH_SECONDS = 2.0

UNREADABLE = "a message could not be read by this version of the library"

#: Seconds between two resyncs that messages ask for, for the same reason. Otherwise a client that floods a channel
#: would keep everybody reloading.
RESYNC_SECONDS = 1.0

#: Seconds between attempts to get an item, where getting one fails.
BUG_SECONDS = 0.1

UNEXPECTED = "an unexpected error while dispatching"
UNCOMPARED = "a filter could not compare a value"
UNDECIDED = "an event came without a column that filters compare: too large, or of an outdated trigger"


class Dispatcher:
    """Takes items from the queue and handles them, until the queue is closed."""

    #: True if an item is handled anew where an unexpected error ended that. Otherwise such an error is a gap.
    _repeats = False

    def __init__(
        self,
        queue: EventQueue,
        router: Router,
        stats: Stats,
        on_control: OnControl,
        on_failure: OnFailure,
        waiting: Waiting,
        read_source: ReadSource = lambda deadline: False,
    ) -> None:
        self._read_source = read_source
        self._queue, self._router, self._stats = queue, router, stats
        self._on_control, self._on_failure = on_control, on_failure
        self._waiting = waiting
        self._gatherer = Gatherer()
        #: The number of the first row of the present notification that has not been dispatched yet.
        self._next_row = 0
        self._garbage = GarbageLog()
        #: The time of the newest event, and when it was dispatched.
        self._newest: tuple[datetime, float] | None = None
        self.placing: Placing = Placing(router, queue, stats, self._ask_to_resync, lambda: self._waiting.stopped)
        #: The time of the last resync that messages asked for, by reason.
        self._resynced: dict[str, float] = {}
        #: The time at which handling the present item began, by `time.monotonic()`; None between items.
        self.busy_since: float | None = None
        self.thread: threading.Thread = threading.Thread(
            target=self._run, name="sqlalchemy-watch-dispatch", daemon=True
        )

    @property
    def lag(self) -> float | None:
        """Seconds between `emitted_at` and dispatch, of the newest event; None before the first."""
        newest = self._newest
        return None if newest is None else newest[1] - newest[0].timestamp()

    def stop(self) -> None:
        """Let the thread end after the receiver that it is calling; coroutines are no longer awaited."""
        self._queue.close()
        self._waiting.stop()

    def _run(self) -> None:
        while True:  # a bug of ours must not silence the listener
            try:
                item = self._next()
            except BaseException:
                self._note_bug()
                time.sleep(BUG_SECONDS)
                continue
            if item is None:
                break
            self.busy_since = time.monotonic()
            try:
                self._handle(item)
            except BaseException:
                self._note_bug()
                if isinstance(item, CaughtUp):  # whoever waits is told of the gap, and waits for nothing else
                    item.done.set()
            self.busy_since = None
        try:
            self._last_batches()
        except BaseException:
            with contextlib.suppress(Exception):
                log.exception("unexpected error while dispatching the last batches")

    def _next(self) -> Notification | Control | None:
        """Return the next item. While there is none, this thread reads the source itself."""
        queue, deadline = self._queue, self._gatherer.deadline
        if self.placing.due_at != math.inf:
            deadline = min(deadline or math.inf, self.placing.due_at)
        while queue.is_idle and (deadline is None or deadline > time.monotonic()) and self._read_source(deadline):
            pass
        return queue.get(deadline)

    def _note_bug(self) -> None:
        """Log the bug and send a resync. The thread goes on, even where it is logging that fails."""
        with contextlib.suppress(Exception):
            log.exception("unexpected error while dispatching; going on")
        with contextlib.suppress(Exception):
            self._ask_to_resync(UNEXPECTED)

    def _handle(self, item: Notification | Control) -> None:
        if isinstance(item, Notification):
            self._handle_notification(item)
        elif isinstance(item, BatchesDue):
            self._deliver_batches(self._gatherer.take_due())
            self.placing.look_again(time.monotonic())
            self._send_resyncs(time.monotonic())
        elif isinstance(item, CaughtUp):
            self._deliver_batches(self._gatherer.take_all())
            self.placing.look_again()
            self._send_resyncs()
            if not self._waiting.was_cut_short:
                item.done.set()
        elif isinstance(item, Resync) and item.is_asked_for:
            self._ask_to_resync(item.reason)
        else:
            assert isinstance(item, (Resync, Connected, Disconnected))
            self.placing.forget(is_connected=isinstance(item, Connected))
            self._tell(item)

    def _tell(self, item: Resync | Connected | Disconnected) -> None:
        """Tell of the connection, or of a gap: in the order of events, and so behind what has been gathered."""
        try:
            self._deliver_batches(self._gatherer.take_all())
        finally:
            self._on_control(item)

    def _handle_notification(self, notification: Notification) -> None:
        try:
            found = self.placing.decode(notification)
        except PayloadError as error:
            self._stats.garbage += 1
            self._garbage.note(notification, error)
            if error.tells_of_rows or notification.lsn is not None:
                self._ask_to_resync(UNREADABLE)  # it told of rows, and so is no stranger's garbage
            return
        if found is None:
            return
        route, decoded = found
        if route.log.isEnabledFor(logging.DEBUG):
            message = decoded.message
            route.log.debug("%d rows %s by transaction %d", len(decoded.rows), message.kind.operation, message.txid)
        self._deliver(notification, route, decoded)
        if decoded.resync is not None:
            self._ask_to_resync(decoded.resync)

    def _ask_to_resync(self, reason: str) -> None:
        """Send a resync: now, or `RESYNC_SECONDS` after the last one for this reason."""
        now = time.monotonic()
        self._gatherer.put_off_resync(reason, self._resynced.get(reason, -math.inf) + RESYNC_SECONDS)
        self._send_resyncs(now)

    def _send_resyncs(self, now: float = math.inf) -> None:
        """Send the resyncs that are due; without a time, all that were put off."""
        for reason in self._gatherer.take_resyncs(now):
            self._tell(Resync(reason))
            self._resynced[reason] = time.monotonic()

    def _deliver(self, notification: Notification, route: Route, decoded: Decoded) -> None:
        message, rows, stats, queue = decoded.message, decoded.rows, self._stats, self._queue
        if rows:
            self._newest = message.at, time.time()
        uniform = route.destinations(()) if route.is_uniform else None
        undecided, bugs = False, list[BaseException]()
        for number, (values, extras) in zip(_numbers(decoded), rows, strict=True):
            if queue.needs_attention and self._is_over():
                return
            if number < self._next_row:
                continue
            stats.events += 1
            try:
                for sender, signals in uniform or route.destinations(values):
                    event: Event[Any] | None = None
                    for signal in signals:
                        subscribers = signal.subscribers_for(sender)
                        if not subscribers and not signal.filters:
                            continue
                        if event is None:
                            event = Event(sender, message, values, extras, number)
                        if subscribers:
                            self._call_all(signal, subscribers, sender, event)
                        if signal.filters:
                            undecided |= self._call_filtered(signal, sender, event)
            except BaseException as error:
                if self._repeats:
                    self._next_row = number
                    raise
                bugs.append(error)  # that is a gap; the other rows are gone on with
        if undecided:
            self._ask_to_resync(UNDECIDED)
        if bugs:
            log.error("unexpected error while dispatching %d of %d rows", len(bugs), len(rows), exc_info=bugs[0])
            self._ask_to_resync(UNEXPECTED)

    def _call_filtered(self, signal: Feed, sender: Any, event: Event[Any]) -> bool:
        """Call the receivers of filters; return True if one could not be decided for want of a column."""
        message, row, extras, _ = parts_of(event)
        matches = signal.matching_subscribers(sender, row, message.kind.indexes, extras)
        for filtered in matches.subscribers:
            self._call_all(signal, filtered, sender, event)
        for keys, error in matches.failed:
            self._note_uncompared(signal, keys, sender, event, error)
        return matches.is_undecided

    def _note_uncompared(self, signal: Feed, keys: Keys, sender: Any, event: Event[Any], error: Exception) -> None:
        """Note that the values of filters could not be compared: that is a gap for their receivers."""
        log.error("filters of %s by %s could not be compared", event_words(event), ", ".join(keys), exc_info=error)
        self._ask_to_resync(UNCOMPARED)

    def _call_all(self, signal: Feed, subscribers: tuple[Subscriber, ...], sender: Any, event: Event[Any]) -> None:
        """Call receivers. Failures are dealt with after all have been called."""
        coroutines: list[Call] | None = None
        failures: list[tuple[Call, BaseException]] | None = None
        queue = self._queue
        for subscriber in subscribers:
            if queue.needs_attention and self._is_over():  # by the receiver before
                break
            if subscriber.is_async:
                coroutines = [*(coroutines or ()), Call(signal, subscriber, sender, event)]
                continue
            if subscriber.batch is not None:
                full = self._gatherer.add(subscriber.batch, sender, event)
                if full is not None:
                    self._deliver_batches([full])
                continue
            receiver = subscriber.receiver() if subscriber.weak else subscriber.receiver  # resolve(), without the call
            if receiver is None:
                continue
            try:
                if subscriber.positional:
                    receiver(sender, event)
                else:
                    receiver(sender, event=event)
            except BaseException as error:
                failures = [*(failures or ()), (Call(signal, subscriber, sender, event), error)]
        receiver = None  # weakly connected ones may die while a failure is dealt with
        if coroutines and not (queue.needs_attention and self._is_over()):
            failures = [*(failures or ()), *make_all(self._waiting, coroutines)]
        for call, raised in failures or ():
            self._failed(call, raised)

    def _is_over(self) -> bool:
        """Return True if no receiver is called any more. Asked before each call, while the queue needs attention."""
        self._await_turn()
        return self._queue.closed

    def _await_turn(self) -> None:
        """Wait while no receiver may be called. Without durable delivery they always may."""

    def _deliver_batches(self, batches: list[Batch]) -> None:
        for number, batch in enumerate(batches):
            failures: list[tuple[Call, BaseException]] = []
            try:
                for subscriber in batch.signal.subscribers_for(batch.sender):
                    self._await_turn()
                    failures += make_all(self._waiting, [Call(batch.signal, subscriber, batch.sender, batch.events)])
                for call, raised in failures:
                    self._failed(call, raised)
            except BaseException:
                self._gatherer.put_back(batches[number + (not self._repeats) :])
                raise

    def _last_batches(self) -> None:
        """Deliver at `stop()` what has been gathered. Coroutines get `LAST_BATCH_SECONDS` for it."""
        self._waiting.extend(LAST_BATCH_SECONDS)
        self._deliver_batches(self._gatherer.take_all())
        self._waiting.extend(0.0)

    def _failed(self, call: Call, error: BaseException) -> None:
        self._report(call, error, "not tried again")

    def _report(self, call: Call, error: BaseException, fate: str) -> None:
        """Count and report a failure, with what comes of the event in words."""
        self._stats.failed_receivers += 1
        with contextlib.suppress(Exception):  # a failure to log
            self._on_failure(call.subscriber.resolve(), call.argument, error, fate)


def _numbers(decoded: Decoded) -> Sequence[int]:
    """Return the number of each decoded row within the payload."""
    total, lost = len(decoded.rows) + len(decoded.lost), set(decoded.lost)
    return [number for number in range(total) if number not in lost] if lost else range(total)
