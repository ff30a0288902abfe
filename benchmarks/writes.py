"""What watching adds to a write: the server's processor time, and wall time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from .harness import Figure, Table, interleave, medians, number
from .peers import DURABLE, ONE_ROW_PAYLOADS, PGPUBSUB, ROW_TRIGGER, SQLNOTIFY, UNWATCHED, WATCHED, Kind, create
from .server import Server

#: What one's own trigger is compared with, and the heading of each.
LEVELS = {WATCHED: "statement level", ONE_ROW_PAYLOADS: "row level", DURABLE: "durable"}
PACKAGES = (SQLNOTIFY, PGPUBSUB)

#: Statements of a loop that are run before it is measured: functions are compiled then, and plans made.
WARM = 100


@dataclass(frozen=True)
class Write:
    """A statement that is measured: once, or in a loop within the server, where `i` counts."""

    title: str
    kind: Kind
    sql: str
    loop: bool = False
    commit: bool = False
    packages: bool = False  # stands in the table of packages as well
    own: bool = True  # stands in the table of triggers


@dataclass(frozen=True)
class Cost:
    """Seconds that one measurement took of the server's process, and of the clock on the wall."""

    cpu: float
    wall: float


INSERT_ONE = "INSERT INTO {table} VALUES (i, i % 7, 'n')"
INSERT_MANY = "INSERT INTO {table} SELECT n, n % 7, 'n' FROM generate_series(1, {rows}) AS n"
UPDATE = "UPDATE {table} SET role_id = role_id + 1"
INSERT_TEN = "INSERT INTO {table} SELECT i * 10 + n, n, 'n' FROM generate_series(0, 9) AS n"
COPY = "COPY {table} FROM STDIN"

SINGLE_TRANSACTIONS = Write("INSERT of one row, a transaction each", "inserted", INSERT_ONE, True, True, True)
SINGLE_STATEMENTS = Write("INSERT of one row, in one transaction", "inserted", INSERT_ONE, True)
NO_ROW = Write("INSERT of no row", "inserted", "INSERT INTO {table} SELECT i, 1, 'n' WHERE i IS NULL", True)
TEN_ROWS = Write(
    "INSERT of 10 rows",
    "inserted",
    "INSERT INTO {table} SELECT i * 10 + n, n, 'n' FROM generate_series(0, 9) AS n",
    True,
)
BULK_INSERT = Write("INSERT of {rows}, a row", "inserted", INSERT_MANY, packages=True)
BULK_COPY = Write("COPY of {rows}, a row", "inserted", COPY, packages=True, own=False)
BULK_UPDATE = Write("UPDATE of {rows}, a row", "updated", UPDATE, packages=True)
BULK_DELETE = Write("DELETE of {rows}, a row", "deleted", "DELETE FROM {table}", packages=True)
SINGLE_CHANGE = Write("UPDATE with trigger columns, one row", "changed", UPDATE + " WHERE id = i", True)
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
    rows, loops, bulk_rounds, loop_rounds = (20_000, 1_000, 3, 7) if quick else (100_000, 2_000, 7, 31)
    of_own = Table(
        "What watching adds to a write",
        "Microseconds of the CPU of the server's process a statement, of the long ones a row, commit included, nobody "
        "listening: first those of the unwatched table, then what each trigger adds, and its share of what the row "
        "trigger adds. The key and one column are carried. Statements of few rows are made by a loop within the server "
        f"({loops:,} of them), and so without the round trips of a client. Commits do not wait for the disk, whose "
        "share is the table's own.",
        (
            "statement", UNWATCHED, ROW_TRIGGER, *LEVELS.values(),
            *(f"{level} / {ROW_TRIGGER}" for level in LEVELS.values()),
        ),
    )  # fmt: skip
    of_packages = Table(
        "Added write time",
        "The same in wall time, with the packages beside.",
        ("statement", UNWATCHED, WATCHED, ROW_TRIGGER, *PACKAGES, f"{WATCHED} / {ROW_TRIGGER}"),
    )
    differences = []
    for write in WRITES:
        found = _measure(server, write, loops if write.loop else rows, loop_rounds if write.loop else bulk_rounds)
        title = write.title.format(rows=f"{rows:,}")
        if write.own:
            cpu = {name: [cost.cpu for cost in costs] for name, costs in found.items()}
            added = _added(cpu)
            shares = {level: added[level] / added[ROW_TRIGGER] for level in LEVELS}
            cells = [f"{added[name]:+.2f}" for name in (ROW_TRIGGER, *LEVELS)]
            # A share of next to nothing says nothing.
            told = ["-"] * len(shares) if write is NO_ROW else [number(share) for share in shares.values()]
            of_own.add(title, medians(cpu)[UNWATCHED], *cells, *told)
            for aimed, level, aim, limit in AIMS:
                if aimed is write:
                    of_own.figures.append(
                        Figure(f"{title}: {LEVELS[level]} / {ROW_TRIGGER}", shares[level], aim, limit)
                    )
                    differences.append(_difference(cpu, level))
        if write.packages:
            wall = {name: [cost.wall for cost in costs] for name, costs in found.items()}
            added = _added(wall)
            cells = [f"+{number(added[name])}" for name in (WATCHED, ROW_TRIGGER, *PACKAGES)]
            of_packages.add(title, medians(wall)[UNWATCHED], *cells, added[WATCHED] / added[ROW_TRIGGER])
    of_own.notes.append(
        f"The shares that are aimed at, taken from every other round alone, differ by {max(differences):.0%} at most "
        f"from those of the rounds between."
    )
    if not _schedstat("self").exists():
        of_own.notes.append("This system has no `/proc/PID/schedstat`: it is wall time that stands in this table.")
    return [of_own, of_packages]


def _added(values: dict[str, list[float]]) -> dict[str, float]:
    """What each adds to the unwatched table's, which ran in the same round."""
    base = values[UNWATCHED]
    return medians({name: [a - b for a, b in zip(own, base, strict=True)] for name, own in values.items()})


def _difference(values: dict[str, list[float]], level: str) -> float:
    """How far the shares of even and of odd rounds are apart."""

    def share(rounds: slice) -> float:
        added = _added({name: own[rounds] for name, own in values.items()})
        return added[level] / added[ROW_TRIGGER]

    even, odd = share(slice(0, None, 2)), share(slice(1, None, 2))
    return abs(even - odd) / min(even, odd)


def _measure(server: Server, write: Write, count: int, rounds: int) -> dict[str, list[Cost]]:
    """Microseconds of each peer in each round: of a statement where they loop, else of a row."""
    names = [UNWATCHED, ROW_TRIGGER, *(LEVELS if write.own else (WATCHED,)), *(PACKAGES if write.packages else ())]
    tables = {name: create(server, name, write.kind) for name in names}
    with server.connect() as connection:
        # An unlogged table's commit waits for the disk only if a trigger logs something, another table's always.
        connection.execute("SET synchronous_commit = off")
        for table in tables.values():
            # A new plan in the middle of a loop would be some peer's bad luck.
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        clock = _processor_clock(connection)
        runs = {name: partial(_write, connection, clock, tables[name], write, count) for name in names}
        interleave(runs, 1)  # for the caches
        found = interleave(runs, rounds)
        connection.execute(f"DROP TABLE {', '.join(tables.values())} CASCADE")
    unit = 1e6 / count
    return {name: [Cost(cost.cpu * unit, cost.wall * unit) for cost in costs] for name, costs in found.items()}


def _write(
    connection: psycopg.Connection[Any], clock: Callable[[], float], table: str, write: Write, count: int
) -> Cost:
    if write.kind != "inserted":
        connection.execute("SET session_replication_role = replica")
        first = 1 - WARM if write.loop else 1
        connection.execute(f"INSERT INTO {table} SELECT i, i % 7, 'n' FROM generate_series({first}, {count}) AS i")
        connection.execute(f"ANALYZE {table}")
        connection.execute("RESET session_replication_role")
    if write.loop:
        connection.execute(_loop(write, table, 1 - WARM, 0))
    execute = _statement(connection, table, write, count)
    cpu, wall = clock(), time.perf_counter()
    execute()
    wall = time.perf_counter() - wall
    cpu = clock() - cpu
    connection.execute(f"TRUNCATE {table}")
    return Cost(cpu, wall)


def _statement(connection: psycopg.Connection[Any], table: str, write: Write, count: int) -> Callable[[], None]:
    sql = _loop(write, table, 1, count) if write.loop else write.sql.format(table=table, rows=count)
    data = "".join(f"{i}\t{i % 7}\tn\n" for i in range(1, count + 1)) if write.sql == COPY else None

    def execute() -> None:
        if data is None:
            connection.execute(sql)
            return
        with connection.cursor() as cursor, cursor.copy(sql) as stream:
            stream.write(data)

    return execute


def _loop(write: Write, table: str, first: int, last: int) -> str:
    """Within the server: over a connection the difference gets lost in the noise of the round trips."""
    commit = "COMMIT;" if write.commit else ""
    return f"DO $$ BEGIN FOR i IN {first}..{last} LOOP {write.sql.format(table=table)}; {commit} END LOOP; END $$"


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
