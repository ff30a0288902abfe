"""Keys that wait: an event that a receiver fails on is parked, and so is all behind it of its key, for that receiver.

What is parked stands in the table of dead letters, and is tried again from there, the oldest first, in the lane of its
key. Once none is left, the key goes on as usual.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

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

#: Letters of a key that are tried before others have their turn.
LETTERS_AT_ONCE = 20


class Parking:
    """The keys of one group that wait.

    :param waiting: of the dispatch thread, which calls receivers of batches.
    :param lanes: where all others are called; None where the dispatch thread does that.
    :param in_lanes: their waiting.
    """

    def __init__(
        self, group: str, spare: Spare, letters: Letters, keys: Keys, gate: Gate,
        lanes: Lanes | None, waiting: Waiting, in_lanes: Waiting,
    ) -> None:  # fmt: skip
        self._group, self._spare, self._letters, self._keys = group, spare, letters, keys
        self._gate, self._lanes, self._waiting, self._in_lanes = gate, lanes, waiting, in_lanes
        #: The receivers of which events are parked, by key. Changed by whoever has the lane of the key.
        self._parked: dict[str, frozenset[str]] = {}
        #: The receivers and keys that are being tried.
        self._tried: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Read what is parked, before anything is delivered: another process may have been active.

        :raises Exception: where it can't be read. An event could come before one that is parked.
        """
        with self._spare.use() as connection:
            for receiver, key in dead_letters.parked_keys(connection, self._group):
                self._note(receiver, key)
        self._tried = set()

    def park(self, call: Call, event: Any, error: BaseException | None, attempts: int, *, with_key: bool) -> None:
        """Write a letter, however long that takes.

        :param error: None for one that was not tried, since it waits behind another one of its key.
        :raises CutShort: where `stop()` came before.
        """
        key = self._keys.text_of(event) if with_key else None
        name = self._letters.park(call, event, error, attempts, key)
        if key is not None:
            self._note(name, key)

    def unparked(self, call: Call) -> Call | None:
        """Return the call without events that have to wait behind others of their key; those are parked.

        :raises CutShort: where `stop()` came before one was parked.
        """
        if not self._parked:
            return call
        events = call.events
        left = [event for event in events if not self._park_behind(call, event)]
        if len(left) == len(events):
            return call
        return call._replace(argument=left) if left else None

    def _park_behind(self, call: Call, event: Any) -> bool:
        key = self._keys.text_of(event)
        if key is None or key not in self._parked:
            return False
        if self._letters.name_for(call, event) not in self._parked.get(key, ()):
            return False
        name = self._letters.park(call, event, None, 0, key)
        self._note(name, key)  # the last one may have been taken meanwhile
        return True

    def _note(self, receiver: str, key: str) -> None:
        self._parked[key] = self._parked.get(key, frozenset()) | {receiver}

    def _forget(self, receiver: str, key: str) -> None:
        left = self._parked.get(key, frozenset()) - {receiver}
        if left:
            self._parked[key] = left
        else:
            self._parked.pop(key, None)
        if not self._parked:
            self._spare.close()

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

    def _retry(self, which: tuple[str, str], ledger: Ledger, waiting: Waiting) -> None:
        """Try letters of a key, until one fails or none is left; of many the rest in a moment, behind others."""
        try:
            for _ in range(LETTERS_AT_ONCE):
                letter = self._front(which) if self._gate.admits(ledger) else None
                if letter is None:
                    return
                self._note(*which)  # of one that was given up, and is to be tried again
                if not self._letters.retry(letter, waiting):
                    return
            self._tried.discard(which)
            self._letters.note_due()
        except Exception as error:
            log.warning("can't try the dead letters again (%s)", describe(error))
        finally:
            self._tried.discard(which)

    def _front(self, which: tuple[str, str]) -> DeadLetter | None:
        with self._spare.use() as connection:
            found = dead_letters.front(connection, self._group, *which)
        if found is None:
            self._forget(*which)
        return found
