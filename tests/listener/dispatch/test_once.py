"""`connect_once`: effects that happen exactly once, whatever dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from support import PATIENCE, created_database, insert, records_of, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, RetryPolicy, Watch, Watched
from sqlalchemy_watch.listener.dispatch import dead_letters, once
from sqlalchemy_watch.listener.wal import monitor
from sqlalchemy_watch.signals import once as signals_once

from ..conftest import MakeListener, drop_slots
from ..insides import gate_of

Client = psycopg.Connection[Any]


@pytest.fixture
def Sessions(engine: Engine) -> Any:
    bookings = "CREATE TABLE bookings (id serial PRIMARY KEY, order_id int, lsn bigint, position int)"
    with engine.begin() as connection:
        connection.execute(text(bookings))
    return sessionmaker(engine)


def book(sender: Any, event: Any, session: Session) -> None:
    values = {"id": event.identity[0], "lsn": event.lsn, "position": event.position}
    session.execute(text("INSERT INTO bookings (order_id, lsn, position) VALUES (:id, :lsn, :position)"), values)


async def book_async(sender: Any, event: Any, session: Any) -> None:
    await session.run_sync(lambda plain: book(sender, event, plain))


def bookings(client: Client) -> list[int]:
    return [order for (order,) in client.execute("SELECT order_id FROM bookings ORDER BY id")]


def keys(client: Client) -> int:
    row = client.execute("SELECT count(*) FROM sqlalchemy_watch.once WHERE position >= 0").fetchone()
    assert row is not None
    return int(row[0])


@needs_logical_messages
def test_an_event_that_comes_again_has_no_effect_again(
    client: Client, Order: Any, durable: MakeListener, Sessions: Any
) -> None:
    gone: SimpleQueue[int] = SimpleQueue()

    @Order.watch.inserted.connect_once(session_factory=Sessions)
    def book_order(sender: Any, event: Any, session: Session) -> None:
        book(sender, event, session)

    @Order.watch.inserted.connect
    def hold_up(sender: Any, event: Any) -> None:
        gone.put(event.identity[0])
        if failing:
            raise ValueError  # so that nothing is acknowledged

    failing = True
    with durable(retry=RetryPolicy(first_delay=60)):
        insert(client, "orders", 1)
        assert gone.get(timeout=PATIENCE) == 1
    assert bookings(client) == [1]
    failing = False
    with durable() as listener:
        insert(client, "orders", 2)
        listener.catch_up()
    assert gone.get(timeout=PATIENCE) == 1  # it did come again
    assert bookings(client) == [1, 2]
    assert keys(client) == 2


@needs_logical_messages
def test_an_effect_and_its_key_come_together_or_not_at_all(
    client: Client, Order: Any, durable: MakeListener, Sessions: Any
) -> None:
    attempts = [0]

    @Order.watch.inserted.connect_once(session_factory=Sessions)
    def book_order(sender: Any, event: Any, session: Session) -> None:
        book(sender, event, session)
        attempts[0] += 1
        if attempts[0] < 3:
            raise ValueError

    with durable(retry=RetryPolicy(first_delay=0.01)) as listener:
        failures: list[Any] = []
        listener.receiver_failed.connect(lambda sender, receiver, event, error: failures.append(receiver), weak=False)
        insert(client, "orders", 1)
        listener.catch_up()
        assert failures == [book_order, book_order]  # as it was connected
    assert (bookings(client), keys(client)) == ([1], 1)


@needs_logical_messages
def test_all_that_can_be_connected_to_has_events_once(
    client: Client, Order: Any, durable: MakeListener, Sessions: Any
) -> None:
    names = ["signal", "filter", "model", "listener"]
    listener = durable(workers=4)
    called: dict[str, list[Any]] = {name: [] for name in names}

    def receiver(name: str) -> Any:
        def book_order(sender: Any, event: Any, session: Session) -> None:
            called[name].append((event.operation, *event.identity))

        return book_order

    Order.watch.inserted.connect_once(receiver("signal"), Sessions, name="signal")
    Order.watch.deleted.filter_by(id=1).connect_once(receiver("filter"), Sessions, name="filter")
    Order.watch.connect_once(receiver("model"), Sessions, name="model")
    listener.events.connect_once(receiver("listener"), Sessions, name="listener")
    with listener:
        insert(client, "orders", 1)
        client.execute("DELETE FROM orders")
        client.execute("TRUNCATE orders")
        listener.catch_up()
    everything = [("inserted", 1), ("deleted", 1), ("truncated",)]
    assert called["signal"] == everything[:1]
    assert called["filter"] == everything[1:2]
    assert called["model"] == called["listener"] == everything
    assert keys(client) == 8


@needs_logical_messages
def test_coroutine_receivers_have_asynchronous_sessions(
    cluster: Cluster, database: str, client: Client, Order: Any, durable: MakeListener, Sessions: Any
) -> None:
    async def main() -> None:
        engine = create_async_engine(cluster.url(database, "psycopg"))
        Order.watch.inserted.connect_once(book_async, async_sessionmaker(engine))
        async with durable() as listener:
            await asyncio.to_thread(insert, client, "orders", 1)
            await listener.catch_up_async()
        await engine.dispose()

    asyncio.run(main())
    assert (bookings(client), keys(client)) == ([1], 1)


@needs_logical_messages
def test_a_receiver_is_disconnected_as_it_was_connected(Order: Any, Sessions: Any) -> None:
    for signal in (Order.watch.inserted, Order.watch, Order.watch.updated.filter_by(id=7)):
        signal.connect_once(book, Sessions)
        assert signal._feeds[0].has_receivers
        signal.disconnect(book)
        assert not signal._feeds[0].has_receivers


def place_of(client: Client) -> list[Any]:
    """How far the slot is acknowledged."""
    query = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()"
    return client.execute(query).fetchall()


@needs_logical_messages
def test_a_process_that_comes_late_meets_the_key_or_the_floor(
    client: Client, Order: Any, durable: MakeListener, Sessions: Any
) -> None:
    seen: SimpleQueue[Any] = SimpleQueue()
    Order.watch.inserted.connect_once(book, Sessions)
    Order.watch.inserted.connect(lambda sender, event: seen.put(event))
    with durable() as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        event = seen.get(timeout=PATIENCE)
        consumer = gate_of(listener).ledger.consumer
        assert consumer is not None
        (receiver,) = Order.watch.inserted._feed.once
        places: set[Any] = set()
        for round_ in range(4):
            receiver(Order, event)  # as of a process that was suspended before it called this
            assert bookings(client) == [1]
            assert keys(client) == (1 if round_ < 2 else 0)
            places.update(place_of(client))
            once.clean(client, consumer)
            places.update(place_of(client))
        floors = client.execute("SELECT lsn FROM sqlalchemy_watch.once WHERE position < 0").fetchall()
        assert 1 <= len(floors) <= len(places)  # one is enough for each place at which the slot has been
        insert(client, "orders", 2)
        listener.catch_up()
        assert bookings(client) == [1, 2]


@needs_logical_messages
@pytest.mark.parametrize("own_limit", ["200ms", "0"])
def test_a_transaction_that_stands_still_with_the_key_is_told_of(
    cluster: Cluster, database: str, client: Client, Order: Any, durable: MakeListener, Sessions: Any, own_limit: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if own_limit == "0":
        monkeypatch.setattr(signals_once, "CLAIM_SECONDS", 0.2)
    engine = create_engine(cluster.url(database, "psycopg"), connect_args={"options": f"-c lock_timeout={own_limit}"})
    failed: SimpleQueue[str] = SimpleQueue()
    keys_tried: list[Any] = []
    limits: list[str] = []

    def take(sender: Any, event: Any, session: Session) -> None:
        limits.append(session.scalar(text("SHOW lock_timeout")))
        if not keys_tried:
            keys_tried.append(session.execute(text("SELECT * FROM sqlalchemy_watch.once WHERE position >= 0")).one())
            raise RuntimeError("rolled back with its key")
        book(sender, event, session)

    Order.watch.inserted.connect_once(take, sessionmaker(engine))
    with psycopg.connect(cluster.url(database)) as suspended, durable() as listener:

        def has_failed(listener: Listener, receiver: Any, event: Any, error: BaseException) -> None:
            if isinstance(error, RuntimeError):  # before it is tried again
                suspended.execute("INSERT INTO sqlalchemy_watch.once VALUES (%s, %s, %s, %s, %s)", keys_tried[0])
            else:
                failed.put(str(error))

        listener.receiver_failed.connect(has_failed)
        insert(client, "orders", 1)
        said = failed.get(timeout=PATIENCE)
        assert bookings(client) == []
        suspended.rollback()
        listener.catch_up()
    engine.dispose()
    assert "another transaction holds the key of this event" in said
    assert "idle_in_transaction_session_timeout" in said
    assert bookings(client) == [1]
    assert limits == [own_limit, own_limit]


@needs_logical_messages
def test_floors_of_another_server_hold_nothing_up(
    client: Client, Order: Any, durable: MakeListener, Sessions: Any, group: str
) -> None:
    once.ONCE.ensure(client)
    client.execute("INSERT INTO sqlalchemy_watch.once VALUES (%s, %s, -1, '', '4711')", [group, 2**62])
    Order.watch.inserted.connect_once(book, Sessions)
    with durable() as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    assert bookings(client) == [1]


@needs_logical_messages
def test_a_parked_event_has_its_effect_though_it_was_acknowledged_long_since(
    client: Client, Order: Any, durable: MakeListener, Sessions: Any
) -> None:
    fails = True

    @Order.watch.inserted.connect_once(session_factory=Sessions)
    def book_order(sender: Any, event: Any, session: Session) -> None:
        if fails and event.identity == (1,):
            raise ValueError
        book(sender, event, session)

    policy = RetryPolicy(in_order="key", attempts=1, first_delay=0.01, max_delay=0.01)
    with durable(retry=policy, heartbeat_interval=0.1) as listener:
        insert(client, "orders", 1)
        insert(client, "orders", 2)
        listener.catch_up()
        consumer = gate_of(listener).ledger.consumer
        assert consumer is not None
        for _ in range(3):
            once.clean(client, consumer)
        (letter,) = dead_letters.list_letters(client)
        fails = False
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
        assert bookings(client) == [2, 1]
        # The process died between the effect and the removal of the letter.
        parts = (letter.consumer_group, letter.channel, letter.payload, letter.lsn, letter.position, letter.receiver)
        dead_letters.park(client, (*parts, letter.key, letter.error, letter.attempts), 0.0)
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
        assert bookings(client) == [2, 1]


@needs_logical_messages
def test_events_that_come_by_notify_are_left_to_the_group(
    client: Client, engine: Engine, Base: type[DeclarativeBase], durable: MakeListener, Sessions: Any
) -> None:
    class Parcel(Watched, Base):  # type: ignore[misc]
        __tablename__ = "parcels"
        __watch__ = (Watch("inserted", delivery="both"),)
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    Parcel.watch.inserted.connect_once(book, Sessions)
    with durable() as listener, Listener(engine, Base) as notified:
        insert(client, "parcels", 1)
        listener.catch_up()
        notified.catch_up()
        assert notified.stats().failed_receivers == 0
    assert bookings(client) == [1]


@needs_logical_messages
def test_rows_of_a_hierarchy_are_told_to_each_of_their_signals(
    client: Client, Person: Any, Employee: Any, durable: MakeListener, Sessions: Any
) -> None:
    Person.watch.inserted.connect_once(book, Sessions)
    Employee.watch.inserted.connect_once(book, Sessions)
    with durable() as listener:
        client.execute("INSERT INTO people VALUES (1, 'person'), (2, 'employee')")
        listener.catch_up()
    assert bookings(client) == [1, 2, 2]


@needs_logical_messages
def test_a_receiver_connected_after_the_start_has_its_table_soon(
    client: Client, Order: Any, durable: MakeListener, Sessions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "CLEAN_SECONDS", 0.05)
    with durable(retry=RetryPolicy(first_delay=0.01, max_delay=0.05), heartbeat_interval=0.1) as listener:
        Order.watch.inserted.connect_once(book, Sessions)
        insert(client, "orders", 1)
        listener.catch_up()
    assert bookings(client) == [1]


@pytest.fixture
def elsewhere(cluster: Cluster) -> Iterator[Engine]:
    with created_database(cluster, "elsewhere") as name:
        engine = create_engine(cluster.url(name, "psycopg"))
        yield engine
        engine.dispose()
        drop_slots(cluster, name)


@needs_logical_messages
def test_sessions_of_another_database_are_refused_at_the_start(
    Order: Any, durable: MakeListener, elsewhere: Engine
) -> None:
    Order.watch.inserted.connect_once(book, sessionmaker(elsewhere))
    with pytest.raises(ConfigurationError, match="are of database 'elsewhere.*' of the same server, and the events"):
        durable().start()


@needs_logical_messages
def test_sessions_of_another_server_are_refused_at_the_start(Order: Any, durable: MakeListener, database: str) -> None:
    other = Cluster()
    try:
        other.start()
        with other.connect() as connection:
            connection.execute(f"CREATE DATABASE {database}")
        engine = create_engine(other.url(database, "psycopg"))
        Order.watch.inserted.connect_once(book, sessionmaker(engine))
        with pytest.raises(ConfigurationError, match="of another server"):
            durable().start()
        engine.dispose()
    finally:
        other.stop()
        other.remove()


@needs_logical_messages
def test_asynchronous_sessions_of_another_database_are_refused_at_the_start(
    Order: Any, durable: MakeListener, elsewhere: Engine
) -> None:
    Order.watch.inserted.connect_once(book_async, async_sessionmaker(create_async_engine(elsewhere.url)))
    with pytest.raises(ConfigurationError, match="are of database"):
        durable().start()


@needs_logical_messages
def test_sessions_that_become_those_of_another_database_are_refused_with_the_first_event(
    client: Client, Order: Any, durable: MakeListener, Sessions: Any, elsewhere: Engine
) -> None:
    Order.watch.inserted.connect_once(book, sessionmaker(elsewhere))
    failed: SimpleQueue[BaseException] = SimpleQueue()
    with records_of("sqlalchemy_watch.listener.dispatch.once"):
        listener = durable(retry=RetryPolicy(first_delay=60))
        listener.receiver_failed.connect(lambda sender, receiver, event, error: failed.put(error), weak=False)
        Order.watch.inserted.disconnect(book)
        with listener:
            Order.watch.inserted.connect_once(book, sessionmaker(elsewhere))
            insert(client, "orders", 1)
            error = failed.get(timeout=PATIENCE)
    assert isinstance(error, ConfigurationError)
    assert "are of database" in str(error)


@needs_logical_messages
def test_a_session_that_can_not_be_asked_at_the_start_is_asked_with_the_first_event(
    client: Client, Order: Any, durable: MakeListener, Sessions: Any
) -> None:
    works = threading.Event()

    def make_session() -> Session:
        if not works.is_set():
            works.set()
            raise ConnectionError("not yet")
        return Sessions()  # type: ignore[no-any-return]

    Order.watch.inserted.connect_once(book, make_session)
    with records_of("sqlalchemy_watch.listener.dispatch.once") as records, durable() as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        assert "can't see where the sessions" in records.get(timeout=PATIENCE).getMessage()
    assert bookings(client) == [1]


@needs_logical_messages
def test_sessions_in_autocommit_are_refused(
    client: Client, engine: Engine, Order: Any, durable: MakeListener, Sessions: Any
) -> None:
    Order.watch.inserted.connect_once(book, sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT")))
    failed: SimpleQueue[BaseException] = SimpleQueue()
    listener = durable(retry=RetryPolicy(first_delay=60))
    listener.receiver_failed.connect(lambda sender, receiver, event, error: failed.put(error), weak=False)
    with listener:
        insert(client, "orders", 1)
        assert "AUTOCOMMIT" in str(failed.get(timeout=PATIENCE))
    assert bookings(client) == []


def test_bad_input_is_refused_at_once(engine: Engine, User: Any, Order: Any, Base: Any) -> None:
    sessions = sessionmaker(engine)
    with pytest.raises(ConfigurationError, match="declare delivery='durable' in its Watch"):
        User.watch.inserted.connect_once(book, sessions)
    with pytest.raises(ConfigurationError, match="connect_once: User.inserted.* has no events of a consumer group"):
        User.watch.connect_once(book, sessions)
    with pytest.raises(ConfigurationError, match="start the listener with durable='a_group'"):
        Listener(engine, Base).events.connect_once(book, sessions)
    with pytest.raises(ConfigurationError, match=r"can't be called as receiver\(sender, event, session\)"):
        Order.watch.inserted.connect_once(lambda sender, event: None, sessions)
    with pytest.raises(ConfigurationError, match="session_factory must be a sessionmaker"):
        Order.watch.inserted.connect_once(book, engine)
    with pytest.raises(ConfigurationError, match="session_factory must be a sessionmaker"):
        Order.watch.inserted.connect_once(book)
    with pytest.raises(ConfigurationError, match="give it an async_sessionmaker"):
        Order.watch.inserted.connect_once(book_async, sessions)
    with pytest.raises(ConfigurationError, match="give it a sessionmaker, or write async def"):
        Order.watch.inserted.connect_once(book, async_sessionmaker())
    Order.watch.inserted.connect_once(book, sessions, name="book")
    with pytest.raises(ConfigurationError, match="would both be named 'book'"):
        Order.watch.inserted.connect_once(lambda sender, event, session: None, sessions, name="book")
    assert not hasattr(Order.watch.inserted.batches(), "connect_once")


def test_keywords_alone_are_a_way_to_take_it(engine: Engine, Order: Any) -> None:
    def take(sender: Any, *, event: Any, session: Any) -> None: ...

    assert Order.watch.inserted.connect_once(take, sessionmaker(engine)) is take
