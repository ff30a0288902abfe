"""Writers of the soak of NOTIFY, which write whatever becomes of the server."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import OperationalError

from .transactions import Transactions


class Writer:
    """A thread that writes until stopped.

    :param number: from 0; each writer's is its own.
    """

    def __init__(self, url: str, number: int, seed: int) -> None:
        self._engine: Engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 5})
        self._chance = random.Random(f"{seed} writer {number}")
        self._going, self._idle = threading.Event(), threading.Event()
        self._stopping = threading.Event()
        self._transactions = Transactions(number, self._chance, self._stopping)
        #: Rows and transactions that were written and committed, as far as this thread knows.
        self.rows = self.transactions = 0
        #: Transactions that were rolled back on purpose, and those that failed with the server.
        self.rolled_back = self.failed = 0
        self.fault: str | None = None
        self.burst = False
        self._thread = threading.Thread(target=self._run, name=f"writer {number}")
        self._thread.start()

    def resume(self) -> None:
        self._idle.clear()
        self._going.set()

    def pause(self) -> None:
        """Return when everything that was begun has ended."""
        self._going.clear()
        if not self._idle.wait(60):
            self.fault = self.fault or "a writer hangs"

    def stop(self) -> None:
        self._stopping.set()
        self._going.set()
        self._thread.join(60)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    with self._engine.connect() as connection:
                        self._write_all(connection)
                except OperationalError:
                    self.failed += 1
                    self._stopping.wait(0.05)
                self._wait_if_paused()
        except BaseException as error:
            self.fault = f"a writer failed: {error!r}"
        self._idle.set()

    def _wait_if_paused(self) -> None:
        if not self._going.is_set():
            self._idle.set()
            self._going.wait()

    def _write_all(self, connection: Connection) -> None:
        while self._going.is_set() and not self._stopping.is_set():
            if self.burst:
                self.burst = False
                self._commit(connection, self._transactions.gauges_one_by_one)
            self._commit(connection, self._transactions.choose())
            self._stopping.wait(self._chance.uniform(0, 0.012))

    def _commit(self, connection: Connection, write: Callable[[Connection], int]) -> None:
        rows = write(connection)
        if self._chance.random() < 0.1:
            connection.rollback()
            self.rolled_back += 1
        else:
            connection.commit()
            self.rows += rows
            self.transactions += 1
