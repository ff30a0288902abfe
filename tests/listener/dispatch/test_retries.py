"""Receivers that raise: tried again in order, given up to the dead letters, or parked while the line moves on."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase
from support import insert, wait_until

from sqlalchemy_watch import BatchFailed, ConfigurationError, GiveUp, Listener, RetryAfter, RetryPolicy, wire
from sqlalchemy_watch.declaring.targets import watches_of_table

from ..conftest import MakeListener

pytestmark = needs_logical_messages

QUICK = {"first_delay": 0.01, "max_delay": 0.05}


class Flaky:
    """A receiver that fails on some orders so many times."""

    def __init__(self, failures: dict[int, int]) -> None:
        self._left = dict(failures)
        self.calls: list[int] = []
        self.sent: list[int] = []
        self.times: list[float] = []

    def __call__(self, sender: Any, event: Any) -> None:
        number = event.identity[0]
        self.calls.append(number)
        self.times.append(time.monotonic())
        if self._left.get(number, 0):
            self._left[number] -= 1
            raise ConnectionError("the mail server is down")
        self.sent.append(number)


def letters(client: psycopg.Connection[Any]) -> list[Any]:
    query = "SELECT payload::json->'rows'->0->>0, error, attempts, retry_at IS NULL FROM sqlalchemy_watch.dead_letters"
    return client.execute(f"{query} ORDER BY lsn, position, receiver").fetchall()


def test_an_event_is_tried_again_with_growing_delays_while_those_behind_wait(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    send_receipt = Flaky({2: 3})
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=RetryPolicy(first_delay=0.02, max_delay=10)) as listener:
        insert(client, "orders", range(1, 4))
        insert(client, "orders", 4)
        listener.catch_up()
        assert (listener.stats().retries, listener.stats().failed_receivers) == (3, 3)
    assert send_receipt.calls == [1, 2, 2, 2, 2, 3, 4]
    times = send_receipt.times
    assert [times[i + 1] - times[i] >= delay for i, delay in ((1, 0.02), (2, 0.04), (3, 0.08))] == [True] * 3


def test_only_the_receiver_that_failed_is_called_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    flaky, steady = Flaky({1: 2}), Flaky({})
    Order.watch.inserted.connect(flaky)
    Order.watch.inserted.connect(steady)
    with durable(retry=RetryPolicy(**QUICK)) as listener:
        insert(client, "orders", range(1, 3))
        listener.catch_up()
    assert (flaky.calls, steady.calls) == ([1, 1, 1, 2], [1, 2])


def test_after_max_attempts_an_event_is_a_dead_letter_and_the_line_moves_on(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    send_receipt = Flaky({2: 99})
    given_up: list[Any] = []

    def note_dead_letter(sender: Any, receiver: Any, event: Any, error: BaseException) -> None:
        given_up.append((receiver, event.identity, str(error)))

    Order.watch.inserted.connect(send_receipt)
    listener = durable(retry=RetryPolicy(max_attempts=3, **QUICK))
    listener.dead_lettered.connect(note_dead_letter)
    with listener:
        insert(client, "orders", range(1, 4))
        listener.catch_up()
        assert listener.stats().dead_letters == 1
    assert send_receipt.calls == [1, 2, 2, 2, 3]
    assert given_up == [(send_receipt, (2,), "the mail server is down")]
    assert letters(client) == [("2", "ConnectionError: the mail server is down", 3, True)]


def test_a_dead_letter_is_its_own_row_whatever_could_not_be_read_before_it(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    send_receipt = Flaky({2: 1, 4: 1})
    Order.watch.inserted.connect(send_receipt)
    (watch,) = (watch for watch in watches_of_table(Order.__table__) if watch.label == "inserted")
    empty = [None] * (len(watch.carried) - 1)
    rows = [[number, *empty] for number in ("none", 2, "neither", 3, 4)]
    fields = {**wire.head_fields(watch), "schema": "public", "rows": rows}
    with durable(max_attempts=1) as listener:
        client.execute(
            "SELECT pg_logical_emit_message(true, %s, %s)",
            [wire.DURABLE_PREFIX + watch.channel, json.dumps(fields)],
        )
        listener.catch_up()
    assert send_receipt.calls == [2, 3, 4]
    assert [number for number, *_ in letters(client)] == ["2", "4"]


def test_max_attempts_alone_is_a_policy(client: psycopg.Connection[Any], Order: Any, durable: MakeListener) -> None:
    send_receipt = Flaky({1: 99})
    Order.watch.inserted.connect(send_receipt)
    with durable(max_attempts=1) as listener:
        insert(client, "orders", range(1, 3))
        listener.catch_up()
    assert send_receipt.calls == [1, 2]
    assert len(letters(client)) == 1


def test_out_of_order_an_event_is_parked_and_tried_again_from_the_table(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    send_receipt = Flaky({2: 1})
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=RetryPolicy(in_order=False, **QUICK)) as listener:
        insert(client, "orders", range(1, 5))
        listener.catch_up()
        assert send_receipt.sent[:3] == [1, 3, 4]
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert send_receipt.sent == [1, 3, 4, 2]


def test_out_of_order_an_event_is_given_up_after_max_attempts_as_well(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    send_receipt = Flaky({2: 99})
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=RetryPolicy(in_order=False, max_attempts=2, **QUICK)) as listener:
        insert(client, "orders", range(1, 4))
        wait_until(client, "SELECT count(*) = 1 FROM sqlalchemy_watch.dead_letters WHERE retry_at IS NULL")
        listener.catch_up()
        assert listener.stats().dead_letters == 1
    assert send_receipt.calls == [1, 2, 3, 2]
    assert letters(client) == [("2", "ConnectionError: the mail server is down", 2, True)]


def test_a_parked_event_is_tried_again_by_the_next_process(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    send_receipt = Flaky({1: 1})
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=RetryPolicy(in_order=False, first_delay=0.2)) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    assert send_receipt.sent == []
    with durable(retry=RetryPolicy(in_order=False, **QUICK)):
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert send_receipt.sent == [1]


def test_receivers_of_filtered_signals_are_retried_too(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    parked, in_line = Flaky({2: 1}), Flaky({2: 1})
    insert(client, "orders", range(1, 4))
    Order.watch.updated.filter_by(id=2).connect(in_line)
    with durable(retry=RetryPolicy(**QUICK)) as listener:
        client.execute("UPDATE orders SET note = 'x'")
        listener.catch_up()
    assert in_line.calls == [2, 2]
    Order.watch.updated.filter_by(id=2).disconnect(in_line)
    Order.watch.updated.filter_by(id=2).connect(parked)
    with durable(retry=RetryPolicy(in_order=False, **QUICK)) as listener:
        client.execute("UPDATE orders SET note = 'y'")
        listener.catch_up()
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert parked.calls == [2, 2]


@pytest.mark.parametrize("in_order", [True, False])
def test_coroutine_receivers_are_retried_too(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, in_order: bool
) -> None:
    async def main() -> list[int]:
        calls: list[int] = []

        async def send_receipt(sender: Any, event: Any) -> None:
            calls.append(event.identity[0])
            if calls == [1]:
                raise ConnectionError("the mail server is down")

        Order.watch.inserted.connect(send_receipt)
        async with durable(retry=RetryPolicy(in_order=in_order, **QUICK)) as listener:
            await asyncio.to_thread(insert, client, "orders", range(1, 3))
            await listener.catch_up_async()
            if not in_order:
                empty = "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters"
                await asyncio.to_thread(wait_until, client, empty)
        return calls

    assert asyncio.run(main()) == ([1, 1, 2] if in_order else [1, 2, 1])


def test_stop_ends_the_retries_and_the_event_comes_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    failed = threading.Event()

    def note_failure(sender: Any, receiver: Any, event: Any, error: BaseException) -> None:
        failed.set()

    send_receipt = Flaky({1: 1})
    Order.watch.inserted.connect(send_receipt)
    listener = durable(retry=RetryPolicy(first_delay=60))
    listener.receiver_failed.connect(note_failure)
    with listener:
        insert(client, "orders", range(1, 3))
        assert failed.wait(10)
    assert send_receipt.calls == [1]
    with durable() as again:
        again.catch_up()
    assert send_receipt.calls == [1, 1, 2]


def test_the_line_waits_while_a_dead_letter_cannot_be_written(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    send_receipt = Flaky({1: 99})
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=RetryPolicy(max_attempts=1, **QUICK)) as listener:
        client.execute("ALTER TABLE sqlalchemy_watch.dead_letters ADD CONSTRAINT full_up CHECK (attempts > 99)")
        insert(client, "orders", range(1, 3))
        with pytest.raises(TimeoutError, match="not caught up"):
            listener.catch_up(timeout=0.5)
        assert send_receipt.calls == [1]
        assert listener.stats().dead_letters == 0
        client.execute("ALTER TABLE sqlalchemy_watch.dead_letters DROP CONSTRAINT full_up")
        listener.catch_up()
        assert listener.stats().dead_letters == 1
    assert send_receipt.calls == [1, 2]
    assert len(letters(client)) == 1


def test_a_letter_whose_receiver_is_gone_is_kept(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    send_receipt = Flaky({1: 99})
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=RetryPolicy(in_order=False, first_delay=0.01)) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    Order.watch.inserted.disconnect(send_receipt)
    with durable(retry=RetryPolicy(in_order=False)):
        wait_until(client, "SELECT retry_at IS NULL FROM sqlalchemy_watch.dead_letters")
    ((_, error, _, _),) = letters(client)
    assert error == "no such receiver is connected any more"


@pytest.mark.parametrize(
    "options",
    [{"max_attempts": 0}, {"max_attempts": 1.5}, {"first_delay": 0}, {"first_delay": 5, "max_delay": 1}],
)
def test_a_policy_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        RetryPolicy(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 3}, "add durable='a_group'"),
        ({"retry": RetryPolicy()}, "add durable='a_group'"),
        ({"durable": "mailer", "max_attempts": 3, "retry": RetryPolicy()}, "give one of them"),
    ],
)
def test_a_policy_without_a_group_or_given_twice_is_refused(
    engine: Engine, Base: type[DeclarativeBase], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Listener(engine, Base, **options)


def test_of_a_batch_only_the_events_that_failed_come_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    calls: list[list[int]] = []

    def index(sender: Any, events: list[Any]) -> None:
        calls.append([event.identity[0] for event in events])
        if len(calls) < 3:
            raise BatchFailed(events[len(calls) :])

    Order.watch.inserted.batches(max_size=4).connect(index)
    with durable(retry=RetryPolicy(first_delay=0.01)) as listener:
        insert(client, "orders", range(4))
        listener.catch_up()
    assert calls == [[0, 1, 2, 3], [1, 2, 3], [3]]


def test_of_a_batch_that_is_given_up_the_events_that_failed_are_letters(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    given_up: list[int] = []

    def index(sender: Any, events: list[Any]) -> None:
        raise BatchFailed([events[-1]])

    Order.watch.inserted.batches(max_size=4).connect(index)
    with durable(max_attempts=1) as listener:
        listener.dead_lettered.connect(lambda sender, receiver, event, error: given_up.append(event.identity[0]))
        insert(client, "orders", range(4))
        listener.catch_up()
    assert given_up == [3]


class Throttled:
    """A receiver that can't take an order so many times."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken: list[int] = []

    def __call__(self, sender: Any, event: Any) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(event.identity[0])


@pytest.mark.parametrize("in_order", [True, "key"])
def test_what_a_receiver_can_not_take_now_is_no_attempt(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, in_order: Any, caplog: pytest.LogCaptureFixture
) -> None:
    throttled = Throttled(*(RetryAfter(0.01, "429 Too Many Requests") for _ in range(5)))
    Order.watch.inserted.connect(throttled)
    with durable(retry=RetryPolicy(max_attempts=1, in_order=in_order, **QUICK)) as listener:
        insert(client, "orders", range(1, 4))
        listener.catch_up()
        assert listener.stats().dead_letters == 0
    assert sorted(throttled.taken) == [1, 2, 3]
    assert letters(client) == []
    (first, *_) = (words for words in caplog.messages if "429" in words)
    assert "does not take Order.inserted" in first
    assert first.endswith("(429 Too Many Requests): tried again in 0.01 s")


def test_a_letter_that_can_not_be_taken_now_is_tried_again_without_an_attempt(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    throttled = Throttled(ValueError("no"), RetryAfter(0.01), RetryAfter(0.01), RetryAfter(0.01))
    Order.watch.inserted.connect(throttled)
    with durable(retry=RetryPolicy(max_attempts=2, in_order=False, **QUICK), heartbeat_interval=0.1) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        wait_until(client, lambda: throttled.taken == [1])
        assert listener.stats().dead_letters == 0


@pytest.mark.parametrize("in_order", [True, "key"])
def test_what_puts_events_off_for_too_long_counts_as_an_attempt(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, in_order: Any
) -> None:
    throttled = Throttled(RetryAfter(0.01), *(RetryAfter(0.01, "429", is_attempt=True) for _ in range(2)))
    Order.watch.inserted.connect(throttled)
    with durable(retry=RetryPolicy(max_attempts=2, in_order=in_order, **QUICK)) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        insert(client, "orders", 2)
        listener.catch_up()
    assert throttled.taken == [2]
    assert letters(client) == [("1", "RetryAfter: 429", 2, True)]


@pytest.mark.parametrize("in_order", [True, "key", False])
def test_an_event_that_its_receiver_gives_up_is_a_dead_letter_at_once(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, in_order: Any
) -> None:
    picky = Throttled(GiveUp("410 Gone"))
    Order.watch.inserted.connect(picky)
    with durable(retry=RetryPolicy(in_order=in_order, **QUICK)) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        client.execute("UPDATE orders SET note = 'x'")
        insert(client, "orders", 2)
        listener.catch_up()
        assert listener.stats().dead_letters == 1
    assert picky.taken == [2]
    assert letters(client) == [("1", "GiveUp: 410 Gone", 1, True)]


def test_a_letter_that_its_receiver_gives_up_is_not_tried_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    picky = Throttled(ValueError("no"), GiveUp("410 Gone"))
    Order.watch.inserted.connect(picky)
    with durable(retry=RetryPolicy(in_order=False, **QUICK), heartbeat_interval=0.1) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        wait_until(client, lambda: listener.stats().dead_letters == 1)
    assert letters(client) == [("1", "GiveUp: 410 Gone", 2, True)]


@pytest.mark.parametrize("seconds", [-1, float("inf"), "1", True, None])
def test_seconds_that_are_none_are_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="RetryAfter: seconds must be a number from 0 on"):
        RetryAfter(seconds)


@pytest.mark.parametrize("in_order", [True, "key", False])
def test_what_a_receiver_has_not_tried_waits_and_is_not_given_up(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, in_order: Any
) -> None:
    taken: list[int] = []

    def index(sender: Any, events: list[Any]) -> None:
        first, *others = events
        if first.identity == (1,):
            raise BatchFailed([first], "no such index", untried=others)
        taken.extend(event.identity[0] for event in events)

    Order.watch.inserted.batches(max_size=3, max_wait=5.0).connect(index)
    with durable(retry=RetryPolicy(max_attempts=1, in_order=in_order, **QUICK)) as listener:
        insert(client, "orders", range(1, 4))
        listener.catch_up()
    assert taken == [2, 3]
    assert letters(client) == [("1", "BatchFailed: 1 events of a batch have failed: no such index", 1, True)]


def test_a_receiver_of_a_resync_that_can_not_be_told_now_is_called_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    told: list[str] = []
    errors = [RetryAfter(0.01), RetryAfter(0.01)]

    def note(sender: Any, reason: str) -> None:
        if errors:
            raise errors.pop()
        told.append(reason)

    listener = durable()
    listener.resync.connect(note)
    Order.watch.inserted.connect(lambda sender, event: told.append("event"))
    with listener:
        client.execute("SELECT pg_logical_emit_message(true, 'sqlalchemy_watch/watch_orders_inserted', '{\"v\": 999}')")
        insert(client, "orders", 1)
        listener.catch_up()
    assert len(told) == 2
    assert told[1] == "event"
