"""Several statements of one run see one state of the database; with READ COMMITTED they would not."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from live.conftest import Sessions, settled
from sqlalchemy_watch import Listener
from sqlalchemy_watch.live import in_loops, live


def torn(rows: Any) -> bool:
    """Return True for a state that never was: each order's total is that of its items."""
    return any(row.Order.total != sum(item.price for item in row.Order.items) for row in rows)


def write(client: psycopg.Connection[Any], is_enough: threading.Event) -> None:
    order = 0
    while not is_enough.is_set():
        order = 1 + order % 20
        with client.transaction():
            client.execute("UPDATE items SET price = price + 1 WHERE order_id = %s", [order])
            client.execute("UPDATE orders SET total = total + 10 WHERE id = %s", [order])


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "READ COMMITTED"])
def test_a_result_is_a_state_that_was(
    cluster: Cluster, database: str, shop: Any, listener: Listener, sessions: Sessions, isolation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(in_loops.SNAPSHOT, "isolation_level", isolation)

    async def main() -> int:
        found = 0
        query = select(shop.Order).options(selectinload(shop.Order.items))
        is_enough = threading.Event()
        with cluster.connect(database) as client:
            client.execute("TRUNCATE items")
            client.execute("DELETE FROM orders WHERE id > 20")
            client.execute("INSERT INTO items SELECT g, 1 + g % 20, 1 FROM generate_series(1, 200) g")
            client.execute("UPDATE orders SET total = 10")
            async with sessions() as factory, live(factory, query, min_interval=0) as results:
                writing = asyncio.create_task(asyncio.to_thread(write, client, is_enough))
                for _ in range(200):
                    found += torn(await anext(results))
                    if found and isolation == "READ COMMITTED":
                        break
                is_enough.set()
                await writing
                await listener.catch_up_async()
                await settled(results)
        return found

    found = asyncio.run(main())
    assert (found == 0) is (isolation == "REPEATABLE READ")
