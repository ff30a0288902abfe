"""Poolers of transactions lose LISTEN and go on answering queries: the listener refuses to start behind one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import create_engine

from sqlalchemy_watch import Listener, UnsupportedServerError

from ..conftest import MakeListener
from ..journal import Journal
from ..pooler import PGBOUNCER, pgbouncer, transaction_pooler

POOLERS = ["one session", "two sessions in turn"]
if PGBOUNCER is not None:
    POOLERS += ["PgBouncer", "PgBouncer with one session", "PgBouncer in turn"]


@pytest.fixture(params=POOLERS)
def pooled_port(request: pytest.FixtureRequest, cluster: Cluster, database: str) -> Iterator[int]:
    poolers: dict[str, AbstractContextManager[int]] = {
        "one session": transaction_pooler(cluster, database, 1),
        "two sessions in turn": transaction_pooler(cluster, database, 2),
        "PgBouncer": pgbouncer(cluster, "transaction"),
        "PgBouncer with one session": pgbouncer(cluster, "transaction", default_pool_size=1),
        "PgBouncer in turn": pgbouncer(cluster, "transaction", server_round_robin=1, min_pool_size=3),
    }
    with poolers[request.param] as port:
        yield port


def url_at(port: int, database: str) -> str:
    return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{database}"


def test_transaction_pooler_is_refused_at_start_with_the_remedy(database: str, User: Any, pooled_port: int) -> None:
    listener = Listener(create_engine(url_at(pooled_port, database)), User, heartbeat_timeout=1)
    with pytest.raises(UnsupportedServerError, match=re.escape("direct connection with listen_url='postgresql://")):
        listener.start()
    assert not listener.running


def test_listen_url_goes_past_the_pooler(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], User: Any, pooled_port: int, journal: Journal
) -> None:
    engine = create_engine(url_at(pooled_port, database))
    User.watch.inserted.connect(journal)
    with Listener(engine, User, listen_url=cluster.url(database)) as listener:
        client.execute("INSERT INTO users VALUES (1)")
        listener.catch_up()
    assert journal.ids() == [1]
    engine.dispose()


if PGBOUNCER is not None:

    def test_pgbouncer_that_pools_sessions_will_do(
        cluster: Cluster, client: psycopg.Connection[Any], listening: MakeListener, journal: Journal
    ) -> None:
        with pgbouncer(cluster, "session") as port:
            listener = listening(port)
            client.execute("INSERT INTO users VALUES (1)")
            listener.catch_up()
            client.execute("INSERT INTO users VALUES (2)")
            journal.wait_for_count("event", 2)
            listener.stop()
        assert journal.ids() == [1, 2]
        assert journal.count("disconnected") == 0
