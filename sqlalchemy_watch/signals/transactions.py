"""`Transaction`, and the signal whose receivers get whole transactions: `listener.transactions`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar, overload

from blinker import ANY
from blinker._utilities import make_id  # as in receivers

from ..errors import ConfigurationError
from ..events.event import Event
from .guard import lock
from .receiver_types import LATER
from .receivers import Names, Outlet, ReceiverSignal, Subscriber


@dataclass(frozen=True)
class Transaction:
    """The events of one transaction, or of a part of one, in the order of the log."""

    events: Sequence[Event[Any]]
    #: The place in the server's log where it committed.
    lsn: int
    #: Its number, in 64 bits (`pg_current_xact_id()`).
    xid: int
    #: By the server's clock, in UTC.
    committed_at: datetime
    #: The mapping that the writer set with `context(...)`, as its first event has it.
    context: Mapping[str, Any]
    #: The number of the part, from 0.
    part: int
    #: True if no part comes behind this one.
    is_last: bool


class Chunks(Outlet):
    """The receivers of transactions, with the size of the parts that each gets."""

    def __init__(self) -> None:
        super().__init__()
        #: The most events of a part, by receiver.
        self.sizes: dict[Hashable, int] = {}

    def subscribers_of(self, size: int) -> list[Subscriber]:
        """Return the receivers of parts of this size, in the order in which they were connected."""
        found = () if self.is_muted else self.subscribers.for_sender(None)
        return [subscriber for subscriber in found if self.sizes.get(subscriber.receiver_id) == size]


class KeywordTransactionReceiver(Protocol):
    """A receiver that takes the transaction by keyword alone."""

    def __call__(self, sender: Any, /, *, transaction: Transaction) -> Any:
        """Take the transaction."""


F = TypeVar("F", bound=Callable[[Any, Transaction], Any] | KeywordTransactionReceiver)


class TransactionsSignal(ReceiverSignal):
    """Whole transactions of a consumer group: `listener.transactions`::

        @listener.transactions.connect
        def project(listener, transaction):
            with Session.begin() as session:
                for event in transaction.events:
                    ...

    A transaction of more events than `chunk` comes in parts. What is called again after an error is the part.

    :param has_group: True if the listener has a group: NOTIFY does not tell where a transaction ends.
    """

    _keyword = "transaction"

    def __init__(self, has_group: bool) -> None:
        self._has_group = has_group
        self._chunks = chunks = Chunks()
        names = Names("listener.transactions", chunks.subscribers.get)
        super().__init__("listener.transactions", "whole transactions of a consumer group", chunks, names)

    @overload
    def connect(self, receiver: F, chunk: int = ..., weak: bool = ..., name: str | None = ...) -> F: ...
    @overload
    def connect(self, *, chunk: int = ..., weak: bool = ..., name: str | None = ...) -> Callable[[F], F]: ...

    def connect(self, receiver: Any = LATER, chunk: int = 1000, weak: bool = False, name: str | None = None) -> Any:
        """Connect a receiver, to be called as `receiver(listener, transaction)`, and return it: a decorator as well.

        :param receiver: a function, or a coroutine function.
        :param chunk: the most events of a part; 1 or more.
        :param weak: as for `WatchSignal.connect`.
        :param name: as for `WatchSignal.connect`.
        :raises ConfigurationError: for a listener without a group, where the receiver can't be called that way, and
            for values out of range.
        """
        if not self._has_group:
            raise ConfigurationError(
                "listener.transactions: NOTIFY does not tell where a transaction ends: start the listener with "
                "durable='a_group', or use listener.events"
            )
        if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
            raise ConfigurationError(f"listener.transactions: chunk must be an int of at least 1, not {chunk!r}")
        if receiver is LATER:
            return lambda found: self.connect(found, chunk, weak, name)
        with lock:
            self._connect(receiver, ANY, weak, name)
            self._chunks.sizes[make_id(receiver)] = chunk
        return receiver

    def _remove(self, receiver_id: Hashable, sender: Any = ANY) -> None:
        super()._remove(receiver_id, sender)
        self._chunks.sizes.pop(receiver_id, None)


def chunks_of(signal: TransactionsSignal) -> Chunks:
    """Return the listener's side of the signal: no member of it, since users need none of that."""
    return signal._chunks  # noqa: SLF001 - of the same module
