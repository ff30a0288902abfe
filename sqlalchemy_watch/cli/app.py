"""The commands, and how errors of theirs are told: one line and exit status 2."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import psycopg
import typer
from sqlalchemy.exc import SQLAlchemyError

from .. import __version__
from ..errors import WatchError, one_line
from . import backfill, dead_letters, demo, doctor, relay, running, schema, slots, tail
from .output import LogFormatter, say

app: typer.Typer = typer.Typer(
    name="sqlalchemy-watch",
    help="Hear about every row that changes in PostgreSQL, whoever changed it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("tail")(tail.tail)
app.command("run")(running.run)
app.command("relay")(relay.relay)
app.command("backfill")(backfill.backfill)
app.command("doctor")(doctor.doctor)
app.command("status")(schema.status)
app.command("ddl")(schema.ddl)
app.command("install")(schema.install)
app.command("uninstall")(schema.uninstall)
app.add_typer(slots.app, name="slots")
app.add_typer(dead_letters.app, name="dead-letters")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sqlalchemy-watch {__version__}")
        raise typer.Exit


@app.callback()
def begin(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Set up the log, except where an application may do so itself."""
    if context.invoked_subcommand not in ("run", "relay"):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LogFormatter("%(levelname)s: %(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[handler])


def run() -> None:
    """Parse the arguments and run the command."""
    try:
        app()
    except (WatchError, SQLAlchemyError, psycopg.Error) as error:
        say(f"sqlalchemy-watch: {one_line(error)}", to_stderr=True)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        sys.exit(0)
