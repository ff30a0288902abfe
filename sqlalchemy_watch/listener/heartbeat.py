"""When to ask whether the other side is still there, and until when to wait for its answer.

Pure: times are those of `time.monotonic()`, and are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass


class Silent(ConnectionError):
    """Raised where the other side is silent for too long: the connection is given up."""


@dataclass(slots=True)
class Heartbeat:
    """Asks after `interval` seconds without a sign, and waits `timeout` seconds for the answer."""

    interval: float
    timeout: float
    heard_at: float
    #: None while no answer is waited for.
    asked_at: float | None = None

    def is_due(self, now: float) -> bool:
        """Return True if it is time to ask."""
        return self.asked_at is None and now - self.heard_at >= self.interval

    def ask(self, now: float) -> None:
        """Note that the other side was asked, unless it was before and has not answered."""
        if self.asked_at is None:
            self.asked_at = now

    def hear(self, now: float) -> None:
        """Note a sign that answers."""
        self.heard_at, self.asked_at = now, None

    def postpone(self, now: float) -> None:
        """Wait for the answer from now on: it comes behind something else that is under way."""
        if self.asked_at is not None:
            self.asked_at = now

    def is_overdue(self, now: float) -> bool:
        """Return True if the answer has been waited for too long."""
        return self.asked_at is not None and now - self.asked_at >= self.timeout

    def check(self, now: float) -> None:
        """Raise where the answer is overdue.

        :raises Silent: with the number of seconds that were waited.
        """
        if self.is_overdue(now):
            raise Silent(f"no answer to the heartbeat within {self.timeout:g} s")

    @property
    def deadline(self) -> float:
        """The time at which to ask, or to give up."""
        return self.heard_at + self.interval if self.asked_at is None else self.asked_at + self.timeout
