"""Streams and consumer groups: what a stream drops must not count as delivered, so a group feeds none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from listener.conftest import drop_slots
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import insert

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched

Client = psycopg.Connection[Any]


@pytest.fixture
def group(cluster: Cluster, database: str) -> Iterator[str]:
    """The name of a consumer group, whose slot is dropped after the test."""
    yield f"group_{database}"
    drop_slots(cluster, database)


def declare(Base: Any, engine: Engine, delivery: Any) -> Any:
    class Item(Watched, Base):  # type: ignore[misc]
        __tablename__ = "items"
        __watch__ = (Watch("inserted", extra_columns=("amount",), delivery=delivery),)
        id: Mapped[int] = mapped_column(primary_key=True)
        amount: Mapped[int] = mapped_column(server_default="1")

    Base.metadata.create_all(engine)
    return Item


@pytest.mark.parametrize("by_filter", [False, True])
def test_a_stream_of_what_only_groups_hear_is_refused_at_once(
    engine: Engine, Base: type[DeclarativeBase], by_filter: bool
) -> None:
    signal = declare(Base, engine, "durable").watch.inserted

    async def main() -> None:
        with pytest.raises(ConfigurationError, match=r"Item\.inserted.*connect a receiver or use batches\(\)"):
            (signal.filter_by(amount=1) if by_filter else signal).stream()

    asyncio.run(main())
    assert not signal.receivers


@needs_logical_messages
def test_a_stream_has_what_a_listener_without_a_group_hears_and_each_event_once(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str, recorder: Recorder
) -> None:
    Item = declare(Base, engine, "both")
    Item.watch.inserted.connect(recorder)

    async def main() -> list[Any]:
        async with Listener(engine, Item, durable=group) as consumer, Item.watch.inserted.stream() as stream:
            async with Listener(engine, Item) as listener:
                await asyncio.to_thread(insert, client, "items", 1, 2)
                await consumer.catch_up_async()
                await listener.catch_up_async()
            # It ends with the listener that feeds it, though the group's goes on.
            return [(event.identity[0], event.lsn) async for event in stream]

    assert asyncio.run(main()) == [(1, None), (2, None)]
    assert len(recorder.events) == 4


@needs_logical_messages
def test_a_stream_that_only_a_group_could_feed_says_so_once(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str, caplog: pytest.LogCaptureFixture
) -> None:
    Item = declare(Base, engine, "both")

    async def main() -> int:
        async with Listener(engine, Item, durable=group) as consumer, Item.watch.inserted.stream() as stream:
            await asyncio.to_thread(insert, client, "items", 1, 2)
            await consumer.catch_up_async()
            await asyncio.to_thread(insert, client, "items", 3)
            await consumer.catch_up_async()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.05)
            return stream.dropped

    assert asyncio.run(main()) == 0
    assert caplog.text.count("a stream of Item.inserted hears nothing") == 1


@needs_logical_messages
def test_a_gap_of_a_group_is_none_of_a_stream(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str
) -> None:
    Item = declare(Base, engine, "both")
    prefix = "sqlalchemy_watch/" + Item.watch.inserted.details.channel

    async def main() -> list[Any]:
        async with Listener(engine, Item) as listener, Item.watch.inserted.stream() as stream:
            async with Listener(engine, Item, durable=group) as consumer:
                emit = "SELECT pg_logical_emit_message(true, %s, '{\"v\": 99}')"
                await asyncio.to_thread(client.execute, emit, [prefix])
                await consumer.catch_up_async()
                assert consumer.stats().resyncs == 1
            await asyncio.to_thread(insert, client, "items", 1)
            await listener.catch_up_async()
            return [(await anext(stream)).identity[0]]

    assert asyncio.run(main()) == [1]
