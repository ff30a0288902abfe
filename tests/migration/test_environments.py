"""Projects of every kind: drivers, templates, filters, schemas, tenants, roles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.migration import MigrationContext
from postgres import Cluster
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, event

from alembic_ext.operations import WatchOp, WatchOps
from sqlalchemy_watch import Watch, watch

from .project import Project, body_of, is_empty, snapshot, triggers_in

pytestmark = pytest.mark.sqlalchemy


def users(
    *specs: Any, metadata: MetaData | None = None, name: str = "users", length: int = 20, **options: Any
) -> MetaData:
    """Declare a table, watched so."""
    metadata = MetaData() if metadata is None else metadata
    table = Table(name, metadata, Column("id", Integer, primary_key=True), Column("name", String(length)), **options)
    watch(table, *specs)
    return metadata


def cycle(project: Project, client: psycopg.Connection[Any]) -> Path:
    """Migrate up, without a difference then, down to what was, and up again."""
    before = snapshot(client)
    script = project.revision()
    project.upgrade()
    after = snapshot(client)
    assert triggers_in(after) != triggers_in(before)
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before
    project.upgrade()
    assert snapshot(client) == after
    return script


HOSTILE = Watch("updated", label="named", extra_columns=["name"], old=True, when=lambda o, n: n.name != "50%:x \\:y")


@pytest.mark.parametrize(
    ("driver", "template"), [("psycopg", "generic"), ("psycopg2", "generic"), ("asyncpg", "async")]
)
def test_a_watch_goes_up_and_down_with_every_driver(
    cluster: Cluster, database: str, tmp_path: Path, client: psycopg.Connection[Any], driver: str, template: str
) -> None:
    project = Project(tmp_path, cluster.url(database, driver), template)
    for specs in (("inserted",), ("inserted", HOSTILE), (HOSTILE,)):
        project.metadata = users(*specs, name='us"e:rs 100%')
        cycle(project, client)


def test_multidb_migrates_postgresql_beside_sqlite(
    cluster: Cluster, database: str, tmp_path: Path, client: psycopg.Connection[Any]
) -> None:
    project = Project(tmp_path, cluster.url(database, "psycopg"), template="multidb")
    project.use_models(
        "from sqlalchemy import Column, Integer, MetaData, Table\n"
        "from sqlalchemy_watch import watch\n"
        "target_metadata = {name: MetaData() for name in ('engine1', 'engine2')}\n"
        "for metadata in target_metadata.values():\n"
        "    watch(Table('users', metadata, Column('id', Integer, primary_key=True)), 'inserted')\n"
    )
    ini = tmp_path / "alembic.ini"
    text = ini.read_text().replace("driver://user:pass@localhost/dbname2", project.url)
    ini.write_text(text.replace("driver://user:pass@localhost/dbname", f"sqlite:///{tmp_path}/other.db"))
    output = project.shell("revision", "--autogenerate", "-m", "users")
    assert "WARN" not in output
    [script] = (tmp_path / "migrations" / "versions").glob("*.py")
    upgrades = re.split(r"\ndef ", script.read_text())
    assert [part.count("CREATE TRIGGER") for part in upgrades if part.startswith("upgrade_engine")] == [0, 1]
    project.shell("upgrade", "head")
    assert len(triggers_in(snapshot(client))) == 1
    project.shell("check")


def test_several_metadata_and_schemas_are_compared_at_once(project: Project, client: psycopg.Connection[Any]) -> None:
    client.execute('CREATE SCHEMA "Back: office%"')
    client.execute("CREATE SCHEMA audit")
    first = users("inserted")
    users("inserted", HOSTILE, metadata=first, schema="Back: office%")
    others = [users("deleted", name=name, schema=schema) for name, schema in (("orders", "audit"), ("logs", "public"))]
    project.metadata = [first, *others]
    project.configure("include_schemas=True")
    cycle(project, client)
    assert len(triggers_in(snapshot(client))) == 5
    # One changes, and none of the others is touched.
    first = users("inserted")
    users("inserted", metadata=first, schema="Back: office%")
    project.metadata = [first, *others]
    script = project.revision()
    assert "audit" not in script.read_text()
    project.upgrade()
    assert project.differences() == []


@pytest.mark.parametrize(
    "option",
    [
        "include_name=lambda name, type_, parents: not (type_ == 'table' and name == 'logs')",
        "include_object=lambda o, name, type_, *rest: not (type_ == 'table' and name == 'logs')",
    ],
)
def test_filtered_tables_are_left_alone(
    project: Project, client: psycopg.Connection[Any], engine: Engine, option: str
) -> None:
    """The filters decide on the table, and see no objects of the library."""
    both = users("inserted", "updated", name="logs")
    both.create_all(engine)
    client.execute("DROP TRIGGER watch_logs_inserted ON logs")
    project.configure(option)
    project.metadata = users("inserted")
    script = cycle(project, client)
    assert "logs" not in script.read_text()
    if "include_object" in option:  # also one that is declared
        project.metadata = users("inserted", "deleted", name="logs", metadata=users("inserted"))
        assert project.differences() == []


SEEN = """
def seen(o, name, type_, *rest):
    config.attributes["seen"].add(type_)
    return True
"""


def test_the_users_filters_see_no_objects_of_ours(project: Project) -> None:
    project.configure("include_object=seen", SEEN)
    project.metadata = users("inserted")
    config = project.config()
    seen: set[str] = set()
    config.attributes["seen"] = seen
    command.revision(config, autogenerate=True)
    assert seen == {"table"}


def test_batch_mode_alters_a_column_between_dropping_and_creating_the_triggers_that_carry_it(
    project: Project, client: psycopg.Connection[Any]
) -> None:
    project.configure("render_as_batch=True, transaction_per_migration=True")
    for length in (20, 40):
        project.metadata = users("inserted", HOSTILE, length=length)
        before = snapshot(client)
        script = project.revision()
        project.upgrade()
    upgrade = body_of(script)
    drop, alter, create = (upgrade.index(w) for w in ("DROP TRIGGER", "batch_op.alter_column", "CREATE TRIGGER"))
    assert drop < alter < create
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before
    project.downgrade("base")
    project.upgrade()
    assert project.differences() == []


REWRITER = """
from alembic.autogenerate import rewriter
from alembic.operations import ops
writer = rewriter.Rewriter()

@writer.rewrites(ops.CreateTableOp)
def comment(context, revision, op):
    return [ops.ExecuteSQLOp("-- by the rewriter"), op]

@writer.rewrites(ops.MigrateOperation)
def anything(context, revision, op):
    return op
"""


def test_a_rewriter_may_add_to_a_migration_of_watches(project: Project, client: psycopg.Connection[Any]) -> None:
    project.configure("process_revision_directives=writer", REWRITER)
    project.metadata = users("inserted", HOSTILE)
    assert "by the rewriter" in cycle(project, client).read_text()


def test_a_stamped_database_that_create_all_made_has_no_differences(
    project: Project, client: psycopg.Connection[Any], engine: Engine
) -> None:
    project.metadata = users("inserted")
    project.revision()
    project.metadata.create_all(engine)
    command.stamp(project.config(), "head")
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == []


def test_branches_leave_each_others_watches_alone(project: Project, client: psycopg.Connection[Any]) -> None:
    project.configure(
        "include_object=lambda o, name, type_, *rest: type_ != 'table' or name in config.attributes['metadata'].tables"
    )
    project.metadata = users("inserted")
    project.revision()
    project.upgrade()
    before = snapshot(client)
    for name in ("orders", "logs"):
        project.metadata = users("updated", name=name)
        project.revision(head="r001", splice=True, branch_label=name)
        project.downgrade("r001")
        project.upgrade(f"{name}@head")
    command.merge(project.config(), "heads", rev_id="merged")
    project.upgrade()
    for name in ("orders", "logs"):
        project.metadata = users("updated", name=name)
        assert project.differences() == []
    assert len(triggers_in(snapshot(client))) == 3
    project.downgrade("r001")
    assert snapshot(client) == before


def test_compare_metadata_and_produce_migrations_find_the_same(engine: Engine, client: psycopg.Connection[Any]) -> None:
    metadata = users("inserted")
    metadata.create_all(engine)
    client.execute("ALTER TABLE users DISABLE TRIGGER watch_users_inserted")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == [("change_watch", "users", "inserted", "the trigger is disabled")]
        script = produce_migrations(context, metadata)
        assert script.upgrade_ops is not None
        assert script.downgrade_ops is not None
        [up], [down] = script.upgrade_ops.ops, script.downgrade_ops.ops
    assert isinstance(up, WatchOps)
    assert isinstance(down, WatchOps)
    [up], [down] = up.ops, down.ops
    assert isinstance(up, WatchOp)
    assert isinstance(down, WatchOp)
    assert up.statements() == ["ALTER TABLE users ENABLE TRIGGER watch_users_inserted"]
    assert down.statements() == ["ALTER TABLE users DISABLE TRIGGER watch_users_inserted"]


@pytest.mark.parametrize("plugins", [
    ["alembic.autogenerate.*", "sqlalchemy_watch"],
    ["alembic.autogenerate.schemas", "alembic.autogenerate.tables", "alembic.autogenerate.types", "sqlalchemy_watch"],
])  # fmt: skip
def test_plugin_by_name_and_twice_works_once(
    project: Project, client: psycopg.Connection[Any], plugins: list[str]
) -> None:
    project.configure(f"autogenerate_plugins={plugins!r}")
    project.metadata = users("inserted")
    assert cycle(project, client).read_text().count("CREATE TRIGGER") == 1


def test_a_project_without_the_plugin_compares_no_watches(project: Project, client: psycopg.Connection[Any]) -> None:
    project.metadata = users("inserted")
    cycle(project, client)
    before = snapshot(client)
    project.configure('autogenerate_plugins=["alembic.autogenerate.*", "~alembic.autogenerate.sqlalchemy_watch"]')
    project.metadata = users("deleted")
    assert is_empty(project.revision())
    project.upgrade()
    assert snapshot(client) == before


def test_partitions_are_no_difference(project: Project, client: psycopg.Connection[Any]) -> None:
    project.configure("include_name=lambda name, type_, parents: not (type_ == 'table' and name.startswith('users_'))")
    project.metadata = users("inserted", HOSTILE, "truncated", postgresql_partition_by="RANGE (id)")
    cycle(project, client)
    client.execute("CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (10)")
    assert project.differences() == []
    project.metadata = users("inserted", postgresql_partition_by="RANGE (id)")
    before = snapshot(client)
    project.revision()
    project.upgrade()
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before


TENANT = """
from sqlalchemy import text

def use_tenant(connection):
    tenant = config.attributes["tenant"]
    connection.execute(text(f"SET search_path TO {tenant}"))
    connection.commit()
    connection.dialect.default_schema_name = tenant
"""


@pytest.mark.parametrize("application", ["", "shop"])
def test_tenants_by_search_path(project: Project, client: psycopg.Connection[Any], application: str) -> None:
    project.configure("include_schemas=False", TENANT)
    project.edit_env(
        "with connectable.connect() as connection:",
        "with connectable.connect() as connection:\n        use_tenant(connection)",
    )
    tenants = ("one", "two")
    for tenant in tenants:
        client.execute(f"CREATE SCHEMA {tenant}")

    def run(action: str, tenant: str, *args: Any, **kwargs: Any) -> Any:
        config = project.config()
        config.attributes["tenant"] = tenant
        return getattr(command, action)(config, *args, **kwargs)

    def declare(*specs: Any) -> None:
        info = {"sqlalchemy_watch_application": application} if application else {}
        project.metadata = users(*specs, metadata=MetaData(info=info))

    declare("inserted", "deleted")
    script = Path(run("revision", "one", autogenerate=True, rev_id="r001").path)
    assert "one" not in body_of(script).split()
    assert "one." not in body_of(script)
    for tenant in tenants:
        run("upgrade", tenant, "head")
    assert len(triggers_in(snapshot(client))) == 4
    # A left-over that nothing calls in one tenant is no matter of the other.
    client.execute("DROP TRIGGER watch_users_deleted ON two.users")
    run("check", "one")
    client.execute(
        "CREATE TRIGGER watch_users_deleted AFTER DELETE ON two.users REFERENCING OLD TABLE AS watch_old "
        "EXECUTE FUNCTION two.watch_users_deleted()"
    )
    for tenant in tenants:
        run("check", tenant)
    before = snapshot(client)
    declare("inserted", HOSTILE)
    script = Path(run("revision", "one", autogenerate=True, rev_id="r002").path)
    assert "one." not in body_of(script) + body_of(script, "downgrade")
    for tenant in tenants:
        run("upgrade", tenant, "head")
        run("check", tenant)
    for tenant in tenants:
        run("downgrade", tenant, "-1")
    assert snapshot(client) == before


@pytest.mark.server
def test_a_read_only_role_can_check(
    project: Project, client: psycopg.Connection[Any], cluster: Cluster, database: str
) -> None:
    client.execute("CREATE SCHEMA closed")
    project.configure("include_schemas=True")
    project.metadata = users("inserted", metadata=users("inserted", schema="closed"))
    cycle(project, client)
    role = f"reader_{database}"
    client.execute(f"CREATE ROLE {role} LOGIN")
    client.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    client.execute("GRANT SELECT ON alembic_version TO PUBLIC")
    client.execute(f"GRANT USAGE ON SCHEMA closed TO {role}")  # Alembic's own comparison needs it
    project.url = project.url.replace("postgres@", f"{role}@")
    try:
        assert project.differences() == []
        client.execute("ALTER TABLE users DISABLE TRIGGER watch_users_inserted")
        assert [diff[:3] for diff in project.differences()] == [("change_watch", "users", "inserted")]
    finally:
        client.execute(f"DROP OWNED BY {role}")
        client.execute(f"DROP ROLE {role}")


def test_old_servers_are_passed_over_in_silence(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    metadata = users("inserted")
    with engine.connect() as connection:
        connection.dialect.server_version_info = (12, 20)
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    assert [diff[0] for diff in differences] == ["add_table"]
    assert caplog.text == ""


def test_a_hundred_tables_take_as_many_queries_as_a_dozen(engine: Engine) -> None:
    def count(tables: int, plugins: list[str]) -> int:
        metadata = MetaData()
        for number in range(tables):
            users("inserted", HOSTILE, metadata=metadata, name=f"t{number}")
        metadata.create_all(engine)
        statements: list[str] = []
        with engine.connect() as connection:
            event.listen(connection, "before_cursor_execute", lambda c, cursor, sql, *rest: statements.append(sql))
            context = MigrationContext.configure(connection, opts={"autogenerate_plugins": plugins})
            assert compare_metadata(context, metadata) == []
        return len(statements)

    everything = ["alembic.autogenerate.*"]
    without = [*everything, "~alembic.autogenerate.sqlalchemy_watch"]
    count(12, everything)  # Alembic reads some things once
    assert count(12, everything) - count(12, without) == count(100, everything) - count(100, without) == 2
