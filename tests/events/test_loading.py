"""`event.load()`: what the database holds now, whatever the session remembers."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster
from sqlalchemy import Column, Engine, ForeignKey, Integer, Table, create_engine, inspect
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    raiseload,
    relationship,
    scoped_session,
    selectinload,
    sessionmaker,
)

from sqlalchemy_watch import ConfigurationError, Event, Listener, Watch, Watched, watch

Client = psycopg.Connection[Any]


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Line(Base):
        __tablename__ = "lines"
        id: Mapped[int] = mapped_column(primary_key=True)
        order_id: Mapped[int] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"))
        amount: Mapped[int]

    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str] = mapped_column(server_default="new")
        kind: Mapped[str] = mapped_column(server_default="order")
        lines: Mapped[list[Any]] = relationship(Line, passive_deletes=True)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "order"}

    class Gift(Order):
        __tablename__ = "gifts"
        __watch__ = (Watch("updated", extra_columns=("status", "wrapping"), old=True), "deleted")
        id: Mapped[int] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
        wrapping: Mapped[str]
        __mapper_args__ = {"polymorphic_identity": "gift"}

    Base.metadata.create_all(engine)
    return Order


@pytest.fixture
def events(Order: Any, engine: Engine, client: Client, recorder: Recorder) -> list[Event[Any]]:
    """Of an order with a line, and of a gift."""
    Order.watch.inserted.connect(recorder)
    with Listener(engine, Order) as listener:
        client.execute("INSERT INTO orders VALUES (1)")
        client.execute("INSERT INTO lines VALUES (1, 1, 5)")
        client.execute(
            "BEGIN; INSERT INTO orders VALUES (2, 'new', 'gift'); INSERT INTO gifts VALUES (2, 'red'); COMMIT"
        )
        listener.catch_up()
    return recorder.events


def held(session: Session, event: Event[Any]) -> Any:
    """The instance of an event in the session, whose transaction goes on."""
    found = session.get(event.model, event.identity)
    assert found is not None
    assert found.status == "new"
    return found


@pytest.mark.parametrize("number", [0, 1])
def test_an_instance_that_the_session_holds_is_what_the_database_holds(
    engine: Engine, client: Client, events: list[Event[Any]], number: int
) -> None:
    event = events[number]
    with Session(engine) as session:
        order = held(session, event)
        client.execute("UPDATE orders SET status = 'paid'; UPDATE gifts SET wrapping = 'blue'")
        assert order.status == "new"
        assert event.load(session) is order
        assert order.status == "paid"
        assert getattr(order, "wrapping", "blue") == "blue"
        session.expire(order)
        client.execute("UPDATE orders SET status = 'sent'")
        loaded = event.load(session)
        assert loaded is order
        assert "status" not in inspect(order).unloaded
        assert order.status == "sent"
        client.execute("DELETE FROM orders")
        assert event.load(session) is None
        assert event.load(session) is None


@pytest.mark.parametrize("number", [0, 1])
def test_a_row_that_the_session_does_not_hold_is_loaded_or_none(
    engine: Engine, client: Client, events: list[Event[Any]], number: int
) -> None:
    with Session(engine) as session:
        loaded = events[number].load(session)
        assert type(loaded) is events[number].model
        assert loaded.status == "new"
    client.execute("DELETE FROM orders")
    with Session(engine) as session:
        assert events[number].load(session) is None


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("autoflush", [True, False])
def test_pending_changes_are_kept_and_not_flushed(
    engine: Engine, client: Client, events: list[Event[Any]], number: int, autoflush: bool
) -> None:
    event = events[number]
    with Session(engine, autoflush=autoflush) as session:
        order = held(session, event)
        order.status = "mine"
        client.execute("UPDATE orders SET status = 'paid'")
        assert event.load(session) is order
        assert order.status == "mine"
        assert order in session.dirty
        client.execute("DELETE FROM orders")  # a flush would fail, and wait for ever with a lock
        assert event.load(session) is None
        assert order.status == "mine"
        session.rollback()


def test_an_instance_that_is_to_be_deleted_is_there_until_that_is_flushed(
    engine: Engine, client: Client, events: list[Event[Any]]
) -> None:
    event = events[0]
    client.execute("DELETE FROM lines")
    with Session(engine) as session:
        order = held(session, event)
        session.delete(order)
        assert event.load(session) is order
        assert order in session.deleted
        session.flush()
        assert event.load(session) is None
        session.rollback()
        assert event.load(session) is order


def test_an_unflushed_new_instance_of_another_row_is_left_alone(
    engine: Engine, Order: Any, events: list[Event[Any]]
) -> None:
    with Session(engine) as session, session.no_autoflush:
        session.add(Order(id=1))  # one that can't be flushed
        assert events[0].load(session).status == "new"
        session.rollback()


def test_options_are_those_of_get(engine: Engine, client: Client, Order: Any, events: list[Event[Any]]) -> None:
    event = events[0]
    with Session(engine) as session:
        order = held(session, event)
        assert [line.amount for line in order.lines] == [5]
        client.execute("INSERT INTO lines VALUES (2, 1, 6); UPDATE lines SET amount = 7 WHERE id = 1")
        for option in (selectinload(Order.lines), joinedload(Order.lines)):
            loaded = event.load(session, options=[option])
            assert sorted(line.amount for line in loaded.lines) == [6, 7]
        session.expunge_all()
        loaded = event.load(session, options=[raiseload("*")])
        with pytest.raises(Exception, match="raise"):
            loaded.lines
        session.rollback()
        for is_changed in (False, True):
            order = held(session, event)
            if is_changed:
                order.status = "mine"
            assert event.load(session, with_for_update={"nowait": True}) is order
            with pytest.raises(psycopg.errors.LockNotAvailable):
                client.execute("SELECT 1 FROM orders WHERE id = 1 FOR UPDATE NOWAIT")
            session.rollback()


def test_populate_existing_may_be_chosen(engine: Engine, client: Client, events: list[Event[Any]]) -> None:
    with Session(engine) as session:
        order = held(session, events[0])
        client.execute("UPDATE orders SET status = 'paid'")
        assert events[0].load(session, populate_existing=False) is order
        assert order.status == "new"


def test_in_a_repeatable_read_it_is_the_snapshot(engine: Engine, client: Client, events: list[Event[Any]]) -> None:
    with Session(engine.execution_options(isolation_level="REPEATABLE READ")) as session:
        held(session, events[0])
        client.execute("UPDATE orders SET status = 'paid'")
        loaded: Any = events[0].load(session)
        assert loaded.status == "new"
        session.rollback()
        loaded = events[0].load(session)
        assert loaded.status == "paid"


def test_a_scoped_session_is_as_good(engine: Engine, client: Client, events: list[Event[Any]]) -> None:
    session = scoped_session(sessionmaker(engine))
    order = session.get(events[0].model, 1)
    client.execute("UPDATE orders SET status = 'paid'")
    assert events[0].load(session) is order
    assert order is not None
    assert order.status == "paid"
    order.status = "mine"
    assert events[0].load(session) is order
    client.execute("DELETE FROM orders")
    assert events[0].load(session) is None
    session.remove()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("scoped", [False, True])
def test_asynchronous_sessions_are_as_good(
    cluster: Cluster, database: str, client: Client, Order: Any, events: list[Event[Any]], driver: str, scoped: bool
) -> None:
    event = events[1]

    async def main() -> None:
        engine = create_async_engine(cluster.url(database, driver))
        make = async_sessionmaker(engine)
        async_session: Any = async_scoped_session(make, asyncio.current_task) if scoped else make()
        session: AsyncSession = async_session
        order: Any = await session.get(Order, 2)
        client.execute("UPDATE orders SET status = 'paid'; UPDATE gifts SET wrapping = 'blue'")
        assert await event.load(session, options=[selectinload(Order.lines)]) is order
        assert (order.status, order.wrapping, order.lines) == ("paid", "blue", [])
        order.status = "mine"
        assert await event.load(session) is order
        assert order.status == "mine"
        client.execute("DELETE FROM orders")
        assert await event.load(session) is None
        await session.rollback()
        await session.close()
        await engine.dispose()

    asyncio.run(main())


def test_composite_keys_and_tables(engine: Engine, client: Client, Base: type[DeclarativeBase]) -> None:
    class Place(Watched, Base):
        __tablename__ = "places"
        __watch__ = ("inserted", "truncated")
        x: Mapped[int] = mapped_column(primary_key=True)
        y: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(server_default="a")

    pins = Table("pins", Base.metadata, Column("id", Integer, primary_key=True))
    recorder = Recorder()
    watch(pins, "inserted").connect(recorder)
    Place.watch.connect(recorder)
    Base.metadata.create_all(engine)
    with Listener(engine, Base) as listener:
        client.execute("INSERT INTO places VALUES (1, 2)")
        client.execute("TRUNCATE places")
        client.execute("INSERT INTO places VALUES (1, 2)")
        client.execute("INSERT INTO pins VALUES (1)")
        listener.catch_up()
    place, truncated, _, pin = recorder.events
    with Session(engine) as session:
        loaded = place.load(session)
        client.execute("UPDATE places SET name = 'b'")
        assert place.load(session) is loaded
        assert loaded.name == "b"
        loaded.name = "mine"
        assert place.load(session) is loaded
        with pytest.raises(ConfigurationError, match="a truncated event names no row to load"):
            truncated.load(session)
        with pytest.raises(ConfigurationError, match="table 'pins' has no mapped class to load"):
            pin.load(session)


def test_an_event_that_comes_back_from_json_loads_its_row(
    cluster: Cluster, database: str, Base: type[DeclarativeBase], events: list[Event[Any]]
) -> None:
    engine = create_engine(cluster.url(database, "psycopg2"))
    with Session(engine) as session:
        for event in events:
            again = Event.from_json(event.to_json(), Base)
            assert again.model is event.model
            assert again.load(session) is event.load(session) is not None
    engine.dispose()


def test_events_of_each_table_of_a_hierarchy_come_back_from_json_and_from_a_pickle(
    engine: Engine,
    client: Client,
    Base: type[DeclarativeBase],
    Order: Any,
    events: list[Event[Any]],
    recorder: Recorder,
) -> None:
    Gift = events[1].model
    for label in ("updated", "deleted"):
        Gift.watch[label].connect(recorder)
    with Listener(engine, Base) as listener:
        client.execute("UPDATE orders SET status = 'paid'; UPDATE gifts SET wrapping = 'blue'; DELETE FROM orders")
        listener.catch_up()
    of_root, of_gifts, deleted = (
        event for event in recorder.events if event.label != "inserted" and event.model is Gift
    )
    assert (of_root.old["status"], of_root.values["status"], of_root.changed) == ("new", "paid", {"status"})
    assert (of_gifts.old["wrapping"], of_gifts.values["wrapping"], of_gifts.changed) == ("red", "blue", {"wrapping"})
    for event in (*events, of_root, of_gifts, deleted):
        assert Event.from_json(event.to_json(), Order) == event == pickle.loads(pickle.dumps(event))
