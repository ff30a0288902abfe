"""Transactions that are not dispatched in full are never acknowledged."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from support import insert, resync_reasons, wait_until

from sqlalchemy_watch import RetryPolicy, wire
from sqlalchemy_watch.listener.dispatch import resyncs
from sqlalchemy_watch.listener.dispatch.dispatcher import UNREADABLE
from sqlalchemy_watch.listener.dispatch.resyncs import RESYNC_SECONDS

from ..conftest import MakeListener
from ..insides import dispatcher_of, gate_of

pytestmark = needs_logical_messages


def test_a_batch_that_is_given_up_by_stop_is_delivered_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    failed = threading.Event()
    working = False
    indexed: list[int] = []

    def index_orders(sender: Any, events: list[Any]) -> None:
        if not working:
            failed.set()
            raise ConnectionError("the search index is down")
        indexed.extend(event.identity[0] for event in events)

    Order.watch.inserted.batches(max_size=3, max_wait=60).connect(index_orders)
    with durable(retry=RetryPolicy(first_delay=30)):
        insert(client, "orders", 1, 2, 3)
        assert failed.wait(10)
    working = True
    with durable() as listener:
        listener.catch_up()
    assert indexed == [1, 2, 3]


def test_a_batch_that_a_coroutine_had_not_taken_by_stop_is_delivered_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    async def main() -> list[int]:
        begun, release = asyncio.Event(), asyncio.Event()
        indexed: list[int] = []

        async def index_orders(sender: Any, events: list[Any]) -> None:
            begun.set()
            await release.wait()
            indexed.extend(event.identity[0] for event in events)

        signal = Order.watch.inserted.batches(max_size=2, max_wait=60)
        signal.connect(index_orders)
        async with durable():
            await asyncio.to_thread(insert, client, "orders", 1, 2)
            await begun.wait()
        assert indexed == []
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # the process ended
        release.set()
        async with durable() as listener:
            await listener.catch_up_async()
        return indexed

    assert asyncio.run(main()) == [1, 2]


def test_an_unreadable_message_is_told_of_before_its_transaction_is_acknowledged(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    emit = """SELECT count(pg_logical_emit_message(true, %s, '{"v": 99}')) FROM generate_series(1, %s)"""
    prefix = wire.DURABLE_PREFIX + Order.watch.inserted.details.channel
    told_before: list[int] = []

    @Order.watch.inserted.connect
    def count_resyncs(sender: Any, event: Any) -> None:
        told_before.append(len(reasons))

    with durable() as listener:
        reasons = resync_reasons(listener)
        client.execute(emit, [prefix, 1000])
        client.execute(emit, [prefix, 1])
        insert(client, "orders", 1)
        listener.catch_up()
        assert listener.stats().garbage == 1001
    assert len(told_before) == 1
    assert 1 <= told_before[0] <= len(reasons) < 100  # the first at once, and few for many messages
    assert len(reasons) >= 2  # the last message is followed by one
    assert set(reasons) == {UNREADABLE}


def _gap(group: str) -> tuple[str, str]:
    return "sqlalchemy_watch/resync", group


def _asks_to_resync(group: str) -> tuple[str, str]:
    return "sqlalchemy_watch/watch_orders_inserted", '{"v": 99}'


@pytest.mark.parametrize("forge", [_gap, _asks_to_resync])
def test_forged_messages_that_tell_of_a_gap_cause_few_resyncs(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str, forge: Any
) -> None:
    prefix, content = forge(group)
    with durable() as listener:
        reasons = resync_reasons(listener)
        with psycopg.connect(client.info.dsn, autocommit=True) as stranger:
            begun = time.monotonic()
            stranger.execute(
                f"DO $$ BEGIN FOR i IN 1..2000 LOOP PERFORM pg_logical_emit_message(true, '{prefix}', '{content}'); "
                f"COMMIT; END LOOP; END $$".encode()
            )
        insert(client, "orders", 1)
        listener.catch_up()
        assert 1 <= len(reasons) <= 2 + (time.monotonic() - begun) / RESYNC_SECONDS
        assert listener.stats().events == 1


def test_a_resync_that_was_put_off_is_sent_before_its_transaction_is_acknowledged(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resyncs, "RESYNC_SECONDS", 600.0)
    with durable() as listener:
        reasons = resync_reasons(listener)
        for _ in range(2):
            client.execute("SELECT pg_logical_emit_message(true, 'sqlalchemy_watch/resync', %s)", [group])
        listener.catch_up()  # does not wait for what was put off, and sends it
        assert len(reasons) == 2
        client.execute("SELECT pg_logical_emit_message(true, 'sqlalchemy_watch/resync', %s)", [group])
        insert(client, "orders", 1)
        wait_until(client, lambda: listener.stats().events == 1)
        assert len(reasons) == 2
    with durable() as listener:  # it was not acknowledged, and comes again
        reasons = resync_reasons(listener)
        listener.catch_up()
        assert len(reasons) <= 1
        assert listener.stats().events == 1


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_an_event_that_stop_kept_from_one_of_its_receivers_comes_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, is_coroutine: bool
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    heard: list[str] = []

    def first(sender: Any, event: Any) -> None:
        heard.append("first")
        begun.set()
        go_on.wait(20)

    def second(sender: Any, event: Any) -> None:
        heard.append("second")

    async def third(sender: Any, event: Any) -> None:
        heard.append("third")

    async def main() -> None:
        Order.watch.inserted.connect(first)
        Order.watch.inserted.connect(third if is_coroutine else second)
        listener = durable()
        async with listener:
            await asyncio.to_thread(insert, client, "orders", 1)
            assert await asyncio.to_thread(begun.wait, 20)
            gate = gate_of(listener)
            stopping = asyncio.create_task(asyncio.to_thread(listener.stop))
            await asyncio.to_thread(wait_until, client, lambda: gate.is_stopped)
            go_on.set()
            await stopping
        assert heard == ["first"]
        async with durable() as listener:
            await listener.catch_up_async()

    asyncio.run(main())
    assert heard == ["first", "first", "third" if is_coroutine else "second"]


def test_a_batch_that_is_due_does_not_wait_for_all_that_was_read_with_it(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    order: list[str] = []

    def hear(sender: Any, event: Any) -> None:
        order.append("one")
        threading.Event().wait(0.01)

    Order.watch.inserted.connect(hear)
    Order.watch.inserted.batches(max_wait=0.02).connect(lambda sender, events: order.append("batch"))
    with durable():
        pass
    insert(client, "orders", *range(40))
    with durable() as listener:
        listener.catch_up()
    assert "batch" in order[:20]


def test_a_receiver_of_batches_that_blocks_is_told_of_as_any_other(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def index(sender: Any, events: Any) -> None:
        begun.set()
        go_on.wait(20)

    Order.watch.inserted.batches(max_wait=0.01).connect(index)
    with durable() as listener:
        insert(client, "orders", 1)
        assert begun.wait(20)
        assert dispatcher_of(listener).busy_since is not None
        go_on.set()
        listener.catch_up()
