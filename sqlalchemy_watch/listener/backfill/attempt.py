"""One backfill, as far as it gets over one connection: chunk by chunk, each at its place among the events.

A chunk is read in a snapshot, and behind that a mark is sent. Where the mark comes, all has been delivered that
committed before it. A row that was told of meanwhile, by a transaction that the snapshot does not see, is read again;
the third time under a lock, in the transaction of the mark itself, so that nothing can come between. How far it is is
noted once receivers have had the chunk: whoever goes on repeats a few at the most.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import psycopg
from psycopg import errors

from ..decoding.routes import Route
from ..dispatch.dispatcher import Dispatcher
from ..pipeline.gate import Gate
from ..pipeline.inbox import Inbox
from ..pipeline.parts import Here, Notification, Transaction
from ..source import Source
from .progress import Backfill, Place, Progress
from .reading import MOST_ROWS, Key, Reader, Rows, read_snapshot
from .touched import Touched

#: Chunks that receivers may still have in their hands while the next one is read.
AHEAD = 3

#: Seconds between looks whether what is waited for can come still.
LOOK_SECONDS = 0.2

#: Readings of a row, of which the last one locks it.
READINGS = 3

#: Rows noted while receivers are at work, from which on those are forgotten that no later snapshot can miss.
PRUNED_FROM = 10_000

#: Raised where a row can't be locked at present, and where it never can: it is read without, as often as that takes.
_CAN_NOT_LOCK_NOW = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)
_CAN_NOT_LOCK = (
    *_CAN_NOT_LOCK_NOW, errors.InsufficientPrivilege, errors.FeatureNotSupported, errors.WrongObjectType
)  # fmt: skip


#: Called in the dispatch thread where a backfill is done, with the table's key and when it began.
Tell = Callable[[str, datetime], None]


class Interrupted(Exception):
    """Raised where what was begun is of no use any more: it is begun anew, here or in another process."""


class Parts(NamedTuple):
    """The listener, as far as a backfill needs it."""

    source: Source
    dispatcher: Dispatcher
    gate: Gate
    inbox: Inbox
    progress: Progress
    stopping: threading.Event
    tell: Tell


class _Chunk:
    """Rows on their way to receivers."""

    def __init__(self, keys: Sequence[Key], taken: Sequence[Key], behind: Key | None) -> None:
        self.keys = keys
        #: The keys that were read again in it.
        self.taken = taken
        #: How far it is with this chunk.
        self.behind = behind
        #: The numbers of its rows that are to be read again, once it was handled.
        self.stale: Sequence[int] = ()
        self.handled, self.done = threading.Event(), threading.Event()


class Attempt:
    """One backfill over one connection, in autocommit.

    :param schemas: where the table is.
    """

    def __init__(
        self, parts: Parts, connection: psycopg.Connection[Any], backfill: Backfill, route: Route,
        schemas: Sequence[str],
    ) -> None:  # fmt: skip
        self._parts, self._connection, self._backfill = parts, connection, backfill
        self._route, self._schemas = route, schemas
        self._ledger = parts.gate.ledger
        self._touched = Touched(backfill.table)
        self._times_stale: Counter[Key] = Counter()
        self._may_lock = True
        self._marks: deque[str] = deque(maxlen=AHEAD + 2)

    def run(self) -> None:
        """Read all that is left, and tell of the end.

        :raises Interrupted: where another process hears, or something may have been missed, or all ends.
        """
        dispatcher = self._parts.dispatcher
        dispatcher.touched = self._touched
        try:
            self._place(lambda transaction: None)  # what was delivered before rows were noted is in front of this
            for schema in self._schemas:
                place = self._backfill.place
                if place is None or schema >= place.schema:
                    self._fill(schema, place if place is not None and schema == place.schema else None)
            self._place(self._tell)
            self._save(None, is_done=True)
        finally:
            if dispatcher.touched is self._touched:
                dispatcher.touched = None
            for name in self._marks:
                self._parts.source.marks.forget(name)

    def _tell(self, transaction: Transaction) -> None:
        backfill, parts = self._backfill, self._parts
        parts.dispatcher.do_behind(lambda: parts.tell(backfill.table, backfill.started_at))

    def _fill(self, schema: str, place: Place | None) -> None:
        reader = Reader(self._connection, self._route.watch, schema)
        end = reader.last_key() if place is None else place.end
        if end is None:
            return
        behind, again = (None, []) if place is None else (place.behind, list(place.again))
        is_all, outstanding = False, deque[_Chunk]()
        while again or not is_all:
            chunk = self._read_locked(reader, again, behind)
            if chunk is None:
                rows = reader.read(behind, end, again[:MOST_ROWS])
                is_all = rows.last is None
                behind = rows.last or behind
                chunk = _Chunk(rows.keys, again[:MOST_ROWS], behind)
                self._send(reader, chunk, rows, partial(self._touched.is_stale, rows.snapshot))
                self._wait(chunk.handled)
                self._parts.inbox.put_call(partial(self._touched.prune, rows.snapshot))
            stale = [chunk.keys[number] for number in chunk.stale]
            self._times_stale.update(stale)
            taken = set(chunk.taken)
            again = [key for key in again if key not in taken] + stale
            self._backfill.rows_read += len(chunk.keys) - len(stale)
            outstanding.append(chunk)
            while outstanding and (len(outstanding) > AHEAD or outstanding[0].done.is_set() or (is_all and not again)):
                first = outstanding.popleft()
                self._wait(first.done, prunes=True)
                unsaid = [key for each in outstanding for key in each.taken]
                self._save(Place(schema, end, first.behind, [*dict.fromkeys([*unsaid, *again])]))

    def _read_locked(self, reader: Reader, again: Sequence[Key], behind: Key | None) -> _Chunk | None:
        """Read a row under a lock, and have it take its place before that ends; one alone, so that none waits for us.

        :returns: None where no row is to be locked, or none can be.
        """
        key = next((key for key in again if self._times_stale[key] >= READINGS - 1), None)
        if key is None or not self._may_lock:
            return None
        try:
            with self._connection.transaction():
                rows = reader.lock([key])
                chunk = _Chunk(rows.keys, [key], behind)
                self._send(reader, chunk, rows, lambda key: False)
        except _CAN_NOT_LOCK as error:
            self._may_lock = isinstance(error, _CAN_NOT_LOCK_NOW)
            return None
        self._wait(chunk.handled)
        return chunk

    def _send(self, reader: Reader, chunk: _Chunk, rows: Rows, is_stale: Callable[[tuple[Any, ...]], bool]) -> None:
        """Have rows delivered at the place where the present transaction commits, or one of its own."""
        payload = b""

        def deliver(transaction: Transaction) -> None:
            if rows.texts:
                notification = Notification(self._route.watch.channel, payload)
                chunk.stale = self._parts.dispatcher.deliver_existing(transaction, notification, is_stale)
            chunk.handled.set()

        with self._connection.transaction():
            txid, at = self._mark(deliver, chunk.done)
            payload = reader.payload(rows.texts, txid, at.isoformat())

    def _place(self, call: Callable[[Transaction], None]) -> None:
        """Have something done behind all that is committed by now, and wait until receivers are through with it."""
        done = threading.Event()
        self._mark(call, done)
        self._wait(done, prunes=True)

    def _mark(self, call: Callable[[Transaction], None], done: threading.Event) -> tuple[int, datetime]:
        """Have something done where the present transaction commits, unless this attempt is over by then.

        :param done: set once receivers are through with what comes of it, and with all before it.
        :returns: the number of the transaction, and the time.
        """
        dispatcher, gate = self._parts.dispatcher, self._parts.gate

        def come(transaction: Transaction) -> None:
            if dispatcher.touched is not self._touched:
                return
            try:
                call(transaction)
            except BaseException:
                dispatcher.touched = None  # begun anew
                raise
            gate.served.when_done(transaction, done.set)

        name = self._parts.source.marks.add(Here(come))
        self._marks.append(name)
        return self._parts.source.send_mark(self._connection, name)

    def _wait(self, event: threading.Event, *, prunes: bool = False) -> None:
        """Wait for something that the dispatch thread sets, or receivers.

        :param prunes: True where no chunk has been read that was not handled.
        :raises Interrupted: where it does not come any more.
        """
        parts = self._parts
        while not event.wait(LOOK_SECONDS):
            is_lost = self._ledger.is_over or parts.dispatcher.touched is not self._touched
            if parts.stopping.is_set() or is_lost or not parts.source.state.listening:
                raise Interrupted
            if prunes and len(self._touched) >= PRUNED_FROM:
                parts.inbox.put_call(partial(self._touched.prune, read_snapshot(self._connection)))

    def _save(self, place: Place | None, *, is_done: bool = False) -> None:
        self._backfill.place = place
        if not self._parts.progress.save(self._connection, self._backfill, is_done=is_done):
            raise Interrupted
