"""Streams of a consumer group: an event counts as delivered once the next one is asked for, and nothing is dropped."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import insert, wait_until

from sqlalchemy_watch import Listener, Resync, Watch, Watched, wire
from sqlalchemy_watch.listener.wal.source import LEFT_UNSEEN

from ..conftest import MakeListener

pytestmark = needs_logical_messages

Client = psycopg.Connection[Any]


def ids(events: Any) -> list[int]:
    return [event.identity[0] for event in events]


def take(events: Any, number: int) -> list[int]:
    return [next(events).identity[0] for _ in range(number)]


def test_what_was_not_asked_for_comes_again_in_the_next_process(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    with durable():
        events = Order.watch.inserted.iterate(timeout=10)
        insert(client, "orders", 1, 2, 3)
        assert take(events, 2) == [1, 2]
        # As if it was killed here: the second one is at work.
    events.close()
    with durable() as listener, Order.watch.inserted.iterate(timeout=10) as events:
        assert take(events, 2) == [2, 3]
        insert(client, "orders", 4)
        assert take(events, 1) == [4]
        listener.stop()
    with durable() as listener, Order.watch.inserted.iterate(timeout=10) as events:
        insert(client, "orders", 5)
        assert take(events, 2) == [4, 5]
        listener.stop()


@pytest.mark.parametrize("fails", [False, True])
def test_leaving_lets_go_of_the_last_event_unless_there_is_an_exception_and_the_rest_waits_for_somebody(
    client: Client, Order: Any, durable: MakeListener, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with durable() as listener:
        try:
            with Order.watch.inserted.iterate(timeout=10) as events:
                insert(client, "orders", 1, 2, 3)
                assert take(events, 2) == [1, 2]
                wait_until(client, lambda: listener.stats().events == 3)
                if fails:
                    raise ValueError
        except ValueError:
            pass
        # Nobody is connected: nothing is acknowledged unheard.
        wait_until(client, lambda: listener._run is not None and listener._run._source.state.missing == LEFT_UNSEEN)
        assert not listener.stats().active
        assert LEFT_UNSEEN in caplog.text
        with Order.watch.inserted.iterate(timeout=10) as events:
            assert take(events, 1 + fails) == ([2, 3] if fails else [3])
        listener.catch_up()


def test_a_stream_that_is_left_early_gives_all_again_to_whoever_else_is_connected(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    heard: list[int] = []
    with durable() as listener:
        events = Order.watch.inserted.iterate(timeout=10)
        Order.watch.inserted.connect(lambda sender, event: heard.append(event.identity[0]))
        insert(client, "orders", 1, 2)
        assert take(events, 1) == [1]
        wait_until(client, lambda: len(heard) == 2)
        events.close()  # the first one is done with, the second one is not
        listener.catch_up()
    assert heard == [1, 2, 2]


def test_a_stream_that_is_forgotten_holds_nothing_up(client: Client, Order: Any, durable: MakeListener) -> None:
    with durable() as listener:
        events = Order.watch.inserted.iterate()
        insert(client, "orders", 1)
        wait_until(client, lambda: listener.stats().events == 1)
        del events
        gc.collect()
        Order.watch.inserted.connect(lambda sender, event: None)
        listener.catch_up()


def test_a_slow_consumer_of_a_group_loses_nothing_and_what_waits_is_bounded(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    with durable(max_queue=50) as listener, Order.watch.inserted.iterate(timeout=10, max_queue=1) as events:
        for first in range(0, 5000, 10):
            insert(client, "orders", range(first, first + 10))
        wait_until(client, lambda: listener.stats().events >= 50)
        most = 0
        found = []
        for _ in range(5000):
            found += take(events, 1)
            most = max(most, len(events._items))
        assert found == list(range(5000))
        assert most < 1000
        assert events.dropped == 0
        listener.stop()


def test_a_stream_hears_every_listener_as_receivers_do(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str
) -> None:
    class Item(Watched, Base):  # type: ignore[misc]
        __tablename__ = "items"
        __watch__ = (Watch("inserted", delivery="both"),)
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    consumer, listener = Listener(engine, Item, durable=group), Listener(engine, Item)
    with consumer, Item.watch.inserted.iterate() as all_events, consumer.events.iterate() as of_the_group:
        with listener:
            insert(client, "items", 1)
            listener.catch_up()
        assert take(of_the_group, 1) == [1]  # it goes on though the other listener has stopped
        found = [next(all_events) for _ in range(2)]
        assert {event.lsn is None for event in found} == {True, False}
        assert ids(found) == [1, 1]


def test_events_of_all_signals_come_in_the_order_of_the_log_and_gaps_among_them(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    prefix = wire.DURABLE_PREFIX + Order.watch.inserted.details.channel

    async def main() -> list[Any]:
        found: list[Any] = []
        listener = durable()
        async with listener, listener.events.stream(on_gap="yield") as events, Order.watch.stream() as others:
            await asyncio.to_thread(insert, client, "orders", 1)
            await asyncio.to_thread(client.execute, "UPDATE orders SET note = 'x'; DELETE FROM orders")
            emit = "SELECT pg_logical_emit_message(true, %s, '{\"v\": 99}')"
            await asyncio.to_thread(client.execute, emit, [prefix])
            async for event in events:
                found.append(event.reason if isinstance(event, Resync) else event.label)
                if isinstance(event, Resync):
                    break
            assert [(await anext(others)).label for _ in range(3)] == found[:3]
        return found

    found = asyncio.run(main())
    assert found[:3] == ["inserted", "updated", "deleted"]
    assert "could not be read" in found[3]


def test_a_stream_in_which_events_wait_ends_with_the_listener(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    with durable() as listener:
        events = Order.watch.inserted.iterate(timeout=60)
        insert(client, "orders", 1, 2, 3)
        assert take(events, 1) == [1]
        wait_until(client, lambda: listener.stats().events == 3)
    assert list(events) == []


def test_an_event_that_comes_to_a_stream_just_after_it_was_closed_comes_again(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    heard: list[int] = []

    def hear(sender: Any, event: Any) -> None:
        heard.append(event.identity[0])
        begun.set()
        go_on.wait(20)

    with durable() as listener:
        Order.watch.inserted.connect(hear)
        events = Order.watch.inserted.iterate()
        insert(client, "orders", 1)
        assert begun.wait(20)
        events.close()
        go_on.set()
        listener.catch_up()
        assert not events._items
    assert heard[0] == 1


def test_streams_that_are_left_early_again_and_again_do_not_keep_the_listener_waiting(
    client: Client, Order: Any, durable: MakeListener, caplog: pytest.LogCaptureFixture
) -> None:
    with durable() as listener:
        for number in range(0, 10, 2):
            with Order.watch.inserted.iterate(timeout=20) as events:
                insert(client, "orders", number, number + 1)
                assert next(events) is not None
                wait_until(client, lambda number=number: listener.stats().events >= number + 2)
    assert "trying again in" not in caplog.text
