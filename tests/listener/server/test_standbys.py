"""A hot standby can't LISTEN; of several hosts the primary is chosen, and the next one after a failover."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from models import declare_base, declare_user
from postgres import Cluster
from sqlalchemy import URL, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from sqlalchemy_watch import Listener, UnsupportedServerError

from ..clusters import Standby, create_tables, removed_afterwards
from ..journal import Journal

Base = declare_base()
User = declare_user(Base)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    with removed_afterwards(Cluster()) as primary:
        create_tables(primary, Base)
        with removed_afterwards(Standby(primary)) as standby:
            yield primary, standby


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_standby_is_refused_at_start_with_the_remedy(pair: tuple[Cluster, Cluster], driver: str) -> None:
    make = create_async_engine if driver == "asyncpg" else create_engine
    listener = Listener(make(pair[1].url(driver=driver)), User)
    with pytest.raises(UnsupportedServerError, match=r"hot standby.*target_session_attrs=read-write.*listen_url="):
        listener.start()
    assert not listener.running


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_primary_is_found_among_several_hosts(pair: tuple[Cluster, Cluster], driver: str) -> None:
    make = create_async_engine if driver == "asyncpg" else create_engine
    with Listener(make(url_of(driver, pair[1], pair[0])), User) as listener:
        journal = Journal()
        with User.watch.inserted.connected_to(journal), pair[0].connect() as client:
            client.execute("INSERT INTO users VALUES (1)")
            listener.catch_up()
            client.execute("DELETE FROM users")
        assert journal.ids() == [1]


def test_failover_to_the_second_host(pair: tuple[Cluster, Cluster]) -> None:  # the last: it takes the pair apart
    primary, standby = pair
    journal = Journal()
    listener = Listener(create_engine(url_of("psycopg", primary, standby)), User, heartbeat_interval=0.2)
    journal.attach(listener)
    with User.watch.inserted.connected_to(journal), listener:
        with primary.connect() as client:
            client.execute("INSERT INTO users VALUES (2)")
        listener.catch_up()
        primary.stop("immediate")
        journal.wait_for_count("disconnected", 1)
        standby.promote()
        journal.wait_for_count("resync", 1)
        with standby.connect() as client:
            client.execute("INSERT INTO users VALUES (3)")
        listener.catch_up()
    assert [entry[0] for entry in journal.entries] == [
        "connected", "event", "disconnected", "connected", "resync", "event",
    ]  # fmt: skip


def url_of(driver: str, *clusters: Cluster) -> URL:
    hosts = tuple(f"127.0.0.1:{cluster.port}" for cluster in clusters)
    attributes = {"asyncpg": "primary"}.get(driver, "read-write")
    return URL.create(
        f"postgresql+{driver}",
        "postgres",
        database="postgres",
        query={"host": hosts, "target_session_attrs": attributes},
    )
