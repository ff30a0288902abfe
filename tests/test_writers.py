"""`muted` and `context`: a writer's words about its own transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqlalchemy_watch import ConfigurationError, Listener, context, muted

pytestmark = pytest.mark.server


@pytest.fixture
def sqlite() -> Iterator[Engine]:
    engine = create_engine("sqlite://")
    yield engine
    engine.dispose()


@pytest.fixture
def heard(engine: Engine, User: Any, recorder: Recorder) -> Iterator[Callable[[], list[Any]]]:
    """Returns (id, context) of each event up to now."""
    User.watch.connect(recorder)
    with Listener(engine, User) as listener:

        def caught_up() -> list[Any]:
            listener.catch_up()
            return [(event.identity[0], dict(event.context)) for event in recorder.events]

        yield caught_up


def new_user(number: int) -> Any:
    return text(f"INSERT INTO users VALUES ({number})")


def test_a_session_is_flushed_at_both_ends_of_the_block(engine: Engine, User: Any, heard: Any) -> None:
    with Session(engine) as session:
        session.add(User(id=1))
        with muted(session):
            session.add(User(id=2))
        session.add(User(id=3))
        with context(session, page=1):
            session.add(User(id=4))
        session.commit()
    assert heard() == [(1, {}), (3, {}), (4, {"page": 1})]


def test_connections_and_scoped_sessions_are_taken(engine: Engine, User: Any, heard: Any) -> None:
    with engine.begin() as connection, muted(connection):
        connection.execute(new_user(1))
    scoped = scoped_session(sessionmaker(engine))
    with context(scoped, a="ü\n'\"\\"):
        scoped.add(User(id=2))
    scoped.commit()
    scoped.remove()
    assert heard() == [(2, {"a": "ü\n'\"\\"})]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_asynchronous_sessions_and_connections_are_taken(
    driver: str, cluster: Cluster, database: str, User: Any, heard: Any
) -> None:
    async def write() -> None:
        engine = create_async_engine(cluster.url(database, driver))
        async with AsyncSession(engine) as session:
            async with muted(session):
                session.add(User(id=1))
            async with context(session, request="r"):
                session.add(User(id=2))
            await session.commit()
        async with engine.begin() as connection, context(connection, x=[1, None]):
            await connection.execute(new_user(3))
        await engine.dispose()

    asyncio.run(write())
    assert heard() == [(2, {"request": "r"}), (3, {"x": [1, None]})]


def test_blocks_may_be_nested(engine: Engine, heard: Any) -> None:
    with engine.begin() as connection, context(connection, a=1, b=1):
        with context(connection, b=2), muted(connection), muted(connection):
            connection.execute(new_user(1))
        with context(connection, b=2):
            connection.execute(new_user(2))
        connection.execute(new_user(3))
    assert heard() == [(2, {"a": 1, "b": 2}), (3, {"a": 1, "b": 1})]


def test_an_exception_ends_the_block_and_the_transaction_goes_on(engine: Engine, heard: Any) -> None:
    with engine.begin() as connection:
        with pytest.raises(KeyError), muted(connection):
            raise KeyError
        connection.execute(new_user(1))
    assert heard() == [(1, {})]


def test_a_failed_statement_keeps_its_own_error(engine: Engine, client: psycopg.Connection[Any], heard: Any) -> None:
    with engine.connect() as connection:
        with pytest.raises(DBAPIError, match="no_such_table"), muted(connection):
            connection.execute(text("SELECT * FROM no_such_table"))
        connection.rollback()
        connection.execute(new_user(1))
        connection.commit()
    assert heard() == [(1, {})]


def test_savepoints_take_the_setting_back(engine: Engine, heard: Any) -> None:
    with engine.begin() as connection:
        savepoint = connection.begin_nested()
        with muted(connection):
            connection.execute(new_user(1))
            savepoint.rollback()
            connection.execute(new_user(2))  # the mute was set after the savepoint, and went with it
        connection.execute(new_user(3))
    assert heard() == [(2, {}), (3, {})]


def test_a_commit_in_the_block_ends_it_and_leaves_nothing_on_the_pooled_connection(engine: Engine, heard: Any) -> None:
    with Session(engine) as session:
        with muted(session):
            session.execute(new_user(1))
            session.commit()
            session.execute(new_user(2))
        session.commit()
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT current_setting('sqlalchemy_watch.muted', true)")) in ("", None)
        connection.execute(new_user(3))
    assert heard() == [(2, {}), (3, {})]


@pytest.mark.parametrize("make", [muted, lambda target: context(target, a=1)])
def test_other_targets_are_refused_with_the_right_statement(make: Any, engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="is no Session, AsyncSession, Connection"), make(engine):
        pass
    with pytest.raises(ConfigurationError, match="use `async with`, not `with`"), make(AsyncSession()):
        pass

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="use `with`, not `async with`"):
            async with make(Session(engine)):
                pass

    asyncio.run(main())


@pytest.mark.parametrize("make", [muted, lambda target: context(target, a=1)])
def test_autocommit_has_no_transaction_for_the_block_and_is_refused(
    engine: Engine, cluster: Cluster, database: str, make: Any
) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(ConfigurationError, match="in autocommit.*another isolation_level"), make(connection):
            pass
        with Session(connection) as session, pytest.raises(ConfigurationError, match="autocommit"), make(session):
            pass

    async def main() -> None:
        for driver in ("psycopg", "asyncpg"):
            engine = create_async_engine(cluster.url(database, driver), isolation_level="AUTOCOMMIT")
            async with engine.connect() as connection:
                with pytest.raises(ConfigurationError, match="in autocommit"):
                    async with make(connection):
                        pass
            await engine.dispose()

    asyncio.run(main())


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_every_driver_is_taken_in_a_transaction(
    cluster: Cluster, database: str, User: Any, heard: Any, driver: str
) -> None:
    engine = create_engine(cluster.url(database, driver))
    with engine.begin() as connection:
        with muted(connection):
            connection.execute(new_user(1))
        with context(connection, a=1):
            connection.execute(new_user(2))
    engine.dispose()
    assert heard() == [(2, {"a": 1})]


def test_other_databases_are_refused(sqlite: Engine) -> None:
    session = Session(sqlite)
    with pytest.raises(ConfigurationError, match="only PostgreSQL.*this is sqlite"), muted(session):
        pass
    session.close()


def test_a_session_with_several_engines_is_told_to_name_the_connection(engine: Engine, User: Any, heard: Any) -> None:
    with Session(binds={User: engine}) as session:
        with pytest.raises(ConfigurationError, match="Session has several engines.*bind_arguments"), muted(session):
            pass
        with muted(session.connection(bind_arguments={"mapper": User})):
            session.add(User(id=1))
            session.flush()
        session.commit()
    assert heard() == []


def test_context_takes_any_name(engine: Engine, heard: Any) -> None:
    with engine.begin() as connection, context(connection, target="a", self="b", name="c"):
        connection.execute(new_user(1))
    assert heard() == [(1, {"target": "a", "self": "b", "name": "c"})]


def test_a_block_may_be_used_again_but_not_inside_itself(engine: Engine, heard: Any) -> None:
    with engine.begin() as connection:
        silence = muted(connection)
        with silence:
            connection.execute(new_user(1))
            with pytest.raises(ConfigurationError, match="the block is entered already"), silence:
                pass
        connection.execute(new_user(2))
        with silence:
            connection.execute(new_user(3))
        connection.execute(new_user(4))
    assert heard() == [(2, {}), (4, {})]


def test_nested_contexts_that_are_too_much_together_change_nothing(engine: Engine, heard: Any) -> None:
    with engine.begin() as connection, context(connection, a="x" * 1500):
        with pytest.raises(ConfigurationError, match="bytes as JSON"), context(connection, b="x" * 1500):
            pass
        connection.execute(new_user(1))
    assert [set(values) for _, values in heard()] == [{"a"}]


def test_an_error_in_an_asynchronous_block_ends_it(cluster: Cluster, database: str, User: Any, heard: Any) -> None:
    async def write() -> None:
        engine = create_async_engine(cluster.url(database, "asyncpg"))
        async with AsyncSession(engine) as session:
            with contextlib.suppress(KeyError):
                async with muted(session):
                    session.add(User(id=1))
                    await session.flush()
                    raise KeyError
            session.add(User(id=2))
            await session.commit()
        await engine.dispose()

    asyncio.run(write())
    assert heard() == [(2, {})]


@pytest.mark.parametrize("values", [{"a": object()}, {"a": float("nan")}, {"a": "x" * 2000}])
def test_contexts_that_cannot_travel_are_refused_at_once(engine: Engine, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="context: "), Session(engine) as session:
        context(session, **values)
