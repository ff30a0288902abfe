"""A relay: a backlog into a broker, and from commit until the broker has confirmed."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

from sqlalchemy import create_engine

from sqlalchemy_watch import Listener
from sqlalchemy_watch.relay import Message, Publisher, Relay, publisher_for

from .brokers import Broker
from .harness import Figure, Table, interleave, percentile
from .peers import DURABLE, WatchedTable, create, drop_slot
from .server import Server
from .workers import cpu_seconds

NOBODY, NATS, REDIS = "nobody", "NATS JetStream", "Redis Streams"

#: Commits per second of the writer whose events are timed.
PACE = 100

PATIENCE = 300.0


class Turn(NamedTuple):
    """What one turn has measured."""

    #: Events per second, from the start of the relay until the last was confirmed.
    rate: float
    #: Microseconds of processor time for an event: the relay's and the broker's.
    relay: float
    broker: float


def run(server: Server, quick: bool) -> list[Table]:
    """Return the table of a relay."""
    events, commits, rounds = (2_000, 50, 2) if quick else (20_000, 500, 3)
    table = Table(
        "A relay into a broker",
        f"Events per second that `Relay` publishes, from its start until the broker has confirmed the last: of a "
        f"backlog of {events:,} transactions of one row, and of one transaction of {events:,} rows, all of different "
        "rows; with the processor time in microseconds for an event, of the relay's process and of the broker's. Then "
        f"one client that commits {PACE} rows a second: milliseconds from just before COMMIT until the broker has "
        "confirmed. Nobody is a publisher that confirms at once: reading the log, decoding it and writing the "
        "messages. NATS keeps its stream in files, which it brings to the disk every two minutes; Redis writes its "
        "log, and brings it to the disk each second.",
        ("to", "transactions, events/s", "CPU, relay", "CPU, broker", "one transaction, events/s", "CPU, relay",
         "CPU, broker", "confirmed, median", "confirmed, 99%"),
    )  # fmt: skip
    name = create(server, DURABLE, "inserted", unlogged=False)
    with Broker("nats") as nats, Broker("redis") as redis:
        brokers = {NOBODY: None, NATS: nats, REDIS: redis}
        drains: dict[str, Callable[[], Turn]] = {
            f"{to} {is_one}": partial(_drain, server, name, broker, events, is_one)
            for to, broker in brokers.items()
            for is_one in (False, True)
        }
        found = interleave(drains, rounds)
        paced = {to: partial(_pace, server, name, broker, commits // rounds) for to, broker in brokers.items()}
        delays = interleave(paced, rounds)
    for to in brokers:
        cells: list[float] = []
        for is_one in (False, True):
            turns: Sequence[Turn] = found[f"{to} {is_one}"]
            cells += [statistics.median(values) for values in zip(*turns, strict=True)]
        times = [value * 1000 for turn in delays[to] for value in turn]
        table.add(to, *cells, statistics.median(times), percentile(times, 0.99))
    for to in (NATS, REDIS):
        rate = statistics.median(turn.rate for turn in found[f"{to} False"])
        ceiling = statistics.median(turn.rate for turn in found[f"{NOBODY} False"])
        limit = "the broker's client, which is Python, in the same process as decoding and writing JSON"
        what = f"relay to {to}, a backlog of transactions: events/s of those to nobody"
        table.figures.append(Figure(what, rate / ceiling, 0.5, limit, at_most=False))
    return [table]


class _Timed:
    """A publisher that notes when messages were confirmed, by the row's id; without another one it confirms at once."""

    def __init__(self, publisher: Publisher | None) -> None:
        self._publisher = publisher
        self.confirmed: dict[str, float] = {}

    async def start(self) -> None:
        if self._publisher is not None:
            await self._publisher.start()

    async def publish(self, messages: Sequence[Message]) -> None:
        if self._publisher is not None:
            await self._publisher.publish(messages)
        now = time.perf_counter()
        for message in messages:
            self.confirmed[message.key or ""] = now

    async def close(self) -> None:
        if self._publisher is not None:
            await self._publisher.close()


def _drain(server: Server, table: str, broker: Broker | None, events: int, is_one: bool) -> Turn:
    with Listener(server.engine(), WatchedTable("durable").model(table, "inserted"), durable=table):
        pass
    with server.connect() as connection:
        connection.execute(f"TRUNCATE {table}")
        connection.execute("SET synchronous_commit = off")
        if is_one:
            connection.execute(f"INSERT INTO {table} SELECT i, 1, 'n' FROM generate_series(1, {events}) AS i")
        else:
            loop = f"FOR i IN 1..{events} LOOP INSERT INTO {table} VALUES (i, 1, 'n'); COMMIT; END LOOP;"
            connection.execute(f"DO $$ BEGIN {loop} END $$")
    with _Relaying(server, table, broker) as relaying:
        before = 0.0 if broker is None else cpu_seconds([broker.pid])
        relaying.pipe.send(events)
        seconds, cpu, confirmed = relaying.receive()
        after = 0.0 if broker is None else cpu_seconds([broker.pid])
    assert len(confirmed) == events, len(confirmed)
    drop_slot(server, table)
    return Turn(events / seconds, cpu / events * 1e6, (after - before) / events * 1e6)


def _pace(server: Server, table: str, broker: Broker | None, commits: int) -> list[float]:
    with Listener(server.engine(), WatchedTable("durable").model(table, "inserted"), durable=table):
        pass
    began = {}
    with server.connect() as connection, _Relaying(server, table, broker) as relaying:
        connection.execute(f"TRUNCATE {table}")
        relaying.pipe.send(commits + 1)
        connection.execute(f"INSERT INTO {table} VALUES (0, 1, 'n')")  # it runs then
        time.sleep(1.0)
        due = time.perf_counter()
        for id_ in range(1, commits + 1):
            due += 1 / PACE
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.execute("BEGIN")
            connection.execute(f"INSERT INTO {table} VALUES (%s, 1, 'n')", (id_,))
            began[str(id_)] = time.perf_counter()
            connection.execute("COMMIT")
        _, _, confirmed = relaying.receive()
    drop_slot(server, table)
    return [confirmed[id_] - at for id_, at in began.items()]


class _Relaying:
    """A relay in a process of its own, which starts once it is told how many events there will be."""

    def __init__(self, server: Server, table: str, broker: Broker | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        url = None if broker is None else broker.url
        self._process = context.Process(target=_relay, args=(theirs, server.url(), table, url), daemon=True)

    def __enter__(self) -> _Relaying:
        self._process.start()
        self.receive()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.join(10)
        self._process.kill()
        self._process.join()

    def receive(self) -> tuple[float, float, dict[str, float]]:
        """Return the seconds that it took, those of the processor, and when which row was confirmed."""
        if not self.pipe.poll(PATIENCE):
            raise RuntimeError(f"the relay was not done within {PATIENCE:g} s")
        seconds, cpu, confirmed = self.pipe.recv()
        return seconds, cpu, confirmed


def _relay(pipe: Connection, url: str, table: str, to: str | None) -> None:
    subject = f"watch.{table}.{time.time_ns()}" + ".{operation}.{key}"
    stream = f"{to}?stream={table}{time.time_ns()}" if to is not None and to.startswith("redis:") else to
    publisher = _Timed(None if stream is None else publisher_for(stream, subject=subject, create=True, timeout=10.0))
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    relay = Relay(engine, WatchedTable("durable").model(table, "inserted"), group=table, to=publisher, subject=subject)
    pipe.send((0.0, 0.0, {}))
    events = pipe.recv()
    began, cpu = time.perf_counter(), time.process_time()
    with relay:
        while len(publisher.confirmed) < events:
            time.sleep(0.005)
        found = max(publisher.confirmed.values()) - began, time.process_time() - cpu, publisher.confirmed
    pipe.send(found)
