"""Whose event is it? Decided for each schema that is not known to be the table's, by looking it up.

An event that names a watch of ours ends in one of three ways: it is delivered; it is known to be of another tenant's
table; or there are a warning and a resync.
"""

from __future__ import annotations

import concurrent.futures
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

from ...catalog.reading import psycopg_fetcher
from ..decoding.routes import Elsewhere, Found, Route, Router
from ..handover.queue import EventQueue
from ..options import Schemas
from ..server.asking import Asker
from ..server.deadline import Unanswered
from ..stats import DispatchStats
from .lookups import LookUps, Verdict

log: logging.Logger = logging.getLogger(__name__)

#: Seconds for which an event waits whose transaction is in the log and not to be seen yet, as while the server waits
#: for a synchronous standby; and seconds between looks at it.
EARLY_SECONDS, EARLY_PAUSE = 2.0, 0.05

#: Seconds for which no event waits so, after one whose transaction was never seen: somebody has made it up.
DISTRUST_SECONDS = 60.0

UNPLACED: Final = "a watched table has rows in a schema where the engine's search_path does not lead: see the log"
NO_ANSWER: Final = "it could not be looked up whose table an event is of"
TAKEN_FOR_ANOTHERS: Final = "a table was another tenant's when it was last looked up"


class Placing:
    """Decides about events, in the dispatch thread.

    :param ask_to_resync: called with the reason where an event is not heard that may be ours.
    :param stopped: gives what is done once nothing is to be waited for any more.
    """

    def __init__(
        self,
        router: Router,
        queue: EventQueue,
        stats: DispatchStats,
        ask_to_resync: Callable[[str], None],
        stopped: Callable[[], concurrent.futures.Future[None]],
    ) -> None:
        self._router, self._queue, self._stats = router, queue, stats
        self._ask_to_resync, self._stopped = ask_to_resync, stopped
        #: With durable delivery: waits for some seconds, and returns False where no look-up is to be tried again.
        self.wait: Callable[[float], bool] | None = None
        #: The time from which on events wait again whose transaction is not to be seen.
        self._trusts_from: float = -math.inf
        #: When to look again at what was passed over; infinite where nothing was.
        self.due_at: float = math.inf
        self._lookups: LookUps | None = None

    def use(self, asker: Asker, schemas: Schemas) -> None:
        """Set where to ask. Called once, before the thread starts.

        :param schemas: those to hear, for tables that are declared without one.
        """
        if schemas is None and (home := asker.renamed_schemas.get(None)) is not None:
            schemas = frozenset([home])
        unplaced: dict[str, list[Route]] = {}
        for route in self._router.routes:
            declared = route.watch.schema
            if declared is not None:
                route.schemas = frozenset([declared])
            elif schemas == "*":
                route.schemas = None
            else:
                route.schemas = frozenset(schemas or ())
                unplaced.setdefault(route.watch.table, []).append(route)
        homes = None if schemas is None else tuple(sorted(schemas))
        self._lookups = LookUps(unplaced, homes, asker, self._queue, self._stopped)

    def decode(self, channel: str, payload: bytes) -> Found | None:
        """Return the watch that a payload is of, and the payload decoded.

        :returns: None where it is not to be heard; that is counted.
        :raises PayloadError: where the payload can't be read.
        """
        found = self._router.decode(channel, payload)
        if isinstance(found, Elsewhere):
            return self._settle(found)
        if found is None:
            self._stats.ignored += 1
        return found

    def _settle(self, elsewhere: Elsewhere) -> Found | None:
        """Return the event where it is ours; otherwise count it, and tell of it where it may be."""
        verdict = Verdict.ANOTHERS if self._lookups is None else self._place(self._lookups, elsewhere)
        if verdict is Verdict.OURS:
            return self._router.decode_as_ours(elsewhere)
        if verdict is Verdict.ANOTHERS:
            self._stats.ignored += 1
        elif verdict is Verdict.UNPLACED or not self._stopped().done():
            self._stats.unplaced += 1
            self._ask_to_resync(UNPLACED if verdict is Verdict.UNPLACED else NO_ANSWER)
        return None

    def _place(self, lookups: LookUps, elsewhere: Elsewhere) -> Verdict:
        route, schema = elsewhere.route, elsewhere.schema
        if self.wait is None:
            verdict = lookups.place(route, schema)
        else:
            verdict = self._place_patiently(lookups, elsewhere, self.wait)
        self._note_errors(lookups)
        if verdict is Verdict.UNKNOWN and lookups.may_be_ours(route, schema) and not self._stopped().done():
            return Verdict.OURS
        return verdict

    def _place_patiently(self, lookups: LookUps, elsewhere: Elsewhere, wait: Callable[[float], bool]) -> Verdict:
        """Decide about an event that can wait: until there is an answer, or a while for its transaction to be seen."""
        route, fields = elsewhere
        txid = fields["txid"] if time.monotonic() >= self._trusts_from else None
        gives_up_at: float | None = None
        while True:
            verdict = lookups.place(route, elsewhere.schema, txid)
            if verdict is Verdict.UNKNOWN:
                seconds = lookups.retry_in()
                log.warning("can't tell whose the rows of table %r are: looking it up again", route.watch.table)
            elif verdict is Verdict.EARLY:
                now, seconds = time.monotonic(), EARLY_PAUSE
                gives_up_at = gives_up_at or now + EARLY_SECONDS
                if now >= gives_up_at:
                    txid, self._trusts_from = None, now + DISTRUST_SECONDS
            else:
                return verdict
            if not wait(seconds):
                return Verdict.UNKNOWN

    def guess(self, connection: psycopg.Connection[Any]) -> None:
        """Look tables up in the source's thread, for the case that no answer is to be had when the first event comes.

        :raises Unanswered: where the server does not answer.
        """
        if self._lookups is None or self.wait is not None:  # what can wait needs none
            return
        try:
            self._lookups.guess(psycopg_fetcher(connection))
        except Unanswered:
            raise
        except Exception as error:
            log.debug("can't look at the schemas of tables: %s", error)

    def forget(self) -> None:
        """Trust no answer any more: the connection is another one, or events come again."""
        if self._lookups is not None:
            self._lookups.forget()

    def look_again(self, now: float = math.inf) -> None:
        """Look at what was passed over because of an earlier answer, if that is due; without a time, at all of it."""
        if self._lookups is not None and self.due_at <= now and self.due_at != math.inf:
            self._lookups.look_again()
            self._note_errors(self._lookups)

    def _note_errors(self, lookups: LookUps) -> None:
        self.due_at = lookups.due_at
        if lookups.has_erred:
            lookups.has_erred = False
            self._ask_to_resync(TAKEN_FOR_ANOTHERS)
