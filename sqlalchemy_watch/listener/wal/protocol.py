"""The consumer's half of streaming replication: bytes in, items and status updates out.

Pure: no socket, no thread, no clock. Times are those of `time.monotonic()`, positions in the log are integers.

A transaction is acknowledged when its last receiver has returned. Whatever is sent again after a lost connection, and
has been taken already, is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ...events.messages import Stamp
from ...wire import DURABLE_PREFIX
from ..handover.items import CaughtUp, Committed, Item, Notification, Resync, Settable
from ..stats import ReadingStats
from ..xids import Xids
from .liveness import Liveness
from .messages import (
    RESYNC_PREFIX,
    TOKEN_PREFIX,
    Begin,
    Commit,
    Keepalive,
    LogicalMessage,
    format_lsn,
    parse,
    prefix_of,
    status_update,
    time_of,
)
from .skipped import SkippedRows

SLOT_LOST = (
    "the server gave up the log that the slot needed, or took over without the slot, or the publication was missing, "
    "or the slot was dropped: events in between are lost"
)

#: Seconds between acknowledgements at the least, unless somebody waits for one.
ACKNOWLEDGE_INTERVAL = 0.05

_PREFIX = DURABLE_PREFIX.encode()
_TOKEN = TOKEN_PREFIX.encode()
_RESYNC = RESYNC_PREFIX.encode()


class Position:
    """The point up to which this process has read the log, over all its connections."""

    def __init__(self, begins: int = 0) -> None:
        """Begin with the transactions that commit at `begins` or later; those before have been dispatched."""
        #: The commit of the newest transaction that was taken in full, and of the next one the messages taken.
        self._taken_commit = begins - 1
        self._taken_partly: tuple[int, int] = (0, 0)
        #: The end of the newest one that was taken in full.
        self.end: int = 0
        self.in_transaction: bool = False
        self.commit_lsn: int = 0
        self._messages = 0

    def reconnect(self) -> None:
        """Note that transactions come whole again, from the first that is not acknowledged."""
        self.in_transaction = False

    def begin(self, commit_lsn: int) -> None:
        """Note that a transaction begins."""
        self.in_transaction = True
        self.commit_lsn = commit_lsn
        self._messages = 0

    def take_message(self) -> bool:
        """Return True if this message of the transaction has not been taken before."""
        self._messages += 1
        lsn, count = self._taken_partly
        if self.commit_lsn <= self._taken_commit or (lsn == self.commit_lsn and self._messages <= count):
            return False
        self._taken_partly = (self.commit_lsn, self._messages)
        return True

    def take_commit(self, commit: Commit) -> bool:
        """Return True if the end of the transaction has not been taken before."""
        self.in_transaction = False
        if commit.commit_lsn <= self._taken_commit:
            return False
        self._taken_commit, self.end = commit.commit_lsn, commit.end_lsn
        return True

    @property
    def newest(self) -> int:
        """The commit of the newest transaction of which something was taken; 0 where nothing was."""
        return max(self._taken_commit, self._taken_partly[0], 0)


@dataclass(frozen=True)
class Contents:
    """The messages of the log that are this consumer's, and the way to read them."""

    group: bytes
    #: The channels by the prefix of their messages.
    channels: Mapping[bytes, str]
    #: Finds the token of that name; None for another process's.
    find_token: Callable[[str], Settable | None]
    #: To UTF-8; None where the log is in UTF-8 already.
    convert: Callable[[bytes], bytes] | None = None


class WalCore:
    """One connection to a walsender, as a state machine.

    :param position: of the process, which outlives the connection.
    :param status_interval: seconds between status updates at the most, or the server ends the connection.
    :param xids: the numbers of the server's transactions.
    """

    def __init__(
        self,
        contents: Contents,
        position: Position,
        liveness: Liveness,
        status_interval: float,
        stats: ReadingStats,
        xids: Xids,
    ) -> None:
        self._contents, self._position, self._stats = contents, position, stats
        self._xids = xids
        #: The transaction that is read; and its number and the time of its commit, once that is asked for.
        self._begun = Begin(0, 0, 0)
        self._stamp: Stamp | None = None
        self.liveness: Liveness = liveness
        self._status_interval = status_interval
        self._tokens: list[Settable] = []
        self._skipped = SkippedRows()
        #: Up to where everything has been read, and dispatched.
        self._received = self._acknowledged = 0
        #: The position that the server was told last, and the time.
        self.sent: int = -1
        self._sent_at = -math.inf
        self._reply_is_owed = False
        #: Transactions that were read.
        self.commits: int = 0
        position.reconnect()

    def receive(self, data: bytes | memoryview, now: float) -> Iterable[Item]:
        """Return the items to dispatch of one piece of COPY data.

        :raises PayloadError: where it is cut off.
        """
        received = parse(data)
        if isinstance(received, LogicalMessage):
            return self._take_message(received) if received.transactional else ()
        if isinstance(received, Begin):
            self._position.begin(received.commit_lsn)
            self._begun, self._stamp = received, None
            self._tokens = []
            self._skipped.forget()
        elif isinstance(received, Commit):
            self.commits += 1
            self._received = max(self._received, received.end_lsn)
            if self._position.take_commit(received):
                return (Committed(received.end_lsn), *map(CaughtUp, self._tokens))
        elif isinstance(received, Keepalive):
            self._received = max(self._received, received.wal_end)
            self._reply_is_owed |= received.reply_wanted
            if received.reply_wanted:
                self.liveness.note_request(now)
        return ()

    def pass_over(self, head: bytes, size: int) -> bool:
        """Return True if a message that begins like this, of this size, is not to be read; then it has been counted."""
        prefix, is_transactional = prefix_of(head)
        if not is_transactional or not prefix.startswith(_PREFIX):
            return True
        if prefix in self._contents.channels or not self._skipped.is_large(size):
            return False
        self._skipped.add_large()
        return True

    def _take_message(self, message: LogicalMessage) -> Iterable[Item]:
        contents, position = self._contents, self._position
        channel = contents.channels.get(message.prefix)
        if channel is not None:
            skipped = self._skipped
            if not position.take_message():
                skipped.forget()  # those have been counted then
                return ()
            self._stats.notifications += 1
            payload = bytes(message.content)
            if contents.convert is not None:
                payload = contents.convert(payload)
            stamp = self._stamp or self._make_stamp()
            return (Notification(channel, payload, position.commit_lsn, skipped.take(), stamp),)
        if message.prefix == _TOKEN:
            if isinstance(message.content, bytes):  # a token is short
                done = contents.find_token(message.content.decode(errors="replace"))
                if done is not None:
                    self._tokens.append(done)
        elif message.prefix == _RESYNC:
            if message.content == contents.group and position.take_message():
                return (Resync(SLOT_LOST, is_asked_for=True),)
        elif message.prefix.startswith(_PREFIX):
            self._skipped.add(message.content)
        return ()

    def _make_stamp(self) -> Stamp:
        self._stamp = self._xids.widen(self._begun.xid), time_of(self._begun.committed_at)
        return self._stamp

    def acknowledge(self, lsn: int) -> None:
        """Note that everything up to there has been dispatched."""
        self._acknowledged = lsn

    @property
    def has_news(self) -> bool:
        """True if the server is to be told of an acknowledgement."""
        return self._acknowledgeable != self.sent

    @property
    def _acknowledgeable(self) -> int:
        # With nothing under way, writes to unwatched tables are acknowledged too: the slot must not hold the
        # disk for nothing.
        if self._position.in_transaction or self._position.end > self._acknowledged:
            return self._acknowledged
        return max(self._acknowledged, self._received)

    def send(self, now: float) -> bytes | None:
        """Return the status update that is due, if one is.

        :raises Silent: where the server has not answered in time.
        """
        liveness = self.liveness
        liveness.check(now)
        heartbeat = liveness.heartbeat
        last_sign = max(heartbeat.heard_at, heartbeat.asked_at or 0.0)
        if now - last_sign >= heartbeat.interval or now - self._sent_at >= self._status_interval:
            heartbeat.ask(now)
            return self.status(now, reply_wanted=True)
        if self._reply_is_owed or (self.has_news and now - self._sent_at >= ACKNOWLEDGE_INTERVAL):
            return self.status(now)
        return None

    def status(self, now: float, *, reply_wanted: bool = False) -> bytes:
        """Return a status update, due or not."""
        self.sent, self._sent_at, self._reply_is_owed = self._acknowledgeable, now, False
        self._stats.acknowledged = format_lsn(self.sent)
        return status_update(self._received, self.sent, reply_wanted=reply_wanted)

    def deadline(self, now: float) -> float:
        """Return the time at which `send` is to be called again, at the latest."""
        interval = min(self.liveness.heartbeat.interval, self._status_interval)
        if self.has_news:
            interval = min(interval, ACKNOWLEDGE_INTERVAL)
        return max(now, min(self._sent_at + interval, self.liveness.deadline))
