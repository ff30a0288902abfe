"""`schema_translate_map` leads the triggers to the tables that it leads to, and a listener along with them."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from sqlalchemy import Engine, ForeignKey, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched, install, status, uninstall
from sqlalchemy_watch.functions.quoting import quote

pytestmark = pytest.mark.sqlalchemy

Client = psycopg.Connection[Any]

SPECS = ("inserted", Watch("updated", old=True, extra_columns=("name",)), Watch("deleted", level="row"), "truncated")
WRITES = "INSERT INTO {0} VALUES (1, 'a'); UPDATE {0} SET name = 'b'; DELETE FROM {0}; TRUNCATE {0}"
HEARD = ["inserted", "updated", "deleted", "truncated"]

TRIGGERS = """
SELECT tgrelid::regclass::text, tgfoid::regproc::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2
"""


def declare(schema: str | None, *specs: Any) -> tuple[Any, Any]:
    class Base(DeclarativeBase):
        metadata = MetaData(schema=schema)

    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = specs or SPECS
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None]

    return Base, User


def mapped(engine: Engine, **schemas: str | None) -> Engine:
    """The engine with a map; `none` stands for tables without a schema."""
    names = {(None if name == "none" else name): schema for name, schema in schemas.items()}
    return engine.execution_options(schema_translate_map=names)


def places(client: Client) -> set[str]:
    """The tables that have triggers, each with all of its own, which call functions of its schema."""
    found = client.execute(TRIGGERS).fetchall()
    assert all(table.rpartition(".")[0] == function.rpartition(".")[0] for table, function in found)
    tables = [table for table, _ in found]
    assert all(tables.count(table) == len(SPECS) for table in tables)
    return set(tables)


@pytest.mark.parametrize("schema", [None, "a"])
@pytest.mark.parametrize("target", ["tenant", 'Te"n ant'])
def test_create_all_drop_all_install_and_status_follow_the_map(
    engine: Engine, client: Client, schema: str | None, target: str
) -> None:
    quoted = quote(target)
    client.execute(f"CREATE SCHEMA {quoted}; CREATE SCHEMA a".encode())
    Base, User = declare(schema)
    Base.metadata.create_all(engine)  # the namesake, which is left alone
    own = places(client)
    tenants = mapped(engine, **{"none" if schema is None else schema: target})
    Base.metadata.create_all(tenants)
    assert places(client) == own | {f"{quoted}.users"}
    assert [item.state for item in status(tenants, Base)] == ["installed"] * 4
    assert [item.state for item in status(engine, Base)] == ["installed"] * 4
    assert install(tenants, Base) == []

    recorder = Recorder()
    User.watch.connect(recorder)
    with Listener(tenants, Base) as listener:
        client.execute(WRITES.format(f"{quoted}.users").encode())
        client.execute(WRITES.format(*own).encode())
        listener.catch_up()
    assert [event.label for event in recorder.events] == HEARD
    assert {event.schema for event in recorder.events} == {target}
    with Listener(engine, Base) as listener:
        client.execute(WRITES.format(f"{quoted}.users").encode())
        listener.catch_up()
    assert len(recorder.events) == len(HEARD)

    assert len(uninstall(tenants, Base)) == 4
    assert places(client) == own
    assert {item.state for item in status(tenants, Base)} == {"missing"}
    assert len(install(tenants, Base)) == 4
    assert places(client) == own | {f"{quoted}.users"}
    Base.metadata.drop_all(tenants)
    assert places(client) == own
    assert client.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch_%'").fetchone() == (4,)


def test_a_map_given_to_a_connection_is_followed(engine: Engine, client: Client) -> None:
    client.execute("CREATE SCHEMA a; CREATE SCHEMA b; CREATE SCHEMA c")
    Base, _ = declare("a")
    for target in ("b", "c", None):
        with engine.connect().execution_options(schema_translate_map={"a": target}) as connection:
            Base.metadata.create_all(connection)
            assert {item.state for item in status(connection, Base)} == {"installed"}
            connection.commit()
    assert places(client) == {"b.users", "c.users", "users"}


def test_the_root_of_joined_inheritance_is_looked_up_where_the_map_leads(engine: Engine, client: Client) -> None:
    class Base(DeclarativeBase):
        pass

    class Person(Watched, Base):
        __tablename__ = "people"
        __watch__ = ("updated",)
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    class Manager(Person):
        __tablename__ = "managers"
        id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
        budget: Mapped[int]
        __mapper_args__ = {"polymorphic_identity": "manager"}

    client.execute("CREATE SCHEMA tenant")
    Base.metadata.create_all(engine)
    tenants = mapped(engine, none="tenant")
    Base.metadata.create_all(tenants)
    recorder = Recorder()
    Manager.watch.updated.connect(recorder)
    client.execute("INSERT INTO tenant.people VALUES (1, 'manager'); INSERT INTO tenant.managers VALUES (1, 5)")
    client.execute("INSERT INTO people VALUES (1, 'person')")
    with Listener(tenants, Base) as listener:
        client.execute("UPDATE tenant.managers SET budget = 6")
        listener.catch_up()
    assert recorder.senders == [Manager]


def test_nothing_is_said_at_start_where_the_triggers_are_where_the_map_leads(
    engine: Engine, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.execute("CREATE SCHEMA tenant")
    Base, _ = declare(None)
    tenants = mapped(engine, none="tenant")
    Base.metadata.create_all(tenants)
    caplog.set_level(logging.WARNING, "sqlalchemy_watch")
    with Listener(tenants, Base):
        pass
    assert caplog.text == ""
