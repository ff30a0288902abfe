"""`BatchSignal`: receivers that would rather have many rows at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from blinker import ANY

from ..errors import ConfigurationError
from ..events.event import T
from .guard import lock
from .once import Once
from .receiver_types import ConnectsBatches
from .receivers import Batching, ClaimsNames, ReceiverSignal, Subscriber


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


class BatchSignal(ConnectsBatches[T], ReceiverSignal):  # type: ignore[misc]
    """A signal whose receivers get a list of events of one sender at once. Made by `batches()`::

        @Order.watch.inserted.batches(max_size=500, max_wait=0.5).connect
        def index(sender, events):
            search.add([event.values for event in events])

    The listener gathers the events. It delivers them when there are `max_size`, when the first has waited for
    `max_wait` seconds, and in `catch_up()` and `stop()`.

    :param names: of the receivers of the signal whose events they are.
    :param sender: of batches with the events of several signals; None for those of a single one.
    :param keep: called with this signal as a subscriber, whenever a receiver was connected.
    :param release: called with the same when the last receiver is gone.
    """

    _keyword = "events"

    def __init__(
        self,
        name: str,
        options: BatchOptions,
        names: ClaimsNames,
        keep: Callable[[Subscriber], None],
        release: Callable[[Subscriber], None],
        sender: Any = None,
    ) -> None:
        self._batching = Batching(*options, sender)
        super().__init__(name, "many events at once", self._batching, names)
        #: The most events of a batch.
        self.max_size: int = options.max_size
        #: The time, in seconds, that an event waits for others at the most.
        self.max_wait: float = options.max_wait
        #: True if a batch keeps only the latest event of each identity.
        self.latest_only: bool = options.latest_only
        self._keep = keep
        self._release = release

    def _connect(self, receiver: Any, sender: Any, weak: bool, name: str | None, once: Once | None = None) -> None:
        with lock:
            super()._connect(receiver, sender, weak, name)
            self._keep(self._as_subscriber())

    def _remove(self, receiver_id: Hashable, sender: Any = ANY) -> None:
        super()._remove(receiver_id, sender)
        if not self._batching.subscribers:
            self._release(self._as_subscriber())

    def _as_subscriber(self) -> Subscriber:
        return Subscriber(id(self), self, False, False, False, None, self._batching)


def receiver_of_batches(signal: BatchSignal[Any], receiver_id: Hashable) -> Subscriber | None:
    """Return the receiver of this identity; None where it is not connected to these batches."""
    return signal._batching.subscribers.get(receiver_id)  # noqa: SLF001 - of the same module
