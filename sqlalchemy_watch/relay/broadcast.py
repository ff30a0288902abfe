"""`Broadcast`: listens once, and passes on what comes to many processes, over NATS."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from sqlalchemy import Engine, Table
from sqlalchemy.engine import URL

from ..aio import sync_engine_of
from ..declaring.targets import tables_of
from ..declaring.translating import SchemaMap
from ..errors import ConfigurationError, ListenerStartError, WatchError, one_line
from ..listener.decoding.routes import Router
from ..listener.decoding.values import ValueDecoders
from ..listener.foreground import run_until_told
from ..listener.notify.source import NotifySource
from ..listener.options import Options, RetryPolicy
from ..listener.pipeline.inbox import Inbox, Lot
from ..listener.pipeline.ledger import Ledger
from ..listener.pipeline.parts import Connected, Disconnected, Message, Notification, Resync
from ..listener.server.asking import Asker
from ..listener.server.checks import warn_of_triggers
from ..listener.server.connect import Connect, connector
from ..listener.stats import ReadingStats
from .carrier import Carrier
from .frames import BEAT, BEGUN_ANEW, Frame
from .naming import LOCK, broadcast_name, identity_of, mark_channel, subject_of
from .sending import Sender

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

log: logging.Logger = logging.getLogger(__name__)

#: Bytes of payloads in a frame; servers take messages of 1 MB unless told otherwise.
MAX_FRAME = 256 * 1024

#: Seconds from one frame to the next: what comes meanwhile is sent together, as each process wakes for each frame.
#: What comes alone is sent at once.
GATHER_SECONDS = 0.005

#: Seconds that each query about the triggers may take.
TRIGGERS_SECONDS = 5.0


class Broadcast:
    """The only LISTEN of many processes: passes on what NOTIFY brings, which they hear by `Listener(via=)`::

        Broadcast(engine, Base, to="nats://localhost").run()

        Listener(engine, Base, via=relay.nats("nats://localhost"))   # in each worker

    What it may have missed, it tells them, and they have a `resync`. Of several of one name one is heard, and the
    others stand by.

    :param targets: declarative bases, registries, MetaData, mapped classes or Tables.
    :param to: the servers, such as `"nats://localhost"`, or several of a cluster with commas between them.
    :param name: by which those who hear it find it; by default that of the database.
    :param listen_url: as of `Listener`; `max_queue`, `heartbeat_interval` and `heartbeat_timeout` as well.
    :raises ConfigurationError: as `Listener` does, and for servers that are not NATS.
    """

    def __init__(
        self,
        engine: Engine | AsyncEngine,
        *targets: Any,
        to: str,
        name: str | None = None,
        listen_url: str | URL | None = None,
        max_queue: int = 50_000,
        heartbeat_interval: float = 30.0,
        heartbeat_timeout: float = 10.0,
    ) -> None:
        sync = sync_engine_of(engine)
        tables = tables_of(*targets)
        connect = connector(engine, listen_url, seconds=heartbeat_timeout)
        found = broadcast_name(name, sync.url.database)
        options = Options(
            max_queue, heartbeat_interval, heartbeat_timeout, None, RetryPolicy(), exclusive=LOCK.format(found)
        )
        schemas = Asker(engine, connect, has_listen_url=listen_url is not None).renamed_schemas
        router = Router(tables, ValueDecoders(sync), durable=False, schemas=schemas)
        channels = sorted({route.watch.channel for route in router.routes})
        if not channels:
            raise ConfigurationError(
                "Broadcast: nothing is sent by NOTIFY of what its targets watch: give a model __watch__, or, of what "
                "is durable, use Relay"
            )
        self._settings = _Settings(found, Carrier(to), connect, options, channels, tables, schemas)
        self._sending: _Sending | None = None

    @property
    def running(self) -> bool:
        """True from `start()` to `stop()`, also while it reconnects."""
        return self._sending is not None and self._sending.is_running

    @property
    def is_heard(self) -> bool:
        """True while it listens and the broker takes what it sends; False also where it stands by."""
        return self._sending is not None and self._sending.is_heard

    @property
    def stands_by(self) -> bool:
        """True while another process of the same name is heard."""
        return self._sending is not None and self._sending.stands_by

    @property
    def waits_for(self) -> str | None:
        """What it waits for, the broker or the database, in words; None while it is heard, and where it stands by."""
        return None if self._sending is None else self._sending.waits_for

    @property
    def frames(self) -> int:
        """The frames with notifications that were sent since the last `start()`."""
        return 0 if self._sending is None else self._sending.frames

    @property
    def notifications(self) -> int:
        """The notifications that came since the last `start()`."""
        return 0 if self._sending is None else self._sending.stats.notifications

    def start(self, timeout: float = 10.0, *, wait: bool = True) -> None:
        """Start, and return once LISTEN is in force, and the broker is there.

        :param timeout: seconds to try for.
        :param wait: False to return at once, and to try for as long as that takes.
        :raises ListenerStartError: where it was not so by then.
        :raises WatchError: where trying again would not help.
        """
        if self.running:
            return
        sending = self._sending = _Sending(self._settings)
        sending.source.state.keeps_trying = not wait
        sending.start()
        if wait:
            try:
                sending.wait_until_ready(timeout)
            except BaseException:
                sending.stop(1.0)
                raise

    def stop(self, timeout: float = 10.0) -> None:
        """Stop; stopping twice does nothing.

        :param timeout: seconds to wait for the threads.
        """
        if self._sending is not None:
            self._sending.stop(timeout)

    def run(self, stop_timeout: float = 10.0) -> None:
        """Start, and return once stopped: by SIGTERM or Ctrl-C, or by a `stop()`; as `Listener.run` does."""
        run_until_told([self], stop_timeout)

    def __enter__(self) -> Broadcast:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class _Settings(NamedTuple):
    """What a broadcast is made with."""

    name: str
    carrier: Carrier
    connect: Connect
    options: Options
    channels: Sequence[str]
    tables: Sequence[Table]
    #: The engine's `schema_translate_map`.
    schemas: SchemaMap


class _Sending:
    """From one `start()` to its `stop()`."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self.stats: ReadingStats = ReadingStats()
        limit = settings.options.max_queue
        self._inbox, self._ledger = Inbox(limit), Ledger(limit)
        self.source: NotifySource = NotifySource(
            self._connect, settings.options, [*settings.channels, mark_channel(settings.name)], self._inbox,
            self._ledger, self.stats, self._look_at_triggers, lambda: None,
        )  # fmt: skip
        self._sender = Sender(settings.carrier, subject_of(settings.name), self._note_asked)
        self._is_asked = False
        #: What tells the database from others of its name.
        self._database: str | None = None
        self._thread = threading.Thread(target=self._run, name="sqlalchemy-watch-broadcast", daemon=True)
        self.is_running: bool = True
        self._lock = threading.Lock()
        self.frames: int = 0
        self._epoch, self._number, self._reason = uuid.uuid4().hex, 0, BEGUN_ANEW
        self._is_listening = False
        #: True once an epoch has begun since it listens.
        self._is_begun = False
        self._waiting: list[Notification] = []
        self._size = 0
        self._beat_at = self._gathers_until = 0.0

    def _connect(self, *, replication: bool = False, stopping: threading.Event | None = None) -> Any:
        connection = self._settings.connect(replication=replication, stopping=stopping)
        self._database = identity_of(connection)
        return connection

    @property
    def is_heard(self) -> bool:
        return self.is_running and self._is_listening and self._sender.connected.is_set()

    @property
    def stands_by(self) -> bool:
        return self.is_running and self.source.state.standing_by is not None

    @property
    def waits_for(self) -> str | None:
        if not self.is_running:
            return None
        if not self._sender.connected.is_set():
            return f"the broker: {one_line(self._sender.error, 'no answer')}"
        if self._is_listening or self.stands_by:
            return None
        return f"the database: {one_line(self.source.state.error, 'no answer')}"

    def start(self) -> None:
        for thread in (self._sender.thread, self._thread, self.source.thread):
            thread.start()

    def wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        state = self.source.state
        is_ready = state.ready.wait(timeout)
        if is_ready and isinstance(state.error, WatchError):
            raise state.error
        if not is_ready:
            raise ListenerStartError(
                f"LISTEN was not in force within {timeout:g} s: {one_line(state.error, 'no answer from the server')}"
            )
        if not self._sender.connected.wait(max(0.0, deadline - time.monotonic())):
            raise ListenerStartError(
                f"the broker was not there within {timeout:g} s: {one_line(self._sender.error, 'no answer')}"
            )

    def stop(self, timeout: float) -> None:
        with self._lock:
            if not self.is_running:
                return
            self.is_running = False
        self.source.stop()
        self._inbox.wake()
        deadline = time.monotonic() + timeout
        for thread in (self._thread, self.source.thread):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._sender.end()
        self._sender.thread.join(max(0.0, deadline - time.monotonic()))

    def _note_asked(self) -> None:
        self._is_asked = True
        self._inbox.wake()

    def _run(self) -> None:
        while self.is_running:
            try:
                self._step()
            except Exception:
                log.exception("unexpected error while broadcasting; beginning anew")
                self._begin_anew("an unexpected error in the broadcast")

    def _step(self) -> None:
        if self._inbox.is_empty:
            self._inbox.put_owed(self._ledger)
        work = self._inbox.get(self._beat_at)
        if isinstance(work, Lot):
            time.sleep(max(0.0, self._gathers_until - time.monotonic()))
        while work is not None:
            if isinstance(work, Lot):
                self._take(work)
            else:
                work()
            work = None if self._inbox.is_empty else self._inbox.get()
        self._flush()
        if self._is_asked:
            self._is_asked = False
            self._send(Frame(self._epoch, self._number, channels=self._settings.channels, reason=self._reason))
        elif time.monotonic() >= self._beat_at:
            self._send(Frame(self._epoch, self._number, reason=self._reason))

    def _take(self, lot: Lot) -> None:
        for transaction, messages, is_last in lot.parts:
            for message in messages:
                self._inbox.note_taken(message)
                self._handle(message)
            if is_last and lot.notifications:
                lot.ledger.handled(transaction)
        lot.ledger.settle()

    def _handle(self, message: Message) -> None:
        if isinstance(message, Notification):
            self._waiting.append(message)
            self._size += len(message.payload)
            if self._size >= MAX_FRAME:
                self._flush()
        elif isinstance(message, Resync):
            self._begin_anew(message.reason)
        elif isinstance(message, Connected):
            self._is_listening, self._is_begun = True, False
            self._begin_anew(BEGUN_ANEW)
        elif isinstance(message, Disconnected):
            self._flush()
            self._is_listening = False

    def _begin_anew(self, reason: str) -> None:
        """Have all who hear know that something may be missing here."""
        self._flush()
        if self._number == 0 and self._is_begun:  # nothing has come since the last time
            return
        self._epoch, self._number, self._reason, self._is_begun = uuid.uuid4().hex, 0, reason, True
        self._send(Frame(self._epoch, 0, channels=self._settings.channels, reason=reason))

    def _flush(self) -> None:
        if self._waiting:
            waiting, self._waiting, self._size = self._waiting, [], 0
            self._number += 1  # also where it is not sent: who hears the next one notices
            self.frames += 1
            self._send(Frame(self._epoch, self._number, waiting))
            self._gathers_until = time.monotonic() + GATHER_SECONDS

    def _send(self, frame: Frame) -> None:
        self._beat_at = time.monotonic() + BEAT
        if self._is_listening:  # otherwise those who hear are to notice the silence
            self._sender.send(frame._replace(database=self._database).encode())

    def _look_at_triggers(self, connection: psycopg.Connection[Any]) -> None:
        warn_of_triggers(connection, self._settings.tables, TRIGGERS_SECONDS, self._settings.schemas)
