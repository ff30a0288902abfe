"""Whether a server can deliver durably, by its version and settings: pure."""

from __future__ import annotations

import pytest

from sqlalchemy_watch.catalog.problems import durable_problem


@pytest.mark.parametrize(
    ("version", "wal_level", "words"),
    [
        (13, "logical", "the server is PostgreSQL 13, so durable delivery can't work: it needs PostgreSQL 14 or later"),
        (14, "logical", None),
        (18, "logical", None),
        (18, "replica", "wal_level is 'replica', so durable delivery can't work: set wal_level = logical and restart"),
        (18, "minimal", "set wal_level = logical and restart the server"),
        (19, "logical", None),
        (19, "replica", None),
        (20, "replica", None),
        (19, "minimal", "wal_level is 'minimal', so durable delivery can't work: set wal_level = replica and restart"),
    ],
)
def test_what_durable_delivery_needs(version: int, wal_level: str, words: str | None) -> None:
    problem = durable_problem(version, wal_level)
    assert (problem is None) if words is None else (problem is not None and words in problem)
