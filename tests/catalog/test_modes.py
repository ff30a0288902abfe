"""The mode of a trigger is the one that is declared; without `fires` it is what somebody chose by hand."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from postgres import VERSION, Cluster
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine, create_mock_engine
from sqlalchemy.schema import ExecutableDDLElement

from sqlalchemy_watch import OwnershipError, Watch, install, status, watch
from sqlalchemy_watch.declaring.dialect import POSTGRESQL

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

OPERATIONS: tuple[Any, ...] = ("inserted", "updated", "deleted", "truncated")
ALWAYS = tuple(Watch(operation, fires="always") for operation in OPERATIONS)

BY_ROW = Watch("inserted", level="row")
ALWAYS_BY_ROW = Watch("inserted", level="row", fires="always")

PARTITIONED = """
CREATE TABLE users (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (10);
CREATE TABLE users_2 PARTITION OF users FOR VALUES FROM (10) TO (30) PARTITION BY RANGE (id);
CREATE TABLE users_21 PARTITION OF users_2 FOR VALUES FROM (10) TO (20)
"""


def declare(*specs: Any, name: str = "users", schema: str | None = None) -> Table:
    table = Table(name, MetaData(), Column("id", Integer, primary_key=True), schema=schema)
    watch(table, *specs)
    return table


def modes(client: Client, name: str = "watch_users_inserted") -> dict[str, str]:
    """The mode of a trigger on each table that has it."""
    rows = client.execute(
        "SELECT tgrelid::regclass::text, tgenabled::text FROM pg_trigger WHERE tgname = %s ORDER BY 1", [name]
    )
    return dict(rows.fetchall())


def states(engine: Engine, table: Table) -> list[tuple[str, tuple[str, ...]]]:
    return [(item.state, item.problems) for item in status(engine, table)]


def by_mock(engine: Engine, table: Table) -> None:
    """Make the table and its triggers by the statements that a mock engine is given."""
    statements: list[ExecutableDDLElement] = []
    mock = create_mock_engine("postgresql://", lambda statement, *args, **kwargs: statements.append(statement))
    table.metadata.create_all(mock)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(str(statement.compile(dialect=POSTGRESQL)))


def by_install(engine: Engine, table: Table) -> None:
    Table("users", MetaData(), Column("id", Integer, primary_key=True)).create(engine)
    install(engine, table)


MAKERS = {"create_all": lambda engine, table: table.metadata.create_all(engine), "mock": by_mock, "install": by_install}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_always_is_made_for_every_operation_and_by_row(engine: Engine, client: Client, make: Any) -> None:
    table = declare(*ALWAYS)
    make(engine, table)
    made = client.execute(
        "SELECT tgname, tgenabled::text, tgtype::int & 1 FROM pg_trigger WHERE tgrelid = 'users'::regclass ORDER BY 1"
    ).fetchall()
    assert made == [
        ("watch_users_deleted", "A", 1), ("watch_users_inserted", "A", 1), ("watch_users_truncated", "A", 0),
        ("watch_users_updated", "A", 1),
    ]  # fmt: skip
    assert states(engine, table) == [("installed", ())] * 4
    assert install(engine, table) == []


def test_always_in_the_schema_where_the_map_leads(engine: Engine, client: Client) -> None:
    client.execute("CREATE SCHEMA tenant")
    table = declare(*ALWAYS)
    tenants = engine.execution_options(schema_translate_map={None: "tenant"})
    table.metadata.create_all(tenants)
    assert modes(client) == {"tenant.users": "A"}
    assert states(tenants, table) == [("installed", ())] * 4


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_names_reach_the_server_as_they_are(cluster: Cluster, database: str, client: Client, driver: str) -> None:
    engine = create_engine(cluster.url(database, driver))
    table = declare("inserted", ALWAYS_BY_ROW_AS_WELL, name='100% "it\'s":x')
    table.metadata.create_all(engine)
    assert [item.state for item in status(engine, table)] == ["installed"] * 2
    client.execute(
        "DO $$ BEGIN EXECUTE format('ALTER TABLE %I ENABLE TRIGGER ALL', (SELECT relname FROM pg_class "
        "WHERE relkind = 'r' AND relname LIKE '100%')); END $$"
    )
    assert [item.state for item in status(engine, table)] == ["installed", "outdated"]
    install(engine, table)
    assert [item.state for item in status(engine, table)] == ["installed"] * 2
    engine.dispose()


ALWAYS_BY_ROW_AS_WELL = Watch("inserted", label="always", fires="always")


@pytest.mark.parametrize(("by_hand", "mode"), [("ENABLE ALWAYS", "A"), ("ENABLE REPLICA", "R")])
@pytest.mark.parametrize("spec", ["inserted", BY_ROW])
def test_what_somebody_chose_is_no_difference_and_kept(
    engine: Engine, client: Client, by_hand: str, mode: str, spec: Any
) -> None:
    table = declare(spec)
    table.create(engine)
    client.execute(f"ALTER TABLE users {by_hand} TRIGGER watch_users_inserted".encode())
    assert states(engine, table) == [("installed", ())]
    assert install(engine, table) == []
    other = declare(Watch("inserted", level="statement" if spec is BY_ROW else "row"))
    assert [item.state for item in install(engine, other)] == ["outdated"]  # another trigger takes its place
    assert modes(client) == {"users": mode}
    assert states(engine, other) == [("installed", ())]


@pytest.mark.parametrize(("by_hand", "mode"), [("ENABLE ALWAYS", "A"), ("ENABLE REPLICA", "R")])
def test_what_somebody_chose_is_kept_where_the_trigger_of_a_partitioned_table_is_replaced(
    engine: Engine, client: Client, by_hand: str, mode: str
) -> None:
    client.execute(PARTITIONED)
    install(engine, declare("inserted"))
    client.execute(f"ALTER TABLE users {by_hand} TRIGGER watch_users_inserted".encode())
    assert states(engine, declare("inserted")) == [("installed", ())]
    install(engine, declare(Watch("inserted", level="statement")))
    assert modes(client) == {"users": mode}
    install(engine, declare("inserted"))
    assert modes(client) == dict.fromkeys(["users", "users_1", "users_2", "users_21"], mode)


@pytest.mark.parametrize(
    ("by_hand", "problem"),
    [
        ("ENABLE", "the trigger does not fire always"),
        ("ENABLE REPLICA", "the trigger does not fire always"),
        ("DISABLE", "the trigger is disabled"),
    ],
)
def test_another_mode_than_always_is_put_right(engine: Engine, client: Client, by_hand: str, problem: str) -> None:
    table = declare(*ALWAYS)
    table.create(engine)
    for operation in OPERATIONS:
        client.execute(f"ALTER TABLE users {by_hand} TRIGGER watch_users_{operation}".encode())
    assert states(engine, table) == [("outdated", (problem,))] * 4
    assert len(install(engine, table)) == 4
    assert [modes(client, f"watch_users_{operation}") for operation in OPERATIONS] == [{"users": "A"}] * 4
    assert states(engine, table) == [("installed", ())] * 4


def test_a_trigger_that_is_replaced_fires_always_again(engine: Engine, client: Client) -> None:
    declare(Watch("inserted", level="statement", fires="always")).create(engine)
    table = declare(Watch("inserted", fires="always"))
    [item] = install(engine, table)
    assert item.problems == (
        "level: 'row', and it was 'statement'",
        "the trigger fires for each statement, not for each row, which misses what a subscription writes",
    )
    assert modes(client) == {"users": "A"}


def test_a_disabled_trigger_stays_a_difference_without_fires(engine: Engine, client: Client) -> None:
    table = declare("inserted")
    table.create(engine)
    client.execute("ALTER TABLE users DISABLE TRIGGER watch_users_inserted")
    assert states(engine, table) == [("outdated", ("the trigger is disabled",))]
    install(engine, table)
    assert modes(client) == {"users": "O"}


@pytest.mark.parametrize("specs", [("inserted", Watch("inserted", fires="always")), (BY_ROW, ALWAYS_BY_ROW)])
def test_always_that_is_declared_no_more_is_taken_back(engine: Engine, client: Client, specs: tuple[Any, Any]) -> None:
    without, always = map(declare, specs)
    without.create(engine)
    install(engine, always)
    assert modes(client) == {"users": "A"}
    [item] = status(engine, without)
    assert "fires: None, and it was 'always'" in item.problems
    assert "the trigger fires always" in item.problems
    install(engine, without)
    assert modes(client) == {"users": "O"}
    assert states(engine, without) == [("installed", ())]
    client.execute("ALTER TABLE users ENABLE ALWAYS TRIGGER watch_users_inserted")  # from now on it is somebody's own
    assert states(engine, without) == [("installed", ())]


def test_what_somebody_chose_in_place_of_always_is_kept_where_that_is_declared_no_more(
    engine: Engine, client: Client
) -> None:
    declare(ALWAYS_BY_ROW).create(engine)
    client.execute("ALTER TABLE users ENABLE REPLICA TRIGGER watch_users_inserted")
    table = declare(BY_ROW)
    [item] = install(engine, table)
    assert item.problems == ("fires: None, and it was 'always'",)
    assert modes(client) == {"users": "R"}


def test_partitions_fire_always_too_those_that_come_later_as_well(engine: Engine, client: Client) -> None:
    client.execute(PARTITIONED)
    table = declare(*ALWAYS)
    install(engine, table)
    client.execute("CREATE TABLE users_22 PARTITION OF users_2 FOR VALUES FROM (20) TO (30)")
    client.execute("CREATE TABLE users_3 (id int PRIMARY KEY)")
    client.execute("ALTER TABLE users ATTACH PARTITION users_3 FOR VALUES FROM (30) TO (40)")
    tables = ["users", "users_1", "users_2", "users_21", "users_22", "users_3"]
    assert [modes(client, f"watch_users_{operation}") for operation in OPERATIONS] == [
        *[dict.fromkeys(tables, "A")] * 3, {"users": "A"}
    ]  # fmt: skip
    assert states(engine, table) == [("installed", ())] * 4
    client.execute("ALTER TABLE users DETACH PARTITION users_3")
    assert modes(client) == dict.fromkeys(tables[:-1], "A")
    assert states(engine, table) == [("installed", ())] * 4


@pytest.mark.parametrize("partition", ["users_1", "users_21"])
@pytest.mark.parametrize(
    ("spec", "by_hand", "problem"),
    [
        (Watch("inserted", fires="always"), "ENABLE", "the trigger does not fire always on a partition"),
        (Watch("inserted", fires="always"), "DISABLE", "the trigger is disabled on a partition"),
        ("inserted", "DISABLE", "the trigger is disabled on a partition"),
    ],
)
def test_a_partition_whose_trigger_was_switched_by_hand_is_put_right(
    engine: Engine, client: Client, partition: str, spec: Any, by_hand: str, problem: str
) -> None:
    client.execute(PARTITIONED)
    table = declare(spec)
    install(engine, table)
    right = modes(client)
    client.execute(f"ALTER TABLE {partition} {by_hand} TRIGGER ALL".encode())  # as one does who loads much into it
    assert states(engine, table) == [("outdated", (problem,))]
    assert [item.state for item in install(engine, table)] == ["outdated"]
    assert modes(client) == right
    assert states(engine, table) == [("installed", ())]


@pytest.mark.parametrize("by_hand", ["ENABLE ALWAYS", "ENABLE REPLICA"])
def test_what_somebody_chose_for_a_partition_is_no_difference(engine: Engine, client: Client, by_hand: str) -> None:
    client.execute(PARTITIONED)
    table = declare("inserted")
    install(engine, table)
    client.execute(f"ALTER TABLE users_1 {by_hand} TRIGGER watch_users_inserted".encode())
    assert states(engine, table) == [("installed", ())]


def test_triggers_of_a_partitions_own_say_nothing_about_the_mode(engine: Engine, client: Client) -> None:
    client.execute(PARTITIONED)
    table = declare(Watch("inserted", fires="always"), Watch("truncated", fires="always"))
    install(engine, table)
    client.execute("CREATE TRIGGER watch_users_truncated AFTER TRUNCATE ON users_1 "
                   "EXECUTE FUNCTION watch_users_truncated()")  # fmt: skip
    client.execute("CREATE TRIGGER another AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION watch_users_inserted()")
    assert [state for state in states(engine, table) if state[0] == "outdated"] == []


def test_partitions_are_looked_at_without_a_lock_on_them(engine: Engine, client: Client) -> None:
    client.execute(PARTITIONED)
    table = declare(Watch("inserted", fires="always"))
    install(engine, table)
    with client.transaction(), engine.connect() as connection:
        client.execute("LOCK TABLE ONLY users_1 IN ACCESS EXCLUSIVE MODE; LOCK TABLE users_21 IN ACCESS EXCLUSIVE MODE")
        connection.exec_driver_sql("SET lock_timeout = '1s'")
        assert [item.state for item in status(connection, table)] == ["installed"]


@pytest.mark.skipif(VERSION < 14, reason="PostgreSQL 13 asks for the owner to replace a trigger")
def test_a_role_that_is_not_the_tables_owner_is_told_who_can(
    engine: Engine, client: Client, cluster: Cluster, database: str
) -> None:
    client.execute("CREATE TABLE users (id int PRIMARY KEY); CREATE ROLE maker LOGIN")
    try:
        client.execute("GRANT TRIGGER ON users TO maker; GRANT CREATE ON SCHEMA public TO maker")
        as_maker = create_engine(cluster.url(database, "psycopg").replace("postgres@", "maker@"))
        install(as_maker, declare("inserted"))  # which takes no owner
        with pytest.raises(OwnershipError, match="users/inserted.*as a member of 'postgres'"):
            install(as_maker, declare(ALWAYS_BY_ROW))
        assert modes(client) == {"users": "O"}
        client.execute("ALTER TABLE users ENABLE ALWAYS TRIGGER watch_users_inserted")
        with pytest.raises(OwnershipError):  # and what was chosen is not lost by it
            install(as_maker, declare(BY_ROW))
        assert modes(client) == {"users": "A"}
        as_maker.dispose()
    finally:
        client.execute("DROP OWNED BY maker CASCADE; DROP ROLE maker")


def test_what_always_misses_is_said(engine: Engine) -> None:
    table = declare(
        Watch("inserted", level="statement", fires="always"), Watch("updated", fires="always"),
        Watch("truncated", level="statement", fires="always"), Watch("deleted", level="statement"),
    )  # fmt: skip
    table.create(engine)
    items = {item.label: item for item in status(engine, table)}
    assert {item.state for item in items.values()} == {"installed"}
    [problem] = items["inserted"].problems
    assert "at statement level miss what a subscription writes" in problem
    assert "write level='row'" in problem
    assert [items[label].problems for label in ("updated", "truncated", "deleted")] == [(), (), ()]
