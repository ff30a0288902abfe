"""The table's kind in the database decides about its triggers, whatever the declaration says."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import needs_logical_messages
from sqlalchemy import Column, Engine, Integer, MetaData, Table
from support import records_of

from sqlalchemy_watch import ConfigurationError, Listener, Watch, install, status, watch

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

PARTITIONED = """
CREATE TABLE orders (id int PRIMARY KEY, total int DEFAULT 0) PARTITION BY RANGE (id);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20);
"""


def declare(*specs: Any, name: str = "orders", metadata: MetaData | None = None) -> Table:
    table = Table(
        name,
        metadata if metadata is not None else MetaData(),
        Column("id", Integer, primary_key=True),
        Column("total", Integer),
    )
    watch(table, *specs)
    return table


def heard(engine: Engine, client: Client, table: Table, *statements: str, **options: Any) -> list[tuple[Any, ...]]:
    """(label, key) of each event after these statements."""
    recorder = Recorder()
    from sqlalchemy_watch.watched import signals_of

    signals = signals_of(table)
    assert signals is not None
    signals.connect(recorder)
    with Listener(engine, table, **options) as listener:
        for statement in statements:
            client.execute(statement.encode())
        listener.catch_up()
    return [(event.label, *(event.identity or ())) for event in recorder.events]


CHANGED = Watch("updated", label="changed", trigger_columns=("total",), extra_columns=("total",), old=True)


@pytest.mark.parametrize("by", ["a model that does not say so", "reflection"])
def test_a_table_partitioned_in_the_database_alone_gets_row_triggers(engine: Engine, client: Client, by: str) -> None:
    client.execute(PARTITIONED)
    if by == "reflection":
        orders = Table("orders", MetaData(), autoload_with=engine)
        watch(orders, "inserted", CHANGED, "deleted", "truncated")
    else:
        orders = declare("inserted", CHANGED, "deleted", "truncated")
    install(engine, orders)
    assert [(item.state, item.problems) for item in status(engine, orders)] == [("installed", ())] * 4
    assert install(engine, orders) == []
    assert heard(
        engine,
        client,
        orders,
        "INSERT INTO orders VALUES (1)",
        "INSERT INTO orders_1 VALUES (2)",
        "UPDATE orders_1 SET total = 1 WHERE id = 1",
        "UPDATE orders SET total = 0",
        "DELETE FROM orders_1 WHERE id = 2",
        "TRUNCATE orders",
    ) == [("inserted", 1), ("inserted", 2), ("changed", 1), ("changed", 1), ("deleted", 2), ("truncated",)]


@needs_logical_messages
@pytest.mark.parametrize("delivery", ["durable", "both"])
def test_a_consumer_hears_what_is_written_to_a_partition(engine: Engine, client: Client, delivery: Any) -> None:
    client.execute(PARTITIONED)
    orders = declare(Watch("inserted", delivery=delivery))
    install(engine, orders)
    with Listener(engine, orders, durable="partitions"):
        pass  # the slot is there from now on
    assert heard(engine, client, orders, "INSERT INTO orders_2 VALUES (12)", durable="partitions") == [("inserted", 12)]


def test_a_partition_that_is_watched_hears_what_comes_through_its_parent(engine: Engine, client: Client) -> None:
    client.execute(PARTITIONED)
    part = declare("inserted", name="orders_1")
    install(engine, part)
    assert heard(engine, client, part, "INSERT INTO orders VALUES (1), (11)", "INSERT INTO orders_1 VALUES (2)") == [
        ("inserted", 1), ("inserted", 2)
    ]  # fmt: skip


def test_a_table_that_became_partitioned_is_outdated_or_missing_and_put_right(engine: Engine, client: Client) -> None:
    orders = declare("inserted", "truncated")
    orders.create(engine)
    client.execute("ALTER TABLE orders RENAME TO old_orders; ALTER INDEX orders_pkey RENAME TO old_pkey")
    client.execute(PARTITIONED)
    assert {item.state for item in status(engine, orders)} == {"missing"}
    # As a migration by hand would make it.
    client.execute("DROP TABLE old_orders")
    client.execute(
        "CREATE TRIGGER watch_orders_inserted AFTER INSERT ON orders REFERENCING NEW TABLE AS watch_new "
        "EXECUTE FUNCTION watch_orders_inserted()"
    )
    [inserted] = [item for item in status(engine, orders) if item.label == "inserted"]
    assert (inserted.state, inserted.problems) == (
        "outdated",
        (
            "level: 'row', and it was 'statement'",
            "the trigger fires for each statement, not for each row, which misses what is written straight to a "
            "partition",
        ),
    )
    install(engine, orders)
    assert heard(engine, client, orders, "INSERT INTO orders_1 VALUES (1)") == [("inserted", 1)]


def test_row_triggers_that_give_way_leave_none_on_the_partitions(engine: Engine, client: Client) -> None:
    client.execute(PARTITIONED)
    install(engine, declare("inserted"))
    orders = declare(Watch("inserted", level="statement"))
    install(engine, orders)
    assert client.execute("SELECT tgrelid::regclass::text FROM pg_trigger").fetchall() == [("orders",)]
    assert heard(engine, client, orders, "INSERT INTO orders VALUES (1), (11)") == [("inserted", 1), ("inserted", 11)]


def test_a_level_that_was_named_is_kept_and_said_to_miss_writes(
    engine: Engine, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.execute(PARTITIONED)
    orders = declare(Watch("inserted", level="statement"), Watch("deleted", level="row"), "truncated")
    install(engine, orders)
    items = {item.label: item for item in status(engine, orders)}
    assert {item.state for item in items.values()} == {"installed"}
    [problem] = items["inserted"].problems
    assert "the table is partitioned" in problem
    assert "write level='row'" in problem
    assert items["deleted"].problems == items["truncated"].problems == ()
    with records_of("sqlalchemy_watch") as records, Listener(engine, orders) as listener:
        listener.catch_up()  # it has looked at the triggers
    said = [record.getMessage() for record in iter(lambda: records.get() if not records.empty() else None, None)]
    assert any("orders/inserted is installed, but the table is partitioned" in message for message in said)


def test_tables_that_inherit_are_said_to_be_missed_unless_they_are_watched(engine: Engine, client: Client) -> None:
    metadata = MetaData()
    orders = declare("inserted", Watch("updated", level="row"), "truncated", metadata=metadata)
    metadata.create_all(engine)
    client.execute('CREATE SCHEMA "Old"; CREATE TABLE "Old"."Orders" () INHERITS (orders)')
    problems = {item.label: item.problems for item in status(engine, orders)}
    assert problems["inserted"] == (
        "Old.Orders inherit from the table, and its triggers miss what is written straight to them: watch them as well",
    )
    assert "miss their rows" in problems["updated"][0]
    assert problems["truncated"] == ()
    heir = Table("Orders", metadata, Column("id", Integer, primary_key=True), schema="Old")
    watch(heir, "inserted")
    install(engine, metadata)
    assert {item.label: item.problems for item in status(engine, metadata) if item.table == "orders"} == {
        "inserted": (), "updated": problems["updated"], "truncated": ()
    }  # fmt: skip


def test_a_foreign_table_is_refused(engine: Engine, client: Client) -> None:
    client.execute("CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing")
    client.execute("CREATE FOREIGN TABLE orders (id int, total int) SERVER elsewhere")
    orders = declare("inserted")
    with pytest.raises(ConfigurationError, match="orders/inserted can't work: it is a foreign table.*watch it there"):
        install(engine, orders)
    assert [item.state for item in status(engine, orders)] == ["missing"]


def test_a_foreign_table_below_takes_row_triggers(engine: Engine, client: Client) -> None:
    client.execute("CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing")
    orders, bills = declare("inserted", "truncated"), declare(Watch("updated", level="statement"), name="bills")
    for table in (orders, bills):
        table.create(engine)
        client.execute(f"CREATE FOREIGN TABLE more_{table.name} () INHERITS ({table.name}) SERVER elsewhere".encode())
    assert [(item.label, item.state) for item in status(engine, orders)] == [
        ("inserted", "outdated"), ("truncated", "installed")
    ]  # fmt: skip
    install(engine, orders)
    assert [item.state for item in status(engine, orders)] == ["installed"] * 2
    by_row = client.execute("SELECT tgname FROM pg_trigger WHERE tgtype & 1 = 1 AND NOT tgisinternal").fetchall()
    assert by_row == [("watch_orders_inserted",)]
    [item] = status(engine, bills)
    assert "a foreign table inherits from the table" in item.problems[0]
    client.execute("DROP FUNCTION watch_bills_updated CASCADE")
    with pytest.raises(ConfigurationError, match="bills/updated can't work: a foreign table inherits.*level='row'"):
        install(engine, bills)


def test_writes_of_a_foreign_table_below_succeed(engine: Engine, client: Client) -> None:
    """PostgreSQL would refuse them where statement triggers collect rows."""
    if not client.execute("SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw'").fetchall():
        pytest.skip("the server comes without postgres_fdw")
    info = client.info
    here = f"dbname '{info.dbname}', host '{info.host}', port '{info.port}'"
    client.execute("CREATE EXTENSION postgres_fdw; CREATE TABLE far (id int, total int)")
    client.execute(f"CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({here})".encode())
    client.execute(f"CREATE USER MAPPING FOR PUBLIC SERVER here OPTIONS (user '{info.user}')".encode())
    client.execute("CREATE TABLE orders (id int PRIMARY KEY, total int)")
    client.execute("CREATE FOREIGN TABLE far_orders () INHERITS (orders) SERVER here OPTIONS (table_name 'far')")
    client.execute("INSERT INTO orders VALUES (1, 1); INSERT INTO far VALUES (2, 2)")
    orders = declare("updated")
    install(engine, orders)
    assert heard(engine, client, orders, "UPDATE orders SET total = total + 1") == [("updated", 1)]
    assert client.execute("SELECT total FROM far").fetchall() == [(3,)]
