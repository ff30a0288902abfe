"""From a write to the receiver: many rows at once, many notifications, and one row at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import psycopg

from .harness import Figure, Table, interleave, number, percentile
from .hearing import Hearing
from .peers import (
    BARE_LOOP,
    DURABLE,
    ONE_ROW_LOOP,
    ONE_ROW_PAYLOADS,
    ONE_ROW_SIGNALS,
    PGPUBSUB,
    ROW_TRIGGER,
    SQLNOTIFY,
    WATCHED,
    create,
    drop_slot,
)
from .server import Server

#: Seconds after which a listener that has not heard everything is left alone.
PATIENCE = 30.0

#: Seconds after which a listener is not asked again.
SLOW = 5.0


def run(server: Server, quick: bool) -> list[Table]:
    """The tables of throughput and latency."""
    return [_bulk(server, quick), _notifications(server, quick), _latency(server, quick)]


def _bulk(server: Server, quick: bool) -> Table:
    rows, rounds = (5_000, 3) if quick else (100_000, 5)
    peers = (WATCHED, DURABLE, ROW_TRIGGER, BARE_LOOP, SQLNOTIFY, PGPUBSUB)
    table = Table(
        "One statement to the last receiver",
        f"An INSERT of {rows:,} rows in one statement: from its start until the receiver has been called with the last "
        "row, commit included. The row trigger's loop decodes JSON and sends a blinker signal; the bare loop does "
        "nothing.",
        ("listener", "seconds", "rows/s", "times as fast as the row trigger's loop"),
    )
    found = interleave({peer: _bulk_run(server, peer, rows) for peer in peers}, rounds)
    base = statistics.median(value for value, _ in found[ROW_TRIGGER])
    for peer in peers:
        _add_bulk(table, peer, found[peer], rows, base)
    ours = statistics.median(value for value, _ in found[WATCHED])
    what = "one statement to the last receiver: times as fast as the row trigger's loop"
    limit = "the statement itself and parsing the JSON; the rest is making an event for each row"
    table.figures.append(Figure(what, base / ours, 8, limit, at_most=False))
    return table


def _add_bulk(table: Table, peer: str, runs: list[tuple[float, int]], rows: int, base: float) -> None:
    heard = min(count for _, count in runs)
    if heard < rows:
        table.add(peer, f"gave up after {PATIENCE:g}", f"{heard / PATIENCE:,.0f}", "-")
        table.notes.append(f"{peer} had heard {heard:,} of the {rows:,} rows by then.")
        return
    seconds = statistics.median(value for value, _ in runs)
    table.add(peer, seconds, f"{rows / seconds:,.0f}", base / seconds)


def _bulk_run(server: Server, peer: str, rows: int) -> Callable[[], tuple[float, int]]:
    table = create(server, peer, "inserted")
    outcome: list[tuple[float, int]] = []

    def run() -> tuple[float, int]:
        if outcome and outcome[0][0] > SLOW:
            return outcome[0]  # once is enough to see that it takes too long
        with server.connect() as connection, Hearing(peer, server.url(), table, "inserted", rows) as hearing:
            connection.execute(f"TRUNCATE {table}")
            started = time.perf_counter()
            connection.execute(f"INSERT INTO {table} SELECT i, i % 7, 'n' FROM generate_series(1, {rows}) AS i")
            heard_at = hearing.wait(PATIENCE)
            outcome.append((PATIENCE, hearing.count()) if heard_at is None else (heard_at - started, rows))
        drop_slot(server, table)
        return outcome[-1]

    return run


def _notifications(server: Server, quick: bool) -> Table:
    count, rounds = (5_000, 3) if quick else (100_000, 5)
    peers = (ONE_ROW_PAYLOADS, ONE_ROW_LOOP, ONE_ROW_SIGNALS)
    table = Table(
        "As many notifications as single-row transactions send",
        f"{count:,} notifications of one row each, as single-row transactions send them, from their commit to the last "
        "receiver. All listen to the same channel; the bare loop does nothing with what comes.",
        ("listener", "seconds", "microseconds a notification", "ratio"),
    )
    name = create(server, ONE_ROW_PAYLOADS, "inserted")
    found = interleave({peer: lambda peer=peer: _one_row_each(server, peer, name, count) for peer in peers}, rounds)
    median = {peer: statistics.median(values) for peer, values in found.items()}
    for peer in peers:
        table.add(peer, median[peer], median[peer] / count * 1e6, median[peer] / median[ONE_ROW_LOOP])
    ratio = median[ONE_ROW_PAYLOADS] / median[ONE_ROW_LOOP]
    limit = "the bare loop decodes nothing; the row trigger's loop, which does, takes about as long"
    table.figures.append(Figure("single-row notifications: time of the bare loop's", ratio, 1.0, limit))
    return table


def _one_row_each(server: Server, peer: str, table: str, count: int) -> float:
    with server.connect() as connection, Hearing(peer, server.url(), table, "inserted", count) as hearing:
        connection.execute(f"TRUNCATE {table}")
        with connection.transaction():
            connection.execute(f"INSERT INTO {table} SELECT i, i % 7, 'n' FROM generate_series(1, {count}) AS i")
            started = time.perf_counter()
        heard_at = hearing.wait(PATIENCE * 2)
        if heard_at is None:
            raise RuntimeError(f"{peer} heard {hearing.count():,} of {count:,} notifications")
        return heard_at - started


def _latency(server: Server, quick: bool) -> Table:
    peers = (BARE_LOOP, WATCHED, DURABLE, ROW_TRIGGER, SQLNOTIFY, PGPUBSUB)
    blocks, each = (3, 50) if quick else (15, 100)
    table = Table(
        "Commit to receiver",
        f"Single-row transactions, {blocks * each:,} for each listener in turns of {each}, one at a time: from just "
        "before COMMIT until the receiver, in another process, is called.",
        ("listener", "median, ms", "99th percentile, ms", "median ratio", "99th percentile ratio"),
    )
    names = {peer: create(server, peer, "inserted") for peer in peers}
    hearings = {peer: Hearing(peer, server.url(), names[peer], "inserted", 1) for peer in peers}
    with server.connect() as connection:
        try:
            for hearing in hearings.values():
                hearing.__enter__()
            turns = {peer: lambda peer=peer: _commits(connection, hearings[peer], names[peer], each) for peer in peers}
            found = interleave(turns, blocks)
        finally:
            for hearing in hearings.values():
                hearing.__exit__()
    drop_slot(server, names[DURABLE])
    figures = {}
    for peer in peers:
        times = [value for turn in found[peer] for value in turn]
        figures[peer] = (statistics.median(times), percentile(times, 0.99))
    floor = figures[BARE_LOOP]
    for peer, (middle, tail) in figures.items():
        table.add(peer, middle * 1e3, tail * 1e3, middle / floor[0], tail / floor[1])
    ours = figures[WATCHED]
    limit = "some 30 us for the trigger's larger function and for decoding into typed values"
    table.figures.append(Figure("commit to receiver, median: of the bare loop's", ours[0] / floor[0], 1.2, limit))
    limit = "the scheduler of a machine with few processors: it differs from run to run by a half"
    table.figures.append(
        Figure("commit to receiver, 99th percentile: of the bare loop's", ours[1] / floor[1], 1.5, limit)
    )
    return table


def _commits(connection: psycopg.Connection[Any], hearing: Hearing, table: str, count: int) -> list[float]:
    connection.execute(f"TRUNCATE {table}")
    times = []
    for i in range(count):
        connection.execute("BEGIN")
        connection.execute(f"INSERT INTO {table} VALUES (%s, 1, 'n')", (i,))
        started = time.perf_counter()
        connection.execute("COMMIT")
        heard_at = hearing.wait(PATIENCE)
        if heard_at is None:
            raise RuntimeError(f"{hearing.peer} did not hear a committed row within {number(PATIENCE)} s")
        times.append(heard_at - started)
    return times
