"""Problems of the installed triggers, in words: for `status`, and for a listener's log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from sqlalchemy import Table

from ..wire import DURABLE_SINCE, lowest_wal_level
from .matching import read_status
from .reading import Fetch, psycopg_fetcher
from .status import WatchStatus

_SERVER = """
SELECT CAST(pg_catalog.current_setting('server_version_num') AS int) / 10000, pg_catalog.current_setting('wal_level')
"""


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


def durable_problem(version: int, wal_level: str) -> str | None:
    """Return why the server can't deliver durably, and the remedy; None if it can.

    :param version: its major version.
    """
    needed = lowest_wal_level(version)
    if version < DURABLE_SINCE:
        why, remedy = f"the server is PostgreSQL {version}", f"it needs PostgreSQL {DURABLE_SINCE} or later"
    elif wal_level not in (needed, "logical"):
        why, remedy = f"wal_level is {wal_level!r}", f"set wal_level = {needed} and restart the server"
    else:
        return None
    return f"{why}, so durable delivery can't work: {remedy}"


def with_server_problems(fetch: Fetch, items: list[WatchStatus]) -> list[WatchStatus]:
    """Return the items; those of durable watches also say if the server can't deliver them."""
    if not any(item.watch is not None and item.watch.is_durable for item in items):
        return items
    version, level = fetch(_SERVER, {})[0]
    problem = durable_problem(version, level)
    if problem is None:
        return items
    return [
        replace(item, problems=(*item.problems, problem)) if item.watch is not None and item.watch.is_durable else item
        for item in items
    ]
