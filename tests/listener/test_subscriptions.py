"""With `fires="always"` a listener hears what a subscription writes, and sessions that replay changes themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster, needs, needs_logical_messages
from sqlalchemy import Column, Engine, ForeignKey, Integer, MetaData, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import created_database, resync_reasons, wait_until

from sqlalchemy_watch import Listener, Watch, Watched, install, status, watch
from sqlalchemy_watch.watched import signals_of

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

USERS = "CREATE TABLE users (id int PRIMARY KEY, name varchar)"

DELIVERIES: Any = ["notify", pytest.param("durable", marks=needs_logical_messages)]


@pytest.fixture
def publisher(cluster: Cluster, database: str) -> Iterator[Client]:
    """Another database, which publishes all its tables; the test's own one subscribes."""
    with created_database(cluster, f"{database}_publisher") as name, cluster.connect(name) as connection:
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        connection.execute("CREATE TABLE written (number int PRIMARY KEY)")
        yield connection


@contextmanager
def subscribed(publisher: Client, client: Client, options: str = "", slot_options: str = "") -> Iterator[None]:
    """A subscription that has copied what there was, as long as the block lasts.

    :param options: further ones of CREATE SUBSCRIPTION.
    :param slot_options: further arguments of the function that makes the slot: in one cluster a subscription can't.
    """
    info, name = publisher.info, client.info.dbname
    client.execute("CREATE TABLE written (number int PRIMARY KEY)")
    publisher.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput'{slot_options})".encode())
    client.execute(
        f"CREATE SUBSCRIPTION {name} CONNECTION 'host={info.host} port={info.port} user={info.user} "
        f"dbname={info.dbname}' PUBLICATION everything WITH (create_slot = false{options})".encode()
    )
    try:
        wait_until(client, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")
        yield
    finally:
        client.execute(f"DROP SUBSCRIPTION {name}".encode())  # and the slot


def apply(publisher: Client, client: Client, *statements: str) -> None:
    """Write, each statement in a transaction of its own, and wait until the subscription has done it, too."""
    for statement in statements:
        publisher.execute(statement.encode())
    [number] = publisher.execute("INSERT INTO written SELECT count(*) FROM written RETURNING number").fetchone() or ()
    wait_until(client, "SELECT count(*) > 0 FROM written WHERE number = %s", number)


def declare(*specs: Any) -> Table:
    table = Table("users", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))
    watch(table, *specs)
    return table


def always(delivery: Any) -> list[Watch]:
    return [
        Watch("inserted", fires="always", delivery=delivery),
        Watch("updated", extra_columns=("name",), old=True, fires="always", delivery=delivery),
        Watch("deleted", fires="always", delivery=delivery),
        Watch("truncated", fires="always", delivery=delivery),
    ]


def hear(engine: Engine, table: Table, write: Callable[[], None], **options: Any) -> list[Any]:
    """Return the events of what is written meanwhile; nothing else is missed."""
    recorder = Recorder()
    signals = signals_of(table)
    assert signals is not None
    signals.connect(recorder)
    with Listener(engine, table, **options) as listener:
        reasons = resync_reasons(listener)
        write()
        listener.catch_up()
    signals.disconnect(recorder)
    assert reasons == []
    return recorder.events


def brief(events: list[Any]) -> list[tuple[Any, ...]]:
    return [(event.label, *event.identity) for event in events]


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_what_a_subscription_writes_is_heard(
    engine: Engine, client: Client, publisher: Client, group: str, delivery: Any
) -> None:
    publisher.execute(USERS)
    publisher.execute("INSERT INTO users VALUES (0, 'copied')")
    table = declare(*always(delivery))
    table.create(engine)

    def write() -> None:
        with subscribed(publisher, client):
            apply(
                publisher, client,
                "INSERT INTO users VALUES (1, 'a'), (2, 'b')",
                "UPDATE users SET name = 'c' WHERE id = 1",
                "UPDATE users SET id = 3 WHERE id = 2",
                "DELETE FROM users WHERE id = 3",
                "TRUNCATE users",
            )  # fmt: skip

    events = hear(engine, table, write, **({"durable": group} if delivery == "durable" else {}))
    assert brief(events) == [
        ("inserted", 0), ("inserted", 1), ("inserted", 2), ("updated", 1), ("updated", 3), ("deleted", 3),
        ("truncated",),
    ]  # fmt: skip
    assert (dict(events[3].values), events[3].old["name"]) == ({"id": 1, "name": "c"}, "a")


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_partitions_of_the_subscriber_are_heard_those_that_come_later_as_well(
    engine: Engine, client: Client, publisher: Client, group: str, delivery: Any
) -> None:
    publisher.execute(USERS)
    client.execute(f"{USERS} PARTITION BY RANGE (id)")
    client.execute("CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (10)")
    table = declare(*always(delivery))
    install(engine, table)

    def write() -> None:
        with subscribed(publisher, client):
            apply(publisher, client, "INSERT INTO users VALUES (1, 'a')")
            client.execute("CREATE TABLE users_2 PARTITION OF users FOR VALUES FROM (10) TO (20)")
            client.execute("CREATE TABLE users_3 (id int PRIMARY KEY, name varchar)")
            client.execute("ALTER TABLE users ATTACH PARTITION users_3 FOR VALUES FROM (20) TO (30)")
            apply(
                publisher, client,
                "INSERT INTO users VALUES (11, 'a'), (21, 'a')",
                "UPDATE users SET name = 'b' WHERE id = 11",
                "UPDATE users SET id = 12 WHERE id = 1",
                "DELETE FROM users WHERE id = 21",
                "TRUNCATE users",
            )  # fmt: skip

    events = hear(engine, table, write, **({"durable": group} if delivery == "durable" else {}))
    assert brief(events) == [
        ("inserted", 1), ("inserted", 11), ("inserted", 21), ("updated", 11), ("deleted", 1), ("inserted", 12),
        ("deleted", 21), ("truncated",),
    ]  # fmt: skip


def test_without_it_nothing_is_heard_and_at_statement_level_the_initial_copy_alone(
    engine: Engine, client: Client, publisher: Client
) -> None:
    publisher.execute(USERS)
    publisher.execute("INSERT INTO users VALUES (0, 'copied')")
    table = declare(
        Watch("inserted", label="by_row", level="row"),
        Watch("inserted", label="by_statement", level="statement", fires="always"),
        "inserted", "truncated", Watch("inserted", label="always", fires="always"),
    )  # fmt: skip
    table.create(engine)

    def write() -> None:
        with subscribed(publisher, client):
            apply(publisher, client, "INSERT INTO users VALUES (1, 'a')", "TRUNCATE users")

    assert brief(hear(engine, table, write)) == [("always", 0), ("by_statement", 0), ("always", 1)]


@pytest.mark.parametrize("role", ["replica", "origin", "local"])
@pytest.mark.parametrize("level", [None, "statement", "row"])
def test_sessions_of_every_replication_role_are_heard(engine: Engine, client: Client, role: str, level: Any) -> None:
    always = [Watch(operation, level=level, fires="always") for operation in ("inserted", "updated", "deleted")]  # type: ignore[arg-type]
    table = declare(*always, Watch("truncated", fires="always"), Watch("inserted", label="by_default"))
    table.create(engine)

    def write() -> None:
        client.execute(f"SET session_replication_role = {role}".encode())
        client.execute("INSERT INTO users VALUES (1, 'a')")
        client.execute("UPDATE users SET name = 'b'")
        client.execute("DELETE FROM users")
        client.execute("TRUNCATE users")

    default = [] if role == "replica" else [("by_default", 1)]
    assert sorted(brief(hear(engine, table, write))) == sorted(
        [("inserted", 1), ("updated", 1), ("deleted", 1), ("truncated",), *default]
    )


@pytest.mark.parametrize("schema", [None, "public"])
def test_joined_inheritance_needs_a_schema_as_a_subscription_has_no_search_path(
    engine: Engine, client: Client, publisher: Client, schema: str | None
) -> None:
    class Base(DeclarativeBase):
        metadata = MetaData(schema=schema)

    class Animal(Watched, Base):
        __tablename__ = "animals"
        __watch__ = (Watch("updated", fires="always"),)
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

    class Dog(Animal):
        __tablename__ = "dogs"
        id: Mapped[int] = mapped_column(ForeignKey(Animal.id), primary_key=True)
        bark: Mapped[str]
        __mapper_args__ = {"polymorphic_identity": "dog"}

    publisher.execute("CREATE TABLE animals (id int PRIMARY KEY, kind varchar)")
    publisher.execute("CREATE TABLE dogs (id int PRIMARY KEY, bark varchar)")
    publisher.execute("INSERT INTO animals VALUES (1, 'dog'); INSERT INTO dogs VALUES (1, 'wow')")
    Base.metadata.create_all(engine)
    problems = [problem for item in status(engine, Base) for problem in item.problems]
    recorder = Recorder()
    Dog.watch.connect(recorder)
    with subscribed(publisher, client), Listener(engine, Base) as listener:
        reasons = resync_reasons(listener)
        apply(publisher, client, "UPDATE dogs SET bark = 'miaow'", "UPDATE animals SET kind = 'dog'")
        listener.catch_up()
    if schema is None:
        assert len(reasons) == 1
        assert [("empty search_path" in problem, "'animals'" in problem) for problem in problems] == [(True, True)]
        assert recorder.senders == [Dog]  # of its row in the root table
    else:
        assert (reasons, problems) == ([], [])
        assert recorder.senders == [Dog, Dog]


@needs(15, "two-phase commit in subscriptions")
def test_a_subscription_in_two_phases_is_heard_durably(
    engine: Engine, client: Client, publisher: Client, group: str
) -> None:
    publisher.execute(USERS)
    table = declare(*always("durable"))
    table.create(engine)

    def write() -> None:
        with subscribed(publisher, client, ", two_phase = true", ", false, true"):
            publisher.execute("BEGIN")
            publisher.execute("INSERT INTO users VALUES (1, 'a')")
            publisher.execute("PREPARE TRANSACTION 'in_two_phases'")
            wait_until(client, "SELECT count(*) = 1 FROM pg_prepared_xacts WHERE database = current_database()")
            publisher.execute("COMMIT PREPARED 'in_two_phases'")
            apply(publisher, client)

    assert brief(hear(engine, table, write, durable=group)) == [("inserted", 1)]
