"""What finds names and operators that a search_path could lead elsewhere does find them."""

from __future__ import annotations

import itertools
from typing import Any

import psycopg
import pytest

from .qualification import CONSTRUCTS, KEYWORD_TYPES, RESERVED, faults, tokens

CLEAN = r"""
-- sqlalchemy_watch 1 {"table": "a = b || lower(c)"}
#variable_conflict use_column
<<watch>>
DECLARE
  watch_rows pg_catalog.text;
  watch_seen bigint := 0;
  watch_next pg_catalog.record;
BEGIN
  BEGIN
    /* a = b /* nested = */ lower(c) */
    SELECT CASE WHEN r.a IS NULL OR NOT (r.b OPERATOR(pg_catalog.=) -5) THEN coalesce(r.id::pg_catalog.text, 'x') END,
      pg_catalog.count(*), (r.x)::integer, CAST(r.y AS numeric(10, 2)), ROW(r.a, 'it''s = lower(x)'), E'\'= lower(x)',
      $q$ = lower(x) $q$, r."a = b", greatest(1, least(2, 3)), interval '1 day', r.n COLLATE pg_catalog."C",
      r.a OPERATOR(pg_catalog.=) ANY (ARRAY[1, 2]), pg_catalog.row_number() OVER (ORDER BY r.id), watch.watch_seen
    INTO STRICT watch_rows
    FROM watch_new AS r LEFT JOIN (SELECT * FROM watch_old LIMIT 51) AS o ON true
    CROSS JOIN pg_catalog.pg_class AS c, LATERAL (SELECT 1) AS x
    WHERE EXISTS (SELECT FROM roots OFFSET 1) AND (r.a, 1) IS NOT NULL AND r.declare IS TRUE
    GROUP BY r.a HAVING true ORDER BY (r.b) DESC LIMIT 1;
    IF (watch_rows IS NULL) THEN
      RETURN NULL;
    ELSIF (true) THEN
      PERFORM pg_catalog.pg_notify('x', 'a = b');
    END IF;
    FOR watch_next IN SELECT r.* FROM watch_new AS r LOOP
      EXIT WHEN (watch_seen IS NULL);
      CONTINUE WHEN watch_next.j IS NULL;
    END LOOP;
  EXCEPTION WHEN OTHERS OR assert_failure THEN
    RAISE WARNING USING MESSAGE = pg_catalog.concat('a', SQLSTATE), HINT = 'The write succeeds.';
  END;
  watch_rows := CASE WHEN true THEN pg_catalog.pg_notify('x', 'y')::pg_catalog.text END;
  RETURN NULL;
END
"""

ROOTS = ("roots",)


def test_nothing_is_found_in_a_text_that_is_qualified() -> None:
    assert faults(CLEAN, tables=ROOTS) == []


@pytest.mark.parametrize(
    ("found", "planted"),
    [
        ("operator =", ("a = b", "a OPERATOR(public.=) b", "a OPERATOR(=) b", "a = ANY (b)", "MESSAGE = a")),
        ("operator =", ("a =--comment\n b", "a =/* comment */ b", "a OPERATOR(pg_catalog.=) b = c", "(a, b) = (c, d)")),
        ("operator -", ("-a", "a - 1", "a -1", "NULL -1", "(a) -1", "'a' -1", "-(1)")),
        ("operator *", ("a * b", "(a) * (b)", "2 * 2")),
        ("operator ||", ("a || b",)),
        ("operator <=", ("a <= b",)),
        ("operator ~", ("a ~ 'x'",)),
        ("operator !~~", ("a !~~ b",)),
        ("operator @>", ("a @> b",)),
        ("operator ->", ("a -> 'b'",)),
        ("function lower", ("lower(a)", "Lower (a)", "public.lower(a)", "db.pg_catalog.lower(a)")),
        ('function "lower"', ('"lower"(a)', 'public."lower"(a)')),
        ("function pg_notify", ("pg_notify('a', 'b')", "coalesce(pg_notify('a', 'b'), 'c')")),
        ("function extract", ("extract(year FROM a)",)),
        ("function integer", ("integer(a)",)),
        ("function left", ("left(a, 1)",)),
        ("function over", ("over(a)",)),
        ("function nullif", ("a.nullif(b)",)),
        ("function if", ("if(a, b)",)),
        ("NULLIF", ("nullif(a, b)",)),
        ("IN", ("a IN (1, 2)", "a NOT IN (1)", "a IN (SELECT 1)")),
        ("BETWEEN", ("a BETWEEN 1 AND 2", "a NOT BETWEEN 1 AND 2")),
        ("LIKE", ("a LIKE 'x'", "a NOT LIKE 'x'")),
        ("ILIKE", ("a ILIKE 'x'",)),
        ("SIMILAR", ("a SIMILAR TO 'x'",)),
        ("OVERLAPS", ("(a, b) OVERLAPS (c, d)",)),
        ("IS DISTINCT FROM", ("a IS DISTINCT FROM b", "a IS NOT DISTINCT FROM b")),
        ("CASE with an operand", ("CASE a WHEN 1 THEN 2 END", "CASE (a) WHEN 1 THEN 2 END")),
        ("type text", ("a::text", "CAST(a AS text)", "a::integer::text", "text 'a'")),
        ("type public.integer", ("a::public.integer", "CAST(a AS public.integer)")),
        ('type "integer"', ('a::"integer"', "\"integer\" '1'")),
        ("type date", ("date '2024-01-01'", "(a)::date")),
        ("collation de", ("a COLLATE de",)),
        ("table orders", ("EXISTS (SELECT FROM orders)", "EXISTS (SELECT FROM watch_new JOIN orders ON true)")),
        (
            "table orders",
            ("EXISTS (SELECT FROM watch_new, orders)", "EXISTS (SELECT FROM watch_new AS a, orders AS b)"),
        ),
        ("table public.orders", ("EXISTS (SELECT FROM public.orders)", "EXISTS (SELECT FROM ONLY public.orders)")),
        ("table unnest", ("EXISTS (SELECT FROM unnest(a))", "EXISTS (SELECT FROM LATERAL unnest(a))")),
        ("JOIN ... USING", ("EXISTS (SELECT FROM watch_new JOIN watch_old USING (id))",)),
        ("NATURAL", ("EXISTS (SELECT FROM watch_new NATURAL JOIN watch_old)",)),
    ],
)
def test_what_is_planted_is_found(found: str, planted: tuple[str, ...]) -> None:
    places = "watch_rows := {};", "IF {} THEN", "SELECT {}, 1 INTO watch_rows;", "PERFORM pg_catalog.concat('a', {});"
    for sql, place in itertools.product(planted, places):
        body = CLEAN.replace("  watch_rows := CASE", f"  {place.format(sql)}\n  watch_rows := CASE")
        assert found in {fault.split(": ")[0] for fault in faults(body, tables=ROOTS)}, place.format(sql)


@pytest.mark.parametrize("declared", ["text", "record", "public.integer", "users%ROWTYPE", '"integer"'])
@pytest.mark.parametrize("clean", ["pg_catalog.text", "pg_catalog.record", "bigint := 0"])
def test_types_of_variables_are_looked_at(clean: str, declared: str) -> None:
    found = faults(CLEAN.replace(clean, declared, 1), tables=ROOTS)
    assert any(fault.startswith("type ") for fault in found)


def test_dynamic_sql_is_found() -> None:
    dynamic = CLEAN.replace("PERFORM pg_catalog.pg_notify('x', 'a = b')", "EXECUTE 'SELECT lower(x)'")
    [found] = faults(dynamic, tables=ROOTS)
    assert found.startswith("EXECUTE")


def test_the_users_own_sql_is_exempt_and_nothing_else() -> None:
    planted = CLEAN.replace("THEN coalesce", "AND a = b AND lower(a) IS NULL THEN coalesce")
    assert len(faults(planted, tables=ROOTS)) == 2
    assert len(faults(planted, own=("a = b",), tables=ROOTS)) == 1
    assert len(faults(planted, functions=("lower",), tables=ROOTS)) == 1
    assert faults(planted, own=("a = b",), functions=("lower",), tables=ROOTS) == []
    [found] = faults(CLEAN)
    assert found.startswith("table roots")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("a.b::int4 := 'x''y'", ["a", ".", "b", "::", "int4", ":=", "'x''y'"]),
        (r"E'a\'b' 'a\' 'c' $$it's$$", [r"E'a\'b'", r"'a\'", "'c'", "$$it's$$"]),
        ("$a$ $$ $a$ $1", ["$a$ $$ $a$", "$1"]),
        ('"a""b" "c d"', ['"a""b"', '"c d"']),
        ("1 1.5 .5 1e-5 1..2", ["1", "1.5", ".5", "1e-5", "1", "..", "2"]),
        ("a--b\n+c /* d /* e */ f */ g", ["a", "+", "c", "g"]),
        ("'/* no comment' --'\n x", ["'/* no comment'", "x"]),
        ("<<label>> A << b", ["<<label>>", "a", "<<", "b"]),
        ("a @>--\nb", ["a", "@>", "b"]),
        ("größe", ["größe"]),
    ],
)
def test_text_is_split_as_postgresql_does(sql: str, expected: list[str]) -> None:
    assert [token.text for token in tokens(sql)] == expected


@pytest.mark.parametrize("sql", ["$tag it's", "'open", '"open', "{"])
def test_what_is_no_sql_is_refused(sql: str) -> None:
    with pytest.raises(ValueError, match="no token"):
        list(tokens(sql))


@pytest.mark.server
def test_words_of_the_grammar_are_what_the_server_says(client: psycopg.Connection[Any]) -> None:
    words = dict(client.execute("SELECT word, catcode::text FROM pg_get_keywords()").fetchall())
    assert {words[word] for word in RESERVED} == {"R"}
    # No function without a schema can be named so.
    assert {words[word] for word in CONSTRUCTS} <= {"R", "C"}
    assert {words[word] for word in KEYWORD_TYPES - {"double"}} == {"C"}
