"""Tenants that are heard on purpose, by `schemas=`, and those that are not."""

from __future__ import annotations

from typing import Any

import pytest
from postgres import Cluster
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase

from sqlalchemy_watch import ConfigurationError, Listener
from sqlalchemy_watch.listener.dispatch import placing

from .tenants import (
    DRIVERS,
    LEVELS,
    Client,
    OpenEars,
    declare,
    insert,
    make_engine,
    make_tenant,
    warnings_in,
)  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
def test_tenants_are_heard_on_purpose(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, level: Any
) -> None:
    Account = declare(Base, level)
    make_tenant(client, engine.url, Account, "public", "a", "B c")
    ears = open_ears(engine, Account, schemas=("a", "B c", "late"))
    insert(client, "a", 1)
    insert(client, "B c", 2)
    insert(client, "public", 3)
    make_tenant(client, engine.url, Account, "late")
    insert(client, "late", 4)
    assert ears.heard() == [("a", 1), ("B c", 2), ("late", 4)]
    assert ears.counts("ignored") == {1}
    assert ears.resyncs() == set()


def test_all_tenants_are_heard_on_purpose(client: Client, engine: Engine, Account: Any, open_ears: OpenEars) -> None:
    ears = open_ears(engine, Account, schemas="*")
    make_tenant(client, engine.url, Account, "public", "a", "b")
    for number, schema in enumerate(["public", "a", "b"]):
        insert(client, schema, number)
    assert ears.heard() == [("public", 0), ("a", 1), ("b", 2)]
    assert ears.counts("ignored") == ears.counts("unplaced") == {0}


def test_partitions_of_tenants_are_heard_with_them(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars
) -> None:
    Account = declare(Base, None, postgresql_partition_by="RANGE (id)")
    make_tenant(client, engine.url, Account, "a", "b")
    ears = open_ears(engine, Account, schemas=["a"])
    for tenant in "a", "b":
        client.execute(f"CREATE SCHEMA {tenant}_parts")
        client.execute(f"CREATE TABLE {tenant}_parts.p PARTITION OF {tenant}.accounts DEFAULT")
        insert(client, tenant, 1)
    assert ears.heard() == [("a_parts", 1)]
    assert ears.counts("ignored") == {1}
    assert ears.resyncs() == set()


@pytest.mark.parametrize(
    ("schemas", "words"),
    [
        ("tenant", r"write schemas=\('tenant',\)"),
        ("", "sequence of schema names"),
        (b"a", "sequence of schema names"),
        (3, "sequence of schema names"),
        ((), "names no schema"),
        ((None,), "None is no name"),
        (("a", 1), "1 is no name"),
        (("a", ""), "'' is no name"),
        (("a", "*"), r"pass schemas='\*'"),
    ],
)
def test_schemas_are_checked_when_the_listener_is_made(engine: Engine, Account: Any, schemas: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Listener(engine, Account, schemas=schemas)


def test_tenants_of_each_request_are_told_with_the_remedy(
    client: Client, engine: Engine, Account: Any, open_ears: OpenEars, caplog: pytest.LogCaptureFixture
) -> None:
    # The application sets the search_path for each request; the engine itself leads to none of them.
    make_tenant(client, engine.url, Account, "a", "b")
    ears = open_ears(engine, Account)
    for number in range(20):
        insert(client, "a", number)
        insert(client, "b", number)
    assert ears.heard() == []
    assert ears.counts("unplaced") == {40}
    assert ears.resyncs() == {placing.UNPLACED}
    assert len(warnings_in(caplog, "schemas=('a',) or schemas='*'")) == len(ears.listeners)
    assert len(warnings_in(caplog, "schemas=('b',) or schemas='*'")) == len(ears.listeners)


@pytest.mark.sqlalchemy
@pytest.mark.parametrize("driver", DRIVERS)
def test_tenants_are_heard_with_every_driver(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars, driver: str
) -> None:
    make_tenant(client, engine.url, Account, "public", "a", "b")
    ears = open_ears(make_engine(cluster, database, driver), Account, schemas={"a", "b"})
    for number, schema in enumerate(["public", "a", "b"]):
        insert(client, schema, number)
    assert ears.heard() == [("a", 1), ("b", 2)]
    assert ears.counts("ignored") == {1}
