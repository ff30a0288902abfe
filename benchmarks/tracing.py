"""The cost of traces: for transactions, and for calls of receivers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy import Engine, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watched, install
from sqlalchemy_watch.otel import instrument

from .harness import Figure, Table, interleave, medians
from .server import Server


class Base(DeclarativeBase):
    pass


class Traced(Watched, Base):
    __tablename__ = "traced"
    __watch__ = ("inserted",)
    id: Mapped[int] = mapped_column(primary_key=True)


_ids = itertools.count(1)

_tracer = TracerProvider().get_tracer("benchmarks")


def run(server: Server, quick: bool) -> list[Table]:
    """The tables of writers, and of receivers."""
    transactions, rows, rounds = (50, 500, 3) if quick else (500, 10_000, 9)
    plain, instrumented = server.engine(), server.engine()
    Base.metadata.create_all(plain)
    install(plain, Traced)
    Traced.watch.inserted.connect(_receive)
    made = instrument(engine=instrumented)
    try:
        return [_writers(plain, instrumented, transactions, rounds), _receivers(server, plain, rows, rounds)]
    finally:
        made.close()
        Traced.watch.inserted.disconnect(_receive)
        Base.metadata.drop_all(plain)
        plain.dispose()
        instrumented.dispose()


def _writers(plain: Engine, instrumented: Engine, transactions: int, rounds: int) -> Table:
    turns: dict[str, Callable[[], float]] = {
        "write": lambda: _transactions(plain, transactions, writes=True),
        "write, instrumented": lambda: _transactions(instrumented, transactions, writes=True),
        "read": lambda: _transactions(plain, transactions, writes=False),
        "read, instrumented": lambda: _transactions(instrumented, transactions, writes=False),
    }
    found = medians(interleave(turns, rounds))
    table = Table(
        "Traces: transactions",
        "A transaction of one statement, within a span: an INSERT of one row, or a SELECT. `instrument(engine=engine)` "
        "has a transaction that writes say its trace, in one statement more.",
        ("transaction", "microseconds", "ratio"),
    )
    for name, micros in found.items():
        table.add(name, micros, micros / found[name.partition(",")[0]])
    ratio = found["read, instrumented"] / found["read"]
    table.figures.append(
        Figure("a transaction that reads, traced: of one that is not", ratio, 1.05, "looking at the SQL")
    )
    ratio = found["write, instrumented"] / found["write"]
    table.figures.append(Figure("a transaction of one row, traced: of one that is not", ratio, 1.4, "a round trip"))
    return table


def _receivers(server: Server, engine: Engine, rows: int, rounds: int) -> Table:
    turns = {name: lambda name=name: _dispatch(server, engine, rows, name == "traced") for name in ("plain", "traced")}
    found = medians(interleave(turns, rounds))
    table = Table(
        "Traces: calls of receivers",
        f"An INSERT of {rows:,} rows, from the statement until a receiver that does nothing has been called for each. "
        "Traced, each call is a span of the SDK, which nothing exports, and a measurement.",
        ("receiver", "microseconds a row", "ratio"),
    )
    for name, micros in found.items():
        table.add(name, micros, micros / found["plain"])
    return table


def _receive(sender: Any, event: Any) -> None:
    """Does nothing."""


def _transactions(engine: Engine, count: int, *, writes: bool) -> float:
    started = time.perf_counter()
    for _ in range(count):
        statement = insert(Traced).values(id=next(_ids)) if writes else select(Traced.id).where(Traced.id == 0)
        with _tracer.start_as_current_span("transaction"), engine.begin() as connection:
            connection.execute(statement).close()
    return (time.perf_counter() - started) / count * 1e6


def _dispatch(server: Server, engine: Engine, rows: int, is_traced: bool) -> float:
    listener = Listener(engine, Traced)
    meters = MeterProvider([InMemoryMetricReader()])
    made = instrument(listener, tracer_provider=TracerProvider(), meter_provider=meters) if is_traced else None
    with listener, server.connect() as connection:
        first = next(_ids)
        for _ in range(rows):
            next(_ids)
        started = time.perf_counter()
        connection.execute(f"INSERT INTO traced SELECT generate_series({first}, {first + rows - 1})")
        listener.catch_up()
        seconds = time.perf_counter() - started
    if made is not None:
        made.close()
    return seconds / rows * 1e6
