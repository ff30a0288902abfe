"""`backfill`: the rows that were there, told of by the running consumer."""

from __future__ import annotations

import subprocess
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from listener.conftest import drop_slots
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from support import PATIENCE, wait_until

from sqlalchemy_watch import Listener

from .conftest import HERE, Run
from .shop import Order

pytestmark = needs_logical_messages


@pytest.fixture
def group(cluster: Cluster, database: str) -> Any:
    yield f"group_{database}"
    drop_slots(cluster, database)


def test_the_running_consumer_reads_and_the_command_waits_for_the_end(
    run: Run, tables: psycopg.Connection[Any], engine: Engine, group: str
) -> None:
    tables.execute("INSERT INTO orders SELECT generate_series(1, 250)")
    tables.execute("ANALYZE orders")
    read: SimpleQueue[Any] = SimpleQueue()
    receiver = Order.watch.read.connect(lambda sender, event: read.put(event.identity[0]))
    try:
        with Listener(engine, Order, durable=group):
            for name in ("Order", "orders"):
                done = run("backfill", "shop:Base", name, "--group", group)
                assert (done.returncode, done.stdout) == (0, "read 250 rows of orders\n"), done.stderr
                assert [read.get(timeout=PATIENCE) for _ in range(250)] == list(range(1, 251))
    finally:
        Order.watch.read.disconnect(receiver)


def test_without_a_consumer_it_waits_for_one(
    run: Run, tables: psycopg.Connection[Any], engine: Engine, group: str, command: list[str],
    environment: dict[str, str],
) -> None:  # fmt: skip
    with Listener(engine, Order, durable=group):
        pass  # makes the slot
    tables.execute("INSERT INTO orders VALUES (1)")
    done = run("backfill", "shop:Base", "Order", "--group", group, "--no-wait")
    assert (done.returncode, done.stdout) == (0, "")
    assert "has no active consumer at present: it begins when one is started" in done.stderr
    waiting = subprocess.Popen(
        [*command, "backfill", "shop:Base", "Order", "--group", group], cwd=HERE, env=environment,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(tables, "SELECT count(*) = 1 FROM sqlalchemy_watch.backfills WHERE done_at IS NULL")
    with Listener(engine, Order, durable=group):
        assert waiting.communicate(timeout=PATIENCE)[0] == "read 1 rows of orders\n"


def test_what_is_wrong_is_said(run: Run, tables: Any, group: str) -> None:
    for arguments, words in (
        (("shop:Base", "Orders", "--group", group), "there are Order (orders)"),
        (("shop:Base", "Order", "--group", "nobody"), "there is no consumer group 'nobody'"),
        (("shop:Base", "Order", "--group", "No Group"), "lower-case letters"),
        (("shop:nothing", "Order", "--group", group), "has no 'nothing'"),
    ):
        done = run("backfill", *arguments)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
