"""Asking the database as the engine would: over one connection of the engine's own kind, closed at once.

The engine's pool is made anew for it, with the settings and the `connect` events that the application gave it (SET
search_path, SET ROLE), and without touching the connections that the application has. Where the server has to be asked
so, the listener's own connection may see other tables under the same names.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ...aio import sync_engine_of
from ...catalog.reading import Fetch, fetcher, psycopg_fetcher
from ...declaring.translating import map_of
from ...errors import one_line
from .connect import Connect, has_creator, has_pool_events
from .schemas import Answer, Session, Wanted, read_answer, read_session

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

log: logging.Logger = logging.getLogger(__name__)

#: Seconds for an answer over the engine's own connection, connecting included.
ANSWER_SECONDS = 10.0

#: Seconds to wait for a lock on the catalog, which is somebody's maintenance.
LOCK_SECONDS = 2.0

_LIMITS = """
SELECT pg_catalog.set_config('statement_timeout', :limit, true), pg_catalog.set_config('lock_timeout', :lock, true)
"""

_LIMIT_OWN = "SELECT pg_catalog.set_config('lock_timeout', :lock, false)"

A = TypeVar("A")

#: Asks over a connection.
Question = Callable[[Fetch], A]


class Reply(NamedTuple):
    """An answer, and how much it is worth."""

    answer: Answer
    #: False where a session of the engine may have given another one.
    is_certain: bool
    #: True where a session of the engine may be had later.
    is_temporary: bool


class Asker:
    """Asks as the engine would, and where that is not possible over the listener's own connection.

    :param connect: opens the listener's own.
    :param has_listen_url: True if that one is made from another URL than the engine's.
    """

    def __init__(self, engine: Engine | AsyncEngine, connect: Connect, *, has_listen_url: bool = False) -> None:
        self._engine: Engine = sync_engine_of(engine)
        self._connect, self._has_listen_url = connect, has_listen_url
        self._is_postgresql = self._engine.dialect.name == "postgresql"
        self._asking: threading.Thread | None = None
        self._has_warned = False

    def twin(self) -> Asker:
        """Return one for another thread."""
        return Asker(self._engine, self._connect, has_listen_url=self._has_listen_url)

    @property
    def _is_private(self) -> bool:
        """True if a connection of the engine's own kind is nobody else's; of a hook that is known once it was called.

        Whoever gives out connections that were made elsewhere may want them back.
        """
        return self._is_postgresql and not has_creator(self._engine)

    @property
    def own_is_alike(self) -> bool:
        """True if no session of the engine sees anything else than the listener's own connection.

        That is made with the engine's settings, and with its `do_connect` hooks.
        """
        if not self._is_postgresql:  # it is for something else
            return True
        return self._is_private and not self._has_listen_url and not has_pool_events(self._engine)

    @property
    def renamed_schemas(self) -> dict[str | None, str | None]:
        """The engine's `schema_translate_map`."""
        return dict(map_of(self._engine))

    def ask(
        self,
        wanted: Sequence[Wanted],
        asked: Wanted | None,
        oid: int | None,
        stopped: concurrent.futures.Future[None],
    ) -> Reply:
        """Look tables up.

        :param asked: the table for which `others` is to be filled in, with this oid among them if there is one.
        :param stopped: where it is done, nothing is waited for any more.
        :raises Exception: where the server can't be reached, or has not answered in time.
        """

        def question(fetch: Fetch) -> tuple[Session, Answer | None]:
            session = read_session(fetch)
            # A standby may not know yet what the event tells of.
            return session, None if session.in_recovery else read_answer(fetch, session, wanted, asked, oid)

        session: Session | None = None
        failure: BaseException | None = None
        # Where the schemas are named, no search_path decides.
        has_path = any(w.schemas is None for w in wanted)
        if self._is_private and has_path:
            try:
                session, answer = self._ask_engine(question, stopped)
                if answer is not None:
                    return Reply(answer, True, False)
            except Exception as error:
                if stopped.done():
                    raise
                failure = error
        with contextlib.closing(self._connect()) as connection:
            fetch = psycopg_fetcher(connection)
            fetch(_LIMIT_OWN, {"lock": f"{LOCK_SECONDS:g}s"})
            answer = read_answer(fetch, session or read_session(fetch), wanted, asked, oid)
        if failure is not None:
            self._warn(failure)
        is_temporary = isinstance(failure, (DBAPIError, psycopg.Error, OSError))
        return Reply(answer, session is not None or self.own_is_alike or not has_path, is_temporary)

    def _warn(self, error: BaseException) -> None:
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        log.log(
            level,
            "can't connect as the engine does (%s): its schemas were looked up over the listener's own connection",
            one_line(error),
        )

    def _ask_engine(
        self, question: Question[tuple[Session, Answer | None]], stopped: concurrent.futures.Future[None]
    ) -> tuple[Session, Answer | None]:
        if self._asking is not None and self._asking.is_alive():
            raise TimeoutError("an earlier attempt has not ended")
        self._asking, answered = _begin_to_ask(self._engine, question)
        either: set[concurrent.futures.Future[Any]] = {answered, stopped}
        concurrent.futures.wait(either, ANSWER_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED)
        if not answered.done():
            raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")
        self._asking.join()
        return answered.result()


def ask_engine(engine: Engine, question: Question[A]) -> A:
    """Ask over a connection of an engine's own kind, closed at once.

    :param engine: the synchronous one inside an AsyncEngine.
    :raises Exception: where the server can't be reached, or has not answered in time.
    """
    return _begin_to_ask(engine, question)[1].result(ANSWER_SECONDS)


def _begin_to_ask(engine: Engine, question: Question[A]) -> tuple[threading.Thread, concurrent.futures.Future[A]]:
    """Ask in a thread of its own: no driver, and no `connect` event of the application's, can hold this one up."""
    answered: concurrent.futures.Future[A] = concurrent.futures.Future()

    def run() -> None:
        try:
            answered.set_result(_ask_as(engine, question))
        except BaseException as error:
            answered.set_exception(error)

    thread = threading.Thread(target=run, name="sqlalchemy-watch-ask", daemon=True)
    thread.start()
    return thread, answered


def _ask_as(engine: Engine, question: Question[A]) -> A:
    private = Engine(engine.pool.recreate(), engine.dialect, engine.url)
    if engine.dialect.is_async:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # psycopg knows no other on Windows
            return runner.run(_ask_in_loop(private, question))
    try:
        with private.connect() as connection:
            return _ask(connection, question)
    finally:
        private.dispose()


async def _ask_in_loop(private: Engine, question: Question[A]) -> A:
    from sqlalchemy.ext.asyncio import AsyncEngine  # it is there: somebody has made such an engine

    engine = AsyncEngine(private)
    try:
        async with asyncio.timeout(ANSWER_SECONDS), engine.connect() as connection:
            return await connection.run_sync(_ask, question)
    finally:
        await engine.dispose()


def _ask(connection: Connection, question: Question[A]) -> A:
    fetch = fetcher(connection)
    fetch(_LIMITS, {"limit": f"{ANSWER_SECONDS:g}s", "lock": f"{LOCK_SECONDS:g}s"})
    return question(fetch)
