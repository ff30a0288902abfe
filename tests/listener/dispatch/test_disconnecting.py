"""Disconnecting a receiver that keeps raising frees the line, whatever it was connected to."""

from __future__ import annotations

import gc
import threading
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import insert, wait_until

from sqlalchemy_watch import RetryPolicy, Watch, Watched

from ..conftest import MakeListener

pytestmark = needs_logical_messages

Client = psycopg.Connection[Any]

#: Nothing is called again so soon that a test would see it.
LONG = RetryPolicy(first_delay=600, max_delay=600)


class Broken:
    """A receiver that always raises."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, sender: Any, event: Any) -> None:
        self.calls += 1
        raise ValueError("always")

    def take(self, sender: Any, event: Any) -> None:
        self(sender, event)

    def take_many(self, sender: Any, events: list[Any]) -> None:
        self(sender, events)


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = (Watch("inserted", extra_columns=("customer",)),)
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)
        customer: Mapped[int] = mapped_column(server_default="7")

    Base.metadata.create_all(engine)
    return Order


def signals_of(signal: Any) -> dict[str, Any]:
    return {
        "plain": signal,
        "filter": signal.filter_by(customer=7),
        "batches": signal.batches(max_size=1),
        "batches of a filter": signal.filter_by(customer=7).batches(max_size=1),
        "model": None,
    }


@pytest.mark.parametrize("kind", ["plain", "filter", "batches", "batches of a filter", "model"])
def test_a_receiver_that_is_disconnected_is_not_called_again(
    client: Client, Order: Any, durable: MakeListener, recorder: Recorder, kind: str
) -> None:
    broken = Broken()
    receiver = broken.take_many if "batches" in kind else broken.take
    signal = signals_of(Order.watch.inserted)[kind] or Order.watch
    signal.connect(receiver)
    Order.watch.inserted.connect(recorder)
    with durable(retry=LONG) as listener:
        insert(client, "orders", 1)
        wait_until(client, lambda: broken.calls)
        signal.disconnect(receiver)
        insert(client, "orders", 2)
        listener.catch_up()
        assert listener.stats().retries == 0
    assert broken.calls == 1
    assert recorder.heard() == [("inserted", (1,)), ("inserted", (2,))]


def test_a_receiver_of_one_sender_is_disconnected_from_that(client: Client, Order: Any, durable: MakeListener) -> None:
    broken = Broken()
    Order.watch.inserted.connect(broken, sender=Order)
    with durable(retry=LONG) as listener:
        insert(client, "orders", 1)
        wait_until(client, lambda: broken.calls)
        Order.watch.inserted.disconnect(broken, sender=Order)
        listener.catch_up()
    assert broken.calls == 1


@pytest.mark.parametrize("kind", ["plain", "filter"])
def test_a_receiver_of_a_with_statement_is_disconnected_at_its_end(
    client: Client, Order: Any, durable: MakeListener, kind: str
) -> None:
    broken = Broken()
    with durable(retry=LONG) as listener:
        with signals_of(Order.watch.inserted)[kind].connected_to(broken):
            insert(client, "orders", 1)
            wait_until(client, lambda: broken.calls)
        listener.catch_up()
    assert broken.calls == 1


@pytest.mark.parametrize("kind", ["plain", "filter", "batches"])
@pytest.mark.parametrize("is_method", [True, False], ids=["method", "object"])
def test_a_receiver_that_dies_frees_the_line_though_its_error_is_at_hand(
    client: Client, Order: Any, durable: MakeListener, kind: str, is_method: bool
) -> None:
    called = threading.Event()

    class Short:
        def __call__(self, sender: Any, event: Any) -> None:
            called.set()
            raise ValueError(event.identity)

        def take(self, sender: Any, event: Any) -> None:
            try:
                raise KeyError("before")
            except KeyError:
                self(sender, event)

        def take_many(self, sender: Any, events: list[Any]) -> None:
            self(sender, events[0])

    class ShortOfMany(Short):
        def __call__(self, sender: Any, events: Any) -> None:  # type: ignore[override]
            Short.__call__(self, sender, events[0] if isinstance(events, list) else events)

    owner: Any = ShortOfMany() if kind == "batches" else Short()
    if is_method:
        signals_of(Order.watch.inserted)[kind].connect(owner.take_many if kind == "batches" else owner.take, weak=True)
    else:
        signals_of(Order.watch.inserted)[kind].connect(owner, weak=True)
    with durable(retry=LONG) as listener:
        insert(client, "orders", 1)
        assert called.wait(20)
        wait_until(client, lambda: listener.stats().failed_receivers)
        del owner
        gc.collect()
        listener.catch_up()


def test_a_muted_receiver_is_connected_all_the_same(client: Client, Order: Any, durable: MakeListener) -> None:
    calls: list[int] = []

    def flaky(sender: Any, event: Any) -> None:
        calls.append(event.identity[0])
        if len(calls) < 4:
            raise ValueError

    Order.watch.inserted.connect(flaky)
    with durable(retry=RetryPolicy(first_delay=0.05, max_delay=0.05)) as listener:
        insert(client, "orders", 1)
        wait_until(client, lambda: calls)
        with Order.watch.inserted.muted():
            listener.catch_up()
    assert calls == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        (RetryPolicy(max_attempts=5, first_delay=600, max_delay=600), "none"),
        (RetryPolicy(in_order=False, first_delay=0.01), "given up"),
    ],
    ids=["in order", "parked"],
)
def test_a_disconnected_receiver_has_no_letter_but_one_that_was_written_before(
    client: Client, Order: Any, durable: MakeListener, policy: RetryPolicy, state: str
) -> None:
    broken = Broken()
    Order.watch.inserted.connect(broken)
    with durable(retry=policy) as listener:
        insert(client, "orders", 1)
        wait_until(client, lambda: broken.calls)
        if state == "given up":
            wait_until(client, "SELECT count(*) = 1 FROM sqlalchemy_watch.dead_letters")
        Order.watch.inserted.disconnect(broken)
        listener.catch_up()
        count = "SELECT count(*) = %s FROM sqlalchemy_watch.dead_letters WHERE retry_at IS NULL"
        wait_until(client, count, 0 if state == "none" else 1)
