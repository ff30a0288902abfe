"""The name of a receiver is that of its dead letters: who has it later gets them."""

from __future__ import annotations

from typing import Any

import psycopg
from postgres import needs_logical_messages
from support import insert, wait_until

from sqlalchemy_watch import RetryPolicy

from ..conftest import MakeListener
from .test_retries import QUICK, Flaky

pytestmark = needs_logical_messages


def test_a_named_receiver_gets_its_letters_whatever_function_it_is_by_then(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    old, other = Flaky({1: 9}), Flaky({1: 9})
    Order.watch.inserted.connect(old, name="receipts")
    Order.watch.inserted.connect(other)
    with durable(retry=RetryPolicy(max_attempts=1, **QUICK)) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    names = client.execute("SELECT receiver FROM sqlalchemy_watch.dead_letters").fetchall()
    assert {name for (name,) in names} == {"receipts", f"{Flaky.__module__}.Flaky"}
    Order.watch.inserted.disconnect(old)
    Order.watch.inserted.disconnect(other)
    sent: list[int] = []

    @Order.watch.inserted.connect(name="receipts")
    def send_receipt(sender: Any, event: Any) -> None:
        sent.append(event.identity[0])

    client.execute("UPDATE sqlalchemy_watch.dead_letters SET retry_at = now(), attempts = 0")
    with durable(retry=RetryPolicy(max_attempts=2, **QUICK)):
        wait_until(client, "SELECT NOT EXISTS (SELECT FROM sqlalchemy_watch.dead_letters WHERE receiver = 'receipts')")
    assert sent == [1]
