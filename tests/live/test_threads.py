"""`LiveQuery`: results as a signal."""

from __future__ import annotations

import faulthandler
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, joinedload, selectinload, sessionmaker
from support import PATIENCE, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, ListenerError
from sqlalchemy_watch.live import LiveQuery, index
from sqlalchemy_watch.live import query as query_rules

pytestmark = pytest.mark.sqlalchemy

Client = psycopg.Connection[Any]


class Results:
    """A receiver that keeps what comes."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()

    def __call__(self, query: Any, result: Any) -> None:
        self._queue.put(result)

    def next(self) -> Any:
        return self._queue.get(timeout=PATIENCE)

    def is_empty(self) -> bool:
        return self._queue.empty()


@pytest.fixture
def results() -> Results:
    return Results()


@pytest.fixture(params=["psycopg", "psycopg2", "pg8000"])
def factory(cluster: Cluster, database: str, request: pytest.FixtureRequest) -> Iterator[sessionmaker[Session]]:
    from sqlalchemy import create_engine

    engine = create_engine(cluster.url(database, request.param))
    yield sessionmaker(engine)
    engine.dispose()


@pytest.fixture
def made(engine: Engine, listener: Listener) -> Iterator[Callable[..., Any]]:
    """Makes live queries, which are closed in the end."""
    queries: list[LiveQuery[Any]] = []

    def make(query: Any, **options: Any) -> LiveQuery[Any]:
        queries.append(LiveQuery(sessionmaker(engine), query, min_interval=options.pop("min_interval", 0), **options))
        return queries[-1]

    yield make
    for query in queries:
        query.close()
    assert index._register.indexes == {}


def of_3(shop: Any) -> Any:
    return select(shop.Order.id, shop.Order.total).where(shop.Order.customer_id == 3).order_by(shop.Order.id)


def test_each_driver_gives_results_as_they_change(
    shop: Any, client: Client, listener: Listener, factory: sessionmaker[Session], results: Results
) -> None:
    with LiveQuery(factory, of_3(shop), min_interval=0) as query:
        query.changed.connect(results)
        assert results.next() == [(2, 2), (10, 0), (18, 8), (26, 6), (34, 4)]
        client.execute("UPDATE orders SET total = total")
        client.execute("UPDATE orders SET customer_id = 4 WHERE id = 2")
        assert results.next() == query.result == [(10, 0), (18, 8), (26, 6), (34, 4)]
    assert results.is_empty()


def test_it_lives_as_long_as_it_is_not_closed(
    shop: Any, client: Client, engine: Engine, listener: Listener, results: Results
) -> None:
    LiveQuery(sessionmaker(engine), of_3(shop)).changed.connect(results)
    assert len(results.next()) == 5
    gc.collect()
    client.execute("DELETE FROM orders WHERE id = 2")
    assert len(results.next()) == 4
    (found,) = {query for each in index._register.indexes.values() for query in each._all()}
    found.close()  # type: ignore[attr-defined]


def test_functions_and_eager_loads_are_followed(shop: Any, client: Client, made: Any, results: Results) -> None:
    def load(session: Session) -> Any:
        order = session.get_one(shop.Order, 2, options=[selectinload(shop.Order.items)])
        return order.total, [item.price for item in order.items]

    made(load).changed.connect(results)
    assert results.next() == (2, [1, 1])
    client.execute("UPDATE items SET price = 8 WHERE id = 41")
    assert results.next() == (2, [1, 8])
    joined = Results()
    made(select(shop.Order).where(shop.Order.id == 2).options(joinedload(shop.Order.items))).changed.connect(joined)
    assert [len(row.Order.items) for row in joined.next()] == [2]
    client.execute("DELETE FROM items WHERE id = 41")
    assert [len(row.Order.items) for row in joined.next()] == [1]


def test_receivers_are_isolated_and_errors_are_told(
    shop: Any, client: Client, made: Any, results: Results, caplog: pytest.LogCaptureFixture
) -> None:
    query = made(select(1 / shop.Order.total).where(shop.Order.id == 2))
    failures = Results()

    def broken(query: Any, result: Any) -> None:
        raise RuntimeError("broken")

    query.changed.connect(broken)
    query.changed.connect(results)
    query.failed.connect(failures)
    client.execute("UPDATE orders SET total = 0 WHERE id = 2")
    assert "division by zero" in str(failures.next())
    client.execute("UPDATE orders SET total = 1 WHERE id = 2")
    while results.next()[0][0] != 1:
        pass
    wait_until(client, lambda: "broken of a live query failed" in caplog.text)
    assert "a live query failed" in caplog.text


def test_runs_of_one_query_do_not_overlap_and_those_of_many_share_the_threads(
    shop: Any, client: Client, made: Any
) -> None:
    lock, running, most = threading.Lock(), [0] * 20, 0
    done = Results()

    def follow(number: int) -> Any:
        def load(session: Session) -> Any:
            nonlocal most
            with lock:
                running[number] += 1
                assert running[number] == 1
                most = max(most, sum(running))
            session.execute(select(func.count(shop.Order.id)))
            found = session.scalar(select(func.sum(shop.Order.total)))
            with lock:
                running[number] -= 1
            return found

        return load

    queries = [made(follow(number)) for number in range(20)]
    for query in queries:
        query.changed.connect(done)
    for _ in range(10):
        client.execute("UPDATE orders SET total = total + 1")
    (total,) = client.execute("SELECT sum(total) FROM orders").fetchone() or [None]
    wait_until(client, lambda: all(query.result == total for query in queries))
    assert most <= 4


def test_threads_end_with_the_queries(shop: Any, client: Client, made: Any, results: Results) -> None:
    query = made(of_3(shop), every=3600)
    query.changed.connect(results)
    results.next()
    query.close()
    query.close()
    client.execute("DELETE FROM orders WHERE id = 2")
    wait_until(client, lambda: not any("live queries" in thread.name for thread in threading.enumerate()))
    assert results.is_empty()


def test_a_receiver_may_close_its_query(shop: Any, made: Any, client: Client) -> None:
    query, closed = made(of_3(shop)), threading.Event()

    def close(query: Any, result: Any) -> None:
        query.close()
        closed.set()

    query.changed.connect(close)
    assert closed.wait(PATIENCE)


TENANT: ContextVar[str] = ContextVar("TENANT")


def test_runs_have_the_context_in_which_it_was_made(shop: Any, made: Any, client: Client, results: Results) -> None:
    def load(session: Session) -> Any:
        return TENANT.get(), session.scalar(select(func.count(shop.Order.id)))

    TENANT.set("a")
    query = made(load)
    TENANT.set("b")
    query.changed.connect(results)
    assert results.next() == ("a", 40)


def test_killed_connections_are_made_anew(shop: Any, client: Client, made: Any, results: Results) -> None:
    made(of_3(shop)).changed.connect(results)
    results.next()
    for total in range(5):
        client.execute("UPDATE orders SET total = %s WHERE id = 2", [100 + total])
        client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )
        while results.next()[0] != (2, 100 + total):
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own(
    shop: Any, cluster: Cluster, database: str, made: Any, results: Results
) -> None:
    made(of_3(shop), every=0.05).changed.connect(results)
    results.next()
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        from sqlalchemy import create_engine

        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        code = 1
        try:
            engine = create_engine(cluster.url(database, "psycopg"))
            own = Results()
            with Listener(engine, shop.Base), LiveQuery(sessionmaker(engine), of_3(shop)) as query:
                query.changed.connect(own)
                code = 0 if len(own.next()) == 5 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_can_t_be_a_live_query_is_refused(shop: Any, engine: Engine, cluster: Cluster, database: str) -> None:
    factory = sessionmaker(engine)

    async def load(session: Any) -> int:
        return 1

    def async_factory() -> Any:
        return async_sessionmaker(create_async_engine(cluster.url(database, "asyncpg")))

    for arguments, words in (
        ((factory, load), r"load is a coroutine function: for these there is live\(\)"),
        ((async_factory(), of_3(shop)), r"for an async_sessionmaker there is live\(\)"),
        ((engine, of_3(shop)), "makes no sessions: give sessionmaker"),
        ((factory, update(shop.Order)), "can't be run again and again"),
        ((factory, text("SELECT 1")), "can't be run again and again"),
        ((factory, 1), "neither a SELECT nor a function"),
        ((factory, partial(load)), "is a coroutine function"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            LiveQuery(*arguments)
    query = LiveQuery(factory, of_3(shop))
    with pytest.raises(ListenerError, match="no running listener of this process hears"):
        query.changed.connect(print)
    assert not query.changed.receivers
    with Listener(engine, shop.Base):
        results = Results()
        query.changed.connect(results)
        assert len(results.next()) == 5
        query.close()


def test_receivers_are_no_coroutine_functions(shop: Any, made: Any) -> None:
    async def show(query: Any, result: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="show is a coroutine function, and its receivers run in threads"):
        made(of_3(shop)).changed.connect(show)


def test_a_run_that_does_not_end_is_warned_of(
    shop: Any, client: Client, listener: Listener, made: Any, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(query_rules, "MOST_SECONDS", 0.0)
    go_on, running, first = threading.Event(), threading.Event(), Results()

    def load(session: Session) -> int:
        session.execute(select(shop.Order))
        running.set()
        assert go_on.wait(PATIENCE)
        return 1

    made(load).changed.connect(first)
    assert running.wait(PATIENCE)
    for _ in range(2):
        client.execute("UPDATE orders SET total = total + 1")
        listener.catch_up()
    go_on.set()
    assert first.next() == 1
    assert caplog.text.count("tells of no change meanwhile: if its connection is frozen") == 1


def test_two_receivers_may_close_each_other_s_query(shop: Any, made: Any) -> None:
    one, two, both = made(of_3(shop)), made(select(shop.Item)), threading.Barrier(2)
    closed = Results()

    def close(other: Any) -> Any:
        def receiver(query: Any, result: Any) -> None:
            both.wait(PATIENCE)
            other.close()
            closed(query, 1)

        return receiver

    one.changed.connect(close(two))
    two.changed.connect(close(one))
    assert [closed.next(), closed.next()] == [1, 1]


def test_a_receiver_that_exits_ends_no_thread(shop: Any, client: Client, made: Any, results: Results) -> None:
    def leave(query: Any, argument: Any) -> None:
        raise SystemExit(1)

    for _ in range(5):
        broken = made(select(1 / (shop.Order.total - shop.Order.total)))
        broken.failed.connect(leave)
        broken.changed.connect(print)
    query = made(of_3(shop))
    query.changed.connect(leave)
    query.changed.connect(results)
    assert len(results.next()) == 5
    query.close()
    with pytest.raises(ListenerError, match="make another one"):
        query.changed.connect(print)


def test_a_quick_query_does_not_wait_for_slow_ones(shop: Any, client: Client, made: Any, results: Results) -> None:
    go_on, running = threading.Event(), threading.Semaphore(0)

    def slow(session: Session) -> int:
        running.release()
        assert go_on.wait(PATIENCE)
        return 1

    for _ in range(2):
        made(slow, tables=[shop.Customer]).changed.connect(Results())
    for _ in range(2):
        assert running.acquire(timeout=PATIENCE)
    made(of_3(shop)).changed.connect(results)
    assert len(results.next()) == 5
    go_on.set()


def test_it_ends_with_the_listener(shop: Any, engine: Engine, client: Client, results: Results) -> None:
    with Listener(engine, shop.Base):
        query = LiveQuery(sessionmaker(engine), of_3(shop))
        query.changed.connect(results)
        results.next()
    wait_until(client, lambda: query._query.is_ended)
    query.close()
    assert index._register.indexes == {}
