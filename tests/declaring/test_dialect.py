"""Literals that mean the same under either setting of standard_conforming_strings."""

from __future__ import annotations

import pytest

from sqlalchemy_watch.declaring.dialect import escape_backslashes


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
