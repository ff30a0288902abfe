"""TARGET and --url: from words on the command line to objects."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import psycopg
import typer
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ..errors import ConfigurationError
from ..targets import tables_of

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
    """The object that `module:name` stands for; modules are found from the working directory as well.

    :raises ConfigurationError: where there is none, or it can't be watched.
    """
    module_name, separator, path = target.partition(":")
    if not separator or not module_name or not path:
        raise ConfigurationError(f"target {target!r} must be module:name, such as myapp.models:Base")
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"target {target!r}: can't import {module_name!r}: {error}") from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(f"target {target!r}: {module_name!r} has no {path!r}") from None
    tables_of(found)
    return found


def make_engine(url: str | None) -> Engine:
    """An engine for the URL; one without a driver gets psycopg.

    :raises ConfigurationError: where no URL is given, or it is none of PostgreSQL.
    """
    if not url:
        raise ConfigurationError("no database is given: pass --url postgresql://user@host/name, or set DATABASE_URL")
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(f"--url: {error}") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "postgresql":
        raise ConfigurationError(f"--url: only PostgreSQL can be watched, and this is {parsed.get_backend_name()}")
    return create_engine(parsed)


@contextmanager
def connect(url: str | None) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection in autocommit, for what is no matter of models."""
    engine = make_url(make_engine(url).url).set(drivername="postgresql")
    connection = psycopg.connect(engine.render_as_string(hide_password=False), autocommit=True)
    try:
        yield connection
    finally:
        connection.close()
