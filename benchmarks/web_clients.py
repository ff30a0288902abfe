"""Browsers that hear server-sent events: sockets of one process, which does as little as it can."""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import resource
import time
from multiprocessing.connection import Connection
from typing import Any

CONNECT_SECONDS = 60.0

#: Connections that are being made at a time.
CONNECTING = 50

REQUEST = b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"

#: An id that was inserted.
ID = re.compile(rb"7\d{12}")


def allow_files(number: int) -> None:
    """Let this process have so many files and sockets open, beside what it needs anyway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + 200
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Clients:
    """So many browsers, connected while the `with` block runs."""

    def __init__(self, port: int, number: int) -> None:
        self._number = number
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_browse, args=(theirs, port, number), daemon=True)

    def __enter__(self) -> Clients:
        self._process.start()
        if not self._pipe.poll(CONNECT_SECONDS) or self._pipe.recv() != "connected":
            self.__exit__()
            raise RuntimeError(f"{self._number:,} browsers did not connect within {CONNECT_SECONDS:g} s")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.join()

    def wait(self, id_: int, timeout: float) -> list[float]:
        """Return when each browser had the event of this row, by `time.perf_counter()`."""
        if not self._pipe.poll(timeout):
            raise RuntimeError(f"not all of {self._number:,} browsers had the event within {timeout:g} s")
        found, arrived = self._pipe.recv()
        assert found == id_, (found, id_)
        assert len(arrived) == self._number, len(arrived)
        return list(arrived)

    def check(self) -> None:
        """Fail unless each browser has got each event, once and in order."""
        self._pipe.send("check")
        heard: list[tuple[int, ...]] = self._pipe.recv()
        assert len(heard) == self._number, len(heard)
        assert len(set(heard)) == 1, "browsers have got different events"
        assert list(heard[0]) == sorted(set(heard[0])), "an event came twice, or too late"


class _Browsers:
    def __init__(self, pipe: Connection, number: int) -> None:
        self.pipe, self.number = pipe, number
        #: By row: when browsers had its event.
        self.arrived: dict[int, list[float]] = {}
        self.all: list[_Browser] = []

    def hear(self, id_: int) -> None:
        arrived = self.arrived.setdefault(id_, [])
        arrived.append(time.perf_counter())
        if len(arrived) == self.number:
            self.pipe.send((id_, arrived))

    def answer(self) -> None:
        self.pipe.recv()
        self.pipe.send([tuple(browser.heard) for browser in self.all])


class _Browser(asyncio.Protocol):
    def __init__(self, browsers: _Browsers) -> None:
        self._browsers = browsers
        self._received = b""
        self.heard: list[int] = []
        #: Done once it hears: with what comes first in the stream, a comment or the like.
        self.is_hearing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        browsers.all.append(self)

    def connection_made(self, transport: Any) -> None:
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.is_hearing.done():
            head, end, body = self._received.partition(b"\r\n\r\n")
            if not end or not body:
                return
            assert head.startswith(b"HTTP/1.1 200"), head
            self._received = body
            self.is_hearing.set_result(None)
        if not self._received.endswith(b"\r\n"):  # a chunk's end is yet to come
            return
        for id_ in dict.fromkeys(ID.findall(self._received)):
            self.heard.append(int(id_))
            self._browsers.hear(int(id_))
            self._received = b""

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_hearing.done():
            self.is_hearing.set_exception(error or ConnectionError("closed before an event came"))


def _browse(pipe: Connection, port: int, number: int) -> None:
    allow_files(number)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        browsers = _Browsers(pipe, number)
        slots = asyncio.Semaphore(CONNECTING)

        async def connect() -> None:
            async with slots:
                _, browser = await loop.create_connection(lambda: _Browser(browsers), "127.0.0.1", port)
                await browser.is_hearing

        await asyncio.gather(*(connect() for _ in range(number)))
        loop.add_reader(pipe.fileno(), browsers.answer)
        pipe.send("connected")
        await asyncio.Event().wait()

    asyncio.run(main())
