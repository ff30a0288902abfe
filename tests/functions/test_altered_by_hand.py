"""Tables that somebody has altered since their triggers were made: no write fails, and what is lost is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from postgres import VERSION, Cluster

from sqlalchemy_watch import Watch, watch
from sqlalchemy_watch.declaring.spec import DELIVERIES, LEVELS
from sqlalchemy_watch.wire import DURABLE_SINCE

from .twins import RESYNC, Twins

pytestmark = pytest.mark.server

OLD: Any = {"old": True, "level": "statement"}


@pytest.fixture
def things(cluster: Cluster, database: str, request: pytest.FixtureRequest) -> Iterator[Twins]:
    """A table of these watches."""
    table = sa.Table(
        "things", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("number", sa.Integer),
        sa.Column("day", sa.Date),
    )  # fmt: skip
    watch(table, *request.param)
    with Twins(cluster, database, table.metadata) as twins:
        yield twins


def _inserted(delivery: Any, level: Any) -> list[Watch]:
    return [Watch("inserted", extra_columns=("number", "day"), delivery=delivery, level=level)]


@pytest.mark.parametrize("things", [_inserted(d, level) for d in DELIVERIES for level in LEVELS], indirect=True)
@pytest.mark.parametrize(
    ("retyped", "long"),
    [("day TYPE text", "(2, 2, repeat('x', 8500))"), ("number TYPE numeric", "(2, 10::numeric ^ 8200, NULL)")],
)
def test_what_had_a_bound_may_have_become_long(things: Twins, retyped: str, long: str) -> None:
    things.admin.execute(f"ALTER TABLE things ALTER {retyped}".encode())
    things.admin.execute(f"INSERT INTO things VALUES {long}".encode())
    things.admin.execute(f"INSERT INTO things VALUES (1, 1, NULL), {long.replace('2', '3', 1)}".encode())
    assert things.admin.execute("SELECT count(*) FROM things").fetchone() == (3,)
    heard, logged = things.notified(), things.logged()
    assert all(RESYNC in rows for rows in heard.values())
    assert heard or logged or VERSION < DURABLE_SINCE
    for rows in logged.values():  # the log has room for it, or it is lost as a whole
        assert RESYNC in rows or {row[0] for row in rows} == {1, 2, 3}


@pytest.mark.parametrize("things", [_inserted("notify", level) for level in LEVELS], indirect=True)
def test_the_right_to_send_may_be_lost_after_an_error(things: Twins) -> None:
    # PL/pgSQL asks for a right when it sets an expression up, once in a transaction, and here only by the first writer.
    things.admin.execute("ALTER TABLE things ALTER day TYPE text")
    things.admin.execute("CREATE ROLE things_clerk; GRANT INSERT ON things TO things_clerk")
    things.admin.execute("REVOKE EXECUTE ON FUNCTION pg_notify FROM PUBLIC")
    try:
        with things.cluster.connect(things.database) as client, client.transaction():
            client.execute("INSERT INTO things VALUES (1, 1, repeat('x', 8500))")
            client.execute("SET LOCAL ROLE things_clerk; INSERT INTO things VALUES (2, 1)")
        assert things.admin.execute("SELECT count(*) FROM things").fetchone() == (2,)
        assert RESYNC in things.notified()["watch_things_inserted"]
    finally:
        things.admin.execute("DROP OWNED BY things_clerk; DROP ROLE things_clerk")


@pytest.mark.parametrize("things", [_inserted("notify", "statement")], indirect=True)
@pytest.mark.parametrize("first", ["SELECT", "SET LOCAL sqlalchemy_watch.muted = 'on'"])
def test_the_right_to_send_may_be_lost_where_a_table_had_another_name(things: Twins, first: str) -> None:
    things.admin.execute("CREATE ROLE things_clerk; GRANT INSERT ON things TO things_clerk")
    things.admin.execute("REVOKE EXECUTE ON FUNCTION pg_notify FROM PUBLIC")
    try:
        with things.cluster.connect(things.database) as client, client.transaction():
            client.execute("ALTER TABLE things RENAME TO old_things; CREATE TABLE things ()")
            client.execute(f"{first}; INSERT INTO old_things VALUES (1, 1)".encode())  # of a retired table
            client.execute("DROP TABLE things; ALTER TABLE old_things RENAME TO things")
            client.execute("SET LOCAL sqlalchemy_watch.muted = ''")
            client.execute("SET LOCAL ROLE things_clerk; INSERT INTO things VALUES (2, 1)")
        assert things.admin.execute("SELECT count(*) FROM things").fetchone() == (2,)
    finally:
        things.admin.execute("DROP OWNED BY things_clerk; DROP ROLE things_clerk")


@pytest.mark.parametrize(
    "things",
    [[Watch("updated", extra_columns=("number",), **OLD), Watch("updated", label="moved", trigger_columns=("day",))]],
    indirect=True,
)
def test_rows_without_a_key_are_told_of(things: Twins) -> None:
    things.admin.execute("ALTER TABLE things DROP CONSTRAINT things_pkey, ALTER id DROP NOT NULL")
    things.admin.execute("INSERT INTO things VALUES (NULL, 1), (7, 1)")
    for statement in ("UPDATE things SET number = 2", "UPDATE things SET id = 8 WHERE id IS NULL"):
        things.admin.execute(statement.encode())
        rows = things.notified()
        assert {label: _is_told(rows[f"watch_things_{label}"], 8) for label in ("updated", "moved")} == {
            "updated": True, "moved": True
        }  # fmt: skip


def _is_told(rows: list[Any], key: int) -> bool:
    """Return True if the row of that key is among them, or one without a key, for which the listener asks to resync."""
    return RESYNC in rows or any(row[0] in (None, key) for row in rows)


def test_a_row_that_is_suppressed_where_it_moves_makes_no_pairs_of_strangers(cluster: Cluster, database: str) -> None:
    table = sa.Table(
        "places", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("country", sa.Integer, primary_key=True), sa.Column("name", sa.Text),
        postgresql_partition_by="LIST (country)",
    )  # fmt: skip
    watch(
        table, Watch("updated", extra_columns=("name",), **OLD),
        Watch("updated", label="renamed", trigger_columns=("name",), level="statement"),
    )  # fmt: skip
    with Twins(cluster, database, table.metadata) as twins:
        twins.admin.execute(SUPPRESSING)
        for count in (4, 100):
            twins.admin.execute(f"INSERT INTO places SELECT i, 1, 'a' FROM generate_series(1, {count}) AS i".encode())
            twins.admin.execute("UPDATE places SET country = 2, name = name || id")
            heard = twins.notified()
            assert [RESYNC in heard[f"watch_places_{label}"] for label in ("updated", "renamed")] == [True, True]
            twins.admin.execute("DELETE FROM places")


SUPPRESSING = """
CREATE TABLE places_1 PARTITION OF places FOR VALUES IN (1);
CREATE TABLE places_2 PARTITION OF places FOR VALUES IN (2);
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN RETURN CASE WHEN NEW.id <> 2 THEN NEW END; END';
CREATE TRIGGER suppress BEFORE INSERT ON places_2 FOR EACH ROW EXECUTE FUNCTION suppress()
"""
