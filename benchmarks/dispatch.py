"""The cost of a subscription: to make it, to keep it, and to dispatch rows beside it."""

from __future__ import annotations

import time
import tracemalloc
from functools import partial
from typing import Any

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched, install

from .harness import Figure, Table, interleave, medians
from .peers import create_table
from .server import Server


def run(server: Server, quick: bool) -> list[Table]:
    """The table of one subscription beside 100,000."""
    rows, rounds, many = (2_000, 3, 2_000) if quick else (50_000, 9, 100_000)
    table = Table(
        "Dispatch with many filtered subscriptions",
        f"An UPDATE of {rows:,} rows, dispatched to subscriptions made by `filter_by`: from the statement until all "
        "has been dispatched. A subscription to an id hears one row, the one to a role_id hears them all: in the last "
        "two lines every row has a receiver, in the first a single one.",
        ("subscriptions", "rows with a receiver", "seconds", "ratio"),
    )
    cost = Table(
        "The cost of subscribing",
        f"{many:,} times `User.watch.updated.filter_by(id=…).connect(receiver)`, one receiver for all.",
        ("microseconds to connect", "microseconds to disconnect", "bytes each"),
    )
    create_table(server, "subscribed")
    single, general, models = _model(), _model(), _model()
    install(server.engine(), single)
    with server.connect() as connection:
        connection.execute(f"INSERT INTO subscribed SELECT i, 1, 'n' FROM generate_series(1, {rows}) AS i")
    single.watch.updated.filter_by(id=1).connect(_receive)
    general.watch.updated.filter_by(role_id=1).connect(_receive)
    connect_seconds, size = _subscribe(models, many)
    turns = {model: partial(_update, server, model, rows) for model in (single, general, models)}
    found = medians(interleave(turns, rounds))
    table.add("1, to an id", "1", found[single], found[single] / found[general])
    table.add("1, to a role_id", f"{rows:,}", found[general], 1.0)
    ratio = found[models] / found[general]
    table.add(f"{many:,}, to ids", f"{rows:,}", found[models], ratio)
    limit = "nothing: a row looks its subscriptions up by value"
    table.figures.append(Figure(f"dispatch with {many:,} subscriptions: of one's", ratio, 1.2, limit))
    micros = connect_seconds / many * 1e6
    cost.figures += [
        Figure("a filtered subscription: to connect", micros, 8, "checking the key, and the lock", " us"),
        Figure("a filtered subscription: memory", round(size / many), 200, "a dictionary's entry and the key", " B"),
    ]
    started = time.perf_counter()
    for i in range(many):
        models.watch.updated.filter_by(id=i).disconnect(_receive)
    cost.add(connect_seconds / many * 1e6, (time.perf_counter() - started) / many * 1e6, round(size / many))
    return [table, cost]


def _receive(sender: Any, event: Any) -> None:
    """Does nothing."""


def _model() -> Any:
    class Base(DeclarativeBase):
        pass

    class User(Watched, Base):
        __tablename__ = "subscribed"
        __watch__ = (Watch("updated", extra_columns=("role_id",)),)
        id: Mapped[int] = mapped_column(primary_key=True)
        role_id: Mapped[int]

    return User


def _subscribe(model: Any, count: int) -> tuple[float, int]:
    started = time.perf_counter()
    for i in range(count):
        model.watch.updated.filter_by(id=i).connect(_receive)
    seconds = time.perf_counter() - started
    # Once more, slowly, to see the memory.
    for i in range(count):
        model.watch.updated.filter_by(id=i).disconnect(_receive)
    tracemalloc.start()
    for i in range(count):
        model.watch.updated.filter_by(id=i).connect(_receive)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, size


def _update(server: Server, model: Any, rows: int) -> float:
    with Listener(server.engine(), model) as listener, server.connect() as connection:
        started = time.perf_counter()
        connection.execute("UPDATE subscribed SET name = name || 'n'")
        listener.catch_up()
        seconds = time.perf_counter() - started
        assert listener.stats().events == rows
        connection.execute("VACUUM subscribed")
    return seconds
