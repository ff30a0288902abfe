"""The items that pass from reading to dispatching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from ...events.messages import Stamp


class Notification(NamedTuple):
    """A payload that came on a channel. Nothing in it can be trusted."""

    channel: str
    payload: bytes
    #: The place in the server's log where its transaction committed; None without durable delivery.
    lsn: int | None = None
    #: The number of rows between the notification before and this one, in the same transaction, that nobody watches
    #: here.
    skipped_rows: int = 0
    #: The number of its transaction, and the time of the commit; None without durable delivery.
    stamp: Stamp | None = None


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


class Settable(Protocol):
    """An event that another thread waits for."""

    def set(self) -> None:
        """Let the waiting thread go on."""


@dataclass(frozen=True)
class CaughtUp:
    """The place that `catch_up` waits for: everything that was committed before that call lies in front of it."""

    done: Settable


class Committed(NamedTuple):
    """The end of a transaction, which can be acknowledged once everything before it is dispatched."""

    end_lsn: int


@dataclass(frozen=True)
class Discarded:
    """The items that were taken and not acknowledged are void: they come again, or another consumer delivered them."""


@dataclass(frozen=True)
class RetryDue:
    """The time to try a dead letter again has come."""


@dataclass(frozen=True)
class BatchesDue:
    """The time to deliver gathered events, or to send a resync that was put off, has come."""


Urgent: TypeAlias = Connected | Disconnected | Resync
Control: TypeAlias = Urgent | CaughtUp | Committed | Discarded | RetryDue | BatchesDue
Item: TypeAlias = Notification | Control
