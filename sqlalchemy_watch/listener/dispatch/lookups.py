"""The answers to look-ups, and what follows from them for events.

An event is placed by the oid of its table or partition; one without by the schema that it names. What is known to be
ours stays so until the connection is another one, or a later answer says otherwise. No other answer is trusted for
longer than it can be: one counts for the events that had been received before it was asked for, and what is another's
is looked at again now and then. Whoever makes up oids, or names of schemas, causes a few look-ups a second, however
many there are: each one serves all that waits.
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
from ..decoding.routes import Elsewhere, Route
from ..pipeline.inbox import Inbox
from ..server.asking import Asker, Reply
from ..server.schemas import Answer, Relation, Wanted, read_answer, read_session
from .unplaced import Bucket, UnplacedLog

log: logging.Logger = logging.getLogger(__name__)

#: Look-ups that may follow one another at once, and seconds until there may be one more.
LOOK_UPS, LOOK_UP_SECONDS = 10, 0.2

#: Seconds after which what is another's is looked at again; the second, where it may well become ours: it is on the
#: search_path itself, or the engine has no table of its own.
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


#: The fate of an event, and where it is ours the schema of what it is of.
Judgement = tuple[Verdict, str]

_ANOTHERS: Judgement = (Verdict.ANOTHERS, "")


@dataclass(slots=True)
class WatchedTable:
    """A watched table as it is declared, and what is known of it."""

    wanted: Wanted
    routes: Sequence[Route]
    #: The schemas of what is known to be ours, by oid: the very mapping that its routes have.
    known: dict[int, str]
    #: All that has been ours: an event may be older than the end of its table.
    past: dict[int, str] = field(default_factory=dict)
    #: All schemas that have been its home: an event may be older than its table's move.
    past_homes: set[str] = field(default_factory=set)
    #: Tables whose name another one has, with the transaction that had altered each when that was first seen.
    retired: dict[int, int] = field(default_factory=dict)
    #: What else has triggers of such a table.
    others: Mapping[int, Relation] = field(default_factory=dict)
    #: The schemas of those that are other tenants', and whether the role may use them.
    other_schemas: dict[str, bool] = field(default_factory=dict)
    #: The events that this counts for, up to this number of `Inbox.received`; None where it counts no more.
    received: int | None = None
    asked_at: float = 0.0
    #: The oids and schemas passed over since the last look-up because of an earlier one.
    passed: set[int | str] = field(default_factory=set)
    #: Of these the oids of tables whose name another one had, with the transaction that had altered each.
    passed_retired: dict[int, int] = field(default_factory=dict)

    @property
    def is_named(self) -> bool:
        """True if no search_path decides where it is ours."""
        return self.wanted.schemas is not None


class LookUps:
    """Looks tables up, in the dispatch thread.

    :param tables: all that are watched.
    :param stopped: gives what is done once nothing is to be waited for any more.
    """

    def __init__(
        self,
        tables: Sequence[WatchedTable],
        asker: Asker,
        inbox: Inbox,
        stopped: Callable[[], concurrent.futures.Future[None]],
    ) -> None:
        self._asker, self._inbox, self._stopped = asker, inbox, stopped
        self._tables = {table.wanted.key: table for table in tables}
        self._reply: Reply | None = None
        #: What the listener's own connection sees; another thread sets it.
        self._guess: Answer | None = None
        self._taken_guess: Answer | None = None
        #: When what was passed over is to be looked at again; infinite where nothing was.
        self.due_at: float = math.inf
        #: True once it turned out that an event was passed over that may be ours.
        self.has_erred: bool = False
        self._bucket = Bucket(LOOK_UPS, LOOK_UP_SECONDS)
        self._failures = 0
        self._retry_at = -math.inf
        self._log = UnplacedLog()

    def place(self, event: Elsewhere, *, may_be_early: bool = False) -> Judgement:
        """Decide about an event that is not known to be ours.

        :param may_be_early: True if its transaction may not be seen yet.
        """
        if self._guess is not self._taken_guess:
            self._take_guess()
            if (schema := event.route.place(event.oid, event.schema)) is not None:
                return Verdict.OURS, schema
        declared = event.route.schema
        if declared is not None and event.schema != declared:
            self._log.note_foreign(event.route.watch.table_key, event.schema or "")
            return Verdict.UNPLACED, ""
        table = self._table_of(event)
        is_answered = table.received is not None and self._inbox.taken <= table.received
        found = None if is_answered or table.received is None else self._judge_again(table, event, time.monotonic())
        if found is None:
            if not is_answered and not self._look_up(table, event.oid):
                return Verdict.UNKNOWN, ""
            found = self._judge(table, event)
            if found[0] is not Verdict.OURS and may_be_early and not self._has_seen(event.stamp[0]):
                table.received = None
                return Verdict.EARLY, ""
        if found[0] is Verdict.UNPLACED:
            self._note(table, event)
        return found

    def guess(self, fetch: Fetch) -> None:
        """Ask over a connection of the listener's own, in the source's thread."""
        self._guess = None
        self._guess = read_answer(fetch, read_session(fetch), [table.wanted for table in self._tables.values()])

    def _take_guess(self) -> None:
        """Know what the listener's own connection sees, as far as no session of the engine could see anything else."""
        guess, self._taken_guess = self._guess, self._guess
        is_alike = self._asker.own_is_alike
        for table in self._tables.values():
            if guess is not None and (is_alike or table.is_named):
                self._take_places(table, guess)

    def schema_by_guess(self, event: Elsewhere) -> str | None:
        """Return the schema of what the listener's own connection takes for ours; None once there was an answer."""
        if self._reply is not None or self._guess is None:
            return None
        key = self._table_of(event).wanted.key
        if event.oid is not None:
            return self._guess.known[key].get(event.oid)
        return event.schema if event.schema in self._guess.homes[key] else None

    def retry_in(self) -> float:
        """Return the seconds until a look-up may be tried again."""
        return max(0.0, self._retry_at - time.monotonic())

    def forget(self, *, is_connected: bool) -> None:
        """Trust no answer any more, but for what is ours.

        :param is_connected: not that either: the server may be another one.
        """
        for table in self._tables.values():
            table.received = None
            if is_connected:
                for of_oids in (table.known, table.past, table.retired):
                    of_oids.clear()
        if is_connected:
            self._taken_guess = None

    def look_again(self) -> None:
        """Look at what was passed over because of an earlier answer."""
        table = next((table for table in self._tables.values() if table.passed), None)
        if table is not None and not self._look_up(table, None):
            self.due_at = time.monotonic() + OTHERS_SECONDS

    def _table_of(self, event: Elsewhere) -> WatchedTable:
        return self._tables[event.route.schema, event.route.watch.table]

    def _has_seen(self, txid: int) -> bool:
        assert self._reply is not None
        return self._reply.answer.session.sees(txid)

    def _judge_again(self, table: WatchedTable, event: Elsewhere, now: float) -> Judgement | None:
        """Decide by an earlier answer; None where that is none. What is passed over is looked at again later."""
        assert self._reply is not None
        other = None if event.oid is None else table.others.get(event.oid)
        schema = event.schema if other is None else other.root_schema
        if other is None and (event.oid is not None or schema not in table.other_schemas):
            return None
        if other is not None and not other.has_triggers and event.stamp[0] >= other.altered_by:
            return None
        found = self._judge(table, event)
        verdict = found[0]
        if other is None and verdict is Verdict.OURS:
            return None
        if verdict is Verdict.ANOTHERS or verdict is Verdict.UNPLACED:
            is_shaky = verdict is Verdict.UNPLACED or schema in self._reply.answer.session.path
            seconds = SHAKY_SECONDS if is_shaky else OTHERS_SECONDS
            if now >= table.asked_at + seconds:
                return None
            if verdict is Verdict.ANOTHERS:
                table.passed.add(event.oid or event.schema or "")
                if event.oid is not None and other is not None and self._is_home(table, other.root_schema):
                    table.passed_retired[event.oid] = other.altered_by
                self.due_at = min(self.due_at, now + seconds)
        return None if verdict is Verdict.UNKNOWN else found

    def _judge(self, table: WatchedTable, event: Elsewhere) -> Judgement:
        if event.oid is None:
            return self._judge_schema(table, event.schema or "")
        # A payload that is for the log as well says in which schema it was written, where none is declared.
        written_in = event.schema if table.wanted.key[0] is None else None
        if (schema := table.known.get(event.oid)) is not None:
            return Verdict.OURS, written_in or schema
        if (other := table.others.get(event.oid)) is not None:
            return self._judge_other(table, other, event, written_in)
        # It is gone. (Or it has no trigger any more, and another one was asked for.)
        return self._judge_gone(table, event, written_in)

    def _judge_other(self, table: WatchedTable, other: Relation, event: Elsewhere, written_in: str | None) -> Judgement:
        """Decide about an event of a table that is not under its declared name where it would be ours, or a partition.

        :param written_in: the schema that it was in when the event was written, if that is known.
        """
        is_older = event.stamp[0] < other.altered_by
        if self._is_home(table, other.root_schema):
            if not other.has_namesake:  # it was renamed, or moved
                return Verdict.OURS, written_in or other.schema
            if not is_older:
                return _ANOTHERS
            # Another table has its name now, or it was detached: until then it was ours.
            return self._uncertain if _is_retired(table, event) else (Verdict.OURS, written_in or other.schema)
        is_moved = written_in is not None and written_in != other.schema
        if is_moved or (is_older and not other.has_name):  # a partition that was detached
            return self._judge_gone(table, event, written_in)
        return _ANOTHERS if self._has_own(table) else self._uncertain

    def _judge_gone(self, table: WatchedTable, event: Elsewhere, written_in: str | None) -> Judgement:
        """Decide about an event of what is not there any more, or of which the catalog does not tell what it was."""
        if _is_retired(table, event):
            return self._uncertain
        if (schema := table.past.get(event.oid or 0)) is not None:
            return Verdict.OURS, written_in or schema
        if written_in is not None:
            return self._judge_schema(table, written_in)
        return self._uncertain if event.schema is None else (Verdict.OURS, event.schema)

    def _judge_schema(self, table: WatchedTable, schema: str) -> Judgement:
        """Decide about an event of the table that had the declared name in this schema, or of a partition there."""
        assert self._reply is not None
        answer = self._reply.answer
        if schema in answer.homes[table.wanted.key] or table.wanted.schemas == "*":
            return Verdict.OURS, schema
        is_found = table.wanted.key in answer.found
        if schema in table.other_schemas and (is_found or schema not in answer.session.path):
            return _ANOTHERS if self._has_own(table) else self._uncertain
        if (not table.is_named and schema in answer.session.path) or schema in table.past_homes:
            return Verdict.OURS, schema  # it was there, and has been renamed, moved or dropped since
        return self._uncertain

    def _is_home(self, table: WatchedTable, root_schema: str) -> bool:
        """Return True if a table there would be ours under the declared name."""
        assert self._reply is not None
        answer, key = self._reply.answer, table.wanted.key
        if key[0] is not None or table.wanted.schemas == "*" or root_schema in answer.roots[key]:
            return True
        return not table.is_named and key not in answer.found and root_schema in answer.session.path

    def _has_own(self, table: WatchedTable) -> bool:
        """Return True if it is known where the table is that is ours, so that others are not."""
        assert self._reply is not None
        return table.is_named or (self._reply.is_certain and table.wanted.key in self._reply.answer.found)

    @property
    def _uncertain(self) -> Judgement:
        assert self._reply is not None
        return (Verdict.UNKNOWN if self._reply.is_temporary else Verdict.UNPLACED), ""

    def _note(self, table: WatchedTable, event: Elsewhere) -> None:
        assert self._reply is not None
        name = table.wanted.key[1]
        other = None if event.oid is None else table.others.get(event.oid)
        if other is not None and not self._is_home(table, other.root_schema):
            self._log.note(name, other.root_schema, self._reply, other.usable)
        elif other is None and event.schema is not None and not _is_retired(table, event):
            self._log.note(name, event.schema, self._reply, table.other_schemas.get(event.schema))
        else:
            self._log.note_gone(name, event.oid or 0)

    def _look_up(self, table: WatchedTable, oid: int | None) -> bool:
        """Ask where all tables are, and what else has triggers of this one; return False where that fails."""
        if self.retry_in() > 0:
            return False
        concurrent.futures.wait({self._stopped()}, self._bucket.take(time.monotonic()))
        received, now = self._inbox.received, time.monotonic()
        wanted = [each.wanted for each in self._tables.values()]
        try:
            reply = self._asker.ask(wanted, table.wanted, oid, self._stopped())
        except Exception as error:
            self._failures += 1
            self._retry_at = time.monotonic() + min(RETRY_FIRST * 2.0 ** min(self._failures - 1, 10), RETRY_MAX)
            log.warning("can't look up whose the rows of table %r are (%s)", table.wanted.key[1], one_line(error))
            return False
        self._failures = 0
        if reply.is_temporary and self._reply is not None and self._reply.is_certain:
            self._retry_at = now + RETRY_MAX  # what a session of the engine saw is worth more
            return False
        if reply.is_temporary:  # it will do for what is ours, and for nothing else
            received, self._retry_at = -1, now + RETRY_MAX
        table.others, table.received, table.asked_at = reply.answer.others, received, now
        self._take(reply, table)
        table.other_schemas = {}
        for oid, other in table.others.items():
            if other.has_triggers and not self._is_home(table, other.root_schema):
                table.other_schemas[other.schema] = other.usable
            elif other.has_triggers and other.has_namesake:
                table.retired.setdefault(oid, other.altered_by)
        return True

    def _take(self, reply: Reply, asked: WatchedTable) -> None:
        self._reply, answer = reply, reply.answer
        self.due_at = math.inf
        for key, table in self._tables.items():
            homes, known = answer.homes[key], answer.known[key]
            self._take_places(table, answer)
            is_lost = bool(table.passed) and not table.is_named and key not in answer.found
            self.has_erred |= is_lost or any(passed in known or passed in homes for passed in table.passed)
            table.passed = set()
            if table is asked:
                self.has_erred |= any(
                    oid not in table.others or table.others[oid].altered_by != altered_by
                    for oid, altered_by in table.passed_retired.items()
                )
                table.passed_retired = {}
            elif table.passed_retired:  # only a look-up of its own tells
                table.passed = set(table.passed_retired)
                self.due_at = time.monotonic() + SHAKY_SECONDS

    def _take_places(self, table: WatchedTable, answer: Answer) -> None:
        key = table.wanted.key
        table.past_homes.update(answer.homes[key])
        table.past.update(answer.known[key])
        table.known.clear()
        table.known.update(answer.known[key])
        for oid in table.retired.keys() & table.known.keys():
            del table.retired[oid]
        if key[0] is None and table.wanted.schemas != "*":
            for route in table.routes:
                route.schemas = answer.homes[key]
        if (schema := answer.unusable.get(key)) is not None:
            self._log.note_unusable(key[1], schema, answer.session.role)


def _is_retired(table: WatchedTable, event: Elsewhere) -> bool:
    """Return True if the event is of a table that was not ours any more, when that was last seen."""
    since = table.retired.get(event.oid or 0)
    return since is not None and event.stamp[0] >= since
