"""What the tests of faults share: a journal of what a listener said, writers, standbys, programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from postgres import Cluster, free_port, restore_interrupts
from sqlalchemy import create_engine

from sqlalchemy_watch import Listener

#: Seconds; long for what always comes.
PATIENCE = 20.0

LISTENER_PIDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch' AND datname = %s"


class Journal:
    """What a listener said, in its order: ("event", id), ("resync", reason), ("connected",), ("disconnected",)."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []
        self._changed = threading.Condition()

    def attach(self, listener: Listener) -> None:
        """Note what the listener itself sends."""
        listener.connected.connect(self._connected, weak=False)
        listener.disconnected.connect(self._disconnected, weak=False)
        listener.resync.connect(self._resync, weak=False)

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
        """Ids 1 to `last` came exactly once and in order, or there was a resync where they are missing.

        And a resync for each reconnection, after `connected` and before any event.
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

    def __init__(self, url: str) -> None:
        self._url = url
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
        # Whether the last commit was one, the lost connection did not tell.
        row = connection.execute("SELECT coalesce(max(id), 0) FROM users").fetchone()
        assert row is not None
        self.last = row[0]
        while not self._stop.wait(0.001):
            connection.execute("INSERT INTO users (id) VALUES (%s)", [self.last + 1])
            with self._written:
                self.last += 1
                self._written.notify_all()


class Standby(Cluster):
    """A hot standby of a running cluster; options are those of pg_basebackup."""

    def __init__(self, primary: Cluster, *options: str) -> None:
        self.version, self.port = primary.version, free_port()
        self._server = primary._server  # for the binaries and the system user
        self._root = Path(tempfile.mkdtemp(prefix="watch-tests-"))
        self._root.chmod(0o777)
        self.data = self._root / "data"
        self.run(
            "pg_basebackup", "-D", str(self.data), "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres",
            "-X", "stream", "-c", "fast", "-R", *options,
        )  # fmt: skip
        self.configure(port=self.port)


def create_tables(cluster: Cluster, base: Any) -> None:
    """Tables and triggers, by an engine that is gone afterwards."""
    engine = create_engine(cluster.url(driver="psycopg"))
    base.metadata.create_all(engine)
    engine.dispose()


@contextmanager
def removed_afterwards(cluster: Cluster) -> Iterator[Cluster]:
    try:
        yield cluster.start()
    finally:
        cluster.remove()


PREAMBLE = """
import os, sys, threading, time, logging
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_watch import Listener, Watched

class Base(DeclarativeBase):
    pass

class User(Watched, Base):
    __tablename__ = "users"
    __watch__ = ("inserted",)
    id: Mapped[int] = mapped_column(primary_key=True)

url = sys.argv[1]
engine = create_engine(url, poolclass=NullPool)  # nothing but the listener stays open
Base.metadata.create_all(engine)
heard = []
came = threading.Event()

@User.watch.inserted.connect
def remember(sender, event):
    heard.append(event.identity[0])
    came.set()

def insert(id):
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO users VALUES (:id)"), {"id": id})

"""


class Program:
    """A Python program of its own, with a watched model, an engine and a recording receiver."""

    def __init__(self, url: str, code: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="watch-tests-")
        script = Path(self._folder) / "program.py"
        script.write_text(PREAMBLE + textwrap.dedent(code))
        # A fork of a process with threads is what is tested here; Python 3.12 warns of it.
        options = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        self.process = subprocess.Popen(
            [sys.executable, *options, str(script), url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=restore_interrupts,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def finish(self, seconds: float = PATIENCE) -> tuple[int, str, str]:
        """Exit status, output and errors, when it has ended by itself."""
        try:
            output, errors = self.process.communicate(timeout=seconds)
        finally:
            self.process.kill()
            self.process.wait()
            shutil.rmtree(self._folder)
        return self.process.returncode, output.strip(), errors


def run(url: str, code: str) -> str:
    """Run a program; it must end by itself, successfully, and without a word on stderr."""
    status, output, errors = Program(url, code).finish()
    assert status == 0, errors
    assert not errors, errors
    return output
