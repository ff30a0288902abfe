"""`slots`: the replication slots of consumer groups."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..listener.backfill.progress import BACKFILLS
from ..listener.dispatch.dead_letters import LETTERS
from ..listener.dispatch.once import ONCE
from ..listener.options import check_group_name
from ..listener.wal import slots as replication
from .output import DataTable, print_json_lines, print_table, say
from .target import Url, connect

app: typer.Typer = typer.Typer(help="The replication slots of consumer groups.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The consumer group.", show_default=False)]


@app.command("list")
def list_slots(
    url: Url = None, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """Show the logical slots of the server: who reads them, how far behind, how much log is held."""
    with connect(url) as connection:
        found = replication.read_slots(connection)
    if as_json:
        print_json_lines(map(asdict, found))
        return
    table = DataTable("group", "database", "consumer", "behind", "held", "lag", "wal_status", "until lost")
    for slot in found:
        consumer = f"{slot.consumer} (pid {slot.active_pid})" if slot.active else "none"
        lag = "" if slot.lag_seconds is None else f"{slot.lag_seconds:.3f} s"
        left = "no limit" if slot.safe_bytes is None else replication.size_text(slot.safe_bytes)
        table.add_data(
            slot.name,
            slot.database,
            consumer,
            replication.size_text(slot.lag_bytes),
            replication.size_text(slot.held_bytes),
            lag,
            slot.wal_status or "",
            left,
        )
    print_table(table, "there are no logical slots")


@app.command("create")
def create_slot(
    name: Annotated[str | None, typer.Argument(help="The consumer group; without, only what all groups share.")] = None,
    role: Annotated[str | None, typer.Option(help="Who may use the tables.")] = None,
    url: Url = None,
) -> None:
    """Make the publication, the library's own tables and a group's slot, where the application's role may not."""
    with connect(url) as connection:
        replication.ensure_publication(connection)
        for table in (LETTERS, ONCE, BACKFILLS):
            table.ensure(connection)
            if role is not None:
                table.grant(connection, role)
        if name is not None:
            made = replication.ensure_slot(connection, check_group_name(name))
            say(f"{'there is already' if made is None else 'created'} the slot {name}")


@app.command("drop")
def drop_slot(name: Name, url: Url = None) -> None:
    """Drop a group's slot, and with it the log that is kept for it."""
    with connect(url) as connection:
        replication.drop_slot(connection, name)
    say(f"dropped the slot {name}")
