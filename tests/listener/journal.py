"""A journal of a listener's events and signals, and a writer whose ids it may hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
from support import PATIENCE, insert

from sqlalchemy_watch import Listener


class Journal:
    """Calls of a listener, in order: ("event", id), ("resync", reason), ("connected",), ("disconnected",)."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []
        self._changed = threading.Condition()

    def attach(self, listener: Listener) -> Journal:
        """Note what the listener itself sends from now on."""
        listener.connected.connect(self._connected)
        listener.disconnected.connect(self._disconnected)
        listener.resync.connect(self._resync)
        return self

    def note(self, *entry: Any) -> None:
        with self._changed:
            self.entries.append(entry)
            self._changed.notify_all()

    def __call__(self, sender: Any, event: Any) -> None:
        self.note("event", event.identity[0])

    def _connected(self, listener: Listener) -> None:
        self.note("connected")

    def _disconnected(self, listener: Listener, error: BaseException | None) -> None:
        self.note("disconnected")

    def _resync(self, listener: Listener, reason: str) -> None:
        self.note("resync", reason)

    def count(self, kind: str) -> int:
        return sum(entry[0] == kind for entry in self.entries)

    def ids(self) -> list[int]:
        return [entry[1] for entry in self.entries if entry[0] == "event"]

    def wait_for(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, seconds), self.entries[-10:]

    def wait_for_count(self, kind: str, number: int, seconds: float = PATIENCE) -> None:
        self.wait_for(lambda: self.count(kind) >= number, seconds)

    def check(self, last: int) -> None:
        """Check that ids 1 to `last` came once and in order, or that there was a resync where they are missing.

        And that each reconnection had a resync, after `connected` and before any event.
        """
        expected = 1
        resynced = False
        for index, entry in enumerate(self.entries):
            if entry[0] == "resync":
                resynced = True
            elif entry[0] == "disconnected":
                assert self.entries[index + 1 : index + 2] in ([], [("connected",)])
            elif entry[0] == "connected" and index:
                assert self.entries[index + 1][0] == "resync"
            elif entry[0] == "event":
                assert entry[1] == expected or (entry[1] > expected and resynced), self.entries[index - 3 : index + 2]
                expected, resynced = entry[1] + 1, False
        assert expected == last + 1 or resynced


class Writer:
    """Commits ids 1, 2, 3, ... one a transaction, whatever becomes of the server, until stopped."""

    def __init__(self, url: str, table: str = "users") -> None:
        self._url, self._table = url, table
        self._stop = threading.Event()
        self._written = threading.Condition()
        self.last = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_more(self, number: int = 3) -> None:
        """Return when so many more ids are committed."""
        wanted = self.last + number
        with self._written:
            assert self._written.wait_for(lambda: self.last >= wanted, PATIENCE)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True) as connection:
                    self._write(connection)
            except psycopg.OperationalError:
                self._stop.wait(0.02)

    def _write(self, connection: psycopg.Connection[Any]) -> None:
        # A lost connection does not tell if its last commit was one.
        row = connection.execute(f"SELECT coalesce(max(id), 0) FROM {self._table}".encode()).fetchone()
        assert row is not None
        self.last = row[0]
        while not self._stop.wait(0.001):
            insert(connection, self._table, self.last + 1)
            with self._written:
                self.last += 1
                self._written.notify_all()
