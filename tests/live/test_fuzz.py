"""Statements of every shape, random writes: after these, each live result is what the statement gives now."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    and_,
    case,
    except_,
    exists,
    func,
    or_,
    select,
    true,
    union_all,
)  # fmt: skip
from sqlalchemy.orm import aliased, joinedload, selectinload, subqueryload, with_loader_criteria

from live.conftest import Sessions, settled
from sqlalchemy_watch import Listener
from sqlalchemy_watch.live import live
from sqlalchemy_watch.live.compare import same

SEED = int(os.environ.get("WATCH_TEST_SEED", "5"))


def statements(shop: Any) -> Mapping[str, Any]:
    """Return the statements, by name."""
    Customer, Order, Item = shop.Customer, shop.Order, shop.Item
    Basket, Other = shop.Basket, aliased(Order)
    baskets = select(Basket).where(Basket.customer_id == 3)
    inner, within = baskets.subquery(), baskets.cte("baskets")
    with_items = with_loader_criteria(Order, Order.id.in_(select(Item.order_id)))
    mine_with_items = select(Order.id).where(Order.customer_id == 3).options(with_items)
    of_3 = Order.customer_id == 3
    sums = select(Item.order_id, func.sum(Item.price).label("s")).group_by(Item.order_id).subquery()
    mine = select(Order.id.label("oid")).where(of_3).cte("mine")
    newest = (
        select(Order.id)
        .where(Order.customer_id == Customer.id)
        .order_by(Order.total.desc(), Order.id)
        .limit(1)
        .lateral()
    )
    count_of_items = select(func.count(Item.id)).where(Item.order_id == Order.id).scalar_subquery()
    of_item = exists().where(Item.order_id == Order.id)
    by_id = select(Order.id).order_by(Order.id)
    return {
        "equal": select(Order).where(of_3).order_by(Order.id),
        "reversed": select(Order).where(Order.customer_id == 3, Order.total > 5).order_by(Order.id),
        "key": select(Order).where(Order.id == 5),
        "filter_by": select(Order).filter_by(customer_id=4).order_by(Order.id),
        "not": by_id.where(~of_3),
        "or": by_id.where(or_(of_3, Order.total > 8)),
        "in": by_id.where(Order.customer_id.in_([1, 2])),
        "in and equal": by_id.where(Order.customer_id.in_([1, 2]), Order.id == 8),
        "in nothing": by_id.where(Order.customer_id.in_([])),
        "not in": by_id.where(Order.customer_id.not_in([1, 2, 3])),
        "text as a number": by_id.where(Order.customer_id == case((true(), 3))),
        "join": select(Order.id, Customer.name).join(Order.customer).where(of_3).order_by(Order.id),
        "join, other side": select(Order.id, Customer.name)
        .join(Order.customer)
        .where(Customer.id == 3)
        .order_by(Order.id),
        "outer join": select(Customer.id, Order.id)
        .outerjoin(Order, and_(Order.customer_id == Customer.id, of_3))
        .order_by(Customer.id, Order.id),
        "outer join of one": select(Customer.id, Order.id)
        .outerjoin(Order, Order.customer_id == Customer.id)
        .where(Customer.id == 3)
        .order_by(Order.id),
        "outer join, condition on the other": select(Customer.id, Order.id)
        .outerjoin(Order, Order.customer_id == Customer.id)
        .where(of_3)
        .order_by(Order.id),
        "exists": by_id.where(exists().where(Item.order_id == Order.id, Item.price > 3)),
        "not exists": by_id.where(~of_item),
        "condition of the outer table": by_id.where(~exists().where(Item.order_id == Order.id, of_3)),
        "not exists of one": by_id.where(~exists(select(Item.id).where(Item.order_id == Order.id, Item.order_id == 4))),
        "scalar subquery": select(Order.id, count_of_items).where(of_3).order_by(Order.id),
        "subquery": select(Order.id, sums.c.s).join(sums, sums.c.order_id == Order.id).where(of_3).order_by(Order.id),
        "cte": select(Item.id, Item.price).join(mine, mine.c.oid == Item.order_id).order_by(Item.id),
        "count of a cte": select(func.count()).select_from(mine),
        "with itself": select(Order.id, Other.id)
        .join(Other, Other.total == Order.total)
        .where(of_3)
        .order_by(Order.id, Other.id),
        "alias": select(Other.id, Other.total).where(Other.customer_id == 3).order_by(Other.id),
        "union": union_all(select(Order.id).where(of_3), select(Order.id).where(Order.total == 3)).order_by("id"),
        "except": except_(select(Order.id), select(Order.id).where(of_3)).order_by("id"),
        "count": select(func.count()).select_from(Order).where(of_3),
        "max": select(func.max(Order.total)).where(of_3),
        "limit": select(Order.id).where(of_3).order_by(Order.total.desc(), Order.id).limit(2),
        "top": select(Order.id, Order.total).order_by(Order.total.desc(), Order.id).limit(3),
        "window": select(Order.id, func.rank().over(order_by=(Order.total, Order.id))).order_by(Order.id),
        "group": select(Order.customer_id, func.sum(Order.total))
        .group_by(Order.customer_id)
        .order_by(Order.customer_id),
        "having": select(Order.customer_id)
        .group_by(Order.customer_id)
        .having(func.count() > 5)
        .order_by(Order.customer_id),
        "selectinload": select(Order).where(of_3).options(selectinload(Order.items)).order_by(Order.id),
        "joinedload": select(Order).where(Order.id == 5).options(joinedload(Order.items), joinedload(Order.customer)),
        "subqueryload": select(Order)
        .where(Order.customer_id == 4)
        .options(subqueryload(Order.items))
        .order_by(Order.id),
        "in a subquery": select(Customer.id).where(Customer.id.in_(select(Order.customer_id).where(of_3))),
        "any": by_id.where(Order.items.any(Item.order_id == 5)),
        "child": select(Item).where(Item.order_id == 5).order_by(Item.id),
        "many to one": select(Item).where(Item.order_id == 5).options(joinedload(Item.order)).order_by(Item.id),
        "null": by_id.where(Order.customer_id == None),  # noqa: E711
        "lateral": select(Customer.id, newest.c.id).join(newest, true()).order_by(Customer.id),
        "case": select(Order.id, case((of_3, 1), else_=0)).order_by(Order.id),
        "comparison with true": by_id.where(of_3 == true()),
        "column property": select(Basket).where(Basket.customer_id == 3).order_by(Basket.id),
        "column property in a subquery": select(inner.c.id, inner.c.price).order_by(inner.c.id),
        "column property in a cte": select(within.c.id, within.c.price).order_by(within.c.id),
        "union of entities": union_all(baskets, select(Basket).where(Basket.total == 3)).order_by("id"),
        "from a statement": select(Basket).from_statement(baskets.order_by(Basket.id)),
        "loader criteria in a subquery": select(func.count()).select_from(mine_with_items.subquery()),
        "loader criteria": mine_with_items.order_by(Order.id),
        "equal rows": select(Order.total).where(of_3).order_by(Order.total),
        "core": select(Order.__table__).where(Order.__table__.c.customer_id == 3).order_by(Order.__table__.c.id),
    }


def write(client: psycopg.Connection[Any], chance: random.Random, number: int) -> None:
    """Write something at random."""
    customer, order, item = chance.randint(1, 8), chance.randint(1, 40), chance.randint(1, 60)
    other = chance.randint(1, 8)
    statements = [
        f"UPDATE orders SET total = (total + 3) % 11 WHERE id = {order}",
        f"UPDATE orders SET customer_id = {customer} WHERE id = {order}",
        f"UPDATE orders SET customer_id = {customer}, total = 1 WHERE customer_id = {other} AND id % 2 = 0",
        f"INSERT INTO orders VALUES ({1000 + number}, {customer}, {number % 9})",
        f"DELETE FROM orders WHERE id >= 1000 AND customer_id = {customer}",
        f"UPDATE items SET order_id = {order} WHERE id = {item}",
        f"UPDATE items SET price = (price + 1) % 6 WHERE id = {item}",
        f"DELETE FROM items WHERE id = {item}",
        f"INSERT INTO items VALUES ({1000 + number}, {order}, {number % 6})",
        f"UPDATE customers SET name = 'n{number}' WHERE id = {customer}",
        f"UPDATE orders SET id = id + 100000 WHERE id BETWEEN 1000 AND 99999 AND customer_id = {customer}",
        "TRUNCATE items" if chance.random() < 0.05 else f"UPDATE orders SET total = 9 WHERE id = {order}",
    ]
    client.execute(chance.choice(statements).encode())


@pytest.mark.slow
def test_results_are_what_the_statements_give(
    shop: Any, client: psycopg.Connection[Any], listener: Listener, sessions: Sessions
) -> None:
    async def main() -> dict[str, int]:
        chance, wrong, runs = random.Random(SEED), dict[str, int](), 0
        async with sessions(pool_size=6) as factory:
            queries = {name: live(factory, each, min_interval=0) for name, each in statements(shop).items()}
            newest: dict[str, Any] = {}

            async def follow(name: str) -> None:
                async for rows in queries[name]:
                    newest[name] = rows

            tasks = [asyncio.create_task(follow(name)) for name in queries]
            while len(newest) < len(queries):
                await asyncio.sleep(0.002)
            for number in range(120):
                await asyncio.to_thread(write, client, chance, number)
                if number % 4 == 3:
                    await listener.catch_up_async()
                    await settled(*queries.values())
                    await asyncio.sleep(0)  # whoever follows takes what there is
                    for name, query in queries.items():
                        async with factory() as session:
                            fresh = await session.run_sync(query._query._load)
                            runs += 1
                            if not same(fresh, newest[name]):
                                wrong[name] = wrong.get(name, 0) + 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for query in queries.values():
                await query.aclose()
        assert runs == 30 * len(queries)
        return wrong

    assert asyncio.run(main()) == {}
