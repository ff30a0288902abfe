"""Messages of the log that are no watch's: whoever may connect writes them, of up to 1 GB."""

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

from sqlalchemy_watch import Listener, Watch, Watched
from sqlalchemy_watch.listener.wal import large

from ..conftest import MakeListener
from ..consumers import Base as ConsumersBase

pytestmark = needs_logical_messages

BYTES = 40_000_000

CONSUMER = """
import json, re, sys
sys.path.insert(0, sys.argv[3])
from listener.consumers import Base, Payment
from sqlalchemy import create_engine
from sqlalchemy_watch import Listener

def peak():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1]) * 1024

heard = []

@Payment.watch.inserted.connect
def book_payment(sender, event):
    heard.append(event.identity[0])

before = peak()
with Listener(create_engine(sys.argv[1]), Base, durable=sys.argv[2]) as listener:
    listener.catch_up(timeout=60)
print(json.dumps({"heard": heard, "grown": peak() - before}))
"""

#: Prefix, content and whether it is transactional, as SQL.
LARGE = (
    f"true, 'somebody', repeat('x', {BYTES})",
    f"false, 'somebody', repeat('x', {BYTES})",
    f"true, repeat('x', {BYTES}), 'x'",
    f"true, repeat('x', 1020 - 35), repeat('x', {BYTES})",
    f"true, repeat('x', 1020 - 36), repeat('x', {BYTES})",
    f"true, repeat('x', 1023 - 35), repeat('x', {BYTES})",
    f"true, repeat('x', 1048576), repeat('x', {BYTES})",
    f"true, '', repeat('x', {BYTES})",
    f"true, 'sqlalchemy_watch/watch_no_such_table', repeat('x', {BYTES})",
    f"false, 'sqlalchemy_watch/watch_payments_inserted', repeat('x', {BYTES})",
    f"true, 'sqlalchemy_watch/token', repeat('x', {BYTES})",
    f"true, 'sqlalchemy_watch/resync', repeat('x', {BYTES})",
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_large_messages_of_no_watch_are_held_once_and_never_copied(
    cluster: Cluster,
    database: str,
    client: psycopg.Connection[Any],
    engine: Engine,
    group: str,
    request: pytest.FixtureRequest,
) -> None:
    ConsumersBase.metadata.create_all(engine)
    with Listener(engine, ConsumersBase, durable=group):
        pass
    for number, message in enumerate(LARGE):
        client.execute(f"SELECT pg_logical_emit_message({message})".encode())
        client.execute("INSERT INTO payments VALUES (%s)", [number])
    tests = str(request.config.rootpath / "tests")
    done = subprocess.run(
        [sys.executable, "-c", CONSUMER, cluster.url(database, "psycopg"), group, tests],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["heard"] == list(range(len(LARGE)))
    assert result["grown"] < 1.6 * BYTES


@pytest.mark.parametrize("has_function", [True, False], ids=["bit by bit", "whole"])
def test_large_messages_of_ours_and_of_others_in_one_transaction(
    client: psycopg.Connection[Any], engine: Engine, Base: Any, durable: MakeListener, recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch, has_function: bool,
) -> None:  # fmt: skip
    if not has_function:
        monkeypatch.setattr(large, "_find_getline", lambda: None)

    class Report(Watched, Base):
        __tablename__ = "reports"
        __watch__ = (Watch("inserted", extra_columns=("body",), delivery="durable"),)
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]

    Base.metadata.create_all(engine)
    Report.watch.connect(recorder)
    size = 5_000_000
    with durable() as listener:
        with client.transaction():
            for number in range(4):
                client.execute(f"SELECT pg_logical_emit_message(true, 'somebody', repeat('x', {size}))".encode())
                client.execute(
                    f"INSERT INTO reports SELECT %s, repeat(chr(97 + %s), {size})".encode(), [number, number]
                )
                client.execute("INSERT INTO reports VALUES (%s, '')", [number + 10])
        listener.catch_up()
    found = [(event.identity[0], len(event.values["body"]), event.values["body"][:1]) for event in recorder.events]
    assert found == [row for n in range(4) for row in ((n, size, "abcd"[n]), (n + 10, 0, ""))]
