"""Hearing a broadcast, in place of a LISTEN: the source of `Listener(via=relay.nats(...))`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Any

import psycopg

from ..errors import ConfigurationError, ListenerError, PayloadError, one_line
from ..listener.heartbeat import Silent
from ..listener.notify.intake import Intake
from ..listener.notify.source import notify
from ..listener.options import Options
from ..listener.pipeline.inbox import Inbox
from ..listener.pipeline.ledger import Ledger
from ..listener.pipeline.parts import CaughtUp, Connected, Disconnected, News, Notification, Resync
from ..listener.server.connect import Connect
from ..listener.server.spare import Spare
from ..listener.source import STARTED_LATE, Keeper, Marks, SourceState, Tokens
from ..listener.stats import ReadingStats
from .carrier import Carrier
from .frames import BEAT, Following, Frame, decode
from .naming import broadcast_name, identity_of, mark_channel, subject_of

log: logging.Logger = logging.getLogger(__name__)

#: Times that it is looked for silence before that is too long.
LOOKS = 10

RECONNECTED = "the broadcast was not heard, and is back"


class FollowingSource:
    """Follows a broadcast: connects to its carrier, reads, connects anew.

    :param name: the broadcast's; None for that of the database.
    """

    def __init__(
        self, carrier: Carrier, name: str | None, connect: Connect, options: Options, channels: Collection[str],
        inbox: Inbox, ledger: Ledger, stats: ReadingStats,
        on_connected: Callable[[psycopg.Connection[Any]], None], on_heartbeat: Callable[[], None],
    ) -> None:  # fmt: skip
        self._carrier, self._name, self._channels = carrier, name, frozenset(channels)
        self._inbox, self._ledger, self._stats = inbox, ledger, stats
        ledger.on_progress = self._note_progress
        self._on_connected, self._on_heartbeat = on_connected, on_heartbeat
        self._spare = Spare(connect)
        self._silence = max(options.heartbeat_timeout, 3 * BEAT)
        self._tokens = Tokens()
        self.marks: Marks = Marks()
        self.state: SourceState = SourceState("the broadcast is not heard at present")
        self._following = Following()
        self._intake = Intake(inbox, ledger, stats)
        #: What tells the database from others of its name; None where that is not known.
        self._database: str | None = None
        self._has_warned = False
        #: Frames that came before it is known what the broadcast has; None afterwards.
        self._early: list[Frame] | None = None
        #: Seconds without a frame in which it could have been read; and when that was looked at.
        self._silent_for = self._looked_at = 0.0
        self._sending: set[asyncio.Task[None]] = set()
        #: When the last beat was noted, by `time.monotonic()`.
        self._beat_at = 0.0
        #: True where tokens may have been lost on the way.
        self._are_names_lost = False
        #: Called to let the thread end, while it reads.
        self._wake: Callable[[], Any] = lambda: None
        self._keeper = Keeper(
            self, self.state, stats, name="sqlalchemy-watch-listen", activity="listening", steady=0.0, log=log
        )

    @property
    def thread(self) -> threading.Thread:
        """The thread that reads."""
        return self._keeper.thread

    def stop(self) -> None:
        """Let the thread end and close its connection."""
        self._keeper.stopping.set()
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self._wake()

    def disown(self) -> None:
        """Do nothing: nothing of the server's waits for who has the socket."""

    def send_token(self, done: threading.Event, deadline: float) -> None:
        """Have `done` set when everything that is committed by now has passed through the queue.

        :raises psycopg.Error: where the database can't be asked for that.
        """
        name = self._tokens.add(done)
        if self.state.listening:  # otherwise it is sent once that is so
            self._send_names([name])

    def forget_token(self, done: threading.Event) -> None:
        """Stop waiting for a token."""
        self._tokens.forget(done)

    def send_mark(self, connection: psycopg.Connection[Any], name: str) -> tuple[int, datetime]:
        """Have a mark come where the present transaction commits; return the number of that, and the time."""
        return notify(connection, mark_channel(self._known_name), name)

    def confirm(self, deadline: float) -> bool:
        """Return True: nothing is acknowledged here."""
        return True

    def connect_and_read(self) -> None:
        """Follow the broadcast until stopped, or lost."""
        with self._keeper.noting_loss():
            with self._spare.use() as connection:
                self._database = identity_of(connection)
                self._name = broadcast_name(self._name, connection.info.dbname)
            asyncio.run(self._read())

    def note_loss(self) -> None:
        """Events that wait are dispatched all the same."""

    def tell(self, item: Connected | Disconnected) -> None:
        """Pass on that the connection is there, or lost."""
        self._put(item)

    def close(self) -> None:
        """Close what the thread needed: it ends."""
        self._spare.end()

    @property
    def _known_name(self) -> str:
        if self._name is None:
            raise ListenerError("the broadcast was not heard yet, and its name is not known")
        return self._name

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()
        stopped = asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(stopped.set)
        self._early, self._intake = [], Intake(self._inbox, self._ledger, self._stats)

        async def hear(message: Any) -> None:
            try:
                self._take_message(message.data)
            except Exception as error:
                if not failed.done():
                    failed.set_exception(error)

        subject = subject_of(self._known_name)
        async with self._carrier.connected() as (client, lost):
            await client.subscribe(subject, cb=hear)
            await client.publish(f"{subject}.hello")
            self._silent_for, self._looked_at = 0.0, time.monotonic()
            stopping: asyncio.Future[Any] = asyncio.ensure_future(stopped.wait())
            try:
                while not self._keeper.stopping.is_set():
                    self._check_heard(subject)
                    await asyncio.wait(
                        [lost, failed, stopping], timeout=self._silence / LOOKS, return_when=asyncio.FIRST_COMPLETED
                    )
                    for ended in (failed, lost):
                        if ended.done():
                            ended.result()
            finally:
                stopping.cancel()
                for task in self._sending:
                    task.cancel()

    def _check_heard(self, subject: str) -> None:
        now = time.monotonic()
        # After a pause of this process, or of the machine, frames lie there that could not be read yet.
        self._silent_for += min(now - self._looked_at, 2 * self._silence / LOOKS)
        self._looked_at = now
        if self._early is not None and self._silent_for > self._silence / 2:
            raise ListenerError(
                f"nobody broadcasts on {subject}: run `sqlalchemy-watch relay --broadcast` for this database, or pass "
                f"the same name on both sides"
            )
        if self._silent_for > self._silence:
            raise Silent(f"the broadcast was silent for {self._silent_for:.1f} s")

    def _take_message(self, data: bytes) -> None:
        try:
            frame = decode(data)
        except PayloadError as error:
            log.warning("passed over on the broadcast's subject: %s", one_line(error))
            return
        if self._is_foreign(frame):
            return
        if self._early is None:
            self._take(frame)
            return
        self._early.append(frame)
        if frame.channels is not None:
            self._begin(frame.channels)

    def _begin(self, channels: Collection[str]) -> None:
        """It is known now what the broadcast has, and so that all is heard."""
        self._check_channels(channels)
        early, self._early = self._early or [], None
        is_new = not self._keeper.announce()
        if not is_new or self.state.keeps_trying:
            self._put(Resync(STARTED_LATE if is_new else RECONNECTED))
        self._following = Following()
        for frame in early:
            self._take(frame)
        self.state.ready.set()
        self._in_thread(self._look)
        self._are_names_lost = True

    def _is_foreign(self, frame: Frame) -> bool:
        """Return True for a frame of another database that has the same name."""
        if frame.database is None or self._database is None or frame.database == self._database:
            return False
        if not self._has_warned:
            self._has_warned = True
            log.warning("another database of the name %r broadcasts there as well: it is passed over", self._name)
        return True

    def _check_channels(self, channels: Collection[str]) -> None:
        missing = sorted(self._channels - set(channels))
        if missing:
            raise ConfigurationError(
                f"the broadcast {self._name!r} does not have the channel {missing[0]!r}: start it anew with the models "
                f"of this listener"
            )

    def _take(self, frame: Frame) -> None:
        if self._following.is_stale(frame):
            return
        if frame.channels is not None:  # another one may have taken over
            self._check_channels(frame.channels)
        self._silent_for, self.state.proved_at = 0.0, time.monotonic()
        gap = self._following.gap(frame)
        if gap is not None:
            self._put(Resync(gap))
            self._are_names_lost = True
        if frame.notifications:
            self._take_all(frame.notifications)
        now = time.monotonic()
        if gap is not None or now - self._beat_at >= BEAT:
            self._beat_at = now
            self._on_heartbeat()
            if self._are_names_lost and self._tokens:
                self._are_names_lost = False
                self._in_thread(self._send_names, self._tokens.rename())

    def _take_all(self, notifications: Iterable[Notification]) -> None:
        ours: list[Notification] = []
        marks = mark_channel(self._known_name)
        for notification in notifications:
            if notification.channel in self._channels:
                ours.append(notification)
            elif notification.channel == marks:
                name = notification.payload.decode(errors="replace")
                done = self._tokens.take(name)
                mark = self.marks.take(name) if done is None else CaughtUp(done.set)
                if mark is not None:
                    self._intake.take(ours)
                    ours = []
                    self._inbox.put_mark(self._ledger, mark)
        if ours:
            self._intake.take(ours)

    def _look(self) -> None:
        with self._spare.use() as connection:
            self._on_connected(connection)

    def _send_names(self, names: Iterable[str]) -> None:
        """Have names come back through the broadcast, by a connection that may have been closed meanwhile.

        :raises psycopg.Error: where the database can't be asked.
        """
        try:
            self._notify(names)
        except psycopg.OperationalError:
            self._spare.close()
            self._notify(names)

    def _notify(self, names: Iterable[str]) -> None:
        with self._spare.use() as connection:
            for name in names:
                notify(connection, mark_channel(self._known_name), name)

    def _in_thread(self, call: Callable[..., None], *arguments: Any) -> None:
        """Ask the database beside the loop; what it can't be asked now is a courtesy, or is asked again."""

        async def do() -> None:
            try:
                await asyncio.to_thread(call, *arguments)
            except Exception as error:
                self._are_names_lost = True  # of those who wait, if any do: asked again at the next beat
                log.warning("the broadcast is heard, but the database could not be asked (%s)", one_line(error))

        task = asyncio.ensure_future(do())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _note_progress(self) -> None:
        """Let the dispatch thread look around, where a resync waits for space."""
        if self._inbox.owes:
            self._inbox.wake()

    def _put(self, news: News) -> None:
        self._inbox.put_mark(self._ledger, news)


class NatsBroadcast:
    """What `relay.nats()` returns: hears a broadcast; given as `Listener(via=)`."""

    def __init__(self, servers: str, name: str | None) -> None:
        self._carrier, self._name = Carrier(servers), name

    def make_source(
        self, connect: Connect, options: Options, channels: Collection[str], inbox: Inbox, ledger: Ledger,
        stats: ReadingStats, on_connected: Callable[[psycopg.Connection[Any]], None], on_heartbeat: Callable[[], None],
    ) -> FollowingSource:  # fmt: skip
        """Return the source of a listener that starts."""
        return FollowingSource(
            self._carrier, self._name, connect, options, channels, inbox, ledger, stats, on_connected, on_heartbeat
        )


def nats(servers: str, name: str | None = None) -> NatsBroadcast:
    """Return what hears the broadcast of `sqlalchemy-watch relay --broadcast`, for `Listener(via=)`.

    :param servers: such as `"nats://localhost"`; several of a cluster with commas between them.
    :param name: the broadcast's, by default that of the database.
    :raises ConfigurationError: for servers that are not NATS, and without the extra `nats`.
    """
    return NatsBroadcast(servers, name)
