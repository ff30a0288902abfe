"""Problems of the installed triggers, in words, as a listener logs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from sqlalchemy import Table

from .status import psycopg_fetcher, read_status


def describe_problems(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> Iterator[str]:
    """Describe the watches that are missing, outdated or can't work, and say what to do."""
    for item in read_status(psycopg_fetcher(connection), tables):
        if item.state in ("missing", "outdated"):
            yield (
                f"the trigger of {item.table}/{item.label} is {item.state} ({'; '.join(item.problems)}): run "
                f"`alembic revision --autogenerate`, or install(engine, ...)"
            )
        elif item.problems and item.watch is not None:
            yield f"the trigger of {item.table}/{item.label} is installed, but {'; '.join(item.problems)}"
