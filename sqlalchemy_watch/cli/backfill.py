"""`backfill`: have the existing rows of a model read by the running consumer of a group."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..declaring.targets import tables_of
from ..errors import ConfigurationError, SlotError
from ..events.models import name_of_model
from ..functions.quoting import qualified
from ..listener.backfill.progress import InTable, State
from ..listener.decoding.routes import Route, Router
from ..listener.decoding.values import ValueDecoders
from ..listener.options import check_group_name
from ..listener.wal.slots import read_slots
from .output import say
from .target import Target, Url, check_watched, connect, load_target, make_engine

#: Seconds between looks at how far it is.
LOOK_SECONDS = 0.25


def backfill(
    target: Target,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The name of a class, or of a table.", show_default=False)
    ],
    group: Annotated[str, typer.Option("--group", help="The consumer group whose receivers have the rows.")],
    url: Url = None,
    wait: Annotated[bool, typer.Option(help="Show how far it is, until it is done.")] = True,
) -> None:
    """Have the existing rows of a model told of as `read` events, by the running consumer of a group.

    Ctrl-C ends waiting alone. Where it is under way already it begins anew.
    """
    found = load_target(target)
    check_watched(target, found)
    table, route = _find(target, found, model, url)
    progress = InTable(check_group_name(group))
    with connect(url) as connection:
        slots = read_slots(connection, group)
        if not slots:
            raise SlotError(f"there is no consumer group {group!r}: start a listener with durable={group!r} first")
        started_at = progress.request(connection, table)
        if not slots[0].active:
            say(f"the group {group} has no active consumer at present: it begins when one is started", to_stderr=True)
        if wait:
            _wait(connection, progress, table, started_at, _estimate(connection, route))


def _find(target: str, found: Any, name: str, url: str | None) -> tuple[str, Route]:
    """Return the key of the table that has a model's rows, and its route."""
    router = Router(tables_of(found), ValueDecoders(make_engine(url)), durable=True)
    for key, route in router.reads.items():
        if name == key or name in map(name_of_model, route.models):
            return key, route
    known = ", ".join(sorted(f"{name_of_model(route.model)} ({key})" for key, route in router.reads.items()))
    raise ConfigurationError(
        f"target {target!r} has no model {name!r} with a durable watch: there are {known or 'none with one'}"
    )


def _estimate(connection: psycopg.Connection[Any], route: Route) -> int | None:
    """Return about how many rows there are, as the server's statistics say; None where these don't."""
    query = "SELECT CAST(reltuples AS bigint) FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%s)"
    row = connection.execute(query, [qualified(route.watch.home, route.watch.table)]).fetchone()
    return row[0] if row is not None and row[0] > 0 else None


def _wait(
    connection: psycopg.Connection[Any], progress: InTable, table: str, started_at: datetime, total: int | None
) -> None:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading rows", total=total)
        while not (state := _state(connection, progress, table, started_at)).is_done:
            # The statistics may be old.
            now_total = None if total is None else max(total, state.rows_read)
            bar.update(task, completed=state.rows_read, total=now_total)
            time.sleep(LOOK_SECONDS)
    say(f"read {state.rows_read} rows of {table}")


def _state(connection: psycopg.Connection[Any], progress: InTable, table: str, started_at: datetime) -> State:
    state = progress.state(connection, table, started_at)
    if state is None:
        raise SlotError(f"the backfill of {table} was requested anew meanwhile, and is not waited for")
    return state
