"""`Listener`: hears the database and sends the signals."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import dataclasses
import inspect
import logging
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import blinker
import psycopg
from sqlalchemy import Engine, Table
from sqlalchemy.engine import URL

from ..aio import sync_engine_of
from ..declaring.targets import tables_of, watches_of_table
from ..errors import CatchUpTimeout, ConfigurationError, ListenerError, ListenerStartError, WatchError
from .decoding.routes import Router
from .decoding.values import ValueDecoders
from .dispatch.dispatcher import Dispatcher
from .dispatch.durable import DurableDispatcher, RetryPolicy
from .handover.queue import Connected, Control, Disconnected, EventQueue, Resync, WaitingQueue
from .notify.source import NotifySource
from .server.checks import warn_of_triggers
from .server.connect import connector
from .stats import Stats
from .wal.monitor import SlotMonitor
from .wal.slots import check_group_name
from .wal.source import WalSource

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

log: logging.Logger = logging.getLogger(__name__)

_running: weakref.WeakSet[Listener] = weakref.WeakSet()


class Listener:
    """Republishes the changes of watched tables as signals, from threads of its own.

    :param engine: an Engine or AsyncEngine for PostgreSQL, of any driver. The listener opens a psycopg
        connection of its own with the engine's settings (URL, `connect_args`, `do_connect` hooks); the
        pool is not touched.
    :param targets: declarative bases, registries, MetaData, mapped classes or Tables.
    :param listen_url: a URL to listen at instead, where the engine goes through a transaction pooler.
    :param max_queue: how many notifications wait at the most while receivers are slow. Beyond that they
        are dropped and counted, and there is a `resync`.
    :param heartbeat_interval: seconds between round trips that prove LISTEN is in force.
    :param heartbeat_timeout: seconds to wait for one before the connection is given up.
    :param durable: the name of a consumer group: its events come from a replication slot of that name, which
        the server keeps until they are acknowledged, that is, until their receivers have returned. Of several
        listeners of a group one is active, and the others stand by. Only watches with `delivery="durable"`
        or `"both"` are heard then, and without a group only those with `"notify"` or `"both"`.
    :param max_attempts: with `durable`: calls of a receiver that raises before the event goes to the dead
        letters; None tries for ever.
    :param retry: with `durable`, instead of `max_attempts`: the whole policy; see `RetryPolicy`.
    :raises ConfigurationError: for a target that can't be watched, and for settings psycopg can't take.

    Signals, whose sender is the listener; receivers run on the dispatch thread, in the order of events:

    - `connected`: LISTEN is in force.
    - `disconnected(error)`: the connection was lost; the listener reconnects by itself.
    - `resync(reason)`: something may have been missed: reload what you hold.
    - `receiver_failed(receiver, event, error)`: a receiver raised; with `durable` at each attempt. For a
      receiver of batches `event` is the list.
    - `dead_lettered(receiver, event, error)`: with `durable`: an event was given up.
    """

    def __init__(
        self,
        engine: Engine | AsyncEngine,
        *targets: Any,
        listen_url: str | URL | None = None,
        max_queue: int = 50_000,
        heartbeat_interval: float = 30.0,
        heartbeat_timeout: float = 10.0,
        durable: str | None = None,
        max_attempts: int | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        for name, value in (("heartbeat_interval", heartbeat_interval), ("heartbeat_timeout", heartbeat_timeout)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")
        if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 1:
            raise ConfigurationError(f"max_queue must be an int of at least 1, not {max_queue!r}")
        if durable is None and (retry is not None or max_attempts is not None):
            raise ConfigurationError(
                "max_attempts and retry are for durable delivery: add durable='a_group', or remove them"
            )
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise ConfigurationError(f"retry must be a RetryPolicy, not {retry!r}: retry=RetryPolicy(max_attempts=5)")
        if retry is not None and max_attempts is not None:
            raise ConfigurationError("max_attempts is part of retry=RetryPolicy(max_attempts=...): give one of them")
        self._group = None if durable is None else check_group_name(durable)
        self._retry = retry or RetryPolicy(max_attempts=max_attempts)
        self._targets = targets
        self._tables = tables_of(*targets)
        self._connect = connector(engine, listen_url)
        self._decoders = ValueDecoders(sync_engine_of(engine))
        self._router = Router((), self._decoders)
        self._max_queue = max_queue
        self._heartbeat = (heartbeat_interval, heartbeat_timeout)
        self._lock = threading.RLock()
        self._source: NotifySource | WalSource | None = None
        self._monitor: SlotMonitor | None = None
        self._dispatcher: Dispatcher | None = None
        self._queue = EventQueue(max_queue)
        self._stats = Stats()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warned_of_block: float | None = None
        self.connected: blinker.Signal = blinker.Signal("Sent when LISTEN is in force.")
        self.disconnected: blinker.Signal = blinker.Signal("Sent with error= when the connection is lost.")
        self.resync: blinker.Signal = blinker.Signal("Sent with reason= when something may have been missed.")
        self.dead_lettered: blinker.Signal = blinker.Signal(
            "Sent with receiver=, event=, error= when an event is given up."
        )
        self.receiver_failed: blinker.Signal = blinker.Signal(
            "Sent with receiver=, event=, error= when a receiver raises."
        )

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped; also true while it reconnects."""
        return self._source is not None

    def start(self, timeout: float = 10.0) -> None:
        """Start, and return once LISTEN is in force: what commits after that is heard.

        For a running listener it waits for the same.

        :param timeout: seconds to try for, where the server can't be reached.
        :raises ListenerStartError: where LISTEN is not in force by then, with the server's own message.
        :raises UnsupportedServerError: at once for a standby, a transaction pooler or a server too old.
        :raises SlotError: with `durable`: at once where the slot can't be made or is something else's.

        With `durable` it also returns while another consumer of the group is active: then this one stands by.
        """
        with self._lock:
            if self._source is None:
                self._start_threads()
            elif self._source.settled.is_set():
                return
            source = self._source
            assert source is not None
        try:
            settled = source.settled.wait(timeout)
        except BaseException:  # Ctrl-C: nothing is left running
            self.stop(timeout=1.0)
            raise
        error = source.error
        if settled and not isinstance(error, WatchError):
            return
        self.stop(timeout=1.0)
        if settled and error is not None:
            raise error
        raise ListenerStartError(
            f"LISTEN was not in force within {timeout:g} s: {str(error or 'no answer from the server').strip()}"
        ) from error

    def _start_threads(self) -> None:
        if self._loop is None:
            self._loop = _running_loop()
        self._stats = Stats()
        self._resolve_targets()
        source = self._make_notified() if self._group is None else self._make_durable(self._group)
        self._source = source
        for signal in self._router.signals:
            signal.attach(source)
        _running.add(self)
        try:
            for part in (self._dispatcher, source, self._monitor):
                if part is not None:
                    part.thread.start()
        except BaseException:  # no more threads to be had
            self.stop(timeout=1.0)
            raise

    def _resolve_targets(self) -> None:
        """At start, so that models declared after the listener was made are heard."""
        self._tables = tables_of(*self._targets)
        self._router = Router(self._tables, self._decoders, durable=self._group is not None)
        if not self._router.routes:
            log.warning("%s", _nothing_watched(self._tables, self._group))

    def _make_notified(self) -> NotifySource:
        self._queue = EventQueue(self._max_queue)
        source = NotifySource(
            self._connect, sorted(self._router.by_channel), self._router.routes, self._queue, self._stats,
            self._heartbeat, self._inspect, self._look_at_dispatcher,
        )  # fmt: skip
        self._dispatcher = Dispatcher(
            self._queue, self._router, self._stats, self._on_control, self._on_failure, self._loop, source.turns.read
        )
        return source

    def _make_durable(self, group: str) -> WalSource:
        self._queue = queue = WaitingQueue(self._max_queue)
        source = WalSource(
            self._connect, group, frozenset(self._router.by_channel), self._router.routes, queue, self._stats,
            self._heartbeat, self._inspect, self._retry.needs_table,
        )  # fmt: skip
        self._dispatcher = dispatcher = DurableDispatcher(
            queue, self._router, self._stats, self._on_control, self._on_failure, self._loop
        )
        dispatcher.configure(
            group, self._retry, self._connect, self._heartbeat[1], source.acknowledge, self._on_dead_letter
        )
        self._monitor = SlotMonitor(
            self._connect, group, queue, self._stats, self._heartbeat, self._retry.needs_table, self._look_at_dispatcher
        )
        return source

    def stop(self, timeout: float = 10.0) -> None:
        """Stop: no receiver is called any more after the present one; what waits is dropped and counted.

        Stopping twice does nothing. May be called from a receiver.

        :param timeout: seconds to wait for the threads; a receiver that blocks longer is left alone.
        """
        with self._lock:
            source, dispatcher, monitor = self._source, self._dispatcher, self._monitor
            router, stats = self._router, self._stats  # it may be started again meanwhile, by another thread
            self._source = self._dispatcher = self._monitor = None
            self._loop = None
        if source is None or dispatcher is None:
            return
        _running.discard(self)
        deadline = time.monotonic() + timeout
        if isinstance(source, NotifySource):
            source.stop()
        # A durable one last: it still has to send what the dispatcher acknowledges.
        for part in (dispatcher, source, monitor):
            if part is not None:
                part.stop()
                self._join(part.thread, deadline, logging.WARNING if part is dispatcher else logging.INFO)
        for signal in router.signals:
            signal.detach(source)
        stats.connected_since = None

    def _join(self, thread: threading.Thread, deadline: float, level: int) -> None:
        if thread is not threading.current_thread() and thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                # The dispatch thread waits for a receiver; others, until an attempt to connect is over.
                log.log(level, "thread %r did not end in time; it is %s", thread.name, _whereabouts(thread))

    def catch_up(self, timeout: float = 30.0) -> None:
        """Return when everything that was committed before the call has been dispatched.

        :param timeout: in seconds.
        :raises CatchUpTimeout: where it was not by then.
        :raises ListenerError: where the listener is not running, or in a receiver, which would wait for itself.

        In a coroutine use `await listener.catch_up_async()`, so that coroutine receivers can run meanwhile.
        """
        source, dispatcher = self._source, self._dispatcher
        if source is None or dispatcher is None:
            raise ListenerError("the listener is not running: call start(), or use it in a with statement")
        if dispatcher.thread is threading.current_thread():
            raise ListenerError("catch_up() in a receiver would wait for itself: call it from another thread")
        done = threading.Event()
        deadline = time.monotonic() + timeout
        source.send_token(done, deadline)
        if not done.wait(max(0.0, deadline - time.monotonic())) or not source.confirm(deadline):
            source.forget_token(done)
            state = "" if source.listening else f"; {source.absence}"
            raise CatchUpTimeout(
                f"not caught up within {timeout:g} s, {len(self._queue)} notifications are waiting{state}: a receiver "
                f"may be slow, or need the event loop that this call blocks (then use await catch_up_async())"
            )

    async def catch_up_async(self, timeout: float = 30.0) -> None:
        """`catch_up` for coroutines: the event loop goes on meanwhile."""
        await asyncio.to_thread(self.catch_up, timeout)

    def stats(self) -> Stats:
        """A copy of the counters since `start`."""
        return dataclasses.replace(self._stats, queue_depth=len(self._queue), dropped=self._queue.dropped)

    def __enter__(self) -> Listener:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    async def __aenter__(self) -> Listener:
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.stop)

    def _inspect(self, connection: psycopg.Connection[Any]) -> None:
        warn_of_triggers(connection, self._tables)

    def _look_at_dispatcher(self) -> None:
        """At each heartbeat: a receiver that blocks makes the listener go quiet, and must not do so unnoticed."""
        dispatcher = self._dispatcher
        since = None if dispatcher is None else dispatcher.busy_since
        if dispatcher is None or since is None or since == self._warned_of_block:
            return
        seconds = time.monotonic() - since
        if seconds >= self._heartbeat[0]:
            self._warned_of_block = since
            log.warning(
                "no event was dispatched for %.1f s, %d notifications are waiting: the dispatch thread is %s",
                seconds, len(self._queue), _whereabouts(dispatcher.thread),
            )  # fmt: skip

    def _on_control(self, item: Control) -> None:
        if isinstance(item, Resync):
            self._stats.resyncs += 1
            for signal in self._router.signals:
                signal.missed(item.reason)
            self._send(self.resync, reason=item.reason)
            log.warning("events may have been missed: %s", item.reason)
        elif isinstance(item, Connected):
            self._send(self.connected)
        elif isinstance(item, Disconnected):
            self._send(self.disconnected, error=item.error)

    def _on_failure(self, receiver: Any, event: Any, error: BaseException) -> None:
        self._send(self.receiver_failed, receiver=receiver, event=event, error=error)
        one = event[0] if isinstance(event, list) else event
        log.error("receiver %r failed on %s.%s", receiver, one.model, one.label, exc_info=error)

    def _on_dead_letter(self, receiver: Any, event: Any, error: BaseException) -> None:
        self._send(self.dead_lettered, receiver=receiver, event=event, error=error)

    def _send(self, signal: blinker.Signal, **details: Any) -> None:
        """Send a signal of the listener's own, its receivers isolated like all others."""
        for receiver in list(signal.receivers_for(self)):
            try:
                result = receiver(self, **details)
                if inspect.iscoroutine(result):
                    if self._loop is None:
                        result.close()
                        raise ListenerError(
                            f"start the listener in a running event loop for coroutine receiver {receiver!r}"
                        )
                    asyncio.run_coroutine_threadsafe(result, self._loop)
            except BaseException as error:
                log.error("receiver %r of the listener failed", receiver, exc_info=error)


def _nothing_watched(tables: Sequence[Table], durable: str | None) -> str:
    others = any(watches_of_table(table) for table in tables)
    if not others:
        return "nothing is watched by the listener's targets: add __watch__ to a model, or call watch()"
    if durable is not None:
        return "nothing durable is watched by the listener's targets: add delivery='durable' to a Watch"
    return "the listener's targets watch only what is durable: pass durable='a_group' to the Listener"


_WAITING = frozenset([threading.__file__, concurrent.futures._base.__file__])


def _whereabouts(thread: threading.Thread) -> str:
    """Where a thread stands: not in the standard library, but in whatever waits with its help."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return "gone"
    stack = traceback.extract_stack(frame)
    found = next((f for f in reversed(stack) if f.filename not in _WAITING), stack[-1])
    return f"in {found.name}, {found.filename}:{found.lineno}"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@atexit.register
def _stop_all() -> None:
    for listener in list(_running):
        listener.stop(timeout=1.0)


def _forget_all() -> None:
    """In a forked child there are no threads, and the sockets are the parent's: they are never touched."""
    for listener in list(_running):
        source = listener._source
        _inherited.append((source, listener._dispatcher, listener._monitor, listener._queue))
        if source is not None:
            source.disown()
        listener._source = listener._dispatcher = listener._monitor = listener._loop = None
        listener._lock = threading.RLock()
        listener._queue = EventQueue(listener._max_queue)
        listener._stats = Stats()
        for signal in listener._router.signals:
            signal.forget(source)
        _running.discard(listener)


#: Kept, so that nothing of the parent's is closed by garbage collection.
_inherited: list[Any] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
