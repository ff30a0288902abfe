"""Words on the terminal, and in a pipe: lines, tables, JSON lines, logs.

Whatever comes from the database may hold control characters, which would write to the terminal's title, clear it, or
show one text in place of another. Nothing that is printed here has any.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Characters a line may have where it goes to a file or to grep: none is broken.
PIPE_WIDTH = 1000

#: Control characters, halves of surrogate pairs, line separators, and what changes the direction of writing.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text in one line, with everything that a terminal would obey written as Python writes it."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def say(line: str, *, to_stderr: bool = False) -> None:
    """Print a line."""
    print(printable(line), file=sys.stderr if to_stderr else sys.stdout, flush=True)


class DataTable(Table):
    """A table of data: strings in its cells are printable."""

    def add_data(self, *cells: str | Text | None) -> None:
        """Add a row; a `Text` is of the command's own."""
        self.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells))


def print_table(table: DataTable, empty: str) -> None:
    """Print the table, or `empty` where it has no rows. Its strings are data: nothing in them is markup."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table if table.row_count else empty)


def json_line(row: object) -> str:
    """Return JSON in one line of ASCII; what JSON does not know becomes a string."""
    return json.dumps(row, default=str).replace("\x7f", "\\u007f")  # the one control character that JSON leaves


def print_json_lines(rows: Iterable[Mapping[str, object]]) -> None:
    """Print one JSON object a line."""
    for row in rows:
        print(json_line(row))


class LogFormatter(logging.Formatter):
    """Formats records for the terminal; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))
