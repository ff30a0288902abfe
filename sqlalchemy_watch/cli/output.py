"""Tables on the terminal, and in a pipe; JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

#: Characters a line may have where it goes to a file or to grep: none is broken.
PIPE_WIDTH = 1000


def print_table(table: Table, empty: str) -> None:
    """Print the table, or `empty` where it has no rows. Its strings are data: nothing in them is markup."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table if table.row_count else empty)


def print_json_lines(rows: Iterable[Mapping[str, object]]) -> None:
    """Print one JSON object a line; what JSON does not know becomes a string."""
    for row in rows:
        print(json.dumps(row, default=str))
