"""Consumers killed at random moments under load: nothing is lost, and nothing is delivered by two at once."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from support import wait_until

from ..consumers import Base, Consumers, Heard

pytestmark = needs_logical_messages

KILLS = 50


class Load:
    """Writers that commit and roll back transactions of mixed sizes, until stopped."""

    def __init__(self, url: str, writers: int = 2) -> None:
        self._url = url
        self._ids = itertools.count(1)
        self.committed: set[int] = set()
        self.rolled_back: set[int] = set()
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=[seed]) for seed in range(writers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        assert not self._failures

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        try:
            with psycopg.connect(self._url) as connection:
                while not self._stopping.wait(chance.uniform(0, 0.01)):
                    self._write(connection, chance)
        except BaseException as error:
            self._failures.append(error)

    def _write(self, connection: psycopg.Connection[Any], chance: random.Random) -> None:
        ids = []
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            statement = [next(self._ids) for _ in range(chance.choice((1, 1, 3, 20, 200)))]
            connection.execute("INSERT INTO payments SELECT unnest(%s::int[])", [statement])
            ids += statement
        if chance.random() < 0.15:
            connection.rollback()
            self.rolled_back.update(ids)
        else:
            connection.commit()
            self.committed.update(ids)


@pytest.fixture
def consumers(cluster: Cluster, database: str, engine: Engine, group: str, tmp_path: Path) -> Iterator[Consumers]:
    Base.metadata.create_all(engine)
    consumers = Consumers(cluster.url(database, "psycopg"), group, tmp_path)
    yield consumers
    consumers.close()


def wait_for_acknowledgement(client: psycopg.Connection[Any], group: str) -> None:
    """Wait until everything committed by now is acknowledged."""
    row = client.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    assert row is not None
    # An active consumer acknowledges up to what it was told of last, so there has to be something later.
    client.execute("SELECT pg_logical_emit_message(true, 'later', '')")
    wait_until(
        client, "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s", row[0], group
    )


def test_fifty_killed_consumers_lose_nothing(
    consumers: Consumers, cluster: Cluster, database: str, client: psycopg.Connection[Any], group: str
) -> None:
    chance = random.Random(5)
    consumers.start()
    active = consumers.wait_for_active()
    with Load(cluster.url(database)) as load:
        for _ in range(KILLS):
            consumers.start()
            time.sleep(chance.uniform(0, 0.25))  # the moment is random
            consumers.kill(active)
            active = consumers.wait_for_active(than=active)
    wait_for_acknowledgement(client, group)
    heard = consumers.heard()
    in_order = [heard[pid] for pid in consumers.active]
    assert len(in_order) == KILLS + 1

    ids = {one.id for process in in_order for one in process}
    assert load.committed - ids == set()
    assert load.rolled_back & ids == set()
    assert ids == load.committed
    assert sum(len(process) for process in heard.values()) == sum(map(len, in_order)), "a standby delivered"
    assert_each_grows(in_order)
    assert_never_two_at_once(in_order)
    duplicates = count_duplicates(in_order)
    print(f"{len(ids)} events, {KILLS} kills, {duplicates} delivered again")  # noqa: T201
    assert len(ids) > 1_000


def assert_each_grows(in_order: list[list[Heard]]) -> None:
    for process in in_order:
        places = [(one.lsn, one.position) for one in process]
        assert all(before < after for before, after in itertools.pairwise(places))


def assert_never_two_at_once(in_order: list[list[Heard]]) -> None:
    for before, after in itertools.pairwise([process for process in in_order if process]):
        assert before[-1].at < after[0].at


def count_duplicates(in_order: list[list[Heard]]) -> int:
    """Count the events delivered again: only at the beginning of a process, and with the same place as before."""
    places: dict[int, tuple[int, int]] = {}
    latest = (0, 0)
    duplicates = 0
    for process in in_order:
        fresh = False
        for one in process:
            place = (one.lsn, one.position)
            if one.id in places:
                assert not fresh, "delivered again in the middle"
                assert places[one.id] == place
                duplicates += 1
            else:
                fresh = True
                assert place > latest
                latest = place
                places[one.id] = place
    return duplicates
