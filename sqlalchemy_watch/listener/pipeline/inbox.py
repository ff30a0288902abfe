"""The inbox of the dispatch thread: lists of parts, and calls to make.

LISTEN never waits for receivers. A backend that can't send pins the NOTIFY queue of the whole cluster, and when that is
full every writer's COMMIT fails. So while the inbox is full, what LISTEN brings is dropped and counted. Once it has
been emptied, one `Resync` takes its place. Reading the log waits instead.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .ledger import Ledger
from .parts import CaughtUp, Here, Mark, Message, News, Notification, Part, Resync, Transaction

log: logging.Logger = logging.getLogger(__name__)

#: Bytes of payloads that wait at the most: each may have 8 KB, and in the log much more.
MAX_BYTES = 64 * 1024 * 1024
MAX_LOG_BYTES = 32 * 1024 * 1024

#: Items about the connection that wait one by one; of more their summary.
MAX_NEWS = 12

#: Lots that wait before the log is read on.
MAX_LOTS = 64

OVERFLOW = "the listener's queue was full, since receivers are slower than writers"


class Lot(NamedTuple):
    """Parts that were read at once."""

    #: That of the tenure in which they were read.
    ledger: Ledger
    parts: Sequence[Part]
    #: Notifications in them, and the bytes of their payloads.
    notifications: int
    size: int


#: What the dispatch thread has to do: handle a lot, or make a call.
Work = Lot | Callable[[], None]


def _nothing() -> None:
    """Wake the dispatch thread."""


class Inbox:
    """A FIFO between the thread that reads and the thread that dispatches.

    :param limit: of notifications that wait.
    :param max_bytes: of their payloads.
    """

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        self._limit, self._max_bytes = limit, max_bytes
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        #: Put and taken: each is changed by one thread alone, and so without a lock.
        self._put = self._taken = 0
        self._bytes_put = self._bytes_taken = 0
        self._news_put = self._news_taken = 0
        self._lock = threading.RLock()  # reentrant: a garbage collection may run somebody's code in this very thread
        #: The notifications dropped, in all.
        self.dropped: int = 0
        #: What is put once the inbox has been emptied. Until then notifications are dropped.
        self._owed: list[News] = []
        self._is_closed = self._is_waking = False

    def put(self, lot: Lot) -> None:
        """Add a lot, however full it is: for what LISTEN brings there is `put_or_drop`."""
        self._put += lot.notifications
        self._bytes_put += lot.size
        self._work.put(lot)

    def put_call(self, call: Callable[[], None]) -> None:
        """Have the dispatch thread make a call."""
        self._work.put(call)

    def wake(self) -> None:
        """Let the dispatch thread look around, if it waits here."""
        if not self._is_waking:  # once is enough
            self._is_waking = True
            self._work.put(_nothing)

    @property
    def owes(self) -> bool:
        """True if something is to be put once the inbox has been emptied, and receivers have space again."""
        return bool(self._owed)

    def put_or_drop(self, ledger: Ledger, notifications: Sequence[Notification]) -> Sequence[Notification]:
        """Add notifications, and return those that don't fit, which are dropped. Never waits."""
        begins = False
        with self._lock:
            if self._is_closed:
                return ()
            number, size = (0, 0) if self._owed or ledger.is_full else self._fitting(notifications)
            if number:
                self._put_messages(ledger, notifications[:number], number, size)
            if number < len(notifications):
                self.dropped += len(notifications) - number
                if Resync(OVERFLOW) not in self._owed:
                    self._owed.append(Resync(OVERFLOW))
                    begins = True
        if begins:
            log.warning("%s: dropping what comes until it is empty (%d are waiting)", OVERFLOW, len(self))
            self.wake()
        return notifications[number:]

    def _fitting(self, notifications: Sequence[Notification]) -> tuple[int, int]:
        """Return how many there is space for, and their size."""
        size, bytes_left = 0, self._max_bytes - self._bytes_waiting
        for number, notification in enumerate(notifications[: max(self._limit - len(self), 0)]):
            if size >= bytes_left:
                return number, size
            size += len(notification.payload)
        return min(len(notifications), max(self._limit - len(self), 0)), size

    def put_mark(self, ledger: Ledger, mark: News | Mark) -> None:
        """Add what must not be dropped, behind all that has come."""
        with self._lock:
            if isinstance(mark, (CaughtUp, Here)):
                self._put_owed(ledger)
                self._put_messages(ledger, [mark], 0, 0)
            elif self._owed or self._news_put - self._news_taken >= MAX_NEWS:
                self._owed = summary([*self._owed, mark])
                self.wake()
            else:
                self._put_news(ledger, [mark])

    def put_owed(self, ledger: Ledger) -> bool:
        """Put what is owed, once all else is taken; return True if there was anything."""
        if not self._owed:
            return False
        with self._lock:
            return self.is_empty and not ledger.is_full and self._put_owed(ledger)

    def _put_owed(self, ledger: Ledger) -> bool:
        owed, self._owed = self._owed, []
        if owed:
            self._put_news(ledger, owed)
        return bool(owed)

    def _put_news(self, ledger: Ledger, news: Sequence[News]) -> None:
        self._news_put += len(news)
        # No event, and so nothing that could be late: the ledger has nothing to do with it.
        self.put(Lot(ledger, [Part(Transaction(), news, True)], 0, 0))

    def _put_messages(self, ledger: Ledger, messages: Sequence[Message], notifications: int, size: int) -> None:
        parts = [Part(Transaction(), messages, True)]
        ledger.begin(parts, time.monotonic())
        self.put(Lot(ledger, parts, notifications, size))

    def get(self, deadline: float | None = None) -> Work | None:
        """Wait for something to do, and return it; None at the deadline, which is by `time.monotonic()`."""
        try:
            work = self._work.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if work is _nothing:
            self._is_waking = False
        return work

    def note_taken(self, message: Message) -> None:
        """Note that the dispatch thread begins with a message."""
        if type(message) is Notification:  # mostly, and faster than isinstance
            self._taken += 1
            self._bytes_taken += len(message.payload)
        elif not isinstance(message, (CaughtUp, Here)):
            self._news_taken += 1

    def drop_rest(self) -> None:
        """Drop what waits, and whatever comes now: it is of use to nobody any more."""
        with self._lock:
            self._is_closed = True
            self.dropped += len(self)
            self._taken = self._put

    def __len__(self) -> int:
        return self._put - self._taken

    @property
    def is_empty(self) -> bool:
        """True if `get` would wait."""
        return self._work.empty()

    @property
    def is_full(self) -> bool:
        """True while there is no space for more."""
        return len(self) >= self._limit or self._bytes_waiting >= self._max_bytes or self._work.qsize() >= MAX_LOTS

    @property
    def is_low(self) -> bool:
        """True if reading on is worth being woken for: to wake it for each lot would cost more than the lot."""
        few = self._work.qsize() <= MAX_LOTS // 8
        return few and 2 * len(self) <= self._limit and 2 * self._bytes_waiting <= self._max_bytes

    @property
    def received(self) -> int:
        """A number that grows with each notification that is put: see `taken`."""
        return self._bytes_put

    @property
    def taken(self) -> int:
        """The number that `received` was when the notification that was taken last had been put."""
        return self._bytes_taken

    @property
    def _bytes_waiting(self) -> int:
        return self._bytes_put - self._bytes_taken


def summary(news: Sequence[News]) -> list[News]:
    """Return the news; of many, the last state of the connection, and then each reason once."""
    if len(news) <= MAX_NEWS:
        return list(news)
    others = [each for each in news if isinstance(each, Resync)]
    return [each for each in news if not isinstance(each, Resync)][-1:] + list(dict.fromkeys(others))
