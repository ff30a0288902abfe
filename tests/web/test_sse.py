"""`EventSource`: what browsers are sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from listener.conftest import drop_slots
from listener.programs import run as run_program
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import Mapped, mapped_column
from support import PATIENCE, end_listeners, records_of

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched
from sqlalchemy_watch.signals.filters import feeds_of
from sqlalchemy_watch.web import EventSource, to_json
from sqlalchemy_watch.web import history as history_module
from sqlalchemy_watch.web import hub as hub_module
from sqlalchemy_watch.web import sse as sse_module
from sqlalchemy_watch.web.ending import end_streams
from sqlalchemy_watch.web.frames import HEARTBEAT, Frame
from sqlalchemy_watch.web.hub import UNWRITABLE

from .conftest import Got, browsing, parse

Client = psycopg.Connection[Any]


def insert(client: Client, *rows: tuple[int, int, str]) -> None:
    for row in rows:
        client.execute("INSERT INTO orders VALUES (%s, %s, %s)", row)


@pytest.fixture
def run(engine: Engine, Order: Any) -> Callable[[Callable[[Listener], Coroutine[Any, Any, None]]], None]:
    """Runs a coroutine function with a listener."""

    def run(main: Callable[[Listener], Coroutine[Any, Any, None]]) -> None:
        async def with_listener() -> None:
            async with Listener(engine, Order) as listener:
                await main(listener)

        asyncio.run(with_listener())

    return run


def test_events_come_under_their_labels_in_order_with_their_ids(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        async with browsing(EventSource(Order.watch)) as browser:
            insert(client, (1, 7, "first\nline"))
            client.execute("UPDATE orders SET note = 'x'")
            client.execute("DELETE FROM orders")
            got = await browser.some(3)
        assert [one.event for one in got] == ["inserted", "updated", "deleted"]
        assert len({one.id for one in got}) == 3
        told = got[0].json
        assert (told["id"], told["values"]) == (got[0].id, {"id": 1, "org_id": 7, "note": "first\nline"})
        assert not {"old", "context"} & told.keys()

    run(main)


def test_all_browsers_share_one_receiver_and_one_text(client: Client, Order: Any, run: Any) -> None:
    written = [0]

    def serialize(event: Any) -> str:
        written[0] += 1
        return "x"

    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.inserted, serialize=serialize, linger=0)
        frames = [source.frames() for _ in range(5)]
        for each in frames:
            await anext(each)
        assert len(Order.watch.inserted.receivers) == 1
        insert(client, (1, 7, ""))
        assert len({await asyncio.wait_for(anext(each), PATIENCE) for each in frames}) == 1
        assert written[0] == 1
        for each in frames:
            await each.aclose()
        await asyncio.sleep(0.01)
        assert len(Order.watch.inserted.receivers) == 0

    run(main)


def test_what_serialize_leaves_out_does_not_come_and_lines_stay_lines(client: Client, Order: Any, run: Any) -> None:
    texts = {1: None, 2: "<li>\r\n2</li>\r", 3: b"3"}

    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.inserted, serialize=lambda event: texts[event.identity[0]], event="row")
        async with browsing(source) as browser:
            insert(client, (1, 7, ""), (2, 7, ""), (3, 7, ""))
            got = await browser.some(2)
        assert [(one.event, one.data) for one in got] == [("row", "<li>\n2</li>\n"), ("row", "3")]

    run(main)


def test_filters_and_rows_that_leave(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        watch = Order.watch
        mine = EventSource(watch.inserted.filter_by(org_id=1), watch.updated.touching(org_id=1), watch.deleted)
        written: list[Any] = []
        async with browsing(mine) as browser:
            insert(client, (1, 1, "mine"), (2, 2, "theirs"))
            client.execute("UPDATE orders SET org_id = 2, note = 'secret', id = 5 WHERE id = 1")
            client.execute("UPDATE orders SET note = 'other' WHERE org_id = 2")
            client.execute("UPDATE orders SET org_id = 1 WHERE id = 5")
            got = await browser.some(3)
        assert [one.event for one in got] == ["inserted", "left", "updated"]
        assert got[1].json == {"model": "Order", "table": "orders", "schema": "public", "identity": [1]}
        assert "secret" not in got[1].data
        assert got[2].json["values"]["note"] == "other"
        assert written == []

    run(main)


def test_each_browser_sees_what_it_may(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        def sees(org: int) -> EventSource:
            return EventSource(Order.watch.inserted, visible=lambda event: event.values["org_id"] == org)

        async with browsing(sees(1)) as one, browsing(sees(2)) as two:
            insert(client, (1, 1, ""), (2, 2, ""), (3, 1, ""))
            assert [got.json["identity"] for got in await one.some(2)] == [[1], [3]]
            assert [got.json["identity"] for got in await two.some(1)] == [[2]]

    run(main)


def test_a_browser_that_comes_back_goes_on_where_it_was(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.inserted.filter_by(org_id=1), Order.watch.updated, replay=4)
        async with browsing(source) as browser:
            insert(client, (1, 1, ""), (2, 2, ""))
            last = await browser.next()
        insert(client, (3, 1, ""), (4, 2, ""))
        await listener.catch_up_async()
        async with browsing(source, last.id) as browser:
            insert(client, (5, 1, ""))
            assert [got.json["identity"] for got in await browser.some(2)] == [[3], [5]]
        insert(client, (6, 1, ""), (7, 1, ""), (8, 1, ""))
        await listener.catch_up_async()
        for unknown in (last.id, "nonsense", "\0\ud800", "0" * 10_000):
            async with browsing(source, unknown) as browser:
                assert (await browser.next()).event == "resync"

    run(main)


def test_a_gap_is_a_resync_or_a_new_snapshot(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        numbers = iter(range(100))

        def snapshot(request: Any) -> Any:
            return {"number": next(numbers), "request": request}

        plain = EventSource(Order.watch)
        shown = EventSource(Order.watch, snapshot=snapshot, resync_spread=0.0)
        async with browsing(plain) as one, browsing(shown, request="me") as two:
            assert await two.next() == Got("snapshot", "", '{"number": 0, "request": "me"}')
            await asyncio.to_thread(end_listeners, client)
            assert (await one.next()).event == "resync"
            assert await two.next() == Got("snapshot", "", '{"number": 1, "request": "me"}')
            insert(client, (1, 7, ""))
            while (got := await one.next()).event == "resync":  # another one, once it listens again
                pass
            assert got.event == "inserted"

    run(main)


def test_a_stream_that_waits_for_its_turn_to_reload_ends_at_once(Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch, snapshot=lambda request: "", resync_spread=3600.0)
        frames = source.frames("unknown")
        first = asyncio.ensure_future(anext(frames))
        await asyncio.sleep(0)
        end_streams(asyncio.get_running_loop())
        assert await asyncio.wait_for(first, PATIENCE) == b"retry: 2000\nid: -\n\n"
        assert await anext(frames, None) is None
        blocking = source.blocking_frames("unknown")
        threading.Timer(0.0, lambda: listener.stop()).start()
        assert await asyncio.to_thread(list, blocking) == [b"retry: 2000\nid: -\n\n", HEARTBEAT]

    run(main)


def test_a_slow_browser_costs_bounded_memory_and_gets_one_resync(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.inserted, max_queue=10)
        async with browsing(source) as browser:
            client.execute("INSERT INTO orders (id) SELECT generate_series(1, 5000)")
            await listener.catch_up_async()
            await asyncio.sleep(0.1)
            assert (await browser.next()).event == "resync"
            insert(client, (9001, 7, ""))
            assert (await browser.next()).json["identity"] == [9001]

    run(main)


@pytest.mark.parametrize("returned", ["raises", 7, ["a list"]], ids=str)
def test_a_serialize_that_fails_is_a_failure_and_a_resync_and_the_others_go_on(
    client: Client, Order: Any, run: Any, returned: Any
) -> None:
    def serialize(event: Any) -> Any:
        if event.identity == (1,):
            if returned == "raises":
                raise ValueError("no such thing")
            return returned
        return to_json(event)

    async def main(listener: Listener) -> None:
        failed: SimpleQueue[Any] = SimpleQueue()
        listener.receiver_failed.connect(lambda sender, receiver, event, error: failed.put(error), weak=False)
        failing, whole = EventSource(Order.watch.inserted, serialize=serialize), EventSource(Order.watch.inserted)
        async with browsing(failing) as one, browsing(whole) as other:
            insert(client, (1, 7, ""))
            assert (await one.next()).event == "resync"
            insert(client, (2, 7, ""))
            assert (await one.next()).event == "inserted"
            assert [got.event for got in await other.some(2)] == ["inserted", "inserted"]
        assert isinstance(failed.get(timeout=PATIENCE), (ValueError, TypeError))

    run(main)


def test_a_snapshot_that_raises_is_logged_and_its_browser_reloads(client: Client, Order: Any, run: Any) -> None:
    def snapshot(request: Any) -> Any:
        raise ValueError("no such thing")

    async def snapshot_async(request: Any) -> Any:
        return object()

    async def main(listener: Listener) -> None:
        for function in (snapshot, snapshot_async):
            with records_of("sqlalchemy_watch.web.sse") as records:
                async with browsing(EventSource(Order.watch.inserted, snapshot=function)) as browser:
                    assert (await browser.next()).event == "resync"
                    insert(client, (id(function) % 2**31, 7, ""))
                    assert (await browser.next()).event == "inserted"
                assert "a snapshot could not be made" in records.get(timeout=PATIENCE).getMessage()

    run(main)


def test_a_visible_that_raises_is_a_resync_for_its_browser_alone(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.inserted, visible=lambda event: event.values["nothing"])
        async with browsing(source) as one, browsing(EventSource(Order.watch.inserted)) as other:
            insert(client, (1, 7, ""))
            assert (await one.next()).event == "resync"
            assert (await other.next()).event == "inserted"

    run(main)


@pytest.mark.parametrize("how", ["coroutine", "cancelled"])
def test_a_visible_that_misbehaves_shows_nothing_and_harms_nobody_else(
    client: Client, Order: Any, run: Any, how: str, recwarn: pytest.WarningsRecorder
) -> None:
    def decide(event: Any) -> Any:
        if how == "cancelled":
            raise asyncio.CancelledError
        return never(event)

    async def main(listener: Listener) -> None:
        async with (
            browsing(EventSource(Order.watch.inserted, visible=decide)) as blind,
            browsing(EventSource(Order.watch.inserted)) as other,
        ):
            insert(client, (1, 7, "secret"), (2, 7, ""))
            assert [got.json["identity"] for got in await other.some(2)] == [[1], [2]]
            got = await blind.next()
            assert (got.event, "secret" in got.data) == ("resync", False)

    run(main)
    recwarn.clear()  # a coroutine that nobody awaited


def test_silence_is_broken_and_a_stream_ends_in_time(Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        async with browsing(EventSource(Order.watch, heartbeat=0.01, max_age=0.1)) as browser:
            chunks = [chunk async for chunk in browser.frames]
        assert chunks
        assert set(chunks) == {b":\n\n"}

    run(main)


def first_chunk_of(source: EventSource, in_thread: bool) -> None:
    async def read() -> None:
        async with browsing(source):
            pass

    if in_thread:
        next(iter(source.blocking_frames()))
    else:
        asyncio.run(read())


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_stream_that_no_listener_serves_is_warned_of_once(
    Order: Any, engine: Engine, in_thread: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse_module, "_warned", set())
    source = EventSource(Order.watch.updated, Order.watch.inserted.filter_by(org_id=7), linger=0)
    with Listener(engine, Order):
        first_chunk_of(source, in_thread)
    assert not caplog.records
    for _ in range(2):
        first_chunk_of(source, in_thread)
    (record,) = caplog.records
    assert record.getMessage() == (
        "no running listener of this process hears Order.updated, Order.inserted[org_id]: nothing will come: start "
        "one, as lifespan=web.lifespan(listener) does"
    )


def test_streams_end_with_the_listener(client: Client, Order: Any, engine: Engine) -> None:
    async def main() -> None:
        listener = Listener(engine, Order)
        async with listener:
            frames = EventSource(Order.watch).frames()
            await anext(frames)
            insert(client, (1, 7, ""))
            await listener.catch_up_async()
        rest = b"".join([chunk async for chunk in frames])
        assert b"event: inserted" in rest

    asyncio.run(main())


@needs_logical_messages
def test_events_of_a_group_are_never_held_up_by_what_can_not_be_written(
    client: Client, Order: Any, engine: Engine, cluster: Cluster, database: str
) -> None:
    class Payment(Watched, Order.__bases__[1]):  # type: ignore[misc]
        __tablename__ = "payments"
        __watch__ = ("inserted",)
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)

    Payment.metadata.create_all(engine)

    def serialize(event: Any) -> str:
        if event.identity == (1,):
            raise ValueError
        return "x"

    async def main() -> None:
        async with Listener(engine, Payment, durable=f"group_{database}") as listener:
            async with browsing(EventSource(Payment.watch, serialize=serialize)) as browser:
                client.execute("INSERT INTO payments VALUES (1)")
                assert (await browser.next()).event == "resync"
                client.execute("INSERT INTO payments VALUES (2)")
                assert (await browser.next()).event == "inserted"
            await listener.catch_up_async()

    asyncio.run(main())
    drop_slots(cluster, database)


class Unhashable:
    """A function by which browsers can't be told apart."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, event: Any) -> str:
        return ""


async def never(event: Any) -> bool:
    return False


def test_bad_input_is_refused_at_once(Order: Any) -> None:
    signal = Order.watch.updated
    for arguments, options, words in (
        ((), {}, "no signal is given"),
        (("orders",), {}, "'orders' is no signal"),
        ((Order,), {}, "is no signal"),
        ((signal,), {"max_queue": 0}, "max_queue must be a number of events from 1 on, and below 10,000,000, not 0"),
        ((signal,), {"heartbeat": 0}, "heartbeat must be seconds from 0.001 on, and below 10,000,000, not 0"),
        ((signal,), {"replay": 1.5}, "replay must be a number of events"),
        ((signal,), {"max_age": "1"}, "max_age must be seconds"),
        ((signal,), {"retry": -1}, "retry must be milliseconds from 0 on"),
        ((signal,), {"linger": float("nan")}, "linger must be seconds"),
        ((signal,), {"serialize": "json"}, "serialize must be a function"),
        ((signal,), {"event": "two\nlines"}, "a text of one line"),
        ((signal,), {"event": "left"}, "the browser would take events for something else"),
        ((signal,), {"replay": 2**70}, "replay must be a number of events"),
        ((signal,), {"visible": never}, "visible is called for each event, where nothing can be awaited"),
        ((signal,), {"serialize": partial(never)}, "serialize is called for each event"),
        ((signal,), {"event": 5}, "event must be a function"),
        ((signal,), {"serialize": Unhashable()}, "serialize must be a function, and hashable"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            EventSource(*arguments, **options)
    with pytest.raises(ConfigurationError, match="can't filter by 'price'"):
        EventSource(signal.filter_by(price=1))
    with pytest.raises(ConfigurationError, match="include may name 'old' and 'context'"):
        to_json(None, include=["values"])  # type: ignore[arg-type]


def test_old_values_and_context_come_where_they_are_asked_for(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.updated, serialize=lambda event: to_json(event, include=["old", "context"]))
        async with browsing(source) as browser:
            insert(client, (1, 7, "x"))
            client.execute("UPDATE orders SET note = 'y'")
            told = (await browser.next()).json
        assert told["old"]["note"] == "x"
        assert told["context"] == {}

    run(main)


def test_history_is_forgotten_with_a_gap(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.inserted)
        insert(client, (1, 7, ""), (2, 7, ""))
        await listener.catch_up_async()
        (feed,) = feeds_of(Order.watch.inserted)
        first = history_module._histories[feed].events[0][1].id
        async with browsing(source, first) as browser:
            assert (await browser.next()).json["identity"] == [2]
        await asyncio.to_thread(end_listeners, client)
        await listener.catch_up_async()
        async with browsing(source, first) as browser:
            assert (await browser.next()).event == "resync"

    run(main)


def test_who_comes_back_gets_all_that_any_of_the_signals_had_or_a_resync(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch, replay=4)
        async with browsing(source) as browser:
            insert(client, (1, 7, ""))
            first = (await browser.next()).id
            client.execute("UPDATE orders SET note = 'a'")
            second = (await browser.next()).id
        for note in "bcd":
            client.execute("UPDATE orders SET note = %s", [note])
        await listener.catch_up_async()
        async with browsing(source, first) as browser:
            assert [got.json["values"]["note"] for got in await browser.some(4)] == [*"abcd"]
        client.execute("UPDATE orders SET note = 'e'")
        await listener.catch_up_async()
        async with browsing(source, first) as browser:  # the update to a is not kept, though the insert is
            assert (await browser.next()).event == "resync"
        async with browsing(source, second) as browser:
            assert (await browser.next()).event == "resync"

    run(main)


def test_an_event_of_two_signals_is_replayed_once(client: Client, Base: Any, engine: Engine) -> None:
    class Animal(Watched, Base):  # type: ignore[misc]
        __tablename__ = "animals"
        __watch__ = ("inserted",)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Dog(Animal):
        __watch__ = ("inserted",)
        __mapper_args__ = {"polymorphic_identity": "dog"}

    Base.metadata.create_all(engine)

    async def main() -> None:
        async with Listener(engine, Base):
            source = EventSource(Animal.watch, Dog.watch)
            async with browsing(source) as browser:
                client.execute("INSERT INTO animals VALUES (1, 'dog'), (2, 'dog'), (3, 'animal')")
                first, *_ = await browser.some(3)
            async with browsing(source, first.id) as browser:
                assert [got.json["identity"] for got in await browser.some(2)] == [[2], [3]]
                client.execute("INSERT INTO animals VALUES (4, 'dog')")
                assert (await browser.next()).json["identity"] == [4]

    asyncio.run(main())


def test_who_comes_back_without_having_had_an_event_has_a_place_as_well(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.inserted.filter_by(org_id=7))
        async with browsing(source) as browser:
            assert browser.place == "-"
        async with browsing(source, "-") as browser:
            assert (await browser.next()).event == "resync"
        insert(client, (1, 8, ""))
        await listener.catch_up_async()
        async with browsing(source) as browser:
            place = browser.place
        insert(client, (2, 7, ""), (3, 8, ""))
        await listener.catch_up_async()
        async with browsing(source, place) as browser:
            assert (await browser.next()).json["identity"] == [2]

    run(main)


def test_a_hub_of_threads_hears_no_more_when_nobody_comes_back(client: Client, Order: Any, engine: Engine) -> None:
    with Listener(engine, Order) as listener:
        for number in range(5):
            source = EventSource(Order.watch.inserted, serialize=lambda event: to_json(event), linger=0.0, replay=0)
            frames = source.blocking_frames()
            next(frames)
            assert len(Order.watch.inserted.receivers) == 1
            frames.close()
            insert(client, (number, 7, ""))
            listener.catch_up()
            assert len(Order.watch.inserted.receivers) == 0


def test_a_stream_that_its_server_cancels_ends_so(Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        begun = asyncio.Event()

        async def send(message: Any) -> None:
            begun.set()

        async def receive() -> Any:
            await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "headers": []}
        task = asyncio.create_task(EventSource(Order.watch)(scope, receive, send))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_an_id_that_lines_can_not_have_is_not_written() -> None:
    assert Frame("updated", "1-a\nevent: b-0", "x").encode() == b"event: updated\nid: -\ndata: x\n\n"


def test_an_id_that_another_process_was_faster_with_is_waited_for(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.inserted)
        insert(client, (1, 7, ""))
        await listener.catch_up_async()
        first = history_module.newest_id([Order.watch.inserted])
        assert first is not None
        _, channel, number = first.split("-")
        with client.transaction():
            (own,) = client.execute("SELECT pg_current_xact_id()::text::bigint").fetchone() or (None,)
            insert(client, (2, 7, ""))
            stream = source.frames(f"{own}-{channel}-{number}")
            coming = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
        insert(client, (3, 7, ""))
        text = (await asyncio.wait_for(coming, PATIENCE)).decode()
        while "event: " not in text:
            text += (await asyncio.wait_for(anext(stream), PATIENCE)).decode()
        assert [got.json["identity"] for got in parse(text)] == [[3]]
        await stream.aclose()

    run(main)


def test_a_forked_child_has_neither_the_parents_history_nor_its_browsers(cluster: Cluster, database: str) -> None:
    # Events between the fork and the child's own listener are heard by nobody there.
    output = run_program(
        cluster.url(database, "psycopg"),
        """
        from sqlalchemy_watch.web import EventSource

        source = EventSource(User.watch.inserted)
        listener = Listener(engine, User)
        listener.start()
        browser = source.blocking_frames()
        next(browser)
        insert(1)
        frame = next(browser).decode()
        place = frame.split("id: ")[1].split("\\n")[0]
        child = os.fork()
        if child == 0:
            insert(2)
            with Listener(engine, User):
                back = source.blocking_frames(place)
                text = ""
                while "event: " not in text:
                    text += next(back).decode()
                print("event: resync" in text, len(User.watch.inserted.receivers), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        while "\\nevent: " not in "\\n" + (frame := next(browser).decode()):
            pass
        print("[2]" in frame, "event: inserted" in frame)
        listener.stop()
        """,
    )
    assert output.split() == ["True", "2", "True", "True"]  # `remember` and the child's own hub


def test_who_missed_an_event_that_no_filter_can_decide_reloads(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.updated.touching(org_id=7), linger=0.0)
        insert(client, (1, 7, ""))
        async with browsing(source) as browser:
            client.execute("UPDATE orders SET note = 'a'")
            last = (await browser.next()).id
        client.execute("UPDATE orders SET note = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n)")
        await listener.catch_up_async()
        async with browsing(source, last) as browser:
            assert (await browser.next()).event == "resync"

    run(main)


def test_a_row_that_leaves_in_a_hierarchy_is_what_an_unfiltered_signal_says(
    client: Client, Base: Any, engine: Engine
) -> None:
    class Animal(Watched, Base):
        __tablename__ = "animals"
        __watch__ = (Watch("updated", extra_columns=("org",), old=True),)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        org: Mapped[int]

    class Dog(Animal):
        __mapper_args__ = {"polymorphic_identity": "dog"}
        __watch__ = (Watch("updated", extra_columns=("org",), old=True),)

    Base.metadata.create_all(engine)

    async def main() -> None:
        async with Listener(engine, Animal) as listener:
            mine = Animal.watch.updated.touching(org=1)
            async with browsing(EventSource(mine, Dog.watch.updated)) as both, browsing(EventSource(mine)) as one:
                client.execute("INSERT INTO animals VALUES (1, 'dog', 1)")
                client.execute("UPDATE animals SET org = 2")
                await listener.catch_up_async()
                assert [(await browser.next()).event for browser in (both, one)] == ["updated", "left"]

    asyncio.run(main())


def test_partials_of_one_function_are_one_text_for_all(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        sources = [EventSource(Order.watch.updated, serialize=partial(to_json, include=["old"])) for _ in range(3)]
        async with browsing(sources[0]), browsing(sources[1]), browsing(sources[2]):
            assert len(Order.watch.updated.receivers) == 1

    run(main)


def test_what_browsers_that_come_back_missed_is_written_once_for_all(client: Client, Order: Any, run: Any) -> None:
    written: list[int] = []

    def write(event: Any) -> str:
        written.append(event.identity[0])
        return ""

    async def main(listener: Listener) -> None:
        source = EventSource(Order.watch.inserted, serialize=write)
        async with browsing(source) as browser:
            insert(client, (1, 7, ""))
            first = await browser.next()
        insert(client, (2, 7, ""), (3, 7, ""))
        await listener.catch_up_async()
        for _ in range(3):
            async with browsing(source, first.id) as browser:
                assert len(await browser.some(2)) == 2

    run(main)
    assert written == [1, 2, 3]


@pytest.mark.parametrize("kind", ["object", "lambda"])
def test_snapshots_that_are_awaited_whatever_their_form(Order: Any, run: Any, kind: str) -> None:
    class Reads:
        async def __call__(self, request: Any) -> list[int]:
            return [1]

    async def main(listener: Listener) -> None:
        snapshot = Reads() if kind == "object" else (lambda request: Reads()(request))
        async with browsing(EventSource(Order.watch, snapshot=snapshot)) as browser:
            assert (await browser.next()).data == "[1]"

    run(main)


def test_other_methods_get_no_stream(Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            await asyncio.Event().wait()

        for method in ("POST", "OPTIONS", "DELETE"):
            await EventSource(Order.watch)({"type": "http", "method": method, "headers": []}, receive, send)
        assert [message["status"] for message in sent[::2]] == [405, 405, 405]
        assert sent[0]["headers"] == [(b"allow", b"GET, HEAD")]

    run(main)


def test_many_that_make_sources_at_once_share_one_history(Order: Any) -> None:
    for _ in range(200):
        signal = Order.watch.inserted.filter_by(org_id=1)
        feed = feeds_of(signal)[0]
        history_module._histories.pop(feed, None)
        before, start = len(feed.subscribers), threading.Barrier(4)

        def make(start: threading.Barrier = start, signal: Any = signal) -> None:
            start.wait()
            history_module.keep([signal], 16)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(feed.subscribers) == before + 1


def test_a_hub_whose_task_is_cancelled_goes_on(client: Client, Order: Any, run: Any) -> None:
    async def main(listener: Listener) -> None:
        async with browsing(EventSource(Order.watch.inserted)) as browser:
            insert(client, (1, 7, ""))
            await browser.next()
            (hub,) = hub_module._loop_hubs[asyncio.get_running_loop()].values()
            hub._put(UNWRITABLE)
            await asyncio.sleep(0)  # it begins
            hub._serving.cancel()
            assert (await browser.next()).event == "resync"
            got = Got("", "", "")
            for number in range(2, 9):  # what was pending may be another resync
                insert(client, (number, 7, ""))
                if (got := await browser.next()).event == "inserted":
                    break
            assert got.event == "inserted"

    run(main)
