"""`python -m benchmarks.live_clients WAY URL QUERIES SECONDS`: a process that follows queries, in one of three ways.

It prints a line when all have their first result, and one with what it has measured, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watched, everything
from sqlalchemy_watch.live import live
from sqlalchemy_watch.live.query import MOST_RUNS

NARROWED, WHOLE_TABLE, POLLING = "live, narrowed", "live, narrow=False", "a poll each second"
WAYS = (NARROWED, WHOLE_TABLE, POLLING)

#: Seconds at least from one run of a query to the next.
MIN_INTERVAL = 0.05


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = everything("customer_id")
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(index=True)
    version: Mapped[int] = mapped_column(server_default="0")
    #: Seconds since 1970.
    written_at: Mapped[float] = mapped_column(server_default="0")


class Following:
    """Some queries, each with the rows that its follower has."""

    def __init__(self, way: str, url: str, queries: int) -> None:
        self._way, self._url, self._queries = way, url, queries
        self._engine = create_async_engine(url.replace("+psycopg", "+asyncpg"), pool_size=MOST_RUNS, max_overflow=0)
        self._session = async_sessionmaker(self._engine)
        self._room = asyncio.Semaphore(MOST_RUNS)
        self._known: dict[int, dict[int, int]] = {}
        #: Milliseconds from a write until its follower has it.
        self.latencies: list[float] = []
        self.runs = 0
        event.listen(self._engine.sync_engine, "after_cursor_execute", self._count)

    def _count(self, *arguments: Any) -> None:
        self.runs += 1

    def _take(self, customer: int, rows: Any) -> None:
        now, known = time.time(), self._known.get(customer)
        if known is not None:
            new = [row.Order.written_at for row in rows if known.get(row.Order.id) != row.Order.version]
            self.latencies += [(now - written_at) * 1000 for written_at in new]
        self._known[customer] = {row.Order.id: row.Order.version for row in rows}

    async def _follow(self, customer: int) -> None:
        query = select(Order).where(Order.customer_id == customer)
        if self._way == POLLING:
            await asyncio.sleep(customer / self._queries)  # not all at once
            while True:
                began = time.monotonic()
                async with self._room, self._session() as session:
                    rows = (await session.execute(query)).all()
                self._take(customer, rows)
                await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))
        narrow = self._way == NARROWED
        async for rows in live(self._session, query, min_interval=MIN_INTERVAL, narrow=narrow):
            self._take(customer, rows)

    async def measure(self, seconds: float) -> dict[str, Any]:
        """Follow, and return what was measured from the moment when all have their first result."""
        async with Listener(self._url_of_listener(), Base):
            tasks = [asyncio.create_task(self._follow(customer)) for customer in range(self._queries)]
            while len(self._known) < self._queries:
                await asyncio.sleep(0.05)
            print("ready", flush=True)
            await asyncio.sleep(1)  # the writer has begun
            self.latencies, self.runs = [], 0
            cpu, began = time.process_time(), time.monotonic()
            await asyncio.sleep(seconds)
            took = time.monotonic() - began
            found = {
                "runs": self.runs / took, "cpu": (time.process_time() - cpu) / took,
                "latencies": sorted(self.latencies),
            }  # fmt: skip
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._engine.dispose()
        return found

    def _url_of_listener(self) -> Any:
        return create_async_engine(self._url)


async def main(way: str, url: str, queries: int, seconds: float) -> None:
    print(json.dumps(await Following(way, url, queries).measure(seconds)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
