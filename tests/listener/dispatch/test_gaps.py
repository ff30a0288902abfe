"""Gaps in their place: what `batches()` gathered before one is delivered before it is told of."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import end_listeners, insert, wait_until

from sqlalchemy_watch import Listener, Watch, Watched, wire
from sqlalchemy_watch.listener.dispatch import batches as batches_module
from sqlalchemy_watch.listener.dispatch.calls import make_all

from ..conftest import MakeListener
from ..insides import inbox_of

Client = psycopg.Connection[Any]
Journal = list[Any]


@pytest.fixture
def Item(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Item(Watched, Base):
        __tablename__ = "items"
        __watch__ = (
            Watch("inserted", delivery="both"),
            Watch("updated", extra_columns=("price",), delivery="both"),
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        price: Mapped[int] = mapped_column(server_default="0")

    Base.metadata.create_all(engine)
    return Item


def gather(Item: Any, journal: Journal) -> list[Any]:
    """Connect receivers of batches of every kind, which would wait for long; return them, to be kept."""

    def receiver(name: str) -> Any:
        return lambda sender, events: journal.append((name, [event.identity[0] for event in events]))

    signals = {
        "inserted": Item.watch.inserted.batches(max_wait=60),
        "updated": Item.watch.updated.batches(max_wait=60),
        "latest": Item.watch.updated.batches(max_wait=60, latest_only=True),
        "filtered": Item.watch.updated.filter_by(price=2).batches(max_wait=60),
    }
    receivers = [receiver(name) for name in signals]
    for signal, each in zip(signals.values(), receivers, strict=True):
        signal.connect(each)
    return receivers


GATHERED = [("inserted", [1]), ("updated", [1, 1]), ("latest", [1]), ("filtered", [1])]


def change(client: Client) -> None:
    insert(client, "items", 1)
    client.execute("UPDATE items SET price = 1")
    client.execute("UPDATE items SET price = 2")


def note_lifecycle(listener: Listener, journal: Journal) -> list[Any]:
    receivers = [
        lambda listener, error: journal.append("disconnected"),
        lambda listener: journal.append("connected"),
        lambda listener, reason: journal.append("resync"),
    ]
    listener.disconnected.connect(receivers[0])
    listener.connected.connect(receivers[1])
    listener.resync.connect(receivers[2])
    return receivers


def test_a_lost_connection_is_told_of_behind_what_was_gathered(engine: Engine, client: Client, Item: Any) -> None:
    journal: Journal = []
    receivers = gather(Item, journal)
    seen = Recorder()
    Item.watch.updated.connect(seen)
    listener = Listener(engine, Item)
    receivers += note_lifecycle(listener, journal)
    with listener:
        change(client)
        wait_until(client, lambda: len(seen.events) == 2)
        end_listeners(client)
        wait_until(client, lambda: "resync" in journal)
        insert(client, "items", 2)
        listener.catch_up()
    assert journal == ["connected", *GATHERED, "disconnected", "connected", "resync", ("inserted", [2])]


def test_a_payload_that_asks_to_resync_does_so_behind_what_was_gathered(
    engine: Engine, client: Client, Item: Any
) -> None:
    journal: Journal = []
    receivers = gather(Item, journal)
    listener = Listener(engine, Item)
    receivers += note_lifecycle(listener, journal)
    with listener:
        change(client)
        client.execute("SELECT pg_notify(%s, '{\"v\": 99}')", [Item.watch.inserted.details.channel])
        wait_until(client, lambda: "resync" in journal)
        assert journal == ["connected", *GATHERED, "resync"]


def test_an_overflow_is_told_of_behind_what_was_gathered(engine: Engine, client: Client, Item: Any) -> None:
    journal: Journal = []
    receivers = gather(Item, journal)

    def fill(sender: Any, event: Any) -> None:
        insert(client, "items", 2, 3, 4, 5)
        wait_until(client, lambda: inbox_of(listener).dropped)

    Item.watch.updated.filter_by(price=2).connect(fill)
    listener = Listener(engine, Item, max_queue=2)
    receivers += note_lifecycle(listener, journal)
    with listener:
        insert(client, "items", 1)
        listener.catch_up()
        client.execute("UPDATE items SET price = 2")
        wait_until(client, lambda: "resync" in journal)
    assert journal[:3] == ["connected", ("inserted", [1]), ("updated", [1])]
    gap = journal.index("resync")
    assert [name for name, _ in journal[1:gap]] == ["inserted", "updated", "latest", "filtered", "inserted"]


@pytest.mark.parametrize("latest_only", [False, True])
def test_coroutines_that_take_batches_are_waited_for_before_a_gap_is_told_of(
    engine: Engine, client: Client, Item: Any, latest_only: bool
) -> None:
    journal: Journal = []

    async def main() -> None:
        async def store(sender: Any, events: list[Any]) -> None:
            await asyncio.sleep(0.05)
            journal.append([event.values["price"] for event in events])

        async def reload(listener: Any, reason: str) -> None:
            journal.append("resync")

        Item.watch.updated.batches(max_wait=60, latest_only=latest_only).connect(store)
        seen = Recorder()
        Item.watch.updated.connect(seen)
        listener = Listener(engine, Item)
        listener.resync.connect(reload)
        async with listener:
            await asyncio.to_thread(change, client)
            await asyncio.to_thread(wait_until, client, lambda: len(seen.events) == 2)
            await asyncio.to_thread(end_listeners, client)
            await asyncio.to_thread(wait_until, client, lambda: "resync" in journal)

    asyncio.run(main())
    assert journal == [[2] if latest_only else [1, 2], "resync"]


@needs_logical_messages
def test_a_gap_in_a_groups_log_is_told_of_behind_what_was_gathered(
    client: Client, Item: Any, durable: MakeListener
) -> None:
    journal: Journal = []
    receivers = gather(Item, journal)
    listener = durable()
    receivers += note_lifecycle(listener, journal)
    prefix = wire.DURABLE_PREFIX + Item.watch.inserted.details.channel
    with listener:
        change(client)
        client.execute("SELECT pg_logical_emit_message(true, %s, '{\"v\": 99}')", [prefix])
        insert(client, "items", 2)
        listener.catch_up()
    assert journal == ["connected", *GATHERED, "resync", ("inserted", [2])]


@needs_logical_messages
def test_a_groups_lost_connection_is_told_of_at_once_and_what_was_gathered_comes_when_it_is_back(
    client: Client, Item: Any, durable: MakeListener
) -> None:
    journal: Journal = []
    receivers = gather(Item, journal)
    seen = Recorder()
    Item.watch.updated.connect(seen)
    listener = durable()
    receivers += note_lifecycle(listener, journal)
    with listener:
        change(client)
        wait_until(client, lambda: len(seen.events) == 2)
        end_listeners(client)
        wait_until(client, lambda: journal.count("connected") == 2)
        listener.catch_up()
    assert journal == ["connected", "disconnected", "connected", *GATHERED]


def test_a_failing_batch_leaves_the_others_to_be_delivered(
    engine: Engine, client: Client, Item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal: Journal = []
    receivers = gather(Item, journal)
    listener = Listener(engine, Item)
    receivers += note_lifecycle(listener, journal)
    failures: list[Any] = []

    def fail_once(waiting: Any, calls: Any) -> Any:
        failures.append(calls)
        if len(failures) == 1:
            raise MemoryError
        return make_all(waiting, calls)

    monkeypatch.setattr(batches_module, "make_all", fail_once)
    with listener:
        change(client)
        listener.catch_up()
        wait_until(client, lambda: "resync" in journal)
    assert journal == ["connected", *GATHERED[1:], "resync"]
