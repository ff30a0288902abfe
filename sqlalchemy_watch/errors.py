"""Every exception of the library, one tree; and any error in one line, for logs and messages.

::

    WatchError
    ├── ConfigurationError          a wrong declaration, or a wrong argument
    ├── OwnershipError              it is not ours to change: another's function, or another role's
    ├── UnsupportedServerError      too old, a standby, no logical decoding, or behind a transaction pooler
    ├── SlotError                   a replication slot can't be made, used or dropped
    ├── ListenerError               the listener can't do what was asked
    │   ├── ListenerStartError      LISTEN was not in force within the timeout
    │   └── CatchUpTimeout          (also a TimeoutError)
    ├── EventsDropped               raised into a stream where events are missing
    ├── BatchFailed                 for a receiver of batches to raise: these events have failed, and no others
    ├── RetryAfter                  for a receiver to raise: not now, and it is no failure of the event's
    ├── GiveUp                      for a receiver to raise: no further attempt at this event makes sense
    └── PayloadError                a notification that can't be read; counted; raised by `Event.from_json` alone
        └── UnknownVersionError     it is of another version of this library; a resync follows
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

__all__ = [
    "BatchFailed",
    "CatchUpTimeout",
    "ConfigurationError",
    "EventsDropped",
    "GiveUp",
    "ListenerError",
    "ListenerStartError",
    "OwnershipError",
    "PayloadError",
    "RetryAfter",
    "SlotError",
    "UnknownVersionError",
    "UnsupportedServerError",
    "WatchError",
    "in_one_line",
    "one_line",
    "sqlstate",
]


class WatchError(Exception):
    """Base of every exception this library raises."""

    #: True if its words say all there is to know where a receiver raises it: the log has no traceback of it.
    says_all: ClassVar[bool] = False


class ConfigurationError(WatchError, ValueError):
    """A declaration or an argument is wrong; the message names it, the rule and the remedy."""


class OwnershipError(WatchError):
    """A function, trigger or table is not ours to change; it is left alone.

    It has no mark of this library, it is another watch's, or another role has to change it.
    """


class UnsupportedServerError(WatchError):
    """The server can't deliver notifications to this connection, and retrying would not change that."""


class SlotError(WatchError):
    """A replication slot can't be made, used or dropped; the message says why and what to do."""


class ListenerError(WatchError):
    """The listener can't do what was asked of it in its present state."""


class ListenerStartError(ListenerError):
    """LISTEN was not in force within the timeout; the message ends with the server's own words."""


class CatchUpTimeout(ListenerError, TimeoutError):
    """Changes committed before `Listener.catch_up` were not dispatched within its timeout."""


class EventsDropped(WatchError):
    """Raised once into a stream at the place where events are missing; the stream goes on afterwards.

    `dropped` is the number of events that the stream itself dropped (0 where the listener missed something),
    and `reason` says why.
    """

    def __init__(self, reason: str, dropped: int = 0) -> None:
        super().__init__(f"events are missing here: {reason}; reload what you hold")
        self.reason = reason
        self.dropped = dropped


class BatchFailed(WatchError):
    """Raised by a receiver of batches: only these of its events have failed.

    The others count as taken. A consumer group's receiver is called again with these alone; given up, they are letters.

    :param reason: in words, for the log and the letters.
    :param untried: those that the receiver has not tried, since they come after one that has failed. They wait for
        that, and are no failures: where it is given up, the receiver is called with them.
    """

    def __init__(self, events: Iterable[Any], reason: str = "", untried: Iterable[Any] = ()) -> None:
        #: Those that have failed.
        self.events: list[Any] = list(events)
        #: Those that have not been tried.
        self.untried: list[Any] = list(untried)
        super().__init__(f"{len(self.events)} events of a batch have failed{reason and f': {reason}'}")


#: Seconds.
_DAY = 86_400.0


class RetryAfter(WatchError):
    """Raised by a receiver of a consumer group: it can't take events now, whatever they are.

    It is called again after so many seconds, which counts as no attempt, so that nothing is parked or given up for it.
    Whoever waits for the event (`RetryPolicy(in_order=)`) waits as long. Without a group it is a failure like others.

    :param seconds: from 0 on; what HTTP's `Retry-After` says, say. More than a day is a day.
    :param reason: in words, for the log.
    :param is_attempt: True to have it count as an attempt all the same, so that the event is parked or given up after
        as many as the policy has: of a receiver that has put events off for too long.
    :raises ConfigurationError: for anything else than seconds.
    """

    says_all = True

    def __init__(self, seconds: float, reason: str = "it can't take events now", *, is_attempt: bool = False) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
            raise ConfigurationError(f"RetryAfter: seconds must be a number from 0 on, not {seconds!r}")
        super().__init__(reason)
        #: After which it is called again.
        self.seconds: float = min(float(seconds), _DAY)
        #: True if it counts as an attempt.
        self.is_attempt: bool = is_attempt


class GiveUp(WatchError):
    """Raised by a receiver of a consumer group: no further attempt at this event makes sense.

    It goes to the dead letters at once, whatever the policy says, and what is behind it goes on. Without a group it is
    a failure like others.
    """


class PayloadError(WatchError):
    """A notification is garbage, or of a version this library does not know."""

    #: True if it tells of rows all the same, so that a resync follows.
    tells_of_rows: bool = False


class UnknownVersionError(PayloadError):
    """A notification is of a version this library does not know: one side is to be brought up to date."""

    tells_of_rows = True


#: Control characters, and halves of surrogate pairs, which no encoding can carry.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def one_line(error: BaseException | None, default: str = "no reason is known", *, brief: bool = False) -> str:
    """Return an error's own words in one line that a log, a terminal and a database can take.

    An error without words is named by its class. An error of SQLAlchemy's speaks in the driver's words, without
    the statement and its parameters.

    :param error: whatever was raised; its `__str__` may raise as well.
    :param default: the words where there is no error.
    :param brief: take the server's primary message alone, without detail, hint and context.
    """
    if error is None:
        return default
    cause = getattr(error, "orig", None)
    if isinstance(cause, BaseException):
        error = cause
    return in_one_line(_words(error, brief)) or type(error).__name__


def in_one_line(words: str) -> str:
    """Return words, which names from anywhere may be among, in one line that a log and a terminal can take."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], " ".join(words.split()))


def sqlstate(error: BaseException) -> str | None:
    """Return PostgreSQL's code of an error, of whatever driver; None where it has none."""
    cause = getattr(error, "orig", None) or error
    for name in ("sqlstate", "pgcode"):
        if isinstance(code := getattr(cause, name, None), str):
            return code
    return _fields_of_pg8000(cause).get("C")


def _fields_of_pg8000(error: BaseException) -> Mapping[str, str]:
    found = error.args[0] if error.args else None
    return found if isinstance(found, dict) else {}


def _words(error: BaseException, brief: bool) -> str:
    try:
        said = getattr(getattr(error, "diag", None), "message_primary", None) or _fields_of_pg8000(error).get("M")
        primary = said if brief else None
        return primary if primary and isinstance(primary, str) else str(error)
    except Exception:  # from the error's own code
        return ""
