"""Receivers of one name: each has letters of its own, in this process and in the next."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase
from support import insert, wait_until

from sqlalchemy_watch import Listener, RetryPolicy
from sqlalchemy_watch.listener.dispatch import dead_letters

from ..conftest import MakeListener

pytestmark = needs_logical_messages

Client = psycopg.Connection[Any]
Receiver = Callable[..., None]

NO_LETTERS = "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters"
PARKING = RetryPolicy(in_order=False, first_delay=0.05, max_delay=0.05)


class Sender:
    """Fails so many times, and counts its calls."""

    def __init__(self, failures: int) -> None:
        self.failures, self.calls = failures, 0

    def send(self, sender: Any, event: Any) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise ConnectionError("down")

    def send_many(self, sender: Any, events: list[Any]) -> None:
        self.send(sender, events)

    def __call__(self, sender: Any, event: Any) -> None:
        self.send(sender, event)


def call(target: Sender, sender: Any, event: Any) -> None:
    target.send(sender, event)


def closure_of(target: Sender) -> Receiver:
    def closure(sender: Any, event: Any) -> None:
        target.send(sender, event)

    return closure


KINDS: dict[str, Callable[[Sender], Receiver]] = {
    "methods": lambda target: target.send,
    "objects": lambda target: target,
    "closures": closure_of,
    "lambdas": lambda target: lambda sender, event: target.send(sender, event),
    "partials": lambda target: functools.partial(call, target),
}


def connect(Order: Any, kind: str, *targets: Sender) -> list[Receiver]:
    """Connect a receiver for each; return them, since they are held weakly."""
    receivers = [KINDS[kind](target) for target in targets]
    for receiver in receivers:
        Order.watch.inserted.connect(receiver)
    return receivers


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_one_that_failed_is_called_again(
    client: Client, Order: Any, durable: MakeListener, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    targets = Sender(0), Sender(2), Sender(1)
    receivers = connect(Order, kind, *targets)
    with durable(retry=PARKING) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        wait_until(client, NO_LETTERS)
    assert [target.calls for target in targets] == [1, 3, 2]
    assert caplog.text.count("give them names of their own") == 1
    assert len(receivers) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_process_tells_them_apart_by_the_order_in_which_they_are_connected(
    engine: Engine, client: Client, Order: Any, Base: type[DeclarativeBase], group: str, kind: str
) -> None:
    targets = Sender(0), Sender(1), Sender(1)
    receivers = connect(Order, kind, *targets)
    with Listener(engine, Base, durable=group, max_attempts=1) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    names = [row[0] for row in client.execute("SELECT receiver FROM sqlalchemy_watch.dead_letters ORDER BY receiver")]
    assert [name.rpartition("#")[2] for name in names] == ["2", "3"]
    for receiver in receivers:
        Order.watch.inserted.disconnect(receiver)
    again = Sender(0), Sender(0), Sender(0)
    receivers = connect(Order, kind, *again)
    with Listener(engine, Base, durable=group, heartbeat_interval=0.2) as listener:
        assert dead_letters.retry(client, group, None) == 2
        wait_until(client, NO_LETTERS)
    assert [target.calls for target in again] == [0, 1, 1]


def test_a_namesake_does_not_take_the_letters_of_one_that_was_disconnected(
    client: Client, Order: Any, durable: MakeListener, group: str
) -> None:
    first, second = Sender(1), Sender(1)
    Order.watch.inserted.connect(first.send)
    Order.watch.inserted.connect(second.send)
    with durable(retry=RetryPolicy(max_attempts=1), heartbeat_interval=0.2) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        Order.watch.inserted.disconnect(first.send)
        assert dead_letters.retry(client, group, None) == 2
        wait_until(client, "SELECT bool_and(retry_at IS NULL) FROM sqlalchemy_watch.dead_letters")
        wait_until(client, "SELECT count(*) = 1 FROM sqlalchemy_watch.dead_letters")
    assert (first.calls, second.calls) == (1, 2)


def test_batches_of_namesakes_have_letters_of_their_own(client: Client, Order: Any, durable: MakeListener) -> None:
    targets = Sender(0), Sender(1)
    signal = Order.watch.inserted.batches(max_size=2)
    for target in targets:
        signal.connect(target.send_many)
    with durable(retry=PARKING) as listener:
        insert(client, "orders", 1, 2)
        listener.catch_up()
        wait_until(client, NO_LETTERS)
    assert [target.calls for target in targets] == [1, 3]


def test_one_receiver_of_a_signal_and_of_its_filter_is_no_namesake_of_itself(
    client: Client, Order: Any, durable: MakeListener, caplog: pytest.LogCaptureFixture
) -> None:
    target = Sender(1)
    insert(client, "orders", 1)
    Order.watch.updated.connect(target.send)
    Order.watch.updated.filter_by(id=1).connect(target.send)
    with durable(retry=PARKING) as listener:
        client.execute("UPDATE orders SET note = 'x'")
        listener.catch_up()
        wait_until(client, NO_LETTERS)
    assert "give them names" not in caplog.text


def test_the_table_of_dead_letters_is_made_again_where_somebody_dropped_it(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    target = Sender(1)
    Order.watch.inserted.connect(target.send)
    with durable(max_attempts=1) as listener:
        client.execute("DROP SCHEMA sqlalchemy_watch CASCADE")
        insert(client, "orders", 1)
        listener.catch_up()
        assert listener.stats().dead_letters == 1
    assert client.execute("SELECT count(*) FROM sqlalchemy_watch.dead_letters").fetchone() == (1,)
