"""A server that is too old for durable delivery."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from postgres import VERSION
from sqlalchemy import Engine

from sqlalchemy_watch import Listener, UnsupportedServerError, status

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(VERSION >= 14, reason=f"PostgreSQL {VERSION} is not too old for durable delivery"),
]


def test_writes_succeed_start_raises_and_status_says_what_is_wrong(
    engine: Engine, client: psycopg.Connection[Any], Base: Any, Order: Any
) -> None:
    assert client.execute("INSERT INTO orders VALUES (1) RETURNING id").fetchone() == (1,)
    with pytest.raises(UnsupportedServerError, match="durable delivery needs PostgreSQL 14 or later"):
        Listener(engine, Base, durable="mailer").start()
    (problem,) = {problem for item in status(engine, Base) for problem in item.problems}
    assert problem == "the server is PostgreSQL 13, so durable delivery can't work: it needs PostgreSQL 14 or later"
