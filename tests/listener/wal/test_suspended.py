"""A consumer that is suspended, while another one takes over, calls no receiver once it goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
from postgres import Cluster, needs_logical_messages
from support import wait_until

from ..consumers import Base, Consumers

ROWS = 20_000

WRITE = f"DO $$ BEGIN FOR i IN 1..{ROWS} LOOP INSERT INTO payments VALUES (i); COMMIT; END LOOP; END $$"


@needs_logical_messages
def test_a_consumer_that_was_suspended_calls_no_receiver_before_it_knows_that_it_is_active(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], engine: Any, group: str, tmp_path: Path
) -> None:
    Base.metadata.create_all(engine)
    client.execute(f"ALTER DATABASE {database} SET wal_sender_timeout = '1s'")
    client.execute("SET synchronous_commit = off")
    consumers = Consumers(cluster.url(database, "psycopg"), group, tmp_path)
    try:
        first = consumers.start()
        assert consumers.wait_for_active() == first
        consumers.start()
        client.execute(WRITE)
        wait_until(client, lambda: len(consumers.heard()[first]) > 100)
        os.kill(first, signal.SIGSTOP)
        second = consumers.wait_for_active(than=first)
        wait_until(client, lambda: consumers.heard()[second] and consumers.heard()[second][-1].id == ROWS)
        went_on = time.monotonic_ns()
        os.kill(first, signal.SIGCONT)
        while not any(word.what == "lost" and word.pid == first for word in consumers.said):
            consumers.listen()
            client.execute("SELECT pg_sleep(0.01)")
        heard = consumers.heard()
        late = [line for line in heard[first] if line.at > went_on]
        assert len(late) <= 1  # that of the receiver that was suspended
        assert {line.id for lines in heard.values() for line in lines} == set(range(1, ROWS + 1))
        assert heard[first][-1].id < ROWS  # otherwise there was nothing left to call
    finally:
        consumers.close()
