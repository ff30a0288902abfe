"""Problems of the installed triggers, in words: for `status`, and for a listener's log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from sqlalchemy import Table

from .matching import read_status
from .reading import Fetch, psycopg_fetcher
from .status import WatchStatus

_WAL_LEVEL = "SELECT pg_catalog.current_setting('wal_level')"


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


def with_server_problems(fetch: Fetch, items: list[WatchStatus]) -> list[WatchStatus]:
    """Return the items; those of durable watches also say if the server can't deliver them."""
    if not any(item.watch is not None and item.watch.is_durable for item in items):
        return items
    level = fetch(_WAL_LEVEL, {})[0][0]
    if level == "logical":
        return items
    problem = f"wal_level is {level!r}, so durable delivery can't work: set wal_level = logical and restart the server"
    return [
        replace(item, problems=(*item.problems, problem)) if item.watch is not None and item.watch.is_durable else item
        for item in items
    ]
