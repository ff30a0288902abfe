"""Processes that hear of a table, each with a listener: by a LISTEN of its own, or by broadcast."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import create_engine

from sqlalchemy_watch import Listener, relay

from .peers import WatchedTable

START_SECONDS = 120.0

CATCH_UP_SECONDS = 300.0


class Report(NamedTuple):
    """What a worker has heard."""

    #: Events since it was last told to begin.
    heard: int
    #: Times at which it could not be sure to have heard all, since its start.
    resyncs: int
    #: By `time.perf_counter()`, when the receiver was called, by the row's id.
    arrivals: dict[int, float]


class Workers:
    """So many processes that listen while the `with` block runs.

    :param via: NATS, from which they hear the broadcast; None for a LISTEN in each.
    """

    def __init__(self, url: str, table: str, number: int, via: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(number)]
        self._pipes = [pipe for pipe, _ in pairs]
        self._theirs = [theirs for _, theirs in pairs]
        self._process = context.Process(target=_fork, args=(self._theirs, url, table, via))
        self.pids: list[int] = []

    def __enter__(self) -> Workers:
        self._process.start()
        for theirs in self._theirs:
            theirs.close()
        for answer in self._answers(START_SECONDS):
            if not isinstance(answer, int):
                self.__exit__()
                raise RuntimeError(f"a worker does not listen: {answer}")
            self.pids.append(answer)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        self._process.join()

    def begin(self, *, is_timed: bool) -> None:
        """Let them count from 0, and note when each event came, or not."""
        self._ask("begin timed" if is_timed else "begin")

    def settle(self) -> list[Report]:
        """Wait until each has caught up with what is committed, and return what they have heard."""
        return self._ask("settle")

    def _ask(self, command: str) -> list[Any]:
        for pipe in self._pipes:
            pipe.send(command)
        return list(self._answers(CATCH_UP_SECONDS + 5))

    def _answers(self, seconds: float) -> Iterable[Any]:
        deadline = time.monotonic() + seconds
        for pipe in self._pipes:
            yield pipe.recv() if pipe.poll(max(0.0, deadline - time.monotonic())) else f"no answer in {seconds:g} s"


def _fork(pipes: list[Connection], url: str, table: str, via: str | None) -> None:
    """Fork the workers, as web servers do: fifty interpreters that start one by one take half a minute."""
    os.setsid()  # Linux may share the processors by sessions: they are one, beside the server's
    importlib.import_module("nats.aio.client")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_work, args=(pipe, url, table, via)) for pipe in pipes]
    for process in processes:
        process.start()
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join()


def _work(pipe: Connection, url: str, table: str, via: str | None) -> None:
    User = WatchedTable().model(table, "inserted")
    heard, is_timed = 0, False
    arrivals: dict[int, float] = {}

    def receive(sender: Any, event: Any) -> None:
        nonlocal heard
        heard += 1
        if is_timed:
            arrivals[event.identity[0]] = time.perf_counter()

    User.watch.connect(receive)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    listener = Listener(engine, User, via=None if via is None else relay.nats(via))
    try:
        listener.start(START_SECONDS / 2)
        listener.catch_up(START_SECONDS / 2)
        engine.dispose()
        pipe.send(os.getpid())
        while True:
            command = pipe.recv()
            if command == "settle":
                listener.catch_up(CATCH_UP_SECONDS)
                pipe.send(Report(heard, listener.stats().resyncs, arrivals))
            else:
                heard, is_timed = 0, command == "begin timed"
                arrivals.clear()
                pipe.send("begun")
    except EOFError:  # the block is over
        os._exit(0)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        os._exit(1)


class Broadcasting:
    """A process with a broadcast, while the `with` block runs."""

    def __init__(self, url: str, table: str, to: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_broadcast, args=(theirs, url, table, to), daemon=True)

    def __enter__(self) -> Broadcasting:
        self._process.start()
        if not self._pipe.poll(START_SECONDS) or self._pipe.recv() != "ready":
            raise RuntimeError("the broadcast did not start")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.join()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def frames(self) -> tuple[int, int]:
        """Return the frames that it has sent, and the notifications in them."""
        self._pipe.send("frames")
        frames, notifications = self._pipe.recv()
        return frames, notifications


def _broadcast(pipe: Connection, url: str, table: str, to: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    broadcast = relay.Broadcast(engine, WatchedTable().model(table, "inserted"), to=to)
    with broadcast:
        pipe.send("ready")
        while pipe.recv() == "frames":
            pipe.send((broadcast.frames, broadcast.notifications))


def run_on(cores: set[int], pids: Iterable[int]) -> None:
    """Have processes run on these processors alone."""
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the seconds that all threads of these processes have run, those that are gone left out."""
    return sum(_cpu_of(pid) for pid in pids)


def _cpu_of(pid: int) -> float:
    total = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total / 1e9
