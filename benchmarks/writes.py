"""What watching adds to a write: the server's processor time, and wall time."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from .harness import Figure, Table, interleave, medians, number
from .peers import DURABLE, ONE_ROW_PAYLOADS, PGPUBSUB, ROW_TRIGGER, SQLNOTIFY, UNWATCHED, WATCHED, Kind, create
from .server import Server

#: What one's own trigger is compared with, and the heading of each.
LEVELS = {WATCHED: "statement level", ONE_ROW_PAYLOADS: "row level", DURABLE: "durable"}
PACKAGES = (SQLNOTIFY, PGPUBSUB)

#: Statements of a loop: so few that the peers of a round find the machine in the same mood.
LOOPS = 200


@dataclass(frozen=True)
class Write:
    """A statement that is measured: one of many rows, or, in a loop within the server where `i` counts, of few."""

    title: str
    kind: Kind
    sql: str
    loop: bool = False
    commit: bool = False
    packages: bool = False  # stands in the table of packages as well
    own: bool = True  # stands in the table of triggers


@dataclass(frozen=True)
class Cost:
    """Microseconds of the server's process, and of the clock on the wall."""

    cpu: float
    wall: float


INSERT_ONE = "INSERT INTO {table} VALUES (i, i % 7, 'n')"
INSERT_MANY = "INSERT INTO {table} SELECT n, n % 7, 'n' FROM generate_series(1, {rows}) AS n"
INSERT_TEN = "INSERT INTO {table} SELECT i * 10 + n, n, 'n' FROM generate_series(0, 9) AS n"
UPDATE = "UPDATE {table} SET role_id = role_id + 1"
COPY = "COPY {table} FROM STDIN"

SINGLE_TRANSACTIONS = Write(
    "INSERT of one row, a transaction each", "inserted", INSERT_ONE, loop=True, commit=True, packages=True
)
SINGLE_STATEMENTS = Write("INSERT of one row, in one transaction", "inserted", INSERT_ONE, loop=True)
NO_ROW = Write("INSERT of no row", "inserted", "INSERT INTO {table} SELECT i, 1, 'n' WHERE i IS NULL", loop=True)
TEN_ROWS = Write("INSERT of 10 rows", "inserted", INSERT_TEN, loop=True)
BULK_INSERT = Write("INSERT of {rows}, a row", "inserted", INSERT_MANY, packages=True)
BULK_COPY = Write("COPY of {rows}, a row", "inserted", COPY, packages=True, own=False)
BULK_UPDATE = Write("UPDATE of {rows}, a row", "updated", UPDATE)
BULK_DELETE = Write("DELETE of {rows}, a row", "deleted", "DELETE FROM {table}")
SINGLE_CHANGE = Write("UPDATE with trigger columns, one row", "changed", UPDATE + " WHERE id = i", loop=True)
BULK_CHANGE = Write("UPDATE with trigger columns of {rows}, a row", "changed", UPDATE, packages=True)

WRITES = (
    SINGLE_TRANSACTIONS, SINGLE_STATEMENTS, NO_ROW, TEN_ROWS, BULK_INSERT, BULK_COPY, BULK_UPDATE, BULK_DELETE,
    SINGLE_CHANGE, BULK_CHANGE,
)  # fmt: skip

READS_ITS_ROWS = "a statement trigger opens a relation of the statement's rows and reads it, be it for one row"
GUARD = "the subtransaction that keeps a fault of the trigger's from the write, and the payload's text"
KEEPS_ROWS = "keeping the statement's rows"
PAIRS_ROWS = "keeping the statement's old and new rows, and pairing them"

#: The shares of the row trigger's added processor time that are aimed at, and what limits them.
AIMS: tuple[tuple[Write, str, float, str], ...] = (
    (SINGLE_TRANSACTIONS, WATCHED, 1.6, READS_ITS_ROWS),
    (SINGLE_TRANSACTIONS, ONE_ROW_PAYLOADS, 1.25, GUARD),
    (SINGLE_STATEMENTS, WATCHED, 1.2, READS_ITS_ROWS),
    (SINGLE_STATEMENTS, ONE_ROW_PAYLOADS, 0.8, GUARD),
    (BULK_INSERT, WATCHED, 0.14, KEEPS_ROWS),
    (BULK_UPDATE, WATCHED, 0.14, PAIRS_ROWS),
    (BULK_DELETE, WATCHED, 0.14, KEEPS_ROWS),
    (BULK_CHANGE, WATCHED, 0.32, PAIRS_ROWS),
)


def run(server: Server, quick: bool) -> list[Table]:
    """The tables of added processor time and of added wall time."""
    rows, rounds, loop_rounds = (10_000, 9, 75) if quick else (100_000, 15, 150)
    of_own = Table(
        "What watching adds to a write",
        "Microseconds of the CPU of the server's process a statement, of the long ones a row, commit included, nobody "
        "listening: first those of the unwatched table, then what each trigger adds, and its share of what the row "
        "trigger adds (the median of the shares of all rounds). The key and one column are carried. Statements of few "
        f"rows are made by a loop within the server, {LOOPS} a round in one transaction where nothing else is said, "
        "and so without the round trips of a client. Commits do not wait for the disk: the wait is the table's, be it "
        "watched or not.",
        ("statement", UNWATCHED, ROW_TRIGGER, *LEVELS.values(), *(f"share, {level}" for level in LEVELS.values())),
    )
    of_packages = Table(
        "Added write time",
        "The same in wall time: microseconds, and the packages beside.",
        ("statement", UNWATCHED, ROW_TRIGGER, WATCHED, *PACKAGES, f"share, {WATCHED}"),
    )
    differences = []
    for write in WRITES:
        found = _measure(server, write, rows, loop_rounds if write.loop else rounds)
        title = write.title.format(rows=f"{rows:,}")
        if write.own:
            cpu = {name: [cost.cpu for cost in costs] for name, costs in found.items()}
            # A share of next to nothing says nothing.
            shares = ["-" if write is NO_ROW else number(_share(cpu, level)) for level in LEVELS]
            of_own.add(title, *_cells(cpu, (ROW_TRIGGER, *LEVELS)), *shares)
            for aimed, level, aim, limit in AIMS:
                if aimed is write:
                    what = f"{title}: {LEVELS[level]} / {ROW_TRIGGER}"
                    of_own.figures.append(Figure(what, _share(cpu, level), aim, limit))
                    even, odd = (_share(cpu, level, slice(first, None, 2)) for first in (0, 1))
                    differences.append(abs(even - odd) / _share(cpu, level))
        if write.packages:
            wall = {name: [cost.wall for cost in costs] for name, costs in found.items()}
            of_packages.add(title, *_cells(wall, (ROW_TRIGGER, WATCHED, *PACKAGES)), _share(wall, WATCHED))
    of_own.notes.append(
        f"How far the shares aimed at can be trusted: those of the even rounds and those of the odd ones differ by "
        f"{statistics.median(differences):.0%}, {max(differences):.0%} at most."
    )
    if not _schedstat("self").exists():
        of_own.notes.append("This system has no `/proc/PID/schedstat`: it is wall time that stands in this table.")
    return [of_own, of_packages]


def _cells(values: dict[str, list[float]], names: Iterable[str]) -> list[str]:
    """The unwatched table's time, and what each of the others adds to it."""
    found = medians({name: _added(values, name) for name in names})
    signed = (f"{'-' if added < 0 else '+'}{number(abs(added))}" for added in found.values())
    return [number(statistics.median(values[UNWATCHED])), *signed]


def _added(values: dict[str, list[float]], name: str) -> list[float]:
    """What it adds to the unwatched table's in each round: what slows the machine down slows both."""
    return [own - base for own, base in zip(values[name], values[UNWATCHED], strict=True)]


def _share(values: dict[str, list[float]], name: str, rounds: slice = slice(None)) -> float:
    """The share of what the row trigger adds in the same round."""
    own, row = _added(values, name)[rounds], _added(values, ROW_TRIGGER)[rounds]
    return statistics.median(a / b for a, b in zip(own, row, strict=True))


def _measure(server: Server, write: Write, rows: int, rounds: int) -> dict[str, list[Cost]]:
    """What each of the peers takes in each round: in a loop for a statement, else for a row."""
    names = [UNWATCHED, ROW_TRIGGER, *(LEVELS if write.own else (WATCHED,)), *(PACKAGES if write.packages else ())]
    tables = {name: create(server, name, write.kind) for name in names}
    with server.connect() as connection:
        # An unlogged table's commit waits for the disk only if a trigger logs something, another table's always.
        connection.execute("SET synchronous_commit = off")
        clock = _processor_clock(connection)
        turns = {}
        for name, table in tables.items():
            # A new plan in the middle of a loop would be this peer's bad luck.
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            if write.loop and write.kind != "inserted":
                _fill(connection, table, LOOPS * (rounds + 1))
            if write.loop:
                turns[name] = _loop(connection, clock, table, write)
            else:
                turns[name] = _bulk(connection, clock, table, write, rows)
        interleave(turns, 1)  # functions are compiled then, plans made, and caches filled
        found = interleave(turns, rounds)
        connection.execute(f"DROP TABLE {', '.join(tables.values())} CASCADE")
    return found


def _loop(
    connection: psycopg.Connection[Any], clock: Callable[[], float], table: str, write: Write
) -> Callable[[], Cost]:
    """Within the server: over a connection the difference gets lost in the noise of the round trips."""
    firsts = itertools.count(1, LOOPS)
    commit = "COMMIT;" if write.commit else ""
    statement = write.sql.format(table=table)

    def turn() -> Cost:
        first = next(firsts)
        loop = f"FOR i IN {first}..{first + LOOPS - 1} LOOP {statement}; {commit} END LOOP;"
        return _cost(clock, LOOPS, lambda: connection.execute(f"DO $$ BEGIN {loop} END $$"))

    return turn


def _bulk(
    connection: psycopg.Connection[Any], clock: Callable[[], float], table: str, write: Write, rows: int
) -> Callable[[], Cost]:
    statement = write.sql.format(table=table, rows=rows)
    data = "".join(f"{n}\t{n % 7}\tn\n" for n in range(1, rows + 1))

    def execute() -> None:
        if write.sql != COPY:
            connection.execute(statement)
            return
        with connection.cursor() as cursor, cursor.copy(statement) as stream:
            stream.write(data)

    def turn() -> Cost:
        if write.kind != "inserted":
            _fill(connection, table, rows)
        cost = _cost(clock, rows, execute)
        connection.execute(f"TRUNCATE {table}")
        return cost

    return turn


def _fill(connection: psycopg.Connection[Any], table: str, rows: int) -> None:
    connection.execute("SET session_replication_role = replica")
    connection.execute(INSERT_MANY.format(table=table, rows=rows))
    connection.execute(f"ANALYZE {table}")
    connection.execute("RESET session_replication_role")


def _cost(clock: Callable[[], float], count: int, execute: Callable[[], object]) -> Cost:
    cpu, wall = clock(), time.perf_counter()
    execute()
    wall = time.perf_counter() - wall
    return Cost((clock() - cpu) / count * 1e6, wall / count * 1e6)


def _schedstat(process: int | str) -> Path:
    return Path(f"/proc/{process}/schedstat")


def _processor_clock(connection: psycopg.Connection[Any]) -> Callable[[], float]:
    """The seconds that the connection's process has run; where the system doesn't tell, the clock on the wall."""
    process = connection.info.backend_pid
    path, status = _schedstat(process), Path(f"/proc/{process}/stat")
    if not path.exists():
        return time.perf_counter

    def read() -> float:
        # What a process has run since the last tick is added when it goes to sleep, just after it has answered.
        while status.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.0001)
        time.sleep(0.0005)
        return int(path.read_text().split()[0]) / 1e9

    return read
