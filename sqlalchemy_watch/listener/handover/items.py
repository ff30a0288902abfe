"""The items that pass from reading to dispatching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias


class Notification(NamedTuple):
    """A payload that came on a channel; it is untrusted."""

    channel: str
    payload: bytes
    #: Where its transaction committed, with durable delivery.
    lsn: int | None = None


@dataclass(frozen=True)
class Resync:
    """Something may have been missed here."""

    reason: str


@dataclass(frozen=True)
class Connected:
    """LISTEN is in force."""


@dataclass(frozen=True)
class Disconnected:
    """The connection is gone."""

    error: BaseException | None


class Settable(Protocol):
    """An event that somebody waits for."""

    def set(self) -> None:
        """Let whoever waits go on."""


@dataclass(frozen=True)
class CaughtUp:
    """Everything committed before this was asked for lies in front of it."""

    done: Settable


class Committed(NamedTuple):
    """A transaction ends: once everything before it is dispatched, it can be acknowledged."""

    end_lsn: int


@dataclass(frozen=True)
class Discarded:
    """The items taken before and not acknowledged yet come again, or were delivered by another consumer."""


@dataclass(frozen=True)
class RetryDue:
    """A parked event is to be tried again."""


@dataclass(frozen=True)
class BatchesDue:
    """Gathered events have waited long enough."""


Urgent: TypeAlias = Connected | Disconnected | Resync
Control: TypeAlias = Urgent | CaughtUp | Committed | Discarded | RetryDue | BatchesDue
Item: TypeAlias = Notification | Control
