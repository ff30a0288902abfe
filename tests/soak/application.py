"""The application that hears: a process of its own, which obeys lines on stdin and answers each by a line of JSON.

start            listens, and holds what it reads
slow SECONDS     receivers take their time
restart          stops the listener and starts it again
check            catches up, compares what it holds with the tables, and tells what it uses of the machine
stats            tells its counters
stop             stops, closes its journals, and ends
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
from sqlalchemy import create_engine

from sqlalchemy_watch import Listener
from sqlalchemy_watch.errors import EventsDropped, ListenerStartError

from .churn import Churn
from .model import Model
from .schema import FILTERED, Base, Gauge, Item, read

#: Seconds for catching up, and for a stream's consumer to do so.
PATIENCE = 60.0

#: Seconds that an event takes while receivers are slow.
SLOW = 0.004


class Application:
    """Models of every kind of receiver, which all have to agree with the tables.

    :param proxied: the URL at which the listener connects.
    :param url: the server's own.
    """

    def __init__(self, proxied: str, url: str, folder: Path, seed: int) -> None:
        self._url, self._folder = url, folder
        self._engine = create_engine(proxied, connect_args={"connect_timeout": 2})
        self._listener = Listener(self._engine, Base, heartbeat_interval=0.3, heartbeat_timeout=1.0, max_queue=400)
        self.models: list[Model] = []
        self._plain = self._model("plain", "items")
        self._churn = Churn(seed)
        self._streaming: asyncio.Task[None] | None = None
        self._stream = self._model("stream", "gauges", by_listener=False)
        self.faults: list[str] = []

    def _model(
        self, name: str, table: str, *, by_listener: bool = True, is_async: bool = False, only: int = 0
    ) -> Model:
        model = Model(name, table, self._url, self._folder, only)
        self.models.append(model)
        if by_listener:
            connected = model.connected_async if is_async else model.connected
            resync = model.resync_async if is_async else model.resync
            self._listener.connected.connect(connected, weak=False)
            self._listener.resync.connect(resync, weak=False)
        return model

    def connect(self) -> None:
        """Connect one receiver of each kind, in the running loop."""
        Item.watch.connect(self._plain.hear, weak=False)
        Item.watch.connect(self._model("coroutine", "items", is_async=True).hear_async, weak=False)
        updated = Gauge.watch.updated
        updated.connect(self._churn.remember, weak=False)
        updated.connect(self._model("rows", "gauges").hear, weak=False)
        updated.filter_by(id=FILTERED).connect(self._model("filtered", "gauges", only=FILTERED).hear, weak=False)
        batches = updated.batches(max_size=50, max_wait=0.05)
        batches.connect(self._model("batches", "gauges").hear_many, weak=False)
        latest = updated.batches(max_size=40, max_wait=0.1, latest_only=True)
        latest.connect(self._model("latest", "gauges").hear_many, weak=False)

    async def start(self) -> None:
        while True:
            for model in self.models:
                model.begin()
            stream = Gauge.watch.updated.stream(max_queue=300)
            try:
                await self._listener.__aenter__()
                break
            except ListenerStartError:  # there is a fault at present
                await stream.aclose()
        self._churn.begin(asyncio.get_running_loop())
        self._streaming = asyncio.create_task(self._consume(stream))

    async def _consume(self, stream: Any) -> None:
        await self._stream.load_async()
        while True:
            try:
                async for event in stream:
                    self._stream.hear_many(None, [event])
                return  # the listener has stopped
            except EventsDropped as gap:
                self._stream.note_gap(str(gap))
                await self._stream.load_async()

    async def stop(self) -> None:
        await asyncio.to_thread(self._churn.end)
        await asyncio.to_thread(self._listener.stop, PATIENCE)
        assert self._streaming is not None
        await asyncio.wait_for(self._streaming, PATIENCE)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def check(self) -> dict[str, Any]:
        """Compare, and measure at rest."""
        self._plain.delay = 0.0
        await self._listener.catch_up_async(PATIENCE)
        with psycopg.connect(self._url, autocommit=True) as connection:
            tables = {name: read(connection, name) for name in ("items", "gauges")}
        differing = {}
        deadline = time.monotonic() + PATIENCE / 4
        for model in self.models:
            rows = tables[model.table]
            while (model.is_reading or model.differs(rows)) and time.monotonic() < deadline:
                await asyncio.sleep(0.05)  # a stream's consumer is a task of its own
            differing |= {model.name: model.differs(rows)} if model.differs(rows) else {}
        return {"differing": differing, **await self._measure(), **self.stats()}

    async def _measure(self) -> dict[str, Any]:
        await asyncio.to_thread(self._churn.pause)
        gc.collect()
        process = psutil.Process()
        measured = {
            "threads": process.num_threads(),
            "descriptors": process.num_fds(),
            "open": _open_descriptors(),
            "memory": process.memory_info().rss,
            "receivers": sum(len(signal.receivers) for signal in (*Item.watch, *Gauge.watch)),
        }
        self._churn.resume()
        return measured

    def stats(self) -> dict[str, Any]:
        stats = self._listener.stats()
        return {
            "heard": {model.name: model.heard for model in self.models},
            "resyncs": self._plain.resyncs,
            "dropped": stats.dropped, "failed": stats.failed_receivers, "garbage": stats.garbage,
            "ignored": stats.ignored, "churned": self._churn.rounds, "faults": self._churn.faults,
        }  # fmt: skip

    async def obey(self, command: str, *arguments: str) -> dict[str, Any]:
        if command == "start":
            self.connect()
            await self.start()
        elif command == "restart":
            await self.restart()
        elif command == "check":
            return await self.check()
        elif command == "slow":
            self._plain.delay = SLOW
            asyncio.get_running_loop().call_later(float(arguments[0]), setattr, self._plain, "delay", 0.0)
        elif command == "stop":
            await self.stop()
            for model in self.models:
                model.close()
        return self.stats()


def _open_descriptors() -> list[str]:
    """What is open, in words, for whoever looks for a leak."""
    ports = {one.fd: f"{one.status} {one.raddr}" for one in psutil.Process().net_connections("inet")}
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return []
    names = {int(path.name): os.path.realpath(path).partition(":")[0] for path in folder.iterdir()}
    return sorted(ports.get(number, name) for number, name in names.items())


def _executor() -> ThreadPoolExecutor:
    """An executor whose threads are there from the beginning, so that their number tells of others."""
    executor = ThreadPoolExecutor(3)
    together = threading.Barrier(3)
    for future in [executor.submit(together.wait) for _ in range(3)]:
        future.result()
    return executor


async def main(proxied: str, url: str, folder: str, seed: str) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_executor())
    application = Application(proxied, url, Path(folder), int(seed))
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        words = line.decode().split()
        answer = json.dumps(await application.obey(*words))
        os.write(1, f"{answer}\n".encode())
        if words[0] == "stop":
            return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
