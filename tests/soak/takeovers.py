"""The soak of takeovers: three consumers of a group, of which the active one fails again and again."""

from __future__ import annotations

import os
import random
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
from listener.clusters import create_tables, removed_afterwards
from listener.conftest import drop_slots
from listener.consumers import HEALED, MODES, SHARDS, Base, Consumers, Told
from listener.load import Load, StockLoad, committed, stock_of, stock_up, wait_for_acknowledgement
from listener.proxy import Proxy, proxied
from postgres import Cluster
from support import created_database, set_for, wait_until

from sqlalchemy_watch.listener.backfill.progress import InTable

from .hearing import Acknowledged, Hearing, History
from .report import Report

GROUP, CONSUMERS = "soak", 3

#: Of the consumers' listeners: a connection that falls silent is noticed by them before the server does.
OPTIONS = {"heartbeat_interval": 0.2, "heartbeat_timeout": 0.5}

#: Seconds between a consumer's becoming active and its end, at the most.
LONGEST = 0.5

#: Seconds between looks at what is acknowledged.
BETWEEN_LOOKS = 0.01

#: Seconds for what is committed at last to be acknowledged.
PATIENCE = 60.0


class Looking:
    """A thread that notes what the server says is acknowledged."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.seen: list[Acknowledged] = []
        self._stopping = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        query = "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = %s"
        while not self._stopping.is_set():
            with suppress(psycopg.OperationalError), psycopg.connect(self._url, autocommit=True) as connection:
                while not self._stopping.wait(BETWEEN_LOOKS):
                    row = connection.execute(query, [GROUP]).fetchone()
                    if row is not None and row[0] is not None and (not self.seen or row[0] != self.seen[-1].lsn):
                        self.seen.append(Acknowledged(time.monotonic_ns(), row[0]))
            self._stopping.wait(BETWEEN_LOOKS)


class Takeovers:
    """One soak: each kind of failure once, and then by chance.

    :param database: an empty one.
    :param say: is told of progress.
    """

    def __init__(
        self, cluster: Cluster, database: str, count: int, seed: int, say: Callable[[str], None],
        mode: str = "receivers",
    ) -> None:  # fmt: skip
        self._cluster, self._database, self._count, self._say = cluster, database, count, say
        self._mode = mode
        self._chance = random.Random(f"{seed} takeovers")
        self._first = self._chance.sample(list(KINDS), len(KINDS))
        self._seed = seed
        self._moment = Event()  # never set: for waiting
        self.report = Report(f"takeovers, {mode}, seed {seed}")
        self._happened: Counter[str] = Counter()
        self._proxies: dict[int, Proxy] = {}
        self._restarts: list[int] = []
        self._active = 0

    def run(self) -> Report:
        url = self._cluster.url(self._database)
        create_tables(self._cluster, Base, self._database)
        set_for(self._cluster, self._database, wal_sender_timeout="1s")
        with ExitStack() as stack:
            stack.callback(drop_slots, self._cluster, self._database)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="watch-tests-")))
            self._stack = stack
            self._consumers = consumers = Consumers("", GROUP, folder, self._mode, **OPTIONS)
            stack.callback(consumers.close)
            looking = Looking(url)
            stack.callback(looking.stop)
            mode, is_stock = MODES[self._mode], self._mode == "backfill"
            if is_stock:
                with self._cluster.connect(self._database) as client:
                    stock_up(client)
            for _ in range(CONSUMERS):
                self._start_one()
            self._active = consumers.wait_for_active()
            with (
                StockLoad(url, seed=self._seed)
                if is_stock
                else Load(url, seed=self._seed, is_light=mode.writes) as load
            ):
                for number in range(1, self._count + 1):
                    if number == self._count * 3 // 4:
                        self._turn(folder)
                    self._take_over(number)
            with self._cluster.connect(self._database) as client:
                if is_stock:
                    wait_until(
                        client, "SELECT bool_and(done_at IS NOT NULL) FROM sqlalchemy_watch.backfills", seconds=PATIENCE
                    )
                wait_for_acknowledgement(client, GROUP, seconds=PATIENCE)
                truth = committed(client)
                if mode.parks:
                    wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters", seconds=PATIENCE)
                if self._mode == "once":
                    self._judge_effects(client, truth)
                stock = stock_of(client)
            looking.stop()
            consumers.listen()
            if is_stock:
                self._judge_copy(consumers.told(), stock)
                return self.report
            key_of = None if mode.order == "log" else lambda id_: id_ % SHARDS
            self._judge(
                History(
                    consumers.heard(), consumers.said, truth, load.writers, looking.seen, self._restarts, key_of,
                    mode.parks,
                )
            )  # fmt: skip
        return self.report

    def _take_over(self, number: int) -> None:
        self._wait(LONGEST)
        # On a busy machine it may have changed by itself meanwhile.
        self._active = self._consumers.wait_for_holder()
        kind = self._first.pop() if self._first else self._chance.choices(list(KINDS), KINDS.values())[0]
        self._happened[kind.__name__] += 1
        kind(self)
        if number % 10 == 0:
            self._say(f"{number:4} takeovers: {dict(self._happened)}")

    def _start_one(self) -> None:
        proxy = self._stack.enter_context(proxied(self._cluster.port))
        url = self._cluster.url(self._database, "psycopg").replace(f":{self._cluster.port}/", f":{proxy.port}/")
        self._proxies[self._consumers.start(f"{url}?connect_timeout=2")] = proxy

    def _wait(self, longest: float) -> None:
        self._moment.wait(self._chance.uniform(0, longest))

    def _wait_for_another(self) -> None:
        self._active = self._consumers.wait_for_active(than=self._active)

    def kill(self) -> None:
        self._consumers.kill(self._active)
        self._end_of_one()

    def terminate(self) -> None:
        self._consumers.terminate(self._active)
        self._end_of_one()

    def _end_of_one(self) -> None:
        proxy = self._proxies.pop(self._active)
        self._wait_for_another()
        proxy.close()
        self._start_one()

    def suspend(self) -> None:
        """It lives, and does nothing until another one has taken over."""
        pid = self._active
        os.kill(pid, signal.SIGSTOP)
        try:
            self._wait_for_another()
        finally:
            os.kill(pid, signal.SIGCONT)

    def cut(self) -> None:
        proxy = self._proxies[self._active]
        proxy.refuse()
        self._wait_for_another()
        proxy.resume()

    def freeze(self) -> None:
        proxy = self._proxies[self._active]
        proxy.freeze()
        self._wait_for_another()
        proxy.resume(thaw=self._chance.random() < 0.5)

    def lose_for_a_moment(self) -> None:
        """Whoever is the fastest is active afterwards."""
        at = time.monotonic_ns()
        self._proxies[self._active].cut()
        self._active = self._consumers.wait_for_active(since=at)

    def restart_server_fast(self) -> None:
        self._restart("fast")

    def restart_server_immediate(self) -> None:
        self._restart("immediate")

    def _restart(self, mode: str) -> None:
        self._cluster.stop(mode)
        at = time.monotonic_ns()
        self._restarts.append(at)
        self._cluster.start()
        self._active = self._consumers.wait_for_active(since=at)

    def _turn(self, folder: Path) -> None:
        """What was poison is healed, and existing rows are read anew."""
        (folder / HEALED).touch()
        if self._mode == "backfill":
            with self._cluster.connect(self._database) as client:
                InTable(GROUP).request(client, "stock")

    def _judge_copy(self, told: Sequence[Told], stock: dict[int, int]) -> None:
        """Whoever goes by the places of what was told has a copy, and was told of no row as it was before."""
        copy: dict[int, int] = {}
        newest: dict[int, int] = {}
        for one in sorted(told):
            if one.version < newest.get(one.id, 0):
                self.report.blame("the copy", f"row {one.id} {one.operation} as {one.version}, after {newest[one.id]}")
            newest[one.id] = one.version
            copy[one.id] = one.version
            if one.operation == "deleted":
                del copy[one.id]
        differing = {id_ for id_ in copy.keys() | stock.keys() if copy.get(id_) != stock.get(id_)}
        self.report.blame("the copy", *(f"row {id_}: {copy.get(id_)}, not {stock.get(id_)}" for id_ in differing))
        self.report.counts = {
            "rows": len(stock), "told of": len(told), "read": sum(one.operation == "read" for one in told)
        }  # fmt: skip
        self.report.happened = self._happened

    def _judge_effects(self, client: psycopg.Connection[Any], truth: set[int]) -> None:
        """Each payment was booked once."""
        booked = Counter(id_ for (id_,) in client.execute("SELECT payment_id FROM bookings"))
        self.report.blame("the effects", *(f"payment {id_} has none" for id_ in sorted(truth - booked.keys())))
        self.report.blame("the effects", *(f"payment {id_} has {n}" for id_, n in booked.items() if n > 1))
        self.report.blame("the effects", *(f"payment {id_} was rolled back" for id_ in sorted(booked.keys() - truth)))

    def _judge(self, history: History) -> None:
        hearing = Hearing(history)
        verdict = hearing.judge()
        self.report.blame("the consumers", *verdict.faults)
        self.report.blame("the consumers", *re.findall(".*unexpected error.*", self._consumers.errors()))
        turns = [word.pid for word in history.said if word.what == "active"]
        self.report.counts = {
            "rows committed": len(history.committed),
            "rows heard": verdict.heard,
            "duplicates": hearing.duplicates,
            "calls after the loss": hearing.late,
            "consumers": len(history.heard),
            "times active": len(turns),
            "looks at what is acknowledged": len(history.acknowledged),
        }
        self.report.happened = self._happened


#: How often each kind of failure comes.
KINDS: dict[Callable[[Takeovers], None], float] = {
    Takeovers.kill: 5,
    Takeovers.terminate: 4,
    Takeovers.suspend: 2,
    Takeovers.cut: 3,
    Takeovers.freeze: 2,
    Takeovers.lose_for_a_moment: 3,
    Takeovers.restart_server_fast: 1,
    Takeovers.restart_server_immediate: 1,
}


def run(count: int, seed: int, say: Callable[[str], None], mode: str) -> Report:
    """Run the soak on a server of its own."""
    with removed_afterwards(Cluster()) as cluster, created_database(cluster, "soak") as database:
        return Takeovers(cluster, database, count, seed, say, mode).run()
