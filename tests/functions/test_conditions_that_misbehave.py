"""A condition may call functions of the user's, which may do anything: the write is made, and told of, or a resync."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from models import declare_base
from postgres import Cluster
from sqlalchemy.orm import mapped_column
from support import created_database

from sqlalchemy_watch import Watch, Watched

from .kinds_of_tables import LEVELS, Kind
from .twins import RESYNC, Twins

pytestmark = pytest.mark.server

#: Statements of a function, which are errors.
ERRORS = {
    "divides by zero": "RETURN 1 / (i - i) > 0",
    "raises": "RAISE EXCEPTION 'not 100%%'",
    "asserts": "ASSERT false; RETURN true",
    "finds no row": "SELECT 1 INTO STRICT i WHERE false; RETURN true",
    "finds several rows": "SELECT x INTO STRICT i FROM generate_series(1, 2) AS x; RETURN true",
    "raises what the functions raise": "RAISE data_exception",
    "raises no SQLSTATE of the server's": "RAISE SQLSTATE 'Z0Z0Z'",
    "would have the transaction tried again": "RAISE serialization_failure",
    "meets a deadlock": "RAISE deadlock_detected",
    "ends the transaction": "COMMIT; RETURN true",
    "calls itself": "RETURN misbehaves(i)",
    "names what is not there": "RETURN nothing.nowhere(i)",
    "returns no value": "NULL",
    "raises odd text": "RAISE EXCEPTION USING MESSAGE = repeat(E'\\u540d\\\\%\\n', 5000)",
}


@pytest.fixture(scope="module")
def twins(cluster: Cluster) -> Iterator[Twins]:
    base: Any = declare_base()
    kinds = []
    for level in LEVELS:
        of: Any = {"level": level, "delivery": "both"}
        watches = [
            Watch("inserted", label="chosen", when=lambda old, new: sa.func.public.misbehaves(new.n), **of),
            Watch("updated", label="changed", when=lambda old, new: sa.func.public.misbehaves(old.n), **of),
            Watch("deleted", label="lost", when=lambda old, new: sa.func.public.misbehaves(old.n), **of),
        ]
        members = {"__tablename__": level, "__watch__": watches, "n": mapped_column(sa.Integer, primary_key=True)}
        model: Any = type(level, (Watched, base), members)
        kinds.append(Kind(model.__table__, lambda number, long: [f"'{number}'"], "n = n", "n = n"))
    name = "test_misbehaving"
    with created_database(cluster, name), Twins(cluster, name, base.metadata, kinds) as twins:
        twins.admin.execute("CREATE TABLE notes (n int)")
        yield twins


@pytest.fixture
def writer(twins: Twins) -> Iterator[psycopg.Connection[Any]]:
    twins.empty()
    with twins.cluster.connect(twins.database) as client:
        yield client


def _define(twins: Twins, body: str) -> None:
    """Make the function that the conditions call."""
    twins.admin.execute(
        "CREATE OR REPLACE FUNCTION misbehaves(i int) RETURNS bool LANGUAGE plpgsql AS "
        f"$do$BEGIN {body}; END$do$".encode()
    )


STATEMENTS = {
    "chosen": ("INSERT INTO {t} VALUES (1)", "INSERT INTO {t} VALUES (2), (3)"),
    "changed": ("UPDATE {t} SET n = n WHERE n = 1", "UPDATE {t} SET n = n"),
    "lost": ("DELETE FROM {t} WHERE n = 1", "DELETE FROM {t}"),
}
NOTHING = ("INSERT INTO {t} SELECT 1 WHERE false", "UPDATE {t} SET n = n WHERE false", "DELETE FROM {t} WHERE false")


@pytest.mark.parametrize("error", ERRORS)
def test_errors_of_conditions_ask_to_resync(twins: Twins, writer: psycopg.Connection[Any], error: str) -> None:
    _define(twins, ERRORS[error])
    for kind in twins.kinds:
        for label, statements in STATEMENTS.items():
            for statement in statements:
                heard = twins.write(writer, kind, statement)
                assert twins.outcome[0] == ""
                assert {channel: set(rows) for channel, rows in heard.items()} == {
                    f"watch_{kind.table.name}_{label}": {RESYNC}
                }
        for statement in NOTHING:
            assert twins.write(writer, kind, statement) == {}
    assert all(set(rows) == {RESYNC} for rows in twins.logged().values())


#: Statements of a function that are none.
ACTS = {
    "writes a note": "INSERT INTO notes VALUES (i); RETURN true",
    "sets the search_path": "SET search_path = nowhere; INSERT INTO public.notes VALUES (i); RETURN true",
    "sets another role": "SET LOCAL ROLE pg_monitor; RESET ROLE; INSERT INTO notes VALUES (i); RETURN true",
    "warns": "RAISE NOTICE 'no'; INSERT INTO notes VALUES (i); RETURN true",
    "catches an error": "BEGIN i := i / 0; EXCEPTION WHEN others THEN INSERT INTO notes VALUES (i); END; RETURN true",
    "notifies": "NOTIFY mine; INSERT INTO notes VALUES (i); RETURN true",
}


@pytest.mark.parametrize("act", ACTS)
def test_what_a_condition_does_is_done_once_for_each_row(
    twins: Twins, writer: psycopg.Connection[Any], act: str
) -> None:
    _define(twins, ACTS[act])
    for kind in twins.kinds:
        for statement, numbers in zip(STATEMENTS["chosen"], ([1], [2, 3]), strict=True):
            twins.admin.execute("TRUNCATE notes")
            assert twins.write(writer, kind, statement) == {f"watch_{kind.table.name}_chosen": [[n] for n in numbers]}
            assert twins.admin.execute("SELECT n FROM notes ORDER BY n").fetchall() == [(n,) for n in numbers]


@pytest.mark.parametrize("level", LEVELS)
def test_a_condition_may_write_to_the_table_that_it_is_of(
    twins: Twins, writer: psycopg.Connection[Any], level: str
) -> None:
    _define(twins, f"IF i < 100 THEN INSERT INTO {level} VALUES (i + 100); END IF; RETURN true")
    for statement, numbers in zip(STATEMENTS["chosen"], ([1, 101], [2, 3, 102, 103]), strict=True):
        writer.execute(statement.replace("{t}", level).encode())
        assert twins.notified() == {f"watch_{level}_chosen": sorted(([n] for n in numbers), key=str)}


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("how", ["SET statement_timeout = '50ms'", "the function cancels"])
def test_whoever_cancels_a_write_ends_it(
    twins: Twins, writer: psycopg.Connection[Any], how: str, level: str, rows: int
) -> None:
    if how.startswith("SET"):
        _define(twins, "PERFORM pg_sleep(20); RETURN true")
        writer.execute(how.encode())
    else:
        _define(twins, "PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(20); RETURN true")
    with pytest.raises(psycopg.errors.QueryCanceled):
        writer.execute(f"INSERT INTO {level} SELECT generate_series(1, {rows})".encode())
    assert twins.notified() == {}
    assert twins.admin.execute(f"SELECT count(*) FROM {level}".encode()).fetchone() == (0,)
