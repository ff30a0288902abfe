"""Fixtures: a model without a schema, heard by both routes; listeners for it; a role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase

from .tenants import (
    Client,
    Ears,
    OpenEars,
    declare,
)  # fmt: skip


@pytest.fixture(params=["both", "notify"])
def Account(Base: type[DeclarativeBase], request: pytest.FixtureRequest) -> Any:
    """A model whose table does not exist yet: heard by both routes and the schema, or by NOTIFY and the oid."""
    return declare(Base, delivery=request.param)


@pytest.fixture
def open_ears(group: str) -> Iterator[OpenEars]:
    """Starts pairs of listeners, which are stopped after the test."""
    with ExitStack() as stack:

        def start(engine: Any, Account: Any, **options: Any) -> Ears:
            ears = Ears(engine, Account, group, **options)
            for listener in ears.listeners:
                stack.enter_context(listener)
            return ears

        yield start


@pytest.fixture
def role(client: Client, database: str) -> Iterator[str]:
    """A role that may log in and read a slot, and no more; it is dropped after the test, with what it was granted."""
    name = f"role_of_{database}"
    client.execute(f"CREATE ROLE {name} LOGIN REPLICATION; GRANT CREATE ON DATABASE {database} TO {name}")
    yield name
    client.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [name])
    client.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")
