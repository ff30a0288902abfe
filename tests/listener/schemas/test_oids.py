"""The table or partition that an event is of decides whose it is: by its oid, also when that has long been dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from postgres import VERSION, Cluster, needs_logical_messages
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase
from support import end_listeners, oid_of, resync_reasons, wait_until

from sqlalchemy_watch import Listener, install
from sqlalchemy_watch.listener.dispatch import placing

from ..insides import dispatcher_of
from .tenants import (
    DRIVERS,
    Client,
    OpenEars,
    declare,
    forge,
    insert,
    make_engine,
    make_tenant,
    run_on_connect,
    warnings_in,
)  # fmt: skip

DELIVERIES = ["notify", "both", pytest.param("durable", marks=needs_logical_messages)]

all_deliveries = pytest.mark.parametrize("delivery", DELIVERIES)
all_schemas = pytest.mark.parametrize("schema", [None, "app"])
server = pytest.mark.server


def swap(client: Client, engine: Engine, Account: Any, schema: str, options: str = "") -> None:
    """Make a table like the watched one, put it in its place, and give it triggers of its own."""
    client.execute(
        f"CREATE TABLE {schema}.accounts_new (LIKE {schema}.accounts INCLUDING ALL) {options};"
        f"ALTER TABLE {schema}.accounts RENAME TO accounts_retired;"
        f"ALTER TABLE {schema}.accounts_new RENAME TO accounts".encode()
    )
    if options:
        attach(client, f"{schema}.default_of_new", None, None, f"{schema}.accounts")
    client.execute(f"INSERT INTO {schema}.accounts SELECT * FROM {schema}.accounts_retired".encode())
    own = create_engine(engine.url, connect_args={"options": f"-csearch_path={schema}"})
    install(own, Account)
    own.dispose()


@pytest.fixture(autouse=True)
def app(client: Client) -> None:
    client.execute("CREATE SCHEMA app; CREATE SCHEMA parts")


def partitioned(Base: Any, delivery: str, schema: str | None = None) -> Any:
    return declare(Base, None, delivery, schema=schema, postgresql_partition_by="RANGE (id)")


def attach(client: Client, name: str, begin: int | None, end: int | None, root: str = "accounts") -> None:
    """Make a partition; without bounds that of all other rows."""
    bounds = "DEFAULT" if begin is None else f"FOR VALUES FROM ({begin}) TO ({end})"
    client.execute(f"CREATE TABLE {name} PARTITION OF {root} {bounds}".encode())


@contextmanager
def heard_afterwards(engine: Any, Account: Any, group: str, **options: Any) -> Iterator[list[tuple[str, int]]]:
    """What a durable consumer hears that starts behind the block: schema and id, which is negative of a deleted row."""
    with Listener(engine, Account, durable=group, **options):
        pass
    found: list[tuple[str, int]] = []
    yield found
    for signal in Account.watch:
        signal.connect(lambda sender, e: found.append((e.schema, e.identity[0] * (-1) ** (e.operation == "deleted"))))
    with Listener(engine, Account, durable=group, **options) as listener:
        reasons = resync_reasons(listener)
        listener.catch_up()
        found.extend((reason, 0) for reason in reasons)


@contextmanager
def held_up(client: Client, Account: Any) -> Iterator[Callable[[], None]]:
    """A receiver that does not return from the row 0 until the function that this gives is called, or at the end."""
    released, reached = threading.Event(), threading.Event()

    def hold(sender: Any, event: Any) -> None:
        if event.identity == (0,):
            reached.set()
            assert released.wait(20)

    with Account.watch.inserted.connected_to(hold):
        client.execute("INSERT INTO accounts VALUES (0)")
        assert reached.wait(20)
        try:
            yield released.set
        finally:
            released.set()


# ---- Tables that are not under their name any more


@server
@all_deliveries
@all_schemas
@pytest.mark.parametrize("is_partitioned", [False, True])
def test_a_table_that_another_one_has_replaced_before_the_start_is_not_heard_as_that(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str, schema: str | None,
    is_partitioned: bool,
) -> None:  # fmt: skip
    if is_partitioned:
        Account = partitioned(Base, delivery, schema)
    else:
        Account = declare(Base, "row", delivery, schema=schema)
    home = schema or "public"
    Base.metadata.create_all(engine)
    if is_partitioned:
        attach(client, f"{home}.p0", 0, 10, f"{home}.accounts")
    insert(client, home, 1, 2, 3)
    swap(client, engine, Account, home, "PARTITION BY RANGE (id)" if is_partitioned else "")
    ears = open_ears(engine, Account)
    client.execute(
        f"DELETE FROM {home}.accounts_retired WHERE id < 3; DELETE FROM {home}.accounts WHERE id = 3".encode()
    )
    client.execute(f"DELETE FROM {home}.accounts_retired".encode())
    assert ears.heard() == [(home, -3)]
    assert ears.counts("unplaced") == {0}
    assert ears.resyncs() == set()


@all_deliveries
@all_schemas
def test_a_table_that_another_one_replaces_is_heard_until_then_and_no_more_once_the_other_one_is(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str, schema: str | None
) -> None:
    Account = declare(Base, "row", delivery, schema=schema)
    home = schema or "public"
    Base.metadata.create_all(engine)
    ears = open_ears(engine, Account)
    insert(client, home, 1, 2, 3)
    swap(client, engine, Account, home)
    insert(client, home, 4)
    client.execute(f"DELETE FROM {home}.accounts_retired".encode())
    insert(client, home, 5)
    assert ears.heard() == [(home, 1), (home, 2), (home, 3), (home, 4), (home, 5)]
    assert ears.counts("ignored") == {3}
    assert ears.resyncs() == set()
    back = "ALTER TABLE {0}.accounts RENAME TO accounts_new; ALTER TABLE {0}.accounts_retired RENAME TO accounts"
    client.execute(back.format(home).encode())
    insert(client, home, 6)
    heard, resyncs = ears.heard(), ears.resyncs()
    assert heard == [(home, 6)] or resyncs == {placing.TAKEN_FOR_ANOTHERS}
    insert(client, home, 7)
    assert ears.heard() == [(home, 7)]


@server
@needs_logical_messages
@all_schemas
@pytest.mark.parametrize("level", ["statement", "row"])
def test_rows_from_before_their_table_was_replaced_are_heard_by_a_consumer_that_starts_afterwards(
    client: Client, engine: Engine, Base: type[DeclarativeBase], group: str, schema: str | None, level: str
) -> None:
    Account = declare(Base, level, "durable", schema=schema)
    home = schema or "public"
    Base.metadata.create_all(engine)
    with heard_afterwards(engine, Account, group) as heard:
        insert(client, home, 1, 2)
        client.execute(f"DELETE FROM {home}.accounts WHERE id = 2".encode())
        swap(client, engine, Account, home)
        if level == "row":
            client.execute(f"DELETE FROM {home}.accounts_retired".encode())
        insert(client, home, 3)
    assert heard == [(home, 1), (home, 2), (home, -2), (home, 3)]


@all_deliveries
@all_schemas
@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_table_that_was_merely_renamed_is_heard_as_before(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str, schema: str | None,
    level: str,
) -> None:  # fmt: skip
    Account = declare(Base, level, delivery, schema=schema)
    home = schema or "public"
    Base.metadata.create_all(engine)
    client.execute(f"ALTER TABLE {home}.accounts RENAME TO clients".encode())
    ears = open_ears(engine, Account)
    client.execute(f"INSERT INTO {home}.clients VALUES (1)".encode())
    client.execute(f"ALTER TABLE {home}.clients RENAME TO customers".encode())
    client.execute(f"INSERT INTO {home}.customers VALUES (2)".encode())
    assert ears.heard() == [(home, 1), (home, 2)]
    assert ears.resyncs() == set()


@pytest.mark.parametrize("delivery", ["notify", pytest.param("durable", marks=needs_logical_messages)])
@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_table_with_a_declared_schema_is_heard_wherever_it_is_moved(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str, level: str
) -> None:
    Account = declare(Base, level, delivery, schema="app")
    Base.metadata.create_all(engine)
    ears = open_ears(engine, Account)
    insert(client, "app", 1)
    client.execute("ALTER TABLE app.accounts SET SCHEMA parts")
    insert(client, "parts", 2)
    assert [id_ for _, id_ in ears.heard()] == [1, 2]
    assert ears.resyncs() == set()


@all_deliveries
def test_an_oid_of_another_table_is_not_ours(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str
) -> None:
    Account = declare(Base, "row", delivery)
    Base.metadata.create_all(engine)
    client.execute("CREATE TABLE others (id int)")
    ears = open_ears(engine, Account)
    place = f'"oid":{oid_of(client, "others")},"schema":"public","txid":{2**40},"n":@'
    for durable in {delivery == "durable", delivery != "notify"}:
        forge(client, Account.watch.inserted.details.channel, place, 3, durable=durable)
    insert(client, "public", 1)
    assert ears.heard() == [("public", 1)]
    assert ears.counts("ignored") == {3}
    assert ears.resyncs() == set()


# ---- Partitions


@server
@all_deliveries
@all_schemas
def test_partitions_that_come_and_go_are_heard_wherever_they_are(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str, schema: str | None
) -> None:
    Account = partitioned(Base, delivery, schema)
    home = schema or "public"
    Base.metadata.create_all(engine)
    ears = open_ears(engine, Account)
    attach(client, "parts.p0", 0, 10, f"{home}.accounts")
    insert(client, home, 1)
    assert ears.heard() == [("parts", 1)]
    client.execute(
        f"CREATE TABLE parts.late (LIKE {home}.accounts INCLUDING ALL); INSERT INTO parts.late VALUES (11);"
        f"ALTER TABLE {home}.accounts ATTACH PARTITION parts.late FOR VALUES FROM (10) TO (20);"
        f"INSERT INTO parts.late VALUES (12);"
        f"ALTER TABLE {home}.accounts DETACH PARTITION parts.p0; INSERT INTO parts.p0 VALUES (2)".encode()
    )
    assert ears.heard() == [("parts", 12)]
    client.execute(f"ALTER TABLE parts.late SET SCHEMA {home}; INSERT INTO {home}.accounts VALUES (13)".encode())
    client.execute(f"ALTER TABLE {home}.late RENAME TO accounts_1; INSERT INTO {home}.accounts VALUES (14)".encode())
    assert [id_ for listener in ears.listeners for _, id_ in ears.heard_by(listener)] == [13, 14] * len(ears.listeners)
    assert ears.resyncs() == set()
    assert ears.counts("ignored") == {0}


@all_deliveries
@all_schemas
def test_rows_of_a_partition_that_was_detached_before_anybody_looked_are_heard(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str, schema: str | None
) -> None:
    Account = partitioned(Base, delivery, schema)
    home = schema or "public"
    Base.metadata.create_all(engine)
    client.execute(f"SET search_path = {home}")
    attach(client, "p0", 0, 10)
    ears = open_ears(engine, Account)
    with held_up(client, Account):
        attach(client, "p1", 10, 20)
        client.execute("INSERT INTO accounts VALUES (11)")
        client.execute("ALTER TABLE accounts DETACH PARTITION p1; DELETE FROM p1; DROP TABLE p0")
    assert ears.heard() == [(home, 0), (home, 11)]
    assert ears.resyncs() == set()


@pytest.mark.parametrize("delivery", ["notify", "both"])
def test_rows_of_a_partition_elsewhere_that_was_detached_before_anybody_looked_are_heard_or_ask_for_a_resync(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str
) -> None:
    Account = partitioned(Base, delivery)
    Base.metadata.create_all(engine)
    attach(client, "p0", 0, 10)
    attach(client, "parts.p1", 10, 20)
    ears = open_ears(engine, Account)
    with held_up(client, Account):
        attach(client, "parts.p2", 20, 30)
        client.execute("INSERT INTO accounts VALUES (21)")
        client.execute("ALTER TABLE accounts DETACH PARTITION parts.p2")
    if delivery == "both":  # the payload says the schema, where there are others of its partitions
        assert (ears.heard(), ears.resyncs()) == ([("public", 0), ("parts", 21)], set())
    else:
        assert (ears.heard(), ears.resyncs()) == ([("public", 0)], {placing.UNPLACED})


def test_rows_of_a_known_partition_are_heard_though_it_is_dropped_meanwhile(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars
) -> None:
    Account = partitioned(Base, "notify")
    Base.metadata.create_all(engine)
    attach(client, "p0", 0, 10)
    attach(client, "parts.p1", 10, 20)
    ears = open_ears(engine, Account)
    with held_up(client, Account):
        client.execute("INSERT INTO accounts VALUES (11)")
        attach(client, "parts.p2", 20, 30)
        client.execute("INSERT INTO accounts VALUES (21)")  # looked up, and with that all others
        client.execute("INSERT INTO accounts VALUES (12); DROP TABLE parts.p1")
    assert ears.heard() == [("public", 0), ("parts", 11), ("parts", 21), ("parts", 12)]
    assert ears.resyncs() == set()


def test_rows_of_a_partition_that_nobody_knew_and_that_is_dropped_ask_for_a_resync(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, caplog: pytest.LogCaptureFixture
) -> None:
    Account = partitioned(Base, "notify")
    Base.metadata.create_all(engine)
    attach(client, "p0", 0, 10)
    ears = open_ears(engine, Account)
    with held_up(client, Account):
        attach(client, "p1", 10, 20)
        client.execute("INSERT INTO accounts VALUES (11); INSERT INTO accounts VALUES (12)")
        client.execute("DROP TABLE p1; INSERT INTO accounts VALUES (1)")
    assert ears.heard() == [("public", 0), ("public", 1)]
    assert ears.resyncs() == {placing.UNPLACED}
    assert ears.counts("unplaced") == {2}
    assert len(warnings_in(caplog, "was dropped or altered before anybody looked")) == 1


def test_rows_of_a_dropped_partition_are_heard_where_the_schema_is_declared(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars
) -> None:
    Account = partitioned(Base, "notify", "app")
    Base.metadata.create_all(engine)
    client.execute("SET search_path = app")
    attach(client, "p0", 0, 10)
    ears = open_ears(engine, Account)
    with held_up(client, Account):
        attach(client, "parts.p1", 10, 20)
        client.execute("INSERT INTO accounts VALUES (11); DROP TABLE parts.p1")
    assert ears.heard() == [("app", 0), ("app", 11)]
    assert ears.resyncs() == set()


@server
@needs_logical_messages
@all_schemas
def test_a_consumer_that_starts_afterwards_hears_the_rows_of_partitions_whatever_became_of_them(
    client: Client, engine: Engine, Base: type[DeclarativeBase], group: str, schema: str | None
) -> None:
    Account = partitioned(Base, "durable", schema)
    home = schema or "public"
    Base.metadata.create_all(engine)
    for number in range(6):
        attach(client, f"{'parts' if number else home}.p{number}", number * 10, number * 10 + 10, f"{home}.accounts")
    with heard_afterwards(engine, Account, group) as heard:
        insert(client, home, 1, 11, 21, 31, 41, 51)
        client.execute(
            f"DROP TABLE {home}.p0; ALTER TABLE {home}.accounts DETACH PARTITION parts.p1;"
            f"ALTER TABLE {home}.accounts DETACH PARTITION parts.p2; DROP TABLE parts.p2;"
            f"ALTER TABLE parts.p3 RENAME TO another; ALTER TABLE parts.p4 SET SCHEMA {home}".encode()
        )
    assert [id_ for _, id_ in heard] == [1, 11, 21, 31, 41, 51]
    if schema is None:  # as it was when they were written
        assert heard == [("public", 1), *(("parts", id_) for id_ in (11, 21, 31, 41, 51))]


@needs_logical_messages
def test_rows_of_a_partition_whose_schema_is_gone_as_well_ask_for_a_resync(
    client: Client, engine: Engine, Base: type[DeclarativeBase], group: str, caplog: pytest.LogCaptureFixture
) -> None:
    Account = partitioned(Base, "durable")
    Base.metadata.create_all(engine)
    attach(client, "parts.p0", 0, 10)
    with heard_afterwards(engine, Account, group) as heard:
        insert(client, "public", 1)
        client.execute("DROP SCHEMA parts CASCADE")
    assert heard == [(placing.UNPLACED, 0)]
    assert len(warnings_in(caplog, "schema 'parts'")) == 1


@all_deliveries
def test_partitions_of_two_tenants_in_one_schema_are_told_apart(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str
) -> None:
    Account = partitioned(Base, delivery)
    make_tenant(client, engine.url, Account, "public", "app")
    attach(client, "parts.p0", 0, 10)
    attach(client, "parts.tenants", 0, 10, "app.accounts")
    ears = open_ears(engine, Account)
    insert(client, "public", 1)
    insert(client, "app", 2)
    insert(client, "public", 3)
    assert ears.heard() == [("parts", 1), ("parts", 3)]
    assert ears.counts("ignored") == {1}


@pytest.mark.skipif(VERSION < 14, reason="DETACH CONCURRENTLY")
def test_a_partition_that_is_being_detached_is_still_ours(
    cluster: Cluster, database: str, client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars
) -> None:
    Account = partitioned(Base, "notify")
    Base.metadata.create_all(engine)
    attach(client, "p0", 0, 10)
    attach(client, "parts.p1", 10, 20)
    with cluster.connect(database) as reader, cluster.connect(database) as other, reader.transaction():
        reader.execute("SELECT * FROM accounts")
        detach = "ALTER TABLE accounts DETACH PARTITION parts.p1 CONCURRENTLY"
        thread = threading.Thread(target=other.execute, args=[detach])
        thread.start()
        wait_until(client, "SELECT bool_or(inhdetachpending) FROM pg_inherits")
        ears = open_ears(engine, Account)
        client.execute("INSERT INTO parts.p1 VALUES (11)")
        assert ears.heard() == [("parts", 11)]
    thread.join()


# ---- Tenants


@pytest.mark.parametrize("schemas", ["*", ("app", "parts")])
@all_deliveries
@pytest.mark.parametrize("level", ["statement", "row"])
def test_tenants_that_are_named_are_heard_but_not_a_table_that_another_one_has_replaced(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str, level: str,
    schemas: Any,
) -> None:  # fmt: skip
    Account = declare(Base, level, delivery)
    make_tenant(client, engine.url, Account, "app", "parts", "public")
    insert(client, "app", 1)
    if level == "row":
        swap(client, engine, Account, "app")
    ears = open_ears(engine, Account, schemas=schemas)
    if level == "row":
        client.execute("DELETE FROM app.accounts_retired")
    insert(client, "app", 2)
    insert(client, "parts", 3)
    insert(client, "public", 4)
    assert ears.heard() == [("app", 2), ("parts", 3), *([("public", 4)] if schemas == "*" else [])]
    assert ears.counts("ignored") == {(level == "row") + (schemas != "*")}
    assert ears.resyncs() == set()


@all_deliveries
def test_a_temporary_namesake_at_row_level_is_not_heard(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, delivery: str
) -> None:
    Account = declare(Base, "row", delivery)
    Base.metadata.create_all(engine)
    ears = open_ears(engine, Account)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE accounts (id int PRIMARY KEY)")
        install(connection, Account)
        connection.exec_driver_sql("INSERT INTO pg_temp.accounts VALUES (1)")
    insert(client, "public", 2)
    assert ears.heard()[-1:] == [("public", 2)]


# ---- Looking up


@pytest.mark.sqlalchemy
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("level", "schema"), [("statement", None), ("row", None), ("row", "app")])
def test_the_usual_listener_asks_nothing_when_the_first_event_comes(
    cluster: Cluster, database: str, client: Client, engine: Engine, Base: type[DeclarativeBase], driver: str,
    level: str, schema: str | None,
) -> None:  # fmt: skip
    Account = declare(Base, level, "notify", schema=schema)
    Base.metadata.create_all(engine)
    heard: list[int] = []
    Account.watch.inserted.connect(lambda sender, event: heard.append(event.identity[0]))
    with Listener(make_engine(cluster, database, driver), Account) as listener:
        dispatcher_of(listener).placing._lookups._asker.ask = None  # whoever asks fails
        for number in range(3):
            insert(client, schema or "public", number)
        listener.catch_up()
        assert heard == [0, 1, 2]
        end_listeners(client)
        wait_until(client, lambda: listener.stats().reconnects == 1)
        insert(client, schema or "public", 3)
        listener.catch_up()
        assert heard == [0, 1, 2, 3]


@needs_logical_messages
def test_a_backlog_of_a_dropped_partition_takes_few_look_ups(
    cluster: Cluster, database: str, client: Client, engine: Engine, Base: type[DeclarativeBase], group: str
) -> None:
    Account = partitioned(Base, "durable")
    Base.metadata.create_all(engine)
    attach(client, "p0", 0, 100_000)
    asked = make_engine(cluster, database, "psycopg")
    connections = run_on_connect(asked)
    with heard_afterwards(asked, Account, group, max_queue=500) as heard:
        client.execute("INSERT INTO accounts SELECT generate_series(1, 5000)")
        client.execute("DROP TABLE p0")
    assert heard == [("public", number) for number in range(1, 5001)]
    assert len(connections) <= 30
