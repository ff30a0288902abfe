"""A write of a watched table does what it does on an unwatched one, and is heard, whatever session it is made in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from postgres import VERSION, Cluster
from support import created_database

from sqlalchemy_watch import Watch, watch
from sqlalchemy_watch.declaring.spec import TableWatch
from sqlalchemy_watch.wire import DURABLE_SINCE

from .kinds_of_tables import BRIEF, LEVELS, ROUND, TWINS, Kind, declare_kinds
from .twins import LOG, Twins, in_ascii, outcome, warnings_of

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]


#: Runs statements within others.
MACHINERY = """
CREATE TABLE jobs (statement text);
CREATE FUNCTION run(statement text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public
  AS 'BEGIN EXECUTE statement; END';
CREATE FUNCTION run() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE NEW.statement; RETURN NEW; END';
CREATE TRIGGER run BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION run()
"""


@pytest.fixture(scope="module")
def twins(cluster: Cluster) -> Iterator[Twins]:
    with created_database(cluster, "test_twins") as database, Twins(cluster, database, *declare_kinds()) as twins:
        twins.admin.execute(MACHINERY)
        yield twins


@pytest.fixture
def writer(twins: Twins) -> Iterator[Client]:
    """A session of its own for each test, whose settings go with it."""
    with twins.cluster.connect(twins.database) as client:
        yield client


# ---- what is heard in a session that is as usual ----

WRITTEN = f"""
CREATE TABLE {TWINS}.log (number serial, op text, old jsonb, new jsonb);
CREATE FUNCTION {TWINS}.log() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO {TWINS}.log (op, old, new) VALUES (TG_OP, to_jsonb(OLD), to_jsonb(NEW)); RETURN NULL; END'
"""

CONDITIONS: dict[str, Any] = {
    "big": lambda old, new: new["n"] > 20,
    "grown": lambda old, new: old["n"] is not None and new["n"] > old["n"],
}


@pytest.fixture
def log(twins: Twins) -> Iterator[Any]:
    """A function that returns the rows that were written to the twins since the last call: (operation, old, new)."""
    twins.admin.execute(WRITTEN.encode())
    for kind in twins.kinds:
        trigger = f"CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON {kind.twin} FOR EACH ROW"
        twins.admin.execute(in_ascii(f"{trigger} EXECUTE FUNCTION {TWINS}.log()").encode())
    yield lambda: twins.admin.execute(f"DELETE FROM {TWINS}.log RETURNING op, old, new".encode()).fetchall()
    twins.admin.execute(f"DROP FUNCTION {TWINS}.log CASCADE; DROP TABLE {TWINS}.log".encode())


def _is_told(watch: TableWatch, operation: str, old: Any, new: Any) -> bool:
    if operation != {"inserted": "INSERT", "updated": "UPDATE", "deleted": "DELETE"}.get(watch.operation):
        return False
    if watch.trigger_columns and not any(old[c.name] != new[c.name] for c in (*watch.key, *watch.trigger_columns)):
        return False
    return watch.label not in CONDITIONS or bool(CONDITIONS[watch.label](old, new))


def test_all_rows_that_are_written_are_heard_and_no_others(twins: Twins, writer: Client, log: Any) -> None:
    twins.empty()
    for kind in twins.kinds:
        for name, statement in kind.statements().items():
            heard = twins.write(writer, kind, statement)
            heard = twins.logged() | heard
            written = log()
            for each in (w for w in twins.watches if w.table == kind.table.name and w.operation != "truncated"):
                keys = [
                    [(new or old)[c.name] for c in each.key] for op, old, new in written if _is_told(each, op, old, new)
                ]
                told = [row[: len(each.key)] for row in heard.get(each.channel, ())]
                if each.is_notified or VERSION >= DURABLE_SINCE:
                    what = f"{name}: {each.label}"
                    assert (what, sorted(told, key=json.dumps)) == (what, sorted(keys, key=json.dumps))


# ---- settings ----

SESSIONS = {
    "literals": "SET standard_conforming_strings = off; SET backslash_quote = off; SET transform_null_equals = on; "
    "SET quote_all_identifiers = on; SET array_nulls = off; SET escape_string_warning = on",
    "output": "SET DateStyle = 'SQL, DMY'; SET IntervalStyle = iso_8601; SET extra_float_digits = -15; "
    "SET bytea_output = escape; SET lc_numeric = 'C'; SET lc_messages = 'C'; SET xmlbinary = hex",
    "german dates": "SET DateStyle = 'German'; SET IntervalStyle = sql_standard",
    "plpgsql": "SET plpgsql.extra_errors = 'all'; SET plpgsql.extra_warnings = 'all'; SET plpgsql.check_asserts = off; "
    "SET plpgsql.variable_conflict = error; SET plpgsql.print_strict_params = on",
    "plans": "SET plan_cache_mode = force_generic_plan; SET work_mem = '64kB'; SET from_collapse_limit = 1; "
    "SET join_collapse_limit = 1; SET jit = on; SET geqo_threshold = 2; SET constraint_exclusion = on",
    "transactions": "SET default_transaction_isolation = serializable; SET default_transaction_deferrable = on; "
    "SET row_security = off; SET session_replication_role = local; SET check_function_bodies = off; "
    "SET default_table_access_method = heap; SET synchronous_commit = off",
    "stack": "SET max_stack_depth = '100kB'",
}


@pytest.mark.parametrize("session", SESSIONS)
def test_settings_of_the_session_change_nothing(twins: Twins, writer: Client, session: str) -> None:
    writer.execute(SESSIONS[session].encode())
    twins.check(writer)


#: Without these: they end the session at any error, also at one that a function catches; leave no write possible; fire
#: no triggers; or can't be set.
UNTRIED = {
    "exit_on_error", "default_transaction_read_only", "transaction_read_only", "session_replication_role",
    "transaction_isolation", "transaction_deferrable", "is_superuser", "max_stack_depth",
}  # fmt: skip


def test_no_value_of_any_setting_changes_anything(twins: Twins) -> None:
    twins.admin.execute("LOAD 'plpgsql'")
    settings = twins.admin.execute(
        "SELECT name, vartype, reset_val, enumvals, min_val, max_val FROM pg_settings "
        "WHERE context IN ('user', 'superuser') AND NOT name = ANY(%s) ORDER BY name",
        [list(UNTRIED)],
    ).fetchall()
    values: dict[str, list[str]] = {}
    for name, kind, now, enum, low, high in settings:
        others = {"bool": ["off" if now == "on" else "on"], "enum": [v for v in enum or () if v != now]}
        values[name] = others.get(kind, [low, high] if kind in ("integer", "real") else [])
    assert len(values) > 150
    refused = 0
    for number in range(max(map(len, values.values()))):
        with twins.cluster.connect(twins.database) as writer:
            for name, all_values in values.items():
                if number < len(all_values):
                    refused += outcome(writer, f"SET {name} = '{all_values[number]}'")[0] != ""
            twins.check(writer, BRIEF)
    assert refused < 20  # such as exclude each other


#: Some that PostgreSQL knows, with offsets of seconds before 1900, and some that anybody may make up.
ZONES = [
    "Asia/Kathmandu",
    "Africa/Monrovia",
    "Europe/Amsterdam",
    "Etc/GMT+12",
    "UTC-3",
    "<UTC>+11",
    "<Etc>-14",
]


@pytest.mark.parametrize("zone", ZONES)
def test_timestamps_are_told_of_in_utc_whatever_the_time_zone(twins: Twins, writer: Client, zone: str) -> None:
    twins.empty()
    instants = [
        "2024-02-29 12:00:00.5+00",
        "1850-01-01 00:00:00+00",
        "0001-01-01 00:00:00+00",
        "9999-12-31 23:59:59+00",
    ]
    writer.execute("SELECT set_config('TimeZone', %s, false)", [zone])
    for level in LEVELS:
        for number, instant in enumerate(instants):
            writer.execute(f"INSERT INTO {level}_things (id, at) VALUES ({number}, '{instant}')".encode())
        told = twins.notified()[f"watch_{level}_things_inserted"]
        assert [row[5] for row in told] == [instant[:-3].replace(" ", "T") for instant in instants]


# ---- encodings ----


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "SJIS", "EUC_JP", "GB18030", "SQL_ASCII"])
def test_encoding_of_the_client_changes_nothing(twins: Twins, writer: Client, encoding: str) -> None:
    writer.execute(f"SET client_encoding = '{encoding}'".encode())
    twins.check(writer, ROUND)


ENCODINGS = {"LATIN1": r"E'\u00e4'", "SQL_ASCII": r"E'\xc3\xa4'", "EUC_JP": r"E'\u00e4 \u540d'"}


@pytest.fixture(params=ENCODINGS)
def encoded(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Twins]:
    """Tables in a database that is not UTF-8."""
    options = f"ENCODING '{request.param}' LC_COLLATE 'C' LC_CTYPE 'C'"
    kinds = declare_kinds(ENCODINGS[request.param])
    with created_database(cluster, "test_encoded", options) as name, Twins(cluster, name, *kinds) as twins:
        yield twins


@pytest.mark.parametrize("client_encoding", ["that of the database", "UTF8"])
def test_encoding_of_the_database_changes_nothing(encoded: Twins, client_encoding: str) -> None:
    own = {"client_encoding": "UTF8"} if client_encoding == "UTF8" else {}
    with encoded.cluster.connect(encoded.database, **own) as writer:
        encoded.check(writer, ROUND)


def test_names_may_be_longer_in_the_encoding_of_the_database(cluster: Cluster) -> None:
    # In EUC_JP such a letter has three bytes, in UTF-8 two: 63 and 42 here.
    options = "ENCODING 'EUC_JP' LC_COLLATE 'C' LC_CTYPE 'C'"
    with created_database(cluster, "test_euc_jp", options) as database, Twins(cluster, database) as twins:
        metadata = sa.MetaData()
        kinds = []
        for level, letter in zip(LEVELS, "éü", strict=True):
            table = sa.Table(letter * 21, metadata, sa.Column("id", sa.Integer, primary_key=True))
            watch(table, *(Watch(operation, level=level) for operation in ("inserted", "updated", "deleted")))
            kinds.append(Kind(table, lambda number, long: [f"'{number}'"], "id = id", "id = id"))
        twins.make(metadata, kinds)
        with cluster.connect(database) as writer:
            twins.check(writer, BRIEF)


@pytest.fixture(scope="module")
def broken(cluster: Cluster) -> Iterator[Twins]:
    """Tables with a column that got another type by hand, of a name that most encodings lack, and that errors name."""
    with created_database(cluster, "test_broken") as database, Twins(cluster, database, *declare_kinds()) as twins:
        twins.plain(ROUND)
        twins.empty()
        numbers = ", ".join(f"'{number}'" for number in range(200))
        twins.admin.execute(f'CREATE TYPE "größe 名" AS ENUM ({numbers})'.encode())
        for kind in twins.kinds:
            if "n" in kind.table.columns:
                for name in (kind.name, kind.twin):
                    retype = f'ALTER TABLE {name} ALTER n TYPE "größe 名" USING n::text::"größe 名"'
                    twins.admin.execute(retype.encode())
        yield twins


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "WIN1252", "SJIS", "SQL_ASCII"])
def test_functions_that_fail_may_not_say_so_in_the_encoding_of_the_client(broken: Twins, encoding: str) -> None:
    with broken.cluster.connect(broken.database) as writer:
        writer.execute(f"SET client_encoding = '{encoding}'".encode())
        warnings = warnings_of(writer)
        broken.check(writer, ROUND, may_resync=["things", '"P'])
        assert any("things/inserted" in words for words in warnings)
        assert "".join(warnings).isascii()


# ---- writes within something else ----

WITHIN = {
    "a function with the rights of its owner": "SELECT run($run${}$run$)",
    "another trigger": "INSERT INTO jobs VALUES ($run${}$run$)",
    "a block": "DO $do$BEGIN {}; EXCEPTION WHEN no_data_found THEN END$do$",
    "a prepared statement": "PREPARE p AS {}; EXECUTE p; DEALLOCATE p",
    "a common table expression": "WITH w AS ({} RETURNING *) SELECT * FROM w",
    "EXPLAIN": "EXPLAIN (ANALYZE, FORMAT JSON) {}",
    "several of one message": "SELECT 1; {}; SELECT 2",
}


@pytest.mark.parametrize("within", WITHIN)
def test_writes_within_something_else_are_heard_alike(twins: Twins, writer: Client, within: str) -> None:
    twins.check(writer, ROUND, WITHIN[within].format)


def test_a_transaction_with_savepoints_is_heard_when_it_commits(twins: Twins, writer: Client) -> None:
    usual: dict[str, list[Any]] = {}
    for _, heard in twins.plain()[:-1]:
        for channel, rows in heard.items():
            usual[channel] = sorted(usual.get(channel, []) + rows, key=json.dumps)
    twins.empty()
    with writer.transaction():
        for name, heard in twins.write_all(writer):
            assert (name, heard) == (name, {})
    assert twins.notified() == usual
    assert twins.logged() == dict([twins.plain()[-1]])[LOG]


def test_copy_is_heard_as_insert(twins: Twins, writer: Client) -> None:
    usual = dict(twins.plain())
    for kind in twins.kinds:
        twins.empty()
        writer.execute(kind.insert(*range(10, 70)).replace("{t}", kind.twin).encode())
        with writer.cursor().copy(f"COPY {kind.twin} TO STDOUT".encode()) as copy:
            rows = b"".join(copy)
        with writer.cursor().copy(f"COPY {kind.name} FROM STDIN".encode()) as copy:
            copy.write(rows)
        twins.compare(kind)
        assert twins.notified() == usual[f"{kind.name}: insert 60"]


@pytest.mark.parametrize("count", [30, 200])
@pytest.mark.parametrize("level", LEVELS)
def test_rows_of_many_columns_are_heard_in_order(cluster: Cluster, database: str, level: Any, count: int) -> None:
    table = sa.Table(
        "wide", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(f"c{n:x}", sa.BigInteger) for n in range(count)),
    )  # fmt: skip
    columns = list(table.columns)[1:]
    of: Any = {"extra_columns": columns, "level": level, "delivery": "notify"}
    watch(table, Watch("inserted", **of), Watch("updated", old=True, **of))
    with Twins(cluster, database, table.metadata) as twins:
        values = ", ".join(["1"] * count)
        twins.admin.execute(f"INSERT INTO wide SELECT i, {values} FROM generate_series(1, 60) AS i".encode())
        twins.admin.execute("UPDATE wide SET id = id")
        twins.ear.execute("SELECT 1")
        rows = [row for notify in twins.ear.notifies(timeout=0) for row in json.loads(notify.payload)["rows"]]
        inserted = [[id_, *[1] * count] for id_ in range(1, 61)]
        assert rows == inserted + [[*row, "0" * len(row), *row] for row in inserted]
