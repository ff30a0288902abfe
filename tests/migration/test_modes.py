"""`fires` in migrations: up, down, checked, offline; what somebody chose by hand for a trigger is left as it is."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import Column, Integer, MetaData, String, Table
from support import created_database

from sqlalchemy_watch import Watch, watch

from .project import Project, body_of, snapshot, triggers_in

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

ALWAYS = "op.execute('ALTER TABLE users ENABLE ALWAYS TRIGGER watch_users_updated')"
DEFAULT = "op.execute('ALTER TABLE users ENABLE TRIGGER watch_users_updated')"

BY_ROW = Watch("updated", level="row")
ALWAYS_BY_ROW = Watch("updated", level="row", fires="always")


def declare(*specs: Any, name_type: Any = String, partitioned: bool = False) -> MetaData:
    options = {"postgresql_partition_by": "RANGE (id)"} if partitioned else {}
    metadata = MetaData()
    columns = Column("id", Integer, primary_key=True), Column("name", name_type)
    watch(Table("users", metadata, *columns, **options), *specs)
    return metadata


def modes(client: Client) -> dict[str, str]:
    """The mode of the only trigger, on each table that has it."""
    rows = client.execute("SELECT tgrelid::regclass::text, tgenabled::text FROM pg_trigger ORDER BY 1")
    return dict(rows.fetchall())


def deploy(project: Project, metadata: MetaData) -> Any:
    project.metadata = metadata
    script = project.revision()
    project.upgrade()
    return script


@pytest.mark.parametrize("partitioned", [False, True])
def test_always_goes_up_and_down_and_is_checked(project: Project, client: Client, partitioned: bool) -> None:
    operations: tuple[Any, ...] = ("inserted", "updated", "deleted", "truncated")
    always = declare(*(Watch(operation, fires="always") for operation in operations), partitioned=partitioned)
    script = deploy(project, always)
    assert body_of(script).count(" ENABLE ALWAYS TRIGGER ") == 4
    assert " ENABLE " not in body_of(script, "downgrade")
    assert set(modes(client).values()) == {"A"}
    assert project.differences() == []
    project.downgrade()
    assert modes(client) == {}
    project.upgrade()
    assert project.differences() == []


def test_the_statements_are_the_same_offline(project: Project, client: Client, cluster: Cluster, database: str) -> None:
    deploy(project, declare(BY_ROW))
    before = snapshot(client)
    deploy(project, declare(ALWAYS_BY_ROW))
    after = snapshot(client)
    assert modes(client) == {"users": "A"}
    with created_database(cluster, f"{database}_offline") as offline, cluster.connect(offline) as other:
        cluster.psql(offline, stdin=project.sql("upgrade", "head"))
        assert snapshot(other) == after
        cluster.psql(offline, stdin=project.sql("downgrade", "r002:r001"))
        assert snapshot(other) == before


@pytest.mark.parametrize(
    ("first", "second", "switches"),
    [
        (BY_ROW, ALWAYS_BY_ROW, (ALWAYS, DEFAULT)),
        (ALWAYS_BY_ROW, BY_ROW, (DEFAULT, ALWAYS)),
        ("updated", Watch("updated", fires="always"), (ALWAYS, None)),
        (Watch("updated", fires="always"), "updated", (None, ALWAYS)),
    ],
)
@pytest.mark.parametrize("partitioned", [False, True])
def test_always_comes_and_goes(
    project: Project, client: Client, first: Any, second: Any, switches: tuple[Any, Any], partitioned: bool
) -> None:
    deploy(project, declare(first, partitioned=partitioned))
    before = snapshot(client)
    script = deploy(project, declare(second, partitioned=partitioned))
    if not partitioned:
        for function, switch in zip(("upgrade", "downgrade"), switches, strict=True):
            found = [line.strip() for line in body_of(script, function).splitlines() if " ENABLE " in line]
            assert found == ([] if switch is None else [switch])
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before


@pytest.mark.parametrize("by_hand", [None, "ENABLE REPLICA", "DISABLE"])
def test_a_watch_that_goes_comes_back_in_its_mode(project: Project, client: Client, by_hand: str | None) -> None:
    deploy(project, declare(Watch("updated", fires="always")))
    if by_hand is not None:
        client.execute(f"ALTER TABLE users {by_hand} TRIGGER watch_users_updated".encode())
    before = snapshot(client)
    deploy(project, declare())
    assert modes(client) == {}
    project.downgrade()
    assert snapshot(client) == before


@pytest.mark.parametrize(("by_hand", "mode"), [("ENABLE ALWAYS", "A"), ("ENABLE REPLICA", "R")])
def test_what_somebody_chose_is_no_difference_and_outlives_a_replacement(
    project: Project, client: Client, by_hand: str, mode: str
) -> None:
    deploy(project, declare("updated"))
    client.execute(f"ALTER TABLE users {by_hand} TRIGGER watch_users_updated".encode())
    before = snapshot(client)
    assert project.differences() == []
    script = deploy(project, declare(Watch("updated", extra_columns=("name",))))
    assert "TRIGGER" not in body_of(script)  # the function alone
    project.downgrade()
    assert snapshot(client) == before
    script.unlink()
    deploy(project, declare(Watch("updated", level="row")))
    assert modes(client) == {"users": mode}
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before


def test_a_trigger_that_steps_aside_comes_back_in_its_mode(project: Project, client: Client) -> None:
    specs = Watch("updated", extra_columns=("name",)), Watch("deleted", extra_columns=("name",), fires="always")
    deploy(project, declare(*specs, name_type=String(10)))
    client.execute("ALTER TABLE users ENABLE REPLICA TRIGGER watch_users_updated")
    before = snapshot(client)
    triggers = triggers_in(before)
    script = deploy(project, declare(*specs, name_type=String(20)))
    assert body_of(script).count("step aside") == body_of(script, "downgrade").count("step aside") == 2
    assert triggers_in(snapshot(client)) == triggers
    assert {mode for _, _, mode, *_ in triggers} == {"R", "A"}
    project.downgrade()
    assert snapshot(client) == before


@pytest.mark.parametrize("by_hand", ["ENABLE", "ENABLE REPLICA", "DISABLE"])
def test_another_mode_than_always_is_put_right_and_brought_back(project: Project, client: Client, by_hand: str) -> None:
    deploy(project, declare(ALWAYS_BY_ROW))
    right = snapshot(client)
    client.execute(f"ALTER TABLE users {by_hand} TRIGGER watch_users_updated".encode())
    before = snapshot(client)
    [(verb, table, label, reason)] = project.differences()
    assert (verb, table, label) == ("change_watch", "users", "updated")
    assert reason == ("the trigger is disabled" if by_hand == "DISABLE" else "the trigger does not fire always")
    script = deploy(project, declare(ALWAYS_BY_ROW))
    assert body_of(script).count("op.execute") == body_of(script, "downgrade").count("op.execute") == 1
    assert snapshot(client) == right
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before


def test_a_partition_in_another_mode_is_put_right(project: Project, client: Client) -> None:
    metadata = declare(Watch("updated", fires="always"), partitioned=True)
    deploy(project, metadata)
    client.execute("CREATE SCHEMA parts")  # where Alembic does not look for tables
    client.execute("CREATE TABLE parts.users_1 PARTITION OF users FOR VALUES FROM (0) TO (10)")
    right = {"parts.users_1": "A", "users": "A"}
    assert modes(client) == right
    client.execute("ALTER TABLE parts.users_1 ENABLE TRIGGER ALL")
    assert [reason for *_, reason in project.differences()] == ["the trigger does not fire always on a partition"]
    script = deploy(project, metadata)
    assert body_of(script).count("op.execute") == 1
    assert modes(client) == right
    assert project.differences() == []
    project.downgrade()
    assert modes(client) == right


def test_what_always_misses_at_statement_level_is_a_warning(
    project: Project, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    deploy(project, declare(Watch("updated", level="statement", fires="always")))
    assert modes(client) == {"users": "A"}
    caplog.clear()
    assert project.differences() == []
    assert "the watch users/updated misses writes: triggers at statement level" in caplog.text
