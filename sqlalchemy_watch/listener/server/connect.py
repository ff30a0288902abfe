"""Psycopg connections of the listener's own, made from an engine's settings. The engine's pool is not touched."""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from sqlalchemy import Engine, StaticPool, create_engine
from sqlalchemy.engine import URL, Dialect, make_url

from ...aio import sync_engine_of
from ...errors import ConfigurationError
from .deadline import limit_queries
from .settings import LISTEN_URL_HINT, check_known, translate

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

APPLICATION_NAME = "sqlalchemy-watch"

#: Seconds that connecting may take, unless the engine's settings say otherwise.
CONNECT_TIMEOUT = 10


class Connect(Protocol):
    """Opens a connection as the engine would; with `replication`, to a walsender.

    Each query of such a connection is limited in time, and ends once `stopping` is set.
    """

    def __call__(
        self, *, replication: bool = False, stopping: threading.Event | None = None
    ) -> psycopg.Connection[Any]: ...


def connector(engine: Engine | AsyncEngine, listen_url: str | URL | None = None, *, seconds: float) -> Connect:
    """Return a function that opens a connection as the engine would, `do_connect` hooks included, each time anew.

    :param listen_url: connect there instead: where the engine goes through a transaction pooler, or its
        settings can't be carried over to psycopg. The engine's hooks are then asked for user and password,
        unless the URL has a password.
    :param seconds: the time that each query of such a connection may take.
    :raises ConfigurationError: where the engine is none, not for PostgreSQL, or has settings that psycopg can't take.
    """
    open_connection = _opener(engine, listen_url)

    def connect(*, replication: bool = False, stopping: threading.Event | None = None) -> psycopg.Connection[Any]:
        connection = open_connection(replication)
        limit_queries(connection, seconds, stopping)
        return connection

    return connect


#: The dialects of engines of which a `do_connect` hook has handed out a connection.
_with_handing_hooks: weakref.WeakSet[Dialect] = weakref.WeakSet()

#: Opens a connection, to a walsender or not.
_Opener = Callable[[bool], "psycopg.Connection[Any]"]


def _opener(engine: Engine | AsyncEngine, listen_url: str | URL | None) -> _Opener:
    sync = sync_engine_of(engine)
    if not isinstance(sync, Engine):
        raise ConfigurationError(
            f"{engine!r} is neither an Engine nor an AsyncEngine: pass create_engine(...)'s result"
        )
    if listen_url is not None:
        return _opener_of_url(make_url(listen_url).set(drivername="postgresql+psycopg"), sync)
    if sync.dialect.name != "postgresql":
        raise ConfigurationError(f"only PostgreSQL can be listened to, and this engine is for {sync.dialect.name}")
    found = _arguments_of(sync)
    if found is None:
        _check_creator(sync)
        return lambda replication: _open_like_created(sync, replication)
    fixed_args, fixed_parameters = found
    if not sync.dialect.dispatch.do_connect:  # a hook may take out what psycopg can't take
        translate(
            sync.dialect.driver, {name: fixed_parameters[name] for name in fixed_parameters.keys() - {"password"}}
        )

    def open_connection(replication: bool) -> psycopg.Connection[Any]:
        hook_args, hook_parameters = list(fixed_args), dict(fixed_parameters)
        made = _call_hooks(sync, hook_args, hook_parameters)
        if made is not None:
            return _open_like(made, "a do_connect hook", replication)
        return _open(hook_args, translate(sync.dialect.driver, hook_parameters), replication)

    return open_connection


def _call_hooks(engine: Engine, args: list[Any], parameters: dict[str, Any]) -> Any:
    for hook in tuple(engine.dialect.dispatch.do_connect):
        made = hook(engine.dialect, None, args, parameters)
        if made is not None:
            _with_handing_hooks.add(engine.dialect)
            return made
    return None


def _opener_of_url(url: URL, engine: Engine) -> _Opener:
    """Return a function that connects to another URL than the engine does."""
    args, fixed = create_engine(url).dialect.create_connect_args(url)
    check_known(fixed)

    def open_connection(replication: bool) -> psycopg.Connection[Any]:
        parameters = dict(fixed)
        if "password" not in fixed:
            hooked = dict(fixed)
            made = _call_hooks(engine, list(args), hooked)
            if made is not None:
                _give_back(made)
            parameters.update({name: hooked[name] for name in ("user", "password") if name in hooked})
        return _open(args, parameters, replication)

    return open_connection


def _arguments_of(engine: Engine) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the arguments that the engine connects with, URL and connect_args together; None with a `creator`.

    SQLAlchemy keeps them in a closure. Connecting in order to see them would call the hooks, which may ask a vault.
    """
    creator = engine.pool._creator  # noqa: SLF001 - there is no public way
    names = getattr(getattr(creator, "__code__", None), "co_freevars", ())
    kept = dict(zip(names, getattr(creator, "__closure__", None) or (), strict=True))
    positional = kept.get("cargs_tup", kept.get("cargs"))  # of SQLAlchemy 2.1, and of the first versions that will do
    if positional is None or "cparams" not in kept:
        return None
    return list(positional.cell_contents), dict(kept["cparams"].cell_contents)


def has_creator(engine: Engine) -> bool:
    """Return True if the engine's connections come from a function of the application's: a creator, or a hook."""
    return _arguments_of(engine) is None or engine.dialect in _with_handing_hooks


def has_pool_events(engine: Engine) -> bool:
    """Return True if something of the application's is called with the connections of the engine's pool.

    SQLAlchemy has listeners of its own there, which `create_engine()` makes.
    """
    dispatch = engine.pool.dispatch
    listeners = (*dispatch.connect, *dispatch.first_connect, *dispatch.checkout)
    return not all(map(_is_sqlalchemys, listeners))


def _is_sqlalchemys(listener: Any) -> bool:
    # One that is to be called once stands in a function around it.
    around = (cell.cell_contents for cell in getattr(listener, "__closure__", None) or ())
    names = [(getattr(f, "__module__", ""), getattr(f, "__qualname__", "")) for f in (listener, *around) if callable(f)]
    return any(module == "sqlalchemy.engine.create" and name.startswith("create_engine.") for module, name in names)


def _check_creator(engine: Engine) -> None:
    if engine.dialect.is_async:
        raise ConfigurationError(
            f"the engine connects through async_creator, which a thread can't use: {LISTEN_URL_HINT}"
        )
    if isinstance(engine.pool, StaticPool):
        raise ConfigurationError(
            f"the engine has one connection for everybody (StaticPool), which its creator may hand out again: "
            f"{LISTEN_URL_HINT}"
        )


def _open_like_created(engine: Engine, replication: bool) -> psycopg.Connection[Any]:
    settings = _settings_of_pool(engine.pool._creator)  # noqa: SLF001 - there is no public way
    if settings is not None:
        return _open(*settings, replication)
    made = engine.pool._invoke_creator(None)  # type: ignore[arg-type]  # noqa: SLF001
    return _open_like(made, "the engine's creator", replication)


def _settings_of_pool(creator: Any) -> tuple[list[str], dict[str, Any]] | None:
    """Return what a psycopg_pool connects with, whose own `getconn` the creator is: it may have none to spare.

    :returns: None for any other creator, and for a pool that connects in a way of its own.
    """
    module = sys.modules.get("psycopg_pool")
    pool = getattr(creator, "__self__", None)
    if module is None or not isinstance(pool, module.ConnectionPool) or creator.__func__ is not type(pool).getconn:
        return None
    ways = {getattr(kind.connect, "__func__", None) for kind in (pool.connection_class, psycopg.Connection)}
    if type(pool).getconn is not module.ConnectionPool.getconn or len(ways) > 1:
        return None
    conninfo, kwargs = pool.conninfo, pool.kwargs or {}
    return [conninfo() if callable(conninfo) else conninfo], dict(kwargs() if callable(kwargs) else kwargs)


def _open_like(given: Any, source: str, replication: bool) -> psycopg.Connection[Any]:
    """Open a connection with the settings of one that a creator or a hook gives.

    That one is left as it is: it may belong to a pool of the application's, and would go on there in autocommit, with
    LISTEN in force.
    """
    try:
        if not isinstance(given, psycopg.Connection):
            raise ConfigurationError(
                f"{source} gives a {type(given).__module__}.{type(given).__name__}, and the listener needs a psycopg 3 "
                f"connection, whose settings it takes over: {LISTEN_URL_HINT}"
            )
        options = given.pgconn.info
    finally:
        _give_back(given)
    return _open([], {o.keyword.decode(): o.val.decode() for o in options if o.val}, replication)


def _give_back(connection: Any) -> None:
    """Do what the engine's own pool would: close it. What belongs to a psycopg_pool is put back there."""
    pool = getattr(connection, "_pool", None) if isinstance(connection, psycopg.Connection) else None
    if pool is not None:
        pool.putconn(connection)
        return
    close = getattr(connection, "close", None)
    if callable(close) and not inspect.iscoroutinefunction(close):
        with contextlib.suppress(Exception):  # an asynchronous one, in disguise, can't be closed here
            close()


def _open(args: Sequence[Any], parameters: dict[str, Any], replication: bool) -> psycopg.Connection[Any]:
    parameters.update(application_name=APPLICATION_NAME, autocommit=True, client_encoding="utf8")
    parameters.setdefault("connect_timeout", CONNECT_TIMEOUT)
    parameters.pop("replication", None)
    if replication:
        parameters["replication"] = "database"
    for mine in ("row_factory", "cursor_factory", "prepare_threshold"):
        parameters.pop(mine, None)
    if "conninfo" in parameters:  # psycopg2's dialect may have put an empty one in front
        args = []
    try:
        return psycopg.connect(*args, **parameters)
    except psycopg.ProgrammingError:  # before anything is sent; its words may hold a part of the password
        raise ConfigurationError(
            f"libpq can't read the engine's connection string: see how it is written, or {LISTEN_URL_HINT}"
        ) from None
