"""Writers of what `consumers.py` hears, and when all of theirs is acknowledged."""

from __future__ import annotations

import itertools
import random
import threading
from typing import Any

import psycopg
from support import PATIENCE, wait_until


class Load:
    """Writers of payments, who commit and roll back transactions of mixed sizes, whatever becomes of the server.

    What is committed the table tells: a connection that is lost does not.

    :param is_light: fewer and smaller transactions, for consumers that write to the database themselves.
    """

    def __init__(self, url: str, writers: int = 2, seed: int = 0, *, is_light: bool = False) -> None:
        self._url, self._seed = url, seed
        self._pause, self._sizes = (0.05, (1, 1, 3)) if is_light else (0.01, (1, 1, 3, 20, 50))
        self._ids = itertools.count(1)
        #: By id. The ids of each writer grow in the order in which it commits.
        self.writers: dict[int, int] = {}
        self.rolled_back: set[int] = set()
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(writers)]

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

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self._seed} writer {number}")
        try:
            while not self._stopping.is_set():
                try:
                    with psycopg.connect(self._url, connect_timeout=5) as connection:
                        while not self._stopping.wait(chance.uniform(0, self._pause)):
                            self._write(connection, number, chance)
                except psycopg.OperationalError:
                    self._stopping.wait(0.05)
        except BaseException as error:
            self._failures.append(error)

    def _write(self, connection: psycopg.Connection[Any], number: int, chance: random.Random) -> None:
        """Write in one transaction."""
        ids = []
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            statement = [next(self._ids) for _ in range(chance.choice(self._sizes))]
            self.writers.update(dict.fromkeys(statement, number))
            connection.execute("INSERT INTO payments SELECT unnest(%s::int[])", [statement])
            ids += statement
        if chance.random() < 0.15:
            connection.rollback()
            self.rolled_back.update(ids)
        else:
            connection.commit()


class StockLoad(Load):
    """Writers of stock: each has rows of its own, whose versions grow."""

    def __init__(self, url: str, writers: int = 2, seed: int = 0) -> None:
        super().__init__(url, writers, seed)
        self._versions, self._number = itertools.count(2), writers

    def _write(self, connection: psycopg.Connection[Any], number: int, chance: random.Random) -> None:
        for _ in range(chance.choice((1, 1, 3))):
            id_ = chance.randrange(STOCK) // self._number * self._number + number
            if chance.random() < 0.1:
                connection.execute("DELETE FROM stock WHERE id = %s", [id_])
            else:
                query = "INSERT INTO stock VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET version = excluded.version"
                connection.execute(query, [id_, next(self._versions)])
        if chance.random() < 0.15:
            connection.rollback()
        else:
            connection.commit()


#: Rows of stock that are there before anybody listens.
STOCK = 3_000


def stock_up(client: psycopg.Connection[Any]) -> None:
    """Write the stock, of which nobody is told."""
    with client.transaction():
        client.execute("SELECT set_config('sqlalchemy_watch.muted', 'on', true)")
        client.execute("INSERT INTO stock SELECT generate_series(1, %s), 1", [STOCK])


def stock_of(client: psycopg.Connection[Any]) -> dict[int, int]:
    """Return the version of each row that there is."""
    return dict(client.execute("SELECT id, version FROM stock").fetchall())


def committed(client: psycopg.Connection[Any]) -> set[int]:
    """The ids that were committed."""
    return {id_ for (id_,) in client.execute("SELECT id FROM payments").fetchall()}


def wait_for_acknowledgement(client: psycopg.Connection[Any], group: str, seconds: float = PATIENCE) -> None:
    """Wait until everything committed by now is acknowledged."""
    row = client.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    assert row is not None
    # An active consumer acknowledges up to what it was told of last, so there has to be something later.
    client.execute("SELECT pg_logical_emit_message(true, 'later', '')")
    is_acknowledged = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
    wait_until(client, is_acknowledged, row[0], group, seconds=seconds)
