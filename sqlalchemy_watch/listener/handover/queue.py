"""The bounded queue between the thread that reads and the thread that dispatches.

Reading never waits for receivers: a backend that can't send pins the NOTIFY queue of the whole cluster,
and when that is full every writer's COMMIT fails. So when the queue is full, notifications are dropped and
counted until it has been emptied, and then there is one `Resync` in their place.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from .items import BatchesDue, Connected, Control, Discarded, Disconnected, Item, Notification, Resync, RetryDue, Urgent

T = TypeVar("T")

log: logging.Logger = logging.getLogger(__name__)

#: Payloads may be 8 KB each: so many bytes of them wait at the most.
MAX_BYTES = 64 * 1024 * 1024

#: Connections and losses in a row that are told one by one though the queue is full.
MAX_LIFECYCLE_ITEMS = 12

OVERFLOW = "the listener's queue was full, since receivers are slower than writers"


class EventQueue:
    """FIFO of at most `limit` notifications and `max_bytes` of payloads."""

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        self._limit, self._max_bytes = limit, max_bytes
        #: Each is changed by one thread alone, and so without a lock.
        self._bytes_put = self._bytes_taken = 0
        self._items: deque[Item] = deque()
        self._lock = threading.RLock()  # a collection meanwhile may run somebody's stop() in this very thread
        self._changed = threading.Condition(self._lock)
        #: Whether somebody does: telling costs more than looking.
        self._waited_for = False
        self._gap = False
        #: Whether `close` was called; looked at for each row, and so no property.
        self.closed: bool = False
        #: True if the thread that handles an item has to look here before it goes on: the queue is closed or paused,
        #: or something urgent waits.
        self.needs_attention: bool = False
        #: How many notifications were dropped, in all.
        self.dropped: int = 0

    def put(self, notifications: Iterable[Notification]) -> None:
        """Add notifications, or drop those that don't fit; never waits."""
        begins = False
        with self._lock:
            if self.closed:
                return
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
        """Add what must not be dropped."""
        with self._lock:
            if self.closed:
                return
            self._close_gap()
            if len(self._items) >= self._limit and isinstance(item, (Connected, Disconnected, Resync)):
                self._summarize()
            self._items.append(item)
            self._tell()

    def _summarize(self) -> None:
        """Of lifecycle items at the end that nobody has been told of, keep the last state and each reason.

        A connection that comes and goes while a receiver blocks would otherwise fill the memory.
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
        """Whether there is no space for another notification."""
        return len(self._items) >= self._limit or self._bytes_put - self._bytes_taken >= self._max_bytes

    @property
    def is_idle(self) -> bool:
        """Whether `get` would wait."""
        return not (self._items or self._gap or self.closed)

    def get(self, deadline: float | None = None) -> Item | None:
        """The next item, waiting for it; None once the queue is closed.

        :param deadline: by `time.monotonic()`; then it is `BatchesDue`.
        """
        item: Item | None
        if deadline is not None or self.needs_attention:
            item = self._await_item(deadline)
        else:
            try:  # without the lock: nobody else takes items, but for `close`
                item = self._items.popleft()
            except IndexError:
                item = self._await_item(None)
            if self.closed:
                return None
        if isinstance(item, Notification):
            self._bytes_taken += len(item.payload)
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
        """Discard what waits, and let `get` return None."""
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
    """Drops nothing: whoever fills it looks at `full` first, and is told when there is space again.

    It is paused while another process may be the active consumer: what waits in it, and what is being handled,
    is held back then, and either resumed or discarded.
    """

    def __init__(self, limit: int, max_bytes: int = 32 * 1024 * 1024) -> None:
        super().__init__(limit, max_bytes)
        self.on_space_freed: Callable[[], None] = lambda: None
        self._space_wanted = False
        #: What is told even while it is paused, and before all else.
        self._urgent: deque[Urgent] = deque()
        self._paused = False
        #: Until whoever handles items has been told so.
        self._discarded = False
        #: Up to where all has been dispatched.
        self.acknowledged: int = 0
        #: Whether a `RetryDue` waits: one is enough.
        self.retry_is_due: bool = False

    def request_space(self) -> bool:
        """Return True if there is space for more; where there is none, `on_space_freed` is called once there is."""
        self._space_wanted = True  # first: `get` looks at the two in the other order
        return not self.full

    def put(self, items: Iterable[Item]) -> None:
        """Add items; as many more than fit, at the most, as whoever looked at `full` has at once."""
        with self._lock:
            for item in items:
                self._items.append(item)
                if isinstance(item, Notification):
                    self._bytes_put += len(item.payload)
            self._tell()

    def put_urgent(self, item: Urgent) -> None:
        """Add what is to be told as soon as possible."""
        with self._lock:
            self._urgent.append(item)
            if len(self._urgent) > MAX_LIFECYCLE_ITEMS:
                self._urgent = deque(_summary(self._urgent))
            self._note_change()

    def put_retry_due(self) -> None:
        """Have a parked event tried again, behind what waits by now."""
        if not self.retry_is_due:
            self.retry_is_due = True
            self.put_control(RetryDue())

    def pause(self) -> None:
        """Hold everything back, even in the middle of an item."""
        with self._lock:
            self._paused = True
            self._note_change()

    def resume(self) -> None:
        """Go on where it was paused."""
        with self._lock:
            self._paused = False
            self._note_change()

    def discard(self, acknowledged: int) -> None:
        """Forget what waits and what is being handled; from now on all up to `acknowledged` has been dispatched."""
        with self._lock:
            self._discarded = True
            self.retry_is_due = False
            while self._items:
                with contextlib.suppress(IndexError):  # `get` took the last one
                    item = self._items.popleft()
                    self._bytes_put -= len(item.payload) if isinstance(item, Notification) else 0
            self.acknowledged = acknowledged
            self._note_change()

    def acknowledge(self, end_lsn: int) -> bool:
        """All up to there has been dispatched; False, and nothing noted, while it is paused or just discarded."""
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
        """Return what is to be told in the middle of an item; None where there is nothing.

        While the queue is paused, it waits: afterwards either handling goes on, or `is_revoked` is true.
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
        """Discard what waits: it was not acknowledged, and will come again."""
        dropped = self.dropped
        super().close()
        self.dropped = dropped


def _summary(run: Iterable[T]) -> list[T]:
    """Of many items about the connection, the last state and each reason."""
    items = list(run)
    if len(items) <= MAX_LIFECYCLE_ITEMS:
        return items
    others = [item for item in items if not isinstance(item, (Connected, Disconnected))]
    return [item for item in items if isinstance(item, (Connected, Disconnected))][-1:] + list(dict.fromkeys(others))
