"""Everything that lives from one `start()` of a listener to its `stop()`."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

import psycopg
from sqlalchemy import Table

from ..declaring.targets import watches_of_table
from ..errors import CatchUpTimeout, ListenerError, ListenerStartError, WatchError, one_line
from . import processes
from .decoding.routes import Router
from .decoding.values import ValueDecoders
from .dispatch.dispatcher import Dispatcher
from .dispatch.durable import DurableDispatcher
from .handover.items import Connected, Control, Disconnected, Resync
from .handover.queue import EventQueue, WaitingQueue
from .lifecycle import Lifecycle
from .notify.source import NotifySource
from .options import Options
from .server.checks import warn_of_triggers
from .server.connect import Connect
from .source import Source
from .stats import Stats
from .wal.monitor import SlotMonitor
from .wal.source import WalSource

log: logging.Logger = logging.getLogger(__name__)

#: Seconds after which whoever waits looks for Ctrl-C: one that comes right before a wait, or that another thread takes,
#: does not end it.
INTERRUPT_SECONDS = 0.5


class Run:
    """The threads of a running listener, and the objects that they share.

    :param tables: those of the listener's targets, watched or not.
    """

    def __init__(
        self, connect: Connect, options: Options, tables: Sequence[Table], decoders: ValueDecoders, lifecycle: Lifecycle
    ) -> None:
        self._options, self._tables, self._lifecycle = options, tables, lifecycle
        self._router = Router(tables, decoders, durable=options.group is not None, listener=lifecycle.sender)
        if not self._router.routes:
            log.warning("%s", _nothing_watched(tables, options.group))
        self._stats = Stats()
        #: True from the beginning to `stop()`, also while it reconnects.
        self.is_running: bool = True
        self._warned_of_block: float | None = None
        self._queue: EventQueue
        self._source: Source
        self._dispatcher: Dispatcher
        self._monitor: SlotMonitor | None = None
        if options.group is None:
            self._make_notified(connect)
        else:
            self._make_durable(connect, options.group)

    def _make_notified(self, connect: Connect) -> None:
        self._queue = queue = EventQueue(self._options.max_queue)
        self._source = source = NotifySource(
            connect, self._options, self._router.routes, queue, self._stats, self._look_at_triggers,
            self._look_at_dispatcher,
        )  # fmt: skip
        self._dispatcher = Dispatcher(
            queue, self._router, self._stats, self._on_control, self._on_failure, self._lifecycle.loop,
            source.turns.read,
        )  # fmt: skip

    def _make_durable(self, connect: Connect, group: str) -> None:
        self._queue = queue = WaitingQueue(self._options.max_queue)
        self._monitor = SlotMonitor(connect, self._options, queue, self._stats, self._look_at_dispatcher)
        self._source = source = WalSource(
            connect, self._options, self._router.routes, queue, self._stats, self._monitor, self._look_at_triggers
        )
        self._dispatcher = dispatcher = DurableDispatcher(
            queue, self._router, self._stats, self._on_control, self._on_failure, self._lifecycle.loop
        )
        dispatcher.configure(group, self._options.retry, connect, source.acknowledge, self._lifecycle.tell_dead_letter)

    def start(self) -> None:
        """Start the threads; outside of any lock, since a new thread may run finalizers before it counts as started.

        :raises RuntimeError: where no more threads are to be had; then none is left running.
        """
        for signal in self._router.signals:
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

    def wait_until_ready(self, timeout: float) -> None:
        """Return once events are heard, or another consumer of the group is active; stop where that fails.

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
        if self._monitor is None:
            self._source.stop()
        # A durable one last: it still has to send what the dispatcher acknowledges.
        for part in (self._dispatcher, self._source, self._monitor):
            if part is not None:
                part.stop()
                _join(part.thread, deadline, logging.WARNING if part is self._dispatcher else logging.INFO)
        for signal in self._router.signals:
            signal.detach(self)
        self._stats.connected_since = None

    def disown(self) -> None:
        """Give up everything that is the parent's, in a forked child: it does not run here."""
        self.is_running = False
        self._lifecycle.loop = None  # of which the child has the object, and nothing that runs it
        self._source.disown()
        for signal in self._router.signals:
            signal.forget(self)
        self._queue, self._stats = EventQueue(self._options.max_queue), Stats()

    def catch_up(self, timeout: float) -> None:
        """Return when everything that was committed before the call has been dispatched.

        :param timeout: in seconds.
        :raises CatchUpTimeout: where it was not by then.
        :raises ListenerError: in a receiver.
        """
        source = self._source
        if self._dispatcher.thread is threading.current_thread():
            raise ListenerError("catch_up() in a receiver would wait for itself: call it from another thread")
        done = threading.Event()
        deadline = time.monotonic() + timeout
        try:
            source.send_token(done, deadline)
            if _wait(done, max(0.0, deadline - time.monotonic())) and source.confirm(deadline):
                return
        finally:
            source.forget_token(done)
        state = "" if source.state.listening else f"; {source.state.missing}"
        raise CatchUpTimeout(
            f"not caught up within {timeout:g} s, {len(self._queue)} notifications are waiting{state}: a receiver "
            f"may be slow, or need the event loop that this call blocks (then use await catch_up_async())"
        )

    def stats(self) -> Stats:
        """Return a copy of the counters."""
        return dataclasses.replace(self._stats, queue_depth=len(self._queue), dropped=self._queue.dropped)

    def _look_at_triggers(self, connection: psycopg.Connection[Any]) -> None:
        warn_of_triggers(connection, self._tables)

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
                seconds, len(self._queue), _whereabouts(self._dispatcher.thread),
            )  # fmt: skip

    def _on_control(self, item: Control) -> None:
        if isinstance(item, Resync):
            self._stats.resyncs += 1
            for signal in self._router.signals:
                signal.missed(item.reason)
        if isinstance(item, (Resync, Connected, Disconnected)):
            self._lifecycle.tell(item)
        if isinstance(item, Resync):
            log.warning("events may have been missed: %s", item.reason)

    def _on_failure(self, receiver: Any, event: Any, error: BaseException) -> None:
        self._lifecycle.tell_failure(receiver, event, error)
        one = event[0] if isinstance(event, list) else event
        log.error("receiver %r failed on %s.%s", receiver, one.model, one.label, exc_info=error)


def _wait(event: threading.Event, seconds: float) -> bool:
    """Return True once the event is set, False where it is not by then."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > INTERRUPT_SECONDS:
        if event.wait(INTERRUPT_SECONDS):
            return True
    return event.wait(max(0.0, left))


def _nothing_watched(tables: Sequence[Table], group: str | None) -> str:
    if not any(watches_of_table(table) for table in tables):
        return "nothing is watched by the listener's targets: add __watch__ to a model, or call watch()"
    if group is not None:
        return "nothing durable is watched by the listener's targets: add delivery='durable' to a Watch"
    return "the listener's targets watch only what is durable: pass durable='a_group' to the Listener"


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
