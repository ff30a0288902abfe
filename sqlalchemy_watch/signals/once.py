"""`Once`: a receiver whose effects happen exactly once, since they commit together with the event's key.

An event of a consumer group comes again where its receiver's return was not acknowledged. So a session of the same
database inserts the event's key before the receiver writes with it: where that key is there already, all was done.

Keys are removed once the server has noted the acknowledgement. What still comes of before that is recognized by a
floor, which is a row of its own, see `sqlalchemy_watch.listener.dispatch.once`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from ..aio import is_async
from ..errors import ConfigurationError, ListenerError, sqlstate
from ..events.event import Event
from ..events.messages import parts_of
from .coroutines import is_coroutine_function

TABLE: Final = "sqlalchemy_watch.once"

#: Of the row that is a floor: everything that committed before its lsn was acknowledged.
FLOOR_POSITION: Final = -1

#: Where an event's lsn is that of a floor, it is behind it: a commit may begin exactly where the one before ends.
#:
#: A key that another transaction has written, and not committed, is waited for, and not for ever.
_CLAIM = text(f"""
WITH before AS MATERIALIZED (SELECT pg_catalog.current_setting('lock_timeout') AS wait), claimed AS (
  INSERT INTO {TABLE} (consumer, lsn, position, key, system)
  SELECT CAST(:consumer AS text), CAST(:lsn AS bigint), CAST(:position AS integer), CAST(:key AS text),
    CAST(:system AS text)
  FROM before
  WHERE pg_catalog.set_config('lock_timeout', CASE wait WHEN '0' THEN CAST(:wait AS text) ELSE wait END, true) <> ''
    AND (CAST(:is_parked AS boolean) OR NOT EXISTS (
      SELECT FROM {TABLE} AS floor
      WHERE floor.consumer = CAST(:consumer AS text) AND floor.system = CAST(:system AS text) AND floor.key = ''
        AND floor.position = {FLOOR_POSITION} AND floor.lsn > CAST(:lsn AS bigint)))
  ON CONFLICT (consumer, system, key, lsn, position) DO NOTHING
  RETURNING 1)
SELECT pg_catalog.set_config('lock_timeout', wait, true) FROM claimed, before
""")

#: Seconds for which a key is waited for, where the session has no `lock_timeout` of its own.
CLAIM_SECONDS = 10.0

_LOCK_NOT_AVAILABLE = "55P03"

#: Asks a session where it is.
WHERE: Final = """
SELECT CAST(system_identifier AS text), CAST(pg_catalog.current_database() AS text) FROM pg_catalog.pg_control_system()
"""


class Consumer(NamedTuple):
    """Who consumes: a group, on a database of a server."""

    group: str
    #: The server's system identifier.
    system: str
    database: str


class Once:
    """A receiver with a session of its own, called as `receiver(sender, event, session)`.

    :param key: of the receiver, the same in every process.
    :raises ConfigurationError: where the receiver can't be called so, and for a factory that does not go with it.
    """

    def __init__(self, receiver: Any, session_factory: Callable[[], Any], signal: str, name: str) -> None:
        #: As it was connected.
        self.receiver: Any = receiver
        self._session_factory = session_factory
        self._takes_keywords = _takes_keywords(signal, receiver)
        self.is_async: bool = is_coroutine_function(receiver)
        _check_factory(signal, receiver, session_factory, self.is_async)
        self.name: str = name
        self._key = f"{signal}: {name}"
        self.__module__ = getattr(receiver, "__module__", None) or type(receiver).__module__
        self.__qualname__ = getattr(receiver, "__qualname__", None) or type(receiver).__qualname__
        #: For whom its sessions are known to be of the right database.
        self.checked_for: Consumer | None = None
        self._commits_together = False

    def __call__(self, sender: Any, event: Event[Any]) -> Any:
        """Call the receiver, unless it has had the event.

        An event that came by NOTIFY is left alone: the same row's comes by the group.
        """
        if parts_of(event)[0].transaction is None:
            return _nothing() if self.is_async else None
        return self._call_async(sender, event) if self.is_async else self._call(sender, event)

    def make_session(self) -> Any:
        """Return a new session.

        :raises ConfigurationError: where the factory makes something else.
        """
        session = self._session_factory()
        if isinstance(session, Session) is self.is_async or not (
            isinstance(session, Session) or is_async(session, "AsyncSession")
        ):
            wanted = "an AsyncSession" if self.is_async else "a Session"
            raise ConfigurationError(
                f"connect_once: the session_factory of {self.name!r} makes {session!r:.100}, not {wanted}"
            )
        return session

    def check(self, consumer: Consumer, where: tuple[str, str]) -> None:
        """Note where its sessions are.

        :param where: what `WHERE` answers in a session.
        :raises ConfigurationError: where that is another database than the one whose events come.
        """
        if where != (consumer.system, consumer.database):
            server = "the same server" if where[0] == consumer.system else f"another server (system {where[0]})"
            raise ConfigurationError(
                f"connect_once: the sessions of {self.name!r} are of database {where[1]!r} of {server}, and the events "
                f"are of database {consumer.database!r} (system {consumer.system}): effect and key commit together "
                f"only in the same database; give it a session_factory of that"
            )
        self.checked_for = consumer

    def _call(self, sender: Any, event: Event[Any]) -> None:
        with self.make_session() as session, session.begin():
            if self._claim(session, event):
                self._begin(sender, event, session)

    async def _call_async(self, sender: Any, event: Event[Any]) -> None:
        async with self.make_session() as session, session.begin():
            if await session.run_sync(self._claim, event):
                await self._begin(sender, event, session)

    def _begin(self, sender: Any, event: Event[Any], session: Any) -> Any:
        if self._takes_keywords:
            return self.receiver(sender, event=event, session=session)
        return self.receiver(sender, event, session)

    def _claim(self, session: Session, event: Event[Any]) -> bool:
        """Insert the event's key; return False where it is there already.

        :raises ListenerError: where another transaction has written it, and does not end.
        """
        transaction = parts_of(event)[0].transaction
        consumer = transaction.consumer
        if consumer is None:  # in a test that rolls back no group consumes, and nothing comes again
            return True
        if not self._commits_together:
            session.execute(text("SELECT pg_catalog.pg_current_xact_id()"))
            if not session.scalar(text("SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL")):
                raise ConfigurationError(
                    f"connect_once: the sessions of {self.name!r} are in AUTOCOMMIT, so that effect and key would not "
                    f"commit together: give it a session_factory without that isolation_level"
                )
            self._commits_together = True
        if self.checked_for != consumer:
            system, database = session.execute(text(WHERE)).one()
            self.check(consumer, (system, database))
        key = {
            "consumer": consumer.group, "system": consumer.system, "key": self._key, "lsn": event.lsn,
            "position": event.position, "is_parked": transaction.is_parked, "wait": f"{CLAIM_SECONDS * 1000:.0f}ms",
        }  # fmt: skip
        try:
            return session.execute(_CLAIM, key).first() is not None
        except DBAPIError as error:
            if sqlstate(error) != _LOCK_NOT_AVAILABLE:
                raise
            raise ListenerError(
                f"connect_once: another transaction holds the key of this event for {self.name!r}, and does not "
                f"end: a consumer is suspended or cut off in the middle of it? Give the sessions of the receiver an "
                f"idle_in_transaction_session_timeout, by which the server ends such a one"
            ) from error


async def _nothing() -> None:
    pass


def _takes_keywords(signal: str, receiver: Any) -> bool:
    """Return True for a receiver that takes event and session by keyword alone."""
    if not callable(receiver):
        raise ConfigurationError(f"signal {signal!r}: the receiver {receiver!r} is not callable")
    try:
        signature = inspect.signature(receiver)
    except (TypeError, ValueError):  # some builtins have none
        return False
    try:
        signature.bind(None, None, None)
        return False
    except TypeError:
        pass
    try:
        signature.bind(None, event=None, session=None)
        return True
    except TypeError:
        raise ConfigurationError(
            f"signal {signal!r}: the receiver {receiver!r} can't be called as receiver(sender, event, session): "
            f"its signature is {signature}"
        ) from None


def _check_factory(signal: str, receiver: Any, session_factory: Any, for_coroutine: bool) -> None:
    if not callable(session_factory) or isinstance(session_factory, Session):
        raise ConfigurationError(
            f"signal {signal!r}: session_factory must be a sessionmaker, or a function that returns a session, not "
            f"{session_factory!r}"
        )
    if for_coroutine and isinstance(session_factory, sessionmaker):
        raise ConfigurationError(
            f"signal {signal!r}: the receiver {receiver!r} is a coroutine function: give it an async_sessionmaker"
        )
    if not for_coroutine and is_async(session_factory, "async_sessionmaker"):
        raise ConfigurationError(
            f"signal {signal!r}: the receiver {receiver!r} is no coroutine function: give it a sessionmaker, or write "
            f"async def"
        )
