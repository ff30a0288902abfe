"""A column counts as changed where its stored bytes are others, whatever the type and the collation say of equality."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from postgres import Cluster
from sqlalchemy.dialects import postgresql as pg
from support import created_database

from sqlalchemy_watch import Watch, watch

from .kinds_of_tables import LEVELS
from .twins import Twins

pytestmark = pytest.mark.server

#: Collations, which are C where the server was built without ICU; and a type whose equality is its own.
ANY_CASE, GERMAN = "any_case", "german"

TYPES = """
CREATE TYPE caseless;
CREATE FUNCTION caseless_in(cstring) RETURNS caseless IMMUTABLE STRICT LANGUAGE internal AS 'textin';
CREATE FUNCTION caseless_out(caseless) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'textout';
CREATE TYPE caseless (INPUT = caseless_in, OUTPUT = caseless_out, LIKE = text);
CREATE CAST (caseless AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE FUNCTION caseless_eq(caseless, caseless) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT lower($1) = lower($2)';
CREATE DOMAIN document AS json;
CREATE OPERATOR = (FUNCTION = caseless_eq, LEFTARG = caseless, RIGHTARG = caseless);
"""


class Named(sa.types.UserDefinedType[str]):
    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **kw: Any) -> str:
        return self.name


LONG = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 90) AS i)"

#: A type, and values that follow one another; each but the first is another one than before where it begins with `!`.
CASES: dict[str, tuple[Any, list[str]]] = {
    "a collation that ignores case": (
        sa.Text(collation=ANY_CASE),
        ["'anna'", "!'ANNA'", "'ANNA'", "!NULL", "NULL", "!''"],
    ),
    "a type that ignores case": (Named("types.caseless"), ["'anna'", "!'ANNA'", "'ANNA'", "!NULL", "NULL", "!''"]),
    "the collation C": (sa.Text(collation="C"), ["'a'", "!'A'", "'A'"]),
    "a collation of a language": (sa.Text(collation=GERMAN), ["'straße'", "!'strasse'", "'strasse'"]),
    "varchar": (sa.String(9), ["'a'", "!'a '", "'a '"]),
    "char": (sa.CHAR(9), ["'a'", "'a '", "!'b'"]),
    "numeric": (sa.Numeric, ["1.0", "!1.00", "1.00", "!'NaN'", "'NaN'", "!'0'", "'-0'"]),
    "float": (sa.Float, ["'0'", "!'-0'", "'-0'", "!'NaN'", "'NaN'"]),
    "interval": (sa.Interval, ["'1 day'", "!'24:00'", "'24:00'", "'24 hours'"]),
    "timestamptz": (
        sa.DateTime(timezone=True),
        ["'2024-01-01 00:00+00'", "'2024-01-01 01:00+01'", "!'infinity'", "'infinity'"],
    ),
    "json": (sa.JSON, ["'{}'", "!'{ }'", "'{ }'", "!NULL"]),
    "jsonb": (pg.JSONB, ["""'{"a": 1.0}'""", """!'{"a": 1.00}'""", """'{"a":1.00}'"""]),
    "array": (pg.ARRAY(sa.Text), ["'{a}'", "!'[2:2]={a}'", "'[2:2]={a}'", "!'{}'", "!'{NULL}'"]),
    "array of json": (pg.ARRAY(sa.JSON), ["ARRAY['1']::json[]", "ARRAY['1']::json[]", "!ARRAY['1 ']::json[]", "!NULL"]),
    "domain of json": (pg.DOMAIN("document", sa.JSON, schema="types"), ["'[]'", "'[]'", "!'[ ]'"]),
    "range": (pg.INT4RANGE, ["'[1,2]'", "'[1,3)'", "!'empty'", "'(1,1)'"]),
    "uuid": (
        pg.UUID,
        ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "!NULL", "NULL"],
    ),
    "integer": (sa.Integer, ["1", "'01'", "!2", "!NULL", "NULL", "!0"]),
    "boolean": (sa.Boolean, ["true", "'yes'", "!false", "!NULL", "NULL", "!false"]),
    "date": (sa.Date, ["'2024-02-29'", "'Feb 29 2024'", "!'infinity'", "'infinity'", "!NULL"]),
    "inet": (pg.INET, ["'10.0.0.1'", "'10.0.0.1/32'", "!'10.0.0.1/8'"]),
    "box": (Named("box"), ["'(0,0),(1,4)'", "!'(0,0),(2,2)'", "'(2,2),(0,0)'"]),
    "text out of line": (sa.Text, [LONG, LONG, f"!{LONG} || 'x'"]),
}


def _table(metadata: sa.MetaData, level: Any) -> None:
    columns = [sa.Column(f"c{n}", type_) for n, (type_, _) in enumerate(CASES.values())]
    key = sa.Column("key", sa.Text(collation=ANY_CASE), primary_key=True)
    table = sa.Table(f"{level}_cases", metadata, key, *columns)
    watch(
        table,
        *(Watch("updated", label=f"told_{c.name}", extra_columns=[c], old=True, level=level) for c in columns),
        Watch("updated", label="moved", trigger_columns=[key], level=level),
        *(Watch("updated", label=column.name, trigger_columns=[column], level=level) for column in columns),
    )


def _has_icu(twins: Twins) -> bool:
    return twins.admin.execute("SELECT FROM pg_collation WHERE collname = 'und-x-icu'").fetchone() is not None


@pytest.fixture(scope="module")
def twins(cluster: Cluster) -> Iterator[Twins]:
    with created_database(cluster, "test_changed") as database, Twins(cluster, database) as twins:
        twins.admin.execute(f"CREATE SCHEMA types; SET search_path = types; {TYPES}; RESET search_path")
        for name, options in ((ANY_CASE, "'und-u-ks-level2', deterministic = false"), (GERMAN, "'de'")):
            made = f"(provider = icu, locale = {options})" if _has_icu(twins) else 'FROM "C"'
            twins.admin.execute(f"CREATE COLLATION pg_catalog.{name} {made}".encode())
        metadata = sa.MetaData()
        for level in LEVELS:
            _table(metadata, level)
        twins.make(metadata)
        yield twins


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", CASES)
def test_other_bytes_are_a_change_and_equal_ones_are_none(twins: Twins, case: str, level: str, rows: int) -> None:
    if getattr(CASES[case][0], "collation", None) == ANY_CASE and not _has_icu(twins):
        pytest.skip("the server was built without ICU")
    n, table = list(CASES).index(case), f"watch_{level}_cases"
    first, *others = CASES[case][1]
    _insert(twins, level, rows, f"c{n}", first)
    for value in others:
        twins.admin.execute(f"UPDATE {level}_cases SET c{n} = {value.removeprefix('!')}".encode())
        heard = twins.notified()
        is_changed = value.startswith("!")
        assert (value, f"{table}_c{n}" in heard) == (value, is_changed)
        flags = {channel: [row[2] for row in each] for channel, each in heard.items() if "told" in channel}
        assert flags.pop(f"{table}__told_c{n}") == ["01" if is_changed else "00"] * rows  # the key, then the column
        assert list(flags.values()) == [["00"] * rows] * (len(CASES) - 1)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("level", LEVELS)
def test_a_key_of_other_bytes_is_another_row(twins: Twins, level: str, rows: int) -> None:
    table = f"watch_{level}_cases"
    _insert(twins, level, rows, "c0", "'a'")
    for change, is_changed in (("upper(key)", True), ("key", False), ("lower(key)", True)):
        twins.admin.execute(f"UPDATE {level}_cases SET key = {change}".encode())
        told = {channel for channel in twins.notified() if "told" not in channel}
        assert told == ({f"{table}_moved", *(f"{table}_c{n}" for n in range(len(CASES)))} if is_changed else set())


def _insert(twins: Twins, level: str, rows: int, column: str, value: str) -> None:
    source = f"SELECT 'anna' || i, {value} FROM generate_series(1, {rows}) AS i"
    twins.admin.execute(f"DELETE FROM {level}_cases; INSERT INTO {level}_cases (key, {column}) {source}".encode())
    twins.notified()
