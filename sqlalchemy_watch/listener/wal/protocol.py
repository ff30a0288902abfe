"""The consumer's half of streaming replication: bytes in, parts of transactions and status updates out.

Pure: no socket, no thread, no clock. Times are those of `time.monotonic()`, positions in the log are integers.

A transaction is acknowledged when its last receiver has returned. Whatever is sent again after a lost connection, and
has been taken already, is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...wire import BACKFILL_PREFIX, DURABLE_PREFIX
from ..pipeline.parts import Here, Mark, Message, Notification, Part, Resync, Transaction
from ..stats import ReadingStats
from ..xids import Xids
from .liveness import Liveness
from .messages import (
    BEGIN,
    COMMIT,
    KEEPALIVE,
    MESSAGE,
    RESYNC_PREFIX,
    TOKEN_PREFIX,
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

#: Bytes of payloads from which on a transaction comes in parts.
PART_BYTES = 65_536

#: Seconds between acknowledgements at the least, unless somebody waits for one.
ACKNOWLEDGE_INTERVAL = 0.05

#: Makes a named tuple of a tuple at a third of the cost of calling its class: there are two to a transaction.
_new = tuple.__new__

_PREFIX = DURABLE_PREFIX.encode()
_TOKEN = TOKEN_PREFIX.encode()
_RESYNC = RESYNC_PREFIX.encode()
_BACKFILL = BACKFILL_PREFIX.encode()


class Position:
    """The point up to which this process has read the log, over all its connections."""

    def __init__(self, begins: int = 0) -> None:
        """Begin with the transactions that commit at `begins` or later; those before have been dispatched."""
        #: The commit of the newest transaction that was taken in full, and of the next one the messages taken.
        self._taken_commit = begins - 1
        self._taken_partly: tuple[int, int] = (0, 0)
        #: The transaction of which something was handed on, and not yet the end.
        self.begun: Transaction | None = None
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

    @property
    def is_taken(self) -> bool:
        """True if the transaction was taken in full before."""
        return self.commit_lsn <= self._taken_commit

    def take_commit(self, commit_lsn: int) -> bool:
        """Return True if the end of the transaction has not been taken before."""
        self.in_transaction = False
        if commit_lsn <= self._taken_commit:
            return False
        self._taken_commit = commit_lsn
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
    #: Finds the mark of that name; None for another process's.
    find_mark: Callable[[str], Mark | None]
    #: Called in the dispatch thread where somebody has requested a backfill.
    on_request: Callable[[Transaction], None] = lambda transaction: None
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
        #: Of the transaction that is read: the time of its commit in microseconds since 2000, the lower 32 bits of its
        #: number, and its messages that are in no part yet.
        self._committed_at = self._xid = 0
        self._messages: list[Message] = []
        self._size = 0
        #: What was read, to be taken; with the number of its notifications, and the bytes of their payloads.
        self._parts: list[Part] = []
        self._notifications = self._parts_size = 0
        self.liveness: Liveness = liveness
        self._status_interval = status_interval
        self._skipped = SkippedRows()
        #: Up to where everything has been read, and dispatched; True if nothing else that was handed on is under way.
        self._received = self._acknowledged = 0
        self._is_idle = False
        #: The position that the server was told last, and the time.
        self.sent: int = -1
        self._sent_at = -math.inf
        self._reply_is_owed = False
        #: Transactions that were read.
        self.commits: int = 0
        position.reconnect()

    def receive(self, data: bytes | memoryview, now: float) -> None:
        """Take one piece of COPY data.

        :raises PayloadError: where it is cut off.
        """
        kind, one, two, three = parse(data)
        if kind == MESSAGE:
            if three:
                self._take_message(one, two)
        elif kind == BEGIN:
            self._position.begin(one)
            self._committed_at, self._xid = two, three
            self._skipped.forget()
        elif kind == COMMIT:
            self.commits += 1
            self._received = max(self._received, two)
            if self._position.take_commit(one):
                self._end_transaction(two)
        elif kind == KEEPALIVE:
            self._received = max(self._received, one)
            if two:
                self._reply_is_owed = True
                self.liveness.note_request(now)

    def take(self) -> tuple[list[Part], int, int]:
        """Return what was read, the number of notifications in it, and the bytes of their payloads."""
        taken = self._parts, self._notifications, self._parts_size
        self._parts, self._notifications, self._parts_size = [], 0, 0
        return taken

    def cut(self) -> None:
        """Make a part of what was read of a transaction that has not ended."""
        transaction = self._position.begun
        if self._messages and transaction is not None:
            self._add_part(Part(transaction, self._messages, False))

    def _end_transaction(self, end_lsn: int) -> None:
        transaction = self._position.begun
        if transaction is not None:  # there was something for us in it
            self._position.begun = None
            transaction.end = end_lsn
            self._add_part(_new(Part, (transaction, self._messages, True)))

    def _add_part(self, part: Part) -> None:
        self._parts.append(part)
        self._parts_size += self._size
        self._messages, self._size = [], 0

    def _add(self, message: Message) -> None:
        position = self._position
        if position.begun is None:
            stamp = self._xids.widen(self._xid), time_of(self._committed_at)
            position.begun = Transaction(position.commit_lsn, stamp)
        self._messages.append(message)

    def pass_over(self, head: bytes, size: int) -> bool:
        """Return True if a message that begins like this, of this size, is not to be read; then it has been counted."""
        prefix, is_transactional = prefix_of(head)
        if not is_transactional or not prefix.startswith(_PREFIX):
            return True
        if prefix in self._contents.channels or not self._skipped.is_large(size):
            return False
        self._skipped.add_large()
        return True

    def _take_message(self, prefix: bytes, content: bytes | memoryview) -> None:
        contents, position = self._contents, self._position
        channel = contents.channels.get(prefix)
        if channel is not None:
            skipped = self._skipped
            if not position.take_message():
                skipped.forget()  # those have been counted then
                return
            payload = bytes(content)
            if contents.convert is not None:
                payload = contents.convert(payload)
            self._stats.notifications += 1
            self._add(_new(Notification, (channel, payload, skipped.take())))
            self._notifications += 1
            self._size += len(payload)
            if self._size >= PART_BYTES:
                self.cut()
        elif prefix == _TOKEN:
            # A name is short; and one of a transaction that was taken before is not waited for any more.
            if isinstance(content, bytes) and not position.is_taken:
                mark = contents.find_mark(content.decode(errors="replace"))
                if mark is not None:
                    self._add(mark)
        elif prefix == _RESYNC:
            if content == contents.group and position.take_message():
                self._add(Resync(SLOT_LOST, is_asked_for=True))
        elif prefix == _BACKFILL:
            if content == contents.group:
                self._add(Here(contents.on_request))
        elif prefix.startswith(_PREFIX):
            self._skipped.add(content)

    def acknowledge(self, lsn: int, *, is_idle: bool) -> None:
        """Note that everything up to there has been dispatched.

        :param is_idle: True if that is all that was handed on.
        """
        self._acknowledged, self._is_idle = lsn, is_idle

    @property
    def has_news(self) -> bool:
        """True if the server is to be told of an acknowledgement."""
        return self._acknowledgeable != self.sent

    @property
    def _acknowledgeable(self) -> int:
        # With nothing under way, writes to unwatched tables are acknowledged too: the slot must not hold the
        # disk for nothing.
        if self._position.in_transaction or self._parts or not self._is_idle:
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
