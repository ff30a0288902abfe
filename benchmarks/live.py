"""Live queries: many of them over one table, beside polling."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial

from sqlalchemy import create_engine

from .harness import Figure, Table, interleave, percentile
from .live_clients import NARROWED, POLLING, WAYS, Base
from .server import Server

#: Rows of each query, and writes in a second, each of a single row.
ROWS, WRITES = 10, 500


@dataclass(frozen=True)
class Turn:
    """What a process has taken."""

    runs: float
    cpu: float
    #: Milliseconds until a follower has half of the writes, and 99% of them.
    half: float
    tail: float


def run(server: Server, quick: bool) -> list[Table]:
    """Return the table of live queries."""
    queries, seconds, rounds = (200, 3, 1) if quick else (1_000, 10, 3)
    table = Table(
        "Live queries",
        f"{queries:,} queries of one process, each of another customer's {ROWS} orders in one table, while another "
        f"process changes {WRITES} single rows a second: queries that the process runs in a second, milliseconds from "
        f"a write until its follower has it, and cores of that process. {rounds} rounds of {seconds} s; medians.",
        ("way", "queries/s", "half of the writes, ms", "99% of the writes, ms", "cores"),
    )
    engine = create_engine(server.url("psycopg"))
    Base.metadata.create_all(engine)
    with server.connect() as connection:
        connection.execute(
            "INSERT INTO orders (id, customer_id) SELECT g, g %% %s FROM generate_series(1, %s) g",
            (queries, queries * ROWS),
        )
        connection.execute("ANALYZE orders")
    found = interleave({way: partial(_measure, server, way, queries, seconds) for way in WAYS}, rounds)
    medians = {way: [statistics.median(getattr(turn, name) for turn in turns) for name in
                     ("runs", "half", "tail", "cpu")] for way, turns in found.items()}  # fmt: skip
    for way, cells in medians.items():
        table.add(way, *cells)
    ours, polled = medians[NARROWED], medians[POLLING]
    limit = "a SELECT of the ORM in Python: some 1.5 ms each"
    table.figures.append(Figure("live queries, CPU: of a poll each second", ours[3] / polled[3], 1.0, limit))
    table.figures.append(
        Figure("live queries, 99% of the writes: of a poll each second", ours[2] / polled[2], 0.1, limit)
    )
    engine.dispose()
    return [table]


def _measure(server: Server, way: str, queries: int, seconds: float) -> Turn:
    command = [sys.executable, "-m", "benchmarks.live_clients", way, server.url("psycopg"), str(queries), str(seconds)]
    is_over = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        writing = threading.Thread(target=_write, args=(server, queries * ROWS, is_over))
        writing.start()
        found = json.loads(process.stdout.readline())
        is_over.set()
        writing.join()
    late = found["latencies"]
    return Turn(found["runs"], found["cpu"], percentile(late, 0.5), percentile(late, 0.99))


def _write(server: Server, rows: int, is_over: threading.Event) -> None:
    chance = random.Random(1)
    with server.connect() as connection:
        connection.execute("SET synchronous_commit = off")
        due = time.monotonic()
        while not is_over.is_set():
            connection.execute(
                "UPDATE orders SET version = version + 1, written_at = extract(epoch FROM clock_timestamp()) "
                "WHERE id = %s",
                (chance.randint(1, rows),),
            )
            due += 1 / WRITES
            time.sleep(max(0.0, due - time.monotonic()))
