"""The time that the plugin adds to `alembic revision --autogenerate` on 500 watched tables.

`python -m benchmarks.alembic_500_tables` starts a PostgreSQL of its own and prints a table.
"""

from __future__ import annotations

import time
from typing import Any

from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.migration import MigrationContext
from sqlalchemy import Column, Engine, Integer, MetaData, String, event
from sqlalchemy import Table as SQLTable

from sqlalchemy_watch import Watch, watch

from .harness import Figure, Table, interleave, medians
from .server import Server

TABLES = 500
ROUNDS = 5
ALL = ["alembic.autogenerate.*"]
WITHOUT = [*ALL, "~alembic.autogenerate.sqlalchemy_watch"]


def declare(tables: int) -> MetaData:
    """So many tables, each with two watches."""
    metadata = MetaData()
    for number in range(tables):
        table = SQLTable(
            f"orders_{number}", metadata, Column("id", Integer, primary_key=True, autoincrement=False),
            Column("name", String), Column("total", Integer),
        )  # fmt: skip
        watch(table, "inserted", Watch("updated", label="total_changed", trigger_columns=["total"], old=True))
    return metadata


def autogenerate(engine: Engine, metadata: MetaData, plugins: list[str]) -> tuple[float, int]:
    """Seconds and queries of one comparison, in which nothing differs."""
    with engine.connect() as connection:
        queries: list[str] = []
        event.listen(connection, "before_cursor_execute", lambda c, cursor, sql, *rest: queries.append(sql))
        context = MigrationContext.configure(connection, opts={"autogenerate_plugins": plugins})
        start = time.perf_counter()
        differences: list[Any] = compare_metadata(context, metadata)
        seconds = time.perf_counter() - start
    assert differences == []
    return seconds, len(queries)


def first_migration(engine: Engine, metadata: MetaData, plugins: list[str]) -> float:
    """Seconds until every table and every watch is in a migration."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"autogenerate_plugins": plugins})
        start = time.perf_counter()
        produce_migrations(context, metadata)
        return time.perf_counter() - start


def measure(server: Server, tables: int = TABLES, rounds: int = ROUNDS) -> Table:
    """The table of figures."""
    result = Table(
        f"Autogenerate over {tables} watched tables",
        f"Two watches each, nothing differs; medians of {rounds} interleaved rounds.",
        ("", "without the plugin", "with it", "added"),
    )
    metadata = declare(tables)
    engine = server.engine()
    candidates = {"without": WITHOUT, "with": ALL}
    first = medians(
        interleave({n: lambda p=p: first_migration(engine, metadata, p) for n, p in candidates.items()}, rounds)
    )
    metadata.create_all(engine)
    autogenerate(engine, metadata, ALL)  # what Alembic reads once
    runs = interleave({n: lambda p=p: autogenerate(engine, metadata, p) for n, p in candidates.items()}, rounds)
    seconds = medians({name: [s for s, _ in values] for name, values in runs.items()})
    queries = {name: values[-1][1] for name, values in runs.items()}
    added, more = seconds["with"] - seconds["without"], queries["with"] - queries["without"]
    result.add("nothing differs, seconds", seconds["without"], seconds["with"], added)
    result.add("nothing differs, queries", queries["without"], queries["with"], more)
    result.add("the first migration, seconds", first["without"], first["with"], first["with"] - first["without"])
    result.figures += [
        Figure("autogenerate: added by the plugin", added, 0.4, "making the text of 1,000 functions to compare", " s"),
        Figure("autogenerate: queries of its own", more, 2, "tables and functions; one more where something differs"),
    ]
    engine.dispose()
    return result


if __name__ == "__main__":
    with Server() as server:
        print(measure(server).markdown())
