"""Everything that lives from one `start()` of a listener to its `stop()`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Table

from ..errors import CatchUpTimeout, ListenerError, ListenerStartError, RetryAfter, WatchError, one_line
from ..signals.feeds import Feed
from ..signals.once import Once
from ..signals.receivers import function_name
from ..signals.transactions import Chunks
from . import health, processes
from .backfill.filling import Filling
from .backfill.progress import InMemory, InTable
from .decoding.routes import Route, Router
from .decoding.values import ValueDecoders
from .dispatch.dispatcher import Dispatcher, reads_by_itself
from .dispatch.failures import NotTriedAgain, Policy, Reports, TriedAgain
from .dispatch.keys import Keys
from .dispatch.lanes import Lanes
from .dispatch.letters import Calling, Letters
from .dispatch.parking import Parking
from .lifecycle import Lifecycle
from .naming import event_words
from .notify.source import NotifySource
from .options import Options
from .pipeline.gate import Gate
from .pipeline.inbox import MAX_BYTES, MAX_LOG_BYTES, Inbox
from .pipeline.ledger import Ledger
from .pipeline.parts import Connected, News, Resync
from .server.asking import Asker
from .server.checks import warn_of_many, warn_of_triggers, within
from .server.connect import Connect
from .server.spare import Spare
from .source import STARTED_LATE, Source
from .stats import Stats
from .surrounding import Surroundings
from .unheard import warn_of_unheard
from .waiting import Waiting
from .wal.monitor import SlotMonitor
from .wal.source import WalSource
from .wal.visibility import Visibility

log: logging.Logger = logging.getLogger(__name__)

#: Seconds after which whoever waits looks for Ctrl-C: one that comes right before a wait, or that another thread takes,
#: does not end it.
INTERRUPT_SECONDS = 0.5

#: Seconds that each query about the triggers may take, and the share of the time for any query.
TRIGGERS_SECONDS = 1.0
TRIGGERS_SHARE = 0.75


class Run:
    """The threads of a running listener, and the objects that they share.

    :param tables: those of the listener's targets, watched or not.
    :param keeps_trying: go on whatever the first attempt to connect fails with.
    """

    def __init__(
        self, connect: Connect, asker: Asker, options: Options, tables: Sequence[Table], decoders: ValueDecoders,
        lifecycle: Lifecycle, surroundings: Surroundings, everything: Feed, chunks: Chunks, keeps_trying: bool,
    ) -> None:  # fmt: skip
        self._options, self._tables, self._lifecycle = options, tables, lifecycle
        self._renamed = asker.renamed_schemas
        self._router = Router(
            tables, decoders, durable=options.group is not None, listener=lifecycle.sender, schemas=self._renamed,
            everything=everything,
        )  # fmt: skip
        warn_of_unheard(self._router, tables, options.group)
        self._chunks = chunks
        self._stats = Stats()
        self._surroundings = surroundings
        self._waiting = Waiting(lifecycle.loop, surroundings)
        #: True from the beginning to `stop()`, also while it reconnects.
        self.is_running: bool = True
        self._warned_of_block: float | None = None
        #: True once it was looked how many sessions listen.
        self._has_counted = False
        bytes_limit = MAX_BYTES if options.group is None else MAX_LOG_BYTES
        self._inbox = Inbox(options.max_queue, bytes_limit)
        self._gate = Gate(self._inbox, Ledger(options.max_queue))
        self._reports = Reports(self._stats, self._on_failure)
        self._keys = Keys(options.key_of)
        self._spare = Spare(connect)
        self._source: Source
        self._dispatcher: Dispatcher
        self._monitor: SlotMonitor | None = None
        if options.group is None:
            self._make_notified(connect)
        else:
            self._make_durable(connect, options.group)
        self._source.state.keeps_trying = keeps_trying
        self._dispatcher.placing.use(asker, options.schemas)
        self._asker = asker.twin()
        self._filling = Filling(
            connect, InMemory() if options.group is None else InTable(options.group), self._tables_to_read(),
            self._router, self._dispatcher, self._source, self._gate, self._inbox, self._find_schemas,
            self._on_backfilled, may_fill=options.group is None or options.wait_visible,
        )  # fmt: skip
        if isinstance(self._source, WalSource):
            self._source.on_request = lambda transaction: self._filling.wake()

    def _make_notified(self, connect: Connect) -> None:
        make = NotifySource if self._options.via is None else self._options.via.make_source
        channels = {route.watch.channel for route in self._router.routes}
        self._source = source = make(
            connect, self._options, channels, self._inbox, self._gate.ledger, self._stats, self._look_at_triggers,
            self._look_at_dispatcher,
        )  # fmt: skip
        read = source.turns.read if isinstance(source, NotifySource) else reads_by_itself
        policy = NotTriedAgain(self._reports)
        self._dispatcher = Dispatcher(
            self._inbox, self._gate, self._router, self._stats, self._on_news, policy, self._waiting, self._chunks,
            read, lanes=self._make_lanes(policy, Waiting(self._lifecycle.loop, self._surroundings)), keys=self._keys,
        )  # fmt: skip

    def _make_lanes(self, policy: Policy, waiting: Waiting) -> Lanes | None:
        return Lanes(self._options.workers, self._gate, waiting, policy) if self._options.has_lanes else None

    def _make_durable(self, connect: Connect, group: str) -> None:
        options, inbox, gate, stats, waiting = self._options, self._inbox, self._gate, self._stats, self._waiting
        self._monitor = SlotMonitor(connect, options, stats, self._look_at_dispatcher, self._look_at_triggers)
        self._source = source = WalSource(
            connect,
            options,
            self._router.routes,
            inbox,
            gate,
            stats,
            self._monitor,
            self._has_receivers,
            self._once,
        )
        policy = TriedAgain(options.retry, self._reports, gate, waiting, stats)
        visibility = Visibility(connect, options.heartbeat_timeout, policy.wait) if options.wait_visible else None
        in_lanes = Waiting(self._lifecycle.loop, self._surroundings)
        lanes = self._make_lanes(policy, in_lanes)
        self._dispatcher = dispatcher = Dispatcher(
            inbox, gate, self._router, stats, self._on_news, policy, waiting, self._chunks,
            visibility=visibility, lanes=lanes, keys=self._keys,
        )  # fmt: skip
        dispatcher.placing.wait = policy.wait
        calling = Calling(dispatcher.receivers.call_all, self._reports.report, self._on_dead_letter)
        letters = Letters(
            group, options.retry, self._spare, self._router, waiting, stats, calling, inbox, gate, self._chunks
        )
        policy.parking = parking = Parking(group, self._spare, letters, self._keys, gate, lanes, waiting, in_lanes)
        self._monitor.on_letter_due, self._monitor.has_once = letters.note_due, lambda: bool(self._once())
        letters.retry_keys = parking.retry_due
        if options.retry.in_order == "key":
            source.before_open = parking.begin

    def start(self) -> None:
        """Start the threads; outside of any lock, since a new thread may run finalizers before it counts as started.

        :raises RuntimeError: where no more threads are to be had; then none is left running.
        """
        for signal in self._streamed:
            signal.attach(self)
        processes.register(self)
        try:
            for part in (self._dispatcher, self._source, self._monitor):
                if part is not None:
                    part.thread.start()
        except BaseException:
            self.stop(timeout=1.0)
            raise
        if not self.is_running:  # another thread has stopped it meanwhile
            self._end(timeout=1.0)

    @property
    def is_ready(self) -> bool:
        """True once it has been ready."""
        return self._source.state.ready.is_set()

    @property
    def hears_alone(self) -> bool:
        """True if of several processes one alone hears."""
        return self._options.hears_alone

    def wait_until_ready(self, timeout: float) -> None:
        """Return once events are heard, or another process is heard and this one stands by.

        Where that fails it stops, unless it is one that keeps trying.

        :param timeout: in seconds.
        :raises WatchError: where trying again would not help.
        :raises ListenerStartError: where it is not so by then.
        """
        state = self._source.state
        try:
            is_ready = _wait(state.ready, timeout)
        except BaseException:  # Ctrl-C: nothing is left running
            self.stop(timeout=1.0)
            raise
        error = state.error
        if is_ready and not isinstance(error, WatchError):
            return
        if not state.keeps_trying:
            self.stop(timeout=1.0)
        if is_ready and error is not None:
            raise error
        words = one_line(error, "no answer from the server")
        raise ListenerStartError(f"LISTEN was not in force within {timeout:g} s: {words}") from error

    def stop(self, timeout: float) -> None:
        """Stop; doing so twice does nothing.

        :param timeout: seconds to wait for the threads; a receiver that blocks longer is left alone.
        """
        with processes.lock:
            if not self.is_running:
                return
            self.is_running = False
        self._end(timeout)

    def _end(self, timeout: float) -> None:
        processes.unregister(self)
        deadline = time.monotonic() + timeout
        self._filling.stop()
        if self._monitor is None:
            self._source.stop()
        # A durable one last: it still has to send what the dispatcher acknowledges.
        for part in (self._dispatcher, self._source, self._monitor, self._filling):
            if part is not None:
                part.stop()
                for thread in part.workers if isinstance(part, Dispatcher) else ():
                    _join(thread, deadline, logging.WARNING)
                _join(part.thread, deadline, logging.WARNING if part is self._dispatcher else logging.INFO)
        self._gate.end()
        self._spare.end()
        for signal in self._streamed:
            signal.detach(self)
        self._stats.connected_since = None

    def disown(self) -> None:
        """Give up everything that is the parent's, in a forked child: it does not run here."""
        self.is_running = False
        self._lifecycle.loop = None  # of which the child has the object, and nothing that runs it
        self._source.disown()
        for signal in self._streamed:
            signal.forget(self)
        self._inbox, self._stats = Inbox(self._options.max_queue), Stats()

    def is_calling(self, task: asyncio.Task[Any] | None) -> bool:
        """Return True if this task is a receiver that is being called."""
        return self._dispatcher.is_calling(task)

    def catch_up(self, timeout: float) -> None:
        """Return when everything that was committed before the call has been dispatched.

        :param timeout: in seconds.
        :raises CatchUpTimeout: where it was not by then.
        :raises ListenerError: in a receiver, and where another process is heard in place of this one.
        """
        source = self._source
        if threading.current_thread() in (self._dispatcher.thread, *self._dispatcher.workers):
            raise ListenerError("catch_up() in a receiver would wait for itself: call it from another thread")
        done = threading.Event()
        deadline = time.monotonic() + timeout
        failure: BaseException | None = None
        try:
            self._check_heard()
            source.send_token(done, deadline)
            if _wait(done, max(0.0, deadline - time.monotonic()), self._check_heard) and source.confirm(deadline):
                return
        except Exception as error:
            failure = error
        finally:
            source.forget_token(done)
        state = "" if source.state.listening else f"; {source.state.missing}"
        if failure is not None:
            state += f"; the server could not be asked ({one_line(failure)})"
        hint = (
            ": a receiver may be slow, or need the event loop that this call blocks (then use await catch_up_async())"
        )
        raise CatchUpTimeout(
            f"not caught up within {timeout:g} s, {len(self._inbox)} notifications are waiting{state or hint}"
        ) from failure

    def _check_heard(self) -> None:
        """Raise where this process stands by. A group's token is acknowledged by whoever is active; a lock has none."""
        instead = self._source.state.standing_by
        if instead is not None and self._options.group is None:
            raise ListenerError(
                f"this process stands by, and has nothing to catch up with: {instead}; ask stats().active first"
            )

    def is_healthy(self, max_lag: float | None) -> bool:
        """Return True if events are heard and dispatched, or another process does so and this one is ready to follow.

        :param max_lag: seconds that the oldest event may have waited.
        """
        if not (self.is_running and self._source.thread.is_alive() and self._dispatcher.thread.is_alive()):
            return False
        busy_since, now = self._dispatcher.busy_since, time.monotonic()
        if not health.is_hearing(self._source.state, self._options, busy_since, now):
            return False
        since = self._gate.ledger.waiting_since
        return max_lag is None or health.lag(since, self._dispatcher.lag, self._options, now) <= max_lag

    def stats(self) -> Stats:
        """Return a copy of the counters."""
        inbox = self._inbox
        return dataclasses.replace(self._stats, lag=self._dispatcher.lag, queue_depth=len(inbox), dropped=inbox.dropped)

    def _look_at_triggers(self, connection: psycopg.Connection[Any]) -> None:
        seconds = min(TRIGGERS_SECONDS, self._options.heartbeat_timeout * TRIGGERS_SHARE)
        with within(connection, seconds):
            self._dispatcher.placing.guess(connection)
        warn_of_triggers(connection, self._tables, seconds, self._renamed)
        if isinstance(self._source, NotifySource) and not self._has_counted:
            self._has_counted = True
            warn_of_many(connection, seconds)

    def _look_at_dispatcher(self) -> None:
        """At each heartbeat: a receiver that blocks makes the listener go quiet, and must not do so unnoticed."""
        since = self._dispatcher.busy_since
        if since is None or since == self._warned_of_block:
            return
        seconds = time.monotonic() - since
        if seconds >= self._options.heartbeat_interval:
            self._warned_of_block = since
            log.warning(
                "no event was dispatched for %.1f s, %d notifications are waiting: the dispatch thread is %s",
                seconds, len(self._inbox), _whereabouts(self._dispatcher.thread),
            )  # fmt: skip

    def backfill(self, model: Any) -> None:
        """Have the existing rows of a model told of.

        :raises ConfigurationError: where none of its watches is heard.
        :raises Exception: where that can't be noted in the database.
        """
        self._options.check_backfill()
        self._filling.request(self._router.key_to_read(model))

    def _tables_to_read(self) -> list[str]:
        wanted = self._options.backfill
        if isinstance(wanted, bool):
            return list(self._router.reads) if wanted else []
        return [self._router.key_to_read(model) for model in wanted]

    def _find_schemas(self, route: Route) -> Collection[str]:
        """Return the schemas in which a route's table is."""
        wanted = self._dispatcher.placing.wanted[route.schema, route.watch.table]
        return self._asker.ask([wanted], None, None, self._waiting.stopped).answer.roots[wanted.key]

    def _on_backfilled(self, table: str, started_at: datetime) -> None:
        self._lifecycle.tell_backfilled(self._router.reads[table].model, started_at, self._waiting)

    def _on_news(self, news: News) -> None:
        if isinstance(news, Connected):
            self._filling.wake()
        if isinstance(news, Resync):
            self._stats.resyncs += 1
            for signal in self._streamed:
                signal.missed(news.reason)
        self._lifecycle.tell(news, self._waiting)
        if isinstance(news, Resync):
            level = logging.INFO if news.reason == STARTED_LATE else logging.WARNING
            log.log(level, "events may have been missed: %s", news.reason)

    def _on_failure(self, receiver: Any, event: Any, error: BaseException, fate: str) -> None:
        self._lifecycle.tell_failure(receiver, event, error, self._waiting)
        if isinstance(error, WatchError) and error.says_all:
            words = function_name(receiver), event_words(event), one_line(error), fate
            if isinstance(error, RetryAfter):
                log.warning("receiver %s does not take %s (%s): %s", *words)
            else:
                log.error("receiver %s failed on %s (%s): %s", *words)
            return
        log.error("receiver %s failed on %s: %s", function_name(receiver), event_words(event), fate, exc_info=error)

    def _on_dead_letter(self, receiver: Any, event: Any, error: BaseException) -> None:
        self._lifecycle.tell_dead_letter(receiver, event, error, self._waiting)

    def _has_receivers(self) -> bool:
        return bool(self._chunks.sizes) or any(signal.has_receivers for signal in self._streamed)

    def _once(self) -> list[Once]:
        return [once for signal in self._streamed if not signal.is_muted for once in signal.once]

    @property
    def _streamed(self) -> Iterable[Feed]:
        """The signals that this listener serves."""
        return (*self._router.signals, self._router.everything)


def _wait(event: threading.Event, seconds: float, check: Callable[[], None] = lambda: None) -> bool:
    """Return True once the event is set, False where it is not by then.

    :param check: called now and then; may raise.
    """
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > INTERRUPT_SECONDS:
        if event.wait(INTERRUPT_SECONDS):
            return True
        check()
    return event.wait(max(0.0, left))


def _join(thread: threading.Thread, deadline: float, level: int) -> None:
    if thread is not threading.current_thread() and thread.is_alive():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            # The dispatch thread waits for a receiver; others, until an attempt to connect is over.
            log.log(level, "thread %r did not end in time; it is %s", thread.name, _whereabouts(thread))


_WAITING = frozenset([threading.__file__, concurrent.futures.Future.result.__code__.co_filename])


def _whereabouts(thread: threading.Thread) -> str:
    """Return where a thread stands: not in the standard library, but in whatever waits with its help."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - documented, for debuggers
    if frame is None:
        return "gone"
    stack = traceback.extract_stack(frame)
    found = next((f for f in reversed(stack) if f.filename not in _WAITING), stack[-1])
    return f"in {found.name}, {found.filename}:{found.lineno}"
