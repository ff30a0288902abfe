"""`muted` and `context`, by which a writer says something about its own transaction.

Both are settings local to the transaction, so they leave nothing behind on a pooled connection, and a
rollback takes them back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError, UnboundExecutionError
from sqlalchemy.orm import Session, scoped_session

from . import ambient, wire
from .aio import is_async
from .errors import ConfigurationError

_ASYNC = ("AsyncSession", "async_scoped_session", "AsyncConnection")

_SET = text("SELECT pg_catalog.set_config(:name, :value, true)")
_GET = text("SELECT pg_catalog.current_setting(:name, true)")


class _Setting:
    """A setting for the length of a `with` or `async with` block, and at most of the transaction.

    A Session is flushed at both ends, so that the block has exactly the changes made in it.
    """

    def __init__(self, target: Any, name: str, value: Callable[[str], str]) -> None:
        self._target, self._name, self._value = target, name, value
        self._connection: Connection | None = None
        self._transaction: Any = None
        self._previous = ""

    def __enter__(self) -> None:
        if not isinstance(self._target, (Session, scoped_session, Connection)):
            raise ConfigurationError(_wrong(self._target, "with"))
        self._begin(self._target)

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self._end(self._target, failed=exc_type is not None)

    async def __aenter__(self) -> None:
        if not is_async(self._target, *_ASYNC):
            raise ConfigurationError(_wrong(self._target, "async with"))
        await _unscoped(self._target).run_sync(self._begin)

    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        failed = exc_type is not None
        await _unscoped(self._target).run_sync(lambda target: self._end(target, failed))

    def _begin(self, target: Any) -> None:
        if self._connection is not None:
            raise ConfigurationError("the block is entered already: call muted() or context() for each `with`")
        if isinstance(target, Connection):
            connection = target
        else:
            target.flush()  # changes made before the block are not of it
            connection = _connection_of(target)
        if connection.dialect.name != "postgresql":
            raise ConfigurationError(f"only PostgreSQL has triggers to speak to, and this is {connection.dialect.name}")
        if getattr(connection.connection.dbapi_connection, "autocommit", False):
            raise ConfigurationError(
                "the connection is in autocommit, where no transaction lasts as long as the block: use one with "
                "another isolation_level"
            )
        self._previous = connection.scalar(_GET, {"name": self._name}) or ""
        self._set(connection, self._value_beside(connection, self._previous))
        self._connection, self._transaction = connection, connection.get_transaction()

    def _value_beside(self, connection: Connection, previous: str) -> str:
        try:
            return self._value(previous)
        except ConfigurationError:  # too long together with what nobody here has set
            own = ambient.without(connection, previous)
            if own == previous:
                raise
            return self._value(own)

    def _set(self, connection: Connection, value: str) -> None:
        connection.execute(_SET, {"name": self._name, "value": value})
        if self._name == wire.CONTEXT_SETTING:
            ambient.note(connection, value)

    def _end(self, target: Any, failed: bool) -> None:
        connection = self._connection
        assert connection is not None
        self._connection = None
        transaction = None if connection.closed else connection.get_transaction()
        if transaction is None or transaction is not self._transaction or not transaction.is_active:
            return  # the setting went with its transaction
        try:
            if not failed and not isinstance(target, Connection):
                target.flush()
            self._set(connection, self._previous)
        except SQLAlchemyError:
            if not failed:  # after a failed statement the rollback to come takes the setting back
                raise


def _connection_of(session: Any) -> Connection:
    try:
        connection: Connection = session.connection()
    except UnboundExecutionError as error:
        raise ConfigurationError(
            f"{type(session).__name__} has several engines ({error}): pass the connection meant, "
            f"session.connection(bind_arguments={{'mapper': User}}), and flush inside the block"
        ) from error
    return connection


def _unscoped(target: Any) -> Any:
    return target() if is_async(target, "async_scoped_session") else target


def _wrong(target: object, statement: str) -> str:
    if isinstance(target, (Session, scoped_session, Connection)):
        return f"{type(target).__name__} is synchronous: use `with`, not `async with`"
    if is_async(target, *_ASYNC):
        return f"{type(target).__name__} is asynchronous: use `async with`, not `with`"
    return f"{target!r} is no Session, AsyncSession, Connection or AsyncConnection ({statement})"


def muted(target: Any, /) -> _Setting:
    """`with muted(session):` nothing is emitted in this transaction from there to the end of the block.

    :param target: a Session or Connection; with `async with`, an AsyncSession or AsyncConnection.
    :raises ConfigurationError: on entering, for anything else.
    """
    return _Setting(target, wire.MUTED_SETTING, lambda previous: "on")


def context(target: Any, /, **values: Any) -> _Setting:
    """`with context(session, request_id=...):` these values travel with the events, as `event.context`.

    :param target: as for `muted`.
    :param values: anything JSON can hold. Blocks may be nested: inner values add to the outer ones.
    :raises ConfigurationError: at once for a value JSON can't hold, and on entering where they are too many
        to go with every notification (2,000 bytes as JSON).
    """
    _as_json(values)

    def merged(previous: str) -> str:
        outer: Mapping[str, Any] = {}
        if previous:
            try:
                outer = json.loads(previous)
            except ValueError:
                outer = {}
        return _as_json({**(outer if isinstance(outer, dict) else {}), **values})

    return _Setting(target, wire.CONTEXT_SETTING, merged)


def _as_json(values: Mapping[str, Any]) -> str:
    try:
        encoded = json.dumps(values, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"context: {error}: pass values that JSON can hold, such as str(value)") from None
    size = len(json.dumps(encoded))  # as it stands in the payload
    if size > wire.MAX_CONTEXT_BYTES:
        raise ConfigurationError(
            f"context: {size} bytes as JSON, and {wire.MAX_CONTEXT_BYTES} are allowed, since it goes with every "
            f"notification: pass an id and look the rest up"
        )
    return encoded
