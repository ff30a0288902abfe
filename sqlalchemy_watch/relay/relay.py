"""`Relay`: hands what a consumer group is told of on to a message broker."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from ..declaring.targets import tables_of
from ..errors import (
    BatchFailed,
    ConfigurationError,
    ListenerError,
    ListenerStartError,
    RetryAfter,
    in_one_line,
    one_line,
)
from ..events.event import Event
from ..listener.foreground import LOOK_SECONDS, run_until_told
from ..listener.listener import Listener
from ..listener.naming import event_words
from ..listener.options import RetryPolicy
from ..listener.source import Backoff
from ..listener.stats import Stats
from ..signals.matching import freeze
from ..signals.watch_signals import WatchSignal
from ..watched import signals_in
from .loops import LoopThread
from .messages import SOURCE, Format, Message, Writer
from .publishers import Publisher, Refused, publisher_for
from .publishers.protocol import MOST_MESSAGES, TIMEOUT
from .subjects import SUBJECT

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

log: logging.Logger = logging.getLogger(__name__)

#: Seconds that events wait for others which are published with them.
GATHER_SECONDS = 0.002

#: Seconds at the most until a broker that did not answer is tried again.
MOST_WAIT = 5.0

#: Of a publisher.
METHODS = ("start", "publish", "close")

STOPPED = "the relay was stopped meanwhile"

#: Seconds before a message that the broker has refused is tried again: at first, and at most.
FIRST_DELAY, MAX_DELAY = 1.0, 60.0


@dataclass
class RelayStats:
    """The numbers of a relay since its start."""

    #: Messages that the broker has confirmed.
    published: int = 0
    #: Times that the broker has said that it will never take a message.
    refused: int = 0
    #: Attempts that failed, of lists of messages.
    failed: int = 0
    #: What it waits for, in words; None while the broker takes what comes.
    waits_for: str | None = None
    #: When the last message that was confirmed had been committed, in seconds before its confirmation.
    delay: float | None = None
    #: Those of its listener.
    listener: Stats | None = None


class Relay:
    """Publishes the events of a consumer group to a message broker, each until the broker has confirmed it::

        Relay(engine, Base, group="to_nats", to="nats://localhost").run()

    What was not confirmed is not acknowledged, and PostgreSQL keeps it. The messages of a row come in the order in
    which its changes were committed. An event may be published twice, where a confirmation was lost, under the same id.
    Of several processes with the same group one is active, and the others stand by. Where events may be missing, a
    message of the type `resync` says so.

    :param targets: declarative bases, registries, MetaData, mapped classes or Tables.
    :param group: the consumer group, as `Listener(durable=)` has it.
    :param to: the broker's URL, or a `Publisher`. NATS JetStream: `nats://host:4222`. Redis Streams:
        `redis://host:6379/0?stream=watch`. Kafka: `kafka://host:9092/topic`. See `publisher_for`.
    :param subject: the template of subjects, of the fields `schema`, `table`, `operation`, `label` and `key`.
    :param format: `"cloudevents"` or `"plain"`, which is `Event.to_json()`.
    :param source: where events come from, in CloudEvents: a URI or a path.
    :param create: of NATS: make the stream where it is missing.
    :param max_attempts: attempts at a message that the broker will never take before it is a dead letter for good;
        until then its key waits, and nothing else. None: as long as that takes.
    :param timeout: seconds within which the broker has to answer.
    :param options: those of `Listener`, but `durable`, `max_attempts` and `retry`: `backfill=True`, `schemas`, ...
    :raises ConfigurationError: as `Listener` and `publisher_for` do.
    """

    def __init__(
        self,
        engine: Engine | AsyncEngine,
        *targets: Any,
        group: str,
        to: str | Publisher,
        subject: str = SUBJECT,
        format: Format = "cloudevents",
        source: str = SOURCE,
        create: bool = False,
        max_attempts: int | None = None,
        timeout: float = TIMEOUT,
        **options: Any,
    ) -> None:
        wrong = {"durable": "group=", "retry": "max_attempts=", "via": "Broadcast"}
        for name in wrong.keys() & options.keys():
            raise ConfigurationError(f"Relay: {name}= is not an option of it: use {wrong[name]}")
        _check_durable(targets)
        retry = RetryPolicy(max_attempts, FIRST_DELAY, MAX_DELAY, in_order="key", attempts=1)
        self._writer = Writer(subject, format, source)
        if isinstance(to, str):
            self._publisher = publisher_for(to, subject=subject, create=create, timeout=timeout)
        elif not isinstance(to, type) and all(callable(getattr(to, name, None)) for name in METHODS):
            self._publisher = to
        else:
            raise ConfigurationError(
                f"to={to!r}: give a URL such as 'nats://localhost', or an object with the methods of a Publisher: "
                f"start(), publish() and close()"
            )
        #: Reads the log; its signals tell of the connection.
        self.listener: Listener = Listener(engine, *targets, durable=group, retry=retry, **options)
        batches = self.listener.events.batches(max_size=MOST_MESSAGES, max_wait=GATHER_SECONDS)
        batches.connect(self._publish_events, name="relay")
        self.listener.resync.connect(self._publish_resync)
        self._stats = RelayStats()
        self._lock = threading.RLock()
        self._loop: LoopThread | None = None
        self._stopping = threading.Event()
        self._starting: threading.Thread | None = None
        #: True once the publisher is started, and has not failed since.
        self._is_connected = False
        self._backoff = Backoff()
        #: A reason that is being published, with its message, which has the same id each time.
        self._resync: tuple[str, Message] | None = None

    @property
    def running(self) -> bool:
        """True from `start()` to `stop()`, also while it waits for the broker or the database."""
        return self._loop is not None

    def start(self, timeout: float = 10.0, *, wait: bool = True) -> None:
        """Start, and return once the broker is there and the group is read, here or elsewhere.

        The group's slot is made when the broker is there: before that nothing is kept for it.

        :param timeout: seconds to try for.
        :param wait: False to return at once, and to try for as long as that takes.
        :raises ListenerStartError: where it was not so by then.
        :raises ConfigurationError: where the broker is not set up for this, such as a subject without a stream.
        :raises WatchError: what `Listener.start` raises.
        """
        with self._lock:
            if self._loop is not None and self._stopping.is_set():
                raise ListenerError("the relay is being stopped: start it when stop() has returned")
            if self.running:
                return
            self._stopping.clear()
            self._stats, self._backoff = RelayStats(), Backoff()
            self._loop = LoopThread("sqlalchemy-watch-publish")
        if not wait:
            self._starting = threading.Thread(target=self._start_patiently, name="sqlalchemy-watch-relay", daemon=True)
            self._starting.start()
            return
        deadline = time.monotonic() + timeout
        try:
            self._connect_by(deadline)
            self.listener.start(max(0.1, deadline - time.monotonic()))
            if self._stopping.is_set():
                self.listener.stop(1.0)
                raise ListenerStartError(STOPPED)
        except BaseException:
            self.stop(1.0)
            raise

    def stop(self, timeout: float = 10.0) -> None:
        """Stop: what the broker has confirmed is acknowledged, all else comes again at the next start.

        Stopping twice does nothing.

        :param timeout: seconds that the messages in hand get to be confirmed in.
        """
        with self._lock:
            loop, starting = self._loop, self._starting
            if loop is None or self._stopping.is_set():
                return
            self._stopping.set()
        deadline = time.monotonic() + timeout
        cancelling = threading.Timer(max(timeout / 2, timeout - 1.0), loop.cancel)
        cancelling.daemon = True
        cancelling.start()
        if self._stats.waits_for is not None or not self._is_connected:  # nothing is to be expected
            loop.cancel()
        try:
            if starting is not None and starting is not threading.current_thread():
                starting.join(timeout)
            self.listener.stop(max(0.1, deadline - time.monotonic()))
        finally:
            cancelling.cancel()
            loop.end(self._publisher.close())
            self._is_connected = False
            with self._lock:
                self._loop = self._starting = None

    def run(self, stop_timeout: float = 10.0) -> None:
        """Start, and return once stopped: by SIGTERM or Ctrl-C, or by a `stop()`; as `Listener.run` does.

        :param stop_timeout: seconds that the messages in hand get to be confirmed in.
        :raises ConfigurationError: at once, where the broker is there, and is not set up for this.
        """
        self._is_run = True
        try:
            run_until_told([self], stop_timeout)
        finally:
            self._is_run = False
        if self._hopeless is not None:
            raise self._hopeless

    @property
    def system(self) -> str:
        """The broker's name in metrics, such as `nats`; that of a publisher of one's own is its attribute `system`."""
        return str(getattr(self._publisher, "system", "_OTHER"))

    def stats(self) -> RelayStats:
        """Return a copy of the counters since `start`."""
        return replace(self._stats, listener=self.listener.stats())

    def healthy(self, max_lag: float | None = None) -> bool:
        """Return True if the broker takes what comes, and the listener is well: see `Listener.healthy`."""
        return self._is_connected and self._stats.waits_for is None and self.listener.healthy(max_lag)

    def __enter__(self) -> Relay:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    #: True in `run()`.
    _is_run: bool = False
    #: Why a start without waiting was given up.
    _hopeless: ConfigurationError | None = None

    def _start_patiently(self) -> None:
        """Connect to the broker, however long that takes, and then read."""
        self._hopeless = None
        while not self._stopping.is_set():
            try:
                self._connect()
                if not self._stopping.is_set():
                    self.listener.start(wait=False)
                return
            except concurrent.futures.CancelledError:
                return
            except ConfigurationError as error:
                if not self._is_run:  # which raises it
                    log.error("the relay can't start: %s", error)
                self._hopeless = error
                threading.Thread(target=self.stop, daemon=True).start()
                return
            except Exception as error:
                self._pause_after(error)

    def _connect_by(self, deadline: float) -> None:
        failure: Exception | None = None
        while (left := deadline - time.monotonic()) > 0 and not self._stopping.is_set():
            try:
                self._connect(left)
                return
            except ConfigurationError:
                raise
            except Exception as error:
                if failure is None or not isinstance(error, TimeoutError):
                    failure = error
                self._stopping.wait(min(max(0.0, deadline - time.monotonic()), self._backoff.next()))
        if self._stopping.is_set():
            raise ListenerStartError(STOPPED)
        raise ListenerStartError(f"the broker did not answer in time: {one_line(failure)}") from failure

    def _connect(self, seconds: float | None = None) -> None:
        """Start the publisher, anew where it has failed.

        :raises Exception: what it raises.
        """
        self._run(self._publisher.start(), seconds)
        self._is_connected = True

    def _run(self, coroutine: Any, seconds: float | None = None) -> None:
        loop = self._loop
        if loop is None:
            coroutine.close()
            raise concurrent.futures.CancelledError
        loop.run(coroutine, seconds)

    def _publish_events(self, sender: Any, events: list[Event[Any]]) -> None:
        """Publish events, in the dispatch thread.

        :raises RetryAfter: the broker does not take them now.
        :raises BatchFailed: it will never take some.
        """
        written: dict[Message, Event[Any]] = {}
        failed: list[tuple[Event[Any], str]] = []
        untried: list[Event[Any]] = []
        barred = _Barred()
        for event in events:
            if barred.holds(event):
                untried.append(event)
                continue
            try:
                written[self._writer.event(event)] = event
            except ConfigurationError as error:  # a value without a form in JSON
                failed.append((event, str(error)))
                barred.add(event)
        try:
            self._publish(list(written))
        except Refused as refused:
            failed += [(written[message], reason) for message, reason in refused.reasons]
            untried += [written[message] for message in refused.held]
        self._stats.refused += len(failed)
        self._stats.published += len(events) - len(failed) - len(untried)
        self._stats.delay = max(0.0, time.time() - events[-1].emitted_at.timestamp())
        if failed:
            for event, reason in failed:
                log.error("%s of %s can't be published: %s", event.id, event_words(event), in_one_line(reason))
            words = in_one_line(failed[0][1])
            raise BatchFailed([event for event, _ in failed], words, untried)

    def _publish(self, messages: Sequence[Message]) -> None:
        """Publish messages once.

        :raises Refused: the broker will never take some.
        :raises RetryAfter: it does not take them now.
        """
        if not messages:
            return
        try:
            if not self._is_connected:
                self._connect()
            self._run(self._publisher.publish(messages))
        except Refused:
            self._note_success()
            raise
        except (Exception, concurrent.futures.CancelledError) as error:
            if self._stopping.is_set() and isinstance(error, concurrent.futures.CancelledError):
                raise RetryAfter(LOOK_SECONDS, "the relay was stopped before the broker had confirmed it") from None
            self._is_connected = False
            self._stats.failed += 1
            self._stats.waits_for = f"the broker: {one_line(error)}"
            if isinstance(error, ConfigurationError):
                log.error("the broker is not set up for this: %s", error)
            raise RetryAfter(min(self._backoff.next(), MOST_WAIT), one_line(error)) from error
        self._note_success()

    def _note_success(self) -> None:
        if self._stats.waits_for is not None:
            log.info("the broker takes messages again")
        self._stats.waits_for, self._backoff = None, Backoff()

    def _publish_resync(self, sender: Any, reason: str) -> None:
        """Publish that events may be missing, before anything later.

        :raises RetryAfter: the broker does not take it now, or does not take such messages: nobody must miss it.
        """
        if self._resync is None or self._resync[0] != reason:
            self._resync = reason, self._writer.resync(reason)
        try:
            self._publish([self._resync[1]])
        except Refused as refused:
            self._stats.refused += 1
            self._stats.waits_for = f"the broker, which does not take a resync: {one_line(refused)}"
            raise RetryAfter(MOST_WAIT, one_line(refused)) from refused
        self._resync = None
        self._stats.published += 1

    def _pause_after(self, error: Exception) -> None:
        delay = min(self._backoff.next(), MOST_WAIT)
        self._stats.waits_for = f"the broker: {one_line(error)}"
        log.warning("the broker is not there (%s): trying again in %.1f s", one_line(error), delay)
        self._stopping.wait(delay)


def _check_durable(targets: Sequence[Any]) -> None:
    """Refuse targets of which nothing is durable.

    :raises ConfigurationError: naming the remedy.
    """
    signals: list[WatchSignal[Any]] = signals_in(tables_of(*targets))
    if not any(signal.delivery != "notify" for signal in signals):
        raise ConfigurationError(
            "Relay: nothing of what its targets watch is durable: give a model __watch_delivery__ = 'durable' or "
            "'both', or, of what comes by NOTIFY, use Broadcast"
        )


class _Barred:
    """The rows of which an event can't be written: what comes after it waits."""

    def __init__(self) -> None:
        self._rows: set[Any] = set()
        self._are_all = False

    def add(self, event: Event[Any]) -> None:
        """Have later events of the row wait; of one that names no row all."""
        self._rows.add(_row(event))
        self._are_all = self._are_all or not event.identity

    def holds(self, event: Event[Any]) -> bool:
        """Return True for an event that has to wait."""
        if not self._rows:
            return False
        waits = self._are_all or not event.identity or _row(event) in self._rows
        if waits:
            self.add(event)
        return waits


def _row(event: Event[Any]) -> Any:
    return event.model, event.schema, freeze(event.identity)
