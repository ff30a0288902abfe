"""Standing by while another consumer of the group is active."""

from __future__ import annotations

import contextlib
import logging
import random
import threading

from ...errors import SlotError
from ..server.connect import Connect
from ..source import SourceState
from ..stats import ReadingStats
from . import slots
from .preparing import SLOT_IN_MAKING

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between attempts to become the active consumer.
STANDBY_INTERVAL = 1.0

#: Seconds at the most by which those who stood by try one after the other.
RIVALS_SECONDS = 0.1

STANDING_BY = "another consumer of the group is active, and this one stands by"


class Standby:
    """Waits until nobody reads the slot; over a plain connection, since walsenders are few."""

    def __init__(self, connect: Connect, group: str, state: SourceState, stats: ReadingStats) -> None:
        self._connect, self._group, self._state, self._stats = connect, group, state, stats
        self._otherwise_missing = state.missing
        #: True from an attempt that another consumer was faster at, to one that succeeds.
        self.had_rival: bool = False

    def end(self) -> None:
        """Note that this consumer has the slot."""
        self.had_rival, self._state.missing = False, self._otherwise_missing
        self._state.standing_by = None

    def wait_until_free(self, stopping: threading.Event) -> None:
        """Return once the slot is free, or gone, or `stopping` is set."""
        self.had_rival = True
        with contextlib.closing(self._connect(stopping=stopping)) as connection:
            while not stopping.is_set():
                found = slots.read_slots(connection, self._group)
                if not found or (found[0].active_pid is None and found[0].acknowledged is not None):
                    break
                if found[0].acknowledged is None:  # there is nothing yet from which on it would hear
                    self._state.error = SlotError(SLOT_IN_MAKING)
                else:
                    self._stand_by()
                stopping.wait(STANDBY_INTERVAL * random.uniform(0.5, 1.0))
        stopping.wait(random.uniform(0.0, RIVALS_SECONDS))

    def _stand_by(self) -> None:
        if self._state.missing != STANDING_BY:
            log.info("another consumer of %r is active: standing by", self._group)
        self._state.missing = STANDING_BY
        self._stats.active = False
        self._state.stand_by(STANDING_BY)
