"""The time that watching adds to a write."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from .harness import Figure, Table, interleave, medians, number
from .peers import PGPUBSUB, ROW_TRIGGER, SQLNOTIFY, UNWATCHED, WATCHED, Kind, create
from .server import Server

PEER_NAMES = (UNWATCHED, WATCHED, ROW_TRIGGER, SQLNOTIFY, PGPUBSUB)

#: Title, what is watched, and the share of the row trigger's added time that is aimed at.
WRITES: tuple[tuple[str, Kind, float], ...] = (
    ("INSERT", "inserted", 0.15),
    ("COPY", "inserted", 0.15),
    ("UPDATE", "updated", 0.15),
    ("DELETE", "deleted", 0.25),
    ("UPDATE, trigger columns", "changed", 0.45),
)

SINGLE = "single-row transactions"


def run(server: Server, quick: bool) -> list[Table]:
    """The table of added time per row."""
    rows, rounds = (5_000, 3) if quick else (100_000, 5)
    table = Table(
        "Added write time",
        f"{rows:,} rows in one statement, commit included, nobody listening: microseconds per row, less those of the "
        "unwatched table (first column). The key and one column are carried. Single-row transactions are made by a "
        "loop within the server, and so without the round trips of a client.",
        ("statement", *PEER_NAMES, "share of the row trigger"),
    )
    for title, kind, aim in WRITES:
        found = _measure(server, title, kind, rows, rounds)
        share = _add(table, title, found)
        limit = "keeping the statement's old and new rows" if kind != "inserted" else "keeping the statement's rows"
        table.figures.append(Figure(f"{title}: share of the row trigger", share, aim, limit))
    singles = 1_000 if quick else 5_000
    found = _measure(server, SINGLE, "inserted", singles, rounds + 2)
    share = _add(table, f"{SINGLE} ({singles:,} INSERTs)", found)
    limit = "a statement trigger opens a relation of the statement's rows and reads it, be it for one row"
    table.figures.append(Figure(f"{SINGLE}: share of the row trigger", share, 1.0, limit))
    return [table]


def _add(table: Table, title: str, found: dict[str, float]) -> float:
    base = found[UNWATCHED]
    added = {name: value - base for name, value in found.items()}
    share = added[WATCHED] / added[ROW_TRIGGER]
    others = [f"+{number(added[name])}" for name in PEER_NAMES if name != UNWATCHED]
    table.add(title, base, *others, share)
    return share


def _measure(server: Server, title: str, kind: Kind, rows: int, rounds: int) -> dict[str, float]:
    tables = {name: create(server, name, kind) for name in PEER_NAMES}
    with server.connect() as connection:
        runs = {name: partial(_write, connection, tables[name], title, rows) for name in PEER_NAMES}
        found = medians(interleave(runs, rounds))
    return {name: seconds / rows * 1e6 for name, seconds in found.items()}


def _write(connection: psycopg.Connection[Any], table: str, title: str, rows: int) -> float:
    connection.execute(f"TRUNCATE {table}")
    fill = f"INSERT INTO {table} SELECT i, i % 7, 'n' FROM generate_series(1, {rows}) AS i"
    if title.startswith(("UPDATE", "DELETE")):
        connection.execute("SET session_replication_role = replica")
        connection.execute(fill)
        connection.execute(f"ANALYZE {table}")
        connection.execute("RESET session_replication_role")
    write = _statement(connection, table, title, rows, fill)
    started = time.perf_counter()
    write()
    return time.perf_counter() - started


def _statement(connection: psycopg.Connection[Any], table: str, title: str, rows: int, fill: str) -> Callable[[], None]:
    if title == "COPY":
        data = "".join(f"{i}\t{i % 7}\tn\n" for i in range(1, rows + 1))

        def copy() -> None:
            with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as stream:
                stream.write(data)

        return copy
    if title == SINGLE:
        # Within the server: over a connection the difference gets lost in the noise of the round trips.
        fill = (
            f"DO $$ BEGIN FOR i IN 1..{rows} LOOP INSERT INTO {table} VALUES (i, i % 7, 'n'); COMMIT; END LOOP; END $$"
        )
        title = "INSERT"
    update = f"UPDATE {table} SET role_id = role_id + 1"
    statement = {"INSERT": fill, "DELETE": f"DELETE FROM {table}"}.get(title, update)

    def execute() -> None:
        connection.execute(statement)

    return execute
