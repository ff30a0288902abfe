"""Loading the row of an event: as the database holds it now, whatever the session remembers."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import Session

from ..aio import is_async


def load(model: type, identity: tuple[Any, ...], session: Any, options: dict[str, Any]) -> Any:
    """Return the instance of a row, None where the row is gone; for an asynchronous session, an awaitable of that.

    :param options: of `Session.get`.
    """
    if is_async(session, "async_scoped_session"):
        session = session()
    if is_async(session, "AsyncSession"):
        return session.run_sync(partial(_load, model=model, identity=identity, options=options))
    # A scoped_session: its present session.
    return _load(session if isinstance(session, Session) else session(), model, identity, options)


def _load(session: Session, model: type, identity: tuple[Any, ...], options: dict[str, Any]) -> Any:
    key: Any = sa_inspect(model).identity_key_from_primary_key(identity, options.get("identity_token"))
    held = session.identity_map.get(key)
    if held is None or not (session.is_modified(held) or held in session.deleted):
        return session.get(model, identity, **{"populate_existing": True, **options})
    # Flushing it would write to a row that may be gone, and reading over it would lose what was changed.
    with session.no_autoflush:
        if not _exists(session, key, held, options):
            return None
        return session.get(model, identity, **options)


def _exists(session: Session, key: Any, held: Any, options: dict[str, Any]) -> bool:
    """Return True if the row of an instance is there; nothing that the session holds is read over."""
    mapper = sa_inspect(held).mapper
    columns = mapper.primary_key
    statement = mapper.selectable.select().with_only_columns(*columns)
    for column, value in zip(columns, key[1], strict=True):
        statement = statement.where(column == value)
    execution = options.get("execution_options", {})
    bind_arguments = {"mapper": mapper, **(options.get("bind_arguments") or {})}
    return session.execute(statement, execution_options=execution, bind_arguments=bind_arguments).first() is not None
