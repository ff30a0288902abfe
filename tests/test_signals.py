"""Signals: filters, receivers of every kind, streams."""

from __future__ import annotations

import asyncio
import enum
import functools
import gc
import threading
import uuid
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import ARRAY, INTEGER
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import ConfigurationError, EventsDropped, Listener, Watch, Watched

Client = psycopg.Connection[Any]


class Colour(enum.Enum):
    red = 1
    blue = 2


@pytest.fixture
def Item(Base: type[DeclarativeBase], engine: Engine) -> Any:
    carried = ("colour", "price", "owner", "numbers", "amount")

    class Item(Watched, Base):
        __tablename__ = "items"
        __watch__ = (Watch("inserted", extra_columns=carried), Watch("updated", extra_columns=carried))
        id: Mapped[int] = mapped_column(primary_key=True)
        colour: Mapped[Colour | None]
        price: Mapped[Decimal | None]
        owner: Mapped[uuid.UUID | None]
        numbers: Mapped[list[int] | None] = mapped_column(ARRAY(INTEGER))
        amount: Mapped[int | None]
        hidden: Mapped[int | None]

    Base.metadata.create_all(engine)
    return Item


OWNER = uuid.uuid4()
ROWS = (
    f"INSERT INTO items VALUES (1, 'red', 1.50, '{OWNER}', '{{1,2}}', 7), (2, 'blue', 2, NULL, '{{}}', 8), "
    f"(3, NULL, NULL, NULL, NULL, NULL)"
)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"colour": Colour.red}, [1]),
        ({"price": Decimal("1.5")}, [1]),
        ({"price": 2}, [2]),
        ({"owner": OWNER}, [1]),
        ({"numbers": [1, 2]}, [1]),
        ({"numbers": []}, [2]),
        ({"amount": 8}, [2]),
        ({"amount": None}, [3]),
        ({"amount": 7, "colour": Colour.red}, [1]),
        ({"amount": 7, "colour": Colour.blue}, []),
        ({"id": 2, "amount": 8}, [2]),
    ],
)
def test_filters_compare_python_values_of_the_columns_type(
    keys: dict[str, Any], expected: list[int], engine: Engine, client: Client, Item: Any, recorder: Recorder
) -> None:
    signal = Item.watch.updated.filter_by(**keys)
    signal.connect(recorder)
    client.execute(ROWS)
    with Listener(engine, Item) as listener:
        client.execute("UPDATE items SET hidden = 1")
        listener.catch_up()
    assert [event.identity[0] for event in recorder.events] == expected


@pytest.mark.parametrize(
    ("operation", "keys", "words"),
    [
        ("updated", {"hidden": 1}, "'hidden', because it isn't carried: add it to extra_columns"),
        ("updated", {"nope": 1}, "'nope', because it isn't carried"),
        ("inserted", {"id": 1}, "isn't known before it is inserted"),
        ("inserted", {"id": 1, "amount": 2}, "isn't known before it is inserted"),
        ("updated", {"id": "1"}, "id='1' would never match, because 'id' holds"),
        ("updated", {"colour": "red"}, "colour='red' would never match, because 'colour' holds Colour values"),
        ("updated", {"owner": str(OWNER)}, "holds UUID values"),
        ("updated", {}, "at least one key"),
    ],
)
def test_filters_that_can_never_match_raise_at_once(
    Item: Any, operation: str, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Item.watch[operation].filter_by(**keys)


def test_the_same_filter_is_the_same_signal_and_goes_with_its_last_receiver(Item: Any, recorder: Recorder) -> None:
    signal = Item.watch.updated
    assert signal.filter_by(id=1) is signal.filter_by(id=1)
    signal.filter_by(id=1).connect(recorder)
    assert signal.has_filters
    signal.filter_by(id=1).disconnect(recorder)
    assert not signal.has_filters


def test_filters_of_receivers_that_are_gone_are_forgotten(Item: Any) -> None:
    receivers = [Recorder() for _ in range(100)]
    for number, receiver in enumerate(receivers):
        Item.watch.updated.filter_by(id=number).connect(receiver)
    assert Item.watch.updated.has_filters
    del receivers, receiver
    gc.collect()
    assert not Item.watch.updated.has_filters
    assert len(Item.watch.updated._views) == 0


class Async:
    def __init__(self, got: list[Any]) -> None:
        self.got = got

    async def __call__(self, sender: Any, event: Any) -> None:
        self.got.append("async object")


def test_receivers_of_any_signature_are_called_in_the_order_of_connecting(
    engine: Engine, client: Client, Item: Any
) -> None:
    got: list[str] = []

    class Service:
        def hear(self, sender: Any, event: Any) -> None:
            got.append("method")

    def partly(prefix: str, sender: Any, event: Any) -> None:
        got.append(prefix)

    def by_keywords(sender: Any, **kwargs: Any) -> None:
        got.append(f"keywords {sorted(kwargs)}")

    def keyword_only(sender: Any, *, event: Any) -> None:
        got.append("keyword only")

    service = Service()
    receivers = [
        lambda s, e: got.append("lambda"), service.hear, functools.partial(partly, "partial"), by_keywords,
        keyword_only,
    ]  # fmt: skip
    for receiver in receivers:
        Item.watch.inserted.connect(receiver, weak=False)
    with Listener(engine, Item) as listener:
        client.execute("INSERT INTO items VALUES (1)")
        listener.catch_up()
    assert got == ["lambda", "method", "partial", "keywords ['event']", "keyword only"]


@pytest.mark.parametrize("receiver", [lambda: None, lambda sender: None, lambda a, b, c: None, "no function", None])
def test_receivers_that_cannot_be_called_are_refused_at_connect(Item: Any, receiver: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Item\.inserted.*(can't be called|not callable)"):
        Item.watch.inserted.connect(receiver)


def test_a_sender_narrows_and_a_dead_receiver_is_silent(
    engine: Engine, client: Client, Item: Any, recorder: Recorder
) -> None:
    other = Recorder()
    mortal = Recorder()
    Item.watch.inserted.connect(recorder, sender=Item)
    Item.watch.inserted.connect(other, sender=int)
    Item.watch.inserted.connect(mortal)
    del mortal
    gc.collect()
    with Listener(engine, Item) as listener:
        client.execute("INSERT INTO items VALUES (1)")
        listener.catch_up()
    assert (len(recorder.events), len(other.events)) == (1, 0)
    assert len(Item.watch.inserted.receivers) == 2


def test_receivers_may_connect_and_disconnect_while_they_are_called(
    engine: Engine, client: Client, Item: Any, recorder: Recorder
) -> None:
    def hand_over(sender: Any, event: Any) -> None:
        Item.watch.inserted.disconnect(hand_over)
        Item.watch.inserted.connect(recorder)

    Item.watch.inserted.connect(hand_over)
    with Listener(engine, Item) as listener:
        client.execute("INSERT INTO items VALUES (1), (2), (3)")
        listener.catch_up()
    assert [event.identity for event in recorder.events] == [(2,), (3,)]


def test_connecting_from_many_threads_under_dispatch_loses_nobody(engine: Engine, client: Client, Item: Any) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def churn() -> None:
        try:
            while not stop.is_set():
                receiver = Recorder()
                Item.watch.inserted.connect(receiver)
                Item.watch.inserted.filter_by(amount=1).connect(receiver)
                Item.watch.inserted.filter_by(amount=1).disconnect(receiver)
                Item.watch.inserted.disconnect(receiver)
        except BaseException as error:
            errors.append(error)

    steady = Recorder()
    Item.watch.inserted.connect(steady)
    threads = [threading.Thread(target=churn) for _ in range(3)]
    with Listener(engine, Item) as listener:
        for thread in threads:
            thread.start()
        client.execute("INSERT INTO items SELECT i, NULL, NULL, NULL, NULL, 1 FROM generate_series(1, 3000) i")
        listener.catch_up()
        stop.set()
        for thread in threads:
            thread.join()
        assert listener.stats().failed_receivers == 0
    assert errors == []
    assert len(steady.events) == 3000


def test_coroutine_receivers_run_on_the_loop_in_which_they_were_connected(
    engine: Engine, client: Client, Item: Any
) -> None:
    got: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def hear(sender: Any, event: Any) -> None:
            got.append((asyncio.get_running_loop() is loop, event.identity))

        receiver = Async(got)
        Item.watch.inserted.connect(hear)
        Item.watch.inserted.connect(receiver)
        async with Listener(engine, Item) as listener:
            await asyncio.to_thread(client.execute, "INSERT INTO items VALUES (1), (2)")
            await listener.catch_up_async()

    asyncio.run(main())
    assert sorted(got, key=str) == [(True, (1,)), (True, (2,)), "async object", "async object"]


def test_coroutine_receivers_connected_outside_a_loop_run_on_the_listeners(
    engine: Engine, client: Client, Item: Any
) -> None:
    got: list[Any] = []

    async def hear(sender: Any, event: Any) -> None:
        got.append(asyncio.get_running_loop())

    Item.watch.inserted.connect(hear)

    async def main() -> None:
        async with Listener(engine, Item) as listener:
            await asyncio.to_thread(client.execute, "INSERT INTO items VALUES (1)")
            await listener.catch_up_async()
        assert got == [asyncio.get_running_loop()]

    asyncio.run(main())


def test_coroutine_receivers_that_fail_or_have_no_loop_are_reported(
    engine: Engine, client: Client, Item: Any, recorder: Recorder
) -> None:
    failures: list[tuple[str, str]] = []

    def note_failure(sender: Any, receiver: Any, event: Any, error: BaseException) -> None:
        failures.append((receiver.__name__, str(error)))

    async def without_a_loop(sender: Any, event: Any) -> None: ...

    async def of_a_closed_loop(sender: Any, event: Any) -> None: ...

    async def connect() -> None:
        Item.watch.inserted.connect(of_a_closed_loop)

    asyncio.run(connect())
    Item.watch.inserted.connect(without_a_loop)
    Item.watch.inserted.connect(recorder)
    with Listener(engine, Item) as listener:
        listener.receiver_failed.connect(note_failure)
        client.execute("INSERT INTO items VALUES (1)")
        listener.catch_up()
    assert [name for name, _ in failures] == ["of_a_closed_loop", "without_a_loop"]
    assert "is closed" in failures[0][1]
    assert "start the listener, inside a running loop" in failures[1][1]
    assert recorder.heard() == [("inserted", (1,))]


def test_a_stream_ends_with_the_listener(engine: Engine, client: Client, Item: Any) -> None:
    async def main() -> list[Any]:
        stream = Item.watch.inserted.stream()
        async with Listener(engine, Item) as listener:
            await asyncio.to_thread(client.execute, "INSERT INTO items VALUES (1), (2)")
            await listener.catch_up_async()
        return [event.identity async for event in stream]

    assert asyncio.run(main()) == [(1,), (2,)]


def test_a_stream_says_where_it_had_to_drop_and_goes_on(engine: Engine, client: Client, Item: Any) -> None:
    async def main() -> list[Any]:
        seen: list[Any] = []
        async with Listener(engine, Item) as listener, Item.watch.inserted.stream(max_queue=2) as stream:
            await asyncio.to_thread(client.execute, "INSERT INTO items VALUES (1), (2), (3), (4)")
            await listener.catch_up_async()
            seen += [(await anext(stream)).identity, (await anext(stream)).identity]
            with pytest.raises(EventsDropped) as raised:
                await anext(stream)
            seen.append(raised.value.dropped)
            await asyncio.to_thread(client.execute, "INSERT INTO items VALUES (5)")
            seen += [(await anext(stream)).identity, stream.dropped]
        return seen

    assert asyncio.run(main()) == [(1,), (2,), 2, (5,), 2]


def test_a_stream_says_where_the_listener_may_have_missed_something(engine: Engine, client: Client, Item: Any) -> None:
    async def main() -> str:
        async with Listener(engine, Item) as listener, Item.watch.inserted.stream() as stream:
            await asyncio.to_thread(
                client.execute,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch'",
            )
            await listener.catch_up_async()
            with pytest.raises(EventsDropped) as raised:
                await anext(stream)
            return raised.value.reason

    assert asyncio.run(main()) == "the connection was lost and is back"


def test_a_stream_that_is_closed_or_forgotten_is_disconnected(Item: Any) -> None:
    async def main() -> None:
        stream = Item.watch.inserted.stream()
        forgotten = Item.watch.inserted.filter_by(amount=1).stream()
        assert Item.watch.inserted.receivers
        await stream.aclose()
        assert not Item.watch.inserted.receivers
        del forgotten
        gc.collect()
        assert not Item.watch.inserted.has_filters

    asyncio.run(main())


def test_a_stream_needs_a_loop_and_a_bound(Item: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs a running event loop"):
        Item.watch.inserted.stream()

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="max_queue must be an int of at least 1"):
            Item.watch.inserted.stream(max_queue=0)

    asyncio.run(main())


def test_events_are_immutable(engine: Engine, client: Client, Item: Any, recorder: Recorder) -> None:
    Item.watch.inserted.connect(recorder)
    with Listener(engine, Item) as listener:
        client.execute("INSERT INTO items VALUES (1)")
        listener.catch_up()
    (event,) = recorder.events
    with pytest.raises(AttributeError):
        event.identity = (2,)
    with pytest.raises(AttributeError):
        event.anything = 1
    with pytest.raises(TypeError):
        event.values["id"] = 2
