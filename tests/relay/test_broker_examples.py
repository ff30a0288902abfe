"""The examples that need a broker: a publisher of one's own for RabbitMQ, and a FastStream consumer."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import py_compile
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from listener.conftest import drop_slots
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from support import PATIENCE, wait_until

from sqlalchemy_watch.relay import Refused, Relay, publisher_for
from sqlalchemy_watch.relay.messages import Writer
from sqlalchemy_watch.relay.publishers.protocol import Publisher

from .brokers import Nats, Rabbit
from .conftest import Start, asynchronous, message

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

needs_rabbitmq = pytest.mark.skipif(
    shutil.which("rabbitmq-server") is None or find_spec("aio_pika") is None,
    reason="rabbitmq-server is not on PATH, or aio-pika is not installed",
)
needs_faststream = pytest.mark.skipif(find_spec("faststream") is None, reason="faststream is not installed")


@pytest.mark.parametrize("name", ["relay_to_rabbitmq", "faststream_consumer"])
def test_the_syntax_is_right(name: str, tmp_path: Path) -> None:
    py_compile.compile(str(EXAMPLES / f"{name}.py"), str(tmp_path / "compiled"), doraise=True)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("relay_to_rabbitmq")


@pytest.fixture
def group(cluster: Cluster, database: str) -> Iterator[str]:
    yield f"group_{database}"
    drop_slots(cluster, database)


@needs_rabbitmq
@needs_logical_messages
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aio-pika, where it can't connect
def test_rabbitmq_gets_each_event_and_one_that_comes_back_is_waited_for(
    start: Start, example: ModuleType, engine: Engine, client: psycopg.Connection[Any], group: str
) -> None:
    broker = start(Rabbit)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "relay_to_rabbitmq.py")], env={**os.environ, "AMQP_URL": broker.url},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shipped = "sqlalchemy_watch.updated public/orders/2 {'id': 2, 'status': 'shipped'}"
    assert done.stdout.splitlines()[3:] == [shipped]

    example.Base.metadata.create_all(engine)
    publisher: Publisher = example.RabbitPublisher(broker.url, timeout=3.0)
    with Relay(engine, example.Base, group=group, to=publisher) as relay:
        client.execute("INSERT INTO orders SELECT generate_series(1, 700)")
        relay.listener.catch_up()
        for kill in (False, True):
            (broker.freeze if kill else broker.stop)()
            client.execute("UPDATE orders SET status = %s", [f"killed {kill}"])
            wait_until(client, lambda: relay.stats().waits_for is not None)
            broker.restart(kill=True)
            relay.listener.catch_up(PATIENCE)
        assert (relay.stats().refused, relay.stats().waits_for) == (0, None)
    gc.collect()
    by_row: dict[int, list[str]] = {}
    for event in asyncio.run(example.take_from(broker.url, "orders")):
        data = event["data"]
        by_row.setdefault(data["identity"][0], []).append(data["values"].get("status", "inserted"))
    assert by_row == {key: ["inserted", "killed False", "killed True"] for key in range(1, 701)}


@needs_rabbitmq
def test_what_no_queue_takes_is_refused_with_what_comes_after_it(start: Start, example: ModuleType) -> None:
    broker = start(Rabbit)

    async def check() -> None:
        publisher = example.RabbitPublisher(broker.url)
        await publisher.start()
        await example.declare_queue(broker.url, "orders", "watch.public.orders.updated.#")
        taken, unroutable, after = message(1, "1"), message(2, "2", operation="inserted"), message(3, "2")
        too_long, last = message(4, "ä" * 100), message(5, "5")
        with pytest.raises(Refused) as caught:
            await publisher.publish([taken, unroutable, after, too_long, last])
        assert {one.id: words for one, words in caught.value.reasons} == {
            unroutable.id: "no queue is bound for 'watch.public.orders.inserted.2'",
            too_long.id: "its routing key is longer than 255 characters",
        }
        assert caught.value.held == [after]
        await publisher.close()
        await publisher.close()
        found = await example.take_from(broker.url, "orders")
        assert [event["id"] for event in found] == [taken.id, last.id]

    asyncio.run(check())


@needs_faststream
@asynchronous
async def test_a_faststream_consumer_does_each_event_once(start: Start, tmp_path: Path) -> None:
    broker = start(Nats)
    publisher = publisher_for(broker.url, create=True)
    await publisher.start()
    orders = [message(number, str(number), operation="inserted") for number in range(1, 4)]
    await publisher.publish([*orders, Writer().resync("a test")])
    await publish_again(broker, orders[1])  # under another id of NATS's, as after its window
    await publisher.publish([message(4, "7", operation="inserted")])
    await publisher.close()
    path = tmp_path / "orders.sqlite"
    with sqlite3.connect(path) as database:  # which refuses what it is told to keep
        database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY)")
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT CHECK (status <> 'new'))")
    environment = {**os.environ, "NATS_URL": broker.url, "ORDERS": str(path), "PYTHONPATH": str(EXAMPLES)}
    program = "import asyncio, faststream_consumer as example; asyncio.run(example.app.run())"
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        await asyncio.sleep(2.0)
        with sqlite3.connect(path, timeout=PATIENCE) as database:
            assert database.execute("SELECT count(*) FROM seen").fetchone() == (0,)  # nothing is taken for done
            database.execute("ALTER TABLE orders RENAME TO old")
            database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT)")
        for _ in range(int(PATIENCE / 0.1)):
            with sqlite3.connect(path) as database:
                found = database.execute("SELECT * FROM orders ORDER BY id").fetchall()
            if found[-1:] == [(7, "new")]:
                break
            await asyncio.sleep(0.1)
        assert found == [(key, "new") for key in (1, 2, 3, 7)]
    finally:
        process.terminate()
        out, err = process.communicate(timeout=PATIENCE)
    assert f"seen before: {orders[1].id}" in out, err
    assert "events may be missing: a test" in out


async def publish_again(broker: Nats, one: Any) -> None:
    connection = await pytest.importorskip("nats").connect(broker.url)
    await connection.jetstream().publish(one.subject, one.data, headers={"content-type": one.content_type})
    await connection.close()
