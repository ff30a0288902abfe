"""Events of transactions that are rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_watch import (
    ConfigurationError,
    ListenerError,
    Watch,
    Watched,
    context,
    install,
    muted,
)  # fmt: skip
from sqlalchemy_watch.testing import Capture, replacing

Client = psycopg.Connection[Any]

DRIVERS = ["psycopg", "psycopg2", "pg8000"]

FUNCTIONS = (
    "SELECT proname, prosrc, proowner, proacl, xmin::text FROM pg_proc WHERE proname LIKE 'watch_orders%' ORDER BY 1"
)


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Order(Watched, Base):  # type: ignore[misc]
        __tablename__ = "orders"
        __watch__ = (
            Watch("inserted", extra_columns=("note",)), Watch("updated", extra_columns=("note",), old=True), "deleted",
            "truncated", Watch("updated", label="paid", when=lambda old, new: new.note == "paid"),
        )  # fmt: skip
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(server_default="new")

    Base.metadata.create_all(engine)
    return Order


@pytest.fixture
def unchanged(client: Client) -> Iterator[None]:
    """After the test the functions are what they were, and nothing is left."""
    before = client.execute(FUNCTIONS).fetchall()
    yield
    assert client.execute(FUNCTIONS).fetchall() == before
    assert client.execute("SELECT count(*) FROM pg_class WHERE relname = 'watch_captured'").fetchone() == (0,)
    assert client.execute("SELECT count(*) FROM orders").fetchone() == (0,)


@pytest.fixture(params=DRIVERS)
def connection(
    request: pytest.FixtureRequest, cluster: Cluster, database: str, Order: Any, unchanged: None
) -> Iterator[Connection]:
    """The fixture of SQLAlchemy's documentation: a transaction that is rolled back."""
    engine = create_engine(cluster.url(database, request.param))
    connection = engine.connect()
    transaction = connection.begin()
    yield connection
    if transaction.is_active:
        transaction.rollback()
    connection.close()
    engine.dispose()


@pytest.fixture
def session(connection: Connection) -> Iterator[Session]:
    session = Session(connection, join_transaction_mode="create_savepoint")
    yield session
    session.close()


def told(events: list[Any]) -> list[Any]:
    return [(event.label, *event.identity) for event in events]


def test_receivers_run_though_nothing_is_ever_committed(connection: Connection, session: Session, Order: Any) -> None:
    capture = Capture(connection, Order)
    heard: list[Any] = []
    Order.watch.connect(lambda sender, event: heard.append(event))
    session.add(Order(id=1, note="a"))
    session.commit()
    assert heard == []
    events = capture.deliver()
    assert events == heard
    assert told(events) == [("inserted", 1)]
    assert dict(events[0].values) == {"id": 1, "note": "a"}
    assert events[0].schema == "public"
    session.execute(text("UPDATE orders SET note = 'paid'"))
    session.execute(text("DELETE FROM orders"))
    assert told(capture.deliver()) == [("paid", 1), ("updated", 1), ("deleted", 1)]  # by name
    assert capture.events[2].old == {"id": 1, "note": "a"}
    assert told(capture.events) == told(heard)
    assert len({event.txid for event in capture.events}) == 1


def test_bulk_muted_context_and_filters(connection: Connection, Order: Any) -> None:
    capture = Capture(connection, Order)
    third: list[Any] = []
    Order.watch.inserted.filter_by(note="n3").connect(lambda sender, event: third.append(event.identity[0]))
    batches: list[int] = []
    Order.watch.inserted.batches(max_size=400).connect(lambda sender, events: batches.append(len(events)))
    with context(connection, user=7):
        connection.execute(text("INSERT INTO orders SELECT n, 'n' || n FROM generate_series(1, 1000) AS n"))
    with muted(connection):
        connection.execute(text("INSERT INTO orders VALUES (2000)"))
    events = capture.deliver()
    assert [event.identity[0] for event in events] == list(range(1, 1001))
    assert events[0].context == {"user": 7}
    assert third == [3]
    assert batches == [400, 400, 200]
    assert capture.of(Order.watch.inserted.filter_by(note="n5")) == [events[4]]
    assert capture.of(Order.watch) == events
    assert capture.of(Order.watch.deleted) == []
    capture.clear()
    assert capture.events == []


def test_what_is_rolled_back_to_a_savepoint_is_not_heard(connection: Connection, session: Session, Order: Any) -> None:
    capture = Capture(connection, Order)
    session.add(Order(id=1))
    session.rollback()
    nested = session.begin_nested()
    session.add(Order(id=2))
    session.flush()
    nested.rollback()
    connection.execute(text("SAVEPOINT mine"))
    connection.execute(text("INSERT INTO orders VALUES (3)"))
    connection.execute(text("ROLLBACK TO mine"))
    connection.execute(
        text("DO $$ BEGIN INSERT INTO orders VALUES (4); RAISE EXCEPTION 'x'; EXCEPTION WHEN OTHERS THEN END $$")
    )
    connection.execute(text("INSERT INTO orders VALUES (5)"))
    assert told(capture.deliver()) == [("inserted", 5)]


def test_a_receiver_that_raises_fails_the_test_after_the_others(connection: Connection, Order: Any) -> None:
    heard: list[Any] = []

    def fail(sender: Any, event: Any) -> None:
        raise ValueError("no such address")

    Order.watch.inserted.connect(fail)
    Order.watch.inserted.connect(lambda sender, event: heard.append(event))
    capture = Capture(connection, Order)
    connection.execute(text("INSERT INTO orders VALUES (1), (2)"))
    with pytest.raises(ValueError, match="no such address"):
        capture.deliver()
    assert len(heard) == 2
    assert len(capture.events) == 2


def test_events_come_by_themselves_when_a_session_commits(connection: Connection, session: Session, Order: Any) -> None:
    capture = Capture(connection, Order)
    capture.on_commit = True
    seen: list[Any] = []
    Order.watch.inserted.connect(lambda sender, event: seen.append(event.load(session).note))
    session.add(Order(id=1, note="there"))
    with session.begin_nested():
        session.add(Order(id=2, note="too"))
    assert seen == []
    session.commit()
    assert seen == ["there", "too"]


@needs_logical_messages
def test_durable_watches_have_events_as_well(
    connection: Connection, Order: Any, Base: type[DeclarativeBase], engine: Engine
) -> None:
    class Payment(Watched, Base):  # type: ignore[misc]
        __tablename__ = "payments"
        __watch__ = (Watch("inserted", delivery="durable"), Watch("updated", delivery="both"))
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    capture = Capture(connection, Base)
    connection.execute(text("INSERT INTO payments VALUES (1)"))
    connection.execute(text("INSERT INTO orders VALUES (1)"))
    connection.execute(text("UPDATE payments SET id = 2"))
    events = capture.deliver()
    assert told(events) == [("inserted", 1), ("inserted", 1), ("updated", 2)]
    assert [event.lsn is not None for event in events] == [True, False, True]  # once, of "both"


def test_partitions_and_tables_of_one_name_have_their_own_schemas(
    connection: Connection, client: Client, Base: type[DeclarativeBase], engine: Engine
) -> None:
    class Reading(Watched, Base):  # type: ignore[misc]
        __tablename__ = "readings"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
        __watch__ = ("inserted", "updated")
        id: Mapped[int] = mapped_column(primary_key=True)

    class Other(Watched, Base):  # type: ignore[misc]
        __tablename__ = "readings"
        __table_args__ = {"schema": "elsewhere"}
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    client.execute("CREATE SCHEMA elsewhere; CREATE SCHEMA parts")
    Base.metadata.create_all(engine)
    client.execute("CREATE TABLE parts.low PARTITION OF readings FOR VALUES FROM (0) TO (10)")
    client.execute("CREATE TABLE high PARTITION OF readings FOR VALUES FROM (10) TO (20)")
    capture = Capture(connection, Base)
    connection.execute(text("INSERT INTO elsewhere.readings VALUES (5)"))
    connection.execute(text("INSERT INTO readings VALUES (5), (15)"))
    connection.execute(text("UPDATE parts.low SET id = 6"))
    events = capture.deliver()
    assert [(event.model, event.schema, *event.identity) for event in events] == [
        (Other, "elsewhere", 5), (Reading, "parts", 5), (Reading, "public", 15), (Reading, "parts", 6),
    ]  # fmt: skip
    assert capture.of(Other.watch) == events[:1]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_coroutine_receivers_run_on_the_loop(
    cluster: Cluster, database: str, Order: Any, unchanged: None, driver: str
) -> None:
    heard: list[Any] = []

    async def note(sender: Any, event: Any) -> None:
        await asyncio.sleep(0)
        heard.append(event)

    async def main() -> None:
        engine = create_async_engine(cluster.url(database, driver))
        async with engine.connect() as connection, connection.begin() as transaction:
            Order.watch.inserted.connect(note)
            capture = await Capture.create(connection, Order)
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                session.add(Order(id=1))
                await session.commit()
                assert told(await capture.deliver_async()) == [("inserted", 1)]
                capture.on_commit = True
                session.add(Order(id=2))
                await session.commit()
            await transaction.rollback()
        await engine.dispose()

    asyncio.run(main())
    assert told(heard) == [("inserted", 1), ("inserted", 2)]


def test_a_coroutine_receiver_is_refused_where_no_loop_could_run_it(connection: Connection, Order: Any) -> None:
    async def note(sender: Any, event: Any) -> None: ...

    Order.watch.inserted.connect(note)
    capture = Capture(connection, Order)
    connection.execute(text("INSERT INTO orders VALUES (1)"))
    with pytest.raises(Exception, match=r"use await capture.deliver_async\(\)"):
        capture.deliver()


def test_a_test_that_commits_by_mistake_changes_nothing(connection: Connection, Order: Any) -> None:
    Capture(connection, Order)
    connection.execute(text("INSERT INTO orders VALUES (1)"))
    with pytest.raises(DBAPIError, match="this transaction captures events, and must be rolled back"):
        connection.commit()


def test_other_sessions_notice_nothing(connection: Connection, client: Client, Order: Any) -> None:
    capture = Capture(connection, Order)
    client.execute("INSERT INTO orders VALUES (1)")
    client.execute("DELETE FROM orders")
    assert capture.deliver() == []


def test_a_writer_under_another_role_is_captured(
    connection: Connection, client: Client, database: str, Order: Any
) -> None:
    role = f"writer_{database}"
    client.execute(f"CREATE ROLE {role}".encode())
    client.execute(f"GRANT INSERT ON orders TO {role}".encode())
    try:
        capture = Capture(connection, Order)
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        connection.execute(text("INSERT INTO orders VALUES (1)"))
        connection.execute(text("RESET ROLE"))
        assert told(capture.deliver()) == [("inserted", 1)]
        connection.rollback()
    finally:
        client.execute(f"DROP OWNED BY {role}".encode())
        client.execute(f"DROP ROLE {role}".encode())


def test_after_a_migration_it_is_refreshed(connection: Connection, Order: Any) -> None:

    capture = Capture(connection, Order)
    install(connection, Order)
    connection.execute(text("INSERT INTO orders VALUES (1)"))
    with pytest.raises(ConfigurationError, match=r"'watch_orders_inserted' has been made anew.*call capture.refresh"):
        capture.deliver()
    capture.refresh()
    connection.execute(text("INSERT INTO orders VALUES (2)"))
    assert told(capture.deliver()) == [("inserted", 2)]


def test_a_transaction_that_is_over_is_told_of(connection: Connection, Order: Any) -> None:
    savepoint = connection.begin_nested()
    capture = Capture(connection, Order)
    savepoint.rollback()
    with pytest.raises(ConfigurationError, match="its transaction is over"):
        capture.deliver()
    assert not capture.has_undelivered


def test_what_receivers_write_comes_behind_the_rest(connection: Connection, session: Session, Order: Any) -> None:
    heard: list[int] = []

    @Order.watch.inserted.connect
    def write_another(sender: Any, event: Any) -> None:
        heard.append(event.identity[0])
        if event.identity[0] < 10:
            session.add(Order(id=event.identity[0] + 10))
            session.commit()

    capture = Capture(connection, Order)
    capture.on_commit = True
    session.add_all([Order(id=1), Order(id=2)])
    session.commit()
    assert heard == [1, 2, 11, 12]
    assert [id_ for _, id_ in told(capture.events)] == heard


def test_receivers_that_write_for_ever_are_stopped(connection: Connection, session: Session, Order: Any) -> None:
    @Order.watch.inserted.connect
    def write_another(sender: Any, event: Any) -> None:
        session.add(Order(id=event.identity[0] + 1))
        session.commit()

    capture = Capture(connection, Order)
    capture.on_commit = True
    session.add(Order(id=1))
    with pytest.raises(ListenerError, match="after 100 rounds receivers still write"):
        session.commit()


def test_a_writer_of_another_role_is_captured_where_functions_are_nobodys_by_default(
    connection: Connection, Order: Any
) -> None:
    connection.execute(text("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"))
    connection.execute(text("CREATE ROLE capture_writer"))
    connection.execute(text("GRANT INSERT ON orders TO capture_writer"))
    capture = Capture(connection, Order)
    connection.execute(text("SET LOCAL ROLE capture_writer"))
    connection.execute(text("INSERT INTO orders (id) VALUES (1)"))
    connection.execute(text("RESET ROLE"))
    assert told(capture.deliver()) == [("inserted", 1)]


def test_a_commit_is_refused_whatever_triggers_the_session_fires(
    connection: Connection, client: Client, Order: Any
) -> None:
    connection.execute(text("SET LOCAL session_replication_role = replica"))
    Capture(connection, Order)
    with pytest.raises(DBAPIError, match="this transaction captures events, and must be rolled back"):
        connection.commit()


def test_nothing_comes_twice_where_a_savepoint_is_rolled_back(
    connection: Connection, session: Session, Order: Any
) -> None:
    capture = Capture(connection, Order)
    session.add(Order(id=1))
    session.commit()
    session.execute(text("SELECT 1"))  # begins a savepoint
    assert told(capture.deliver()) == [("inserted", 1)]
    session.rollback()
    assert capture.deliver() == []
    assert not capture.has_undelivered
    session.add(Order(id=2))
    session.commit()
    assert capture.has_undelivered
    assert told(capture.deliver()) == [("inserted", 2)]


def test_events_have_ids_of_their_own(connection: Connection, Order: Any) -> None:
    capture = Capture(connection, Order)
    for number in range(1, 4):
        connection.execute(text(f"INSERT INTO orders VALUES ({number})"))
        capture.deliver()
    assert [event.id.rpartition("-")[2] for event in capture.events] == ["0", "1", "2"]


def test_a_partition_that_is_made_in_the_test_is_heard(
    connection: Connection, Base: type[DeclarativeBase], engine: Engine
) -> None:
    class Reading(Watched, Base):  # type: ignore[misc]
        __tablename__ = "readings"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    capture = Capture(connection, Reading)
    connection.execute(text("CREATE TABLE low PARTITION OF readings FOR VALUES FROM (0) TO (10)"))
    connection.execute(text("INSERT INTO readings VALUES (5)"))
    assert told(capture.deliver()) == [("inserted", 5)]


def test_functions_that_are_made_anew_are_told_of_whatever_else_came(
    connection: Connection, Base: type[DeclarativeBase], engine: Engine, Order: Any
) -> None:
    class Payment(Watched, Base):  # type: ignore[misc]
        __tablename__ = "payments"
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    capture = Capture(connection, Base)
    install(connection, Order)
    connection.execute(text("INSERT INTO orders VALUES (1)"))
    connection.execute(text("INSERT INTO payments VALUES (1)"))
    with pytest.raises(ConfigurationError, match="has been made anew"):
        capture.deliver()
    capture.refresh()
    assert told(capture.deliver()) == [("inserted", 1)]
    Base.metadata.drop_all(connection)
    Base.metadata.create_all(connection)
    connection.execute(text("INSERT INTO orders VALUES (1)"))
    with pytest.raises(ConfigurationError, match="has been made anew"):
        capture.deliver()


def test_two_captures_of_one_target_have_all_events_each(connection: Connection, Order: Any) -> None:
    one, another = Capture(connection, Order), Capture(connection, Order)
    connection.execute(text("INSERT INTO orders VALUES (1)"))
    assert told(one.deliver()) == told(another.deliver()) == [("inserted", 1)]


def test_a_capture_of_a_test_before_is_no_part_of_the_next_one(connection: Connection, Order: Any) -> None:
    before = Capture(connection, Order)
    before.on_commit = True
    connection.rollback()
    connection.begin()
    with Session(connection, join_transaction_mode="create_savepoint") as session:
        session.add(Order(id=1))
        session.commit()
    capture = Capture(connection, Order)
    capture.on_commit = True
    with Session(connection, join_transaction_mode="create_savepoint") as session:
        session.add(Order(id=2))
        session.commit()
    assert told(capture.events) == [("inserted", 2)]
    assert before.events == []
    connection.rollback()


def test_a_nested_commit_that_is_rolled_back_delivers_nothing(
    connection: Connection, session: Session, Order: Any
) -> None:
    capture = Capture(connection, Order)
    capture.on_commit = True
    with session.begin_nested():
        session.add(Order(id=1))
    session.rollback()
    assert capture.events == []


def test_coroutines_have_the_connection_one_after_the_other(
    cluster: Cluster, database: str, Order: Any, unchanged: None
) -> None:
    seen: list[int] = []

    async def main() -> None:
        engine = create_async_engine(cluster.url(database, "asyncpg"))
        async with engine.connect() as connection, connection.begin() as transaction:

            async def look(sender: Any, event: Any) -> None:
                async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                    order = await event.load(session)
                    await asyncio.sleep(0)
                    await session.execute(text("SELECT 1"))
                    seen.append(order.id)
                    await session.commit()

            async def look_as_well(sender: Any, event: Any) -> None:
                await look(sender, event)

            Order.watch.inserted.connect(look)
            Order.watch.inserted.connect(look_as_well)
            capture = await Capture.create(connection, Order)
            await connection.execute(text("INSERT INTO orders VALUES (1)"))
            with pytest.raises(ConfigurationError, match=r"AsyncConnection: write await capture.deliver_async\(\)"):
                capture.deliver()
            with pytest.raises(ConfigurationError, match=r"run_sync\(lambda _: capture.has_undelivered\)"):
                assert capture.has_undelivered
            await capture.deliver_async()
            await transaction.rollback()
        await engine.dispose()

    asyncio.run(main())
    assert seen == [1, 1]


def test_receivers_stop_with_a_delivery_that_is_cancelled(
    cluster: Cluster, database: str, Order: Any, unchanged: None
) -> None:
    called: list[int] = []

    async def main() -> None:
        engine = create_async_engine(cluster.url(database, "psycopg"))
        async with engine.connect() as connection, connection.begin() as transaction:
            begun = asyncio.Event()

            async def hang(sender: Any, event: Any) -> None:
                called.append(event.identity[0])
                begun.set()
                await asyncio.Event().wait()

            Order.watch.inserted.connect(hang)
            capture = await Capture.create(connection, Order)
            await connection.execute(text("INSERT INTO orders VALUES (1), (2)"))
            delivering = asyncio.create_task(capture.deliver_async())
            await begun.wait()
            delivering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await delivering
            await transaction.rollback()
        await engine.dispose()

    asyncio.run(main())
    assert called == [1]


@needs_logical_messages
def test_receivers_with_a_session_are_called(
    connection: Connection, Base: type[DeclarativeBase], engine: Engine, Order: Any
) -> None:
    class Payment(Watched, Base):  # type: ignore[misc]
        __tablename__ = "payments"
        __watch__ = (Watch("inserted", delivery="durable"),)
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    make_session = sessionmaker(connection, join_transaction_mode="create_savepoint")

    def note(sender: Any, event: Any, session: Session) -> None:
        session.add(Order(id=event.identity[0], note="paid"))

    Payment.watch.inserted.connect_once(note, make_session)
    capture = Capture(connection, Payment)
    connection.execute(text("INSERT INTO payments VALUES (7)"))
    capture.deliver()
    assert connection.scalar(text("SELECT id FROM orders WHERE note = 'paid'")) == 7


def test_events_too_large_for_a_filter_are_none_of_it(connection: Connection, Order: Any) -> None:
    capture = Capture(connection, Order)
    connection.execute(
        text("INSERT INTO orders SELECT 1, string_agg(md5(n::text), '') FROM generate_series(1, 1000) AS n")
    )
    assert len(capture.deliver()) == 1
    assert capture.of(Order.watch.inserted.filter_by(note="x")) == []


def test_ctrl_c_in_a_receiver_ends_the_run(connection: Connection, Order: Any) -> None:
    def fail(sender: Any, event: Any) -> None:
        raise ValueError

    def interrupt(sender: Any, event: Any) -> None:
        raise KeyboardInterrupt

    Order.watch.inserted.connect(fail)
    Order.watch.inserted.connect(interrupt)
    capture = Capture(connection, Order)
    connection.execute(text("INSERT INTO orders VALUES (1)"))
    with pytest.raises(KeyboardInterrupt):
        capture.deliver()


def test_settings_of_the_session_are_what_they_were(connection: Connection, Order: Any) -> None:
    settings = "SELECT current_setting('check_function_bodies'), current_setting('lock_timeout')"
    before = connection.execute(text(settings)).one()
    Capture(connection, Order)
    assert connection.execute(text(settings)).one() == before


def test_one_that_waits_for_itself_is_told_so(
    connection: Connection, cluster: Cluster, database: str, Order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Capture(connection, Order)
    monkeypatch.setattr(replacing, "WAIT_SECONDS", 1)
    engine = create_engine(cluster.url(database, "psycopg"))
    with (
        engine.connect() as other,
        other.begin(),
        pytest.raises(ListenerError, match="for 1 s: one that this test"),
    ):
        Capture(other, Order)
    engine.dispose()
