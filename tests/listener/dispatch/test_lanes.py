"""Lanes: events of one key one after the other, those of different keys side by side."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, cast

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import PATIENCE, insert, resync_reasons, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, ListenerError, RetryPolicy, Watch, Watched, wire
from sqlalchemy_watch.listener.dispatch import lanes as lanes_module
from sqlalchemy_watch.listener.dispatch.calls import Call, make_one
from sqlalchemy_watch.listener.dispatch.failures import NotTriedAgain, Reports
from sqlalchemy_watch.listener.dispatch.lanes import Lanes
from sqlalchemy_watch.listener.pipeline.gate import Gate
from sqlalchemy_watch.listener.pipeline.inbox import Inbox
from sqlalchemy_watch.listener.pipeline.ledger import Ledger
from sqlalchemy_watch.listener.pipeline.parts import Part, Transaction
from sqlalchemy_watch.listener.stats import Stats
from sqlalchemy_watch.listener.waiting import Waiting
from sqlalchemy_watch.signals.receivers import Subscriber

from ..insides import gate_of

Client = psycopg.Connection[Any]


@pytest.fixture
def Item(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Item(Watched, Base):  # type: ignore[misc]
        __tablename__ = "items"
        __watch__ = (
            Watch("inserted", extra_columns=("shop",)), Watch("updated", extra_columns=("shop",)),
            Watch("deleted", extra_columns=("shop",)), "truncated",
        )  # fmt: skip
        __watch_delivery__ = "both"
        id: Mapped[int] = mapped_column(primary_key=True)
        shop: Mapped[int] = mapped_column(server_default="1")

    Base.metadata.create_all(engine)
    return Item


class Meeting:
    """A receiver whose calls wait for one another: they meet only if so many run at the same time."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)
        self.heard: dict[Any, list[str]] = defaultdict(list)

    def __call__(self, sender: Any, event: Any) -> None:
        self._barrier.wait(PATIENCE)
        self.heard[event.identity[0]].append(event.label)


def test_events_of_different_keys_come_side_by_side(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any]
) -> None:
    meeting = Meeting(4)
    Item.watch.inserted.connect(meeting)
    with Listener(engine, Item, workers=4, **route) as listener:
        insert(client, "items", range(8))
        listener.catch_up()
    assert dict(meeting.heard) == {number: ["inserted"] for number in range(8)}


def test_events_of_one_key_come_in_order_whatever_others_do(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any]
) -> None:
    heard: dict[Any, list[Any]] = defaultdict(list)

    def hear(sender: Any, event: Any) -> None:
        if event.identity[0] % 3 == 0:
            threading.Event().wait(0.002)
        heard[event.identity[0]].append((event.label, event.values["shop"]))

    Item.watch.connect(hear)
    with Listener(engine, Item, workers=8, **route) as listener:
        insert(client, "items", range(20))
        for shop in range(2, 12):
            client.execute("UPDATE items SET shop = %s", [shop])
        client.execute("DELETE FROM items")
        listener.catch_up()
        assert listener.stats().events == 20 * 12
    expected = [("inserted", 1), *[("updated", shop) for shop in range(2, 12)], ("deleted", 11)]
    assert dict(heard) == dict.fromkeys(range(20), expected)


@pytest.mark.parametrize("by_function", [False, True])
def test_a_key_of_ones_own_keeps_what_has_it_in_order(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any], by_function: bool
) -> None:
    heard: dict[int, list[int]] = defaultdict(list)
    Item.watch.inserted.connect(lambda sender, event: heard[event.values["shop"]].append(event.identity[0]))
    key = (lambda event: event.get("shop")) if by_function else Item.shop
    with Listener(engine, Item, workers=8, key=key, **route) as listener:
        client.execute("INSERT INTO items SELECT i, i % 3 FROM generate_series(0, 299) AS i")
        listener.catch_up()
    assert dict(heard) == {shop: list(range(shop, 300, 3)) for shop in range(3)}


def test_an_event_that_has_no_key_is_heard_all_the_same(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []
    Item.watch.inserted.connect(lambda sender, event: heard.append(event.identity[0]))
    with Listener(engine, Item, workers=2, key=lambda event: 1 // 0, **route) as listener:
        insert(client, "items", 1)
        listener.catch_up()
    assert heard == [1]
    assert "Item.inserted (1,) has no key" in caplog.text


def test_truncated_comes_behind_all_that_is_in_front_and_before_all_behind(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any]
) -> None:
    heard: list[Any] = []

    def hear(sender: Any, event: Any) -> None:
        threading.Event().wait(0.005)
        heard.append(event.label)

    Item.watch.connect(hear)
    with Listener(engine, Item, workers=8, **route) as listener:
        insert(client, "items", range(20))
        client.execute("TRUNCATE items")
        insert(client, "items", range(20))
        listener.catch_up()
    assert heard == ["inserted"] * 20 + ["truncated"] + ["inserted"] * 20


def test_a_resync_comes_behind_all_that_is_in_front(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any]
) -> None:
    heard: list[Any] = []

    def hear(sender: Any, event: Any) -> None:
        threading.Event().wait(0.01)
        heard.append(event.label)

    Item.watch.inserted.connect(hear)
    channel = Item.watch.inserted.details.channel
    forge = (
        ("SELECT pg_logical_emit_message(true, %s, '{\"v\": 99}')", wire.DURABLE_PREFIX + channel)
        if route
        else ("SELECT pg_notify(%s, '{\"v\": 99}')", channel)
    )
    with Listener(engine, Item, workers=4, **route) as listener:
        listener.resync.connect(lambda sender, reason: heard.append("resync"))
        insert(client, "items", range(20))
        client.execute(forge[0], [forge[1]])
        listener.catch_up()
    assert heard == ["inserted"] * 20 + ["resync"]


def test_coroutine_receivers_run_side_by_side_in_their_loop(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any]
) -> None:
    most = running = 0

    async def main() -> None:
        async def hear(sender: Any, event: Any) -> None:
            nonlocal most, running
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            running -= 1

        Item.watch.inserted.connect(hear)
        async with Listener(engine, Item, workers=10, **route) as listener:
            await asyncio.to_thread(insert, client, "items", range(40))
            await listener.catch_up_async()
            assert listener.stats().failed_receivers == 0

    asyncio.run(main())
    assert 5 <= most <= 10


def test_batches_and_streams_hear_in_the_order_of_the_log_beside_lanes(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any]
) -> None:
    gathered: list[int] = []
    Item.watch.inserted.connect(lambda sender, event: threading.Event().wait(0.001))
    Item.watch.inserted.batches(max_size=7).connect(
        lambda sender, events: gathered.extend(event.identity[0] for event in events)
    )
    with Listener(engine, Item, workers=4, **route) as listener, Item.watch.iterate(timeout=10) as events:
        insert(client, "items", range(50))
        assert [next(events).identity[0] for _ in range(50)] == list(range(50))
        assert next(iter(Item.watch.iterate(timeout=0)), None) is None  # lets go of nothing of the other
        events.close()
        listener.catch_up()
    assert gathered == list(range(50))


@needs_logical_messages
def test_a_key_that_fails_waits_alone_and_nothing_behind_it_is_acknowledged(
    engine: Engine, client: Client, Item: Any, group: str
) -> None:
    heard: dict[int, list[str]] = defaultdict(list)
    healed = threading.Event()

    def hear(sender: Any, event: Any) -> None:
        if event.identity == (3,) and not healed.is_set():
            raise ValueError
        heard[event.identity[0]].append(event.label)

    Item.watch.connect(hear)
    options: dict[str, Any] = {"durable": group, "workers": 2, "retry": RetryPolicy(first_delay=0.01, max_delay=0.05)}
    acknowledged = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
    with Listener(engine, Item, **options) as listener:
        listener.catch_up()
        before = client.execute(acknowledged, [group]).fetchone()
        insert(client, "items", *range(10))
        client.execute("UPDATE items SET shop = 2")
        wait_until(client, lambda: sum(map(len, heard.values())) == 18)
        assert 3 not in heard
        wait_until(client, lambda: listener.stats().retries > 3)
    # It is killed here, as it were: all from the third insert on comes again.
    after = client.execute(acknowledged, [group]).fetchone()
    assert before is not None
    assert after is not None
    healed.set()
    with Listener(engine, Item, **options) as listener:
        listener.catch_up()
    assert heard[3] == ["inserted", "updated"]
    assert heard[0] == ["inserted", "updated", "updated"]
    assert heard[9] == ["inserted", "updated"] * 2


@needs_logical_messages
def test_an_event_that_is_given_up_goes_to_the_dead_letters_and_its_key_goes_on(
    engine: Engine, client: Client, Item: Any, group: str
) -> None:
    heard: list[Any] = []

    def hear(sender: Any, event: Any) -> None:
        if event.label == "inserted" and event.identity == (1,):
            raise ValueError("no")
        heard.append((event.label, event.identity[0]))

    Item.watch.connect(hear)
    with Listener(engine, Item, durable=group, workers=4, retry=RetryPolicy(2, first_delay=0.01)) as listener:
        insert(client, "items", range(3))
        client.execute("UPDATE items SET shop = 2")
        listener.catch_up()
        assert listener.stats().dead_letters == 1
    assert sorted(heard) == [("inserted", 0), ("inserted", 2), *[("updated", number) for number in range(3)]]


def test_stop_ends_after_the_receivers_at_work_and_a_group_hears_the_rest_again(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any]
) -> None:
    begun, go_on = threading.Barrier(3), threading.Event()
    heard: list[int] = []

    def hear(sender: Any, event: Any) -> None:
        if not go_on.is_set():
            begun.wait(PATIENCE)
            go_on.wait(PATIENCE)
        heard.append(event.identity[0])

    Item.watch.inserted.connect(hear)
    listener = Listener(engine, Item, workers=2, **route)
    listener.start()
    insert(client, "items", range(10))
    begun.wait(PATIENCE)
    stopping = threading.Thread(target=listener.stop)
    stopping.start()
    gate = gate_of(listener)
    wait_until(client, lambda: gate.is_stopped)
    go_on.set()
    stopping.join()
    assert sorted(heard) == [0, 1]
    if route:
        with Listener(engine, Item, workers=2, **route) as listener:
            listener.catch_up()
        assert sorted(heard) == [0, 0, 1, 1, *range(2, 10)]


def test_a_receiver_in_a_lane_that_catches_up_is_told_that_it_would_wait_for_itself(
    engine: Engine, client: Client, Item: Any, route: dict[str, Any]
) -> None:
    errors: list[BaseException] = []

    def hear(sender: Any, event: Any) -> None:
        try:
            listener.catch_up()
        except ListenerError as error:
            errors.append(error)

    Item.watch.inserted.connect(hear)
    with Listener(engine, Item, workers=2, **route) as listener:
        insert(client, "items", 1)
        listener.catch_up()
    assert "would wait for itself" in str(errors[0])


def test_receivers_that_are_slower_than_writers_cost_no_more_memory_than_max_queue_allows(
    engine: Engine, client: Client, Item: Any
) -> None:
    go_on = threading.Event()
    heard: list[int] = []

    def hear(sender: Any, event: Any) -> None:
        go_on.wait(PATIENCE)
        heard.append(event.identity[0])

    Item.watch.inserted.connect(hear)
    with Listener(engine, Item, workers=2, max_queue=10) as listener:
        reasons = resync_reasons(listener)
        for number in range(100):
            insert(client, "items", number)
        wait_until(client, lambda: listener.stats().notifications == 100)
        assert listener.stats().dropped > 0
        go_on.set()
        wait_until(client, lambda: reasons)
        insert(client, "items", 1000)
        listener.catch_up()
    assert heard[-1] == 1000
    assert len(heard) + listener.stats().dropped == 101
    assert reasons == ["the listener's queue was full, since receivers are slower than writers"]


def test_bad_input_is_refused_at_once(engine: Engine, Item: Any) -> None:
    for wrong in (0, -1, True, 1.5, "8"):
        with pytest.raises(ConfigurationError, match="workers must be an int of at least 1"):
            Listener(engine, Item, workers=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="key is for workers="):
        Listener(engine, Item, key=Item.shop)
    with pytest.raises(ConfigurationError, match="key must be a function of an event, or a column such as"):
        Listener(engine, Item, workers=2, key=7)
    with pytest.raises(ConfigurationError, match="key='price': the events of watch 'inserted' of table 'items' do not"):
        Listener(engine, Item, workers=2, key="price")


class Work:
    """Lanes without a listener: what is called, and when."""

    def __init__(self, workers: int) -> None:
        self.gate = Gate(Inbox(100), Ledger(100))
        self.lanes = Lanes(workers, self.gate, Waiting(), NotTriedAgain(Reports(Stats(), lambda *failure: None)))

    def take(self, key: Any, receiver: Any) -> None:
        transaction = Transaction(1)
        self.gate.ledger.begin([Part(transaction, [], True)], 1.0)
        subscriber = Subscriber(id(receiver), receiver, False, True, False, None)
        self.lanes.take(transaction, key, [Call(cast(Any, None), subscriber, None, None)])


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work(4)
    yield work
    work.gate.stop()
    work.lanes.stop()
    for thread in work.lanes.threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_burst_of_keys_gets_as_many_workers_as_it_needs_though_one_is_idle(work: Work) -> None:
    first = threading.Event()
    work.take(0, lambda sender, event: first.set())
    assert first.wait(PATIENCE)
    while not work.lanes._idle:
        threading.Event().wait(0.001)
    meeting, met = threading.Barrier(4), threading.Semaphore(0)

    def meet(sender: Any, event: Any) -> None:
        meeting.wait(PATIENCE)
        met.release()

    for key in range(4):
        work.take(key, meet)
    for _ in range(4):
        assert met.acquire(timeout=PATIENCE)


def test_a_receiver_at_work_when_the_tenure_ends_is_waited_for_by_its_key(work: Work) -> None:
    begun, go_on, heard = threading.Event(), threading.Event(), SimpleQueue[str]()

    def first(sender: Any, event: Any) -> None:
        begun.set()
        go_on.wait(PATIENCE)
        heard.put("first")

    work.take("key", first)
    work.take("key", lambda sender, event: heard.put("of the tenure that is over"))
    assert begun.wait(PATIENCE)
    work.gate.renew(Ledger(100))
    work.gate.serve(work.gate.ledger)
    work.lanes.forget()
    work.take("key", lambda sender, event: heard.put("new"))
    work.take("another", lambda sender, event: heard.put("another"))
    assert heard.get(timeout=PATIENCE) == "another"
    go_on.set()
    assert [heard.get(timeout=PATIENCE) for _ in range(2)] == ["first", "new"]
    while work.lanes._lanes:
        threading.Event().wait(0.001)
    assert work.gate.ledger.kept == 0


def test_an_error_inside_the_library_ends_no_worker(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "BUG_SECONDS", 0.01)
    failures, heard = [0], SimpleQueue[str]()

    def fail_once(waiting: Any, call: Any) -> Any:
        failures[0] += 1
        if failures[0] == 1:
            raise MemoryError
        return make_one(waiting, call)

    monkeypatch.setattr(lanes_module, "make_one", fail_once)
    work.take("key", lambda sender, event: heard.put("first"))
    work.take("key", lambda sender, event: heard.put("second"))
    assert [heard.get(timeout=PATIENCE) for _ in range(2)] == ["first", "second"]
    assert len(work.lanes.threads) == 1
