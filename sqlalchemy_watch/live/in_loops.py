"""`live()`: results of a query as they change, for coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, overload

from sqlalchemy import Executable, Row
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql.selectable import TypedReturnsRows

from ..aio import is_async
from ..errors import ConfigurationError, ListenerError
from ..signals.receivers import function_name
from .observing import SNAPSHOT, Run
from .query import MOST_RUNS, Options, Query, Rows, statement_of

if TYPE_CHECKING:  # it needs greenlet, which whoever has an AsyncSession has
    from sqlalchemy.ext.asyncio import AsyncSession

R = TypeVar("R")
S = TypeVar("S", bound="AsyncSession")
Ts = TypeVarTuple("Ts")

#: Loads a result with a session.
Load = Callable[["AsyncSession"], Awaitable[R]]
Factory = Callable[[], "AsyncSession"]

#: Seconds for which a run may go on that nobody waits for any more.
GRACE = 1.0

#: By loop.
_rooms: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Room] = weakref.WeakKeyDictionary()
#: By loop: the queries that are shared.
_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, LoopQuery[Any]]] = (
    weakref.WeakKeyDictionary()
)


@overload
def live(
    factory: Factory, query: TypedReturnsRows[*Ts], *, min_interval: float = ..., every: float | None = ...,
    share: Hashable = ..., tables: Iterable[Any] = ..., narrow: bool = ...,
) -> LiveResults[list[Row[*Ts]]]: ...  # fmt: skip
@overload
def live(
    factory: Factory, query: Executable, *, min_interval: float = ..., every: float | None = ...,
    share: Hashable = ..., tables: Iterable[Any] = ..., narrow: bool = ...,
) -> LiveResults[list[Row[*tuple[Any, ...]]]]: ...  # fmt: skip
@overload
def live(
    factory: Callable[[], S], query: Callable[[S], Awaitable[R]], *,
    min_interval: float = ..., every: float | None = ...,
    share: Hashable = ..., tables: Iterable[Any] = ..., narrow: bool = ...,
) -> LiveResults[R]: ...  # fmt: skip


def live(
    factory: Factory,
    query: Any,
    *,
    min_interval: float = 0.1,
    every: float | None = None,
    share: Hashable = None,
    tables: Iterable[Any] = (),
    narrow: bool = True,
) -> LiveResults[Any]:
    """Return the results of a query as they change: the first at once, then each that differs from the one before::

        async with live(async_session, select(Order).where(Order.customer_id == 42)) as results:
            async for rows in results:
                await websocket.send_json([to_json(row.Order) for row in rows])

        async def load_page(session: AsyncSession) -> Page: ...  # several statements see one state of the database

        async for page in live(async_session, load_page): ...

    Wherever a row changes that the query reads, whoever changed it, it is run again, in a transaction of its own
    (REPEATABLE READ, READ ONLY). A listener of this process has to hear the tables, each of which is watched for all
    that happens to its rows, best by `everything()`. Who is slow gets the newest result, and never a queue of them.
    Instances are detached: what is to be shown of them has to be loaded by the query.

    Rows that can't be read by it leave it alone where `column == value` or `column.in_(values)` says so at the top of
    its `where`, of a table that occurs once, for columns of integers, UUIDs, booleans, dates and enums that
    `everything("column", ...)` carries. Muted writes are not heard, nor what functions in the database read.

    :param factory: makes sessions, of the primary server and the database that the listener hears, with its schemas: an
        `async_sessionmaker`.
    :param query: a SELECT, whose rows are a result, as `session.execute(query).all()` has them; or a coroutine function
        of a session, whose statements are looked at as they are run, and which returns what it likes. It reads by that
        session alone, whose transaction it leaves open.
    :param min_interval: seconds at least from one run to the next.
    :param every: seconds after which it is run again in any case; None for never. Then it may contain what no event
        tells of, such as `func.now()`, or a view.
    :param share: among those of equal `share` (such as a tenant's id), the same function or an identical statement is
        run once for all. None: for each on its own. Whatever a result depends on beside the query has to be in it,
        such as criteria that loading adds; runs have the context variables of the first.
    :param tables: the models and Tables on which it depends, instead of those that are found in it.
    :param narrow: False: every change of a table concerns it.
    :returns: an asynchronous iterator, which hears from its first item on, or the beginning of its `async with` block.
        It ends when the listener stops. A connection that is lost is made anew (a failure of ten seconds is raised), a
        `resync` runs it again; what the query itself raises is raised to whoever iterates, who may go on.
    :raises ConfigurationError: for a query that writes or locks, that has what nobody hears of (tables that are not
        watched for everything, `text()`, clocks), and for parameters out of range. What a function runs is looked at
        when it runs.
    :raises ListenerError: in iterating, where no running listener hears the tables.
    """
    _check_factory(factory)
    options = Options.of("live()", min_interval, every, tables, narrow)
    _check_share(share)
    statement = statement_of("live()", query)
    load = query if statement is None else Rows(statement)
    key = None if share is None else (factory, share, options, query if statement is None else _identity_of(statement))
    return LiveResults(LoopQuery(factory, load, statement, options), key)


def _check_factory(factory: Any) -> None:
    if isinstance(factory, sessionmaker):
        raise ConfigurationError("live(): give an async_sessionmaker; for a sessionmaker there is LiveQuery")
    if is_async(factory, "AsyncEngine") or not callable(factory):
        raise ConfigurationError(f"live(): {factory!r} makes no sessions: give async_sessionmaker(engine)")


def _check_share(share: Hashable) -> None:
    try:
        hash(share)
    except TypeError:
        raise ConfigurationError(f"live(): share must be hashable, such as a tenant's id, not {share!r}") from None


def _identity_of(statement: Any) -> Hashable:
    """Return the same for identical statements: options, values and execution options included."""
    # SQLAlchemy's own word for it, which it caches by.
    key = statement._generate_cache_key()  # noqa: SLF001
    options = tuple(sorted((name, repr(value)) for name, value in statement.get_execution_options().items()))
    try:
        found = None if key is None else (key.key, tuple(bind.effective_value for bind in key.bindparams), options)
        hash(found)
    except TypeError:
        found = None
    return statement if found is None else found


class _Seat:
    """One who iterates."""

    def __init__(self) -> None:
        self.arrived: asyncio.Event = asyncio.Event()
        self.version: int = 0
        self.error: BaseException | None = None

    def tell(self, error: BaseException | None) -> None:
        """Have it look; at the error, where there is one."""
        self.error = error
        self.arrived.set()


class _Room:
    """The room for runs on one event loop, as long as it has queries."""

    def __init__(self) -> None:
        self.runs: asyncio.Semaphore = asyncio.Semaphore(MOST_RUNS)
        self.queries: int = 0


class LoopQuery(Query[R]):
    """A query that runs on an event loop, in tasks."""

    def __init__(self, factory: Factory, load: Load[R] | Rows, statement: Executable | None, options: Options) -> None:
        super().__init__(statement, options)
        self._factory, self._load = factory, load
        self._loop: asyncio.AbstractEventLoop
        self._seats: dict[_Seat, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def join(self, seat: _Seat) -> None:
        """Have somebody told, on the running loop."""
        if not self._seats:
            self._loop = asyncio.get_running_loop()
            self.begin()
            _rooms.setdefault(self._loop, _Room()).queries += 1
        self._seats[seat] = None
        if self.has_failed:
            seat.version = self.version  # the result of before is not it
            self.mark()  # and so the error is told again
        elif self.version:
            seat.tell(None)

    def leave(self, seat: _Seat) -> asyncio.Task[None] | None:
        """Tell somebody nothing more; return the run that is under way, where it was the last one."""
        self._seats.pop(seat, None)
        if self._seats:
            return None
        super().end()  # there is nobody to be told
        if self._timer is not None:
            self._timer.cancel()
        room = _rooms[self._loop]
        room.queries -= 1
        if not room.queries:
            del _rooms[self._loop]
        return self._task

    def end(self) -> None:
        """Run no more, and let everybody go. Called in any thread."""
        super().end()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self, error: BaseException | None = None) -> None:
        for seat in self._seats:
            seat.tell(error)

    def _schedule(self, delay: float, ticket: int) -> None:
        try:
            self._loop.call_soon_threadsafe(self._begin_run_in if delay else self._begin_run, ticket, delay)
        except RuntimeError:  # the loop is closed
            super().end()

    def _begin_run_in(self, ticket: int, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay, self._begin_run, ticket, 0.0)

    def _begin_run(self, ticket: int, delay: float) -> None:
        if self.is_due(ticket):
            self._task = self._loop.create_task(self._run(), context=self.context)

    async def _run(self) -> None:
        error: BaseException | None = None
        run = Run(self.dependencies)
        try:
            async with _rooms[self._loop].runs:
                if not self.is_ended:
                    self.start()
                    await self._execute_in_time(run)
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = RuntimeError("live(): what the function waited for was cancelled")
            error.__cause__ = cancelled
        except Exception as raised:
            error = self.error_that_counts(raised, run)
        finally:
            self._task = None
            if run.is_new:
                self._tell()
            if self.finish(error, is_connected=run.is_connected):
                self._tell(error)

    async def _execute_in_time(self, run: Run) -> None:
        block = asyncio.timeout(self.most_seconds)
        try:
            async with block:
                await self._execute(run)
        except TimeoutError:
            if not block.expired():
                raise
            raise sa_exc.TimeoutError(f"a run took more than {self.most_seconds:g} s") from None

    async def _execute(self, run: Run) -> None:
        session = self._factory()
        if isinstance(self._load, Rows):  # in one go: each step of an AsyncSession costs
            load = self._load
            await session.run_sync(lambda session: self._execute_rows(session, load, run))
            return
        async with session:
            run.begin(session.sync_session)
            connection = await session.connection(execution_options=SNAPSHOT)
            assert connection.sync_connection is not None
            run.observe(connection.sync_connection)
            found = self._load(session)
            if not inspect.isawaitable(found):
                raise ConfigurationError(
                    f"live(): {function_name(self._load)} must be a coroutine function (async def) of an AsyncSession; "
                    f"for a plain one there is LiveQuery"
                )
            self.take(await found, run)

    def _execute_rows(self, session: Session, load: Rows, run: Run) -> None:
        with session:
            self.execute(session, load, run)  # type: ignore[arg-type]


class LiveResults(AsyncIterator[R], Generic[R]):
    """Results of a live query, as they change. Made by `live()`."""

    def __init__(self, query: LoopQuery[R], share_key: Hashable) -> None:
        self._query, self._share_key = query, share_key
        self._seat: _Seat | None = None
        self._left: weakref.finalize[Any, Any] | None = None
        self._is_closed = False

    def _begin(self) -> _Seat:
        loop = asyncio.get_running_loop()
        shared = _shared.setdefault(loop, {}) if self._share_key is not None else {}
        found = shared.get(self._share_key, self._query)
        self._query = self._query if found.is_ended else found
        seat = _Seat()
        self._query.join(seat)
        if self._share_key is not None:
            shared[self._share_key] = self._query
        self._seat = seat
        self._left = weakref.finalize(self, _leave_later, loop, self._query, seat, self._share_key)
        self._left.atexit = False
        return seat

    def __aiter__(self) -> LiveResults[R]:
        return self

    async def __anext__(self) -> R:
        if self._is_closed:
            raise StopAsyncIteration
        seat = self._seat or self._begin()
        while True:
            seat.arrived.clear()
            if seat.error is not None:
                error, seat.error = seat.error, None
                raise error
            if self._query.version > seat.version:
                seat.version = self._query.version
                return self._query.result
            if self._query.is_ended or self._is_closed:
                raise StopAsyncIteration
            await seat.arrived.wait()

    async def aclose(self) -> None:
        """Hear nothing more. A run that is under way is waited for, and cancelled after a second."""
        self._is_closed = True
        seat, self._seat = self._seat, None
        if seat is not None and self._left is not None:
            self._left.detach()
            seat.arrived.set()
            task = _leave(self._query, seat, self._share_key)
            if task is not None and task is not asyncio.current_task():
                await _let_end(task)

    async def __aenter__(self) -> LiveResults[R]:
        if self._is_closed:
            raise ListenerError("live(): these results were closed before: call live() again")
        if self._seat is None:
            self._begin()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


def _leave(query: LoopQuery[Any], seat: _Seat, share_key: Hashable) -> asyncio.Task[None] | None:
    task = query.leave(seat)
    if query.is_ended and share_key is not None:
        shared = _shared.get(asyncio.get_running_loop(), {})
        if shared.get(share_key) is query:
            del shared[share_key]
    return task


async def _let_end(task: asyncio.Task[None]) -> None:
    """Wait for a run that nobody waits for any more. To cancel it costs its connection."""
    done, _ = await asyncio.wait([task], timeout=GRACE)
    if not done:
        task.cancel()
        await asyncio.wait([task])


def _leave_later(loop: asyncio.AbstractEventLoop, query: LoopQuery[Any], seat: _Seat, share_key: Hashable) -> None:
    """Leave in the loop: this may be called in the middle of anything, in any thread."""
    try:
        loop.call_soon_threadsafe(_leave, query, seat, share_key)
    except RuntimeError:  # the loop is closed
        threading.Thread(target=query.end, name="sqlalchemy-watch live query ends").start()
