"""Transactions, and the parts of them that pass from reading to dispatching, with the marks that have a place there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

from ...events.messages import Stamp
from ...signals.once import Consumer


class Notification(NamedTuple):
    """A payload that came on a channel. Nothing in it can be trusted."""

    channel: str
    payload: bytes
    #: The number of rows between the notification before and this one, in the same transaction, that nobody watches
    #: here.
    skipped_rows: int = 0


@dataclass(frozen=True)
class Resync:
    """Events may be missing at this place."""

    reason: str
    #: True where a message says so: anybody may have written it, and many of them.
    is_asked_for: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Connected:
    """LISTEN is in force."""


@dataclass(frozen=True)
class Disconnected:
    """The connection is gone."""

    error: BaseException | None


@dataclass(frozen=True)
class CaughtUp:
    """The place that `catch_up` waits for: everything that was committed before that call lies in front of it."""

    #: Called once all that is done.
    done: Callable[[], None]


@dataclass(frozen=True)
class Here:
    """A place where something is to be done between two events; its mark is sent by this process."""

    #: Called in the dispatch thread, with the transaction of the mark.
    call: Callable[[Transaction], None]


News: TypeAlias = Connected | Disconnected | Resync
Mark: TypeAlias = CaughtUp | Here
Message: TypeAlias = Notification | News | Mark


class Keeps(Protocol):
    """The ledger, as its transactions know it."""

    is_over: bool
    is_paused: bool
    consumer: Consumer | None

    def hold(self, transaction: Transaction, events: int = 1) -> None:
        """Hold a transaction."""

    def done(self, transaction: Transaction, events: int = 1) -> None:
        """Let go of a transaction."""

    def abandon(self) -> None:
        """Have all come again that is not acknowledged."""


class Transaction:
    """A transaction of the log; without durable delivery what came at once, since NOTIFY has no ends of transactions.

    It is done when nobody holds it. The reader does so from the beginning.
    """

    #: True for that of an event that comes from the table of dead letters.
    is_parked: ClassVar[bool] = False

    __slots__ = ("end", "holds", "ledger", "lsn", "stamp", "taken_at", "when_done")

    def __init__(self, lsn: int | None = None, stamp: Stamp | None = None) -> None:
        #: The place in the server's log where it committed; None without durable delivery.
        self.lsn: int | None = lsn
        #: Its number, and the time of the commit; None without durable delivery.
        self.stamp: Stamp | None = stamp
        #: Its end in the server's log, once that was read: acknowledging this acknowledges it.
        self.end: int = 0
        #: The ledger's: how often it is held, and what is called once it is done and all before it.
        self.holds: int = 1
        self.when_done: list[Callable[[], None]] | None = None
        #: When its first part was taken, by `time.monotonic()`; 0 before.
        self.taken_at: float = 0.0
        #: In which it was begun.
        self.ledger: Keeps

    def hold(self) -> None:
        """Hold it for an event more."""
        self.ledger.hold(self)

    def done(self) -> None:
        """Let go of it for an event."""
        self.ledger.done(self)

    def abandon(self) -> None:
        """Have all come again that is not acknowledged."""
        self.ledger.abandon()

    @property
    def consumer(self) -> Consumer | None:
        """Who consumes it; None without durable delivery."""
        return self.ledger.consumer

    @property
    def is_over(self) -> bool:
        """True once it is not this process's to deliver any more."""
        return self.ledger.is_over

    @property
    def is_paused(self) -> bool:
        """True while another process may be the active consumer."""
        return self.ledger.is_paused


class Parked(Transaction):
    """That of an event that comes from the table of dead letters: it was acknowledged long since."""

    is_parked = True
    __slots__ = ()

    def __init__(self, lsn: int, ledger: Keeps) -> None:
        super().__init__(lsn)
        self.ledger = ledger


class Part(NamedTuple):
    """A part of a transaction, in the order of the log."""

    transaction: Transaction
    messages: Sequence[Message]
    is_last: bool
