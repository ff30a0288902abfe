"""Server-sent events: one server process, many browsers, and a row that all of them hear of."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .harness import Figure, Table, interleave, percentile
from .peers import WATCHED, create
from .server import Server
from .web_clients import Clients
from .web_servers import HUB, LISTEN, SSE_STARLETTE, WAYS, Serving, missing

#: The first of a turn are not measured: connections have just been made, and code has not run before.
WARMING_EVENTS = 2

#: Seconds after the last client has an event: what the server does behind it is of the event as well.
SETTLE_SECONDS = 0.2

HEARD_SECONDS = 60.0

#: Ids with a text that nothing else contains, be it written in whatever way.
FIRST_ID = 7_000_000_000_000


@dataclass(frozen=True)
class Turn:
    """What one server process has taken."""

    #: Milliseconds of the server's CPU for each event.
    cpu: list[float]
    #: Milliseconds until the last client had it, for each event.
    last: list[float]
    #: Milliseconds within which 99% of the clients' events were there.
    tail: float
    #: Connections to PostgreSQL.
    backends: int


def run(server: Server, quick: bool) -> list[Table]:
    """Return the table of one event for many browsers."""
    clients, few, events, rounds = (100, 30, 3, 2) if quick else (1_000, 300, 10, 5)
    table = Table(
        "Server-sent events",
        f"One row, and {clients:,} browsers that hear of it from one process of uvicorn, all with the same JSON: "
        "milliseconds of that process's CPU for an event, from just before the row's commit until the last browser "
        "has it, and within which 99% of all had theirs. Two packages stand over `stream()`, each browser with one of "
        "its own; LISTEN is a connection to PostgreSQL for each browser, which hands the payload on as it is, and "
        f"stands beside the hub with {few:,} browsers. Browsers are sockets of another process; each has got each "
        f"event once, or there is no table. {rounds} rounds of {events} events; 99% are of the events of a round.",
        ("server", "browsers", "CPU, ms", "until the last, ms", "99% of browsers, ms", "connections to PostgreSQL"),
    )
    left_out = {way: package for way in WAYS if (package := missing(way)) is not None}
    sizes = [(way, few if way == LISTEN else clients) for way in WAYS if way not in left_out]
    if HUB not in left_out:
        sizes.append((HUB, few))
    with Server(max_connections=few + 50) as wide:  # the others would do with the usual ones
        name = create(wide, WATCHED, "inserted", unlogged=False)
        ids = itertools.count(FIRST_ID)
        turns: dict[str, Callable[[], Turn]] = {
            f"{way} {size}": partial(_measure, wide, name, way, size, events, ids) for way, size in sizes
        }
        found = interleave(turns, rounds)
    cells = {key: _cells(found[f"{key[0]} {key[1]}"]) for key in sizes}
    for (way, size), (cpu, last, tail, backends) in cells.items():
        table.add(way, size, cpu, last, tail, backends)
    if (HUB, clients) in cells and (SSE_STARLETTE, clients) in cells:
        limit = "for each browser a task that wakes, a timer for its sending, and a write to its socket"
        for what, ours, theirs in zip(
            ("CPU of an event", "until the last has it", "99% of browsers"),
            cells[HUB, clients], cells[SSE_STARLETTE, clients], strict=False,
        ):  # fmt: skip
            what = f"{clients:,} browsers, {what}: of {SSE_STARLETTE}'s"
            table.figures.append(Figure(what, ours / theirs, 1.0, limit))
    table.notes += [f"Left out: {way}, as {package} is not installed." for way, package in left_out.items()]
    table.notes.append(
        "broadcaster does not stand here: 0.3.1 breaks where many subscribe at once, and stays silent once its "
        "connection is lost."
    )
    return [table]


def _cells(turns: list[Turn]) -> tuple[float, float, float, int]:
    return (
        statistics.median(value for turn in turns for value in turn.cpu),
        statistics.median(value for turn in turns for value in turn.last),
        statistics.median(turn.tail for turn in turns),
        max(turn.backends for turn in turns),
    )


def _measure(server: Server, table: str, way: str, size: int, events: int, ids: Iterator[int]) -> Turn:
    cpu, last, latencies = [], [], []
    with server.connect() as connection:

        def backends() -> int:
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> %s"
            row = connection.execute(query, (connection.info.backend_pid,)).fetchone()
            assert row is not None
            return int(row[0])

        while backends():  # those of the turn before
            time.sleep(0.05)
        with Serving(way, server.url(), table, size) as serving, Clients(serving.port, size) as clients:
            for number in range(WARMING_EVENTS + events):
                time.sleep(SETTLE_SECONDS)
                id_ = next(ids)
                cpu_before, began = _cpu_seconds(serving.pid), time.perf_counter()
                connection.execute(f"INSERT INTO {table} VALUES (%s, 1, 'n')", (id_,))
                arrived = clients.wait(id_, HEARD_SECONDS)
                time.sleep(SETTLE_SECONDS)
                if number >= WARMING_EVENTS:
                    cpu.append((_cpu_seconds(serving.pid) - cpu_before) * 1000)
                    last.append((max(arrived) - began) * 1000)
                    latencies += [(at - began) * 1000 for at in arrived]
            clients.check()
            return Turn(cpu, last, percentile(latencies, 0.99), backends())


def _cpu_seconds(pid: int) -> float:
    """Return the seconds that all threads of a process have run."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
