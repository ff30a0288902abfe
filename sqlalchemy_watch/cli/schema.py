"""`status`, `ddl`, `install` and `uninstall`: the triggers in the database."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy import Engine, text

from ..catalog import listening
from ..catalog.status import WatchStatus
from ..declaring.dialect import POSTGRESQL
from ..declaring.targets import watches_of
from ..triggers import install as triggers
from ..triggers.ddl import create_statements, drop_statements
from .output import DataTable, print_json_lines, print_table, say
from .target import NOTHING_WATCHED, Target, Url, check_watched, load_target, make_engine

_COLOURS = {"installed": "green", "outdated": "yellow", "missing": "red", "orphaned": "magenta"}


def status(
    target: Target,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show how each watch stands in the database; exit status 1 unless all are installed and can work."""
    found = load_target(target)
    engine = make_engine(url)
    items = triggers.status(engine, found)
    if not items:  # of what is declared no more, there may be left-overs to show
        check_watched(target, found)
    if as_json:
        print_json_lines(map(_fields, items))
    else:
        _print_table(items)
        _tell_of_listeners(engine)
    raise typer.Exit(0 if all(item.state == "installed" and not item.problems for item in items) else 1)


def ddl(
    target: Target,
    drop: Annotated[bool, typer.Option("--drop", help="The statements that take the triggers away.")] = False,
) -> None:
    """Print the SQL that makes the triggers, as psql takes it; no database is needed."""
    statements = drop_statements if drop else create_statements
    found = load_target(target)
    check_watched(target, found)
    for watch in watches_of(found):
        print(f"-- {watch.table_key}/{watch.label}")
        for statement in statements(watch):
            print(f"{str(statement.compile(dialect=POSTGRESQL)).strip()};\n")


def install(
    target: Target,
    url: Url = None,
    remove_orphaned: Annotated[
        bool, typer.Option("--remove-orphaned", help="Drop triggers of ours that are not declared any more.")
    ] = False,
) -> None:
    """Create the triggers that are missing and replace those that are outdated."""
    found = load_target(target)
    if not remove_orphaned:  # which is for those of whom nothing is declared any more
        check_watched(target, found)
    changed = triggers.install(make_engine(url), found, remove_orphaned=remove_orphaned)
    for item in changed:
        done = {"missing": "created", "outdated": "replaced", "orphaned": "dropped"}[item.state]
        say(f"{done} {item.table}/{item.label}")
    if not changed:
        print(f"nothing to do: {'all triggers are installed' if watches_of(found) else NOTHING_WATCHED}")


def uninstall(target: Target, url: Url = None) -> None:
    """Drop the triggers and their functions; nothing that isn't ours is touched."""
    dropped = triggers.uninstall(make_engine(url), load_target(target))
    for item in dropped:
        say(f"dropped {item.table}/{item.label}")
    if not dropped:
        print("nothing to do: no triggers are installed")


def _tell_of_listeners(engine: Engine) -> None:
    with engine.connect() as connection:
        count = listening.count_listening(lambda query: connection.scalar(text(query)))
    if count:
        say(listening.words_for(count) or f"{count} session{'s' * (count > 1)} listen{'s' * (count == 1)} here")


def _fields(item: WatchStatus) -> dict[str, object]:
    names = ("state", "table", "label", "function_name", "trigger_name", "problems")
    return {name: getattr(item, name) for name in names}


def _print_table(items: list[WatchStatus]) -> None:
    table = DataTable("table", "watch", "state", "")
    for item in items:
        table.add_data(item.table, item.label, Text(item.state, _COLOURS[item.state]), "; ".join(item.problems))
    print_table(table, "nothing is watched")
