"""Whose event is it? Decided by looking up what its table or partition is, unless that is known to be ours.

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
from ..options import Schemas
from ..pipeline.inbox import Inbox
from ..pipeline.parts import Notification, Transaction
from ..server.asking import Asker
from ..server.deadline import Unanswered
from ..server.schemas import Key, Wanted
from ..stats import DispatchStats
from .lookups import Judgement, LookUps, Verdict, WatchedTable

log: logging.Logger = logging.getLogger(__name__)

#: Seconds for which an event waits whose transaction is in the log and not to be seen yet, as while the server waits
#: for a synchronous standby; and seconds between looks at it.
EARLY_SECONDS, EARLY_PAUSE = 2.0, 0.05

#: Seconds for which no event waits so, after one whose transaction was not seen in that time.
DISTRUST_SECONDS = 60.0

UNPLACED: Final = "a watched table has rows in a place where it is not known to be: see the log"
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
        inbox: Inbox,
        stats: DispatchStats,
        ask_to_resync: Callable[[str], None],
        stopped: Callable[[], concurrent.futures.Future[None]],
    ) -> None:
        self._router, self._inbox, self._stats = router, inbox, stats
        self._ask_to_resync, self._stopped = ask_to_resync, stopped
        #: With durable delivery: waits for some seconds, and returns False where no look-up is to be tried again.
        self.wait: Callable[[float], bool] | None = None
        #: The time from which on events wait again whose transaction is not to be seen.
        self._trusts_from: float = -math.inf
        #: When to look again at what was passed over; infinite where nothing was.
        self.due_at: float = math.inf
        self._lookups: LookUps | None = None
        #: Where each table is to be looked up, by the schema and name that are declared.
        self.wanted: dict[Key, Wanted] = {}

    def use(self, asker: Asker, schemas: Schemas) -> None:
        """Set where to ask. Called once, before the thread starts.

        :param schemas: those to hear, for tables that are declared without one.
        """
        if schemas is None and (home := asker.renamed_schemas.get(None)) is not None:
            schemas = frozenset([home])
        homes = schemas if schemas is None or schemas == "*" else tuple(sorted(schemas))
        of_table: dict[Key, list[Route]] = {}
        for route in self._router.routes:
            of_table.setdefault((route.schema, route.watch.table), []).append(route)
        tables = []
        for key, routes in of_table.items():
            declared = key[0]
            known: dict[int, str] = {}
            for route in routes:
                route.known = known
                route.schemas = _schemas_of(declared, schemas)
            functions = tuple({route.watch.function_name for route in routes})
            tables.append(
                WatchedTable(Wanted(key, homes if declared is None else (declared,), functions), routes, known)
            )
        self.wanted = {table.wanted.key: table.wanted for table in tables}
        self._lookups = LookUps(tables, asker, self._inbox, self._stopped)

    def decode(self, transaction: Transaction, notification: Notification) -> Found | None:
        """Return the watch that a payload is of, and the payload decoded.

        :returns: None where it is not to be heard; that is counted.
        :raises PayloadError: where the payload can't be read.
        """
        found = self._router.decode(notification.channel, notification.payload, transaction.stamp)
        if isinstance(found, Elsewhere):
            return self._settle(found)
        if found is None:
            self._stats.ignored += 1
        return found

    def _settle(self, elsewhere: Elsewhere) -> Found | None:
        """Return the event where it is ours; otherwise count it, and tell of it where it may be."""
        lookups = self._lookups
        verdict, schema = (Verdict.ANOTHERS, "") if lookups is None else self._place(lookups, elsewhere)
        if verdict is Verdict.OURS:
            return self._router.decode_as_ours(elsewhere, schema)
        if verdict is Verdict.ANOTHERS:
            self._stats.ignored += 1
        elif verdict is Verdict.UNPLACED or not self._stopped().done():
            self._stats.unplaced += 1
            self._ask_to_resync(UNPLACED if verdict is Verdict.UNPLACED else NO_ANSWER)
        return None

    def _place(self, lookups: LookUps, elsewhere: Elsewhere) -> Judgement:
        if self.wait is None:
            found = lookups.place(elsewhere)
        else:
            found = self._place_patiently(lookups, elsewhere, self.wait)
        self._note_errors(lookups)
        if found[0] is Verdict.UNKNOWN and not self._stopped().done():
            schema = lookups.schema_by_guess(elsewhere)
            return found if schema is None else (Verdict.OURS, schema)
        return found

    def _place_patiently(self, lookups: LookUps, elsewhere: Elsewhere, wait: Callable[[float], bool]) -> Judgement:
        """Decide about an event that can wait: until there is an answer, or a while for its transaction to be seen."""
        may_be_early = time.monotonic() >= self._trusts_from
        gives_up_at: float | None = None
        while True:
            found = lookups.place(elsewhere, may_be_early=may_be_early)
            if found[0] is Verdict.UNKNOWN:
                seconds, table = lookups.retry_in(), elsewhere.route.watch.table
                log.warning("can't tell whose the rows of table %r are: looking it up again", table)
            elif found[0] is Verdict.EARLY:
                now, seconds = time.monotonic(), EARLY_PAUSE
                gives_up_at = gives_up_at or now + EARLY_SECONDS
                if now >= gives_up_at:
                    may_be_early, self._trusts_from = False, now + DISTRUST_SECONDS
            else:
                return found
            if not wait(seconds):
                return Verdict.UNKNOWN, ""

    def guess(self, connection: psycopg.Connection[Any]) -> None:
        """Look tables up in the source's thread, once it is connected.

        What no session of the engine could see in another way is known with that, so that the first event waits for
        nothing. The rest is for the case that no answer is to be had then.

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

    def forget(self, *, is_connected: bool = False) -> None:
        """Trust no answer any more, but for what is ours: events come again, perhaps.

        :param is_connected: the connection is another one: what is ours is to be looked up again as well.
        """
        if self._lookups is not None:
            self._lookups.forget(is_connected=is_connected)

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


def _schemas_of(declared: str | None, schemas: Schemas) -> frozenset[str] | None:
    """Return the schemas whose payloads without an oid are a table's, as far as that need not be looked up."""
    if declared is not None:
        return frozenset([declared])
    return None if schemas == "*" else frozenset(schemas or ())
