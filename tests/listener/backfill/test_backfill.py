"""Existing rows are told of as `read` events, each at its place among the others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import PATIENCE, wait_until

from sqlalchemy_watch import ConfigurationError, Event, Listener, ListenerError, RetryPolicy, Watch, Watched, watch

Client = psycopg.Connection[Any]


@pytest.fixture
def Item(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Item(Watched, Base):  # type: ignore[misc]
        __tablename__ = "items"
        __watch__ = (
            Watch("inserted", extra_columns=("note",)), Watch("updated", extra_columns=("note", "price")), "deleted",
            "truncated",
        )  # fmt: skip
        __watch_delivery__ = "both"
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(server_default="x")
        price: Mapped[int | None]

    Base.metadata.create_all(engine)
    return Item


class Filled:
    """Waits for the ends of backfills."""

    def __init__(self, listener: Listener) -> None:
        self._ends: SimpleQueue[tuple[Any, datetime]] = SimpleQueue()
        listener.backfilled.connect(self._note)

    def _note(self, sender: Any, *, model: Any, started_at: datetime) -> None:
        self._ends.put((model, started_at))

    def wait(self) -> tuple[Any, datetime]:
        return self._ends.get(timeout=PATIENCE)


def fill(client: Client, rows: int, table: str = "items") -> None:
    client.execute(f"INSERT INTO {table} (id) SELECT generate_series(1, {rows})".encode())


def test_rows_that_were_there_are_read_in_order_with_all_that_any_watch_carries(
    client: Client, engine: Engine, Item: Any, route: dict[str, Any]
) -> None:
    client.execute("INSERT INTO items VALUES (2, 'b', NULL), (1, 'ä\"', 7)")
    events: list[Event[Any]] = []
    inserted: list[Any] = []
    Item.watch.read.connect(lambda sender, event: events.append(event))
    Item.watch.inserted.connect(lambda sender, event: inserted.append(event))
    listener = Listener(engine, Item, backfill=True, **route)
    filled = Filled(listener)
    with listener:
        model, started_at = filled.wait()
    assert model is Item
    assert [(event.operation, event.label, event.identity) for event in events] == [
        ("read", "read", (n,)) for n in (1, 2)
    ]
    assert [dict(event.values) for event in events] == [
        {"id": 1, "note": 'ä"', "price": 7}, {"id": 2, "note": "b", "price": None},
    ]  # fmt: skip
    assert inserted == []
    assert all(event.emitted_at >= started_at and event.listener is listener for event in events)
    assert len({event.id for event in events}) == 2
    assert {(event.schema, event.old, event.partial) for event in events} == {("public", None, False)}
    assert [Event.from_json(event.to_json(), Item) for event in events] == events
    if route:
        assert [(event.lsn is not None, event.position) for event in events] == [(True, 0), (True, 1)]


def test_everything_that_is_connected_to_the_model_or_the_listener_has_them(
    client: Client, engine: Engine, Item: Any, route: dict[str, Any]
) -> None:
    fill(client, 3)
    heard: dict[str, list[Any]] = {"model": [], "listener": [], "batches": [], "filter": [], "transactions": []}
    Item.watch.connect(lambda sender, event: heard["model"].append(event.identity[0]))
    Item.watch.read.filter_by(note="x").connect(lambda sender, event: heard["filter"].append(event.identity[0]))
    Item.watch.read.batches(max_size=2).connect(
        lambda sender, events: heard["batches"].append([event.identity[0] for event in events])
    )
    listener = Listener(engine, Item, backfill=[Item], workers=4, **route)
    listener.events.connect(lambda sender, event: heard["listener"].append(event.identity[0]))
    if route:
        listener.transactions.connect(
            lambda sender, whole: heard["transactions"].append([event.identity[0] for event in whole.events])
        )
    filled = Filled(listener)
    with listener:
        filled.wait()
        assert sorted(heard["model"]) == sorted(heard["listener"]) == sorted(heard["filter"]) == [1, 2, 3]
        assert heard["batches"] == [[1, 2], [3]]
        assert heard["transactions"] == ([[1, 2, 3]] if route else [])


@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101, 1_100, 5_000])
def test_each_row_is_read_once_however_many_chunks_there_are(
    client: Client, engine: Engine, Item: Any, route: dict[str, Any], rows: int
) -> None:
    fill(client, rows)
    read: list[int] = []
    Item.watch.read.connect(lambda sender, event: read.append(event.identity[0]))
    listener = Listener(engine, Item, backfill=True, **route)
    filled = Filled(listener)
    with listener:
        filled.wait()
    assert read == list(range(1, rows + 1))


def test_without_a_group_each_start_reads_and_a_group_reads_once(
    client: Client, engine: Engine, Item: Any, route: dict[str, Any]
) -> None:
    fill(client, 3)
    read: list[int] = []
    Item.watch.read.connect(lambda sender, event: read.append(event.identity[0]))
    for _ in range(2):
        listener = Listener(engine, Item, backfill=True, **route)
        filled = Filled(listener)
        with listener:
            if not route or not read:
                filled.wait()
            listener.catch_up()
    assert read == [1, 2, 3] * (1 if route else 2)


def test_a_backfill_can_be_asked_for_at_any_time_even_in_a_receiver(
    client: Client, engine: Engine, Item: Any, route: dict[str, Any]
) -> None:
    fill(client, 3)
    read: list[int] = []
    Item.watch.read.connect(lambda sender, event: read.append(event.identity[0]))
    listener = Listener(engine, Item, **route)
    filled = Filled(listener)

    @Item.watch.inserted.connect
    def ask(sender: Any, event: Any) -> None:
        listener.backfill(Item)

    with listener:
        for number in (1, 2):
            fill_more = f"INSERT INTO items (id) VALUES ({3 + number})"
            client.execute(fill_more.encode())
            filled.wait()
            assert read[-3 - number :] == list(range(1, 4 + number))


def test_a_table_without_a_class_is_read_as_well(
    client: Client, engine: Engine, Base: type[DeclarativeBase], route: dict[str, Any]
) -> None:
    from sqlalchemy import Column, Integer, Table

    table = Table("things", Base.metadata, Column("id", Integer, primary_key=True))
    signals = watch(table, Watch("inserted", delivery="both"))
    Base.metadata.create_all(engine)
    fill(client, 3, "things")
    read: list[Any] = []
    signals.read.connect(lambda sender, event: read.append((sender, *event.identity)))
    listener = Listener(engine, table, **route)
    filled = Filled(listener)
    with listener:
        listener.backfill(table)
        assert filled.wait()[0] is table
    assert read == [(table, 1), (table, 2), (table, 3)]


def test_rows_of_a_hierarchy_come_with_their_own_classes(
    client: Client, engine: Engine, Base: type[DeclarativeBase], Person: Any, Employee: Any, route: dict[str, Any]
) -> None:
    client.execute("INSERT INTO people VALUES (1, 'person'), (2, 'employee')")
    client.execute("INSERT INTO employees VALUES (2)")
    people: list[Any] = []
    employees: list[Any] = []
    Person.watch.read.connect(lambda sender, event: people.append((sender, *event.identity)))
    Employee.watch.read.connect(lambda sender, event: employees.append((sender, *event.identity)))
    listener = Listener(engine, Base, backfill=True, **route)
    filled = Filled(listener)
    with listener:
        assert filled.wait()[0] is Person
    assert people == [(Person, 1), (Employee, 2)]
    assert employees == [(Employee, 2)]


KEYS: dict[str, tuple[str, list[Any]]] = {
    "text": ("text", ["", "%s", "B", "a b", "ä'\\", "é"]),
    "numeric": ("numeric", ["-1.50", "0", "1e10", "NaN"]),
    "timestamptz": ("timestamptz", ["0001-03-01 00:00Z", "2024-02-29 12:00+05:30"]),
    "uuid": ("uuid", [f"{n:032x}" for n in (1, 7, 2**64)]),
    "bytea": ("bytea", ["", "\\x00ff", "\\xff"]),
    "date": ("date", ["2024-02-29", "2024-03-01"]),
    "double": ("double precision", ["-0.1", "0.30000000000000004", "1e300"]),
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_any_type_lead_from_chunk_to_chunk(
    client: Client, engine: Engine, Base: type[DeclarativeBase], route: dict[str, Any], key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from sqlalchemy import Column, Integer, Table, types
    from sqlalchemy.dialects import postgresql

    from sqlalchemy_watch.listener.backfill import reading

    monkeypatch.setattr(reading, "FIRST_ROWS", 1)
    monkeypatch.setattr(reading, "MOST_ROWS", 1)
    sql, values = KEYS[key]
    types_: dict[str, Any] = {
        "text": types.Text, "numeric": types.Numeric, "timestamptz": types.TIMESTAMP, "uuid": types.Uuid,
        "bytea": types.LargeBinary, "date": types.Date, "double": postgresql.DOUBLE_PRECISION,
    }  # fmt: skip
    type_ = types.TIMESTAMP(timezone=True) if key == "timestamptz" else types_[key]()
    table = Table("od%d", Base.metadata, Column("k%s", type_, primary_key=True), Column("n", Integer, primary_key=True))
    signals = watch(table, Watch("inserted", delivery="both"))
    Base.metadata.create_all(engine)
    for value in values:
        client.execute(
            f'INSERT INTO "od%%d" VALUES (CAST(%s AS {sql}), 1), (CAST(%s AS {sql}), 2)'.encode(), [value] * 2
        )
    read: list[Any] = []
    signals.read.connect(lambda sender, event: read.append(event.identity))
    listener = Listener(engine, table, backfill=True, **route)
    filled = Filled(listener)
    with listener:
        filled.wait()
    with engine.connect() as connection:
        loaded = [tuple(row) for row in connection.execute(table.select().order_by(*table.primary_key.columns))]
    assert [list(map(str, row)) for row in read] == [list(map(str, row)) for row in loaded]  # NaN equals no other


def test_rows_in_the_schemas_that_are_named_are_read(
    client: Client, engine: Engine, Base: type[DeclarativeBase], route: dict[str, Any]
) -> None:
    class Plant(Watched, Base):  # type: ignore[misc]
        __tablename__ = "plants"
        __watch__ = (Watch("inserted", delivery="both"),)
        id: Mapped[int] = mapped_column(primary_key=True)

    for schema in ("garden", "house", "street"):
        client.execute(f"CREATE SCHEMA {schema}".encode())
        client.execute(f"CREATE TABLE {schema}.plants (id int PRIMARY KEY)".encode())
        fill(client, 2, f"{schema}.plants")
    read: list[Any] = []
    Plant.watch.read.connect(lambda sender, event: read.append((event.schema, *event.identity)))
    listener = Listener(engine, Plant, backfill=True, schemas=("house", "garden"), **route)
    filled = Filled(listener)
    with listener:
        filled.wait()
    assert read == [("garden", 1), ("garden", 2), ("house", 1), ("house", 2)]


@needs_logical_messages
def test_a_receiver_that_fails_on_a_row_has_it_among_its_dead_letters(
    client: Client, engine: Engine, Item: Any, group: str
) -> None:
    fill(client, 3)
    fails, read = [True], SimpleQueue[int]()

    @Item.watch.read.connect
    def index(sender: Any, event: Any) -> None:
        if fails[0] and event.identity == (2,):
            raise ValueError
        read.put(event.identity[0])

    policy = RetryPolicy(in_order="key", attempts=1, first_delay=0.01, max_delay=0.01)
    listener = Listener(engine, Item, durable=group, backfill=True, retry=policy, heartbeat_interval=0.1)
    filled = Filled(listener)
    with listener:
        filled.wait()
        assert [read.get(timeout=PATIENCE) for _ in range(2)] == [1, 3]
        fails[0] = False
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
        assert read.get(timeout=PATIENCE) == 2


def test_bad_input_is_refused_at_once(engine: Engine, Item: Any, Base: type[DeclarativeBase], group: str) -> None:
    class Plain(Base):  # type: ignore[misc]
        __tablename__ = "plain"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Truncated(Watched, Base):  # type: ignore[misc]
        __tablename__ = "truncated"
        __watch__ = ("truncated",)
        id: Mapped[int] = mapped_column(primary_key=True)

    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: Listener(engine, Base, backfill=[Plain]), "Plain has no watch that this listener hears"),
        (lambda: Listener(engine, Base, backfill=[Truncated]), "Truncated has no watch"),
        (lambda: Listener(engine, Item, backfill=["Item"]), "'Item' has no watch"),
        (lambda: Listener(engine, Item, backfill=Item), r"write backfill=\[Item\]"),
        (lambda: Listener(engine, Item, backfill="Item"), "backfill must be True, or a sequence of models"),
        (lambda: Listener(engine, Item, durable=group, backfill=True, wait_visible=False), "wait_visible=False"),
        (lambda: Truncated.watch.read, "does not watch 'read'"),
        (lambda: Watch("inserted", label="read"), "label 'read' is an attribute of Model.watch"),
        (lambda: Watch("read"), "unknown operation 'read'"),  # type: ignore[arg-type]
    ]
    for call, words in wrong:
        with pytest.raises((ConfigurationError, AttributeError), match=words):
            call()
    listener = Listener(engine, Item)
    with pytest.raises(ListenerError, match="not running"):
        listener.backfill(Item)
    with listener, pytest.raises(ConfigurationError, match="Plain has no watch"):
        listener.backfill(Plain)
