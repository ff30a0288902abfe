"""Tables and partitions that are made, moved and dropped while a listener is running."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import DeclarativeBase

from sqlalchemy_watch import Listener, install
from sqlalchemy_watch.listener.dispatch import placing

from .tenants import (
    LEVELS,
    Client,
    OpenEars,
    by_both,
    declare,
    insert,
    make_tenant,
    warnings_in,
)  # fmt: skip


@pytest.mark.server
@pytest.mark.parametrize("level", [None, "row"])
def test_partitions_made_elsewhere_while_listening_are_heard(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, level: Any
) -> None:
    Account = declare(Base, level, postgresql_partition_by="RANGE (id)")
    Base.metadata.create_all(engine)
    client.execute("CREATE TABLE accounts_0 PARTITION OF accounts FOR VALUES FROM (0) TO (10)")
    ears = open_ears(engine, Account)
    insert(client, "public", 1)
    client.execute("CREATE SCHEMA parts; CREATE SCHEMA deeper")
    client.execute("CREATE TABLE parts.p1 PARTITION OF accounts FOR VALUES FROM (10) TO (20)")
    insert(client, "public", 2, 11)
    client.execute(
        "CREATE TABLE parts.p2 PARTITION OF accounts FOR VALUES FROM (20) TO (40) PARTITION BY RANGE (id);"
        "CREATE TABLE deeper.p3 PARTITION OF parts.p2 FOR VALUES FROM (20) TO (30)"
    )
    client.execute("INSERT INTO deeper.p3 VALUES (21)")
    assert ears.heard() == [("public", 1), ("public", 2), ("parts", 11), ("deeper", 21)]
    client.execute("DELETE FROM deeper.p3; ALTER TABLE parts.p2 DETACH PARTITION deeper.p3; DROP SCHEMA deeper CASCADE")
    assert ears.heard() == [("deeper", -21)]
    assert ears.resyncs() == set()


@pytest.mark.parametrize("level", LEVELS)
def test_table_made_or_moved_while_listening_is_heard(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, level: Any
) -> None:
    Account = declare(Base, level)
    asked = create_engine(engine.url, connect_args={"options": "-csearch_path=app,public"})
    ears = open_ears(asked, Account)
    Base.metadata.create_all(engine)
    insert(client, "public", 1)
    assert ears.heard() == [("public", 1)]
    client.execute("CREATE SCHEMA app; ALTER TABLE accounts SET SCHEMA app")
    insert(client, "app", 2)
    assert ears.heard() == [("app", 2)]
    client.execute("ALTER SCHEMA app RENAME TO old; CREATE SCHEMA app")
    make_tenant(client, engine.url, Account, "app")
    insert(client, "app", 3)
    client.execute("DROP SCHEMA app CASCADE; ALTER TABLE old.accounts SET SCHEMA public")
    insert(client, "public", 4)
    assert ears.heard() == [("app", 3), ("public", 4)]
    assert ears.resyncs() == set()


@by_both
def test_events_older_than_the_move_of_their_table_are_delivered(
    client: Client, engine: Engine, Account: Any, group: str
) -> None:
    make_tenant(client, engine.url, Account, "public")
    heard: list[Any] = []
    Account.watch.inserted.connect(lambda sender, event: heard.append((event.schema, event.identity[0])), weak=False)
    asked = create_engine(engine.url, connect_args={"options": "-csearch_path=app,public"})
    with Listener(asked, Account, durable=group):
        pass
    insert(client, "public", 1)
    client.execute("CREATE SCHEMA app; ALTER TABLE accounts SET SCHEMA app")
    insert(client, "app", 2)
    with Listener(asked, Account, durable=group) as listener:
        listener.catch_up()
        assert heard == [("public", 1), ("app", 2)]


@by_both
def test_table_moved_off_the_search_path_causes_one_warning_and_a_resync(
    client: Client, engine: Engine, Account: Any, open_ears: OpenEars, caplog: pytest.LogCaptureFixture
) -> None:
    Account.metadata.create_all(engine)
    ears = open_ears(engine, Account)
    insert(client, "public", 1)
    client.execute("CREATE SCHEMA away; ALTER TABLE accounts SET SCHEMA away")
    insert(client, "away", 2)
    insert(client, "away", 3)
    assert ears.heard() == [("public", 1)]
    assert ears.resyncs() == {placing.UNPLACED}
    assert ears.counts("unplaced") == {2}
    assert ears.counts("ignored") == {0}
    for words in ("'accounts'", "'away'", "schemas=('away',)", "search_path (postgres, public)"):
        told = [warning for warning in warnings_in(caplog, words) if warning.startswith("events of table")]
        assert len(told) == 2  # one for either listener
    client.execute("ALTER TABLE away.accounts SET SCHEMA public")
    insert(client, "public", 4)
    assert ears.heard() == [("public", 4)]


def test_namesake_that_becomes_the_engines_own_is_not_passed_over_in_silence(
    client: Client, engine: Engine, Account: Any, open_ears: OpenEars
) -> None:
    make_tenant(client, engine.url, Account, "app", "public")
    asked = create_engine(engine.url, connect_args={"options": "-csearch_path=app,public"})
    ears = open_ears(asked, Account)
    insert(client, "app", 1)
    insert(client, "public", 2)
    assert ears.heard() == [("app", 1)]
    assert ears.counts("ignored") == {1}
    client.execute("DROP SCHEMA app CASCADE")
    insert(client, "public", 3)
    assert ears.heard() == [("public", 3)] or ears.resyncs() == {placing.TAKEN_FOR_ANOTHERS}
    insert(client, "public", 4)
    assert ears.heard() == [("public", 4)]


def test_temporary_namesake_is_not_heard(client: Client, engine: Engine, Account: Any, open_ears: OpenEars) -> None:
    Account.metadata.create_all(engine)
    ears = open_ears(engine, Account)
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE accounts (id int PRIMARY KEY)"))
        install(connection, Account)
        connection.execute(text("INSERT INTO pg_temp.accounts VALUES (1)"))
        connection.execute(text("INSERT INTO public.accounts VALUES (2)"))
    assert ears.heard() == [("public", 2)]
    assert ears.counts("ignored") == {1}
    assert ears.resyncs() == set()
