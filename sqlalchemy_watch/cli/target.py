"""TARGET and --url: words on the command line become objects."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import psycopg
import typer
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ..declaring.targets import tables_of, watches_of
from ..errors import ConfigurationError
from ..listener.server.settings import translate
from ..watched import forgotten_in

NOTHING_WATCHED = "no watched model was imported"

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="What is watched, as module:name: a declarative base, a registry, a MetaData, a model or a Table, such as "
        "myapp.models:Base.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="DATABASE_URL", help="The database, such as postgresql://user@host/name.", show_default=False
    ),
]


def load_target(target: str) -> Any:
    """Return the object that `module:name` stands for, which can be watched.

    :raises ConfigurationError: where there is none, or it can't be watched.
    """
    found = load_object(target, "myapp.models:Base")
    tables_of(found)
    return found


def check_watched(target: str, found: Any) -> None:
    """Raise where nothing is watched: saying that all is well would be wrong where nothing was looked at.

    :raises ConfigurationError: naming the remedy.
    """
    if watches_of(found):
        return
    if forgotten := forgotten_in(found):
        raise ConfigurationError(f"target {target!r}: {'; '.join(forgotten)}")
    raise ConfigurationError(
        f"target {target!r}: {NOTHING_WATCHED}: name a module that imports those of all models, and give a model "
        f"__watch__"
    )


def load_object(target: str, example: str) -> Any:
    """Return the object that `module:name` stands for; modules are found from the working directory as well.

    :raises ConfigurationError: where there is none.
    """
    module_name, separator, path = target.partition(":")
    if not separator or not module_name or not path:
        raise ConfigurationError(f"target {target!r} must be module:name, such as {example}")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigurationError(f"target {target!r}: {module_name!r} is not the dotted name of a module")
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigurationError(
            f"target {target!r}: can't import {module_name!r}: {describe_failure(error)}"
        ) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(f"target {target!r}: {module_name!r} has no {path!r}") from None
    return found


def describe_failure(error: Exception) -> str:
    """Describe the error, with the line of the application that it comes from."""
    if isinstance(error, (ImportError, SyntaxError)):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _is_library(filename: str) -> bool:
    return filename.startswith(("<", sysconfig.get_path("stdlib"))) or "site-packages" in filename


def make_engine(url: str | None) -> Engine:
    """Make an engine for the URL, which may name any driver: the command line uses psycopg, as the listener does.

    :raises ConfigurationError: where no URL is given, or it is none of PostgreSQL.
    """
    if not url:
        raise ConfigurationError("no database is given: pass --url postgresql://user@host/name, or set DATABASE_URL")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # what it says may be a part of the password
        raise ConfigurationError(
            "--url: this is no URL such as postgresql://user@host/name; in user and password, @ : / and % are written "
            "%40 %3A %2F %25"
        ) from None
    backend, _, driver = parsed.drivername.partition("+")
    if backend not in ("postgresql", "postgres"):
        raise ConfigurationError(f"--url: only PostgreSQL can be watched, and this is {backend}")
    return create_engine(parsed.set(drivername="postgresql+psycopg", query=_query_for_psycopg(driver, parsed.query)))


def _query_for_psycopg(driver: str, query: Mapping[str, Any]) -> dict[str, Any]:
    hosts = {name: query[name] for name in ("host", "port") if name in query}  # all drivers' dialects read these alike
    others = {name: value for name, value in query.items() if name not in hosts}
    if driver in ("asyncpg", "pg8000"):
        try:
            others = {name: str(value) for name, value in translate(driver, others).items()}
        except ValueError as error:
            raise ConfigurationError(f"--url: {error}") from None
    return {**hosts, **others}


@contextmanager
def connect(url: str | None) -> Iterator[psycopg.Connection[Any]]:
    """Open a psycopg connection in autocommit, for commands that need no models."""
    engine = make_url(make_engine(url).url).set(drivername="postgresql")
    connection = psycopg.connect(engine.render_as_string(hide_password=False), autocommit=True)
    try:
        yield connection
    finally:
        connection.close()
