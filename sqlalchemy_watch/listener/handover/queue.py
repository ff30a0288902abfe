"""The bounded queue between the thread that reads and the thread that dispatches.

Reading never waits for receivers. A backend that can't send pins the NOTIFY queue of the whole cluster, and when
that is full every writer's COMMIT fails. So while this queue is full, notifications are dropped and counted. Once it
has been emptied, one `Resync` takes their place.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from .ages import Ages
from .items import BatchesDue, Connected, Control, Discarded, Disconnected, Item, Notification, Resync, RetryDue, Urgent

T = TypeVar("T")

log: logging.Logger = logging.getLogger(__name__)

#: Bytes of payloads that wait at the most: each may have 8 KB.
MAX_BYTES = 64 * 1024 * 1024

#: Items about the connection, in a row, that are kept one by one though the queue is full.
MAX_LIFECYCLE_ITEMS = 12

OVERFLOW = "the listener's queue was full, since receivers are slower than writers"


class EventQueue:
    """A FIFO of at most `limit` notifications and `max_bytes` of payloads."""

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        self._limit, self._max_bytes = limit, max_bytes
        #: Bytes put and bytes taken: each is changed by one thread alone, and so without a lock.
        self._bytes_put = self._bytes_taken = 0
        self._ages = Ages()
        #: True if what `get` returned last was a notification.
        self._took_event = False
        self._items: deque[Item] = deque()
        self._lock = threading.RLock()  # reentrant: a garbage collection may call stop() in this very thread
        self._changed = threading.Condition(self._lock)
        #: True if a thread waits for a change. Notifying costs more than this check.
        self._waited_for = False
        self._gap = False
        #: True once `close` was called. Read for each row, and so no property.
        self.closed: bool = False
        #: True if the thread that handles an item has to look here before it goes on: the queue is closed or paused,
        #: or something urgent waits.
        self.needs_attention: bool = False
        #: The number of notifications dropped, in all.
        self.dropped: int = 0

    def put(self, notifications: Iterable[Notification]) -> None:
        """Add notifications, and drop those that don't fit. Never waits."""
        begins = False
        with self._lock:
            if self.closed:
                return
            self._ages.note(self._bytes_put, self._bytes_taken, time.monotonic())
            for notification in notifications:
                if self._gap or self.full:
                    begins |= not self._gap
                    self._gap = True
                    self.dropped += 1
                else:
                    self._items.append(notification)
                    self._bytes_put += len(notification.payload)
            self._tell()
        if begins:
            log.warning("%s: dropping what comes until it is empty (%d are waiting)", OVERFLOW, len(self))

    def put_control(self, item: Control) -> None:
        """Add an item that must not be dropped."""
        with self._lock:
            if self.closed:
                return
            self._close_gap()
            if len(self._items) >= self._limit and isinstance(item, (Connected, Disconnected, Resync)):
                self._summarize()
            self._items.append(item)
            self._tell()

    def _summarize(self) -> None:
        """Replace the items about the connection at the end of the queue by their summary.

        Otherwise a connection that comes and goes while a receiver blocks would fill the memory.
        """
        run: list[Item] = []
        try:
            while isinstance(self._items[-1], (Connected, Disconnected, Resync)):
                run.insert(0, self._items.pop())
        except IndexError:  # the other thread takes items meanwhile
            pass
        self._items.extend(_summary(run))

    @property
    def full(self) -> bool:
        """True if there is no space for another notification."""
        return len(self._items) >= self._limit or self._bytes_put - self._bytes_taken >= self._max_bytes

    def waiting_since(self, *, is_busy: bool) -> float | None:
        """Return the time, by `time.monotonic()`, since which the oldest notification has been here; None without any.

        :param is_busy: True if what `get` returned last is still being handled.
        """
        with self._lock:
            place = self._bytes_taken - (is_busy and self._took_event)
            return self._ages.since(place) if place < self._bytes_put else None

    @property
    def received(self) -> int:
        """A number that grows with each notification that is put: see `taken`."""
        return self._bytes_put

    @property
    def taken(self) -> int:
        """The number that `received` was when the notification that was taken last had been put."""
        return self._bytes_taken

    @property
    def is_idle(self) -> bool:
        """True if `get` would wait."""
        return not (self._items or self._gap or self.closed)

    def get(self, deadline: float | None = None) -> Item | None:
        """Wait for the next item, and return it; None once the queue is closed.

        :param deadline: the time, by `time.monotonic()`, at which `BatchesDue` is returned instead.
        """
        item: Item | None
        if deadline is not None or self.needs_attention:
            item = self._await_item(deadline)
        else:
            try:  # without the lock: only `close` takes items as well
                item = self._items.popleft()
            except IndexError:
                item = self._await_item(None)
            if self.closed:
                return None
        if isinstance(item, Notification):
            self._bytes_taken += len(item.payload)
            self._took_event = True
        else:
            self._took_event = False
        return item

    def _await_item(self, deadline: float | None) -> Item | None:
        with self._lock:
            while not self.closed:
                ready = self._ready(deadline)
                if ready is not None:
                    return ready
                self._wait(deadline)
            return None

    def _ready(self, deadline: float | None) -> Item | None:
        if deadline is not None and deadline <= time.monotonic():
            return BatchesDue()
        if not self._items:
            self._close_gap()
        return self._items.popleft() if self._items else None

    def _wait(self, deadline: float | None) -> None:
        self._waited_for = True
        self._changed.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._waited_for = False

    def _tell(self) -> None:
        if self._waited_for:
            self._changed.notify()

    def close(self) -> None:
        """Discard the items that wait, and let `get` return None."""
        with self._lock:
            self.closed = self.needs_attention = True
            while self._items:
                with contextlib.suppress(IndexError):  # `get` took the last one
                    self.dropped += isinstance(self._items.popleft(), Notification)
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)

    def _close_gap(self) -> None:
        if self._gap:
            self._gap = False
            self._items.append(Resync(OVERFLOW))


class WaitingQueue(EventQueue):
    """A queue that drops nothing. The thread that fills it looks for space first.

    It is paused while another process may be the active consumer. The items that wait, and the one that is being
    handled, are held back then. Afterwards they are either resumed or discarded.
    """

    def __init__(self, limit: int, max_bytes: int = 32 * 1024 * 1024) -> None:
        super().__init__(limit, max_bytes)
        self.on_space_freed: Callable[[], None] = lambda: None
        self._space_wanted = False
        #: Items that are handled before all others, even while the queue is paused.
        self._urgent: deque[Urgent] = deque()
        self._paused = False
        #: True from `discard` until `get` has returned `Discarded`.
        self._discarded = False
        #: The end of the last transaction before which everything has been dispatched.
        self.acknowledged: int = 0
        #: True if a `RetryDue` waits: one is enough.
        self.retry_is_due: bool = False

    def request_space(self) -> bool:
        """Return True if there is space for more; where there is none, `on_space_freed` is called once there is."""
        self._space_wanted = True  # first: `get` looks at the two in the other order
        return not self.full

    def put(self, items: Iterable[Item]) -> None:
        """Add items, even beyond the limit: only those that were read before `request_space` returned False."""
        with self._lock:
            self._ages.note(self._bytes_put, self._bytes_taken, time.monotonic())
            for item in items:
                self._items.append(item)
                if isinstance(item, Notification):
                    self._bytes_put += len(item.payload)
            self._tell()

    def put_urgent(self, item: Urgent) -> None:
        """Add an item that is handled before all others."""
        with self._lock:
            self._urgent.append(item)
            if len(self._urgent) > MAX_LIFECYCLE_ITEMS:
                self._urgent = deque(_summary(self._urgent))
            self._note_change()

    def put_retry_due(self) -> None:
        """Add a `RetryDue`, unless one waits already."""
        if not self.retry_is_due:
            self.retry_is_due = True
            self.put_control(RetryDue())

    def pause(self) -> None:
        """Hold everything back, the rest of the item that is being handled included."""
        with self._lock:
            self._paused = True
            self._note_change()

    def resume(self) -> None:
        """Go on where everything was held back."""
        with self._lock:
            self._paused = False
            self._note_change()

    def discard(self, acknowledged: int) -> None:
        """Forget the items that wait, and the one that is being handled.

        :param acknowledged: the new value of `acknowledged`.
        """
        with self._lock:
            self._discarded = True
            self.retry_is_due = False
            self._ages.clear()
            while self._items:
                with contextlib.suppress(IndexError):  # `get` took the last one
                    item = self._items.popleft()
                    self._bytes_put -= len(item.payload) if isinstance(item, Notification) else 0
            self.acknowledged = acknowledged
            self._note_change()

    def acknowledge(self, end_lsn: int) -> bool:
        """Note that everything up to there has been dispatched.

        :returns: False, with nothing noted, while the queue is paused, or where `get` has yet to return `Discarded`.
        """
        with self._lock:
            if self._paused or self._discarded:
                return False
            self.acknowledged = max(self.acknowledged, end_lsn)
            return True

    @property
    def is_revoked(self) -> bool:
        """True if the item that is being handled will not be resumed: it is no longer this process's to deliver."""
        return self._discarded or (self.closed and self._paused)

    def get(self, deadline: float | None = None) -> Item | None:
        item = super().get(deadline)
        if self._space_wanted and not self.full:
            self._space_wanted = False
            self.on_space_freed()
        return item

    def get_urgent(self) -> Urgent | None:
        """Return an urgent item, in the middle of another one; None where there is none.

        It waits while the queue is paused. After None, the other item is gone on with, unless `is_revoked`.
        """
        with self._lock:
            while not self.closed:
                if self._urgent:
                    return self._take_urgent()
                if self._discarded or not self._paused:
                    return None
                self._wait(None)
            return None

    def _take_urgent(self) -> Urgent:
        item = self._urgent.popleft()
        self._note_change()
        return item

    def _note_change(self) -> None:
        self.needs_attention: bool = self.closed or self._paused or self._discarded or bool(self._urgent)
        self._tell()

    def _ready(self, deadline: float | None) -> Item | None:
        if self._urgent:
            return self._take_urgent()
        if self._discarded:
            self._discarded = False
            self._note_change()
            return Discarded()
        return None if self._paused else super()._ready(deadline)

    def _wait(self, deadline: float | None) -> None:
        super()._wait(None if self._paused else deadline)

    def close(self) -> None:
        """Discard the items that wait: they were not acknowledged, and will come again."""
        dropped = self.dropped
        super().close()
        self.dropped = dropped


def _summary(run: Iterable[T]) -> list[T]:
    """Return the items; of many, the last state of the connection, and then each reason once."""
    items = list(run)
    if len(items) <= MAX_LIFECYCLE_ITEMS:
        return items
    others = [item for item in items if not isinstance(item, (Connected, Disconnected))]
    return [item for item in items if isinstance(item, (Connected, Disconnected))][-1:] + list(dict.fromkeys(others))
