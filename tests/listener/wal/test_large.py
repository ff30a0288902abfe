"""Large amounts: a long absence, a transaction that is larger than memory should be, and rows too large to send."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import Mapped, mapped_column
from support import resync_reasons

from sqlalchemy_watch import Listener, Watch, Watched, wire

from ..conftest import MakeListener
from ..consumers import Base as ConsumersBase

pytestmark = needs_logical_messages


def test_after_20_000_transactions_of_absence_all_are_heard(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    with durable():
        pass
    client.execute("DO $$ BEGIN FOR i IN 1..20000 LOOP INSERT INTO orders VALUES (i); COMMIT; END LOOP; END $$")
    heard: list[int] = []
    places: list[tuple[int, int]] = []

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        heard.append(event.identity[0])
        places.append((event.lsn, event.position))

    with durable() as listener:
        listener.catch_up(timeout=60)
    assert heard == list(range(1, 20_001))
    assert places == sorted(set(places))
    assert len({lsn for lsn, _ in places}) == 20_000


CONSUMER = """
import json, re, sys
sys.path.insert(0, sys.argv[3])
from listener.consumers import Base, Payment
from sqlalchemy import create_engine
from sqlalchemy_watch import Listener

def peak_kilobytes():
    # The peak of getrusage is that of the parent where that was larger.
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1])

count = last = in_order = 0

@Payment.watch.inserted.connect
def book_payment(sender, event):
    global count, last, in_order
    count += 1
    in_order += event.identity[0] == last + 1 and event.position == last
    last = event.identity[0]

before = peak_kilobytes()
with Listener(create_engine(sys.argv[1]), Base, durable=sys.argv[2], max_queue=16) as listener:
    listener.catch_up(timeout=90)
after = peak_kilobytes()
print(json.dumps({"count": count, "in_order": in_order, "grown_kilobytes": after - before}))
"""


@pytest.fixture
def slot(engine: Engine, group: str) -> str:
    """A group's slot, made before anything is written."""
    ConsumersBase.metadata.create_all(engine)
    with Listener(engine, ConsumersBase, durable=group):
        pass
    return group


def test_a_transaction_of_a_million_rows_is_heard_in_full_with_bounded_memory(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], slot: str, request: pytest.FixtureRequest
) -> None:
    client.execute("INSERT INTO payments SELECT generate_series(1, 1000000)")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            CONSUMER,
            cluster.url(database, "psycopg"),
            slot,
            str(request.config.rootpath / "tests"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    print(result)  # noqa: T201
    assert (result["count"], result["in_order"]) == (1_000_000, 1_000_000)
    # Threads and connections take 5 MB; the payloads alone would take 9 MB more.
    assert 0 < result["grown_kilobytes"] < 12 * 1024


@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_row_that_is_larger_than_a_message_may_be_makes_no_write_fail_and_asks_to_resync(
    client: psycopg.Connection[Any], engine: Engine, Base: Any, durable: MakeListener, recorder: Recorder, level: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # The server's own limit is 1,020 MB: from there on the write itself would fail.
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 100_000)

    class Report(Watched, Base):
        __tablename__ = "reports"
        __watch__ = (Watch("inserted", extra_columns=("body",), delivery="durable", level=level),)
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]

    Base.metadata.create_all(engine)
    Report.watch.connect(recorder)
    with durable() as listener:
        reasons = resync_reasons(listener)
        client.execute("INSERT INTO reports VALUES (1, repeat('x', 99000))")
        client.execute("INSERT INTO reports VALUES (2, repeat('x', 100000))")
        client.execute("INSERT INTO reports VALUES (3, 'x'), (4, repeat('x', 100000))")
        client.execute("INSERT INTO reports VALUES (5, 'x')")
        listener.catch_up()
    assert [event.identity[0] for event in recorder.events] == [1, 3, 5]
    assert set(reasons) == {wire.TOO_LARGE}
