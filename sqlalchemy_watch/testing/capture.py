"""`Capture`: the events of a transaction that is never committed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table
from sqlalchemy import event as sa_event
from sqlalchemy.exc import MissingGreenlet, SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import await_only

from ..declaring.spec import TableWatch
from ..declaring.targets import tables_of, watches_of_table
from ..declaring.translating import map_of, translated
from ..errors import ConfigurationError, ListenerError, PayloadError
from ..events.event import Event, T
from ..listener.decoding.routes import Router
from ..listener.decoding.values import ValueDecoders
from ..listener.dispatch.calls import Call
from ..listener.dispatch.dispatcher import Dispatcher
from ..listener.pipeline.gate import Gate
from ..listener.pipeline.inbox import Inbox, Lot
from ..listener.pipeline.ledger import Ledger
from ..listener.pipeline.parts import News, Notification, Part, Resync, Transaction
from ..listener.stats import Stats
from ..listener.waiting import Coroutine, Waiting
from ..signals.feeds import Feed
from ..signals.filters import EventSignal, FilteredSignal, feeds_of, touches
from ..signals.receivers import function_name
from ..signals.transactions import Chunks
from ..watched import feeds_of_event
from ..wire import DURABLE_PREFIX
from .replacing import Captured, Replaced

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

#: Events that may wait in a stream, and messages: a test has no more in one transaction.
LIMIT = 1_000_000

#: Of deliveries, each of what receivers have written in the one before.
MOST_ROUNDS = 100


class Capture:
    """The events of the present transaction, as the triggers would send them if it were committed::

        with engine.connect() as connection, connection.begin() as transaction:
            capture = Capture(connection, Base)
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                session.add(Order(customer_id=42))
                session.commit()
            capture.deliver()            # receivers run now
            transaction.rollback()       # and nothing has happened

    In the transaction the trigger functions are replaced by ones that write into a temporary table; that is rolled back
    with everything else, and other sessions see nothing of it. Rows that are rolled back to a savepoint have no
    events. All events have the transaction's `txid`. Committing raises: triggers would be left that send nothing.

    :param connection: in a transaction; its role is the owner of the trigger functions.
    :param targets: declarative bases, registries, MetaData, mapped classes or Tables.
    :raises ConfigurationError: without a transaction, in AUTOCOMMIT, and where triggers are missing.
    :raises OwnershipError: where the functions are another role's, or the role may make no temporary tables.
    """

    def __init__(self, connection: Connection, *targets: Any) -> None:
        if not isinstance(connection, Connection):
            raise ConfigurationError(
                f"Capture: {connection!r} is no Connection: pass engine.connect()'s, or for an AsyncConnection use "
                f"await Capture.create(connection, ...)"
            )
        self._connection = connection
        #: Where the test is a coroutine.
        self._asynchronous: AsyncConnection | None = None
        tables = tables_of(*targets)
        self._watches: list[TableWatch] = [
            translated(watch, map_of(connection)) for table in tables for watch in watches_of_table(table)
        ]
        if not self._watches:
            raise ConfigurationError("Capture: nothing is watched by its targets: add __watch__ to a model")
        self._routes = {
            is_durable: _Route(tables, connection, self._note, is_durable=is_durable) for is_durable in (False, True)
        }
        #: What has been delivered, in order.
        self.events: list[Event[Any]] = []
        #: True to have events delivered whenever a Session on this connection commits.
        self.on_commit: bool = False
        #: True once something has been delivered.
        self.has_delivered: bool = False
        self._is_delivering = False
        #: Of a watch with both deliveries an event comes once, as a group has it.
        self._channels = frozenset(
            [watch.channel for watch in self._watches if watch.delivery == "notify"]
            + [DURABLE_PREFIX + watch.channel for watch in self._watches if watch.delivery != "notify"]
        )
        self._replaced = Replaced(connection, self._watches)
        self._transaction = connection.get_transaction()
        _captures.add(self)

    @classmethod
    async def create(cls, connection: AsyncConnection, *targets: Any) -> Capture:
        """Return the capture of an asynchronous connection's transaction; use `deliver_async()` then.

        `clear()` and `refresh()` ask the database: `await connection.run_sync(lambda _: capture.refresh())`.

        :raises Exception: as making one does.
        """
        made = await connection.run_sync(cls, *targets)
        made._asynchronous = connection  # noqa: SLF001 - of the same class
        return made

    def refresh(self) -> None:
        """Replace the functions anew, after migrations in this transaction.

        :raises Exception: as making one does.
        """
        self._replaced.replace()

    def deliver(self) -> list[Event[Any]]:
        """Run receivers now, in order, and return the events since the last time.

        Coroutine receivers need `deliver_async()`. What receivers write themselves comes at the next time; with
        `on_commit` at once, behind the rest.

        :raises Exception: what the first receiver raises that fails, once all have been called.
        :raises ConfigurationError: where the transaction is over, or the functions have been made anew.
        """
        before = len(self.events)
        for _ in self._rounds():
            captured = self._take()
            if not captured:
                break
            self._dispatch(captured, None)
        return self.events[before:]

    async def deliver_async(self) -> list[Event[Any]]:
        """Run receivers now, in order, coroutines on the running loop, and return the events since the last time.

        Other receivers run in a thread beside the loop.

        :raises Exception: as `deliver` does.
        """
        before = len(self.events)
        for _ in self._rounds():
            if self._asynchronous is None:
                captured = self._take()
            else:
                captured = await self._asynchronous.run_sync(lambda _: self._take())
            if not captured:
                break
            await self._dispatch_beside(captured)
        return self.events[before:]

    async def _dispatch_beside(self, captured: Sequence[Captured]) -> None:
        """Call receivers in a thread, where coroutines of the running loop are waited for."""
        waiting = OneByOne(asyncio.get_running_loop())
        try:
            await asyncio.to_thread(self._dispatch, captured, waiting)
        except asyncio.CancelledError:  # the test is over for its receivers as well
            waiting.stop()
            raise

    def _take(self) -> list[Captured]:
        with _words_for_coroutines("await capture.deliver_async()"):
            captured = self._replaced.take(self._channels)
            if captured:  # partitions come and go
                schemas = self._replaced.schemas()
                for route in self._routes.values():
                    route.place(schemas)
        return captured

    def of(self, signal: EventSignal[T]) -> list[Event[T]]:
        """Return the events of a signal, a filtered one or a whole model (`Order.watch`), of those delivered so far."""
        feeds = frozenset(feeds_of(signal))
        return [event for event in self.events if not feeds.isdisjoint(feeds_of_event(event)) and _is_of(signal, event)]

    @property
    def has_undelivered(self) -> bool:
        """True if watched rows were changed since the last `deliver()`; False where the transaction can't be asked.

        :raises ConfigurationError: of an asynchronous connection, outside of `run_sync`.
        """
        with _words_for_coroutines("await connection.run_sync(lambda _: capture.has_undelivered)"):
            try:
                return self._replaced.has_more(self._channels)
            except MissingGreenlet:
                raise
            except (SQLAlchemyError, ConfigurationError):
                return False

    def clear(self) -> None:
        """Forget the events so far, delivered or not."""
        with _words_for_coroutines("await connection.run_sync(lambda _: capture.clear())"):
            self._replaced.take(self._channels)
        self.events.clear()

    def resync(self, reason: str = "a test asks for it") -> None:
        """Have streams hear that events may be missing."""
        for route in self._routes.values():
            for feed in route.router.signals:
                feed.missed(reason)

    def _rounds(self) -> Iterator[None]:
        """Yield once, and with `on_commit` as long as receivers write; not at all within a receiver."""
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            yield
            for _ in range(MOST_ROUNDS):
                if not self.on_commit:
                    return
                yield
            raise ListenerError(f"Capture: after {MOST_ROUNDS} rounds receivers still write watched rows")
        finally:
            self._is_delivering = False

    def _dispatch(self, captured: Sequence[Captured], waiting: Waiting | None) -> None:
        self.has_delivered = True
        errors: list[BaseException] = []
        for run in _runs(captured):
            if waiting is not None and waiting.is_over:
                return
            errors += self._routes[run[0].is_durable].dispatch(run, waiting)
        for error in errors:
            if not isinstance(error, Exception):  # Ctrl-C, and the like
                raise error
        if errors:
            raise errors[0]

    @property
    def is_current(self) -> bool:
        """True in the transaction that it was made in."""
        transaction = self._transaction
        return transaction is not None and transaction.is_active and self._connection.get_transaction() is transaction

    def _note(self, event: Event[Any]) -> None:
        self.events.append(event)


class _Route:
    """One way of delivery, with the library's own decoding and dispatch."""

    def __init__(
        self, tables: Sequence[Table], connection: Connection, note: Callable[[Event[Any]], None], *, is_durable: bool
    ) -> None:
        self._is_durable = is_durable
        everything = Feed("capture")
        everything.hear(lambda sender, event: note(event), _Deaf())
        self.router: Router = Router(
            tables,
            ValueDecoders(connection.engine),
            durable=is_durable,
            schemas=map_of(connection),
            everything=everything,
        )
        self._lsns = itertools.count(1)
        self._policy, self._waiting, inbox = _Raises(), _Lends(), Inbox(LIMIT)
        self._gate = Gate(inbox, Ledger(LIMIT))
        self._dispatcher = Dispatcher(
            inbox, self._gate, self.router, Stats(), self._hear, self._policy, self._waiting, Chunks()
        )

    def place(self, schemas: Mapping[int, str]) -> None:
        """Note where the tables are."""
        for route in self.router.routes:
            route.known, route.schemas = dict(schemas), None

    def dispatch(self, captured: Sequence[Captured], waiting: Waiting | None) -> list[BaseException]:
        """Call the receivers; return what they have raised, and why events may be missing."""
        self._policy.errors, self._waiting.present = [], waiting
        messages = [Notification(one.channel.removeprefix(DURABLE_PREFIX), one.payload.encode()) for one in captured]
        part = Part(self._transaction(captured[0].txid), messages, True)
        self._gate.ledger.begin([part], 1.0)
        self._dispatcher.handle_lot(Lot(self._gate.ledger, [part], len(messages), 0))
        self._dispatcher.deliver_gathered()
        return self._policy.errors

    def _hear(self, news: News) -> None:
        if isinstance(news, Resync):
            self._policy.errors.append(PayloadError(f"Capture: events are missing: {news.reason}"))

    def _transaction(self, txid: int) -> Transaction:
        return Transaction(next(self._lsns), (txid, datetime.now(UTC))) if self._is_durable else Transaction()


class _Deaf:
    """Hears of no gap, and of no end."""

    def missed(self, reason: str) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


class _Raises:
    """The policy of tests: what a receiver raises is the test's to see, once all others have been called."""

    repeats = False

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def failed(self, call: Call, error: BaseException) -> None:
        """Note it."""
        self.errors.append(error)

    def failed_in_lane(self, call: Call, error: BaseException, attempts: int) -> float | None:
        """Note it."""
        self.errors.append(error)
        return None

    def unparked(self, call: Call) -> Call | None:
        """Return the call."""
        return call

    def pause_after_bug(self, attempts: int) -> bool:
        """Return False."""
        return False


class OneByOne(Waiting):
    """Runs coroutine receivers one after the other: they have one connection, the test's."""

    def run(self, calls: Sequence[Coroutine]) -> list[BaseException | None]:
        """Run them; return for each what it raised."""
        return [error for call in calls for error in super(OneByOne, self).run([call])]


class _Lends(Waiting):
    """Waits as the present delivery does; without a loop it refuses coroutines, which that would wait for."""

    present: Waiting | None = None

    def run(self, calls: Sequence[Coroutine]) -> list[BaseException | None]:
        """Run coroutine receivers; return for each what it raised, or why it was not run."""
        if self.present is not None:
            outcomes = self.present.run(calls)
            self.was_cut_short |= self.present.was_cut_short
            return outcomes
        return [
            ListenerError(f"{function_name(call.receiver)} is a coroutine receiver: use await capture.deliver_async()")
            for call in calls
        ]

    @property
    def is_over(self) -> bool:
        """True once nothing is waited for any more."""
        return self.present is not None and self.present.is_over


def _is_of(signal: EventSignal[Any], event: Event[Any]) -> bool:
    try:
        return not isinstance(signal, FilteredSignal) or touches(signal, event)
    except LookupError:  # for want of space it does not carry the column
        return False


@contextlib.contextmanager
def _words_for_coroutines(remedy: str) -> Iterator[None]:
    """Say what to write where a coroutine's connection is asked without awaiting it."""
    try:
        yield
    except MissingGreenlet as error:
        raise ConfigurationError(f"Capture: its connection is an AsyncConnection: write {remedy}") from error


#: Those that may have to deliver when a Session commits.
_captures: weakref.WeakSet[Capture] = weakref.WeakSet()

#: Sessions that have committed, whose transaction is about to end.
_committed: weakref.WeakSet[Session] = weakref.WeakSet()


@sa_event.listens_for(Session, "after_commit")
def _note_commit(session: Session) -> None:
    if not session.in_nested_transaction() and _delivering(session):
        _committed.add(session)


@sa_event.listens_for(Session, "after_soft_rollback")
def _forget_commit(session: Session, transaction: SessionTransaction) -> None:
    _committed.discard(session)


@sa_event.listens_for(Session, "after_transaction_end")
def _deliver_on_commit(session: Session, transaction: SessionTransaction) -> None:
    """Deliver once the session can be used again: within `after_commit` it could not load a row."""
    if transaction.parent is None and session in _committed:
        _committed.discard(session)
        for capture in _delivering(session):
            if capture._asynchronous is None:  # noqa: SLF001 - of the same module
                capture.deliver()
            else:  # an AsyncSession commits in a greenlet, which may wait for the loop
                await_only(capture.deliver_async())


def _delivering(session: Session) -> list[Capture]:
    """Return the captures of the session's connection that deliver when it commits."""
    return [
        each
        for each in list(_captures)
        if each.on_commit and session.bind is each._connection and each.is_current  # noqa: SLF001
    ]


def _runs(captured: Sequence[Captured]) -> Iterator[list[Captured]]:
    """Yield messages of one way of delivery, as long as they follow one another."""
    for _, run in itertools.groupby(captured, lambda one: one.is_durable):
        yield list(run)
