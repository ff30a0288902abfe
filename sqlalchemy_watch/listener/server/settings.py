"""Connect arguments of other drivers as those of libpq, and what libpq has no counterpart for."""

from __future__ import annotations

import inspect
import os
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from ...errors import ConfigurationError

LISTEN_URL_HINT = "pass listen_url='postgresql://...' to the Listener"

#: The names of settings in other drivers, and in libpq.
_RENAMED = {"database": "dbname", "ssl_mode": "sslmode", "dsn": "conninfo"}

#: Settings of other drivers that mean nothing to a connection that only listens.
_IGNORED = frozenset(
    {
        "async_creator_fn", "async_fallback", "prepared_statement_cache_size", "prepared_statement_name_func",
        "statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size", "command_timeout",
        "connection_class", "record_class", "loop", "connection_factory", "cursor_factory", "async_", "async",
        "replication", "row_factory", "prepare_threshold",
    }
)  # fmt: skip

#: Arguments of `psycopg.connect` that are no settings of libpq.
_PSYCOPGS_OWN = frozenset({"conninfo", "autocommit", "context", "row_factory", "cursor_factory", "prepare_threshold"})

#: The first libpq that finds the system's certificates by itself.
SYSTEM_SINCE = 160_000

#: libpq knows a socket by its directory and a port, and makes up the rest of the name.
_SOCKET = re.compile(r"(?P<host>.*)/\.s\.PGSQL\.(?P<port>\d+)")

Settings = dict[str, Any]


def translate(driver: str, parameters: Mapping[str, Any]) -> Settings:
    """Return the connect arguments of another driver as those of libpq.

    :raises ConfigurationError: for a setting that has no counterpart, such as an SSLContext.
    """
    if driver == "psycopg":
        check_known(parameters)
        return dict(parameters)
    translated: Settings = {}
    options: list[str] = []
    # A socket stands in place of host and port, and the word about TLS in place of what `ssl` says.
    for name, value in sorted(parameters.items(), key=lambda item: item[0] in ("unix_sock", "direct_tls")):
        if name in _IGNORED or value is None:
            continue
        found = _translated(driver, name, value)
        if "options" in found:
            options.append(str(found.pop("options")))
        check_known(found, name)
        translated.update(found)
    if options:
        translated["options"] = " ".join(options)
    return translated


def _translated(driver: str, name: str, value: Any) -> Settings:
    if name == "password":
        return _password(value)
    if name not in _TRANSLATIONS:
        return {_RENAMED.get(name, name): value}
    try:
        return _TRANSLATIONS[name](driver, value)
    except ConfigurationError:
        raise
    except (TypeError, ValueError, AttributeError):
        raise ConfigurationError(
            f"the engine's {name}={value!r} is no value that libpq could take: {LISTEN_URL_HINT}"
        ) from None


def check_known(settings: Mapping[str, Any], name: str | None = None) -> None:
    """Raise where libpq lacks one of these settings: connecting would fail each time.

    :param name: that of the engine's setting from which these come.
    :raises ConfigurationError: naming the setting and the remedy.
    """
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()} | _PSYCOPGS_OWN
    for keyword in settings:
        if keyword not in known:
            raise ConfigurationError(
                f"the engine connects with {name or keyword}=..., for which libpq {psycopg.pq.version()} has no "
                f"counterpart: {LISTEN_URL_HINT}, with what that connection needs in the URL"
            )


def _tls(driver: str, value: Any) -> Settings:
    if isinstance(value, ssl.SSLContext):
        raise ConfigurationError(
            f"the engine's SSLContext is nothing that psycopg can take: {LISTEN_URL_HINT} with sslmode, sslrootcert"
        )
    if value is True and driver == "asyncpg":  # which checks the certificate, unlike pg8000
        return {"sslmode": "verify-full", "sslrootcert": _root_certificates()}
    if isinstance(value, bool):
        return {"sslmode": "require" if value else "disable"}
    mode = value if type(value) is str else value.name  # asyncpg's SSLMode
    return {"sslmode": mode.replace("_", "-")}


def _root_certificates() -> str:
    """Return the file of the system's certificates, or libpq's word for wherever they are."""
    file = ssl.get_default_verify_paths().cafile
    if file is None and psycopg.pq.version() < SYSTEM_SINCE:
        raise ConfigurationError(
            f"the engine's ssl=True checks the server's certificate, and libpq {psycopg.pq.version()} does not find "
            f"the system's certificates: {LISTEN_URL_HINT} with sslmode=verify-full and sslrootcert"
        )
    return file or "system"


def _direct_tls(driver: str, value: Any) -> Settings:
    return {"sslnegotiation": "direct"} if value else {}  # False is what libpq does anyway


def _settings(driver: str, value: Mapping[str, Any]) -> Settings:
    return {"options": " ".join(_option(*item) for item in value.items() if item[1] is not None)}


def _option(name: str, value: Any) -> str:
    text = value.decode() if isinstance(value, bytes) else str(value)
    if name == "options":
        return text
    escaped = text.replace("\\", "\\\\").replace(" ", "\\ ")
    return f"-c {name}={escaped}"


def _password(value: Any) -> Settings:
    """Call what gives the password; its own errors are no wrong settings, and trying again may help."""
    found = value() if callable(value) else value
    if inspect.isawaitable(found):
        if inspect.iscoroutine(found):
            found.close()
        raise ConfigurationError(
            "the engine's password is a coroutine function, which a thread can't await: set it in a do_connect hook, "
            f"or {LISTEN_URL_HINT}"
        )
    return {"password": found}


def _socket(driver: str, value: Any) -> Settings:
    path = os.fspath(value)
    found = _SOCKET.fullmatch(path if path.startswith("@") else os.path.abspath(path))
    if found is None:
        raise ConfigurationError(
            f"the engine's unix_sock {path!r} is not named .s.PGSQL.PORT, as libpq expects it: {LISTEN_URL_HINT}"
        )
    return {"host": found["host"] or "/", "port": found["port"]}


def _host(driver: str, value: Any) -> Settings:
    if isinstance(value, (list, tuple)):
        return {"host": ",".join(map(str, value))}
    if driver == "asyncpg" and _SOCKET.fullmatch(str(value)):
        return _socket(driver, value)
    return {"host": value}


def _port(driver: str, value: Any) -> Settings:
    return {"port": ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value}


def _timeout(driver: str, value: Any) -> Settings:
    return {"connect_timeout": max(2, round(float(value)))}


def _keepalive(driver: str, value: Any) -> Settings:
    return {} if value else {"keepalives": 0}


def _text(name: str) -> Callable[[str, Any], Settings]:
    return lambda driver, value: {name: str(getattr(value, "value", value))}


_TRANSLATIONS: dict[str, Callable[[str, Any], Settings]] = {
    "ssl": _tls,
    "ssl_context": _tls,
    "direct_tls": _direct_tls,
    "server_settings": _settings,
    "startup_params": _settings,
    "unix_sock": _socket,
    "host": _host,
    "port": _port,
    "timeout": _timeout,
    "tcp_keepalive": _keepalive,
    "passfile": _text("passfile"),
    "target_session_attrs": _text("target_session_attrs"),
}
