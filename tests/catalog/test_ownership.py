"""A function that has a watch's name is replaced only where it is this watch's, or left over of its application."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import VERSION, Cluster
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine

from sqlalchemy_watch import (
    ConfigurationError,
    Listener,
    OwnershipError,
    Watch,
    install,
    status,
    uninstall,
    watch,
)
from sqlalchemy_watch.declaring.filing import APPLICATION_KEY
from sqlalchemy_watch.functions.mark import MARK

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

_FUNCTIONS = "SELECT pronamespace::regnamespace::text, proname, prosrc FROM pg_proc WHERE proname LIKE 'watch_%'"


def declare(*specs: Any, name: str = "users", application: str = "", schema: str | None = None) -> Table:
    metadata = MetaData(info={APPLICATION_KEY: application} if application else {})
    table = Table(name, metadata, Column("id", Integer, primary_key=True), Column("total", Integer), schema=schema)
    watch(table, *specs)
    return table


def functions(client: Client) -> list[Any]:
    return sorted(client.execute(_FUNCTIONS).fetchall())


def test_two_applications_hear_tables_whose_names_run_together(engine: Engine, client: Client) -> None:
    recorder = Recorder()
    tables = [declare(Watch("inserted", label="items_inserted"), name="order"), declare("inserted", name="order_items")]
    for table in tables:
        table.metadata.create_all(engine)
        watched = next(iter(signals(table)))
        watched.connect(recorder)
    with Listener(engine, *tables) as listener:
        client.execute('INSERT INTO "order" VALUES (1); INSERT INTO order_items VALUES (2)')
        listener.catch_up()
    assert [(sender.name, event.identity) for sender, event in zip(recorder.senders, recorder.events, strict=True)] == [
        ("order", (1,)), ("order_items", (2,))
    ]  # fmt: skip


def signals(table: Table) -> Any:
    from sqlalchemy_watch.watched import signals_of

    return signals_of(table)


APPLICATIONS = [("shop", "billing"), ("", "billing"), ("shop", "")]


@pytest.mark.parametrize(("theirs", "ours"), APPLICATIONS)
@pytest.mark.parametrize("spec", ["inserted", Watch("inserted", level="row", delivery="both")])
def test_a_watch_of_another_application_is_refused_by_name_and_left_alone(
    engine: Engine, client: Client, theirs: str, ours: str, spec: Any
) -> None:
    first, second = declare("inserted", application=theirs), declare(spec, "deleted", application=ours)
    first.create(engine)
    before = functions(client)
    with pytest.raises(OwnershipError) as caught:
        install(engine, second)
    for words in (
        "public.watch_users_inserted",
        "users/inserted",
        theirs or "without a name",
        ours or "without a name",
    ):
        assert words in str(caught.value)
    assert "label= of its own" in str(caught.value)
    assert functions(client) == before
    items = {item.label: item for item in status(engine, second)}
    assert (items["inserted"].state, items["inserted"].problems[0]) == ("missing", str(caught.value))
    assert uninstall(engine, second) == []
    assert functions(client) == before
    assert [item.state for item in status(engine, first)] == ["installed"]


def test_create_all_and_drop_all_leave_another_applications_watch_alone(engine: Engine, client: Client) -> None:
    first, second = declare("inserted", application="shop"), declare("inserted", application="billing")
    first.create(engine)
    before = functions(client)
    client.execute("DROP TRIGGER watch_users_inserted ON users; ALTER TABLE users RENAME TO people")
    client.execute("CREATE TRIGGER any_name AFTER INSERT ON people REFERENCING NEW TABLE AS watch_new "
                   "EXECUTE FUNCTION watch_users_inserted()")  # fmt: skip
    with pytest.raises(OwnershipError, match="is that of the watch users/inserted of the application 'shop'"):
        second.metadata.create_all(engine)
    client.execute("CREATE TABLE users (id int PRIMARY KEY, total int)")
    second.metadata.drop_all(engine)
    assert functions(client) == before


@pytest.mark.parametrize("is_trigger", [False, True])
def test_a_strangers_function_is_refused(engine: Engine, client: Client, is_trigger: bool) -> None:
    table = declare("inserted")
    client.execute(
        "CREATE FUNCTION watch_users_inserted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    if is_trigger:
        client.execute("CREATE TABLE users (id int PRIMARY KEY, total int)")
        client.execute(
            "CREATE TRIGGER watch_users_inserted AFTER INSERT ON users EXECUTE FUNCTION watch_users_inserted()"
        )
    before = functions(client)
    for action in (lambda: install(engine, table), lambda: table.metadata.create_all(engine)):
        if not is_trigger:
            with pytest.raises((OwnershipError, ConfigurationError), match="not ours|does not exist"):
                action()
    if is_trigger:
        with pytest.raises(OwnershipError, match="rename or drop the function, or give the watch another label="):
            install(engine, table)
        uninstall(engine, table)
        table.metadata.drop_all(engine)
    assert functions(client) == before


def test_targets_given_together_that_need_one_name_are_refused_before_anything_else(engine: Engine) -> None:
    tables = declare("inserted", application="shop"), declare("inserted", application="billing")
    for action in (
        lambda: Listener(engine, *tables),
        lambda: install(engine, *tables),
        lambda: status(engine, *tables),
    ):
        with pytest.raises(ConfigurationError, match=r"'users'/'inserted' .* would both have .*another label="):
            action()
    same = declare("inserted"), declare("inserted")
    Listener(engine, *same)


def test_a_schema_spelled_in_another_way_is_the_same_schema(engine: Engine, client: Client) -> None:
    """One declares `users`, the other `public.users`: one place, under two applications' names."""
    one, other = declare("inserted", application="shop"), declare("inserted", application="billing", schema="public")
    one.create(engine)
    with pytest.raises(OwnershipError, match="label= of its own"):
        install(engine, other)
    # The same application may change its mind.
    again = declare("inserted", application="shop", schema="public")
    assert [item.label for item in install(engine, again)] == ["inserted"]
    assert [item.state for item in status(engine, again)] == ["installed"]


@pytest.mark.parametrize("gone", ["its trigger", "its table"])
def test_a_function_left_over_of_the_same_application_is_taken_over(engine: Engine, client: Client, gone: str) -> None:
    old = declare("inserted")
    old.create(engine)
    client.execute("DROP TRIGGER watch_users_inserted ON users" if gone == "its trigger" else "DROP TABLE users")
    mark_another_watch(client, "watch_users_inserted", '"table":"users","label":"inserted"', '"table":"u","label":"x"')
    new = declare("inserted")
    new.create(engine, checkfirst=True)
    install(engine, new)
    assert [item.state for item in status(engine, new)] == ["installed"]


def mark_another_watch(client: Client, function: str, fields: str, others: str) -> None:
    """Make a function that of another watch, as a table and label with the same name once had it."""
    [(body,)] = client.execute("SELECT prosrc FROM pg_proc WHERE proname = %s", [function]).fetchall()
    assert MARK in body
    assert fields in body
    literal = psycopg.sql.Literal(body.replace(fields, others)).as_string()
    client.execute(f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {literal}".encode())


def test_a_left_over_whose_trigger_still_calls_the_function_has_to_go_first(engine: Engine, client: Client) -> None:
    """Its writes would be heard as those of the other table."""
    old, new = declare("inserted", name="orders"), declare("inserted")
    old.create(engine)
    client.execute("ALTER FUNCTION watch_orders_inserted() RENAME TO watch_users_inserted")
    Table("orders", new.metadata, Column("id", Integer, primary_key=True))
    client.execute("CREATE TABLE users (id int PRIMARY KEY, total int)")
    before = functions(client)
    with pytest.raises(OwnershipError, match=r"orders/inserted calls.*remove_orphaned=True"):
        install(engine, new.metadata)
    assert functions(client) == before
    install(engine, new.metadata, remove_orphaned=True)
    assert {item.state for item in status(engine, new.metadata)} == {"installed"}
    client.execute("INSERT INTO orders VALUES (1)")
    assert client.execute("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").fetchone() == (1,)


@pytest.fixture
def role(client: Client, database: str) -> Any:
    """A role that may make triggers on a table of others, and functions in its schema."""
    name = f"maker_{database}"
    client.execute(f"CREATE ROLE {name} LOGIN; GRANT CREATE ON SCHEMA public TO {name}")
    yield name
    client.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_a_role_that_may_make_triggers_installs_again_and_again(
    cluster: Cluster, database: str, client: Client, role: str, driver: str
) -> None:
    client.execute("CREATE TABLE users (id int PRIMARY KEY, total int)")
    client.execute(f"GRANT TRIGGER, SELECT ON users TO {role}")
    engine = create_engine(cluster.url(database, driver).replace("postgres@", f"{role}@"))
    tables = [declare("inserted", spec) for spec in ("deleted", Watch("deleted", level="row"))]
    assert len(install(engine, tables[0])) == 2
    assert install(engine, tables[0]) == []
    if VERSION >= 14:
        client.execute("ALTER TABLE users DISABLE TRIGGER watch_users_inserted")
        assert [item.label for item in install(engine, tables[1])] == ["inserted", "deleted"]
        assert {item.state for item in status(engine, tables[1])} == {"installed"}
    # What is another role's is left alone where nothing has to change, and its owner is named where something has.
    client.execute("ALTER FUNCTION watch_users_inserted() OWNER TO postgres")
    current = tables[VERSION >= 14]
    assert install(engine, current) == []
    changed = declare(Watch("inserted", extra_columns=("total",)), *(["deleted"] if VERSION < 14 else []))
    with pytest.raises(OwnershipError, match=r"users/inserted \(must be owner of function .*a member of 'postgres'"):
        install(engine, changed)
    engine.dispose()


def test_a_role_without_the_right_is_told_who_has_it(
    cluster: Cluster, database: str, client: Client, role: str
) -> None:
    client.execute("CREATE TABLE users (id int PRIMARY KEY, total int)")
    engine = create_engine(cluster.url(database, "psycopg").replace("postgres@", f"{role}@"))
    with pytest.raises(OwnershipError, match=r"\(permission denied for table users\): do it as a member of 'postgres'"):
        install(engine, declare("inserted"))
    assert functions(client) == []
    engine.dispose()
