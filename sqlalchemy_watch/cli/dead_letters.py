"""`dead-letters`: events whose receivers kept failing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from ..errors import ConfigurationError
from ..listener.dispatch import dead_letters
from .output import print_json_lines, print_table
from .target import Url, connect

app: typer.Typer = typer.Typer(help="Events whose receivers kept failing.", no_args_is_help=True)

Group = Annotated[str, typer.Argument(help="The consumer group.", show_default=False)]
Ids = Annotated[list[int] | None, typer.Argument(help="The letters' ids.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All letters of the group.")]


@app.command("list")
def list_letters(
    group: Annotated[str | None, typer.Argument(help="Of this consumer group alone.")] = None,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the dead letters."""
    with connect(url) as connection:
        letters = dead_letters.list_letters(connection, group)
    if as_json:
        print_json_lines(map(asdict, letters))
        return
    table = Table("id", "group", "receiver", "channel", "row", "attempts", "failed at", "error", "next try")
    for letter in letters:
        row = json.dumps(json.loads(letter.payload)["rows"])
        table.add_row(
            str(letter.id), letter.consumer_group, letter.receiver, letter.channel, row, str(letter.attempts),
            f"{letter.failed_at:%Y-%m-%d %H:%M:%S}", letter.error, f"{letter.retry_at or 'given up'}",
        )  # fmt: skip
    print_table(table, "there are no dead letters")


@app.command("retry")
def retry_letters(group: Group, ids: Ids = None, all_letters: All = False, url: Url = None) -> None:
    """Have the running consumer try letters again, at once."""
    with connect(url) as connection:
        print(f"{dead_letters.retry(connection, group, _chosen(ids, all_letters))} will be tried again")


@app.command("drop")
def drop_letters(group: Group, ids: Ids = None, all_letters: All = False, url: Url = None) -> None:
    """Delete letters."""
    with connect(url) as connection:
        print(f"dropped {dead_letters.drop(connection, group, _chosen(ids, all_letters))}")


def _chosen(ids: list[int] | None, all_letters: bool) -> list[int] | None:
    if bool(ids) == all_letters:
        raise ConfigurationError("give the ids of the letters, or --all")
    return ids or None
