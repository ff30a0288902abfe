"""Engines that are given ready-made connections: the listener makes its own like them, and leaves theirs alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster, needs_logical_messages
from psycopg_pool import ConnectionPool
from sqlalchemy import Engine, NullPool, StaticPool, create_engine, event
from sqlalchemy.orm import DeclarativeBase
from support import end_listeners, insert, wait_until

from sqlalchemy_watch import ConfigurationError, Listener

from ..journal import Journal


class Returning(psycopg.Connection[Any]):
    """Comes back when it is closed, as was done before psycopg_pool had an option for that."""

    def close(self) -> None:
        pool = getattr(self, "_pool", None)
        if pool is None:
            super().close()
        else:
            pool.putconn(self)


@pytest.fixture(params=["closing puts it back", "its own close() puts it back", "closing ends it"])
def pool(request: pytest.FixtureRequest, cluster: Cluster, database: str) -> Iterator[ConnectionPool[Any]]:
    """A psycopg_pool of the application's, of one connection."""
    kind = Returning if request.param.startswith("its own") else psycopg.Connection
    with ConnectionPool(
        cluster.url(database), connection_class=kind, kwargs={"application_name": "pooled"}, min_size=1, max_size=1,
        open=True, close_returns=request.param == "closing puts it back",
    ) as pool:  # fmt: skip
        pool.wait()
        yield pool


def engine_by_creator(pool: ConnectionPool[Any]) -> Engine:
    return create_engine("postgresql+psycopg://", poolclass=NullPool, creator=pool.getconn)


def engine_by_function(pool: ConnectionPool[Any]) -> Engine:
    return create_engine("postgresql+psycopg://", poolclass=NullPool, creator=lambda: pool.getconn())


def engine_by_hook(pool: ConnectionPool[Any]) -> Engine:
    engine = create_engine("postgresql+psycopg://", poolclass=NullPool)
    event.listen(engine, "do_connect", lambda *args: pool.getconn())
    return engine


@pytest.mark.parametrize("make", [engine_by_creator, engine_by_function, engine_by_hook])
def test_pooled_connection_goes_back_as_it_was(
    pool: ConnectionPool[Any],
    make: Callable[[ConnectionPool[Any]], Engine],
    client: psycopg.Connection[Any],
    User: Any,
    journal: Journal,
) -> None:
    pid = client.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'pooled'").fetchone()
    listener = Listener(make(pool), User)
    User.watch.inserted.connect(journal)
    journal.attach(listener)
    with listener:
        end_listeners(client)
        journal.wait_for_count("resync", 1)
        insert(client, "users", 1)
        listener.catch_up()
    assert journal.ids() == [1]
    with pool.connection() as connection:
        assert (connection.info.backend_pid,) == pid
        assert not connection.autocommit
        assert "wait" not in vars(connection)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert connection.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)
        assert connection.execute("SHOW application_name").fetchone() == ("pooled",)


@pytest.mark.parametrize("is_callable", [True, False])
def test_pool_without_a_connection_to_spare_is_not_waited_for(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], User: Any, recorder: Recorder, is_callable: bool
) -> None:
    url = cluster.url(database)
    User.watch.inserted.connect(recorder)
    with (
        ConnectionPool((lambda: url) if is_callable else url, min_size=1, max_size=1, open=True) as pool,
        pool.connection(),
        Listener(engine_by_creator(pool), User) as listener,
    ):
        insert(client, "users", 1)
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,))]


class WithToken(psycopg.Connection[Any]):
    """Knows the database only when it connects."""

    target = ""

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
        return super().connect(f"{conninfo} {cls.target}", **kwargs)


def test_pool_that_connects_in_a_way_of_its_own_is_asked_for_a_connection(
    cluster: Cluster, database: str, Base: type[DeclarativeBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WithToken, "target", f"host=127.0.0.1 port={cluster.port} user=postgres dbname={database}")
    with (
        ConnectionPool("", connection_class=WithToken, min_size=1, open=True) as pool,
        Listener(engine_by_creator(pool), Base) as listener,
    ):
        listener.catch_up()


@needs_logical_messages
def test_durable_listener_connects_like_what_a_creator_gives(
    pool: ConnectionPool[Any], group: str, client: psycopg.Connection[Any], Order: Any, recorder: Recorder
) -> None:
    Order.watch.inserted.connect(recorder)
    with Listener(engine_by_creator(pool), Order, durable=group) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,))]


def test_one_connection_for_everybody_is_refused_and_left_alone(cluster: Cluster, database: str, Base: Any) -> None:
    with psycopg.connect(cluster.url(database)) as shared:
        engine = create_engine("postgresql+psycopg://", poolclass=StaticPool, creator=lambda: shared)
        with pytest.raises(ConfigurationError, match="StaticPool.*listen_url="):
            Listener(engine, Base)
        assert not shared.autocommit
        assert not shared.closed


def test_connection_of_another_driver_is_refused_and_closed(cluster: Cluster, database: str, Base: Any) -> None:
    import psycopg2

    made: list[Any] = []

    def create() -> Any:
        made.append(psycopg2.connect(cluster.url(database)))
        return made[-1]

    with pytest.raises(ConfigurationError, match="creator gives a psycopg2.*listen_url="):
        Listener(create_engine("postgresql+psycopg2://", creator=create), Base).start()
    assert [connection.closed for connection in made] == [1]


def test_settings_of_what_a_creator_gives_are_kept(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], Base: type[DeclarativeBase]
) -> None:
    options = "-c search_path=elsewhere -c statement_timeout=1234"
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(cluster.url(database), options=options)
    )
    with Listener(engine, Base) as listener:
        listener.catch_up()
        wait_until(client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch'")
