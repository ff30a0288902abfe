"""The commands, and how errors of theirs are told: one line and exit status 2."""

from __future__ import annotations

import logging
import sys

import psycopg
import typer
from sqlalchemy.exc import SQLAlchemyError

from ..errors import WatchError, one_line
from . import dead_letters, demo, schema, slots, tail

app: typer.Typer = typer.Typer(
    name="sqlalchemy-watch",
    help="Hear about every row that changes in PostgreSQL, whoever changed it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("tail")(tail.tail)
app.command("status")(schema.status)
app.command("ddl")(schema.ddl)
app.command("install")(schema.install)
app.command("uninstall")(schema.uninstall)
app.add_typer(slots.app, name="slots")
app.add_typer(dead_letters.app, name="dead-letters")


def run() -> None:
    """Parse the arguments and run the command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except (WatchError, SQLAlchemyError, psycopg.Error) as error:
        print(f"sqlalchemy-watch: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        sys.exit(0)
