"""`demo`: two watched models, another process that writes, and the events that are heard."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy import Engine, text

from ..errors import WatchError
from ..listener.listener import Listener
from . import _demo_shop as demo_shop
from . import _demo_writer as demo_writer
from ._demo_server import embedded_database, interruptible, uninterrupted
from ._demo_view import DemoView
from .target import make_engine

#: Seconds the writer may take; it needs about ten.
WRITER_TIMEOUT = 45


def demo(
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="DATABASE_URL",
            help="A database to use, in a schema of its own, instead of the embedded one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """See it work: another process writes plain SQL, and the events are shown as they come."""
    console = Console()
    try:
        with interruptible(), _database(url, console) as (engine, where), _schema(engine):
            written, heard = _run(engine, console, where)
            matches = _summarize(written, heard)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(0 if matches else 1)


def _run(engine: Engine, console: Console, where: str) -> tuple[dict[str, int], dict[str, int]]:
    models = (demo_shop.Customer, demo_shop.Order)
    signals = [signal for model in models for signal in model.watch]
    view = DemoView(console, [signal.name for signal in signals], where)
    for signal in signals:
        signal.connect(view.show_event)
    with Listener(engine, demo_shop.Base) as listener, view:
        written = _write(engine, view)
        listener.catch_up()
    return written, view.heard


def _write(engine: Engine, view: DemoView) -> dict[str, int]:
    """Run the writer to its end; return the number of rows written, by signal."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    writer = subprocess.Popen(
        [sys.executable, demo_writer.__file__, url, demo_shop.SCHEMA],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        start_new_session=True,  # Ctrl-C is for this process, which then ends the writer
    )  # fmt: skip
    limit = threading.Timer(WRITER_TIMEOUT, writer.kill)
    limit.start()
    written: dict[str, int] = {}
    try:
        assert writer.stdout is not None
        assert writer.stderr is not None
        for line in writer.stdout:
            if view.broken:
                raise BrokenPipeError
            said = json.loads(line)
            if "sql" in said:
                view.show_statement(said["sql"])
            else:
                written = said["written"]
        complaint = writer.stderr.read().strip().splitlines()
        if writer.wait() != 0:
            raise WatchError(f"the demo's writer failed: {complaint[-1] if complaint else 'it took too long'}")
    finally:
        limit.cancel()
        writer.kill()
        writer.communicate()
    return written


@contextlib.contextmanager
def _database(url: str | None, console: Console) -> Iterator[tuple[Engine, str]]:
    """Make an engine for the given database, or for an embedded server's, and a name to show for it."""
    with contextlib.ExitStack() as stack:
        if url:
            engine = make_engine(url)
            where = engine.url.set(drivername="postgresql").render_as_string(hide_password=True)
        else:
            with console.status("starting an embedded PostgreSQL"):
                engine = make_engine(stack.enter_context(embedded_database()))
            where = "an embedded PostgreSQL"
        stack.callback(engine.dispose)
        yield engine, where


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
        with uninterrupted(), engine.begin() as connection:
            connection.execute(drop)


def _summarize(written: dict[str, int], heard: dict[str, int]) -> bool:
    """Print a plain table of rows written and events heard; return True if they agree."""
    print(f"{'signal':<26}{'written':>10}{'heard':>10}")
    names = sorted({*written, *heard})
    for name in names:
        print(f"{name:<26}{written.get(name, 0):>10,}{heard.get(name, 0):>10,}")
    matches = all(written.get(name, 0) == heard.get(name, 0) for name in names)
    total = sum(heard.values())
    print(f"{total:,} events, every row heard" if matches else "some rows were not heard as they were written")
    sys.stdout.flush()
    return matches
