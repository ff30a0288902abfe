"""Receivers side by side: the time for an event whose receiver waits 2 ms for somebody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy_watch import Listener

from .harness import Figure, Table, interleave, medians
from .peers import DURABLE, WatchedTable, create, drop_slot, table_name
from .server import Server

#: Seconds that a receiver takes.
SECONDS = 0.002

DIRECT = "one after the other"


def run(server: Server, quick: bool) -> list[Table]:
    """Return the table of lanes."""
    rows, rounds = (200, 3) if quick else (2_000, 5)
    table = Table(
        "Receivers side by side",
        f"Microseconds for each of {rows:,} rows of one statement, whose receiver sleeps {SECONDS * 1000:g} ms, from "
        "the listener's start until all are acknowledged. Coroutine receivers sleep in their event loop.",
        ("receivers", "microseconds", "times as fast"),
    )
    create(server, DURABLE, "inserted", unlogged=False)
    name = table_name(DURABLE, "inserted")
    turns: dict[str, Callable[[], float]] = {
        DIRECT: partial(_plain, server, name, rows, 1),
        "8 workers": partial(_plain, server, name, rows, 8),
        "64 workers": partial(_plain, server, name, rows, 64),
        "100 coroutines": partial(_coroutines, server, name, rows, 100),
    }
    found = medians(interleave(turns, rounds))
    for peer in turns:
        table.add(peer, found[peer], found[DIRECT] / found[peer])
    limit = "waking threads, which share one interpreter"
    ratio = found[DIRECT] / found["8 workers"]
    table.figures.append(Figure("8 workers, a receiver of 2 ms: times as fast", ratio, 7, limit, at_most=False))
    return [table]


def _plain(server: Server, table: str, rows: int, workers: int) -> float:
    User = _prepare(server, table, rows)
    User.watch.inserted.connect(lambda sender, event: time.sleep(SECONDS))
    with Listener(server.engine(), User, durable=table, workers=workers) as listener:
        started = time.perf_counter()
        listener.catch_up(timeout=120)
        seconds = time.perf_counter() - started
    drop_slot(server, table)
    return seconds / rows * 1e6


def _coroutines(server: Server, table: str, rows: int, workers: int) -> float:
    User = _prepare(server, table, rows)

    async def receive(sender: Any, event: Any) -> None:
        await asyncio.sleep(SECONDS)

    async def main() -> float:
        User.watch.inserted.connect(receive)
        async with Listener(server.engine(), User, durable=table, workers=workers) as listener:
            started = time.perf_counter()
            await listener.catch_up_async(timeout=120)
            return time.perf_counter() - started

    seconds = asyncio.run(main())
    drop_slot(server, table)
    return seconds / rows * 1e6


def _prepare(server: Server, table: str, rows: int) -> Any:
    User = WatchedTable("durable").model(table, "inserted")
    with Listener(server.engine(), User, durable=table):
        pass
    with server.connect() as connection:
        connection.execute(f"TRUNCATE {table}")
        connection.execute(f"INSERT INTO {table} SELECT i, 1, 'n' FROM generate_series(1, {rows}) AS i")
    return User
