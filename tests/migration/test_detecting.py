"""Differences are found, put right, and brought back by the downgrade byte for byte."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from postgres import VERSION
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import OwnershipError, Watch, Watched, install, status, uninstall
from sqlalchemy_watch.declaring.filing import APPLICATION_KEY
from sqlalchemy_watch.functions.mark import TEMPLATE_VERSION

from .project import Project, body_of, functions_in, is_empty, snapshot, triggers_in

pytestmark = pytest.mark.server

LOGGER = "alembic.autogenerate.sqlalchemy_watch"


def declare(*watches: Any, metadata: MetaData | None = None, schema: str | None = None) -> type[DeclarativeBase]:
    """Declare users, watched so."""
    shared = metadata or MetaData()

    class Base(DeclarativeBase):
        metadata = shared

    class User(Watched, Base):
        __tablename__ = "users"
        __table_args__ = {"schema": schema}
        __watch__ = watches
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None]

    return Base


TAMPERING = {
    "body edited": [
        """DO $do$ DECLARE body text; BEGIN
             SELECT replace(prosrc, 'END\n', E'  -- 100% \\there:now \\\\:x  \nEND\n') INTO body
             FROM pg_proc WHERE proname = 'watch_users_updated';
             EXECUTE 'CREATE OR REPLACE FUNCTION watch_users_updated() RETURNS trigger LANGUAGE plpgsql AS '
               || quote_literal(body);
           END $do$"""
    ],
    "trigger disabled": ["ALTER TABLE users DISABLE TRIGGER watch_users_updated"],
    "settings added": ["ALTER FUNCTION watch_users_updated() SET search_path = pg_temp, \"odd: %name\""],
    "recreated for each row": [
        "DROP TRIGGER watch_users_updated ON users",
        "CREATE TRIGGER watch_users_updated BEFORE UPDATE OR DELETE ON users FOR EACH ROW "
        "EXECUTE FUNCTION watch_users_updated()",
    ],
    "recreated with a condition": [
        "DROP TRIGGER watch_users_updated ON users",
        "CREATE TRIGGER watch_users_updated AFTER UPDATE OF name, id ON users FOR EACH ROW "
        "WHEN (new.name LIKE 'a%: EXECUTE FUNCTION ON public.users ') "
        "EXECUTE FUNCTION watch_users_updated('it''s', '100%:x')",
    ],
    "recreated as a constraint": [
        "DROP TRIGGER watch_users_updated ON users",
        "CREATE CONSTRAINT TRIGGER watch_users_updated AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION watch_users_updated()",
    ],
    "trigger dropped": ["DROP TRIGGER watch_users_updated ON users"],
    "both dropped": ["DROP FUNCTION watch_users_updated() CASCADE"],
    "trigger renamed": ["ALTER TRIGGER watch_users_updated ON users RENAME TO mine"],
    "calls another watch's function": [
        "DROP TRIGGER watch_users_updated ON users",
        "CREATE TRIGGER watch_users_updated AFTER UPDATE ON users EXECUTE FUNCTION watch_users_inserted()",
    ],
    "function called twice": [
        "CREATE TRIGGER another AFTER DELETE ON users EXECUTE FUNCTION watch_users_updated()",
    ],
    "everything at once": [
        "ALTER FUNCTION watch_users_updated() RENAME TO was_updated",
        "GRANT EXECUTE ON FUNCTION was_updated() TO PUBLIC",
        "GRANT EXECUTE ON FUNCTION was_updated() TO pg_monitor WITH GRANT OPTION",
        "ALTER TABLE users DISABLE TRIGGER watch_users_updated",
    ],
}  # fmt: skip


@pytest.mark.parametrize("statements", TAMPERING.values(), ids=TAMPERING)
def test_tampering_is_put_right_and_brought_back(
    project: Project, client: psycopg.Connection[Any], statements: list[str]
) -> None:
    project.metadata = declare("inserted", "updated").metadata
    project.revision()
    project.upgrade()
    right = snapshot(client)
    for statement in statements:
        client.execute(statement)
    tampered = snapshot(client)
    assert tampered != right
    assert project.differences()
    script = project.revision()
    assert "op.create_table" not in script.read_text()
    project.upgrade()
    assert snapshot(client) == right
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == tampered
    project.upgrade()
    assert snapshot(client) == right


@pytest.mark.parametrize("renamed", [False, True])
def test_a_function_with_other_rights_is_put_right_and_never_made_again(
    project: Project, client: psycopg.Connection[Any], renamed: bool
) -> None:
    project.metadata = declare("inserted", "updated").metadata
    project.revision()
    project.upgrade()
    right = snapshot(client)
    client.execute("ALTER FUNCTION watch_users_updated() SECURITY DEFINER")
    if renamed:
        client.execute("ALTER FUNCTION watch_users_updated() RENAME TO watch_users_was")
    script = project.revision()
    assert "SECURITY DEFINER" not in script.read_text()
    project.upgrade()
    assert snapshot(client) == right
    project.downgrade()
    assert "SECURITY DEFINER" not in str(snapshot(client))
    project.upgrade()
    assert snapshot(client) == right


def test_a_trigger_that_is_switched_off_is_switched_on_again(project: Project, client: psycopg.Connection[Any]) -> None:
    project.metadata = declare("updated").metadata
    project.revision()
    project.upgrade()
    client.execute("ALTER TABLE users DISABLE TRIGGER watch_users_updated")
    assert project.differences() == [("change_watch", "users", "updated", "the trigger is disabled")]
    script = project.revision()
    assert "op.execute('ALTER TABLE users ENABLE TRIGGER watch_users_updated')" in body_of(script)
    assert "op.execute('ALTER TABLE users DISABLE TRIGGER watch_users_updated')" in body_of(script, "downgrade")
    assert body_of(script).count("op.execute") == 1


@pytest.mark.parametrize("dropped", ["the watch", "its trigger too", "its table too"])
def test_left_overs_go_and_come_back(project: Project, client: psycopg.Connection[Any], dropped: str) -> None:
    project.metadata = declare("inserted", "updated").metadata
    project.revision()
    project.upgrade()
    if dropped == "its trigger too":
        client.execute("DROP TRIGGER watch_users_updated ON users")
    if dropped == "its table too":
        client.execute("DROP TABLE users")
        project.metadata = MetaData()
    else:
        project.metadata = declare("inserted").metadata
    before = snapshot(client)
    script = project.revision()
    upgrade = body_of(script)
    assert upgrade.index("DROP TRIGGER IF EXISTS watch_users_updated ON users") < upgrade.index(
        "DROP FUNCTION IF EXISTS watch_users_updated()"
    )
    project.upgrade()
    assert "updated" not in str(snapshot(client))
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before


def test_a_dropped_table_takes_its_watches_with_it_and_brings_them_back(
    project: Project, client: psycopg.Connection[Any]
) -> None:
    project.metadata = declare("inserted", Watch("updated", label="renamed", trigger_columns=["name"])).metadata
    project.revision()
    project.upgrade()
    before = snapshot(client)
    project.metadata = MetaData()
    script = project.revision()
    upgrade, downgrade = body_of(script), body_of(script, "downgrade")
    assert upgrade.index("DROP FUNCTION IF EXISTS watch_users_renamed()") < upgrade.index("op.drop_table")
    assert downgrade.index("op.create_table") < downgrade.index("CREATE FUNCTION watch_users_renamed()")
    project.upgrade()
    assert functions_in(snapshot(client)) == triggers_in(snapshot(client)) == []
    project.downgrade()
    assert snapshot(client) == before


def test_a_function_of_an_earlier_template_is_replaced_and_brought_back(
    project: Project, client: psycopg.Connection[Any]
) -> None:
    project.metadata = declare("updated").metadata
    project.revision()
    project.upgrade()
    [(body,)] = client.execute("SELECT prosrc FROM pg_proc WHERE proname = 'watch_users_updated'").fetchall()
    earlier = psycopg.sql.Literal(body.replace(f"_watch {TEMPLATE_VERSION} ", "_watch 0 ")).as_string()
    client.execute(
        f"CREATE OR REPLACE FUNCTION watch_users_updated() RETURNS trigger LANGUAGE plpgsql AS {earlier}".encode()
    )
    before = snapshot(client)
    [(verb, table, label, reason)] = project.differences()
    assert (verb, table, label) == ("change_watch", "users", "updated")
    assert reason == f"the function is of template version 0, and this library has {TEMPLATE_VERSION}"
    script = project.revision()
    assert "TRIGGER" not in body_of(script)
    project.upgrade()
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before


def test_status_and_check_agree(project: Project, client: psycopg.Connection[Any], engine: Engine) -> None:
    base = declare("inserted", "updated", "deleted")
    base.metadata.create_all(engine)
    project.metadata = base.metadata
    project.revision()
    project.upgrade()
    client.execute("ALTER TABLE users DISABLE TRIGGER watch_users_inserted")
    client.execute("DROP TRIGGER watch_users_deleted ON users")
    expected = {(item.table, item.label) for item in status(engine, base) if item.state != "installed"}
    assert expected == {("users", "inserted"), ("users", "deleted")}
    assert {diff[1:3] for diff in project.differences()} == expected
    assert install(engine, base)
    assert project.differences() == []


@pytest.mark.parametrize("by", ["create_all", "install"])
def test_a_project_that_moves_in_gets_an_empty_revision(
    project: Project, client: psycopg.Connection[Any], engine: Engine, by: str
) -> None:
    base = declare("inserted", Watch("updated", label="renamed", trigger_columns=["name"], old=True), "truncated")
    if by == "create_all":
        base.metadata.create_all(engine)
    else:
        client.execute("CREATE TABLE users (id serial PRIMARY KEY, name varchar)")
        install(engine, base)
    project.metadata = base.metadata
    assert is_empty(project.revision())


def test_a_function_whose_mark_does_not_parse_is_reported_by_name_and_left_alone(
    project: Project, client: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    project.metadata = declare("inserted", "updated").metadata
    project.revision()
    project.upgrade()
    for name in ("watch_users_updated", "watch_gone_inserted"):
        client.execute(
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$\n"
            "-- sqlalchemy_watch 1 {broken\nBEGIN RETURN NULL; END $$"
        )
    before = snapshot(client)
    caplog.set_level(logging.WARNING, LOGGER)
    assert is_empty(project.revision())
    project.upgrade()
    assert snapshot(client) == before
    for name in ("watch_users_updated", "watch_gone_inserted"):
        assert f"public.{name} has the mark of sqlalchemy_watch" in caplog.text


def test_a_watch_that_needs_a_virtual_generated_column_is_warned_of(
    project: Project, client: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Servers before 18 have stored generated columns alone: nothing is told there."""
    project.metadata = declare(Watch("inserted", extra_columns=("name",)), "deleted").metadata
    project.revision()
    project.upgrade()
    client.execute("ALTER TABLE users DROP COLUMN name")
    kind = "VIRTUAL" if VERSION >= 18 else "STORED"
    client.execute(f"ALTER TABLE users ADD COLUMN name varchar GENERATED ALWAYS AS (repeat('x', id)) {kind}")
    caplog.set_level(logging.WARNING, LOGGER)
    project.revision()
    warnings = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(warnings) == (VERSION >= 18)
    for warning in warnings:
        assert "the watch users/inserted can't work: 'name' is a virtual generated column" in warning
        assert "persisted=True" in warning


FOREIGN = """
CREATE FUNCTION watch_users_deleted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION watch_users_inserted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN /* like -- sqlalchemy_watch 1 {"application": ""} */ RETURN NULL; END';
CREATE TRIGGER watch_users_deleted AFTER DELETE ON users EXECUTE FUNCTION watch_users_deleted();
CREATE TRIGGER watch_users_updated AFTER UPDATE ON users EXECUTE FUNCTION audit();
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON users EXECUTE FUNCTION audit();
"""


def test_hand_written_triggers_and_functions_are_never_in_a_migration(
    project: Project, client: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Triggers and functions are named like two watches that are declared, and like one that is not."""
    client.execute("CREATE TABLE users (id serial PRIMARY KEY, name varchar)")
    client.execute(FOREIGN)
    project.metadata = declare("inserted", "updated", "truncated").metadata
    before = snapshot(client)
    caplog.set_level(logging.WARNING, LOGGER)
    script = project.revision()
    for name in ("watch_users_deleted", "watch_users_inserted", "watch_users_updated", "audit"):
        assert name not in body_of(script) + body_of(script, "downgrade")
    assert "users/inserted is not in the migration" in caplog.text
    assert "users/updated is not in the migration" in caplog.text
    project.upgrade()
    assert set(before) < set(snapshot(client))
    project.downgrade()
    assert snapshot(client) == before


def test_a_foreign_trigger_that_calls_our_function_stays(project: Project, client: psycopg.Connection[Any]) -> None:
    project.metadata = declare("inserted").metadata
    project.revision()
    project.upgrade()
    client.execute("CREATE TABLE theirs (id int)")
    client.execute("CREATE TRIGGER theirs AFTER DELETE ON theirs EXECUTE FUNCTION watch_users_inserted()")
    project.configure("include_object=lambda o, name, *rest: name != 'theirs'")
    assert project.differences() == []
    project.metadata = declare().metadata
    project.revision()
    before = snapshot(client)
    project.upgrade()
    assert len(triggers_in(snapshot(client))) == 1
    project.downgrade()
    assert snapshot(client) == before


@pytest.mark.parametrize("named", [True, False])
def test_another_applications_watches_are_never_in_a_migration(
    project: Project, client: psycopg.Connection[Any], engine: Engine, named: bool
) -> None:
    theirs = MetaData(info={APPLICATION_KEY: "theirs"} if named else {})

    class TheirBase(DeclarativeBase):
        metadata = theirs

    class Order(Watched, TheirBase):
        __tablename__ = "orders"
        __watch__ = ("inserted", "updated")
        id: Mapped[int] = mapped_column(primary_key=True)

    theirs.create_all(engine)
    if named:  # also on a table that both applications watch, and where nothing calls it any more
        declare(Watch("updated", label="theirs"), metadata=theirs).metadata.create_all(engine)
        client.execute("DROP TRIGGER watch_orders_updated ON orders")
    before = snapshot(client)
    project.configure("include_object=lambda o, name, *rest: name != 'orders'")
    ours = MetaData(info={APPLICATION_KEY: "ours"} if named else {})
    project.metadata = declare("inserted", metadata=ours).metadata
    script = project.revision()
    assert "orders" not in script.read_text()
    assert "theirs" not in script.read_text()
    project.upgrade()
    assert set(before) < set(snapshot(client))
    project.metadata = declare(metadata=MetaData(info=ours.info.copy())).metadata
    project.metadata.info.pop("sqlalchemy_watch", None)
    project.revision()
    project.upgrade()
    assert functions_in(snapshot(client)) == functions_in(before)


def test_uninstall_keeps_a_function_that_a_foreign_trigger_calls(
    client: psycopg.Connection[Any], engine: Engine
) -> None:
    base = declare("inserted", "updated")
    base.metadata.create_all(engine)
    client.execute("CREATE TRIGGER second AFTER DELETE ON users EXECUTE FUNCTION watch_users_inserted()")
    client.execute("CREATE TABLE theirs (id int)")
    client.execute("CREATE TRIGGER theirs AFTER DELETE ON theirs EXECUTE FUNCTION watch_users_updated()")
    assert {(item.state, item.trigger_name) for item in uninstall(engine, base)} == {
        ("installed", "watch_users_inserted"),
        ("installed", "watch_users_updated"),
        ("orphaned", "second"),
    }
    [function], [trigger] = functions_in(snapshot(client)), triggers_in(snapshot(client))
    assert "watch_users_updated" in function[1]
    assert "ON public.theirs" in trigger[1]


def test_install_refuses_a_foreign_function_whose_name_a_moved_trigger_needs(
    client: psycopg.Connection[Any], engine: Engine
) -> None:
    base = declare("inserted")
    base.metadata.create_all(engine)
    client.execute("ALTER FUNCTION watch_users_inserted() RENAME TO moved")
    client.execute(
        "CREATE FUNCTION watch_users_inserted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    before = snapshot(client)
    with pytest.raises(OwnershipError, match=r"public\.watch_users_inserted is not ours"):
        install(engine, base)
    assert snapshot(client) == before
