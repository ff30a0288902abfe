"""Conditions mean what SQLAlchemy's own text of them means, of the same types, and call nothing that a stranger made.

Random expressions are evaluated on the server over rows with NULLs and values of the edge: as SQLAlchemy writes them,
as conditions are written, and once more where a schema comes first in which every operator, and whatever else
SQLAlchemy names of itself, raises. A hundred of them are tried, the same in every run; `WATCH_TEST_EXPRESSIONS=5000`
tries as many others.
"""

from __future__ import annotations

import os
import re
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, event, given, settings
from postgres import needs
from sqlalchemy.exc import CompileError

from sqlalchemy_watch.declaring.dialect import POSTGRESQL
from sqlalchemy_watch.declaring.operators import QUALIFIED

from .expressions import COLUMNS, expressions
from .test_operators import EXAMPLES

COUNT = int(os.environ.get("WATCH_TEST_EXPRESSIONS", "100"))

pytestmark = [
    pytest.mark.server,
    pytest.mark.sqlalchemy,
    pytest.mark.timeout(60 + COUNT),
    # SQLAlchemy has its doubts about INET + 1, and about a NULL in a list.
    pytest.mark.filterwarnings("ignore:Type object:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Bound parameter:sqlalchemy.exc.SAWarning"),
]

Client = psycopg.Connection[Any]

_U = "00000000-0000-0000-0000-00000000000"

#: In the order of COLUMNS.
ROWS: list[tuple[Any, ...]] = [
    (1, 1, 2, 10, 1.1, 1.1, 1.1, "a", "A%", "b", "a ", True, "2020-01-01", "2020-01-01", "2020-01-01 00:00+0", "1 day",
     "ok", f"{_U}5", '{"a": {"b": 2}, "0": 3}', '[1, {"b": "x"}]', "{1,2}", "{a,b}", "[1,5)", "10.0.0.1", "1010",
     "'a' 'b'", 1),
    (None,) * 27,
    (-3, -(2**31), 2**31 - 1, 2**63 - 1, 0, 1e10, "NaN", "it's", "a\\b", 'q"q', "ab", False, "1999-12-31", "infinity",
     "-infinity", "-00:00:30", "sad", f"{_U}0", '"a"', "null", "{}", "{NULL}", "empty", "::1/64", "0000", "", 3),
    (0, 0, 0, 0, -2.5, 0, "-0", "", "", "", "", None, "infinity", "1999-12-31 23:59:59", "2020-01-01 12:00+14",
     "1 mon -1 day", "ok", None, "[1, 2, [3]]", '{"a": "x"}', "{{1,2},{3,4}}", "{it's,NULL}", "(,3]", "10.0.0.0/8",
     "1111", None, 4),
]  # fmt: skip

#: In schema `traps`: every operator of pg_catalog, for the same types; the functions and types that SQLAlchemy names.
TRAPS = """
DO $do$
DECLARE
  operator record;
  called pg_proc;
  type_name text;
BEGIN
  CREATE SCHEMA traps;
  CREATE FUNCTION traps.spring(anyelement) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'hijacked' USING ERRCODE = 'HIJAK'; END $$;
  FOR operator IN SELECT oprname, oprleft, oprright, row_number() OVER () AS number FROM pg_operator
    WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprright <> 0
  LOOP
    EXECUTE format('CREATE FUNCTION traps.operator_%s(%s) RETURNS bool LANGUAGE plpgsql AS %L', operator.number,
      concat_ws(', ', nullif(operator.oprleft, 0)::regtype, operator.oprright::regtype),
      'BEGIN RAISE EXCEPTION ''hijacked'' USING ERRCODE = ''HIJAK''; END');
    EXECUTE format('CREATE OPERATOR traps.%s (%s)', operator.oprname, concat_ws(', ',
      'LEFTARG = ' || nullif(operator.oprleft, 0)::regtype, 'RIGHTARG = ' || operator.oprright::regtype,
      'FUNCTION = traps.operator_' || operator.number));
  END LOOP;
  FOR called IN SELECT * FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
    AND proname IN
      ('floor', 'regexp_replace', 'plainto_tsquery', 'power', 'like_escape', 'make_interval', 'lower', 'length')
  LOOP
    EXECUTE format('CREATE FUNCTION traps.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', called.proname,
      pg_get_function_arguments(called.oid), called.prorettype::regtype,
      'BEGIN RAISE EXCEPTION ''hijacked'' USING ERRCODE = ''HIJAK''; END');
  END LOOP;
  FOREACH type_name IN ARRAY '{text, json, jsonb, jsonpath, uuid, date, inet, int4range, tsvector}'::text[] LOOP
    EXECUTE format('CREATE DOMAIN traps.%1$I AS pg_catalog.%1$I CHECK (traps.spring(VALUE))', type_name);
  END LOOP;
END $do$
"""


@pytest.fixture
def table(client: Client) -> Client:
    client.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    client.execute("CREATE DOMAIN positive AS integer")
    columns = ", ".join(f"{name} {type_}" for name, (type_, _) in COLUMNS.items())
    client.execute(f"CREATE TABLE r ({columns}, number serial)".encode())
    for row in ROWS:
        client.execute(f"INSERT INTO r VALUES ({', '.join(['%s'] * len(row))})".encode(), row)
    client.execute(TRAPS.encode())
    return client


def _evaluated(client: Client, sql: str, path: str) -> list[tuple[Any, ...]] | str:
    """Return the types and the values of an expression over all rows, or the error's SQLSTATE."""
    client.execute(f"SET search_path = {path}".encode())
    query = (
        f"SELECT pg_catalog.pg_typeof(({sql}))::pg_catalog.oid, ({sql})::pg_catalog.text FROM public.r ORDER BY number"
    )
    try:
        return client.execute(query.encode()).fetchall()
    except psycopg.errors.DatatypeMismatch:
        return "42883"  # an array says so of types between which there is no operator
    except psycopg.Error as error:
        return error.sqlstate or "?"


def _text(expression: Any, dialect: sa.Dialect) -> str:
    return str(expression.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


SAFE, HOSTILE = "public", "traps, pg_catalog, public"

SYNTAX_ERROR = "42601"


@needs(14, "subscripts of jsonb, which SQLAlchemy writes")
@settings(
    max_examples=COUNT,
    derandomize=COUNT <= 100,
    deadline=None,
    database=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(expressions())
def test_random_expressions(table: Client, expression: Any) -> None:
    try:
        expected = _evaluated(table, _text(expression, POSTGRESQL), SAFE)
    except CompileError:
        expected = SYNTAX_ERROR
    if expected == SYNTAX_ERROR:
        event("SQLAlchemy has no text for it")  # or such as `--1` for -(-1), which begins a comment
        return
    sql = _text(expression, QUALIFIED)
    event("an error" if isinstance(expected, str) else "values")
    assert _evaluated(table, sql, SAFE) == expected
    assert _evaluated(table, sql, HOSTILE) == expected


def test_sqlalchemys_own_text_is_hijacked_and_a_condition_is_not(table: Client) -> None:
    evaluated = 0
    for example in EXAMPLES:
        stock, sql = (_text(example, dialect) for dialect in (POSTGRESQL, QUALIFIED))
        expected = _evaluated(table, stock, SAFE)
        if isinstance(expected, str):  # it names what is not there
            continue
        evaluated += 1
        assert (_evaluated(table, sql, SAFE), _evaluated(table, sql, HOSTILE)) == (expected, expected)
        has_operator = stock != sql and not re.fullmatch(r"[\w.']+ IS (NOT )?(DISTINCT FROM )?NULL", stock)
        assert (_evaluated(table, stock, HOSTILE) != expected) == has_operator, stock
    assert evaluated > len(EXAMPLES) * 0.8
