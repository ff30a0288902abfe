"""`dead-letters`: events whose receivers kept failing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import psycopg
import typer

from ..errors import ConfigurationError
from ..listener.dispatch import dead_letters
from ..listener.dispatch.dead_letters import LETTERS
from .output import DataTable, print_json_lines, print_table
from .target import Url, connect

app: typer.Typer = typer.Typer(help="Events whose receivers kept failing.", no_args_is_help=True)

NONE = "there are no dead letters"

Group = Annotated[str, typer.Argument(help="The consumer group.", show_default=False)]
Ids = Annotated[list[int] | None, typer.Argument(help="The letters' ids.", show_default=False)]
#: Changes the letters of a group, some or all of them, and returns their number.
Change = Callable[["psycopg.Connection[Any]", str, list[int] | None], int]
All = Annotated[bool, typer.Option("--all", help="All letters of the group.")]


@app.command("list")
def list_letters(
    group: Annotated[str | None, typer.Argument(help="Of this consumer group alone.")] = None,
    parked: Annotated[bool, typer.Option("--parked", help="Only those that are tried again.")] = False,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the dead letters."""
    with connect(url) as connection:
        letters = dead_letters.list_letters(connection, group, only_parked=parked)
    if as_json:
        print_json_lines(map(asdict, letters))
        return
    table = DataTable("id", "group", "receiver", "channel", "row", "key", "attempts", "failed at", "error", "next try")
    for letter in letters:
        table.add_data(
            str(letter.id),
            letter.consumer_group,
            letter.receiver,
            letter.channel,
            _rows(letter),
            letter.key or "",
            str(letter.attempts),
            f"{letter.failed_at:%Y-%m-%d %H:%M:%S}",
            letter.error,
            f"{letter.retry_at or 'given up'}",
        )
    print_table(table, NONE)


@app.command("retry")
def retry_letters(group: Group, ids: Ids = None, all_letters: All = False, url: Url = None) -> None:
    """Have the running consumer try letters again, at once."""
    _change(url, group, _chosen(ids, all_letters), dead_letters.retry, "{} will be tried again")


@app.command("drop")
def drop_letters(group: Group, ids: Ids = None, all_letters: All = False, url: Url = None) -> None:
    """Delete letters."""
    _change(url, group, _chosen(ids, all_letters), dead_letters.drop, "dropped {}")


def _change(url: str | None, group: str, ids: list[int] | None, change: Change, words: str) -> None:
    with connect(url) as connection:
        if LETTERS.exists(connection):
            print(words.format(change(connection, group, ids)))
        else:
            print(f"{NONE}: a listener with durable= makes their table when it needs it, or `slots create`")


def _rows(letter: dead_letters.DeadLetter) -> str:
    """Return the letter's row as JSON; anybody who may write the table may have changed it."""
    try:
        return json.dumps(json.loads(letter.payload)["rows"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "unreadable"


def _chosen(ids: list[int] | None, all_letters: bool) -> list[int] | None:
    if bool(ids) == all_letters:
        raise ConfigurationError("give the ids of the letters, or --all")
    return ids or None
