"""Processes that hear the same table: a LISTEN in each, or one broadcast for all."""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from .brokers import Broker
from .harness import Figure, Table, interleave, percentile
from .peers import WATCHED, create
from .pgbench import commits_per_second
from .server import Server
from .workers import Broadcasting, Report, Workers, cpu_seconds, run_on

CLIENTS = 8

#: Commits per second of the writer whose events are timed.
PACE = 50

#: The server's, where those who hear have others.
SERVERS_CORE = 0

#: Ids that the writer at full speed does not reach.
FIRST_ID = 7_000_000_000_000


class Way(NamedTuple):
    """How many processes hear, and how."""

    workers: int
    is_broadcast: bool
    #: The server and its clients have one processor, and those who hear, with broadcast and broker, the others.
    is_aside: bool

    @property
    def name(self) -> str:
        if self.workers == 1:
            return "1 LISTEN"
        return f"{self.workers} by broadcast" if self.is_broadcast else f"{self.workers} LISTENs"


@dataclass
class Turn:
    """What one turn has measured; processor time is in microseconds for each commit."""

    commits_per_second: float
    writers: float = 0.0
    listening: float = 0.0
    passing_on: float = 0.0
    each_worker: float = 0.0
    #: Seconds from the last commit until each worker had caught up.
    behind: float = 0.0
    #: Workers that were not sure to have heard all, and those that have not.
    resyncs: int = 0
    incomplete: int = 0
    events: int = 0
    #: Notifications in a frame.
    in_a_frame: float = 0.0
    commits: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    lasts: list[float] = field(default_factory=list)


def run(server: Server, quick: bool) -> list[Table]:
    """Return the tables of commits, and of latency."""
    counts, seconds, commits, rounds = ((3, 10), 1, 20, 2) if quick else ((10, 50), 3, 100, 3)
    ways = [
        Way(workers, is_broadcast, is_aside)
        for is_aside in (True, False)
        for workers, is_broadcast in ((1, False), *itertools.product(counts, (False, True)))
    ]
    with Server(max_connections=4 * max(counts) + 50) as wide, Broker("nats") as broker:
        name = create(wide, WATCHED, "inserted", unlogged=False)
        ids = itertools.count(FIRST_ID)
        turns: dict[str, Callable[[], Turn]] = {
            repr(way): partial(_measure, wide, broker, name, way, seconds, commits, ids) for way in ways
        }
        found = interleave(turns, rounds)
    by_way = {way: found[repr(way)] for way in ways}
    return [_full_speed(by_way, True, seconds), _full_speed(by_way, False, seconds), _paced(by_way, commits)]


def _full_speed(found: dict[Way, list[Turn]], is_aside: bool, seconds: int) -> Table:
    if is_aside:
        title = "Many processes that hear: commits"
        about = (
            f"Transactions per second of {CLIENTS} pgbench clients that insert one row each into a watched table for "
            f"{seconds} s, while so many processes hear of it: by a LISTEN in each (`Listener`), or by broadcast: one "
            "process listens, and passes on over a nats-server what comes (`Broadcast`, `Listener(via=)`). The server "
            "and pgbench have a processor of their own, and those who hear, broadcast and nats-server among them, the "
            "other one, as if they were another machine: this is what they cost the server. Processor time is in "
            "microseconds for a commit; that of a worker until it has caught up after the last commit, which takes as "
            "long as the column behind it says."
        )
    else:
        title = "Many processes that hear: commits, all on the same processors"
        about = (
            "The same with all on the same two processors, and of the same priority: Python processes that have "
            "something to do leave the server, its clients, the broadcast and NATS what the scheduler gives to each."
        )
    table = Table(
        title, about,
        (
            "workers", "commits/s", "of one LISTEN's", "CPU, writers' backends", "CPU, LISTENing backends",
            "CPU, broadcast and NATS", "CPU, each worker", "s until all caught up", "heard of events",
            "workers with a resync",
        ),
    )  # fmt: skip
    base = _median(found[Way(1, False, is_aside)], lambda turn: turn.commits_per_second)
    ratios = {}
    for way, turns in found.items():
        if way.is_aside is not is_aside:
            continue
        rate = _median(turns, lambda turn: turn.commits_per_second)
        ratios[way] = rate / base
        sums = [_median(turns, partial(_of, what)) for what in ("writers", "listening", "passing_on", "each_worker")]
        lost = sum(turn.incomplete for turn in turns)
        table.add(
            way.name, rate, rate / base, *sums, _median(turns, lambda turn: turn.behind),
            f"all {min(turn.events for turn in turns):,} or more" if not lost else f"not all: {lost} workers",
            f"{sum(turn.resyncs for turn in turns)} of {way.workers * len(turns)}",
        )  # fmt: skip
        if way.is_broadcast:
            together = _median(turns, lambda turn: turn.in_a_frame)
            table.notes.append(f"{way.name}: {together:.1f} notifications came in a frame of the broadcast.")
    most = max(way.workers for way in found)
    limit = (
        "what keeps the other processor busy costs the server's twice the time for a statement" if is_aside
        else f"{most} Python processes, the broadcast and NATS take the processor time of the server and its clients"
    )  # fmt: skip
    where = "on another processor" if is_aside else "on the server's processors"
    table.figures.append(
        Figure(f"{most} workers by broadcast, {where}: commits of one LISTEN's", ratios[Way(most, True, is_aside)],
               0.8, limit, at_most=False)
    )  # fmt: skip
    return table


def _paced(found: dict[Way, list[Turn]], commits: int) -> Table:
    table = Table(
        "Many processes that hear: from commit to the receiver",
        f"One client, {PACE} commits a second, {commits} in a turn: how long COMMIT takes, and from just before it "
        "until a worker's receiver is called: of all workers, and of the last one of each commit. Milliseconds; "
        "all on the same processors.",
        ("workers", "COMMIT, median", "COMMIT, 99%", "worker, median", "worker, 99%", "last worker, median",
         "last worker, 99%", "heard"),
    )  # fmt: skip
    last = {}
    for way, turns in found.items():
        if way.is_aside:
            continue
        cells: list[float] = []
        for what in ("commits", "latencies", "lasts"):
            values = [value * 1000 for turn in turns for value in getattr(turn, what)]
            cells += [statistics.median(values), percentile(values, 0.99)]
        expected = way.workers * commits * len(turns)
        heard = sum(len(turn.latencies) for turn in turns)
        table.add(way.name, *cells, "all" if heard == expected else f"{heard:,} of {expected:,}")
        last[way] = cells[4]
    most = max(way.workers for way in found)
    table.figures.append(
        Figure(
            f"{most} workers by broadcast: time until the last has it, of {most} LISTENs'",
            last[Way(most, True, False)] / last[Way(most, False, False)], 1.0,
            f"{most} processes wake on two cores, each of them two threads by broadcast, and one by LISTEN",
        )
    )  # fmt: skip
    return table


def _of(what: str, turn: Turn) -> float:
    return float(getattr(turn, what))


def _median(turns: Iterable[Turn], value: Callable[[Turn], float]) -> float:
    return statistics.median(value(turn) for turn in turns)


def _measure(
    server: Server, broker: Broker, table: str, way: Way, seconds: int, commits: int, ids: Iterator[int]
) -> Turn:
    with ExitStack() as stack:
        connection = stack.enter_context(server.connect())
        broadcasting = None
        if way.is_aside:
            stack.enter_context(_on_one_core(server))
        if way.is_broadcast:
            broadcasting = stack.enter_context(Broadcasting(server.url(), table, broker.url))
        via = broker.url if way.is_broadcast else None
        workers = stack.enter_context(Workers(server.url(), table, way.workers, via))
        if way.is_aside:
            others = [broker.pid] if broadcasting is None else [broker.pid, broadcasting.pid]
            run_on(_all_cores() - {SERVERS_CORE}, [*others, *workers.pids])
        turn = _write_fast(server, broker, table, connection, workers, broadcasting, seconds)
        if not way.is_aside:
            _write_paced(table, connection, workers, commits, ids, turn)
        return turn


def _all_cores() -> set[int]:
    return set(range(os.cpu_count() or 1))


@contextmanager
def _on_one_core(server: Server) -> Iterator[None]:
    """Have the server and this process, and so pgbench, run on one processor."""
    postmaster = int((server.files / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    pids = [os.getpid(), postmaster, *(int(pid) for pid in children)]
    run_on({SERVERS_CORE}, pids)
    try:
        yield
    finally:
        run_on(_all_cores(), pids)


def _write_fast(
    server: Server, broker: Broker, table: str, connection: psycopg.Connection[Any], workers: Workers,
    broadcasting: Broadcasting | None, seconds: int,
) -> Turn:  # fmt: skip
    workers.begin(is_timed=False)
    listening = _backends(connection, "sqlalchemy-watch")
    passing_on = [] if broadcasting is None else [broker.pid, broadcasting.pid]
    frames = (0, 0) if broadcasting is None else broadcasting.frames()
    before = [cpu_seconds(pids) for pids in (listening, passing_on, workers.pids)]
    with _Writers(connection) as writers:
        turn = Turn(commits_per_second(server, table, CLIENTS, seconds))
    ended = time.perf_counter()
    reports = workers.settle()
    turn.behind = time.perf_counter() - ended
    after = [cpu_seconds(pids) for pids in (listening, passing_on, workers.pids)]
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    turn.events = int(row[0])
    each = [(late - early) / turn.events * 1e6 for early, late in zip(before, after, strict=True)]
    turn.listening, turn.passing_on, turn.each_worker = each[0], each[1], each[2] / len(reports)
    turn.writers = writers.share / turn.commits_per_second * 1e6
    _check(reports, turn.events, turn)
    if broadcasting is not None:
        sent = broadcasting.frames()
        turn.in_a_frame = (sent[1] - frames[1]) / max(sent[0] - frames[0], 1)
    return turn


def _write_paced(
    table: str, connection: psycopg.Connection[Any], workers: Workers, commits: int, ids: Iterator[int], turn: Turn
) -> None:
    workers.begin(is_timed=True)
    began = {}
    due = time.perf_counter()
    for _ in range(commits):
        due += 1 / PACE
        time.sleep(max(0.0, due - time.perf_counter()))
        id_ = next(ids)
        connection.execute("BEGIN")
        connection.execute(f"INSERT INTO {table} VALUES (%s, 1, 'n')", (id_,))
        began[id_] = time.perf_counter()
        connection.execute("COMMIT")
        turn.commits.append(time.perf_counter() - began[id_])
    reports = workers.settle()
    _check(reports, commits, turn)
    for id_, at in began.items():
        late = [report.arrivals[id_] - at for report in reports if id_ in report.arrivals]
        turn.latencies += late
        turn.lasts.append(max(late))


def _check(reports: list[Report], events: int, turn: Turn) -> None:
    for report in reports:
        if not isinstance(report, Report):
            raise RuntimeError(f"a worker did not catch up: {report}")
    turn.incomplete += sum(report.heard != events for report in reports)
    turn.resyncs = sum(report.resyncs > 0 for report in reports)


def _backends(connection: psycopg.Connection[Any], application: str) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    return [pid for (pid,) in connection.execute(query, (application,))]


class _Writers:
    """Looks at the processor time of pgbench's backends while the `with` block runs: they are gone afterwards."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        #: Of all of them together, seconds of a second.
        self.share = 0.0

    def __enter__(self) -> _Writers:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        pids: list[int] = []
        while len(pids) < CLIENTS and not self._ended.wait(0.05):
            pids = _backends(self._connection, "pgbench")
        first = last = (time.perf_counter(), cpu_seconds(pids))
        while not self._ended.wait(0.02):
            now = (time.perf_counter(), cpu_seconds(pids))
            if now[1] < last[1]:  # they go
                break
            last = now
        self.share = (last[1] - first[1]) / (last[0] - first[0])
