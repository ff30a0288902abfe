"""`BatchSignal`: receivers that would rather have many rows at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple

from blinker import ANY

from ..errors import ConfigurationError
from .events import T
from .receivers import F, ReceiverSignal, Subscriber, lock


class BatchOptions(NamedTuple):
    """The parameters of `batches()`, by which the same batches are found again."""

    max_size: int
    #: In seconds.
    max_wait: float
    latest_only: bool

    def check(self, name: str) -> None:
        """Refuse values out of range.

        :param name: the signal's, for the error.
        :raises ConfigurationError: for a `max_size` below 1, or a `max_wait` that is no number of seconds from 0 on.
        """
        size, wait = self.max_size, self.max_wait
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigurationError(f"signal {name!r}: max_size must be an int of at least 1, not {size!r}")
        if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait < float("inf"):
            raise ConfigurationError(f"signal {name!r}: max_wait must be seconds from 0 on, not {wait!r}")


class BatchSignal(ReceiverSignal, Generic[T]):
    """A signal whose receivers get a list of events of one sender at once. Made by `batches()`::

        @Order.watch.inserted.batches(max_size=500, max_wait=0.5).connect
        def index(sender, events):
            search.add([event.values for event in events])

    The listener gathers the events. It delivers them when there are `max_size`, when the first has waited for
    `max_wait` seconds, and in `catch_up()` and `stop()`.

    :param keep: called with this signal as a subscriber, whenever a receiver was connected.
    :param release: called with the same when the last receiver is gone.
    """

    keyword = "events"

    def __init__(
        self,
        name: str,
        options: BatchOptions,
        keep: Callable[[Subscriber], None],
        release: Callable[[Subscriber], None],
    ) -> None:
        super().__init__(name)
        #: The most events of a batch.
        self.max_size: int = options.max_size
        #: The time, in seconds, that an event waits for others at the most.
        self.max_wait: float = options.max_wait
        #: True if a batch keeps only the latest event of each identity.
        self.latest_only: bool = options.latest_only
        self._keep = keep
        self._release = release

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        """Connect a receiver, to be called as `receiver(sender, events=[...])`, and return it: a decorator as well.

        :param receiver: a function, or a coroutine function. A coroutine function runs on the event loop in which it
            was connected; if none was running, on the one in which the listener was started.
        :param sender: only events of this model class; by default all.
        :param weak: disconnect the receiver when nothing else refers to it. Use False for functions defined inside
            functions.
        :raises ConfigurationError: where the receiver can't be called that way.
        """
        with lock:
            super().connect(receiver, sender, weak)
            self._keep(self._as_subscriber())
        return receiver

    def _remove(self, receiver_id: Hashable, sender: Any) -> None:
        super()._remove(receiver_id, sender)
        if not self._subscribers:
            self._release(self._as_subscriber())

    def _as_subscriber(self) -> Subscriber:
        return Subscriber(id(self), self, False, False, False, None, self)
