"""Psycopg connections of the listener's own, made from an engine's settings. The engine's pool is not touched."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, make_url

from ...aio import sync_engine_of
from ...errors import ConfigurationError
from .deadline import limit_queries

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


_LISTEN_URL_HINT = "pass listen_url='postgresql://...' to the Listener"

#: The names of settings in other drivers, and in libpq.
_RENAMED = {"database": "dbname", "ssl_mode": "sslmode", "timeout": "connect_timeout"}

#: Settings of other drivers that mean nothing to a connection that only listens.
_IGNORED = frozenset(
    {
        "async_creator_fn", "async_fallback", "prepared_statement_cache_size", "prepared_statement_name_func",
        "statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size", "command_timeout",
        "connection_class", "record_class", "loop", "connection_factory", "cursor_factory", "async_", "tcp_keepalive",
        "replication", "row_factory", "prepare_threshold",
    }
)  # fmt: skip


def connector(engine: Engine | AsyncEngine, listen_url: str | URL | None = None, *, seconds: float) -> Connect:
    """Return a function that opens a connection as the engine would, `do_connect` hooks included, each time anew.

    :param listen_url: connect there instead: where the engine goes through a transaction pooler, or its
        settings can't be carried over to psycopg. The engine's hooks are then asked for user and password,
        unless the URL has a password.
    :param seconds: the time that each query of such a connection may take.
    :raises ConfigurationError: where the engine is none, or not for PostgreSQL.
    """
    open_connection = _opener(engine, listen_url)

    def connect(*, replication: bool = False, stopping: threading.Event | None = None) -> psycopg.Connection[Any]:
        connection = open_connection(replication)
        limit_queries(connection, seconds, stopping)
        return connection

    return connect


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
        return lambda replication: _created(sync, replication)
    fixed_args, fixed_parameters = found

    def open_connection(replication: bool) -> psycopg.Connection[Any]:
        hook_args, hook_parameters = list(fixed_args), dict(fixed_parameters)
        made = _call_hooks(sync, hook_args, hook_parameters)
        if made is not None:
            return _checked(made, "a do_connect hook", replication)
        return _open(hook_args, translate(sync.dialect.driver, hook_parameters), replication)

    return open_connection


def _call_hooks(engine: Engine, args: list[Any], parameters: dict[str, Any]) -> Any:
    for hook in tuple(engine.dialect.dispatch.do_connect):
        made = hook(engine.dialect, None, args, parameters)
        if made is not None:
            return made
    return None


def _opener_of_url(url: URL, engine: Engine) -> _Opener:
    """Return a function that connects to another URL than the engine does."""
    args, fixed = create_engine(url).dialect.create_connect_args(url)

    def open_connection(replication: bool) -> psycopg.Connection[Any]:
        parameters = dict(fixed)
        if "password" not in fixed:
            hooked = dict(fixed)
            made = _call_hooks(engine, list(args), hooked)
            if made is not None:
                _discard(made)
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
    if not {"cargs_tup", "cparams"} <= kept.keys():
        return None
    return list(kept["cargs_tup"].cell_contents), dict(kept["cparams"].cell_contents)


def _created(engine: Engine, replication: bool) -> psycopg.Connection[Any]:
    if engine.dialect.is_async:
        raise ConfigurationError(
            f"the engine connects through async_creator, which a thread can't use: {_LISTEN_URL_HINT}"
        )
    fairy = engine.pool.recreate().connect()
    connection = fairy.dbapi_connection
    fairy.detach()
    return _checked(connection, "the engine's creator", replication)


def _checked(connection: Any, source: str, replication: bool) -> psycopg.Connection[Any]:
    if replication:
        raise ConfigurationError(
            f"{source} gives ready-made connections, and a slot needs one of its kind: {_LISTEN_URL_HINT}"
        )
    if not isinstance(connection, psycopg.Connection):
        _discard(connection)
        raise ConfigurationError(
            f"{source} gives a {type(connection).__module__}.{type(connection).__name__}, and the listener needs a "
            f"psycopg 3 connection: {_LISTEN_URL_HINT}"
        )
    connection.autocommit = True
    limit_queries(connection, CONNECT_TIMEOUT)
    try:
        connection.execute(f"SET application_name = '{APPLICATION_NAME}'; SET client_encoding = 'UTF8'")
    except BaseException:
        connection.close()
        raise
    return connection


def _discard(connection: Any) -> None:
    close = getattr(connection, "close", None)
    if callable(close) and not inspect.iscoroutinefunction(close):
        close()


def _open(args: Any, parameters: dict[str, Any], replication: bool) -> psycopg.Connection[Any]:
    parameters.update(application_name=APPLICATION_NAME, autocommit=True, client_encoding="utf8")
    parameters.setdefault("connect_timeout", CONNECT_TIMEOUT)
    if replication:
        parameters["replication"] = "database"
    for mine in ("row_factory", "cursor_factory", "prepare_threshold"):
        parameters.pop(mine, None)
    return psycopg.connect(*args, **parameters)


def translate(driver: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the connect arguments of another driver as those of libpq.

    :raises ConfigurationError: for a setting that has no counterpart, such as an SSLContext.
    """
    if driver == "psycopg":
        return dict(parameters)
    translated: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in _IGNORED or value is None:
            continue
        if name in ("ssl", "ssl_context"):
            translated["sslmode"] = _sslmode(name, value)
        elif name == "server_settings":
            translated["options"] = " ".join(f"-c {k}={_escape_option(v)}" for k, v in value.items())
        elif name == "password" and callable(value):
            translated["password"] = value()
        elif name == "unix_sock":
            translated["host"] = str(value).rpartition("/")[0]
        elif name == "timeout":
            translated["connect_timeout"] = max(2, round(float(value)))
        elif name in ("host", "port") and isinstance(value, (list, tuple)):
            translated[name] = ",".join(map(str, value))
        else:
            translated[_RENAMED.get(name, name)] = value
    return translated


def _sslmode(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "require" if value else "disable"
    raise ConfigurationError(
        f"the engine's {name} is an SSLContext, which psycopg can't take: {_LISTEN_URL_HINT} with sslmode, sslrootcert"
    )


def _escape_option(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace(" ", "\\ ")
