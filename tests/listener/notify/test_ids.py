"""The ids of events count every row of a channel in its transaction: the same in every process, whatever is dropped."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import PATIENCE, insert, resync_reasons, wait_until

from sqlalchemy_watch import Listener, Watch, Watched

Client = psycopg.Connection[Any]


@pytest.fixture
def Item(Base: type[DeclarativeBase], engine: Engine) -> Any:
    """A notification for each row."""

    class Item(Watched, Base):  # type: ignore[misc]
        __tablename__ = "items"
        __watch__ = (Watch("inserted", level="row"), Watch("updated", level="row"))
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(server_default="")

    Base.metadata.create_all(engine)
    return Item


def ids_of(events: list[Any]) -> dict[tuple[str, int], str]:
    return {(event.label, event.identity[0]): event.id for event in events}


def test_rows_are_counted_by_transaction_and_channel(engine: Engine, client: Client, Item: Any) -> None:
    events: list[Any] = []
    channels = [signal.details.channel for signal in (Item.watch.inserted, Item.watch.updated)]
    Item.watch.connect(lambda sender, event: events.append(event))
    with Listener(engine, Item) as listener:
        with client.transaction():
            insert(client, "items", range(2))
            client.execute("SELECT pg_notify(%s, 'garbage')", [channels[0]])
            client.execute("UPDATE items SET note = 'x'")
            insert(client, "items", 2)
        insert(client, "items", 3)
        listener.catch_up()
    found = [(event.id.split("-", 1)[1], event.identity[0]) for event in events]
    assert found == [
        (f"{channels[0]}-0", 0), (f"{channels[0]}-1", 1), (f"{channels[1]}-0", 0), (f"{channels[1]}-1", 1),
        (f"{channels[0]}-2", 2), (f"{channels[0]}-0", 3),
    ]  # fmt: skip
    assert len({event.id for event in events}) == 6
    assert all(event.id.startswith(f"{event.txid}-") for event in events)


def test_a_listener_that_drops_rows_has_the_same_ids_for_the_others(engine: Engine, client: Client, Item: Any) -> None:
    """What comes behind the gap, in the transaction in which it was, is counted on."""
    every: list[Any] = []
    some: list[Any] = []
    go_on, blocked = threading.Event(), threading.Event()

    def hear(sender: Any, event: Any) -> None:
        if event.listener is large:
            every.append(event)
            return
        some.append(event)
        blocked.set()
        go_on.wait(PATIENCE)

    Item.watch.inserted.connect(hear)
    with Listener(engine, Item) as large, Listener(engine, Item, max_queue=5) as small:
        reasons = resync_reasons(small)
        insert(client, "items", -1)
        assert blocked.wait(PATIENCE)
        with client.transaction():
            insert(client, "items", range(3000))
        wait_until(client, lambda: small.stats().notifications >= 100)
        go_on.set()
        wait_until(client, lambda: reasons)
        insert(client, "items", 10_000)
        small.catch_up()
        large.catch_up()
        assert small.stats().dropped > 0
    known = ids_of(every)
    assert len(set(known.values())) == len(known) == 3002
    assert ids_of(some).items() <= known.items()
    assert len(some) < 3002
