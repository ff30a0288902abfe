"""The memory that a listener takes through a large statement."""

from __future__ import annotations

import multiprocessing
import re
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from sqlalchemy_watch import Listener

from .harness import Table
from .peers import WATCHED, WatchedTable, create, table_name
from .server import Server


def run(server: Server, quick: bool) -> list[Table]:
    """The table of peak resident memory."""
    rows = 20_000 if quick else 1_000_000
    table = Table(
        "Memory",
        f"A process with a listener alone, through an UPDATE of {rows:,} rows in one statement.",
        ("peak before, MB", "peak, MB", "rows heard", "seconds"),
    )
    create(server, WATCHED, "updated")
    name = table_name(WATCHED, "updated")
    with server.connect() as connection:
        connection.execute(f"INSERT INTO {name} SELECT i, i % 7, 'n' FROM generate_series(1, {rows}) AS i")
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_listen, args=(theirs, server.url("psycopg"), name), daemon=True)
        process.start()
        before = pipe.recv()
        started = time.perf_counter()
        connection.execute(f"UPDATE {name} SET role_id = role_id + 1")
        pipe.send("written")
        peak, heard = pipe.recv()
        table.add(before, peak, f"{heard:,}", time.perf_counter() - started)
        process.join()
        connection.execute(f"DROP TABLE {name}")
    return [table]


def _listen(pipe: Connection, url: str, table: str) -> None:
    heard = 0

    def count(sender: Any, event: Any) -> None:
        nonlocal heard
        heard += 1

    User = WatchedTable().model(table, "updated")
    User.watch.connect(count)
    with Listener(create_engine(url), User) as listener:
        pipe.send(megabytes())
        pipe.recv()
        listener.catch_up(timeout=120)
        pipe.send((megabytes(), heard))


def megabytes() -> float:
    """The peak of this process, in Linux's own words: `ru_maxrss` begins with that of the parent."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None, status
    return int(found[1]) / 1024
