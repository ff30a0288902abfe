"""Waiting before new attempts."""

from __future__ import annotations

import random

#: Seconds before the first new attempt, the factor from each to the next, and the longest wait.
BACKOFF_FIRST, BACKOFF_FACTOR, BACKOFF_MAX = 0.1, 2.0, 30.0


class Backoff:
    """Exponential, with full jitter, so that many listeners don't come back at once."""

    def __init__(self) -> None:
        self._delay = BACKOFF_FIRST

    def next(self) -> float:
        """Seconds to wait now."""
        delay, self._delay = self._delay, min(self._delay * BACKOFF_FACTOR, BACKOFF_MAX)
        return delay * random.uniform(0.5, 1.0)
