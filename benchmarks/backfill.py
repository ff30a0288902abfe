"""Existing rows told of one by one, while others write: how long that takes, how much memory, and how much log."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import psycopg
from sqlalchemy import create_engine, select

from sqlalchemy_watch import Listener

from .harness import Figure, Table, interleave, medians
from .memory import megabytes
from .peers import DURABLE, WatchedTable, create, drop_slot, table_name
from .server import Server

OURS, LOOP = "backfill", "select() by key, 1,000 rows at a time"

WRITERS = 2


def run(server: Server, quick: bool) -> list[Table]:
    """Return the table of backfills."""
    rows, rounds = (20_000, 1) if quick else (1_000_000, 3)
    table = Table(
        "Existing rows",
        f"{rows:,} rows, each handed to a receiver in Python, while {WRITERS} clients update rows of the table as fast "
        "as they can, which the consumer of the backfill hears as well. The loop loads the rows with SQLAlchemy, and "
        "may tell of a row as it was before its last event.",
        ("what", "seconds", "times the loop", "memory, MB more", "log held at most, MB", "rows a second"),
    )
    create(server, DURABLE, "updated", unlogged=False)
    name = table_name(DURABLE, "updated")
    with server.connect() as connection:
        connection.execute("SET sqlalchemy_watch.muted = 'on'")
        connection.execute(f"INSERT INTO {name} SELECT i, 1, 'n' FROM generate_series(1, {rows}) AS i")
        connection.execute(f"VACUUM ANALYZE {name}")
    turns: dict[str, Callable[[], list[float]]] = {
        peer: partial(_measure, server, name, rows, read) for peer, read in ((OURS, _backfill), (LOOP, _loop))
    }
    found = interleave(turns, rounds)
    middle = {peer: [medians({"": column})[""] for column in zip(*found[peer], strict=True)] for peer in turns}
    for peer, (seconds, memory, held) in middle.items():
        table.add(peer, seconds, seconds / middle[LOOP][0], memory, held, rows / seconds)
    limit = "decoding text into typed values and making an event for each row, with the writers' events between them"
    table.figures.append(
        Figure("existing rows: time of a loop of selects", middle[OURS][0] / middle[LOOP][0], 3, limit)
    )
    return [table]


def _measure(server: Server, table: str, rows: int, read: Callable[..., None]) -> list[float]:
    User = WatchedTable("durable").model(table, "updated")
    with Listener(server.engine(), User, durable=table):
        pass
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    with _writers(server, table, rows), _looking(server, table) as held:
        process = context.Process(target=read, args=(theirs, server.url("psycopg"), table, rows), daemon=True)
        process.start()
        seconds, memory = pipe.recv()
        process.join()
    drop_slot(server, table)
    return [seconds, memory, max(held) / 2**20]


@contextlib.contextmanager
def _writers(server: Server, table: str, rows: int) -> Iterator[None]:
    """Update rows, each in a transaction of its own, until the block ends."""
    loop = (
        f"DO $$ BEGIN LOOP UPDATE {table} SET role_id = role_id + 1 WHERE id = 1 + (random() * {rows - 1})::int; "
        "COMMIT; PERFORM pg_sleep(0.001); END LOOP; END $$"
    )
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(WRITERS)]
        threads = [threading.Thread(target=_until_cancelled, args=(connection, loop)) for connection in connections]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for connection, thread in zip(connections, threads, strict=True):
                connection.cancel()
                thread.join()


def _until_cancelled(connection: psycopg.Connection[Any], statement: str) -> None:
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        connection.execute(statement.encode())


@contextlib.contextmanager
def _looking(server: Server, slot: str) -> Iterator[list[int]]:
    """Note how much log the slot holds, until the block ends."""
    held, ended = [0], threading.Event()

    def look() -> None:
        query = (
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) FROM pg_replication_slots "
            "WHERE slot_name = %s"
        )
        with server.connect() as connection:
            while not ended.wait(0.05):
                row = connection.execute(query, [slot]).fetchone()
                held.append(int(row[0]) if row is not None else 0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()


def _backfill(pipe: Connection, url: str, table: str, rows: int) -> None:
    User = WatchedTable("durable").model(table, "updated")
    read, filled = 0, threading.Event()

    def receive(sender: Any, event: Any) -> None:
        nonlocal read
        read += 1

    User.watch.read.connect(receive)
    User.watch.updated.connect(lambda sender, event: None)
    with Listener(create_engine(url), User, durable=table) as listener:
        listener.backfilled.connect(lambda sender, *, model, started_at: filled.set(), weak=False)
        listener.catch_up(timeout=60)
        before, started = megabytes(), time.perf_counter()
        listener.backfill(User)
        filled.wait()
        pipe.send((time.perf_counter() - started, megabytes() - before))
    assert read >= rows, read


def _loop(pipe: Connection, url: str, table: str, rows: int) -> None:
    User = WatchedTable("durable").model(table, "updated")
    columns = User.__table__.c
    read = last = 0

    def receive(sender: Any, row: Any) -> None:
        nonlocal read
        read += 1

    query = select(columns.id, columns.role_id).order_by(columns.id).limit(1_000)
    with create_engine(url).connect() as connection:
        before, started = megabytes(), time.perf_counter()
        while chunk := connection.execute(query.where(columns.id > last)).all():
            for row in chunk:
                receive(User, row)
            last = chunk[-1].id
            connection.rollback()
        pipe.send((time.perf_counter() - started, megabytes() - before))
    assert read == rows, read
