"""`Listener`: hears the database and sends the signals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Engine
from sqlalchemy.engine import URL

from ..aio import sync_engine_of
from ..declaring.targets import tables_of
from ..errors import ListenerError
from ..events.event import Event
from ..signals.transactions import TransactionsSignal, chunks_of
from ..signals.watch_signals import EventsSignal, WatchSignal, feed_of
from ..watched import signals_in
from . import processes
from .decoding.routes import Router
from .decoding.values import ValueDecoders
from .foreground import run_until_told
from .lifecycle import (
    BackfilledReceiver,
    ConnectedReceiver,
    DisconnectedReceiver,
    FailureReceiver,
    Lifecycle,
    LifecycleSignal,
    ResyncReceiver,
)
from .options import Options, RetryPolicy, check_key, check_key_is_carried, check_models, check_schemas, retry_policy
from .run import Run
from .server.asking import Asker
from .server.connect import Connect, connector
from .source import Via
from .stats import Stats
from .surrounding import Surround, Surroundings
from .unheard import warn_of_forgotten

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


class Listener:
    """Republishes the changes of watched tables as signals, from threads of its own.

    :param engine: an Engine or AsyncEngine for PostgreSQL, of any driver. The listener opens a psycopg
        connection of its own with the engine's settings (URL, `connect_args`, `do_connect` hooks); the
        pool is not touched.
    :param targets: declarative bases, registries, MetaData, mapped classes or Tables.
    :param listen_url: a URL to listen at instead, where the engine goes through a transaction pooler.
    :param max_queue: the most notifications that wait while receivers are slow. Beyond that they
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
    :param decoding_memory: with `durable`: the memory that the server may use for the changes of a transaction before
        it writes them to disk (`logical_decoding_work_mem`), such as `"256MB"`; None leaves the server's setting.
    :param wait_visible: with `durable`: True to call no receiver before the row is visible to other sessions, so that
        it can be loaded. A commit is in the log a moment before that, and behind a synchronous standby that does not
        answer much earlier. It takes a query for each burst of transactions.
    :param workers: receivers that may be called at the same time: events of one key come one after the other, those of
        different keys side by side, so receivers run in several threads. Coroutine receivers run side by side in their
        event loop. `truncated` and `resync` wait for all that is in front of them, and all else waits for them.
    :param key: with `workers`: a function that returns the key of an event, or a column that all events carry, such as
        `Order.customer_id`. By default it is table and identity. An UPDATE of the key itself has no order between the
        events of the old and of the new one.
    :param backfill: the models whose rows that were there before are told of as `read` events (`Order.watch.read`), or
        True for all: by a group once in its life, without a group after each `start()`. Each row takes its place among
        the events, so that it is never told of as it was before one that came. See `backfill()`, and `backfilled`.
    :param exclusive: a name: of all processes whose listeners have it one hears, and the others stand by, by an
        advisory lock of the database that goes with the connection. The one that takes over has a `resync`.
        Not with `durable`, where it is so anyway.
    :param schemas: for tables declared without a schema: the schemas in which they are heard, such as
        `("tenant_a", "tenant_b")`, or `"*"` for all; `event.schema` says which. None hears them where the engine leads:
        a connection of its own kind is opened now and then, and closed at once, to look up where its `search_path` (or
        `schema_translate_map`) has the table. Partitions are heard with their table, wherever they are. Rows of another
        table of that name are passed over (`stats().ignored`) where the engine's own is known; otherwise there are a
        warning and a `resync`.
    :param via: what brings notifications in place of a LISTEN of this process, such as `relay.nats("nats://...")`,
        behind which `sqlalchemy-watch relay --broadcast` listens for many processes. Connections to the database are
        then opened only where something is asked of it. Not with `durable` and `exclusive`.
    :raises ConfigurationError: for a target that can't be watched, and for settings psycopg can't take.

    Signals, whose sender is the listener; receivers run on the dispatch thread, in the order of events. Coroutine
    receivers run on the event loop in which the listener was started, and nothing later is dispatched before they end:

    - `connected`: LISTEN is in force.
    - `disconnected(error)`: the connection was lost; the listener reconnects by itself.
    - `resync(reason)`: something may have been missed: reload what you hold.
    - `backfilled(model, started_at)`: all rows that were there have been told of as `read` events; what a copy holds
      and has not seen since then (by the server's clock) is gone.
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
        decoding_memory: str | None = "256MB",
        wait_visible: bool = True,
        workers: int = 1,
        key: Callable[[Event[Any]], Hashable] | Any = None,
        backfill: bool | Iterable[Any] = False,
        exclusive: str | None = None,
        schemas: Iterable[str] | None = None,
        via: Via | None = None,
    ) -> None:
        policy, homes = retry_policy(durable, max_attempts, retry), check_schemas(schemas)
        self._options = Options(
            max_queue,
            heartbeat_interval,
            heartbeat_timeout,
            durable,
            policy,
            exclusive,
            homes,
            decoding_memory,
            wait_visible,
            workers,
            check_key(key),
            check_models(backfill),
            via,
        )
        self._engine, self._listen_url, self._targets = engine, listen_url, targets
        check_key_is_carried(self._options.key, tables_of(*targets))  # refuses targets that can't be watched
        self._connect = connector(engine, listen_url, seconds=heartbeat_timeout)
        self._asker = Asker(engine, self._connect, has_listen_url=listen_url is not None)
        self._decoders = ValueDecoders(sync_engine_of(engine))
        if not isinstance(self._options.backfill, bool):
            router = Router(tables_of(*targets), self._decoders, durable=durable is not None)
            for model in self._options.backfill:
                router.key_to_read(model)
        self._lifecycle = lifecycle = Lifecycle(self)
        self._surroundings = Surroundings()
        self._run: Run | None = None
        #: All events, in the order of the log: with `connect`, `batches`, `stream` and `iterate`, like a single signal.
        self.events: EventsSignal = EventsSignal(self, durable is not None)
        #: With `durable`: whole transactions.
        self.transactions: TransactionsSignal = TransactionsSignal(durable is not None)
        self.connected: LifecycleSignal[ConnectedReceiver] = lifecycle.connected
        self.disconnected: LifecycleSignal[DisconnectedReceiver] = lifecycle.disconnected
        self.resync: LifecycleSignal[ResyncReceiver] = lifecycle.resync
        self.backfilled: LifecycleSignal[BackfilledReceiver] = lifecycle.backfilled
        self.dead_lettered: LifecycleSignal[FailureReceiver] = lifecycle.dead_lettered
        self.receiver_failed: LifecycleSignal[FailureReceiver] = lifecycle.receiver_failed

    @property
    def signals(self) -> list[WatchSignal[Any]]:
        """The signals of all watches of its targets, whatever their delivery."""
        return signals_in(tables_of(*self._targets))

    @property
    def running(self) -> bool:
        """True from `start()` to `stop()`, also while it reconnects."""
        return self._run is not None and self._run.is_running

    def surround_calls(self, surround: Surround) -> Callable[[], None]:
        """Have every call of a receiver made inside a context manager, as tracing and error reporters need it::

            listener.surround_calls(lambda call: app.app_context())

        That of a coroutine receiver surrounds it in its own task. What goes wrong in it is logged, and the receiver is
        called; what the receiver raises it hears of, and can't swallow. Streams, and the listener's own signals, are
        not surrounded.

        :param surround: called right before each call, which has `events` (one; of batches and transactions several),
            `sender`, and the receiver's `name` and `function_name`; returns the context manager.
        :returns: a function that ends it.
        """
        return self._surroundings.add(surround)

    def start(self, timeout: float = 10.0, *, wait: bool = True) -> None:
        """Start, and return once LISTEN is in force: what commits after that is heard.

        For a running listener it waits for the same. Models declared since the listener was made are heard, too.

        :param timeout: seconds to try for, where the server can't be reached.
        :param wait: False to return at once, where the database may still be down. The listener then tries in the
            background until `stop()`, whatever it fails with: what somebody has to mend is logged as an ERROR,
            and `healthy()` is False meanwhile. When LISTEN is in force, `connected` is sent, and a `resync`, since the
            application may have read before. With `durable` there is a `resync` only where the slot had to be made.
        :raises ListenerStartError: where LISTEN is not in force by then, with the server's own message.
        :raises UnsupportedServerError: at once for a standby, a transaction pooler or a server too old.
        :raises SlotError: with `durable`: at once where the slot can't be made or is something else's.

        With `durable` and `exclusive` it also returns while another process is heard: then this one stands by, and
        `stats().active` is False.
        """
        try:
            with processes.lock:
                run, is_new = self._run, False
                if run is None or not run.is_running:
                    self._lifecycle.loop = self._lifecycle.loop or _running_loop()
                    tables, is_new = tables_of(*self._targets), True
                    check_key_is_carried(self._options.key, tables)
                    warn_of_forgotten(self._targets)
                    self._run = run = Run(
                        self._connect,
                        self._asker,
                        self._options,
                        tables,
                        self._decoders,
                        self._lifecycle,
                        self._surroundings,
                        feed_of(self.events),
                        chunks_of(self.transactions),
                        keeps_trying=not wait,
                    )
            if is_new:
                run.start()
            if wait and (is_new or not run.is_ready):
                run.wait_until_ready(timeout)
        except BaseException:
            if not self.running:
                self._lifecycle.loop = None
            raise

    def run(self, stop_timeout: float = 10.0) -> None:
        """Start, and return once stopped: by SIGTERM or Ctrl-C, or by a `stop()`; for a process that does nothing else.

        It tries to connect for as long as that takes, like `start(wait=False)`. The main thread runs an event loop for
        coroutine receivers. The handlers of the two signals are given back at the end. A listener that runs already is
        stopped in the same way; its coroutine receivers run where it was started.

        :param stop_timeout: seconds that receivers get to end in.
        :raises ListenerError: in another thread than the main one, and in a running event loop.
        :raises KeyboardInterrupt: at a second Ctrl-C, without waiting any longer.
        """
        run_until_told([self], stop_timeout)

    def stop(self, timeout: float = 10.0) -> None:
        """Stop: no receiver is called any more after the present one; what waits is dropped and counted.

        Stopping twice does nothing. May be called from a receiver.

        :param timeout: seconds to wait for the threads; a receiver that blocks longer is left alone.
        """
        run = self._run
        if run is not None and run.is_running:
            self._lifecycle.loop = None
            run.stop(timeout)

    def catch_up(self, timeout: float = 30.0) -> None:
        """Return when everything that was committed before the call has been dispatched.

        :param timeout: in seconds.
        :raises CatchUpTimeout: where it was not by then.
        :raises ListenerError: where the listener is not running, or in a receiver, which would wait for itself;
            with `exclusive` also where this process stands by, with the words who is heard.

        In a coroutine use `await listener.catch_up_async()`, so that coroutine receivers can run meanwhile.
        """
        run = self._run
        if run is None or not run.is_running:
            raise ListenerError("the listener is not running: call start(), or use it in a with statement")
        run.catch_up(timeout)

    async def catch_up_async(self, timeout: float = 30.0) -> None:
        """`catch_up` for coroutines: the event loop goes on meanwhile. Raises what that does."""
        if self._run is not None and self._run.is_calling(asyncio.current_task()):
            raise ListenerError("catch_up_async() in a receiver would wait for itself: call it in a task of its own")
        await asyncio.to_thread(self.catch_up, timeout)

    def backfill(self, model: Any) -> None:
        """Have the existing rows of a model told of as `read` events, in the background; it returns when that is noted.

        As after a `resync`, in a receiver of which it may be called. Where that is under way already it begins anew.
        Of a group that is noted in the table `sqlalchemy_watch.backfills`, and done by whichever process is active, the
        next one going on where the one before ended. `backfilled` tells of the end. A row may be read more than once;
        what is updated while rows are read may be told of before its first `read`. A subclass of a hierarchy is read
        with all of that.

        :param model: a mapped class, or a `Table`.
        :raises ConfigurationError: where none of its watches is heard, and with `wait_visible=False`.
        :raises ListenerError: where the listener is not running.
        :raises SlotError: with `durable`: where the role may not have the table.
        :raises OwnershipError: with `durable`: where the table is not to be trusted.
        :raises psycopg.Error: where the database can't be asked.
        """
        run = self._run
        if run is None or not run.is_running:
            raise ListenerError("the listener is not running: call start(), or use it in a with statement")
        run.backfill(model)

    def healthy(self, max_lag: float | None = None) -> bool:
        """Return True if all is well, for a probe: cheap, from any thread, without a query; never raises.

        All is well while LISTEN is in force and heartbeats are answered, or this process stands by rightly; and while
        no receiver takes longer than `heartbeat_interval` for one notification. It is False before `start()`, after
        `stop()`, in a forked child, without a connection, and where another role holds the lock of `exclusive`.

        :param max_lag: seconds that the oldest event which has not been dispatched may have waited; None for any.
            With `durable`, while it works off what was kept for it, this is the age that the last event had when it
            was dispatched, by the server's clock.
        """
        return self._run is not None and self._run.is_healthy(max_lag)

    def stats(self) -> Stats:
        """Return a copy of the counters since `start`."""
        return Stats() if self._run is None else self._run.stats()

    def __enter__(self) -> Listener:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    async def __aenter__(self) -> Listener:
        self._lifecycle.loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.stop)


def hears_alone(listener: Listener) -> bool:
    """Return True if of several processes one alone hears: no member of it, since users know what they gave it."""
    return listener._options.hears_alone  # noqa: SLF001 - of the same module


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Plan(NamedTuple):
    """What a listener is made of: for whoever looks at its database in its place."""

    engine: Engine | AsyncEngine
    listen_url: str | URL | None
    targets: tuple[Any, ...]
    options: Options
    connect: Connect


def plan_of(listener: Listener) -> Plan:
    """Return what a listener is made of: no member of it, since users need none of that."""
    made = listener
    return Plan(made._engine, made._listen_url, made._targets, made._options, made._connect)  # noqa: SLF001 - of the same module
