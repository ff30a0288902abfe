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
from unittest.mock import AsyncMock

import psycopg
import pytest
from conftest import Recorder
from sqlalchemy import Engine, Integer, TypeDecorator
from sqlalchemy.dialects.postgresql import ARRAY, INTEGER
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import end_listeners, insert, resync_reasons

from sqlalchemy_watch import ConfigurationError, EventsDropped, Listener, Watch, Watched
from sqlalchemy_watch.signals.watch_signals import feed_of

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


@pytest.mark.sqlalchemy
def test_filters_compare_python_values_of_the_columns_type(engine: Engine, client: Client, Item: Any) -> None:
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"colour": Colour.red}, [1]),
        ({"colour": Colour.blue}, [2]),
        ({"price": Decimal("1.5")}, [1]),
        ({"price": 2}, [2]),
        ({"owner": OWNER}, [1]),
        ({"owner": uuid.UUID(int=0)}, []),
        ({"numbers": [1, 2]}, [1]),
        ({"numbers": [2, 1]}, []),
        ({"numbers": []}, [2]),
        ({"numbers": None}, [3]),
        ({"amount": 8}, [2]),
        ({"amount": None}, [3]),
        ({"amount": 7, "colour": Colour.red}, [1]),
        ({"colour": Colour.red, "amount": 7}, [1]),
        ({"amount": 7, "colour": Colour.blue}, []),
        ({"amount": None, "colour": None, "price": None}, [3]),
        ({"id": 2}, [2]),
        ({"id": 2, "amount": 8}, [2]),
        ({"id": 2, "amount": 7}, []),
    ]
    recorders = [Recorder() for _ in cases]
    for (keys, _), recorder in zip(cases, recorders, strict=True):
        Item.watch.updated.filter_by(**keys).connect(recorder)
    client.execute(ROWS)
    with Listener(engine, Item) as listener:
        client.execute("UPDATE items SET hidden = 1")
        listener.catch_up()
    heard = [(keys, [e.identity[0] for e in r.events]) for (keys, _), r in zip(cases, recorders, strict=True)]
    assert heard == cases


def test_inserted_rows_are_filtered_by_association(
    engine: Engine, client: Client, Item: Any, recorder: Recorder
) -> None:
    Item.watch.inserted.filter_by(amount=8).connect(recorder)
    with Listener(engine, Item) as listener:
        client.execute(ROWS)
        listener.catch_up()
    assert recorder.heard() == [("inserted", (2,))]


class Point:
    """A value that is compared, and so has no hash."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.number == self.number


class PointType(TypeDecorator[Point]):
    impl = Integer
    cache_ok = True

    def process_result_value(self, value: int | None, dialect: Any) -> Point | None:
        return None if value is None else Point(value)


def test_values_that_cannot_be_hashed_match_no_filter_and_stop_nobody(
    engine: Engine, client: Client, Base: type[DeclarativeBase], recorder: Recorder
) -> None:
    class Pin(Watched, Base):
        __tablename__ = "pins"
        __watch__ = (Watch("inserted", extra_columns=("point",)),)
        id: Mapped[int] = mapped_column(primary_key=True)
        point: Mapped[Point | None] = mapped_column(PointType)

    Base.metadata.create_all(engine)
    with pytest.raises(ConfigurationError, match="can't filter by 'point'.*unhashable type: 'Point'.*__hash__"):
        Pin.watch.inserted.filter_by(point=Point(1))
    Pin.watch.inserted.filter_by(point=None).connect(recorder)
    with Listener(engine, Pin) as listener:
        reasons = resync_reasons(listener)
        client.execute("INSERT INTO pins VALUES (1, 1), (2, NULL)")
        listener.catch_up()
    assert (recorder.heard(), reasons) == ([("inserted", (2,))], [])


def test_filtered_signals_are_connected_to_for_a_block_and_narrowed_by_sender(
    engine: Engine, client: Client, Item: Any, recorder: Recorder
) -> None:
    other = Recorder()
    signal = Item.watch.inserted.filter_by(amount=1)
    signal.connect(other, sender=int)
    with Listener(engine, Item) as listener:
        with signal.connected_to(recorder):
            client.execute("INSERT INTO items (id, amount) VALUES (1, 1)")
            listener.catch_up()
        client.execute("INSERT INTO items (id, amount) VALUES (2, 1)")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,))]
    assert other.events == []


def test_all_signals_of_a_model_are_connected_to_for_a_block_and_disconnected(
    engine: Engine, client: Client, Item: Any, recorder: Recorder
) -> None:
    with Listener(engine, Item) as listener:
        with Item.watch.connected_to(recorder):
            client.execute("INSERT INTO items (id) VALUES (1)")
            client.execute("UPDATE items SET hidden = 1")
            listener.catch_up()
        Item.watch.connect(recorder)
        Item.watch.disconnect(recorder)
        client.execute("UPDATE items SET hidden = 2")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,)), ("updated", (1,))]


def test_the_collection_shows_its_signals(Item: Any) -> None:
    assert [signal.name for signal in Item.watch] == ["Item.inserted", "Item.updated"]
    assert (len(Item.watch), "updated" in Item.watch, "deleted" in Item.watch) == (2, True, False)
    assert {"inserted", "updated", "connect"} <= set(dir(Item.watch))
    assert repr(Item.watch) == "<WatchSignals Item: inserted, updated>"
    assert Item.watch["updated"] is Item.watch.updated is Item().watch.updated


def test_connect_decorates_and_the_same_receiver_is_called_once(engine: Engine, client: Client, Item: Any) -> None:
    calls: list[Any] = []

    @Item.watch.inserted.connect
    @Item.watch.inserted.connect
    def note(sender: Any, event: Any) -> None:
        calls.append(event.identity)

    with Listener(engine, Item) as listener:
        client.execute("INSERT INTO items (id) VALUES (1)")
        listener.catch_up()
    assert calls == [(1,)]


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
        Item.watch.inserted.connect(receiver)
    with Listener(engine, Item) as listener:
        client.execute("INSERT INTO items VALUES (1)")
        listener.catch_up()
    assert got == ["lambda", "method", "partial", "keywords ['event']", "keyword only"]


def test_a_class_as_a_receiver_is_called_whatever_its_instances_are(
    engine: Engine, client: Client, Item: Any, recorder: Recorder
) -> None:
    made: list[Any] = []

    class Task:
        def __init__(self, sender: Any, event: Any) -> None:
            made.append((sender, event.identity))

        async def __call__(self, *args: Any) -> None: ...

    Item.watch.inserted.connect(Task)
    Item.watch.inserted.connect(recorder)
    with Listener(engine, Item) as listener:
        client.execute("INSERT INTO items (id) VALUES (1)")
        listener.catch_up()
        assert listener.stats().failed_receivers == 0
    assert made == [(Item, (1,))]
    assert len(recorder.events) == 1


def test_coroutines_of_every_form_are_awaited(engine: Engine, client: Client, Item: Any) -> None:
    got: list[str] = []

    class Service:
        async def hear(self, sender: Any, event: Any) -> None:
            got.append("method")

    async def partly(prefix: str, sender: Any, event: Any) -> None:
        got.append(prefix)

    async def by_keywords(sender: Any, **kwargs: Any) -> None:
        got.append(f"keywords {sorted(kwargs)}")

    async def main() -> None:
        service = Service()
        receivers = [service.hear, functools.partial(partly, "partial"), by_keywords, AsyncMock()]
        for receiver in receivers:
            Item.watch.inserted.connect(receiver)
        async with Listener(engine, Item) as listener:
            await asyncio.to_thread(client.execute, "INSERT INTO items (id) VALUES (1)")
            await listener.catch_up_async()
        assert isinstance(receivers[-1], AsyncMock)
        receivers[-1].assert_awaited_once()

    asyncio.run(main())
    assert sorted(got) == ["keywords ['event']", "method", "partial"]


def test_generators_whose_body_would_never_run_are_refused_at_connect(Item: Any) -> None:
    def one_by_one(sender: Any, event: Any) -> Any:
        yield event

    async def asynchronously(sender: Any, event: Any) -> Any:
        yield event

    for receiver in (one_by_one, asynchronously):
        with pytest.raises(ConfigurationError, match="is a generator, whose body would never run: remove its yield"):
            Item.watch.inserted.connect(receiver)


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
    Item.watch.inserted.connect(mortal, weak=True)
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
            await asyncio.to_thread(end_listeners, client)
            await listener.catch_up_async()
            with pytest.raises(EventsDropped) as raised:
                await anext(stream)
            return raised.value.reason

    assert asyncio.run(main()) == "the connection was lost and is back"


def test_a_stream_keeps_what_fits_after_a_gap_and_marks_each_gap_in_its_place(
    engine: Engine, client: Client, Item: Any
) -> None:
    async def write(listener: Listener, *ids: int) -> None:
        await asyncio.to_thread(insert, client, "items", *ids)
        await listener.catch_up_async()

    async def main() -> list[Any]:
        seen: list[Any] = []

        async def take() -> None:
            try:
                seen.append((await anext(stream)).identity[0])
            except EventsDropped as gap:
                seen.append((gap.reason.partition(" of")[0], gap.dropped))

        async with Listener(engine, Item) as listener, Item.watch.inserted.stream(max_queue=2) as stream:
            await write(listener, 1, 2, 3)  # 3 does not fit
            await take()
            await write(listener, 4, 5, 6)  # 4 does, behind the gap
            for _ in range(4):
                await take()
            stream.missed("the connection was lost")
            stream.missed("and again")
            await write(listener, 7)  # there is room, whatever was missed before
            await take()
            await take()
            assert stream.dropped == 3
        return seen

    full = "the stream's queue"
    assert asyncio.run(main()) == [1, 2, (full, 1), 4, (full, 2), ("the connection was lost", 0), 7]


def test_a_stream_of_a_filter_has_its_rows_alone(engine: Engine, client: Client, Item: Any) -> None:
    async def main() -> list[Any]:
        stream = Item.watch.inserted.filter_by(amount=1).stream()
        async with Listener(engine, Item) as listener:
            await asyncio.to_thread(client.execute, "INSERT INTO items (id, amount) VALUES (1, 1), (2, 2), (3, 1)")
            await listener.catch_up_async()
        return [event.identity[0] async for event in stream]

    assert asyncio.run(main()) == [1, 3]


def test_a_stream_goes_on_while_another_listener_serves_it(engine: Engine, client: Client, Item: Any) -> None:
    async def main() -> list[Any]:
        stream = Item.watch.inserted.stream()
        async with Listener(engine, Item) as second:
            async with Listener(engine, Item):
                pass
            await asyncio.to_thread(client.execute, "INSERT INTO items (id) VALUES (1)")
            await second.catch_up_async()
        return [event.identity[0] async for event in stream]

    assert asyncio.run(main()) == [1]


def test_a_stream_goes_on_when_the_listener_is_started_again_while_it_stops(
    engine: Engine, client: Client, Item: Any
) -> None:
    called, go_on = threading.Event(), threading.Event()

    def block(sender: Any, event: Any) -> None:
        called.set()
        go_on.wait(10)

    async def main() -> Any:
        stream = Item.watch.inserted.stream()
        listener = Listener(engine, Item)
        await asyncio.to_thread(listener.start)
        client.execute("INSERT INTO items (id) VALUES (1)")
        assert called.wait(5)
        stopping = asyncio.create_task(asyncio.to_thread(listener.stop))
        while listener.running:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(listener.start)
        go_on.set()
        await stopping
        heard = []
        for number in (2, 3):
            await asyncio.to_thread(client.execute, f"INSERT INTO items (id) VALUES ({number})")
            heard.append((await anext(stream)).identity[0])
        await asyncio.to_thread(listener.stop)
        return heard

    Item.watch.inserted.connect(block)
    assert asyncio.run(main()) == [2, 3]  # after stop() no further receiver is called


def test_a_stream_of_a_loop_that_is_closed_is_disconnected_by_the_next_event(
    engine: Engine, client: Client, Item: Any, recorder: Recorder
) -> None:
    streams: list[Any] = []

    async def open_one() -> None:
        streams.append(Item.watch.inserted.stream())

    asyncio.run(open_one())
    Item.watch.inserted.connect(recorder)
    with Listener(engine, Item) as listener:
        client.execute("INSERT INTO items (id) VALUES (1)")
        listener.catch_up()
        assert listener.stats().failed_receivers == 0
    assert list(Item.watch.inserted.receivers_for(Item)) == [recorder]


def test_a_stream_that_is_closed_or_forgotten_is_disconnected(Item: Any) -> None:
    async def main() -> None:
        stream = Item.watch.inserted.stream()
        forgotten = Item.watch.inserted.filter_by(amount=1).stream()
        assert Item.watch.inserted.receivers
        await stream.aclose()
        assert not Item.watch.inserted.receivers
        del forgotten
        gc.collect()
        assert feed_of(Item.watch.inserted).filters == {}

    asyncio.run(main())


def test_a_stream_needs_a_loop_and_a_bound(Item: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs a running event loop"):
        Item.watch.inserted.stream()

    async def main() -> None:
        for wrong in (0, -1, 1.5, True, None):
            with pytest.raises(ConfigurationError, match="max_queue must be an int of at least 1"):
                Item.watch.inserted.stream(max_queue=wrong)

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
