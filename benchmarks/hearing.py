"""A listener in a process of its own, which tells when it has heard so many rows."""

from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from .peers import PEERS, Kind

START_SECONDS = 30.0


class Hearing:
    """A process that listens while the `with` block runs.

    :param each: the number of rows after which it tells the time.
    """

    def __init__(self, peer: str, url: str, table: str, kind: Kind, each: int) -> None:
        self.peer = peer
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_listen, args=(theirs, peer, url, table, kind, each), daemon=True)

    def __enter__(self) -> Hearing:
        self._process.start()
        if self._receive(START_SECONDS) != "ready":
            raise RuntimeError(f"{self.peer} did not listen within {START_SECONDS:g} s")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.join()

    def wait(self, timeout: float) -> float | None:
        """Return the time of the last row, by `time.perf_counter()`; None where it was not heard within the timeout."""
        found = self._receive(timeout)
        return found if isinstance(found, float) else None

    def count(self) -> int:
        """Return the number of rows that have been heard."""
        self._pipe.send("count")
        while not isinstance(found := self._receive(5.0), int):
            if found is None:
                return 0
        return found

    def _receive(self, timeout: float) -> Any:
        return self._pipe.recv() if self._pipe.poll(timeout) else None


def _listen(pipe: Connection, peer: str, url: str, table: str, kind: Kind, each: int) -> None:
    heard = 0
    left = each

    def receive(*_: Any) -> None:
        nonlocal heard, left
        heard += 1
        left -= 1
        if not left:
            pipe.send(time.perf_counter())
            left = each

    def answer() -> None:
        while pipe.recv() == "count":
            pipe.send(heard)

    def ready() -> None:
        pipe.send("ready")
        threading.Thread(target=answer, daemon=True).start()

    PEERS[peer].listen(url, table, kind, receive, ready)
