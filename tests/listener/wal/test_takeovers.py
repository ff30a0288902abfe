"""A consumer that lost its connection, but lives, and another one that may have taken over: never both deliver."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from support import insert, wait_until

from sqlalchemy_watch import Listener, RetryPolicy

from ..conftest import MakeListener
from ..insides import dispatcher_of, gate_of
from ..journal import Journal
from ..proxy import Proxy

pytestmark = needs_logical_messages


class Receiver:
    """Keeps which consumer was called with which ids; the first one's call for one id blocks."""

    def __init__(self, blocks_at: int = 2) -> None:
        self.heard: dict[str, list[int]] = {"first": [], "second": []}
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._blocks_at = blocks_at

    def __call__(self, sender: Any, event: Any) -> None:
        name = threading.current_thread().name
        self.heard[name].append(event.identity[0])
        if name == "first" and event.identity == (self._blocks_at,):
            self.begun.set()
            assert self.go_on.wait(20)


@pytest.fixture
def first(engine_through_proxy: Engine, Base: Any, group: str) -> Iterator[MakeListener]:
    """Starts the consumer whose connections go through the proxy."""
    made: list[Listener] = []

    def make(**options: Any) -> Listener:
        made.append(Listener(engine_through_proxy, Base, durable=group, **options))
        return start(made[0], "first")

    yield make
    made[0].stop()


def start(listener: Listener, name: str) -> Listener:
    listener.start()
    dispatcher_of(listener).thread.name = name
    return listener


def stand_by(second: Listener) -> Journal:
    journal = Journal().attach(second)
    start(second, "second")
    assert not second.stats().active
    return journal


def wait_for_pause(listener: Listener, client: psycopg.Connection[Any]) -> None:
    """Wait until a listener has noticed its loss, while a receiver is at work still."""
    wait_until(client, lambda: gate_of(listener).needs_attention)


def take_over(proxy: Proxy, client: psycopg.Connection[Any], second: Listener) -> None:
    """Cut the first consumer off, and wait until the second one is active."""
    journal = stand_by(second)
    proxy.refuse()
    journal.wait_for_count("connected", 1)


def test_a_consumer_that_is_cut_off_calls_no_receiver_while_another_one_is_active(
    client: psycopg.Connection[Any],
    Order: Any,
    proxy: Proxy,
    first: MakeListener,
    durable: MakeListener,
) -> None:
    send_receipt = Receiver()
    Order.watch.inserted.connect(send_receipt)
    one, other = first(max_queue=1), durable()
    insert(client, "orders", 1)
    one.catch_up()
    insert(client, "orders", *range(2, 7))
    assert send_receipt.begun.wait(10)
    journal = Journal().attach(one)
    take_over(proxy, client, other)
    insert(client, "orders", 7)
    other.catch_up()
    send_receipt.go_on.set()
    journal.wait_for_count("disconnected", 1)  # at once, not behind what waits
    insert(client, "orders", 8)
    other.catch_up()
    assert send_receipt.heard == {"first": [1, 2], "second": [2, 3, 4, 5, 6, 7, 8]}
    other.stop()
    insert(client, "orders", 9)
    proxy.resume()
    journal.wait_for_count("connected", 1)
    insert(client, "orders", 10)
    one.catch_up()
    assert send_receipt.heard == {"first": [1, 2, 9, 10], "second": [2, 3, 4, 5, 6, 7, 8]}
    assert one.stats().resyncs == 0


def test_a_consumer_whose_connection_falls_silent_stops_before_the_server_gives_the_slot_away(
    client: psycopg.Connection[Any],
    database: str,
    Order: Any,
    proxy: Proxy,
    first: MakeListener,
    durable: MakeListener,
) -> None:
    client.execute(f"ALTER DATABASE {database} SET wal_sender_timeout = '6s'")
    send_receipt = Receiver()
    Order.watch.inserted.connect(send_receipt)
    one, other = first(max_queue=1, heartbeat_interval=0.2, heartbeat_timeout=1.0), durable()
    insert(client, "orders", 1)
    one.catch_up()
    insert(client, "orders", *range(2, 7))
    assert send_receipt.begun.wait(10)
    journal, others = Journal().attach(one), stand_by(other)
    proxy.freeze()
    wait_for_pause(one, client)
    assert others.count("connected") == 0
    send_receipt.go_on.set()
    journal.wait_for_count("disconnected", 1)
    others.wait_for_count("connected", 1)
    other.catch_up()
    assert send_receipt.heard == {"first": [1, 2], "second": [2, 3, 4, 5, 6]}


def test_a_consumer_goes_on_in_the_middle_of_a_transaction_if_nobody_else_consumed(
    client: psycopg.Connection[Any], Order: Any, proxy: Proxy, first: MakeListener
) -> None:
    send_receipt = Receiver(blocks_at=3)
    Order.watch.inserted.connect(send_receipt)
    one = first()
    journal = Journal().attach(one)
    with client.transaction():
        client.execute("INSERT INTO orders SELECT generate_series(1, 5)")
        insert(client, "orders", 6)
    insert(client, "orders", 7)
    assert send_receipt.begun.wait(10)
    proxy.refuse()
    wait_for_pause(one, client)
    send_receipt.go_on.set()
    journal.wait_for_count("disconnected", 1)
    insert(client, "orders", 8)
    assert send_receipt.heard["first"] == [1, 2, 3]
    proxy.resume()
    journal.wait_for_count("connected", 1)
    one.catch_up()
    assert send_receipt.heard["first"] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_consumer_may_be_stopped_while_it_is_cut_off_and_its_events_are_not_lost(
    client: psycopg.Connection[Any], Order: Any, proxy: Proxy, first: MakeListener, durable: MakeListener
) -> None:
    send_receipt = Receiver()
    Order.watch.inserted.connect(send_receipt)
    gathered: list[tuple[str, list[int]]] = []

    def index_orders(sender: Any, events: list[Any]) -> None:
        gathered.append((threading.current_thread().name, [event.identity[0] for event in events]))

    Order.watch.inserted.batches(max_size=100, max_wait=60).connect(index_orders)
    one = first()
    journal = Journal().attach(one)
    insert(client, "orders", 1, 2, 3)
    assert send_receipt.begun.wait(10)
    proxy.refuse()
    wait_for_pause(one, client)
    send_receipt.go_on.set()
    journal.wait_for_count("disconnected", 1)
    dispatcher = dispatcher_of(one)
    assert dispatcher is not None
    one.stop()
    assert not dispatcher.thread.is_alive()
    assert send_receipt.heard["first"] == [1, 2]
    other = start(durable(), "second")
    other.catch_up()
    assert send_receipt.heard["second"] == [1, 2, 3]
    assert gathered == [("second", [1, 2, 3])]


def test_a_gathered_batch_is_delivered_by_the_other_consumer_alone(
    client: psycopg.Connection[Any], Order: Any, proxy: Proxy, first: MakeListener, durable: MakeListener
) -> None:
    heard: list[tuple[str, list[int]]] = []
    arrived = Receiver(blocks_at=2)

    def index_orders(sender: Any, events: list[Any]) -> None:
        heard.append((threading.current_thread().name, [event.identity[0] for event in events]))

    Order.watch.inserted.batches(max_size=3, max_wait=60).connect(index_orders)
    Order.watch.inserted.connect(arrived)
    one, other = first(), durable()
    insert(client, "orders", 1, 2)
    assert arrived.begun.wait(10)
    journal = Journal().attach(one)
    take_over(proxy, client, other)
    arrived.go_on.set()
    journal.wait_for_count("disconnected", 1)
    insert(client, "orders", 3)
    other.catch_up()
    other.stop()
    proxy.resume()
    journal.wait_for_count("connected", 1)
    insert(client, "orders", 4, 5)
    one.catch_up()
    assert heard == [("second", [1, 2, 3]), ("first", [4, 5])]


def test_retries_wait_until_the_consumer_is_active_again(
    client: psycopg.Connection[Any], Order: Any, proxy: Proxy, first: MakeListener, durable: MakeListener
) -> None:
    heard: list[tuple[str, int]] = []
    failed = threading.Event()

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        heard.append((threading.current_thread().name, event.identity[0]))
        if threading.current_thread().name == "first" and event.identity == (1,):
            failed.set()
            raise ConnectionError("the mail server is down")

    one, other = first(retry=RetryPolicy(first_delay=0.01, max_delay=0.01)), durable()
    journal = Journal().attach(one)
    insert(client, "orders", 1)
    assert failed.wait(10)
    take_over(proxy, client, other)
    journal.wait_for_count("disconnected", 1)
    calls = heard.count(("first", 1))
    insert(client, "orders", 2)
    other.catch_up()
    other.stop()
    assert heard.count(("first", 1)) == calls
    proxy.resume()
    journal.wait_for_count("connected", 1)
    insert(client, "orders", 3)
    one.catch_up()
    assert heard[calls:] == [("second", 1), ("second", 2), ("first", 3)]


def test_catch_up_returns_though_another_one_was_active_meanwhile(
    client: psycopg.Connection[Any], Order: Any, proxy: Proxy, first: MakeListener, durable: MakeListener
) -> None:
    send_receipt = Receiver()
    Order.watch.inserted.connect(send_receipt)
    one, other = first(), durable()
    insert(client, "orders", 1, 2, 3)
    assert send_receipt.begun.wait(10)
    waiting = threading.Thread(target=one.catch_up, daemon=True)
    waiting.start()
    ledger = gate_of(one).ledger
    wait_until(client, lambda: ledger.settle() or len(ledger._open) == 3)  # two rows, and the mark
    journal = Journal().attach(one)
    take_over(proxy, client, other)
    send_receipt.go_on.set()
    journal.wait_for_count("disconnected", 1)
    other.catch_up()
    other.stop()
    proxy.resume()
    insert(client, "orders", 4)
    waiting.join(30)
    assert not waiting.is_alive()
    one.catch_up()
    assert send_receipt.heard["first"][-1] == 4


def test_a_consumer_cut_off_within_an_event_calls_no_further_receiver(
    client: psycopg.Connection[Any], Order: Any, proxy: Proxy, first: MakeListener, durable: MakeListener
) -> None:
    blocking, later = Receiver(blocks_at=1), Receiver(blocks_at=0)
    Order.watch.inserted.connect(blocking)
    Order.watch.inserted.connect(later)
    one, other = first(), durable()
    insert(client, "orders", 1)
    assert blocking.begun.wait(10)
    journal = Journal().attach(one)
    take_over(proxy, client, other)
    blocking.go_on.set()
    journal.wait_for_count("disconnected", 1)
    other.catch_up()
    assert (blocking.heard["second"], later.heard["second"]) == ([1], [1])
    assert later.heard["first"] == []
    proxy.resume()
