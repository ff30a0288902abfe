"""`pg_notify` takes 7,999 bytes: writes succeed whatever is in the rows, and every row is heard, or a resync."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import Cluster
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import created_database, resync_reasons

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched, wire

pytestmark = pytest.mark.server

LEVELS: Any = ("statement", "row")
Client = psycopg.Connection[Any]


class Table:
    """A watched table of texts, a listener, and a session that listens to the bare payloads."""

    def __init__(self, cluster: Cluster, database: str, level: Any, names: tuple[str, str, str], table: str) -> None:
        class Base(DeclarativeBase):
            pass

        watches = [
            Watch("inserted", extra_columns=("body",), level=level),
            Watch("updated", extra_columns=("body",), old=True, level=level),
            Watch("deleted", level=level),
        ]
        members = {
            "__tablename__": table,
            "__watch__": watches,
            "id": mapped_column(names[0], sa.Integer, primary_key=True, autoincrement=False),
            "key": mapped_column(names[1], sa.Text, primary_key=True),
            "body": mapped_column(names[2], sa.Text),
        }
        self.model: Any = type("Item", (Watched, Base), members)
        self.engine = create_engine(cluster.url(database, "psycopg"))
        Base.metadata.drop_all(self.engine)
        Base.metadata.create_all(self.engine)
        self.client = cluster.connect(database)
        self.table = self.model.__table__
        self.recorder = Recorder()
        self.model.watch.connect(self.recorder)
        self.listener = Listener(self.engine, Base)
        self.reasons = resync_reasons(self.listener)
        self.listener.start()
        for signal in self.model.watch:
            self.client.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(signal.details.channel)))

    def run(self, statement: Any, rows: Any = None) -> list[Any]:
        """The events of a statement."""
        self.recorder.events.clear()
        self.reasons.clear()
        with self.engine.begin() as connection:
            connection.execute(statement, rows) if rows else connection.execute(statement)
        self.listener.catch_up()
        return self.recorder.events

    def payloads(self) -> list[bytes]:
        """Payloads that PostgreSQL sent since the last call."""
        self.client.execute("SELECT 1")
        return [notify.payload.encode() for notify in self.client.notifies(timeout=0)]

    def close(self) -> None:
        self.listener.stop()
        self.client.close()
        self.engine.dispose()


@pytest.fixture(params=LEVELS)
def items(request: pytest.FixtureRequest, cluster: Cluster, database: str) -> Iterator[Table]:
    table = Table(cluster, database, request.param, ("id", "key", "body"), "items")
    yield table
    table.close()


def _keys(events: list[Any]) -> list[Any]:
    return sorted(event.identity for event in events)


def test_body_of_100_kilobytes_makes_the_event_partial(items: Table) -> None:
    body = "ä" * 50_000
    insert = sa.insert(items.table)
    events = items.run(insert.values([(1, "a", body), (2, "b", "short"), (3, "c", body)]))
    assert [(e.identity, e.partial, dict(e.values)) for e in events] == [
        ((1, "a"), True, {"id": 1, "key": "a"}),
        ((2, "b"), False, {"id": 2, "key": "b", "body": "short"}),
        ((3, "c"), True, {"id": 3, "key": "c"}),
    ]
    events = items.run(sa.update(items.table).values(body="short"))
    assert sorted((e.identity, e.partial) for e in events) == [((1, "a"), True), ((2, "b"), False), ((3, "c"), True)]
    events = items.run(sa.delete(items.table))
    assert sorted((e.identity, e.partial) for e in events) == [((1, "a"), False), ((2, "b"), False), ((3, "c"), False)]
    assert items.reasons == []


@pytest.mark.parametrize("size", [2_600, 7_000])
@pytest.mark.parametrize("character", ["x", "ä", "\\", "\x01"])
def test_long_key_is_heard_or_asks_to_resync(items: Table, character: str, size: int) -> None:
    key = (character * size).encode()[:size].decode(errors="ignore")
    insert = sa.insert(items.table)
    fits = len(json.dumps(key, ensure_ascii=False).encode()) < 7_500
    events = items.run(insert.values([(1, key, "body" * 100), (2, "b", "short")]))
    assert _keys(events) == ([(1, key)] if fits else []) + [(2, "b")]
    assert set(items.reasons) == (set() if fits else {wire.TOO_LARGE})
    events = items.run(sa.update(items.table).values(body="other"))
    assert _keys(events) == ([(1, key)] if fits else []) + [(2, "b")]
    events = items.run(sa.delete(items.table))
    assert _keys(events) == ([(1, key)] if fits else []) + [(2, "b")]


def test_incompressible_key_of_the_largest_size_an_index_takes(items: Table) -> None:
    with items.engine.begin() as connection:
        key = connection.scalar(
            sa.text("SELECT string_agg(chr(33 + (random() * 90)::int), '') FROM generate_series(1, 2650)")
        )
    assert _keys(items.run(sa.insert(items.table).values([(1, key, "x" * 9_000)]))) == [(1, key)]
    assert items.reasons == []


def test_statement_of_10_000_rows_with_long_ones_among_them(items: Table) -> None:
    long = "CASE i % 500 WHEN 0 THEN repeat('x', 100000) WHEN 1 THEN repeat('\"', 5000) ELSE 'short' END"
    key = "CASE i % 1000 WHEN 2 THEN repeat('k', 2500) || i WHEN 3 THEN repeat(chr(1), 2500) || i ELSE 'k' END"
    events = items.run(sa.text(f"INSERT INTO items SELECT i, {key}, {long} FROM generate_series(1, 10000) AS i"))
    lost = {i for i in range(1, 10_001) if i % 1000 == 3}
    assert [e.identity[0] for e in events] == [i for i in range(1, 10_001) if i not in lost]
    assert {e.identity[0] for e in events if e.partial} == {i for i in range(1, 10_001) if i % 500 < 2}
    assert set(items.reasons) == {wire.TOO_LARGE}
    events = items.run(sa.text("UPDATE items SET body = 'short'"))
    assert {e.identity[0] for e in events} == set(range(1, 10_001)) - lost
    assert {e.identity[0] for e in events if e.partial} == {i for i in range(1, 10_001) if i % 500 < 2}
    assert all(len(payload) <= wire.MAX_PAYLOAD_BYTES for payload in items.payloads())


_rows = st.lists(
    st.tuples(
        st.integers(1, 120),
        st.sampled_from(["x", "\x01", "ä", "🙂", '"', "\\"]),
        st.integers(0, 1300) | st.sampled_from([0, 2_000, 12_000]),
        st.integers(0, 3_000) | st.sampled_from([7_700, 7_800, 7_850, 7_900, 8_000, 100_000]),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def limits_database(cluster: Cluster) -> Iterator[str]:
    with created_database(cluster, "test_limits") as name:
        yield name


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    rows=_rows,
    level=st.sampled_from(LEVELS),
    context=st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=2_100) | st.just("\x01" * 330),
    names=st.lists(st.sampled_from(["x" * 63, '"' * 63, "🙂" * 15, "a", "b", "c", "\\" * 60]), min_size=3, max_size=3,
                   unique=True),
    table=st.sampled_from(["items", '"' * 63, "🙂" * 15]),
)  # fmt: skip
def test_every_row_that_is_written_is_heard_or_a_resync(
    cluster: Cluster, limits_database: str, rows: Any, level: Any, context: str, names: Any, table: str
) -> None:
    items = Table(cluster, limits_database, level, tuple(names), table)
    try:
        values = []
        for count, character, key, body in rows:
            longest = 2_500 // len(character.encode()) if key < 12_000 else 12_000
            for _ in range(count if body < 10_000 else count % 9 + 1):
                values.append({"id": len(values), "key": character * min(key, longest), "body": character * body})
        with items.engine.begin() as connection:
            connection.execute(sa.text("SELECT set_config('sqlalchemy_watch.context', :c, true)"), {"c": context})
            statement = "INSERT INTO {t} SELECT * FROM json_to_recordset(:v) AS r(id int, key text, body text)"
            quoted = items.engine.dialect.identifier_preparer.quote(table).replace(":", "\\:")
            connection.execute(sa.text(statement.format(t=quoted)), {"v": json.dumps(values)})
        items.listener.catch_up()
        heard = {event.identity[0] for event in items.recorder.events}
        assert len(heard) == len(items.recorder.events)
        lost = set(range(len(values))) - heard
        assert bool(lost) == bool(items.reasons)
        assert all(len(json.dumps(values[i]["key"], ensure_ascii=False).encode()) > 2_800 for i in lost)
        for event in items.recorder.events:
            value = values[event.identity[0]]
            assert event.values["key"] == value["key"]
            assert event.partial or event.values["body"] == value["body"]
            assert not event.partial or len(value["body"].encode()) + len(value["key"].encode()) > 400
        assert all(len(payload) <= wire.MAX_PAYLOAD_BYTES for payload in items.payloads())
    finally:
        items.close()


def test_names_that_leave_no_room_for_rows_are_refused() -> None:
    class Base(DeclarativeBase):
        pass

    columns: dict[str, Any] = {f"{'x' * 60}{i:02}": mapped_column(sa.Integer) for i in range(60)}
    watches = [Watch("inserted", extra_columns=tuple(columns))]
    members = {"__tablename__": "items", "__watch__": watches, "id": mapped_column(sa.Integer, primary_key=True)}
    with pytest.raises(ConfigurationError, match="carry fewer columns"):
        type("Item", (Watched, Base), members | columns)


_LISTENER = """
import resource, sys
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_watch import Listener, Watched

class Base(DeclarativeBase): pass

class Item(Watched, Base):
    __tablename__ = "items"
    __watch__ = ("updated",)
    id: Mapped[int] = mapped_column(primary_key=True)

count = total = 0

@Item.watch.updated.connect
def add(sender, event):
    global count, total
    count += 1
    total += event.identity[0]

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

with Listener(create_engine(sys.argv[1]), Base) as listener:
    before = megabytes()
    print("listening", flush=True)
    sys.stdin.readline()
    listener.catch_up(timeout=60)
    print(count, total, listener.stats().dropped, listener.stats().resyncs, megabytes() - before, flush=True)
"""


@pytest.mark.slow
def test_million_rows_of_one_statement_are_heard_in_little_memory(
    cluster: Cluster, database: str, engine: Engine, client: Client
) -> None:
    class Base(DeclarativeBase):
        pass

    class Item(Watched, Base):
        __tablename__ = "items"
        __table_args__ = {"prefixes": ["UNLOGGED"]}
        __watch__ = ("updated",)
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    rows = 1_000_000
    client.execute("INSERT INTO items SELECT i FROM generate_series(1, %s) AS i", [rows])
    command = [sys.executable, "-c", _LISTENER, cluster.url(database, "psycopg")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        client.execute("UPDATE items SET id = id")
        process.stdin.write("\n")
        process.stdin.flush()
        count, total, dropped, resyncs, megabytes = map(int, process.stdout.readline().split())
    assert (count, total, dropped, resyncs) == (rows, rows * (rows + 1) // 2, 0, 0)
    assert megabytes < 60


@pytest.mark.slow
def test_backlog_that_takes_longer_than_the_heartbeat_timeout_does_not_cost_the_connection(
    engine: Engine, client: Client
) -> None:
    class Base(DeclarativeBase):
        pass

    class Item(Watched, Base):
        __tablename__ = "items"
        __watch__ = [Watch("inserted", level="row")]
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    recorder = Recorder()
    Item.watch.inserted.connect(recorder)
    with Listener(engine, Base, heartbeat_timeout=1.5, heartbeat_interval=0.2, max_queue=200_000) as listener:
        reasons = resync_reasons(listener)
        client.execute("INSERT INTO items SELECT i FROM generate_series(1, 150000) AS i")
        listener.catch_up()
        assert len(recorder.events) == 150_000
        assert (reasons, listener.stats().reconnects) == ([], 0)
