"""A server that is shut down waits for its walsenders, and they wait for what is not acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, create_engine

from sqlalchemy_watch import Listener, RetryPolicy

from ..clusters import create_tables, removed_afterwards
from ..consumers import Base, Payment
from ..journal import Journal

pytestmark = needs_logical_messages


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    with removed_afterwards(Cluster()) as cluster:
        create_tables(cluster, Base)
        yield cluster


@pytest.fixture
def engine(own: Cluster) -> Iterator[Engine]:
    engine = create_engine(own.url(driver="psycopg"))
    yield engine
    engine.dispose()


class Receiver:
    """Hears nothing before the server has been restarted."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.heard: list[int] = []

    def fail(self, sender: Any, event: Any) -> None:
        self.begun.set()
        if not self.go_on.is_set():
            raise ConnectionError("the database is not there")
        self.heard.append(event.identity[0])

    def block(self, sender: Any, event: Any) -> None:
        self.begun.set()
        assert self.go_on.wait(60)
        self.heard.append(event.identity[0])

    def arrive(self, sender: Any, event: Any) -> None:
        self.begun.set()

    def take(self, sender: Any, events: list[Any]) -> None:
        self.heard += [event.identity[0] for event in events]


def gather(receiver: Receiver) -> None:
    Payment.watch.inserted.batches(max_size=1000, max_wait=60).connect(receiver.take)
    Payment.watch.inserted.connect(receiver.arrive)


@pytest.mark.parametrize(
    "connect",
    [
        lambda receiver: Payment.watch.inserted.connect(receiver.fail),
        lambda receiver: Payment.watch.inserted.connect(receiver.block),
        gather,
    ],
    ids=["a receiver that fails", "a receiver that blocks", "a batch that waits"],
)
def test_a_fast_shutdown_does_not_wait_for_receivers(
    own: Cluster, engine: Engine, connect: Callable[[Receiver], object]
) -> None:
    receiver = Receiver()
    connect(receiver)
    retry = RetryPolicy(first_delay=0.1, max_delay=0.1)
    listener = Listener(engine, Base, durable="cashier", retry=retry)
    journal = Journal().attach(listener)
    with listener, own.connect() as client:
        row = client.execute("INSERT INTO payments SELECT count(*) + 1 FROM payments RETURNING id").fetchone()
        assert row is not None
        assert receiver.begun.wait(20)
        own.stop("fast", seconds=20)
        receiver.go_on.set()
        own.start()
        journal.wait_for_count("connected", 2)
        listener.catch_up()
    assert receiver.heard == [row[0]]
    Payment.watch.inserted._clear_state()
