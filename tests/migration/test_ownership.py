"""Migrations take no function that is another watch's or a stranger's, and follow the kind of table in the database."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import Engine, MetaData, text
from sqlalchemy.exc import ProgrammingError

from sqlalchemy_watch import Watch, install, status
from sqlalchemy_watch.declaring.filing import APPLICATION_KEY

from .project import Project, body_of, functions_in, is_empty, snapshot, triggers_in
from .test_environments import HOSTILE, cycle, users

pytestmark = pytest.mark.server

LOGGER = "alembic.autogenerate.sqlalchemy_watch"


def of_application(name: str, *specs: Any) -> MetaData:
    return users(*specs, metadata=MetaData(info={APPLICATION_KEY: name} if name else {}))


@pytest.mark.parametrize(("theirs", "ours"), [("shop", "billing"), ("", "billing"), ("shop", "")])
def test_another_applications_watch_is_warned_of_and_left_alone(
    project: Project, client: psycopg.Connection[Any], engine: Engine, theirs: str, ours: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    of_application(theirs, "inserted").create_all(engine)
    before = snapshot(client)
    project.metadata = of_application(ours, Watch("inserted", extra_columns=("name",)), "deleted")
    caplog.set_level(logging.WARNING, LOGGER)
    script = cycle(project, client)
    assert "watch_users_inserted" not in script.read_text()
    [*_, said] = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert (
        "the watch users/inserted is not in the migration: the function public.watch_users_inserted is that of" in said
    )
    assert "give one of them a label= of its own" in said
    assert set(before) < set(snapshot(client))


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_name_that_was_taken_since_the_migration_was_made_stops_it(
    project: Project, client: psycopg.Connection[Any], cluster: Cluster, database: str, mode: str
) -> None:
    project.metadata = users("inserted")
    project.revision()
    sql = project.sql("upgrade", "head")
    client.execute("DROP TABLE IF EXISTS alembic_version")
    client.execute(
        "CREATE FUNCTION watch_users_inserted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    before = functions_in(snapshot(client))
    if mode == "online":
        with pytest.raises(ProgrammingError, match="watch_users_inserted"):
            project.upgrade()
    else:
        with pytest.raises(AssertionError, match="watch_users_inserted"):
            cluster.psql(database, stdin=sql)
    assert functions_in(snapshot(client)) == before


PARTITIONED = """
CREATE TABLE users (id int PRIMARY KEY, name varchar(20)) PARTITION BY RANGE (id);
CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (10);
"""

NO_PARTITIONS = "include_name=lambda name, type_, parents: not (type_ == 'table' and name.startswith('users_'))"


def test_a_table_partitioned_in_the_database_alone_gets_row_triggers(
    project: Project, client: psycopg.Connection[Any], engine: Engine
) -> None:
    client.execute(PARTITIONED)
    project.configure(NO_PARTITIONS)
    project.metadata = users("inserted", HOSTILE, "truncated")
    script = cycle(project, client)
    assert body_of(script).count("FOR EACH ROW") == 2
    assert is_empty(project.revision())
    assert {item.state for item in status(engine, project.metadata)} == {"installed"}
    assert install(engine, project.metadata) == []


def test_statement_triggers_of_a_table_that_is_partitioned_now_are_replaced_and_brought_back(
    project: Project, client: psycopg.Connection[Any], engine: Engine
) -> None:
    client.execute(PARTITIONED)
    project.configure(NO_PARTITIONS)
    install(engine, users(Watch("inserted", level="statement"), Watch("deleted", level="statement", delivery="both")))
    project.metadata = users("inserted", Watch("deleted", delivery="both"))
    assert [diff[:3] for diff in project.differences()] == [
        ("change_watch", "users", "inserted"), ("change_watch", "users", "deleted")
    ]  # fmt: skip
    assert all("straight to a partition" in diff[3] for diff in project.differences())
    cycle(project, client)


def test_a_table_that_a_migration_partitions_is_found_by_the_next_one(
    project: Project, client: psycopg.Connection[Any]
) -> None:
    project.configure(NO_PARTITIONS)
    project.metadata = users("inserted")
    script = project.revision()
    text_ = script.read_text()
    assert "FOR EACH STATEMENT" in text_
    script.write_text(text_.replace("sa.PrimaryKeyConstraint('id')\n", "sa.PrimaryKeyConstraint('id'),\n"
                                    "    postgresql_partition_by='RANGE (id)'\n"))  # fmt: skip
    project.upgrade()
    assert "FOR EACH ROW" in body_of(cycle(project, client))


def test_a_view_is_warned_of_and_not_in_the_migration(
    project: Project, client: psycopg.Connection[Any], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW users AS SELECT 1 AS id, 'a' AS name"))
    project.metadata = users("inserted")
    caplog.set_level(logging.WARNING, LOGGER)
    script = project.revision()
    assert "watch_users" not in script.read_text()
    assert "the watch users/inserted can't work: it is a view" in caplog.text
    assert triggers_in(snapshot(client)) == []


def test_a_level_that_misses_writes_is_warned_of(
    project: Project, client: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    client.execute(PARTITIONED)
    project.configure(NO_PARTITIONS)
    project.metadata = users(Watch("inserted", level="statement"))
    caplog.set_level(logging.WARNING, LOGGER)
    cycle(project, client)
    assert "the watch users/inserted misses writes: the table is partitioned" in caplog.text


MAPPED = """
def mapped(connection):
    return connection.execution_options(schema_translate_map={None: "public"})
"""


def test_a_schema_translate_map_is_said_not_to_be_followed(
    project: Project, client: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    project.configure("include_schemas=False", MAPPED)
    project.edit_env("connection=connection", "connection=mapped(connection)")
    project.metadata = users("inserted")
    caplog.set_level(logging.WARNING, LOGGER)
    project.revision()
    assert "do not follow schema_translate_map" in caplog.text
    assert "search_path" in caplog.text
