"""Names in quotes, and literals that mean the same under either setting of standard_conforming_strings."""

from __future__ import annotations

import pytest
from sqlalchemy.sql import quoted_name

from sqlalchemy_watch.declaring.dialect import PLPGSQL_WORDS, PREPARER, escape_backslashes


@pytest.mark.parametrize(
    ("sql", "escaped"),
    [
        ("1.5", "1.5"),
        ("''", "''"),
        ("'it''s'", "'it''s'"),
        (r"'a\b'", r"E'a\\b'"),
        (r"'\'", r"E'\\'"),
        (r"'it''s \'", r"E'it''s \\'"),
        (r"ARRAY['a', 'b\', '\''c']", r"ARRAY['a', E'b\\', E'\\''c']"),
        (r"E'a\\b' || 'c\d'", r"E'a\\b' || E'c\\d'"),
        (r"e'\'' || '\'", r"e'\'' || E'\\'"),
        (r"'a\b'::jsonb", r"E'a\\b'::jsonb"),
        ("'a\\\nb'", "E'a\\\\\nb'"),
    ],
)
def test_backslashes_are_escaped_in_each_literal(sql: str, escaped: str) -> None:
    assert escape_backslashes(sql) == escaped


@pytest.mark.parametrize("name", [*sorted(PLPGSQL_WORDS), "select", "Total", "a b", "a$b", "$$", "1st", "größe", "a\n"])
def test_names_that_are_quoted(name: str) -> None:
    assert PREPARER.quote(name) == f'"{name}"'


@pytest.mark.parametrize("name", ["total", "type", "message", "tg_op", "a_1"])
def test_names_that_are_not_quoted(name: str) -> None:
    assert PREPARER.quote(name) == name


def test_a_word_of_plpgsql_is_quoted_even_where_the_column_says_not_to() -> None:
    assert PREPARER.quote(quoted_name("Begin", quote=False)) == '"begin"'
    assert PREPARER.quote(quoted_name("Total", quote=False)) == "Total"
