"""Every exception of the library, one tree.

::

    WatchError
    ├── ConfigurationError          a wrong declaration, or a wrong argument
    ├── OwnershipError              something that is not ours stands under a name of ours
    ├── UnsupportedServerError      too old, a standby, no logical decoding, or behind a transaction pooler
    ├── SlotError                   a replication slot can't be made, used or dropped
    ├── ListenerError               the listener can't do what was asked
    │   ├── ListenerStartError      LISTEN was not in force within the timeout
    │   └── CatchUpTimeout          (also a TimeoutError)
    ├── EventsDropped               raised into a stream where events are missing
    └── PayloadError                a notification that can't be read; counted, never raised to users
        └── UnknownVersionError     it is of another version of this library; a resync follows
"""

from __future__ import annotations

__all__ = [
    "CatchUpTimeout",
    "ConfigurationError",
    "EventsDropped",
    "ListenerError",
    "ListenerStartError",
    "OwnershipError",
    "PayloadError",
    "SlotError",
    "UnknownVersionError",
    "UnsupportedServerError",
    "WatchError",
]


class WatchError(Exception):
    """Base of every exception this library raises."""


class ConfigurationError(WatchError, ValueError):
    """A declaration or an argument is wrong; the message names it, the rule and the remedy."""


class OwnershipError(WatchError):
    """A function or trigger without our mark stands where one of ours would go; it is left alone."""


class UnsupportedServerError(WatchError):
    """The server can't deliver notifications to this connection, and retrying would not change that."""


class SlotError(WatchError):
    """A replication slot can't be made, used or dropped; the message says why and what to do."""


class ListenerError(WatchError):
    """The listener can't do what was asked of it in its present state."""


class ListenerStartError(ListenerError):
    """LISTEN was not in force within the timeout; the message ends with the server's own words."""


class CatchUpTimeout(ListenerError, TimeoutError):
    """What was committed before `Listener.catch_up` was not dispatched within its timeout."""


class EventsDropped(WatchError):
    """Raised once into a stream at the place where events are missing; the stream goes on afterwards.

    `dropped` is how many events the stream itself dropped (0 where the listener missed something),
    `reason` says why.
    """

    def __init__(self, reason: str, dropped: int = 0) -> None:
        super().__init__(f"events are missing here: {reason}; reload what you hold")
        self.reason = reason
        self.dropped = dropped


class PayloadError(WatchError):
    """A notification is garbage, or of a version this library does not know."""

    #: Whether it tells of rows all the same, so that a resync follows.
    tells_of_rows: bool = False


class UnknownVersionError(PayloadError):
    """A notification is of a version this library does not know: one side is to be brought up to date."""

    tells_of_rows = True
