"""The thread that decodes payloads and calls receivers, for every way of delivery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol

from ...declaring.spec import READ
from ...errors import PayloadError
from ...events.event import Event
from ...events.messages import Message as EventMessage
from ...signals.transactions import Chunks
from ..decoding.payload import Decoded
from ..decoding.routes import Elsewhere, Route, Router
from ..decoding.rows import Row
from ..pipeline.gate import Gate, Revoked
from ..pipeline.inbox import Inbox, Lot
from ..pipeline.parts import CaughtUp, Connected, Disconnected, Here, Mark, News, Notification, Resync, Transaction
from ..stats import Stats
from ..waiting import Waiting
from .batches import Batches
from .failures import Policy
from .garbage import GarbageLog
from .keys import Keys
from .lanes import Lanes
from .placing import Placing
from .positions import Numbers, Positions
from .receivers import Receivers
from .resyncs import Resyncs
from .transactions import Transactions

log: logging.Logger = logging.getLogger(__name__)

#: Called with what the listener's own signals tell, in the dispatch thread.
OnNews = Callable[[News], None]

#: Reads from the source, and waits until something comes, or a deadline; returns False where it can't at present.
ReadSource = Callable[[float | None], bool]


def reads_by_itself(deadline: float | None) -> bool:
    """Read nothing: the source has a thread for that."""
    return False


#: Seconds that coroutine receivers of batches get at `stop()`.
LAST_BATCH_SECONDS = 2.0

UNREADABLE = "a message could not be read by this version of the library"

#: Seconds between attempts to get something to do, where getting it fails.
BUG_SECONDS = 0.1

UNEXPECTED = "an unexpected error while dispatching"


class Shows(Protocol):
    """Knows which transactions are visible to others."""

    def is_known(self, txid: int) -> bool:
        """Return True if the transaction is visible, as far as that is known without a question."""

    def await_visible(self, txid: int) -> bool:
        """Return True once the transaction is visible, False where there is nothing to wait for any more."""

    def forget(self) -> None:
        """Trust no earlier answer any more."""

    def close(self) -> None:
        """Close what it has open."""


class Touched(Protocol):
    """Notes which rows of a table have been told of, by which transactions."""

    #: The key of the table.
    table: str

    def note(self, message: EventMessage, rows: Iterable[Row]) -> None:
        """Note the rows of a message."""


class Dispatcher:
    """Handles what comes into the inbox, until `stop()`.

    :param policy: for receivers that raise, and errors of the library's own.
    :param read_source: reads in this thread while there is nothing to do.
    :param visibility: has events wait until their rows are visible; None where they are, or need not be.
    :param lanes: calls receivers; None where this thread does.
    :param keys: of the lanes.
    """

    def __init__(
        self, inbox: Inbox, gate: Gate, router: Router, stats: Stats, on_news: OnNews, policy: Policy,
        waiting: Waiting, chunks: Chunks, read_source: ReadSource = reads_by_itself,
        visibility: Shows | None = None, lanes: Lanes | None = None, keys: Keys | None = None,
    ) -> None:  # fmt: skip
        self._inbox, self._gate, self._router, self._stats = inbox, gate, router, stats
        self._on_news, self._policy, self._waiting = on_news, policy, waiting
        self._read_source, self._visibility = read_source, visibility
        self._lanes, self._keys = lanes, keys or Keys(None)
        #: Notes the rows of events, while existing rows are being read.
        self.touched: Touched | None = None
        self._batches = Batches(gate, waiting, policy)
        self._receivers = Receivers(gate, waiting, policy, self._batches)
        self._transactions = Transactions(chunks, router.listener, gate, waiting, policy)
        self._resyncs = Resyncs(gate)
        self._positions, self._numbers = Positions(), Numbers()
        #: That of which something is handled; and one that is held since an event of it, or of one behind it, was
        #: passed over that is to be looked at again.
        self._transaction: Transaction | None = None
        self._passed_over: Transaction | None = None
        #: The number of the first row of the present notification that has not been dispatched yet.
        self._next_row = 0
        #: True once the present message is not gone on with.
        self._is_cut = False
        self._garbage = GarbageLog()
        #: The time of the newest event, and when it was dispatched.
        self._newest: tuple[datetime, float] | None = None
        self.placing: Placing = Placing(router, inbox, stats, self._ask_to_resync, lambda: self._waiting.stopped)
        self._busy_since: float | None = None
        gate.on_news = self._hear
        self.thread: threading.Thread = threading.Thread(
            target=self._run, name="sqlalchemy-watch-dispatch", daemon=True
        )

    @property
    def receivers(self) -> Receivers:
        """All that is connected, as this thread calls it."""
        return self._receivers

    @property
    def busy_since(self) -> float | None:
        """When what is being handled for the longest time was begun, by `time.monotonic()`; None where nothing is."""
        own, lanes = self._busy_since, None if self._lanes is None else self._lanes.busy_since
        return min(own, lanes) if own is not None and lanes is not None else own or lanes

    @property
    def workers(self) -> Sequence[threading.Thread]:
        """The threads that call receivers beside this one."""
        return [] if self._lanes is None else list(self._lanes.threads)

    @property
    def lag(self) -> float | None:
        """Seconds between `emitted_at` and dispatch, of the newest event; None before the first."""
        newest = self._newest
        return None if newest is None else newest[1] - newest[0].timestamp()

    def is_calling(self, task: asyncio.Task[Any] | None) -> bool:
        """Return True if this task is a receiver's call that is not done; called on the task's loop."""
        return self._waiting.is_for(task) or (self._lanes is not None and self._lanes.is_calling(task))

    def stop(self) -> None:
        """Let the thread end after the receiver that it is calling; coroutines are no longer awaited."""
        self._gate.stop()
        self._waiting.stop()
        if self._lanes is not None:
            self._lanes.stop()
        if not self._policy.repeats:
            self._inbox.drop_rest()

    def _run(self) -> None:
        while not self._gate.is_stopped:  # a bug of ours must not silence the listener
            try:
                self._step()
            except BaseException:
                self._note_bug()
                if self._policy.repeats:  # the rest of a lot is gone, and would hold up the log in silence
                    self._gate.ledger.abandon()
                time.sleep(BUG_SECONDS)
            self._busy_since = None
        try:
            self._end()
        except BaseException:
            with contextlib.suppress(Exception):
                log.exception("unexpected error while dispatching the last batches")

    def _step(self) -> None:
        """Do what is to be done next, or what is due. While there is nothing, this thread reads the source itself."""
        inbox, deadline = self._inbox, self._deadline
        if inbox.is_empty:
            inbox.put_owed(self._gate.ledger)
        while inbox.is_empty and (deadline is None or deadline > time.monotonic()) and self._read_source(deadline):
            pass
        work = inbox.get(deadline)
        self._busy_since = time.monotonic()
        if isinstance(work, Lot):
            self.handle_lot(work)
        elif work is not None:
            self._until_done(work)
        if self._gate.needs_attention:
            self._busy_since = None  # it waits, and for nobody's receiver
            self._until_done(self._gate.await_turn)
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        deadline = self._deadline
        if deadline is not None and deadline <= time.monotonic() and not self._gate.is_stopped:
            self._until_done(self._deliver_due)

    @property
    def _deadline(self) -> float | None:
        if not (self._batches or self._resyncs or self.placing.due_at != math.inf):
            return None
        return min(self._batches.deadline, self._resyncs.deadline, self.placing.due_at)

    def handle_lot(self, lot: Lot) -> None:
        """In the dispatch thread: handle the parts of transactions; those of a tenure that is over are dropped."""
        gate, ledger = self._gate, lot.ledger
        if ledger is gate.ledger and ledger is not gate.served:
            self._forget()
        for transaction, messages, is_last in lot.parts:
            self._transaction = transaction
            for message in messages:
                if gate.is_stopped:
                    return
                self._inbox.note_taken(message)
                if ledger is not gate.served:
                    continue
                self._busy_since = now = time.monotonic()
                gate.look(now)
                self._next_row = 0
                handle = self._handle_notification if isinstance(message, Notification) else self._handle_mark
                if not self._until_done(handle, transaction, message) and gate.is_stopped:
                    return
            if is_last and ledger is gate.served and self._end_transaction():
                ledger.handled(transaction)
                if transaction.when_done:
                    ledger.settle()
            self._look_at_clock()  # a lot may take long
        self._transaction = None
        ledger.settle()
        ledger.on_progress()  # there is space in the inbox

    def _end_transaction(self) -> bool:
        """Deliver what waited for the end; return False where that was not done."""
        return not self._transactions.are_gathered or self._until_done(self._transactions.end)

    def _until_done(self, action: Callable[..., Any], *arguments: Any) -> bool:
        """Do something. With durable delivery until that has succeeded: what was not heard must not be acknowledged.

        :returns: False where it was not done to its end.
        """
        attempts = 0
        self._is_cut = False
        while True:
            try:
                try:
                    action(*arguments)
                    return not (self._is_cut or self._waiting.was_cut_short)
                except Revoked:
                    raise
                except BaseException:
                    if not self._policy.repeats:
                        self._note_bug()
                        return True
                    attempts += 1
                    if not self._policy.pause_after_bug(attempts):
                        return False
                self._gate.await_turn()
            except Revoked:
                self._forget()
                return False

    def _note_bug(self) -> None:
        """Log the bug and send a resync. The thread goes on, even where it is logging that fails."""
        with contextlib.suppress(Exception):
            log.exception("unexpected error while dispatching; going on")
        with contextlib.suppress(Exception):
            self._ask_to_resync(UNEXPECTED)

    def _forget(self) -> None:
        """Drop what belongs to a tenure that is over: it comes again, or another consumer delivered it."""
        self._gate.serve(self._gate.ledger)
        self._batches.forget()
        self._transactions.forget()
        self._resyncs.forget()
        self._passed_over = None
        self.touched = None
        if self._lanes is not None:
            self._lanes.forget()
        self._positions = Positions()
        self.placing.forget()
        if self._visibility is not None:
            self._visibility.forget()

    def _handle_mark(self, transaction: Transaction, mark: News | Mark) -> None:
        if isinstance(mark, CaughtUp):
            try:
                self._deliver_due(math.inf)
            finally:  # whoever waits is told of a gap, and waits for nothing else
                if not self._waiting.was_cut_short:
                    self._gate.served.when_done(transaction, mark.done)
        elif isinstance(mark, Here):
            if self._await_visible(transaction):
                mark.call(transaction)
        elif isinstance(mark, Resync) and mark.is_asked_for:
            self._ask_to_resync(mark.reason)
        else:
            if isinstance(mark, (Disconnected, Resync)):  # what was missed nobody has noted
                self.touched = None
            self.placing.forget(is_connected=isinstance(mark, Connected))
            self._tell(mark)

    def _deliver_due(self, now: float | None = None) -> None:
        """Deliver the batches that are due, look again at what was passed over, and send resyncs that were put off.

        :param now: those that are due by then, by `time.monotonic()`; infinite for all.
        """
        now = time.monotonic() if now is None else now
        self._batches.deliver_due(now)
        self.placing.look_again(now)
        self._hold_passed_over()
        self._send_resyncs(now)

    def _hold_passed_over(self) -> None:
        """Acknowledge no event that was passed over by an earlier answer, until that has been asked for again."""
        if self.placing.due_at == math.inf:
            if self._passed_over is not None:
                held, self._passed_over = self._passed_over, None
                self._gate.served.done(held, 0)
        elif self._passed_over is None and self._transaction is not None and self._policy.repeats:
            self._gate.served.hold(self._transaction, 0)
            self._passed_over = self._transaction

    def _hear(self, news: News) -> None:
        """Tell of the connection at once, and of a gap behind what has been gathered.

        While another process may be the active consumer, nothing that was gathered may be delivered. Where it is no
        longer this process's, it is dropped, and lies on neither side of the gap.
        """
        self.placing.forget(is_connected=isinstance(news, Connected))
        try:
            if isinstance(news, Resync):
                with contextlib.suppress(Revoked):
                    self._drain_lanes()
                    self._batches.deliver_due()
            self._on_news(news)
        except BaseException:
            self._note_bug()

    def _tell(self, news: News) -> None:
        """Tell of the connection, or of a gap: in the order of events, and so behind what has been gathered."""
        try:
            if isinstance(news, Resync):
                self._drain_lanes()
            self._batches.deliver_due()
        finally:
            self._on_news(news)

    def _drain_lanes(self) -> None:
        if self._lanes is not None:
            self._lanes.drain()

    def _ask_to_resync(self, reason: str) -> None:
        """Send a resync, or put it off where there was one for this reason just now."""
        self._resyncs.ask(reason, self._transaction or self._passed_over)
        self._send_resyncs(time.monotonic())

    def _send_resyncs(self, now: float) -> None:
        for reason in self._resyncs.due(now):
            try:
                self._tell(Resync(reason))
            finally:
                self._resyncs.sent(reason, is_heard=not self._waiting.was_cut_short)

    def _handle_notification(self, transaction: Transaction, notification: Notification) -> None:
        self._dispatch(transaction, notification)
        if self._passed_over is not None or self.placing.due_at != math.inf:
            self._hold_passed_over()

    def _await_visible(self, transaction: Transaction) -> bool:
        """Wait until others see what the transaction has done; return False where that is left to whoever goes on."""
        if self._visibility is not None and transaction.stamp is not None:
            txid = transaction.stamp[0]
            if not self._visibility.is_known(txid) and not self._visibility.await_visible(txid):
                self._is_cut = True
                return False
        return True

    def _dispatch(self, transaction: Transaction, notification: Notification) -> None:
        if not self._await_visible(transaction):
            return
        first = None if transaction.lsn is None else self._positions.first_of(transaction, notification)
        try:
            found = self.placing.decode(transaction, notification)
        except PayloadError as error:
            self._stats.garbage += 1
            self._garbage.note(notification, error)
            if first is None:
                self._numbers.pass_over(notification)
            if error.tells_of_rows or transaction.lsn is not None:
                self._ask_to_resync(UNREADABLE)  # it told of rows, and so is no stranger's garbage
            return
        if found is None:
            if first is None:
                self._numbers.pass_over(notification)
            return
        route, decoded = found
        message, total = decoded.message, len(decoded.rows) + len(decoded.lost)
        if first is None:
            message.channel = notification.channel
            message.first_number = self._numbers.take(notification, message.txid, total)
        else:
            message.lsn, message.first_position = transaction.lsn, first
            message.origin, message.transaction = notification, transaction
            self._positions.note_rows(total)
        if route.log.isEnabledFor(logging.DEBUG):
            route.log.debug("%d rows %s by transaction %d", len(decoded.rows), message.kind.operation, message.txid)
        self._deliver(transaction, route, decoded)
        if decoded.resync is not None:
            self._ask_to_resync(decoded.resync)

    def deliver_existing(
        self, transaction: Transaction, notification: Notification, is_stale: Callable[[tuple[Any, ...]], bool]
    ) -> list[int]:
        """In the dispatch thread: deliver rows that were read, as they were at the place of this transaction.

        :param is_stale: returns True for the key of a row that has been told of since.
        :returns: the numbers of those, which are not delivered.
        """
        found = self._router.decode(notification.channel, notification.payload, transaction.stamp)
        assert found is not None
        assert not isinstance(found, Elsewhere)  # it names its schema
        route, decoded = found
        message, numbers = decoded.message, _numbers(decoded)
        if transaction.lsn is None:
            message.channel = notification.channel
        else:
            message.lsn, message.first_position = transaction.lsn, 0
            message.origin, message.transaction = notification, transaction
        key_length = message.kind.key_length
        stale = [n for n, (row, _) in zip(numbers, decoded.rows, strict=True) if is_stale(row[:key_length])]
        if stale:
            left_out = set(stale)
            decoded.rows = [row for n, row in zip(numbers, decoded.rows, strict=True) if n not in left_out]
            decoded.lost += stale
        self._deliver(transaction, route, decoded)
        if decoded.resync is not None:
            self._ask_to_resync(decoded.resync)
        return stale

    def deliver_gathered(self) -> None:
        """In the dispatch thread: deliver the batches that are being gathered."""
        self._until_done(self._deliver_due, math.inf)

    def do_behind(self, call: Callable[[], None]) -> None:
        """In the dispatch thread: do something behind all that has come, once receivers have had that."""
        self._drain_lanes()
        self._batches.deliver_due()
        call()

    def _deliver(self, transaction: Transaction, route: Route, decoded: Decoded) -> None:
        message, rows, stats, gate, receivers = decoded.message, decoded.rows, self._stats, self._gate, self._receivers
        receivers.transaction = transaction
        touched = self.touched
        if touched is not None and route.table.key == touched.table and message.kind.operation != READ:
            touched.note(message, rows)
        if rows:
            self._newest = message.at, time.time()
        everything = self._router.everything
        others = (everything,) if everything.subscribers or everything.filters else ()
        gathers = self._transactions.are_wanted
        uniform = route.destinations(()) if route.is_uniform else None
        lanes = self._lanes
        if message.kind.operation == "truncated":  # of all keys
            self._drain_lanes()
            lanes = None
        reasons: set[str] = set()
        bugs: list[BaseException] = []
        for number, (values, extras) in zip(_numbers(decoded), rows, strict=True):
            if gate.needs_attention and not gate.await_turn():
                self._is_cut = True
                return
            if number < self._next_row:
                continue
            stats.events += 1
            receivers.collected = None if lanes is None else []
            try:
                for sender, signals in uniform or route.destinations(values):
                    event: Event[Any] | None = None
                    for signal in (*signals, *others) if others else signals:
                        subscribers = signal.subscribers_for(sender)
                        if not subscribers and not signal.filters:
                            continue
                        if event is None:
                            event = Event(sender, message, values, extras, number)
                        if subscribers:
                            receivers.call_all(signal, subscribers, sender, event)
                        if signal.filters:
                            reasons |= receivers.call_filtered(signal, sender, event)
                    if gathers:
                        self._transactions.take(event or Event(sender, message, values, extras, number))
                if lanes is not None and receivers.collected:
                    lanes.take(transaction, self._keys.of(receivers.collected[0].argument), receivers.collected)
            except BaseException as error:
                if self._policy.repeats:
                    self._next_row = number
                    raise
                bugs.append(error)  # that is a gap; the other rows are gone on with
            finally:
                receivers.collected = None
        for reason in reasons:
            self._ask_to_resync(reason)
        if bugs:
            log.error("unexpected error while dispatching %d of %d rows", len(bugs), len(rows), exc_info=bugs[0])
            self._ask_to_resync(UNEXPECTED)

    def _end(self) -> None:
        """Deliver at `stop()` what has been gathered. Coroutines get `LAST_BATCH_SECONDS` for it."""
        if self._gate.is_revoked:
            self._forget()
        self._waiting.extend(LAST_BATCH_SECONDS)
        with contextlib.suppress(Revoked):
            self._batches.deliver_due()
        self._waiting.extend(0.0)
        self._gate.served.settle()
        if self._visibility is not None:
            self._visibility.close()


def _numbers(decoded: Decoded) -> Sequence[int]:
    """Return the number of each decoded row within the payload."""
    if not decoded.lost:
        return range(len(decoded.rows))
    lost = set(decoded.lost)
    return [number for number in range(len(decoded.rows) + len(lost)) if number not in lost]
