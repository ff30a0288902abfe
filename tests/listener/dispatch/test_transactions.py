"""Whole transactions of a consumer group, in parts where they are large."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import needs_logical_messages
from sqlalchemy import Engine
from support import insert, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, RetryPolicy, Transaction, context

from ..conftest import MakeListener

Client = psycopg.Connection[Any]
Told = tuple[list[tuple[str, int]], int, bool]


def told(transaction: Transaction) -> Told:
    events = [(event.label, event.identity[0]) for event in transaction.events]
    return events, transaction.part, transaction.is_last


@needs_logical_messages
def test_a_transaction_comes_whole_and_in_the_order_of_the_log(
    client: Client, Order: Any, durable: MakeListener, engine: Engine
) -> None:
    found: list[Transaction] = []
    listener = durable()
    returned = listener.transactions.connect(lambda sender, transaction: found.append(transaction))
    assert callable(returned)
    with listener:
        with client.transaction():
            insert(client, "orders", 1)
            client.execute("UPDATE orders SET note = 'x'; DELETE FROM orders")
        client.execute("CREATE TABLE unwatched (); SELECT pg_logical_emit_message(true, 'x', 'y')")
        with engine.begin() as connection, context(connection, request="7"):
            connection.exec_driver_sql("INSERT INTO orders VALUES (2)")
        listener.catch_up()
    assert [told(transaction) for transaction in found] == [
        ([("inserted", 1), ("updated", 1), ("deleted", 1)], 0, True), ([("inserted", 2)], 0, True),
    ]  # fmt: skip
    first, second = found
    assert (first.lsn, first.xid) == (first.events[0].lsn, first.events[0].txid)
    assert first.committed_at == first.events[0].emitted_at
    assert (first.context, second.context) == ({}, {"request": "7"})


@needs_logical_messages
def test_a_large_transaction_comes_in_parts_of_which_the_last_one_says_so(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    small: list[Told] = []
    large: list[Transaction] = []
    listener = durable()

    @listener.transactions.connect(chunk=2, name="small")
    def take(sender: Any, transaction: Transaction) -> None:
        assert sender is listener
        small.append(told(transaction))

    listener.transactions.connect(lambda sender, transaction: large.append(transaction), chunk=10_000)
    with listener:
        with client.transaction():
            insert(client, "orders", range(20_000))
        with client.transaction():
            insert(client, "orders", *range(20_000, 20_004))
        listener.catch_up()
    ids = [identity for events, _, _ in small for _, identity in events]
    assert ids == list(range(20_004))
    assert [(part, is_last) for _, part, is_last in small[:10_000]] == [(n, n == 9_999) for n in range(10_000)]
    assert [(len(events), part, is_last) for events, part, is_last in small[10_000:]] == [(2, 0, False), (2, 1, True)]
    assert [(len(one.events), one.part, one.is_last) for one in large] == [
        (10_000, 0, False), (10_000, 1, True), (4, 0, True),
    ]  # fmt: skip


@needs_logical_messages
def test_a_part_that_fails_is_called_again_and_those_before_it_are_not(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    found: list[tuple[int, bool]] = []
    failures = 0
    listener = durable(retry=RetryPolicy(first_delay=0.01))

    @listener.transactions.connect(chunk=2)
    async def take(sender: Any, transaction: Transaction) -> None:
        nonlocal failures
        if transaction.part == 1 and failures < 2:
            failures += 1
            raise ValueError
        found.append((transaction.part, transaction.is_last))

    async def main() -> None:
        async with listener:
            await asyncio.to_thread(insert, client, "orders", range(5))
            await listener.catch_up_async()

    asyncio.run(main())
    assert found == [(0, False), (1, False), (2, True)]
    assert failures == 2


@needs_logical_messages
def test_a_part_that_is_given_up_is_a_letter_for_each_of_its_events_and_tried_again_one_by_one(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    found: list[Told] = []
    is_broken = True
    listener = durable(retry=RetryPolicy(first_delay=0.2, in_order=False))

    @listener.transactions.connect(name="projection")
    def take(sender: Any, transaction: Transaction) -> None:
        if is_broken:
            raise ValueError
        found.append(told(transaction))

    with listener:
        insert(client, "orders", range(2))
        letters = "SELECT count(*) = 2 FROM sqlalchemy_watch.dead_letters WHERE receiver = 'projection'"
        wait_until(client, letters)
        is_broken = False
        wait_until(client, lambda: len(found) == 2)
    assert sorted(found) == [([("inserted", 0)], 0, True), ([("inserted", 1)], 0, True)]


@needs_logical_messages
def test_a_transaction_that_was_not_taken_whole_comes_again(
    client: Client, Order: Any, durable: MakeListener, recorder: Recorder
) -> None:
    Order.watch.connect(recorder)
    listener = durable(retry=RetryPolicy(first_delay=60))
    listener.transactions.connect(lambda sender, transaction: 1 / 0, name="broken")
    with listener:
        insert(client, "orders", range(3))
        wait_until(client, lambda: listener.stats().failed_receivers)
    again = durable()
    found: list[Told] = []
    again.transactions.connect(lambda sender, transaction: found.append(told(transaction)))
    with again:
        again.catch_up()
    assert [len(events) for events, _, _ in found] == [3]


@needs_logical_messages
def test_a_receiver_that_is_disconnected_or_forgotten_gets_no_more(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    class Projection:
        def __init__(self) -> None:
            self.parts: list[int] = []

        def take(self, sender: Any, transaction: Transaction) -> None:
            self.parts.append(transaction.part)

    one, other = Projection(), Projection()
    parts = other.parts
    listener = durable()
    listener.transactions.connect(one.take)
    listener.transactions.connect(other.take, weak=True)
    with listener:
        insert(client, "orders", 1)
        listener.catch_up()
        listener.transactions.disconnect(one.take)
        del other
        gc.collect()
        insert(client, "orders", 2)
        listener.catch_up()
    assert (one.parts, parts) == ([0], [0])


def test_bad_input_is_refused_at_once(engine: Engine, Base: Any) -> None:
    def take(sender: Any, transaction: Transaction) -> None:
        """Do nothing."""

    with pytest.raises(ConfigurationError, match="NOTIFY does not tell where a transaction ends.*durable='a_group'"):
        Listener(engine, Base).transactions.connect(take)
    transactions = Listener(engine, Base, durable="a_group").transactions
    for wrong in (0, True, 1.5):
        with pytest.raises(ConfigurationError, match="chunk must be an int of at least 1"):
            transactions.connect(take, chunk=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"can't be called as receiver\(sender, transaction\)"):
        transactions.connect(lambda: None)  # type: ignore[arg-type, misc]
