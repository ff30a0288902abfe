"""The LISTEN source: a thread that owns a connection, and drains its socket in turns with the dispatch thread."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq.misc import PGnotify

from ..decoding.encodings import adopt_encoding, converter
from ..heartbeat import Heartbeat
from ..options import Options
from ..pipeline.inbox import Inbox
from ..pipeline.ledger import Ledger
from ..pipeline.parts import Connected, Disconnected, News, Resync
from ..server.checks import check_not_pooled, check_server, keep_alive_when_idle
from ..server.connect import Connect
from ..source import STARTED_LATE, Keeper, Marks, SourceState, Tokens, Wake
from ..stats import ReadingStats
from .exclusive import TAKEN_OVER, Exclusive
from .protocol import NotifyProtocol
from .session import NotifySession
from .turns import Turns

log: logging.Logger = logging.getLogger(__name__)

_NOTIFY = (
    "SELECT CAST(CAST(pg_catalog.pg_current_xact_id() AS text) AS bigint), pg_catalog.clock_timestamp(), "
    "pg_catalog.pg_notify(%s, %s)"
)

RECONNECTED = "the connection was lost and is back"


def notify(connection: psycopg.Connection[Any], channel: str, payload: str) -> tuple[int, datetime]:
    """Notify a channel; return the number of the present transaction, and the time."""
    row = connection.execute(_NOTIFY, [channel, payload]).fetchone()
    assert row is not None
    return row[0], row[1]


class NotifySource:
    """Connects, LISTENs, reads, reconnects.

    :param channels: those to listen to.
    :param on_connected: told of each connection once LISTEN is in force; looks at the triggers.
    :param on_heartbeat: called after each round trip.
    """

    def __init__(
        self,
        connect: Connect,
        options: Options,
        channels: Collection[str],
        inbox: Inbox,
        ledger: Ledger,
        stats: ReadingStats,
        on_connected: Callable[[psycopg.Connection[Any]], None],
        on_heartbeat: Callable[[], None],
    ) -> None:
        self._connect, self._options, self._channels = connect, options, sorted(channels)
        self._inbox, self._ledger, self._stats = inbox, ledger, stats
        ledger.on_progress = self._note_progress
        self._on_connected, self._on_heartbeat = on_connected, on_heartbeat
        self._own_channel = f"watch_listener_{uuid.uuid4().hex}"
        self._wake = Wake()
        self._tokens = Tokens()
        self.marks: Marks = Marks()
        self.turns: Turns = Turns(self._wake.set, lambda: inbox.is_empty)
        self.state: SourceState = SourceState("there is no connection at present")
        self._exclusive = Exclusive(options, self.state, stats) if options.exclusive is not None else None
        self._keeper = Keeper(
            self, self.state, stats, name="sqlalchemy-watch-listen", activity="listening", steady=0.0, log=log
        )

    @property
    def thread(self) -> threading.Thread:
        """The thread that reads, in turns with the dispatch thread."""
        return self._keeper.thread

    def stop(self) -> None:
        """Let the thread end and close the connection."""
        self._keeper.stopping.set()
        self.turns.stop()

    def disown(self) -> None:
        """Give up the parent's socket, in a forked child.

        Were the child to keep it open, the server would not notice the parent's death, and would wait for
        somebody to read, with the NOTIFY queue of the whole cluster held up behind that.
        """
        self._keeper.disown()

    def send_token(self, done: threading.Event, deadline: float) -> None:
        """Have `done` set when everything that is committed by now has passed through the queue.

        :param deadline: is of no use here: the token is sent as soon as there is a connection.
        """
        self._tokens.add(done)
        self._wake.set()

    def forget_token(self, done: threading.Event) -> None:
        """Stop waiting for a token."""
        self._tokens.forget(done)

    def send_mark(self, connection: psycopg.Connection[Any], name: str) -> tuple[int, datetime]:
        """Have a mark come where the present transaction commits; return the number of that, and the time."""
        return notify(connection, self._own_channel, name)

    def confirm(self, deadline: float) -> bool:
        """Return True: nothing is acknowledged here."""
        return True

    def connect_and_read(self) -> None:
        """LISTEN, and read until stopped or lost."""
        with self._keeper.holding(self._connect(stopping=self._keeper.stopping)) as connection:
            early: list[PGnotify] = []
            connection.pgconn.notify_handler = early.append
            codec = self._listen(connection)
            if self._exclusive is not None:
                self._stats.active = True
            session = NotifySession(
                connection, self._protocol(codec), self._tokens, self._wake, self._inbox, self._ledger, self._stats,
                self._note_heartbeat,
            )  # fmt: skip
            self.state.proved_at = time.monotonic()
            reason = self._gap(is_new=not self._keeper.announce())
            if reason is not None:
                self._put(Resync(reason))
            self.state.ready.set()
            try:
                self._on_connected(connection)
            finally:
                connection.pgconn.notify_handler = None
                session.take(early)  # they came while the queries ran
                session.take_all()
            self.turns.run(session.step)

    def note_loss(self) -> None:
        """Note that another process may be heard; events that wait are dispatched all the same."""
        if self._exclusive is not None:
            self._stats.active = False

    def tell(self, item: Connected | Disconnected) -> None:
        """Pass on that the connection is there, or lost."""
        self._put(item)

    def _note_progress(self) -> None:
        """Let the dispatch thread look around, which may be the one that reads, where a resync waits for space."""
        if self._inbox.owes:
            self._inbox.wake()
            self._wake.set()

    def _put(self, news: News) -> None:
        self._inbox.put_mark(self._ledger, news)

    def close(self) -> None:
        """Close what the thread was woken by."""
        self._wake.close()

    def _gap(self, *, is_new: bool) -> str | None:
        """Return why something may have been missed before this connection; None where nothing was.

        :param is_new: True for the first connection.
        """
        if self._exclusive is not None and self._exclusive.took_over:
            return TAKEN_OVER
        if not is_new:
            return RECONNECTED
        return STARTED_LATE if self.state.keeps_trying else None

    def _note_heartbeat(self) -> None:
        self.state.proved_at = time.monotonic()
        self._on_heartbeat()

    def _listen(self, connection: psycopg.Connection[Any]) -> str:
        """LISTEN; return the encoding in which the server sends."""
        check_server(connection)
        check_not_pooled(connection, self._connect, self._options.heartbeat_timeout)
        keep_alive_when_idle(connection)
        if self._exclusive is not None:
            self._exclusive.acquire(connection, self._keeper.stopping)
        codec = adopt_encoding(connection)  # before the first notification
        channels = [*self._channels, self._own_channel]
        statements = [sql.SQL("LISTEN {}").format(sql.Identifier(channel)) for channel in channels]
        connection.execute(sql.SQL("; ").join(statements).as_string(None).encode(codec))
        return codec

    def _protocol(self, codec: str) -> NotifyProtocol:
        channels = {name.encode(codec): name for name in self._channels}
        heartbeat = Heartbeat(self._options.heartbeat_interval, self._options.heartbeat_timeout, time.monotonic())
        return NotifyProtocol(channels, self._own_channel.encode(), heartbeat, converter(codec), self.marks.take)
