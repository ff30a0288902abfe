"""Sessions of the engine see what the listener's own connection sees, unless something is called with connections."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, Pool, QueuePool, StaticPool

from sqlalchemy_watch.aio import sync_engine_of
from sqlalchemy_watch.listener.server.asking import Asker
from sqlalchemy_watch.listener.server.connect import has_pool_events

pytestmark = pytest.mark.sqlalchemy

DRIVERS = ["psycopg", "psycopg2", "pg8000", "asyncpg"]


def never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("it is not called")


def make(driver: str, **options: Any) -> Any:
    url = f"postgresql+{driver}://localhost/shop"
    return create_async_engine(url, **options) if driver == "asyncpg" else create_engine(url, **options)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("poolclass", [None, NullPool, StaticPool])
def test_those_of_sqlalchemy_itself_do_not_count(driver: str, poolclass: Any) -> None:
    engine = make(driver, **({} if poolclass is None else {"poolclass": poolclass}))
    event.listen(sync_engine_of(engine), "before_cursor_execute", never)
    event.listen(sync_engine_of(engine).pool, "close", never)
    assert not has_pool_events(sync_engine_of(engine))
    assert Asker(engine, never).own_is_alike
    assert not Asker(engine, never, has_listen_url=True).own_is_alike


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", ["connect", "first_connect", "checkout"])
@pytest.mark.parametrize("options", [{}, {"once": True}, {"named": True}, {"insert": True}], ids=str)
def test_those_of_the_application_count(driver: str, name: str, options: Any) -> None:
    engine = make(driver)
    event.listen(sync_engine_of(engine), name, never, **options)
    assert has_pool_events(sync_engine_of(engine))
    assert not Asker(engine, never).own_is_alike


@pytest.mark.parametrize("target", [Engine, Pool, QueuePool])
def test_those_of_all_engines_count(target: Any) -> None:
    event.listen(target, "connect", never)
    try:
        assert has_pool_events(create_engine("postgresql+psycopg://localhost/shop"))
    finally:
        event.remove(target, "connect", never)


def test_connections_of_a_creator_may_be_any() -> None:
    assert not Asker(create_engine("postgresql+psycopg://", creator=never), never).own_is_alike
