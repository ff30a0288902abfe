"""A model application: a cache kept from events, and read anew where events may be missing; and its journal.

A journal is a file with a line for each call, in the order of the calls:

    e operation id version txid     an event; the version is "-" where the row was too large to be carried
    r reason                        a resync, or the gap of a stream
    l id=step id=step ...           everything was read anew, up to these steps
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import OperationalError

from sqlalchemy_watch import Listener

from .schema import MUTED_FROM, Rows, read, read_async

#: Seconds between attempts to read.
PAUSE = 0.05


class Model:
    """What an application holds of one table.

    :param url: past the proxy: the application's own connections are no part of what fails.
    :param only: the id of the row that it wants, where it wants one alone.
    """

    def __init__(self, name: str, table: str, url: str, folder: Path, only: int = 0) -> None:
        self.name, self.table, self._url, self._only = name, table, url, only
        self.cache: dict[int, int] = {}
        #: False until everything has been read since the last start.
        self.is_loaded = False
        #: Events, resyncs.
        self.heard = self.resyncs = 0
        #: Seconds that each event takes.
        self.delay = 0.0
        self._starts = 0
        #: True while a coroutine reads.
        self.is_reading = False
        self._journal = (folder / f"{name}.journal").open("w")

    def hear(self, sender: Any, event: Any) -> None:
        self._note_event(event)
        if self.delay:
            time.sleep(self.delay)
        if event.partial and event.operation != "deleted":
            self._apply(event.identity[0], self._ask())

    async def hear_async(self, sender: Any, event: Any) -> None:
        self._note_event(event)
        if event.partial and event.operation != "deleted":
            await self._read_for(lambda rows: self._apply(event.identity[0], rows))

    def hear_many(self, sender: Any, events: list[Any]) -> None:
        for event in events:
            self._note_event(event)

    def _note_event(self, event: Any) -> None:
        self.heard += 1
        id_ = event.identity[0]
        version: int | None = None if event.partial else event.values["version"]
        print("e", event.operation, id_, "-" if version is None else version, event.txid, file=self._journal)
        if event.operation == "deleted":
            self.cache.pop(id_, None)
        elif version is not None:
            self.cache[id_] = version

    def _apply(self, id_: int, rows: Rows) -> None:
        if id_ in rows.versions:
            self.cache[id_] = rows.versions[id_]
        else:
            self.cache.pop(id_, None)

    def connected(self, listener: Listener) -> None:
        if not self.is_loaded:
            self.load()

    async def connected_async(self, listener: Listener) -> None:
        if not self.is_loaded:
            await self.load_async()

    def resync(self, listener: Listener, reason: str) -> None:
        self.note_gap(reason)
        self.load()

    async def resync_async(self, listener: Listener, reason: str) -> None:
        self.note_gap(reason)
        await self.load_async()

    def note_gap(self, reason: str) -> None:
        self.resyncs += 1
        print("r", reason, file=self._journal)

    def load(self) -> None:
        """Read everything, as soon as the server answers."""
        self._take(self._ask())

    async def load_async(self) -> None:
        await self._read_for(self._take)

    async def _read_for(self, use: Callable[[Rows], None]) -> None:
        starts = self._starts
        rows = await self._ask_async()
        if starts == self._starts:  # `stop()` gives coroutines up, which go on all the same
            use(rows)

    def begin(self) -> None:
        """Know nothing any more: the listener is about to start."""
        self._starts += 1
        self.is_loaded = False

    def _ask(self) -> Rows:
        while True:
            try:
                with psycopg.connect(self._url, autocommit=True) as connection:
                    return read(connection, self.table)
            except OperationalError:
                time.sleep(PAUSE)

    async def _ask_async(self) -> Rows:
        self.is_reading = True
        try:
            while True:
                try:
                    async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
                        return await read_async(connection, self.table)
                except OperationalError:
                    await asyncio.sleep(PAUSE)
        finally:
            self.is_reading = False

    def _take(self, rows: Rows) -> None:
        self.cache = rows.versions
        self.is_loaded = True
        print("l", *(f"{id_}={step}" for id_, step in rows.steps.items()), file=self._journal)

    def differs(self, rows: Rows) -> dict[int, tuple[int | None, int | None]]:
        """The ids of which the cache has another version than the table: both, the cache's first."""
        ids = {id_ for id_ in {*self.cache, *rows.versions} if id_ < MUTED_FROM and self._only in (0, id_)}
        found = {id_: (self.cache.get(id_), rows.versions.get(id_)) for id_ in ids}
        return {id_: pair for id_, pair in found.items() if pair[0] != pair[1]}

    def close(self) -> None:
        self._journal.close()
