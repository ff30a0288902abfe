"""The answers to look-ups, and what follows from them for the schemas of events.

No answer is trusted for longer than it can be: one counts for the events that had been received before it was asked
for, and schemas that are another's are looked at again now and then. Whoever makes up names of schemas causes a few
look-ups a second, however many names there are: each one serves all that waits.
"""

from __future__ import annotations

import concurrent.futures
import enum
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...catalog.reading import Fetch
from ...errors import one_line
from ..decoding.routes import Route
from ..handover.queue import EventQueue
from ..server.asking import Asker, Reply
from ..server.schemas import Wanted, read_answer, read_session
from .unplaced import Bucket, UnplacedLog

log: logging.Logger = logging.getLogger(__name__)

#: Look-ups that may follow one another at once, and seconds until there may be one more.
LOOK_UPS, LOOK_UP_SECONDS = 10, 0.2

#: Seconds after which another tenant's schema is looked at again; the second, where it may well become ours: it is on
#: the search_path itself, or the engine has no table of its own.
OTHERS_SECONDS, SHAKY_SECONDS = 30.0, 1.0

#: Seconds until the next look-up after one that failed, and at the most.
RETRY_FIRST, RETRY_MAX = 0.5, 10.0


class Verdict(enum.Enum):
    """The fate of an event."""

    OURS = enum.auto()
    ANOTHERS = enum.auto()
    UNPLACED = enum.auto()
    #: It could not be looked up.
    UNKNOWN = enum.auto()
    #: Its transaction is in the log, and nobody sees yet what that has changed: the table may be new.
    EARLY = enum.auto()


@dataclass(slots=True)
class _Table:
    """A table that is declared without a schema, and what is known of it."""

    wanted: Wanted
    routes: Sequence[Route]
    #: All schemas that have been its home: an event may be older than its table's move.
    past: set[str] = field(default_factory=set)
    #: The schemas with triggers of a table of that name, and whether the role may use them.
    others: Mapping[str, bool] = field(default_factory=dict)
    #: The events that this counts for, up to this number of `EventQueue.received`; None where it counts no more.
    received: int | None = None
    asked_at: float = 0.0
    #: The schemas passed over since the last look-up because of an earlier one.
    passed: set[str] = field(default_factory=set)


class LookUps:
    """Looks tables up, in the dispatch thread.

    :param routes: those whose schema is not declared, by table.
    :param homes: the schemas to hear; None for those where the search_path leads.
    :param stopped: gives what is done once nothing is to be waited for any more.
    """

    def __init__(
        self,
        routes: Mapping[str, Sequence[Route]],
        homes: tuple[str, ...] | None,
        asker: Asker,
        queue: EventQueue,
        stopped: Callable[[], concurrent.futures.Future[None]],
    ) -> None:
        self._asker, self._queue, self._stopped = asker, queue, stopped
        self._is_named = homes is not None
        self._tables = {
            name: _Table(Wanted(name, homes, tuple({route.watch.function_name for route in of_table})), of_table)
            for name, of_table in routes.items()
        }
        self._reply: Reply | None = None
        #: The schemas by table as the listener's own connection sees them; another thread sets it.
        self._guess: Mapping[str, frozenset[str]] = {}
        #: When what was passed over is to be looked at again; infinite where nothing was.
        self.due_at: float = math.inf
        #: True once it turned out that an event was passed over that may be ours.
        self.has_erred: bool = False
        self._bucket = Bucket(LOOK_UPS, LOOK_UP_SECONDS)
        self._failures = 0
        self._retry_at = -math.inf
        self._log = UnplacedLog()

    def place(self, route: Route, schema: str, txid: int | None = None) -> Verdict:
        """Decide about an event of a schema that is not among the route's.

        :param txid: its transaction, where that may not be seen yet.
        """
        if route.watch.schema is not None:
            self._log.note_foreign(route.watch.table_key, schema)
            return Verdict.UNPLACED
        table = self._tables[route.watch.table]
        is_answered = table.received is not None and self._queue.taken <= table.received
        verdict = None if is_answered or table.received is None else self._judge_again(table, schema, time.monotonic())
        if verdict is None:
            if not is_answered and not self._look_up(table):
                return Verdict.UNKNOWN
            verdict = self._judge(table, schema)
            if verdict is not Verdict.OURS and txid is not None and not self._has_seen(txid):
                table.received = None
                return Verdict.EARLY
        if verdict is Verdict.UNPLACED:
            assert self._reply is not None
            self._log.note(table.wanted.name, schema, self._reply, table.others.get(schema))
        return verdict

    def guess(self, fetch: Fetch) -> None:
        """Ask over a connection of the listener's own, in the source's thread."""
        wanted = [table.wanted for table in self._tables.values()]
        self._guess = read_answer(fetch, read_session(fetch), wanted, ()).homes

    def may_be_ours(self, route: Route, schema: str) -> bool:
        """Return True where there has been no answer yet, and the listener's own connection sees the table there."""
        return self._reply is None and schema in self._guess.get(route.watch.table, ())

    def retry_in(self) -> float:
        """Return the seconds until a look-up may be tried again."""
        return max(0.0, self._retry_at - time.monotonic())

    def forget(self) -> None:
        """Trust no answer any more."""
        for table in self._tables.values():
            table.received = None

    def look_again(self) -> None:
        """Look at what was passed over because of an earlier answer."""
        table = next((table for table in self._tables.values() if table.passed), None)
        if table is not None and not self._look_up(table):
            self.due_at = time.monotonic() + OTHERS_SECONDS

    def _has_seen(self, txid: int) -> bool:
        assert self._reply is not None
        return self._reply.answer.session.sees(txid)

    def _judge_again(self, table: _Table, schema: str, now: float) -> Verdict | None:
        """Decide by an earlier answer; None where that is none. What is passed over is looked at again later."""
        verdict = self._judge(table, schema)
        if schema not in table.others or verdict not in (Verdict.ANOTHERS, Verdict.UNPLACED):
            return None
        assert self._reply is not None
        is_shaky = verdict is Verdict.UNPLACED or schema in self._reply.answer.session.path
        seconds = SHAKY_SECONDS if is_shaky else OTHERS_SECONDS
        if now >= table.asked_at + seconds:
            return None
        if verdict is Verdict.ANOTHERS:
            table.passed.add(schema)
            self.due_at = min(self.due_at, now + seconds)
        return verdict

    def _judge(self, table: _Table, schema: str) -> Verdict:
        assert self._reply is not None
        answer, is_certain, is_temporary = self._reply
        name = table.wanted.name
        if schema in answer.homes[name]:
            return Verdict.OURS
        if schema in table.others:
            if self._is_named or (is_certain and name in answer.found):
                return Verdict.ANOTHERS
        elif (not self._is_named and schema in answer.session.path) or schema in table.past:
            return Verdict.OURS  # it was there, and has been moved or dropped since
        return Verdict.UNKNOWN if is_temporary else Verdict.UNPLACED

    def _look_up(self, table: _Table) -> bool:
        """Ask where all tables are, and which schemas have triggers of this one; return False where that fails."""
        if self.retry_in() > 0:
            return False
        concurrent.futures.wait({self._stopped()}, self._bucket.take(time.monotonic()))
        received, now = self._queue.received, time.monotonic()
        try:
            reply = self._asker.ask(
                [each.wanted for each in self._tables.values()], table.wanted.functions, self._stopped()
            )
        except Exception as error:
            self._failures += 1
            self._retry_at = time.monotonic() + min(RETRY_FIRST * 2.0 ** min(self._failures - 1, 10), RETRY_MAX)
            log.warning("can't look up whose the rows of table %r are (%s)", table.wanted.name, one_line(error))
            return False
        self._failures = 0
        if reply.is_temporary and self._reply is not None and self._reply.is_certain:
            self._retry_at = now + RETRY_MAX  # what a session of the engine saw is worth more
            return False
        if reply.is_temporary:  # it will do for what is ours, and for nothing else
            received, self._retry_at = -1, now + RETRY_MAX
        table.others, table.received, table.asked_at = reply.answer.others, received, now
        self._take(reply)
        return True

    def _take(self, reply: Reply) -> None:
        self._reply, answer = reply, reply.answer
        for name, table in self._tables.items():
            homes = answer.homes[name]
            table.past.update(homes)
            for route in table.routes:
                route.schemas = homes
            if (schema := answer.unusable.get(name)) is not None:
                self._log.note_unusable(name, schema, answer.session.role)
            is_lost = bool(table.passed) and not self._is_named and name not in answer.found
            self.has_erred |= is_lost or not table.passed.isdisjoint(homes)
            table.passed = set()
        self.due_at = math.inf
