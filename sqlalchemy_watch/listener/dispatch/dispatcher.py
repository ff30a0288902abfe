"""The thread that decodes payloads and calls receivers. A receiver that raises does not disturb the others."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from ...errors import ListenerError, PayloadError
from ...signals.events import Event
from ...signals.receivers import Batching, Subscriber
from ..decoding.payload import Decoded
from ..decoding.routes import Route, Router
from ..handover.items import BatchesDue, CaughtUp, Connected, Control, Disconnected, Notification, Resync
from ..handover.queue import EventQueue
from ..stats import Stats
from .garbage import GarbageLog
from .gather import Batch, Gatherer
from .placing import Placing

log: logging.Logger = logging.getLogger(__name__)

#: Called with control items, in the dispatch thread.
OnControl = Callable[[Control], None]
#: Called when a receiver raised, with receiver, event and error.
OnFailure = Callable[[Any, Any, BaseException], None]

#: Reads from the source, and waits until something comes, or a deadline; returns False where it can't at present.
ReadSource = Callable[[float | None], bool]

#: Seconds that coroutine receivers of batches get at `stop()`.
LAST_BATCH_SECONDS = 2.0

UNREADABLE = "a message could not be read by this version of the library"

#: Seconds between two resyncs that messages ask for, for the same reason. Otherwise a client that floods a channel
#: would keep everybody reloading.
RESYNC_SECONDS = 1.0

#: Seconds between checks of the event loop in which a coroutine is awaited: it may have been closed.
LOOP_CHECK_SECONDS = 1.0

#: Seconds between attempts to get an item, where getting one fails.
BUG_SECONDS = 0.1

UNEXPECTED = "an unexpected error while dispatching"
UNDECIDED = "an event came without a column that filters compare: too large, or of an outdated trigger"


class Dispatcher:
    """Takes items from the queue and handles them, until the queue is closed."""

    def __init__(
        self,
        queue: EventQueue,
        router: Router,
        stats: Stats,
        on_control: OnControl,
        on_failure: OnFailure,
        loop: asyncio.AbstractEventLoop | None,
        read_source: ReadSource = lambda deadline: False,
    ) -> None:
        self._read_source = read_source
        self._queue, self._router, self._stats = queue, router, stats
        self._on_control, self._on_failure = on_control, on_failure
        self._loop = loop
        self._gatherer = Gatherer()
        self._stopped: concurrent.futures.Future[None] = concurrent.futures.Future()
        #: True if `stop()` kept a receiver from getting an event that it should have had.
        self._abandoned = False
        self._garbage = GarbageLog()
        self.placing: Placing = Placing(router, queue, stats, self._ask_to_resync, lambda: self._stopped)
        #: The time of the last resync that messages asked for, by reason.
        self._resynced: dict[str, float] = {}
        #: The time at which handling the present item began, by `time.monotonic()`; None between items.
        self.busy_since: float | None = None
        self.thread: threading.Thread = threading.Thread(
            target=self._run, name="sqlalchemy-watch-dispatch", daemon=True
        )

    def stop(self) -> None:
        """Let the thread end after the receiver that it is calling; coroutines are no longer awaited."""
        self._queue.close()
        self._give_up()

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
            self.busy_since = None
        self._last_batches()

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
            self._on_control(Resync(UNEXPECTED))

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
            item.done.set()
        else:
            assert isinstance(item, (Resync, Connected, Disconnected))
            self.placing.forget()
            self._on_control(item)

    def _handle_notification(self, notification: Notification) -> None:
        try:
            found = self.placing.decode(notification.channel, notification.payload)
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
        self._gatherer.resyncs[reason] = self._resynced.get(reason, -math.inf) + RESYNC_SECONDS
        self._send_resyncs(now)

    def _send_resyncs(self, now: float = math.inf) -> None:
        """Send the resyncs that are due; without a time, all that were put off."""
        for reason in self._gatherer.take_resyncs(now):
            self._on_control(Resync(reason))
            self._resynced[reason] = time.monotonic()

    def _deliver(self, notification: Notification, route: Route, decoded: Decoded) -> None:
        message, rows, stats, queue = decoded.message, decoded.rows, self._stats, self._queue
        if rows:
            stats.lag = time.time() - message.at / 1e6
        uniform = route.destinations(()) if route.is_uniform else None
        indexes = message.kind.indexes
        call_all = self._call_all
        undecided = False
        for index, (values, extras) in enumerate(rows):
            if queue.needs_attention and self._is_over():
                return
            stats.events += 1
            for sender, signals in uniform or route.destinations(values):
                event: Event[Any] | None = None
                for signal in signals:
                    subscribers = signal.subscribers_for(sender)
                    if not subscribers and not signal.filters:
                        continue
                    if event is None:
                        event = Event(sender, message, values, extras, index)
                    if subscribers:
                        call_all(subscribers, sender, event)
                    if signal.filters:
                        matching, unknown = signal.matching_subscribers(sender, values, indexes)
                        undecided |= unknown
                        for filtered in matching:
                            call_all(filtered, sender, event)
        if undecided:
            self._ask_to_resync(UNDECIDED)

    def _call_all(self, subscribers: tuple[Subscriber, ...], sender: Any, event: Event[Any]) -> None:
        """Call receivers. Failures are dealt with after all have been called."""
        coroutines: list[Subscriber] | None = None
        failures: list[tuple[Subscriber, BaseException]] | None = None
        queue = self._queue
        for subscriber in subscribers:
            if queue.needs_attention and self._is_over():  # by the receiver before
                break
            if subscriber.is_async:
                coroutines = [*(coroutines or ()), subscriber]
                continue
            if subscriber.batch is not None:
                self._gather(subscriber.batch, sender, event)
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
                failures = [*(failures or ()), (subscriber, error)]
        if coroutines and not (queue.needs_attention and self._is_over()):
            failures = [*(failures or ()), *self._await(coroutines, sender, event)]
        for subscriber, raised in failures or ():
            self._failed(subscriber, sender, event, raised)

    def _is_over(self) -> bool:
        """Return True if no receiver is called any more. Asked before each call, while the queue needs attention."""
        self._await_turn()
        return self._queue.closed

    def _await_turn(self) -> None:
        """Wait while no receiver may be called. Without durable delivery they always may."""

    def _gather(self, signal: Batching, sender: Any, event: Event[Any]) -> None:
        full = self._gatherer.add(signal, sender, event)
        if full is not None:
            self._deliver_batches([full])

    def _deliver_batches(self, batches: list[Batch]) -> None:
        for batch in batches:
            events = batch.events
            failures: list[tuple[Subscriber, BaseException]] = []
            for subscriber in batch.signal.subscribers_for(batch.sender):
                self._await_turn()
                if subscriber.is_async:
                    failures += self._await([subscriber], batch.sender, events)
                elif (raised := try_call(subscriber, batch.sender, events)) is not None:
                    failures.append((subscriber, raised))
            for subscriber, raised in failures:
                self._failed(subscriber, batch.sender, events, raised)

    def _last_batches(self) -> None:
        """Deliver at `stop()` what has been gathered. Coroutines get `LAST_BATCH_SECONDS` for it."""
        self._stopped = concurrent.futures.Future()
        timer = threading.Timer(LAST_BATCH_SECONDS, self._give_up)
        timer.daemon = True
        if self._gatherer:
            try:
                timer.start()
            except RuntimeError:  # the interpreter is ending: no new threads
                self._give_up()
        self._deliver_batches(self._gatherer.take_all())
        timer.cancel()
        self._give_up()

    def _give_up(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _await(
        self, subscribers: list[Subscriber], sender: Any, argument: Any
    ) -> list[tuple[Subscriber, BaseException]]:
        """Run coroutine receivers side by side, and wait for them: so events stay in order, and few are in memory.

        :returns: the receivers that failed, with what they raised.
        """
        running: dict[concurrent.futures.Future[Any], Subscriber] = {}
        failures: list[tuple[Subscriber, BaseException]] = []
        for subscriber in subscribers:
            receiver = subscriber.resolve()
            if receiver is None:
                continue
            loop = subscriber.loop or self._loop
            if loop is None or loop.is_closed():
                state = "is closed" if loop is not None else "was not running"
                unrunnable = ListenerError(
                    f"the event loop in which the coroutine receiver {receiver!r} was connected {state}: connect it, "
                    f"or start the listener, inside a running loop"
                )
                failures.append((subscriber, unrunnable))
                continue
            coroutine = _call_one(subscriber, receiver, sender, argument)
            try:
                running[asyncio.run_coroutine_threadsafe(coroutine, loop)] = subscriber
            except RuntimeError as error:
                coroutine.close()
                failures.append((subscriber, error))
        pending = set(running)
        while pending and not self._stopped.done():
            done, pending = concurrent.futures.wait(
                {*pending, self._stopped}, LOOP_CHECK_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
            )
            pending.discard(self._stopped)
            for future in [future for future in pending if self._has_no_loop(running[future])]:
                pending.discard(future)  # it would never be done
                failures.append((running[future], ListenerError("the event loop was closed meanwhile")))
            for future in done - {self._stopped}:
                raised = concurrent.futures.CancelledError() if future.cancelled() else future.exception()
                if raised is not None:
                    failures.append((running[future], raised))
        self._abandoned |= bool(pending)
        return failures

    def _has_no_loop(self, subscriber: Subscriber) -> bool:
        loop = subscriber.loop or self._loop
        return loop is None or loop.is_closed()

    def _failed(self, subscriber: Subscriber, sender: Any, event: Any, error: BaseException) -> None:
        """Count and report a failure. The receiver is not called again for this event."""
        self._stats.failed_receivers += 1
        self._on_failure(subscriber.resolve(), event, error)


def _call_one(subscriber: Subscriber, receiver: Any, sender: Any, argument: Any) -> Any:
    """Call a receiver, and return its result.

    :param argument: an event; for a receiver of batches, the list of its events.
    """
    if subscriber.positional:
        return receiver(sender, argument)
    return receiver(sender, events=argument) if isinstance(argument, list) else receiver(sender, event=argument)


def try_call(subscriber: Subscriber, sender: Any, argument: Any) -> BaseException | None:
    """Call a receiver that is no coroutine function, and return what it raised; None where it raised nothing."""
    receiver = subscriber.resolve()
    if receiver is None:
        return None
    try:
        _call_one(subscriber, receiver, sender, argument)
    except BaseException as error:
        return error
    return None
