"""Is the server still there, and does it go on? Told by what it says, and by what the monitor sees.

Pure: times are those of `time.monotonic()`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from ..heartbeat import Heartbeat, Silent

#: The share of the time for an answer to a heartbeat after which the monitor is asked what keeps the server.
LOOK_AFTER = 0.25

#: So many requests for an answer within so many seconds are those of a server that shuts down: it waits until all that
#: it sent is acknowledged, and asks again as soon as it is answered. Otherwise it asks twice in `wal_sender_timeout`.
PRESSING, PRESSING_SECONDS = 10, 1.0


class Seen(NamedTuple):
    """The monitor's view of the slot, over a connection of its own."""

    #: True while the slot is read by this consumer's walsender.
    is_ours: bool
    #: True while the walsender works its way through the log, and has no time to answer.
    is_decoding: bool


@dataclass(slots=True)
class Liveness:
    """Tells if the server is still there: by its answers, and where it can't answer by what the monitor sees.

    A walsender that decodes a large transaction looks at what it is sent only after half of `wal_sender_timeout`. And
    while nothing is read, since the queue is full, an answer would come behind all that is not read.
    """

    heartbeat: Heartbeat
    #: Seconds for which a walsender that decodes may say nothing.
    longest_silence: float = math.inf
    #: True while nothing is read.
    is_paused: bool = False
    #: When the monitor was asked; None while it is not.
    _looking_since: float | None = field(default=None, init=False)
    _seen: Seen | None = field(default=None, init=False)
    #: When the requests for an answer are counted from, and how many there were; True once the monitor was asked why.
    _counted_from: float = field(default=-math.inf, init=False)
    _requests: int = field(default=0, init=False)
    _asked_why: bool = field(default=False, init=False)

    def hear(self, now: float) -> None:
        """Note a sign of the server."""
        self.heartbeat.hear(now)
        self._looking_since = self._seen = None

    def pause(self, is_paused: bool, now: float) -> None:
        """Note that nothing is read any more, or that reading goes on."""
        if self.is_paused == is_paused:
            return
        self.is_paused = is_paused
        self._looking_since = self._seen = None  # the monitor was asked something else
        if not is_paused:
            self.heartbeat.postpone(now)

    def note_request(self, now: float) -> None:
        """Note that the server wants an answer."""
        if now - self._counted_from >= PRESSING_SECONDS:
            self._counted_from, self._requests = now, 0
        self._requests += 1

    def refuse(self) -> None:
        """Note that the monitor was refused a connection.

        :raises ConnectionAbortedError: where the server is shutting down, which would last until all is dispatched.
        """
        if self._requests >= PRESSING:
            raise ConnectionAbortedError("the server shuts down, and waits for what is not acknowledged")

    def wants_look(self, now: float) -> bool:
        """Return True once each time that the monitor is to be asked."""
        if self._requests >= PRESSING and not self._asked_why:
            self._asked_why = True
            return True
        if self._looking_since is not None or now < self._look_at:
            return False
        self._looking_since = now
        return True

    def see(self, seen: Seen, now: float) -> None:
        """Note the monitor's answer.

        :raises Silent: where nothing is read, and the slot is no longer this consumer's.
        """
        self._requests, self._asked_why = 0, False
        if not self.is_paused:
            self._seen = seen
            return
        if not seen.is_ours:
            raise Silent("the server ended the stream meanwhile")
        self.heartbeat.heard_at = now
        self._looking_since = self._seen = None

    def check(self, now: float) -> None:
        """Raise where neither the server nor the monitor has answered in time.

        :raises Silent: with what was waited for.
        """
        heartbeat = self.heartbeat
        if self.is_paused:
            if self._looking_since is not None and now - self._looking_since >= heartbeat.timeout:
                raise Silent(f"the slot could not be looked at within {heartbeat.timeout:g} s")
        elif heartbeat.is_overdue(now):
            is_decoding = self._seen is not None and self._seen.is_decoding
            if not is_decoding or now - heartbeat.heard_at > self.longest_silence:
                heartbeat.check(now)
            heartbeat.postpone(now)
            self._looking_since = self._seen = None

    @property
    def deadline(self) -> float:
        """The time at which to ask the server, to ask the monitor, or to check."""
        if self.is_paused:
            return self._look_at if self._looking_since is None else self._looking_since + self.heartbeat.timeout
        return (
            self.heartbeat.deadline if self._looking_since is not None else min(self._look_at, self.heartbeat.deadline)
        )

    @property
    def _look_at(self) -> float:
        heartbeat = self.heartbeat
        if self.is_paused:
            return heartbeat.heard_at + heartbeat.interval
        return math.inf if heartbeat.asked_at is None else heartbeat.asked_at + heartbeat.timeout * LOOK_AFTER
