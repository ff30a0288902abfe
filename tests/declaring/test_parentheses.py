"""Which SQL text can be an operand as it is."""

from __future__ import annotations

import pytest

from sqlalchemy_watch.declaring.parentheses import disclosed, enclosed, is_query, is_untyped


@pytest.mark.parametrize(
    "sql",
    [
        "r.total", 'r."a)b"', "1", "-1.5e3", "'it''s ) ('", r"E'it\' )'", "$$ a + b $$", "NULL", "(a + b)", "f(a + b)",
        "s.f(a)", "r.tags[1]", "r.tags[1:2][a + 1]", "(a || b)[1]", "(r.place).city", "ARRAY[1, 2]", "CAST(a AS int)",
        "ANY (r.tags)", "any(r.tags)", "EXTRACT(year FROM a)", "(SELECT 1)", "größe", "r . total",
        "EXISTS (SELECT ')')",
    ],
)  # fmt: skip
def test_an_operand_stays_as_it_is(sql: str) -> None:
    assert enclosed(sql) == sql


@pytest.mark.parametrize(
    "sql",
    [
        "a + b", "-a", "(a) + (b)", "a IS NULL", "NOT a", "a::int", "ARRAY[]::int[]", "DATE '2020-01-01'", "a, b",
        "CASE WHEN a THEN b END", "count(*) FILTER (WHERE a)", 'a COLLATE "C"', "f(a).b", "a -> 'b'", "''a", "a)(b",
        "1 2",
    ],
)  # fmt: skip
def test_anything_else_is_enclosed(sql: str) -> None:
    assert enclosed(sql) == f"({sql})"


@pytest.mark.parametrize(
    ("sql", "bare"),
    [
        ("(a = b)", "a = b"), ("(a) = (b)", "(a) = (b)"), ("(a = ')')", "a = ')'"), ("(SELECT a)", "(SELECT a)"),
        ("((a))", "(a)"), ("(a)[1]", "(a)[1]"), ("a", "a"), ("(1, 2)", "1, 2"), ("(SELECT 1), 2", "(SELECT 1), 2"),
    ],
)  # fmt: skip
def test_parentheses_around_all_of_it_are_taken_off(sql: str, bare: str) -> None:
    assert disclosed(sql) == bare


def test_what_is_a_query() -> None:
    for sql in (
        "SELECT 1",
        "(select 1)",
        "((SELECT 1) UNION (SELECT 2))",
        " ( VALUES (1), (2))",
        "WITH a AS (SELECT 1) TABLE a",
    ):
        assert is_query(sql)
    for sql in ("1, 2", "(1, 2)", "(SELECT 1), 2", "selected", "'SELECT 1'", "f((SELECT 1))"):
        assert not is_query(sql)


def test_what_has_no_type_of_its_own() -> None:
    assert [is_untyped(sql) for sql in ("'a'", r"E'\\'", "NULL", "1", "r.a", "'a' || 'b'")] == [True] * 3 + [False] * 3
