"""Migrations of many watches: short, and exact up, down and offline, in projects of every kind."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Engine,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Uuid,
    create_engine,
)
from support import created_database

from sqlalchemy_watch import Watch, install, watch

from .project import Project, body_of, functions_in, is_empty, snapshot
from .test_environments import REWRITER

pytestmark = pytest.mark.sqlalchemy

#: The text of an earlier library, such as a database may hold.
MAKE_EARLIER = """
DO $do$ DECLARE f record; BEGIN
  FOR f IN
    SELECT p.oid::regprocedure AS name, prosrc, proconfig IS NOT NULL AS is_set FROM pg_proc p
    WHERE prosrc LIKE E'\\n-- sqlalchemy_watch %'
  LOOP
    EXECUTE 'CREATE OR REPLACE FUNCTION ' || f.name || ' RETURNS trigger LANGUAGE plpgsql AS ' || quote_literal(
      replace(regexp_replace(f.prosrc, '-- sqlalchemy_watch \\d+', '-- sqlalchemy_watch 0'),
        E'\\nEND\\n', E'\\n  -- as it was\\nEND\\n'));
  END LOOP;
END $do$
"""

KEYS: list[list[tuple[str, Any]]] = [
    [("id", Integer)], [("id", Integer)], [("id", BigInteger)], [("uuid", Uuid)], [("a", Integer), ("b", String)],
]  # fmt: skip
TYPES = [Integer, BigInteger, String, Numeric, DateTime(timezone=True), Date, Uuid, Boolean, JSON]


def many(tables: int) -> MetaData:
    """Declare so many tables, with four watches each."""
    chance = random.Random(1)
    metadata = MetaData()
    for number in range(tables):
        table = Table(
            f"table_{number}", metadata,
            *(Column(n, t, primary_key=True, autoincrement=False) for n, t in KEYS[number % len(KEYS)]),
            *(Column(f"column_{n}", chance.choice(TYPES)) for n in range(6)),
        )  # fmt: skip

        def some(least: int) -> list[str]:
            return [f"column_{n}" for n in chance.sample(range(6), chance.randint(least, 3))]

        watch(
            table,
            Watch("inserted", extra_columns=some(0)),
            Watch("deleted", extra_columns=some(0)),
            Watch("updated", extra_columns=some(1), old=number % 2 == 0),
            Watch(
                "updated", label="changed", trigger_columns=some(1), extra_columns=some(0), old=number % 4 == 0,
                when=(lambda old, new: new.column_0.is_not(None)) if number % 3 else None,
            ),
        )  # fmt: skip
    return metadata


MOST_LINES = 5_500


def lines_of(script: Path) -> int:
    return len((body_of(script) + body_of(script, "downgrade")).splitlines())


def test_300_watches_and_a_new_template_for_them_can_be_reviewed(
    project: Project, client: psycopg.Connection[Any], engine: Engine
) -> None:
    project.metadata = many(75)
    Table("unwatched", project.metadata, Column("id", Integer, primary_key=True))
    with engine.begin() as connection:  # plain tables, as they are before they are watched
        for table in many(75).tables.values():
            Table(table.name, MetaData(), *(Column(c.name, c.type, primary_key=c.primary_key, autoincrement=False)
                                            for c in table.columns)).create(connection)  # fmt: skip
    script = project.revision()
    assert script.read_text().count("# watch: add") == 300
    assert lines_of(script) <= MOST_LINES
    project.upgrade()
    assert project.differences() == []
    right = snapshot(client)
    client.execute(MAKE_EARLIER)
    earlier = snapshot(client)
    script = project.revision()
    assert script.read_text().count("# watch: change") == 600
    assert lines_of(script) <= MOST_LINES
    project.upgrade()
    assert snapshot(client) == right
    project.downgrade()
    assert snapshot(client) == earlier


def life(name: str, condition: str, schema: str | None = None) -> Iterator[MetaData]:
    """Yield the declarations as they are, and as they are to be: watches come, change, go and step aside."""
    for length, removed, added in ((20, ["deleted"], []), (40, [], ["truncated"])):
        metadata = MetaData()
        for number, schema_ in enumerate([None, None, schema, schema]):
            table = Table(
                name if number == 1 else f"table_{number}", metadata,
                Column("id", Integer, primary_key=True, autoincrement=False),
                Column("name", String(length)), Column(f"other {number}%:x", Numeric), schema=schema_,
            )  # fmt: skip
            watch(
                table, Watch("inserted", extra_columns=[f"other {number}%:x"]), "updated", *removed, *added,
                Watch("updated", label="named", trigger_columns=["name"], extra_columns=["name"], old=True,
                      when=lambda old, new: new.name != condition),
                Watch("deleted", label="gone", extra_columns=[f"other {number}%:x"], old=True),
            )  # fmt: skip
        yield metadata


DIVIDES = """
def hook(context, revision, directives):
    "Take each watch out of what they have been put together in, and some of these once more."
    for script in directives:
        for container in (script.upgrade_ops, script.downgrade_ops):
            taken = []
            for operation in container.ops:
                if type(operation).__name__ == "WatchOps":
                    half = len(operation.ops) // 2
                    taken += [type(operation)(operation.ops[:half]), *operation.ops[half:half + 1]]
                    taken += [type(operation)(operation.ops[half + 1:])]
                else:
                    taken.append(operation)
            container.ops[:] = taken
"""

RUFF = {
    "hooks": "check, format",
    **{f"{hook}.type": "module" for hook in ("check", "format")},
    **{f"{hook}.module": "ruff" for hook in ("check", "format")},
    "check.options": "check --quiet --isolated --fix --select E7,E9,F,I,UP,B,SIM REVISION_SCRIPT_FILENAME",
    "format.options": "format --quiet --isolated REVISION_SCRIPT_FILENAME",
}

PROJECTS = ["stock", "async", "schemas", "batch", "rewriter", "directives", "ruff"]


@pytest.fixture
def any_project(request: pytest.FixtureRequest, tmp_path: Path, cluster: Cluster, database: str) -> Project:
    is_async = request.param == "async"
    driver, template = ("asyncpg", "async") if is_async else ("psycopg", "generic")
    project = Project(tmp_path, cluster.url(database, driver), template)
    match request.param:
        case "schemas":
            project.configure("include_schemas=True")
        case "batch":
            project.configure("render_as_batch=True")
        case "rewriter":
            project.configure("process_revision_directives=writer", REWRITER)
        case "directives":
            project.configure("process_revision_directives=hook", DIVIDES)
        case "ruff":
            project.post_write_hooks = RUFF
    return project


@pytest.mark.parametrize("any_project", PROJECTS, indirect=True)
@pytest.mark.parametrize(
    ("name", "condition"), [("plain", "x"), ('us"e:rs {name} <name> $watch$ 100%', "it's 50%:y {0} }}{ \\:z\n$$<row>")]
)
def test_the_functions_are_those_of_install_and_then_again_those_that_were(
    any_project: Project,
    request: pytest.FixtureRequest,
    cluster: Cluster,
    database: str,
    client: psycopg.Connection[Any],
    engine: Engine,
    name: str,
    condition: str,
) -> None:
    project = any_project
    has_schema = "schemas" in request.node.callspec.id
    as_it_is, to_be = life(name, condition, 'Back: "office" {0}%' if has_schema else None)
    create_schemas(engine, as_it_is)
    as_it_is.create_all(engine)
    client.execute(MAKE_EARLIER)
    before = snapshot(client)
    project.metadata = to_be
    script = project.revision().read_text()
    assert "function_1" in script
    project.upgrade()
    after = snapshot(client)
    assert functions_in(after) == functions_of_install(cluster, to_be)
    assert project.differences() == []
    assert is_empty(project.revision())
    project.downgrade("base")
    assert snapshot(client) == before
    for direction, revisions, expected in (("upgrade", "base:r001", after), ("downgrade", "r001:base", before)):
        client.execute("DROP TABLE IF EXISTS alembic_version") if direction == "upgrade" else None
        cluster.psql(database, stdin=project.sql(direction, revisions))
        assert snapshot(client) == expected


def create_schemas(engine: Engine, metadata: MetaData) -> None:
    with engine.begin() as connection:
        for schema in {table.schema for table in metadata.tables.values()} - {None}:
            quoted = engine.dialect.identifier_preparer.quote(schema)
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {quoted}")


def functions_of_install(cluster: Cluster, metadata: MetaData) -> list[tuple[Any, ...]]:
    """Return the functions as `install()` makes them, in a database of their own."""
    with created_database(cluster, "made_by_install") as name, cluster.connect(name) as client:
        engine = create_engine(cluster.url(name, "psycopg"))
        create_schemas(engine, metadata)
        metadata.create_all(engine)
        client.execute("DO $$ DECLARE f record; BEGIN FOR f IN SELECT oid::regprocedure AS name FROM pg_proc "
                       "WHERE proname LIKE 'watch_%' LOOP EXECUTE 'DROP FUNCTION ' || f.name || ' CASCADE'; "
                       "END LOOP; END $$")  # fmt: skip
        assert install(engine, metadata)
        engine.dispose()
        return functions_in(snapshot(client))
