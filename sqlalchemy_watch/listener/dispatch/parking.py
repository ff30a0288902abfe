"""Keys that wait: an event that a receiver fails on is parked, and so is all behind it of its key, for that receiver.

What is parked stands in the table of dead letters, and is tried again from there, the oldest first, in the lane of its
key. Once none is left, the key goes on as usual.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from ..options import RetryPolicy
from ..pipeline.gate import Gate
from ..pipeline.ledger import Ledger
from ..server.spare import Spare
from ..waiting import Waiting
from . import dead_letters
from .calls import Call
from .dead_letters import DeadLetter
from .keys import Keys
from .lanes import Lanes
from .letters import Letters, describe

log: logging.Logger = logging.getLogger(__name__)

#: A receiver's name in letters, and a key.
_Waiting = tuple[str, str]


class Parking:
    """The keys of one group that wait.

    :param waiting: of the dispatch thread, which calls receivers of batches.
    :param lanes: where all others are called; None where the dispatch thread does that.
    :param in_lanes: their waiting.
    """

    def __init__(
        self, group: str, policy: RetryPolicy, spare: Spare, letters: Letters, keys: Keys, gate: Gate,
        lanes: Lanes | None, waiting: Waiting, in_lanes: Waiting,
    ) -> None:  # fmt: skip
        self._group, self._policy, self._spare = group, policy, spare
        self._letters, self._keys = letters, keys
        self._gate, self._lanes, self._waiting, self._in_lanes = gate, lanes, waiting, in_lanes
        #: Changed by whoever has the lane of the key, an element at a time.
        self._parked: set[_Waiting] = set()
        #: Those that are being tried.
        self._tried: set[_Waiting] = set()

    def begin(self) -> None:
        """Read what is parked, at the beginning of a tenure, however long that takes: others may have parked events."""
        tries = 0
        while not self._waiting.is_over:
            try:
                with self._spare.use() as connection:
                    self._parked = dead_letters.parked_keys(connection, self._group)
                self._tried = set()
                return
            except Exception as error:  # of any kind: without, an event could come before one that is parked
                tries += 1
                log.warning("can't read which keys wait (%s): trying again", describe(error))
                self._waiting.pause(self._policy.delay(tries))
        self._waiting.was_cut_short = True

    def park(self, call: Call, event: Any, error: BaseException, attempts: int, *, with_key: bool) -> None:
        """Write a letter, however long that takes.

        :raises CutShort: where `stop()` came before.
        """
        key = self._keys.text_of(event) if with_key else None
        name = self._letters.park(call, event, error, attempts, key)
        if key is not None:
            self._parked.add((name, key))

    def unparked(self, call: Call) -> Call | None:
        """Return the call without events that have to wait behind others of their key; those are parked.

        :raises CutShort: where `stop()` came before one was parked.
        """
        if not self._parked:
            return call
        waiting_keys = {key for _, key in self._parked.copy()}
        left = [event for event in call.events if not self._park_behind(call, event, waiting_keys)]
        if len(left) == len(call.events):
            return call
        return call._replace(argument=left) if left else None

    def _park_behind(self, call: Call, event: Any, waiting_keys: set[str]) -> bool:
        key = self._keys.text_of(event)
        if key is None or key not in waiting_keys:
            return False
        if (self._letters.name_for(call, event), key) not in self._parked:
            return False
        name = self._letters.park(call, event, None, 0, key)
        self._parked.add((name, key))  # the last one may have been taken meanwhile
        return True

    def retry_due(self) -> None:
        """In the dispatch thread: have the oldest letter of each key tried that is due, and those behind it.

        :raises psycopg.Error: where they can't be read.
        """
        with self._spare.use() as connection:
            fronts = dead_letters.due_fronts(connection, self._group)
        for letter in fronts:
            assert letter.key is not None
            which = letter.receiver, letter.key
            if which in self._tried:
                continue
            self._tried.add(which)
            call, ledger = self._letters.call_for(letter), self._gate.served
            if self._lanes is None or call is None or isinstance(call.argument, list):
                self._retry(which, ledger, self._waiting)
            else:
                self._lanes.do(self._keys.of(call.argument), partial(self._retry, which, ledger, self._in_lanes))

    def _retry(self, which: _Waiting, ledger: Ledger, waiting: Waiting) -> None:
        """Try letters of a key, until one fails or none is left."""
        try:
            while self._gate.admits(ledger) and (letter := self._front(which)) is not None:
                self._parked.add(which)  # of one that was given up, and is to be tried again
                if not self._letters.retry(letter, waiting):
                    return
        except Exception as error:
            log.warning("can't try the dead letters again (%s)", describe(error))
        finally:
            self._tried.discard(which)

    def _front(self, which: _Waiting) -> DeadLetter | None:
        with self._spare.use() as connection:
            found = dead_letters.front(connection, self._group, *which)
        if found is None:
            self._parked.discard(which)
            if not self._parked:
                self._spare.close()
        return found
