"""Forks processes that consume a group, each with a file of its own for what its receiver was called with.

Run as a script: a line on stdin, a path, starts a process; lines on stdout say `started PID` and `active PID`.
One process imports everything once, so that the others start within milliseconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watched
from sqlalchemy_watch.listener.wal import standby


class Base(DeclarativeBase):
    pass


class Payment(Watched, Base):
    __tablename__ = "payments"
    __watch__ = ("inserted",)
    __watch_delivery__ = "durable"
    id: Mapped[int] = mapped_column(primary_key=True)


class Heard(NamedTuple):
    """A line of a process's file."""

    lsn: int
    position: int
    id: int
    #: Nanoseconds of the system-wide monotonic clock.
    at: int


class Consumers:
    """The processes of one group, as the test sees them."""

    def __init__(self, url: str, group: str, directory: Path) -> None:
        self._directory = directory
        self._parent = subprocess.Popen(
            [sys.executable, __file__, url, group], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._alive: list[int] = []
        self._paths: list[Path] = []
        #: Process ids, in the order in which they became active.
        self.active: list[int] = []

    def start(self) -> int:
        """Start one more process, which stands by while another one is active."""
        path = self._directory / f"{len(self._paths)}.heard"
        self._paths.append(path)
        assert self._parent.stdin is not None
        print(path, file=self._parent.stdin, flush=True)
        while True:
            word, pid = self._read()
            if word == "started":
                self._alive.append(pid)
                path.with_suffix(".pid").write_text(str(pid))
                return pid

    def wait_for_active(self, than: int | None = None) -> int:
        """Wait until a process other than the given one is active."""
        while not self.active or self.active[-1] == than:
            self._read()
        return self.active[-1]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._alive.remove(pid)

    def heard(self) -> dict[int, list[Heard]]:
        """Each process's id, and the events that it heard."""
        return {
            int(path.with_suffix(".pid").read_text()): [
                Heard(*map(int, line.split())) for line in path.read_text().splitlines()
            ]
            for path in self._paths
        }

    def close(self) -> None:
        for pid in self._alive:
            os.kill(pid, signal.SIGKILL)
        self._parent.kill()
        self._parent.communicate()

    def _read(self) -> tuple[str, int]:
        assert self._parent.stdout is not None
        word, _, pid = self._parent.stdout.readline().partition(" ")
        assert word, "the consumers' parent has died"
        if word == "active":
            self.active.append(int(pid))
        return word, int(pid)


def _say(word: str) -> None:
    os.write(1, f"{word} {os.getpid()}\n".encode())


def _consume(url: str, group: str, path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @Payment.watch.inserted.connect
    def book_payment(sender: Any, event: Any) -> None:
        os.write(file, f"{event.lsn} {event.position} {event.identity[0]} {time.monotonic_ns()}\n".encode())

    listener = Listener(create_engine(url), Base, durable=group)

    @listener.connected.connect
    def say_active(sender: Any) -> None:
        _say("active")

    _say("started")
    listener.start()
    signal.pause()


def main(url: str, group: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    standby.STANDBY_INTERVAL = 0.2  # to get through many hand-overs quickly
    for line in sys.stdin:
        if os.fork() == 0:
            _consume(url, group, line.strip())


if __name__ == "__main__":
    main(*sys.argv[1:])
