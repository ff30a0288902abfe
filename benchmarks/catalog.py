"""The time that it takes to see what is installed."""

from __future__ import annotations

import statistics
import time

from sqlalchemy import Column, Integer, MetaData, Text, event
from sqlalchemy import Table as SqlTable

from sqlalchemy_watch import Watch, status, watch

from . import alembic_500_tables
from .harness import Figure, Table
from .server import Server


def run(server: Server, quick: bool) -> list[Table]:
    """The table of `status`, and of the schema comparison."""
    table = Table(
        "Catalog work",
        "`status` over tables that are watched for two operations each.",
        ("watched tables", "queries", "seconds"),
    )
    engine = server.engine()
    counts = (20, 100) if quick else (50, 500)
    queries, seconds = [], 0.0
    for count in counts:
        metadata = _metadata(count)
        metadata.create_all(engine)
        sent: list[str] = []
        event.listen(engine, "before_cursor_execute", lambda *args, sent=sent: sent.append(args[2]))
        times = []
        for _ in range(5):
            sent.clear()
            started = time.perf_counter()
            items = status(engine, metadata)
            times.append(time.perf_counter() - started)
            assert [item.state for item in items] == ["installed"] * count * 2
        seconds = statistics.median(times)
        queries.append(len(sent))
        table.add(f"{count}", len(sent), seconds)
        metadata.drop_all(engine)
    table.figures += [
        Figure(f"`status` over {counts[-1]} tables", seconds, 1.0, "making the text of the functions to compare", " s"),
        Figure(f"queries more than over {counts[0]} tables", queries[-1] - queries[0], 0, "nothing: always these two"),
    ]
    return [table, alembic_500_tables.measure(server, counts[-1], 2 if quick else 5)]


def _metadata(count: int) -> MetaData:
    metadata = MetaData()
    for i in range(count):
        columns = (Column("id", Integer, primary_key=True), Column("role_id", Integer), Column("name", Text))
        users = SqlTable(f"users_{i}", metadata, *columns)
        moved = Watch("updated", label="moved", extra_columns=("role_id",), trigger_columns=("role_id",))
        watch(users, "inserted", moved)
    return metadata
