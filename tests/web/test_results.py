"""Results of an asynchronous iterator as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from live.conftest import declare_shop
from models import declare_base
from postgres import Cluster
from sqlalchemy import Engine, func, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from sqlalchemy_watch import ConfigurationError, Listener
from sqlalchemy_watch.live import live
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
        with pytest.raises(TypeError, match="a object is none of JSON's values: give serialize="):
            await anext(frames)

    run(main)


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
