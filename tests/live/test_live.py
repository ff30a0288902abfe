"""`live()`: results as they change."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import psycopg
import pytest
from listener.proxy import Proxy, proxied
from models import declare_base
from postgres import Cluster
from sqlalchemy import ForeignKey, bindparam, create_engine, event, func, select, text, update
from sqlalchemy import exc as sa_exc
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, Session, mapped_column, selectinload, sessionmaker, with_loader_criteria
from sqlalchemy.orm.exc import DetachedInstanceError
from support import wait_until

from live.conftest import Sessions, settled
from sqlalchemy_watch import ConfigurationError, Listener, ListenerError, Watch, Watched, everything, muted, watch
from sqlalchemy_watch.live import in_loops, index, live, query

pytestmark = pytest.mark.sqlalchemy

Client = psycopg.Connection[Any]


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(30):
            return await main()

    return asyncio.run(within())


def of_3(shop: Any) -> Any:
    return select(shop.Order).where(shop.Order.customer_id == 3).order_by(shop.Order.id)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_the_first_result_comes_at_once_and_then_those_that_differ(
    shop: Any, client: Client, listener: Listener, sessions: Sessions, driver: str
) -> None:
    async def main() -> None:
        async with sessions(driver) as factory, live(factory, of_3(shop), min_interval=0) as results:
            first = await anext(results)
            assert [(row.Order.id, row.Order.total) for row in first] == [(2, 2), (10, 0), (18, 8), (26, 6), (34, 4)]
            client.execute("UPDATE orders SET total = total")  # nothing differs
            client.execute("UPDATE orders SET total = 7 WHERE customer_id = 4")  # nobody's business
            client.execute("UPDATE orders SET total = 77 WHERE id = 10")
            assert [row.Order.total for row in await anext(results)] == [2, 77, 8, 6, 4]
            client.execute("UPDATE orders SET customer_id = 5 WHERE id = 2")  # it leaves
            assert [row.Order.id for row in await anext(results)] == [10, 18, 26, 34]

    run(main)


def test_a_row_of_another_runs_nothing(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory, live(factory, of_3(shop), min_interval=0) as results:
            await anext(results)
            started = results._query._started_at
            client.execute("UPDATE orders SET total = 7 WHERE customer_id <> 3")
            client.execute("UPDATE orders SET customer_id = 4 WHERE customer_id = 5")
            await listener.catch_up_async()
            await settled(results)
            assert results._query._started_at == started
            client.execute("UPDATE orders SET customer_id = 3 WHERE id = 5")
            assert 5 in [row.Order.id for row in await anext(results)]

    run(main)


def test_narrow_false_runs_for_each_row(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory, live(factory, of_3(shop), min_interval=0, narrow=False) as results:
            await anext(results)
            started = results._query._started_at
            client.execute("UPDATE orders SET total = 7 WHERE customer_id = 4")
            await listener.catch_up_async()
            await settled(results)
            assert results._query._started_at > started

    run(main)


def test_a_function_of_several_statements_is_followed(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    async def load_page(session: Any) -> dict[str, Any]:
        customer = await session.get(shop.Customer, 3)
        orders = list(await session.scalars(of_3(shop).options(selectinload(shop.Order.items))))
        count = await session.scalar(select(func.count()).select_from(shop.Customer))
        return {
            "name": customer.name,
            "prices": sum(i.price for o in orders for i in o.items),
            "count": count,
            "orders": len(orders),
        }

    async def main() -> None:
        async with sessions() as factory, live(factory, load_page, min_interval=0) as pages:
            first = await anext(pages)
            assert (first["name"], first["orders"]) == ("c3", 5)
            (of_2,) = client.execute("SELECT sum(price) FROM items WHERE order_id = 2").fetchone() or [0]
            rest = first["prices"] - of_2
            for statement, key, value in (
                ("UPDATE customers SET name = 'Ada' WHERE id = 3", "name", "Ada"),
                ("INSERT INTO customers VALUES (9, 'c9')", "count", 9),
                ("UPDATE items SET price = 100 WHERE order_id = 2", "prices", 200 + rest),
                ("INSERT INTO orders VALUES (100, 3, 1)", "orders", 6),
                ("INSERT INTO items VALUES (100, 100, 5)", "prices", 205 + rest),
                ("TRUNCATE items", "prices", 0),
            ):
                client.execute(statement.encode())
                while (await anext(pages))[key] != value:
                    pass

    run(main)


def test_what_a_function_reads_may_change(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    async def load(session: Any) -> Any:
        wanted = await session.scalar(select(shop.Order.total).where(shop.Order.id == 1))
        return await session.scalar(select(shop.Customer.name).where(shop.Customer.name == f"c{wanted}")) or (
            await session.scalar(select(shop.Item.price).where(shop.Item.id == 1))
        )

    async def main() -> None:
        async with sessions() as factory, live(factory, load, min_interval=0) as results:
            assert await anext(results) == "c1"
            client.execute("UPDATE orders SET total = 1000 WHERE id = 1")
            assert await anext(results) == 1
            client.execute("UPDATE items SET price = 55 WHERE id = 1")
            assert await anext(results) == 55
            client.execute("UPDATE orders SET total = 2 WHERE id = 1")
            assert await anext(results) == "c2"
            await settled(results)
            assert {table.name for table in index._register.indexes} == {"orders", "customers"}

    run(main)


def test_a_change_between_the_snapshot_and_a_table_s_first_mention_is_not_missed(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    changed = False

    async def load(session: Any) -> Any:
        nonlocal changed
        await session.scalar(select(func.count()).select_from(shop.Order))  # the snapshot is taken
        if not changed:
            changed = True
            await asyncio.to_thread(client.execute, "UPDATE items SET price = 99 WHERE id = 1")
            await listener.catch_up_async()  # nobody heard of it
        return await session.scalar(select(shop.Item.price).where(shop.Item.id == 1))

    async def main() -> None:
        async with sessions() as factory, live(factory, load, min_interval=0) as results:
            assert await anext(results) == 1
            assert await anext(results) == 99

    run(main)


def test_a_hook_that_takes_the_snapshot_first_misses_nothing(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    """Such as one that tells the database who the tenant is."""
    changed = False

    async def main() -> None:
        async with sessions("psycopg") as factory:

            @event.listens_for(factory.kw["bind"].sync_engine, "begin")
            def take(connection: Any) -> None:
                nonlocal changed
                connection.execute(text("SELECT set_config('app.tenant', '1', true), txid_current_snapshot()"))
                if not changed:
                    changed = True
                    client.execute("UPDATE items SET price = 99 WHERE id = 1")
                    listener.catch_up()

            async def load(session: Any) -> Any:
                return await session.scalar(select(shop.Item.price).where(shop.Item.id == 1))

            async with live(factory, load, min_interval=0) as results:
                assert await anext(results) == 1
                assert await anext(results) == 99

    run(main)


def test_instances_are_detached_and_loaded(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        query = of_3(shop).options(selectinload(shop.Order.items))
        async with sessions() as factory, live(factory, query, min_interval=0) as results:
            order = (await anext(results))[0].Order
            assert [item.id for item in order.items] == [1, 41]
            with pytest.raises(DetachedInstanceError):
                _ = order.customer

    run(main)


def test_who_is_slow_gets_the_newest_result(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory, live(factory, of_3(shop), min_interval=0) as results:
            await anext(results)
            for total in range(20):
                client.execute("UPDATE orders SET total = %s WHERE id = 2", [100 + total])
                await listener.catch_up_async()
                await settled(results)
            assert (await anext(results))[0].Order.total == 119
            assert results._seat.version == results._query.version  # type: ignore[union-attr]

    run(main)


def test_runs_keep_their_distance(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory, live(factory, of_3(shop), min_interval=0.2) as results:
            await anext(results)
            starts = [results._query._started_at]
            for total in range(3):
                client.execute("UPDATE orders SET total = %s WHERE id = 2", [100 + total])
                await anext(results)
                starts.append(results._query._started_at)
            assert all(later - earlier >= 0.2 for earlier, later in itertools.pairwise(starts))

    run(main)


def test_equal_rows_stay(shop: Any, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory:
            async with live(factory, select(shop.Order.total % 2)) as results:
                assert len(await anext(results)) == 40
            joined = select(shop.Order).outerjoin(shop.Order.items).where(shop.Order.id == 2)
            async with live(factory, joined) as results:
                assert len(await anext(results)) == 2

    run(main)


def test_killed_connections_are_made_anew(
    shop: Any, client: Client, listener: Listener, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def load(session: Any) -> Any:
            found = await session.scalar(select(shop.Order.total).where(shop.Order.id == 2))
            await session.execute(select(shop.Item))
            return found

        async with sessions() as factory, live(factory, load, min_interval=0) as results:
            assert await anext(results) == 2
            for total in range(10):
                client.execute("UPDATE orders SET total = %s WHERE id = 2", [100 + total])
                client.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid()"
                )  # the listener's as well
                while await anext(results) != 100 + total:
                    pass

    run(main)
    assert "live query: " in caplog.text


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_a_connection_that_is_frozen_is_given_up(
    cluster: Cluster, database: str, shop: Any, listener: Listener, client: Client, driver: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(query, "MOST_SECONDS", 1.0)

    async def main(port: int, proxy: Proxy) -> None:
        engine = create_async_engine(f"postgresql+{driver}://postgres@127.0.0.1:{port}/{database}", pool_size=1)
        async with live(async_sessionmaker(engine), of_3(shop), min_interval=0) as results:
            await anext(results)
            await settled(results)
            proxy.freeze()
            client.execute("UPDATE orders SET total = 50 WHERE id = 2")
            while "a run took more than 1 s" not in caplog.text:
                await asyncio.sleep(0.01)
            proxy.resume()
            assert (await anext(results))[0].Order.total == 50
        await engine.dispose()

    with proxied(cluster.port) as proxy:
        run(lambda: main(proxy.port, proxy))


@pytest.mark.slow
def test_a_server_that_restarts_is_waited_for(cluster: Cluster, database: str, shop: Any, sessions: Sessions) -> None:
    own = Cluster().start()
    try:
        with own.connect() as connection:
            connection.execute("CREATE DATABASE shop")

        async def main() -> None:
            async_engine = create_async_engine(own.url("shop", "psycopg"))
            sync_engine = create_async_engine(own.url("shop", "psycopg")).sync_engine
            async with async_engine.begin() as connection:
                await connection.run_sync(shop.Base.metadata.create_all)
            from sqlalchemy.ext.asyncio import async_sessionmaker

            async with Listener(async_engine, shop.Base, heartbeat_interval=0.3):
                query = select(func.count()).select_from(shop.Customer)
                async with live(async_sessionmaker(async_engine), query, min_interval=0) as results:
                    assert (await anext(results))[0][0] == 0
                    await asyncio.to_thread(own.stop, "immediate")
                    await asyncio.to_thread(own.start)
                    with own.connect("shop") as client:
                        client.execute("INSERT INTO customers VALUES (1, 'Ada')")
                    while (await anext(results))[0][0] != 1:
                        pass
            await async_engine.dispose()
            sync_engine.dispose()

        run(main)
    finally:
        own.remove()


def test_it_ends_when_the_listener_stops(shop: Any, engine: Any, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory:
            listener = Listener(engine, shop.Base)
            listener.start()
            async with live(factory, of_3(shop)) as results:
                await anext(results)
                await asyncio.to_thread(listener.stop)
                assert [rows async for rows in results] == []

    run(main)


def test_what_the_query_raises_is_raised_and_one_may_go_on(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    async def load(session: Any) -> Any:
        total = await session.scalar(select(shop.Order.total).where(shop.Order.id == 2))
        if total == 13:
            raise ZeroDivisionError
        return total

    async def main() -> None:
        async with sessions() as factory, live(factory, load, min_interval=0) as results:
            assert await anext(results) == 2
            client.execute("UPDATE orders SET total = 13 WHERE id = 2")
            with pytest.raises(ZeroDivisionError):
                await anext(results)
            client.execute("UPDATE orders SET total = 14 WHERE id = 2")
            assert await anext(results) == 14

    run(main)


def test_a_statement_that_fails_is_no_lost_connection(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    async def main() -> None:
        async with sessions() as factory:
            async with live(factory, select(1 / (shop.Order.total - shop.Order.total))) as results:
                with pytest.raises(sa_exc.DBAPIError, match="division by zero"):
                    await anext(results)
            client.execute("ALTER TABLE orders RENAME COLUMN total TO sum")
            async with live(factory, of_3(shop)) as results:
                with pytest.raises(sa_exc.ProgrammingError, match="total"):
                    await anext(results)

    run(main)


def test_nothing_is_left_behind(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory:
            async for _ in live(factory, of_3(shop)):
                break
            results = live(factory, of_3(shop), share=1)
            await anext(results)
            del results
            gc.collect()
            await asyncio.sleep(0.01)
            async with live(factory, of_3(shop)) as results:
                await anext(results)
            with pytest.raises(StopAsyncIteration):
                await anext(results)
            with pytest.raises(ListenerError, match=r"closed before: call live\(\) again"):
                async with results:
                    pass

    run(main)
    assert index._register.indexes == {}
    assert not shop.Order.watch.updated.receivers


TENANT: ContextVar[int] = ContextVar("TENANT")


def test_runs_have_the_context_of_whoever_asked(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    async def load(session: Any) -> Any:
        return TENANT.get(), await session.scalar(select(shop.Order.total).where(shop.Order.id == 2))

    async def main() -> None:
        async with sessions() as factory:
            TENANT.set(1)
            one = live(factory, load, min_interval=0)
            TENANT.set(2)
            two = live(factory, load, min_interval=0)
            TENANT.set(3)
            async with one, two:
                assert [await anext(one), await anext(two)] == [(1, 2), (2, 2)]
                client.execute("UPDATE orders SET total = 50 WHERE id = 2")
                assert [await anext(one), await anext(two)] == [(1, 50), (2, 50)]

    run(main)


def test_a_run_is_shared_where_that_is_asked_for(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    async def main() -> None:
        async with sessions() as factory:
            one, two = (live(factory, of_3(shop), share="t", min_interval=0) for _ in range(2))
            other = live(factory, of_3(shop), share="u", min_interval=0)
            with_items = live(factory, of_3(shop).options(selectinload(shop.Order.items)), share="t", min_interval=0)
            alone = live(factory, of_3(shop), min_interval=0)
            async with one, two, other, with_items, alone:
                assert one._query is two._query
                assert len({id(each._query) for each in (one, other, with_items, alone)}) == 4
                assert await anext(one) is await anext(two)
                client.execute("UPDATE orders SET total = 50 WHERE id = 2")
                assert (await anext(one))[0].Order.total == 50
                await one.aclose()
                client.execute("UPDATE orders SET total = 51 WHERE id = 2")
                while (await anext(two))[0].Order.total != 51:
                    pass
            again = live(factory, of_3(shop), share="t")
            async with again:
                assert (await anext(again))[0].Order.total == 51

    run(main)


def test_translated_schemas_are_not_shared(shop: Any, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory:
            here, there = (
                live(factory, of_3(shop).execution_options(schema_translate_map={None: name}), share="t")
                for name in ("public", "tenant")
            )
            async with here, there:
                assert here._query is not there._query

    run(main)


def test_every_runs_it_in_any_case(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory:
            query = select(func.clock_timestamp())
            async with live(factory, query, every=0.05, min_interval=0) as results:
                stamps = [(await anext(results))[0][0] for _ in range(3)]
            assert stamps == sorted(set(stamps))
            client.execute("CREATE VIEW totals AS SELECT sum(total) AS total FROM orders")
            async with live(factory, text("SELECT total FROM totals").columns().subquery().select(), every=60):
                pass

    run(main)


def test_tables_name_what_can_t_be_told(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    client.execute("CREATE FUNCTION total_of(integer) RETURNS bigint LANGUAGE sql AS "
                   "'SELECT sum(total) FROM orders WHERE customer_id = $1'")  # fmt: skip

    async def main() -> None:
        async with sessions() as factory:
            query = select(text("total_of(3)"))
            async with live(factory, query, tables=[shop.Order], min_interval=0) as results:
                assert (await anext(results))[0][0] == 20
                client.execute("UPDATE orders SET total = total + 1 WHERE customer_id = 3")
                assert (await anext(results))[0][0] == 25

    run(main)


def test_muted_writes_are_not_seen(shop: Any, engine: Any, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory, live(factory, of_3(shop), min_interval=0) as results:
            await anext(results)
            started = results._query._started_at
            with Session(engine) as session, session.begin(), muted(session):
                session.execute(update(shop.Order).values(total=1))
            await listener.catch_up_async()
            await settled(results)
            assert results._query._started_at == started

    run(main)


def test_criteria_of_loading_count(shop: Any, client: Client, listener: Listener, sessions: Sessions) -> None:
    """Those that an event adds, as applications with tenants do it."""

    async def main() -> None:
        async with sessions() as factory:
            made = factory.class_.sync_session_class

            class OwnSession(made):  # type: ignore[misc, valid-type]
                pass

            @event.listens_for(OwnSession, "do_orm_execute")
            def restrict(state: Any) -> None:
                criteria = with_loader_criteria(shop.Order, shop.Order.customer_id == 3)
                state.statement = state.statement.options(criteria)

            factory.configure(sync_session_class=OwnSession)
            async with live(factory, select(shop.Order).order_by(shop.Order.id), min_interval=0) as results:
                assert [row.Order.id for row in await anext(results)] == [2, 10, 18, 26, 34]
                await settled(results)
                started = results._query._started_at
                client.execute("UPDATE orders SET total = 7 WHERE customer_id = 4")
                await listener.catch_up_async()
                await settled(results)
                assert results._query._started_at == started

    run(main)


def test_joined_subclasses_are_heard(engine: Any, client: Client, sessions: Sessions) -> None:
    Base: Any = declare_base()

    class Person(Watched, Base):
        __tablename__ = "people"
        __watch__ = everything("kind")
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    class Manager(Person):
        __tablename__ = "managers"
        id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), primary_key=True)
        level: Mapped[int]
        __mapper_args__ = {"polymorphic_identity": "manager"}

    Base.metadata.create_all(engine)

    async def main() -> None:
        async with sessions() as factory, Listener(engine, Base):
            query = select(Manager).order_by(Manager.id)
            async with (
                live(factory, query, min_interval=0) as results,
                live(factory, select(Manager.__table__), min_interval=0) as core,
            ):
                assert await anext(results) == await anext(core) == []
                with engine.begin() as connection:
                    connection.execute(text("INSERT INTO people VALUES (1, 'manager')"))
                    connection.execute(text("INSERT INTO managers VALUES (1, 4)"))
                assert [row.Manager.level for row in await anext(results)] == [4]
                assert len(await anext(core)) == 1
                client.execute("UPDATE managers SET level = 5")
                assert [row.Manager.level for row in await anext(results)] == [5]
                assert (await anext(core))[0].level == 5
                client.execute("DELETE FROM people")
                assert await anext(results) == []
                assert await anext(core) == []

    run(main)


def test_a_class_that_shares_its_table_does_not_hear_all_of_it(engine: Any, sessions: Sessions) -> None:
    Base: Any = declare_base()

    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    class Manager(Person):
        __mapper_args__ = {"polymorphic_identity": "manager"}

    watch(Manager, *everything())
    factory = _factory()
    with pytest.raises(ConfigurationError, match=r"'people' \(inserted, updated, deleted, truncated\)"):
        live(factory, select(Person))


def _factory() -> Any:
    from sqlalchemy.ext.asyncio import async_sessionmaker

    return async_sessionmaker(create_async_engine("postgresql+asyncpg://localhost/none"))


@pytest.mark.parametrize(
    ("watches", "missing"),
    [
        ((), "inserted, updated, deleted, truncated"),
        (("inserted", "updated", "deleted"), "truncated"),
        (("inserted", Watch("updated", label="u", trigger_columns=["total"]), "deleted", "truncated"), "updated"),
        (("inserted", "updated", Watch("deleted", label="d", when=lambda old, new: old.total > 1), "truncated"),
         "deleted"),
        (everything(delivery="durable"), "inserted, updated, deleted, truncated"),
    ],
)  # fmt: skip
def test_tables_that_are_not_heard_in_full_are_refused(watches: Any, missing: str) -> None:
    Base: Any = declare_base()

    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = watches
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[int]

    with pytest.raises(ConfigurationError, match=rf"'orders' \({missing}\): watch them without .*everything\(\)"):
        live(_factory(), select(Order))
    with pytest.raises(ConfigurationError, match=missing):
        live(_factory(), select(text("1")), tables=[Order])
    live(_factory(), select(Order), every=60)


def test_what_can_t_be_a_live_query_is_refused_where_it_is_asked_for(shop: Any) -> None:
    factory = _factory()

    async def load(session: Any) -> int:
        return 1

    for wrong, words in (
        (update(shop.Order).values(total=1), "Update can't be run again and again"),
        (select(shop.Order).with_for_update(), r"with_for_update\(\) can't be run"),
        (select(shop.Order, func.now()), r"when the result of now\(\) changes: leave it out, or give tables="),
        (text("SELECT 1"), "TextClause can't be run"),
        ("SELECT 1", "neither a SELECT nor a function"),
        (shop.Order, r"Order is no query: write select\(Order\)"),
        (shop.Order.__table__, r"orders is no query: write select\(orders\)"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            live(factory, wrong)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="for a sessionmaker there is LiveQuery"):
        live(sessionmaker(), load)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="makes no sessions: give async_sessionmaker"):
        live(factory.kw["bind"], load)
    for options, words in (
        ({"min_interval": -1}, "min_interval must be seconds from 0 on, not -1"),
        ({"every": 0}, "every must be seconds above 0, or None, not 0"),
        ({"narrow": 1}, "narrow must be True or False"),
        ({"share": []}, "share must be hashable"),
        ({"tables": shop.Order}, "write tables="),
        ({"tables": [int]}, "can't be watched"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            live(factory, load, **options)


def test_what_a_function_must_not_do_is_refused_when_it_does(shop: Any, listener: Listener, sessions: Sessions) -> None:
    async def clock(session: Any) -> Any:
        return await session.scalar(select(func.now()))

    async def raw(session: Any) -> Any:
        return await (await session.connection()).exec_driver_sql("SELECT 1")

    async def writing(session: Any) -> Any:
        await session.execute(update(shop.Order).values(total=1))

    def plain(session: Any) -> int:
        return 1

    async def main() -> None:
        async with sessions() as factory:
            for function, words in (
                (clock, r"result of now\(\)"),
                (raw, r"text\('SELECT 1'\)"),
                (writing, "a statement that writes"),
                (plain, r"plain must be a coroutine function \(async def\).*LiveQuery"),
            ):
                with pytest.raises(ConfigurationError, match=words):
                    await anext(live(factory, function))

    run(main)


def test_without_a_listener_nothing_is_promised(shop: Any, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory:
            with pytest.raises(ListenerError, match=r"no running listener of this process hears Order\.inserted"):
                async with live(factory, of_3(shop)):
                    pass
            with pytest.raises(ListenerError):
                await anext(live(factory, of_3(shop)))

    run(main)
    assert index._register.indexes == {}


def test_who_came_before_the_listener_may_come_again(
    shop: Any, engine: Any, client: Client, sessions: Sessions
) -> None:
    async def main() -> None:
        async with sessions() as factory:
            early, shared = (
                live(factory, of_3(shop), min_interval=0),
                live(factory, of_3(shop), share=1, min_interval=0),
            )
            for results in (early, shared):
                with pytest.raises(ListenerError):
                    await anext(results)
            async with Listener(engine, shop.Base), early, shared, live(factory, of_3(shop), share=1) as again:
                assert [len(await anext(each)) for each in (early, shared, again)] == [5, 5, 5]
                client.execute("DELETE FROM orders WHERE id = 2")
                assert [len(await anext(each)) for each in (early, shared, again)] == [4, 4, 4]

    run(main)


def test_a_listener_that_does_not_listen_yet_is_none(
    shop: Any, cluster: Cluster, database: str, sessions: Sessions
) -> None:
    """Otherwise what changes until then would be missed."""
    nowhere = create_engine(cluster.url("nowhere", "psycopg"))
    listener = Listener(nowhere, shop.Base)
    listener.start(wait=False)

    async def main() -> None:
        async with sessions() as factory:
            with pytest.raises(ListenerError, match="no running listener of this process hears"):
                await anext(live(factory, of_3(shop)))

    try:
        run(main)
    finally:
        listener.stop()
        nowhere.dispose()


def test_a_listener_that_may_stand_by_is_none(shop: Any, engine: Any, sessions: Sessions) -> None:
    """It would hear nothing, and say nothing of that to the query."""

    async def main() -> None:
        async with sessions() as factory:
            with pytest.raises(ListenerError, match="without durable= and exclusive=, with which one process"):
                await anext(live(factory, of_3(shop)))

    with Listener(engine, shop.Base, exclusive="pages"), Listener(engine, shop.Base, exclusive="pages"):
        run(main)


def test_a_function_leaves_its_transaction_alone(shop: Any, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory:
            for name in ("commit", "rollback", "close"):

                async def load(session: Any, name: str = name) -> Any:
                    found = await session.scalar(select(func.count()).select_from(shop.Order))
                    await getattr(session, name)()
                    return found + await session.scalar(select(func.count()).select_from(shop.Item))

                with pytest.raises(ConfigurationError, match=r"no commit\(\), rollback\(\) or close\(\)"):
                    await anext(live(factory, load))

            async def nested(session: Any) -> Any:
                async with session.begin_nested():
                    return await session.scalar(select(func.count()).select_from(shop.Order))

            assert await anext(live(factory, nested)) == 40

    run(main)


def test_a_session_in_a_transaction_is_refused(shop: Any, listener: Listener, sessions: Sessions) -> None:
    async def main() -> None:
        async with sessions() as factory, factory() as session:
            await session.execute(select(1))
            with pytest.raises(ConfigurationError, match="give a factory that makes new ones"):
                await anext(live(lambda: session, of_3(shop)))

    run(main)


def test_errors_of_the_function_are_no_lost_connections(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    async def main() -> None:
        async with sessions() as factory:

            async def missing_file(session: Any) -> Any:
                raise FileNotFoundError("prices.csv")

            async def late(session: Any) -> Any:
                raise TimeoutError

            async def cancelled(session: Any) -> Any:
                task = asyncio.ensure_future(asyncio.sleep(60))
                asyncio.get_running_loop().call_later(0.01, task.cancel)
                await task

            for function, error in (
                (missing_file, FileNotFoundError), (late, TimeoutError), (cancelled, RuntimeError),
            ):  # fmt: skip
                with pytest.raises(error):
                    await anext(live(factory, function))

    run(main)


def test_after_an_error_the_same_result_is_told_again(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    async def load(session: Any) -> Any:
        if await session.scalar(select(shop.Order.total).where(shop.Order.id == 2)) == 13:
            raise ZeroDivisionError
        return "all is well"

    async def main() -> None:
        async with sessions() as factory, live(factory, load, min_interval=0, share=1) as results:
            assert await anext(results) == "all is well"
            client.execute("UPDATE orders SET total = 13 WHERE id = 2")
            with pytest.raises(ZeroDivisionError):
                await anext(results)
            async with live(factory, load, min_interval=0, share=1) as late:
                with pytest.raises(ZeroDivisionError):
                    await anext(late)
            with pytest.raises(ZeroDivisionError):  # run again for who came late
                await anext(results)
            client.execute("UPDATE orders SET total = 14 WHERE id = 2")
            assert await anext(results) == "all is well"

    run(main)


def test_what_can_be_read_once_is_no_result(shop: Any, listener: Listener, sessions: Sessions) -> None:
    async def scalars(session: Any) -> Any:
        return await session.scalars(of_3(shop))

    async def result(session: Any) -> Any:
        return await session.execute(of_3(shop))

    async def generator(session: Any) -> Any:
        return (row for row in await session.execute(of_3(shop)))

    async def main() -> None:
        async with sessions() as factory:
            for function in (scalars, result, generator):
                with pytest.raises(ConfigurationError, match="can be read once: return a list"):
                    await anext(live(factory, function))

    run(main)


def test_a_database_that_is_not_there_is_told_after_a_while(
    shop: Any, cluster: Cluster, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "TOLD_AFTER", 0.3)

    async def main() -> None:
        async_engine = create_async_engine(cluster.url("nowhere", "psycopg"))
        results = live(async_sessionmaker(async_engine), of_3(shop))
        with pytest.raises(sa_exc.OperationalError, match="nowhere"):
            await anext(results)
        await results.aclose()
        await async_engine.dispose()

    run(main)


def test_a_run_that_nobody_waits_for_is_cancelled(
    shop: Any, cluster: Cluster, database: str, listener: Listener, sessions: Sessions, client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(in_loops, "GRACE", 0.05)

    async def main() -> None:
        with cluster.connect(database) as other, other.transaction():
            other.execute("LOCK orders")
            async with sessions() as factory, live(factory, of_3(shop)):
                while not client.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                    await asyncio.sleep(0.01)
            assert client.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone() is None

    run(main)


def test_timers_and_queries_of_closed_loops_go(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    async def main() -> None:
        async with sessions() as factory, live(factory, of_3(shop), min_interval=0, every=3600) as results:
            await anext(results)
            for total in range(20):
                client.execute("UPDATE orders SET total = %s WHERE id = 2", [100 + total])
                await anext(results)
            await settled(results)
            timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
            assert len([timer for timer in timers if not timer.cancelled()]) <= 3

    run(main)
    kept = []

    async def leave() -> None:
        async with sessions() as factory:
            kept.append(live(factory, of_3(shop)))
            await anext(kept[-1])

    run(leave)
    del kept[:]
    wait_until(client, lambda: gc.collect() >= 0 and not index._register.indexes and not in_loops._rooms)


def test_who_leaves_after_an_error_is_forgotten(shop: Any, listener: Listener, sessions: Sessions) -> None:
    async def load(session: Any) -> Any:
        await session.scalar(select(shop.Order.total).where(shop.Order.id == 2))
        raise ZeroDivisionError

    async def main() -> None:
        async with sessions() as factory:
            with pytest.raises(ZeroDivisionError):
                await anext(live(factory, load))
            gc.collect()
            await asyncio.sleep(0.01)
            assert not index._register.indexes
            assert not in_loops._rooms

    run(main)


def test_keys_that_are_named_tell_rows_apart(engine: Any, client: Client, sessions: Sessions) -> None:
    Base: Any = declare_base()

    class Link(Watched, Base):
        __tablename__ = "links"
        __watch__ = everything("left")
        left: Mapped[int] = mapped_column(primary_key=True)
        right: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)

    async def main() -> None:
        async with sessions() as factory, Listener(engine, Base) as listener:
            query = select(Link.right).where(Link.left == 1).order_by(Link.right)
            async with live(factory, query, min_interval=0) as results:
                assert await anext(results) == []
                started = results._query._started_at
                client.execute("INSERT INTO links VALUES (2, 1)")
                await listener.catch_up_async()
                await settled(results)
                assert results._query._started_at == started
                client.execute("UPDATE links SET left = 1".replace("left", '"left"'))
                assert await anext(results) == [(1,)]
                client.execute("UPDATE links SET left = 3".replace("left", '"left"'))
                assert await anext(results) == []

    run(main)


def test_values_of_a_statement_that_is_cached_are_its_own(
    shop: Any, client: Client, listener: Listener, sessions: Sessions
) -> None:
    """SQLAlchemy compiles such statements once, with the values of the first."""
    statement = select(shop.Order.total).where(shop.Order.id == bindparam("id"))

    async def main() -> None:
        async def following(key: int) -> Any:
            async def load(session: Any) -> Any:
                return await session.scalar(statement, {"id": key})

            return live(factory, load, min_interval=0)

        async with sessions() as factory:
            queries = [await following(key) for key in (1, 2, 3)]
            assert [await anext(each) for each in queries] == [1, 2, 3]
            client.execute("UPDATE orders SET total = 50 WHERE id = 3")
            assert await anext(queries[2]) == 50
            await settled(*queries)
            assert [each._query.version for each in queries] == [1, 1, 2]
            for each in queries:
                await each.aclose()

    run(main)
