"""How stale a cache becomes: readers and writers over one region, and three ways of dropping what has changed."""

from __future__ import annotations

import bisect
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE
from sqlalchemy import Engine, create_engine, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watched
from sqlalchemy_watch.caching import invalidate

from .harness import Figure, Table, interleave, medians, percentile
from .server import Server

KEYS, READERS, WRITERS = 20, 8, 2

#: Seconds between a load and its store, between two reads, and between two writes of each.
WORK, READ_PAUSE, WRITE_PAUSE = 0.005, 0.002, 0.005

#: Seconds after which an entry is deleted once more.
AGAIN = 0.1


class Base(DeclarativeBase):
    pass


class Price(Watched, Base):
    __tablename__ = "prices"
    __watch__ = ("updated", "deleted", "truncated")
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


def key_of(row: Any) -> str:
    return f"price:{row['id']}"


@dataclass
class Outcome:
    """What readers have seen."""

    reads: int = 0
    writes: int = 0
    #: Milliseconds for which what was read had been replaced by then, of each stale read.
    ages: list[float] = field(default_factory=list)
    for_ever: int = 0


@dataclass
class History:
    """The versions of a row, each with the time after its commit."""

    times: list[float] = field(default_factory=lambda: [0.0])
    versions: list[int] = field(default_factory=lambda: [0])

    def newest(self, at: float) -> int:
        return self.versions[bisect.bisect_right(self.times, at) - 1]

    def replaced_at(self, version: int) -> float:
        return self.times[bisect.bisect_right(self.versions, version)]


def run(server: Server, quick: bool) -> list[Table]:
    """Return the table of stale reads."""
    seconds, rounds = (2.0, 1) if quick else (8.0, 5)
    table = Table(
        "Stale entries of a cache",
        f"{READERS} readers and {WRITERS} writers over {KEYS} keys of a dogpile.cache region in memory, "
        f"{WORK * 1000:g} ms between a load and its store; {rounds} rounds of {seconds:g} s each, medians. A read is "
        "stale if it gives a value that had been replaced by a commit before the read began; its age is the time since "
        "then. Stale for ever is what the cache still holds when all is dispatched and nobody writes any more.",
        ("entries are dropped by", "reads", "writes/s", "stale reads", "age p99, ms", "oldest, ms", "stale for ever"),
    )
    engine = create_engine(server.url("psycopg"), pool_size=READERS + WRITERS + 2)
    Base.metadata.create_all(engine)
    turns: dict[str, Callable[[], Outcome]] = {
        "a delete on event": partial(_measure, engine, seconds, _delete),
        f"a delete, and another after {AGAIN * 1000:g} ms": partial(_measure, engine, seconds, _delete_twice),
        "invalidate(), with stamps": partial(_measure, engine, seconds, _invalidate),
    }
    found: dict[str, list[Outcome]] = interleave(turns, rounds)
    for name, outcomes in found.items():
        table.add(name, *_cells(outcomes, seconds))
    stamped = found["invalidate(), with stamps"]
    oldest = medians({"": [max(each.ages, default=0.0) for each in stamped]})[""]
    table.figures += [
        Figure("a cache with stamps: entries that are stale for ever", sum(e.for_ever for e in stamped), 0, "nothing"),
        Figure("a cache with stamps: the oldest stale read, ms", oldest, 5, "the way of the event", " ms"),
    ]
    engine.dispose()
    return [table]


def _cells(outcomes: list[Outcome], seconds: float) -> Iterable[str | float]:
    def median(value: Callable[[Outcome], float]) -> float:
        return medians({"": [value(outcome) for outcome in outcomes]})[""]

    yield int(median(lambda o: o.reads))
    yield median(lambda o: o.writes / seconds)
    yield int(median(lambda o: len(o.ages)))
    yield median(lambda o: percentile(o.ages, 0.99) if o.ages else 0.0)
    yield median(lambda o: max(o.ages, default=0.0))
    yield f"{sum(o.for_ever for o in outcomes)} of {KEYS * len(outcomes)}"


def _delete(region: CacheRegion, listener: Listener) -> AbstractContextManager[Any]:
    return Price.watch.updated.connected_to(lambda sender, event: region.delete(key_of(event.values)))


def _delete_twice(region: CacheRegion, listener: Listener) -> AbstractContextManager[Any]:
    def delete(sender: type[Price], event: Any) -> None:
        key = key_of(event.values)
        region.delete(key)
        timer = threading.Timer(AGAIN, region.delete, (key,))
        timer.daemon = True
        timer.start()

    return Price.watch.updated.connected_to(delete)


def _invalidate(region: CacheRegion, listener: Listener) -> AbstractContextManager[Any]:
    return invalidate(region, Price, key=key_of, listener=listener)


def _measure(
    engine: Engine, seconds: float, dropping: Callable[[CacheRegion, Listener], AbstractContextManager[Any]]
) -> Outcome:
    with engine.begin() as connection:
        connection.execute(Price.__table__.delete())
        connection.execute(insert(Price), [{"id": number, "version": 0} for number in range(KEYS)])
    region = make_region().configure("dogpile.cache.memory")
    histories = [History() for _ in range(KEYS)]
    outcome = Outcome()
    with Listener(engine, Price) as listener, dropping(region, listener):
        ends = time.perf_counter() + seconds
        with ThreadPoolExecutor(READERS + WRITERS) as pool:
            readers = [pool.submit(_read, engine, region, histories, ends, seed) for seed in range(READERS)]
            writers = [pool.submit(_write, engine, histories, ends, seed) for seed in range(WRITERS)]
            for reader in readers:
                reads, ages = reader.result()
                outcome.reads += reads
                outcome.ages += ages
            outcome.writes = sum(writer.result() for writer in writers)
        listener.catch_up()
        time.sleep(2 * AGAIN)
        held = [region.get(f"price:{number}") for number in range(KEYS)]
        right = [history.versions[-1] for history in histories]
        outcome.for_ever = sum(h is not NO_VALUE and h != r for h, r in zip(held, right, strict=True))
    return outcome


def _read(
    engine: Engine, region: CacheRegion, histories: list[History], ends: float, seed: int
) -> tuple[int, list[float]]:
    choose, reads, ages = random.Random(seed), 0, []
    while (began := time.perf_counter()) < ends:
        number = choose.randrange(KEYS)
        history = histories[number]
        newest = history.newest(began)
        version = region.get_or_create(f"price:{number}", partial(_load, engine, number))
        reads += 1
        if version < newest:
            ages.append((began - history.replaced_at(version)) * 1000)
        time.sleep(READ_PAUSE)
    return reads, ages


def _load(engine: Engine, number: int) -> int:
    with engine.connect() as connection:
        version = connection.execute(select(Price.version).where(Price.id == number)).scalar_one()
    time.sleep(WORK)
    return version


def _write(engine: Engine, histories: list[History], ends: float, seed: int) -> int:
    choose, writes = random.Random(seed), 0
    own = [number for number in range(KEYS) if number % WRITERS == seed]
    with engine.connect() as connection:
        while time.perf_counter() < ends:
            number = choose.choice(own)
            history = histories[number]
            version = history.versions[-1] + 1
            connection.execute(update(Price).where(Price.id == number).values(version=version))
            connection.commit()
            history.versions.append(version)
            history.times.append(time.perf_counter())
            writes += 1
            time.sleep(WRITE_PAUSE)
    return writes
