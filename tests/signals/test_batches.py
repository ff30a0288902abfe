"""`batches()`: receivers that get many rows at once."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import insert

from sqlalchemy_watch import BatchFailed, ConfigurationError, Listener, RetryPolicy, Watch, Watched
from sqlalchemy_watch.signals.watch_signals import feed_of


class Batches:
    """A receiver of batches that keeps them."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.arrived = threading.Event()

    def __call__(self, sender: Any, events: list[Any]) -> None:
        self.batches.append(events)
        self.arrived.set()

    def identities(self) -> list[Any]:
        return [event.identity[0] for batch in self.batches for event in batch]


@pytest.fixture
def batches() -> Batches:
    return Batches()


@pytest.fixture
def User(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = (
            Watch("inserted", delivery="both"),
            Watch("updated", extra_columns=("name",), delivery="both"),
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(server_default="")

    Base.metadata.create_all(engine)
    return User


def test_events_come_in_batches_of_at_most_max_size_in_order(
    engine: Engine, client: psycopg.Connection[Any], User: Any, batches: Batches
) -> None:
    User.watch.inserted.batches(max_size=100, max_wait=60).connect(batches)
    with Listener(engine, User) as listener:
        insert(client, "users", range(1, 251))
        listener.catch_up()
    assert [len(batch) for batch in batches.batches] == [100, 100, 50]
    assert batches.identities() == list(range(1, 251))


def test_a_batch_that_is_not_full_comes_after_max_wait(
    engine: Engine, client: psycopg.Connection[Any], User: Any, batches: Batches
) -> None:
    User.watch.inserted.batches(max_size=100, max_wait=0.02).connect(batches)
    with Listener(engine, User):
        insert(client, "users", range(1, 4))
        assert batches.arrived.wait(10)
    assert batches.identities() == [1, 2, 3]


def test_the_last_batch_is_delivered_on_stop(
    engine: Engine, client: psycopg.Connection[Any], User: Any, batches: Batches
) -> None:
    seen = threading.Event()

    def notice(sender: Any, event: Any) -> None:
        if event.identity == (3,):
            seen.set()

    # Connected after the batch, and so called when the batch has the event.
    User.watch.inserted.batches(max_size=100, max_wait=60).connect(batches)
    User.watch.inserted.connect(notice)
    listener = Listener(engine, User)
    listener.start()
    insert(client, "users", range(1, 5))
    insert(client, "users", 5)
    assert seen.wait(10)
    listener.stop()
    assert batches.identities()[:2] == [1, 2]


def test_latest_only_keeps_one_event_per_identity(
    engine: Engine, client: psycopg.Connection[Any], User: Any, batches: Batches
) -> None:
    User.watch.updated.batches(max_size=100, max_wait=60, latest_only=True).connect(batches)
    insert(client, "users", range(1, 4))
    with Listener(engine, User) as listener:
        for name in ("a", "b", "c"):
            client.execute("UPDATE users SET name = %s WHERE id <= 2", [name])
        listener.catch_up()
    assert [(event.identity, event.values["name"]) for batch in batches.batches for event in batch] == [
        ((1,), "c"),
        ((2,), "c"),
    ]


def test_coroutine_receivers_get_batches_on_their_loop(
    engine: Engine, client: psycopg.Connection[Any], User: Any
) -> None:
    got: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def index_users(sender: Any, events: list[Any]) -> None:
            assert asyncio.get_running_loop() is loop
            got.extend(event.identity for event in events)

        User.watch.inserted.batches(max_size=10).connect(index_users)
        async with Listener(engine, User) as listener:
            await asyncio.to_thread(insert, client, "users", range(1, 26))
            await listener.catch_up_async()

    asyncio.run(main())
    assert got == [(i,) for i in range(1, 26)]


def test_filtered_signals_have_batches(
    engine: Engine, client: psycopg.Connection[Any], User: Any, batches: Batches
) -> None:
    User.watch.updated.filter_by(name="Ada").batches(max_wait=60).connect(batches)
    insert(client, "users", range(1, 5))
    with Listener(engine, User) as listener:
        client.execute("UPDATE users SET name = CASE WHEN id % 2 = 0 THEN 'Ada' ELSE 'Bob' END")
        listener.catch_up()
    assert batches.identities() == [2, 4]


def test_a_batch_receiver_that_raises_is_reported_and_stops_nobody(
    engine: Engine, client: psycopg.Connection[Any], User: Any, batches: Batches
) -> None:
    failures: list[Any] = []

    def fail(sender: Any, events: list[Any]) -> None:
        raise ValueError("no")

    def note_failure(sender: Any, receiver: Any, event: Any, error: BaseException) -> None:
        failures.append((receiver, [each.identity for each in event], str(error)))

    User.watch.inserted.batches(max_wait=60).connect(fail)
    User.watch.inserted.batches(max_wait=60).connect(batches)
    with Listener(engine, User) as listener:
        listener.receiver_failed.connect(note_failure)
        insert(client, "users", range(1, 3))
        listener.catch_up()
    assert batches.identities() == [1, 2]
    assert failures == [(fail, [(1,), (2,)], "no")]


def test_disconnecting_the_same_batches_again_ends_them(
    engine: Engine, client: psycopg.Connection[Any], User: Any, batches: Batches
) -> None:
    User.watch.inserted.batches(max_size=5).connect(batches)
    User.watch.inserted.batches(max_size=5).disconnect(batches)
    with Listener(engine, User) as listener:
        insert(client, "users", range(1, 11))
        listener.catch_up()
    assert batches.batches == []
    assert feed_of(User.watch.inserted).subscribers_for(User) == ()


@needs_logical_messages
def test_durable_batches_are_acknowledged_when_they_are_delivered(
    engine: Engine, client: psycopg.Connection[Any], User: Any, batches: Batches
) -> None:
    User.watch.inserted.batches(max_size=4, max_wait=60).connect(batches)
    with Listener(engine, User, durable="batches") as listener:
        insert(client, "users", range(1, 7))
        insert(client, "users", range(7, 10))
        listener.catch_up()
        assert batches.identities() == list(range(1, 10))
    with Listener(engine, User, durable="batches") as listener:
        listener.catch_up()
    assert batches.identities() == list(range(1, 10))


@needs_logical_messages
def test_a_durable_batch_that_fails_goes_to_the_dead_letters_event_by_event(
    engine: Engine, client: psycopg.Connection[Any], User: Any
) -> None:
    def fail(sender: Any, events: list[Any]) -> None:
        raise ValueError("no")

    User.watch.inserted.batches(max_wait=60).connect(fail)
    policy = RetryPolicy(max_attempts=2, first_delay=0.01)
    with Listener(engine, User, durable="failing", retry=policy) as listener:
        insert(client, "users", range(1, 4))
        listener.catch_up()
        assert listener.stats().dead_letters == 3
    rows = client.execute("SELECT payload::json->'rows'->0->>0 FROM sqlalchemy_watch.dead_letters ORDER BY id")
    assert [row[0] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize("options", [{"max_size": 0}, {"max_size": 1.5}, {"max_wait": -1}, {"max_wait": "soon"}])
def test_wrong_batch_options_are_refused(User: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"User\.inserted\.batches.*must be"):
        User.watch.inserted.batches(**options)


def test_a_receiver_that_says_which_events_failed_is_reported_for_these_alone(
    engine: Engine, client: psycopg.Connection[Any], User: Any
) -> None:
    failed: list[list[int]] = []

    def take(sender: Any, events: list[Any]) -> None:
        raise BatchFailed(event for event in events if event.identity[0] % 2)

    User.watch.inserted.batches(max_size=4).connect(take)
    with Listener(engine, User) as listener:
        listener.receiver_failed.connect(
            lambda sender, receiver, event, error: failed.append([each.identity[0] for each in event])
        )
        insert(client, "users", range(4))
        listener.catch_up()
    assert failed == [[1, 3]]
