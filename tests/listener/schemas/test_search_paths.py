"""A table without a schema is heard where the search_path of the engine's own sessions leads, however that is set."""

from __future__ import annotations

from typing import Any

import pytest
from postgres import Cluster
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool, StaticPool

from sqlalchemy_watch import status
from sqlalchemy_watch.listener.server.schemas import parse_path

from .tenants import (
    DRIVERS,
    Client,
    OpenEars,
    insert,
    make_engine,
    make_tenant,
    run_on_connect,
    warnings_in,
)  # fmt: skip


@pytest.mark.sqlalchemy
@pytest.mark.parametrize("driver", DRIVERS)
def test_search_path_of_a_connect_event_is_followed(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars, driver: str
) -> None:
    make_tenant(client, engine.url, Account, "public", "tenant")
    asked = make_engine(cluster, database, driver)
    run_on_connect(asked, "SET SESSION search_path = 'tenant'")
    ears = open_ears(asked, Account)
    insert(client, "tenant", 1)
    insert(client, "public", 2)
    insert(client, "tenant", 3)
    assert ears.heard() == [("tenant", 1), ("tenant", 3)]
    assert ears.counts("ignored") == {1}
    assert ears.resyncs() == set()


@pytest.mark.parametrize("poolclass", [NullPool, StaticPool])
def test_pool_of_any_class_is_left_alone(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars, poolclass: Any
) -> None:
    make_tenant(client, engine.url, Account, "tenant")
    asked = make_engine(cluster, database, "psycopg", poolclass=poolclass)
    run_on_connect(asked, "SET SESSION search_path = 'tenant'")
    with asked.connect() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE mine (id int)"))
        connection.commit()
        ears = open_ears(asked, Account)
        insert(client, "tenant", 1)
        assert ears.heard() == [("tenant", 1)]
        assert connection.scalar(text("SELECT count(*) FROM mine")) == 0
    asked.dispose()


def test_connections_for_look_ups_are_few_and_closed(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars
) -> None:
    make_tenant(client, engine.url, Account, "public", "tenant", "other")
    asked = make_engine(cluster, database, "psycopg")
    connections = run_on_connect(asked, "SET SESSION search_path = 'tenant'")
    ears = open_ears(asked, Account)
    for number in range(100):
        insert(client, "tenant", number)
        insert(client, "other", number)
    assert len(ears.heard()) == 100
    assert ears.counts("ignored") == {100}
    assert asked.pool.checkedin() == asked.pool.checkedout() == 0
    # One for where the tables are, one for the first row of another tenant, one that looks again at the end.
    assert len(connections) <= 6
    assert all(connection.closed for connection in connections)


@pytest.mark.parametrize("way", ["role setting", "listen_url", "SET ROLE", "URL", "creator"])
def test_every_way_to_set_the_search_path_is_followed(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, role: str, open_ears: OpenEars,
    way: str,
) -> None:  # fmt: skip
    make_tenant(client, engine.url, Account, "tenant", "public")
    client.execute(f"GRANT USAGE ON SCHEMA tenant TO {role}")
    options: dict[str, Any] = {}
    url = engine.url
    if way == "role setting":
        client.execute(f"ALTER ROLE {role} IN DATABASE {database} SET search_path = tenant")
        asked = create_engine(url.set(username=role))
        options = {"listen_url": cluster.url(database)}
    elif way == "listen_url":
        asked = create_engine(url, connect_args={"options": "-csearch_path=tenant"})
        options = {"listen_url": cluster.url(database)}
    elif way == "SET ROLE":
        client.execute(f"ALTER SCHEMA tenant RENAME TO {role}")
        asked = create_engine(url)
        run_on_connect(asked, f"SET ROLE {role}")
    elif way == "URL":
        asked = create_engine(url.update_query_dict({"options": "-csearch_path=tenant,public"}))
    else:
        asked = create_engine(
            "postgresql+psycopg://", creator=lambda: cluster.connect(database, options="-csearch_path=tenant")
        )
        options = {"listen_url": f"{cluster.url(database)}?options=-csearch_path%3Dtenant"}
    ears = open_ears(asked, Account, **options)
    schema = role if way == "SET ROLE" else "tenant"
    insert(client, schema, 1)
    assert ears.heard() == [(schema, 1)]
    assert ears.resyncs() == set()


def test_schema_translate_map_of_the_engine_is_followed(
    client: Client, engine: Engine, Account: Any, open_ears: OpenEars
) -> None:
    make_tenant(client, engine.url, Account, "public", "tenant")
    ears = open_ears(engine.execution_options(schema_translate_map={None: "tenant"}), Account)
    insert(client, "public", 1)
    insert(client, "tenant", 2)
    assert ears.heard() == [("tenant", 2)]
    assert ears.counts("ignored") == {1}


def test_schema_without_usage_is_told_as_such(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, role: str,
    open_ears: OpenEars, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    make_tenant(client, engine.url, Account, "app")
    client.execute(f"ALTER ROLE {role} IN DATABASE {database} SET search_path = app, public")
    deaf = create_engine(engine.url.set(username=role))
    ears = open_ears(deaf, Account)
    insert(client, "app", 1)
    assert ears.heard() == [("app", 1)]
    assert ears.resyncs() == set()
    assert len(warnings_in(caplog, "GRANT USAGE ON SCHEMA")) >= 2
    assert "does not exist" not in caplog.text
    (item, *_) = status(deaf, Account)
    assert "USAGE" in item.problems[0]
    assert role in item.problems[0]


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ('"$user", public', ("app", "public")),
        ("$user,public", ("app", "public")),
        ('"A b", "c""d", E', ("A b", 'c"d', "e")),
        ('a,"a", b', ("a", "b")),
        ('"a,b"', ("a,b",)),
        ("", ()),
        ('""', ()),
    ],
)
def test_search_path_is_read_as_the_server_reads_it(setting: str, path: tuple[str, ...]) -> None:
    assert parse_path(setting, "app") == path
