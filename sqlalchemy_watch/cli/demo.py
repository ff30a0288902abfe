"""`demo`: two watched models, another process that writes, and the events that are heard.

With `--relay` they come a second time, by NATS, in a process that knows nothing of all this.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import Engine, text

from ..errors import ConfigurationError, WatchError
from ..listener.listener import Listener
from ..signals.watch_signals import WatchSignal
from . import _demo_shop as demo_shop
from . import _demo_writer as demo_writer
from ._demo_relay import embedded_nats, find_nats, relayed
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
    relay: Annotated[
        bool,
        typer.Option("--relay", help="Relay the events to an embedded NATS as well, and show what a consumer gets."),
    ] = False,
) -> None:
    """See it work: another process writes plain SQL, and the events are shown as they come."""
    console = Console()
    try:
        if relay:
            _check_relay(url)
        shop = demo_shop.declare("both" if relay else "notify")
        with interruptible(), _database(url, console) as (engine, where), _schema(engine, shop):
            if relay:
                with embedded_nats() as nats:
                    written, columns = _run_relayed(engine, console, where, shop, nats)
            else:
                written, columns = _run(engine, console, where, shop)
            matches = _summarize(written, columns)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(0 if matches else 1)


#: The rows that were written, by signal, and how many of them came, by the ways in which they did.
Outcome = tuple[dict[str, int], dict[str, dict[str, int]]]


def _check_relay(url: str | None) -> None:
    """Raise where it can't be shown.

    :raises ConfigurationError: naming the remedy.
    """
    if url:
        raise ConfigurationError(
            "--relay is shown on an embedded PostgreSQL alone, for it makes a replication slot: leave out --url, and "
            "unset DATABASE_URL"
        )
    find_nats()


def _run(engine: Engine, console: Console, where: str, shop: demo_shop.Shop) -> Outcome:
    view = _view(console, where, shop)
    for signal in _signals(shop):
        signal.connect(view.show_event)
    with Listener(engine, shop.Base) as listener, view:
        written = _write(engine, view)
        listener.catch_up()
    return written, {"heard": view.heard}


def _run_relayed(engine: Engine, console: Console, where: str, shop: demo_shop.Shop, nats: str) -> Outcome:
    view = _view(console, f"{where} and nats-server", shop, is_relayed=True)
    listener = Listener(engine, shop.Base)
    listener.events.connect(view.show_event)  # not those of the relay's listener
    with relayed(engine, shop.Base, nats, view.show_message) as wait, listener, view:
        written = _write(engine, view)
        listener.catch_up()
        wait()
    return written, {"as signals": view.heard, "by NATS": view.got}


def _view(console: Console, where: str, shop: demo_shop.Shop, is_relayed: bool = False) -> DemoView:
    return DemoView(console, [str(signal.name) for signal in _signals(shop)], where, is_relayed)


def _signals(shop: demo_shop.Shop) -> list[WatchSignal[Any]]:
    return [signal for model in (shop.Customer, shop.Order) for signal in model.watch]


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
def _schema(engine: Engine, shop: demo_shop.Shop) -> Iterator[None]:
    drop = text(f"DROP SCHEMA IF EXISTS {demo_shop.SCHEMA} CASCADE")
    with engine.begin() as connection:
        connection.execute(drop)
        connection.execute(text(f"CREATE SCHEMA {demo_shop.SCHEMA}"))
        shop.Base.metadata.create_all(connection)
    try:
        yield
    finally:
        with uninterrupted(), engine.begin() as connection:
            connection.execute(drop)


def _summarize(written: dict[str, int], columns: dict[str, dict[str, int]]) -> bool:
    """Print a plain table of rows written and events that came; return True if they agree."""
    print(f"{'signal':<26}{'written':>12}" + "".join(f"{title:>12}" for title in columns))
    names = sorted({*written, *(name for counts in columns.values() for name in counts)})
    for name in names:
        numbers = [counts.get(name, 0) for counts in (written, *columns.values())]
        print(f"{name:<26}" + "".join(f"{number:>12,}" for number in numbers))
    matches = all(counts.get(name, 0) == written.get(name, 0) for counts in columns.values() for name in names)
    total, twice = sum(next(iter(columns.values())).values()), ", and relayed" if len(columns) > 1 else ""
    print(f"{total:,} events, every row heard{twice}" if matches else "some rows were not heard as they were written")
    sys.stdout.flush()
    return matches
