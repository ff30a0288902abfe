"""Stamps: one who loads notes that of a key before, and looks after the store whether it is still the same."""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Hashable
from typing import TypeAlias

#: Keys that have one in common are invalidated together, which costs a load. So the memory is the same for any number.
STRIPES = 16_384

#: Equal as long as the key was not invalidated.
Stamp: TypeAlias = tuple[int, int]


class Stamps:
    """The stamps of all keys: changed by the threads that receive events, read by any."""

    def __init__(self) -> None:
        # Each change has a number of its own, so that two threads that change one stamp never give it an old value.
        self._numbers = itertools.count(1)
        self._numbers_by_stripe = array("Q", bytes(8 * STRIPES))
        #: When it was, by `time.monotonic()`.
        self._times = array("d", bytes(8 * STRIPES))
        self._number_of_all, self._time_of_all = 0, 0.0

    def of(self, key: Hashable) -> Stamp:
        """Return the present stamp of a key."""
        return self._number_of_all, self._numbers_by_stripe[hash(key) % STRIPES]

    def change(self, key: Hashable) -> None:
        """Note that what was loaded for the key so far is not to be kept."""
        stripe = hash(key) % STRIPES
        self._times[stripe] = time.monotonic()  # first: see `was_changed_within`
        self._numbers_by_stripe[stripe] = next(self._numbers)

    def change_all(self, *, is_news: bool = True) -> None:
        """Note that nothing which was loaded so far is to be kept.

        :param is_news: False where nothing is known to have changed.
        """
        if is_news:
            self._time_of_all = time.monotonic()
        self._number_of_all = next(self._numbers)

    def was_changed_within(self, seconds: float, key: Hashable) -> bool:
        """Return True if the key was invalidated so recently; to be asked after `of()`, so that no change is missed."""
        newest = max(self._times[hash(key) % STRIPES], self._time_of_all)
        return newest > 0.0 and time.monotonic() - newest < seconds
