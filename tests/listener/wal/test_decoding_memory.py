"""What the server may keep in memory of a transaction that it decodes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine

from sqlalchemy_watch import ConfigurationError, Listener

from ..conftest import MakeListener

SPILLED = "SELECT spill_txns FROM pg_stat_replication_slots WHERE slot_name = %s"


@pytest.mark.server
@needs_logical_messages
@pytest.mark.parametrize(("memory", "spills"), [("256MB", 0), ("64kB", 1), ("64 kB", 1)])
def test_a_transaction_is_written_to_disk_beyond_that(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, recorder: Any, group: str, memory: str,
    spills: int,
) -> None:  # fmt: skip
    Order.watch.connect(recorder)
    with durable(decoding_memory=memory) as listener:
        client.execute("INSERT INTO orders SELECT i FROM generate_series(1, 20000) AS i")
        listener.catch_up()
    assert len(recorder.heard()) == 20_000
    [(spilled,)] = client.execute(SPILLED, [group]).fetchall()
    assert min(spilled, 1) == spills


@pytest.mark.parametrize("memory", ["", "256", "256 mb", "63kB", "3000GB", "1MB; DROP TABLE orders", 64, b"64MB"])
def test_another_size_is_refused(engine: Engine, Order: Any, memory: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"decoding_memory=.* must be a size from '64kB'"):
        Listener(engine, Order, durable="a_group", decoding_memory=memory)
