"""Results of an asynchronous iterator as server-sent events."""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from live.conftest import declare_shop
from models import declare_base
from postgres import Cluster
from sqlalchemy import Column, Engine, Table, func, insert, select
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects.postgresql import CIDR, INET
from sqlalchemy.engine import result_tuple
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from sqlalchemy_watch import ConfigurationError, Listener, Watch, watch
from sqlalchemy_watch.live import live
from sqlalchemy_watch.testing import make_event
from sqlalchemy_watch.web import ResultSource
from sqlalchemy_watch.web.ending import end_streams
from sqlalchemy_watch.web.frames import HEARTBEAT

from .conftest import parse


class Numbers(AsyncIterator[Any]):
    """Yields what is put into it, and knows whether it was closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.is_closed = False

    async def __anext__(self) -> Any:
        item = await self.queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    async def aclose(self) -> None:
        self.is_closed = True


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(20):
            return await main()

    return asyncio.run(within())


def test_each_result_comes_as_a_whole_and_silence_is_filled() -> None:
    async def main() -> None:
        numbers = Numbers()
        for item in (1, "a text\nof two lines", None, StopAsyncIteration()):
            numbers.queue.put_nowait(item)
        frames = [frame async for frame in ResultSource(numbers, retry=5).frames()]
        assert frames == [
            b"retry: 5\n\n",
            b"event: result\ndata: 1\n\n",
            b"event: result\ndata: a text\ndata: of two lines\n\n",
            b"event: result\ndata: null\n\n",
        ]
        assert numbers.is_closed

        again = ResultSource(numbers)
        await anext(again.frames())
        with pytest.raises(ConfigurationError, match="make one for each request"):
            await anext(again.frames())

        silent = ResultSource(Numbers(), heartbeat=0.01, event="totals").frames()
        assert [await anext(silent) for _ in range(3)] == [b"retry: 2000\n\n", HEARTBEAT, HEARTBEAT]
        await silent.aclose()

    run(main)


def test_it_ends_with_the_server_and_after_max_age() -> None:
    async def main() -> None:
        for options in ({}, {"max_age": 0.02}):
            numbers = Numbers()
            frames = ResultSource(numbers, **options).frames()  # type: ignore[arg-type]
            assert await anext(frames) == b"retry: 2000\n\n"
            if not options:
                asyncio.get_running_loop().call_later(0.01, end_streams, asyncio.get_running_loop())
            assert all(frame == HEARTBEAT for frame in [frame async for frame in frames])
            assert numbers.is_closed

    run(main)


def test_the_iterator_is_closed_where_the_browser_is_gone() -> None:
    async def main() -> None:
        numbers, gone, sent = Numbers(), asyncio.Event(), []

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if b"data: 1" in message.get("body", b""):
                gone.set()

        numbers.queue.put_nowait(1)
        await ResultSource(numbers)({"type": "http", "method": "GET", "headers": []}, receive, send)
        assert sent[0]["status"] == 200
        assert numbers.is_closed

    run(main)


def test_what_the_iterator_raises_is_the_server_s_to_tell() -> None:
    async def main() -> None:
        numbers = Numbers()
        numbers.queue.put_nowait(ZeroDivisionError())
        frames = ResultSource(numbers).frames()
        await anext(frames)
        with pytest.raises(ZeroDivisionError):
            await anext(frames)
        assert numbers.is_closed

        numbers = Numbers()
        numbers.queue.put_nowait(object())
        frames = ResultSource(numbers).frames()
        await anext(frames)
        with pytest.raises(TypeError, match=r"^object has no form in JSON: .*web.sse\(..., serialize=...\)"):
            await anext(frames)

    run(main)


class Colour(enum.StrEnum):
    RED = "#f00"


#: Values of every kind that a column may have, as rows give them.
VALUES: dict[str, tuple[Any, Any]] = {
    "day": (sqltypes.Date, date(2030, 1, 2)),
    "clock": (sqltypes.Time, time(3, 4, 5)),
    "at": (sqltypes.DateTime(timezone=True), datetime(2030, 1, 2, 3, 4, 5, 6, UTC)),
    "span": (sqltypes.Interval, timedelta(days=1, seconds=1.5)),
    "price": (sqltypes.Numeric, Decimal("1.50")),
    "wind": (sqltypes.Double, float("inf")),
    "key": (sqltypes.Uuid, uuid.UUID(int=7)),
    "raw": (sqltypes.LargeBinary, b"\x00\xff"),
    "colour": (sqltypes.Enum(Colour), Colour.RED),
    "places": (sqltypes.ARRAY(sqltypes.Uuid), [uuid.UUID(int=8)]),
    "address": (INET, ipaddress.ip_address("10.0.0.1")),
    "network": (CIDR, ipaddress.ip_network("10.0.0.0/8")),
    "settings": (sqltypes.JSON, {"a": [1, None, True, 0.5, "b"]}),
    "nothing": (sqltypes.Integer, None),
}


async def texts_of(*results: Any) -> list[str]:
    numbers = Numbers()
    for item in (*results, StopAsyncIteration()):
        numbers.queue.put_nowait(item)
    frames = [frame.decode() async for frame in ResultSource(numbers).frames()]
    return [frame.partition("data: ")[2].strip() for frame in frames[1:]]


def test_values_are_written_as_events_have_them(engine: Engine, Base: type[DeclarativeBase]) -> None:
    columns = [Column(name, type_) for name, (type_, _) in VALUES.items()]
    table = Table("things", Base.metadata, Column("id", sqltypes.Integer, primary_key=True), *columns)
    signals = watch(table, Watch("inserted", extra_columns=tuple(VALUES)))
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        values = {name: value for name, (_, value) in VALUES.items()}
        connection.execute(insert(table).values(id=1, **values))
        rows = connection.execute(select(table)).all()
    told = make_event(signals.inserted, id=1, **values).to_dict()["values"]
    (text,) = run(lambda: texts_of(rows))
    assert json.loads(text) == [told]
    assert list(json.loads(text)[0]) == ["id", *VALUES]


def test_a_column_without_a_form_in_json_is_named() -> None:
    row = result_tuple(["one", "other"])((1, [object()]))
    with pytest.raises(TypeError, match="^column 'other': object has no form in JSON"):
        run(lambda: texts_of([row]))


def test_rows_of_a_live_query_are_objects(cluster: Cluster, database: str, engine: Engine, client: Any) -> None:
    starlette = pytest.importorskip("sqlalchemy_watch.web.starlette")
    requests = pytest.importorskip("starlette.requests")
    shop = declare_shop(declare_base())
    shop.Base.metadata.create_all(engine)

    async def main() -> None:
        async_engine = create_async_engine(cluster.url(database, "psycopg"))
        query = select(func.count(shop.Customer.id).label("customers"))
        bodies: asyncio.Queue[bytes] = asyncio.Queue()
        scope = {"type": "http", "method": "GET", "headers": [], "path": "/", "query_string": b""}

        async def receive() -> dict[str, Any]:
            return await asyncio.Future()

        async def send(message: dict[str, Any]) -> None:
            bodies.put_nowait(message.get("body", b""))

        async def next_result() -> Any:
            while b"data: " not in (body := await bodies.get()):
                pass
            return parse(body.decode())[0].json

        with Listener(engine, shop.Base):
            response = starlette.sse(requests.Request(scope), live(async_sessionmaker(async_engine), query))
            serving = asyncio.ensure_future(response(scope, receive, send))
            assert await next_result() == [{"customers": 0}]
            client.execute("INSERT INTO customers VALUES (1, 'Ada')")
            assert await next_result() == [{"customers": 1}]
        await serving  # it has ended with the listener
        await async_engine.dispose()

    run(main)


def test_options_out_of_range_are_refused() -> None:
    async def serialize(result: Any) -> str:
        return ""

    for options, words in (
        ({"heartbeat": 0}, "heartbeat must be seconds"),
        ({"max_age": -1}, "max_age must be seconds"),
        ({"event": "snapshot"}, "the browser would take events for something else"),
        ({"serialize": serialize}, "serialize must be a function of a result, and no coroutine"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            ResultSource(Numbers(), **options)  # type: ignore[arg-type]
