"""A row that is written to while rows are read is never told of as it was before."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import wait_until

from sqlalchemy_watch import Listener, Watch, Watched
from sqlalchemy_watch.listener.backfill import attempt
from sqlalchemy_watch.listener.backfill.reading import Reader
from sqlalchemy_watch.listener.backfill.touched import Touched
from sqlalchemy_watch.listener.server.connect import APPLICATION_NAME

from ..conftest import drop_slots
from ..insides import dispatcher_of
from .test_backfill import Filled, fill

Client = psycopg.Connection[Any]


@pytest.fixture
def Item(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Item(Watched, Base):  # type: ignore[misc]
        __tablename__ = "items"
        __watch__ = (
            Watch("inserted", extra_columns=("version",)), Watch("updated", extra_columns=("version",), old=True),
            Watch("deleted", extra_columns=("version",)), "truncated",
        )  # fmt: skip
        __watch_delivery__ = "both"
        id: Mapped[int] = mapped_column(primary_key=True)
        version: Mapped[int] = mapped_column(server_default="1")

    Base.metadata.create_all(engine)
    return Item


class Copy:
    """A copy of the table, by the events of a model."""

    def __init__(self, model: Any) -> None:
        self.rows: dict[int, int] = {}
        self.heard: list[tuple[Any, ...]] = []
        #: The newest version that was told of, of rows that are gone as well.
        self._newest: dict[int, int] = {}
        self.stale: list[Any] = []
        model.watch.connect(self.take)

    def take(self, sender: Any, event: Any) -> None:
        if event.operation == "truncated":
            self.rows.clear()
            self.heard.append(("truncated",))
            return
        id, version = event.identity[0], event.values["version"]
        self.heard.append((event.operation, id, version))
        if event.operation == "read" and version < self._newest.get(id, 0):
            self.stale.append((id, version, self._newest[id]))
        self._newest[id] = version
        if event.operation == "deleted":
            self.rows.pop(id, None)
            return
        if event.operation == "updated" and event.old["id"] != id:
            self.rows.pop(event.old["id"], None)
        self.rows[id] = version


def table(client: Client) -> dict[int, int]:
    return dict(client.execute("SELECT id, version FROM items").fetchall())


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Has something done each time between the reading of rows and the mark behind it."""
    read = Reader.read

    def use(act: Callable[[], Any]) -> None:
        def read_and_act(*arguments: Any) -> Any:
            found = read(*arguments)
            act()
            return found

        monkeypatch.setattr(Reader, "read", read_and_act)

    return use


REST = [("read", 1, 1), ("read", 3, 1)]

CHANGES = {
    "UPDATE items SET version = version + 1 WHERE id = 2": [("updated", 2, 2), *REST, ("read", 2, 2)],
    "DELETE FROM items WHERE id = 2": [("deleted", 2, 1), *REST],
    "UPDATE items SET id = 7 WHERE id = 2": [("updated", 7, 1), *REST],
    "INSERT INTO items VALUES (0, 5)": [("inserted", 0, 5), ("read", 1, 1), ("read", 2, 1), ("read", 3, 1)],
    "TRUNCATE items": [("truncated",)],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_is_changed_between_its_reading_and_its_mark_is_read_again(
    client: Client, engine: Engine, Item: Any, route: dict[str, Any], change: str, between: Any
) -> None:
    fill(client, 3)
    copy = Copy(Item)
    changes = iter([change])

    def act() -> None:
        for statement in changes:
            client.execute(statement.encode())
            listener.catch_up()

    between(act)
    listener = Listener(engine, Item, **route)
    filled = Filled(listener)
    with listener:
        listener.backfill(Item)
        filled.wait()
    assert copy.heard == CHANGES[change]
    assert copy.rows == table(client)


def test_a_row_that_is_changed_again_and_again_is_locked_at_last(
    client: Client, engine: Engine, Item: Any, route: dict[str, Any], between: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(client, 3)
    copy = Copy(Item)
    locked: list[Any] = []
    lock = Reader.lock

    def note_and_lock(self: Reader, keys: Any) -> Any:
        locked.extend(keys)
        return lock(self, keys)

    monkeypatch.setattr(Reader, "lock", note_and_lock)

    def act() -> None:
        client.execute("UPDATE items SET version = version + 1 WHERE id = 2")
        listener.catch_up()

    between(act)
    listener = Listener(engine, Item, **route)
    filled = Filled(listener)
    with listener:
        listener.backfill(Item)
        filled.wait()
    assert locked == [("2",)]
    assert [each for each in copy.heard if each[0] == "read"] == [("read", 1, 1), ("read", 3, 1), ("read", 2, 3)]
    assert not copy.stale


def test_without_the_right_to_lock_a_row_is_read_until_nobody_changes_it(
    cluster: Cluster, client: Client, database: str, Item: Any, between: Any
) -> None:
    fill(client, 3)
    role = f"reader_{database}"
    client.execute(f"CREATE ROLE {role} LOGIN".encode())
    client.execute(f"GRANT SELECT ON items TO {role}".encode())
    copy = Copy(Item)
    changes = iter(range(6))

    def act() -> None:
        if next(changes, None) is not None:
            client.execute("UPDATE items SET version = version + 1 WHERE id = 2")
            listener.catch_up()

    between(act)
    engine = create_engine(cluster.url(database, "psycopg").replace("//postgres@", f"//{role}@"))
    listener = Listener(engine, Item)
    filled = Filled(listener)
    try:
        with listener:
            listener.backfill(Item)
            filled.wait()
        assert copy.heard[-1] == ("read", 2, 7)
        assert not copy.stale
    finally:
        engine.dispose()
        client.execute(f"DROP OWNED BY {role}".encode())
        client.execute(f"DROP ROLE {role}".encode())


class Writers:
    """Write to the rows around where reading is."""

    def __init__(self, dsn: str, rows: int, cursor: list[int]) -> None:
        self._dsn, self._rows, self._cursor = dsn, rows, cursor
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(3)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        chance = random.Random(number)
        versions: dict[int, int] = {}
        with psycopg.connect(self._dsn) as connection:
            while not self._stopping.is_set():
                # Each has rows of its own, so that their versions grow in commit order.
                id = min(self._rows - 3, (self._cursor[0] + chance.randrange(300)) // 3 * 3) + 1 + number
                version = versions.get(id, 1) + 1
                if chance.random() < 0.1:
                    connection.execute("DELETE FROM items WHERE id = %s", [id])
                else:
                    connection.execute(
                        "INSERT INTO items VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET version = excluded.version",
                        [id, version],
                    )
                if chance.random() < 0.1:
                    connection.rollback()
                else:
                    versions[id] = version
                    connection.commit()
                self._stopping.wait(0.0002)


ROWS = 3_000


def copied(client: Client, engine: Engine, Item: Any, between: Any, **options: Any) -> tuple[Copy, dict[int, int]]:
    """Copy the table while writers are at work just in front of reading."""
    fill(client, ROWS)
    copy, cursor = Copy(Item), [0]
    between(lambda: threading.Event().wait(0.003))  # so that writers come in between
    listener = Listener(engine, Item, **options)
    filled = Filled(listener)

    @Item.watch.read.connect
    def follow(sender: Any, event: Any) -> None:
        cursor[0] = event.identity[0]

    with listener, Writers(client.info.dsn, ROWS, cursor):
        listener.backfill(Item)
        filled.wait()
        listener.backfill(Item)  # and once more, over what is there by then
        filled.wait()
    with listener:
        listener.catch_up()
    return copy, table(client)


@pytest.mark.parametrize("workers", [1, 8])
def test_a_copy_equals_the_table_though_writers_are_at_work(
    client: Client, engine: Engine, Item: Any, route: dict[str, Any], between: Any, workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sqlalchemy_watch.listener.backfill.reading.MOST_ROWS", 100)
    monkeypatch.setattr(attempt, "MOST_ROWS", 100)
    copy, rows = copied(client, engine, Item, between, workers=workers, **route)
    assert not copy.stale
    if not route:  # what is committed between the two starts is not heard
        return
    assert copy.rows == rows


@needs_logical_messages
def test_without_the_rule_a_copy_would_be_wrong(
    client: Client, engine: Engine, Item: Any, between: Any, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlalchemy_watch.listener.backfill.reading.MOST_ROWS", 100)
    monkeypatch.setattr(Touched, "is_stale", lambda self, snapshot, key: False)
    copy, _ = copied(client, engine, Item, between, durable=group)
    assert copy.stale


@needs_logical_messages
def test_a_backfill_goes_on_in_the_next_process(
    client: Client, engine: Engine, Item: Any, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlalchemy_watch.listener.backfill.reading.MOST_ROWS", 100)
    fill(client, 2_000)
    read: list[int] = []
    enough = threading.Event()

    @Item.watch.read.connect
    def note(sender: Any, event: Any) -> None:
        read.append(event.identity[0])
        if len(read) == 1_000:
            enough.set()

    with Listener(engine, Item, durable=group, backfill=True):
        assert enough.wait(30)
    before = len(read)
    assert before < 2_000
    listener = Listener(engine, Item, durable=group)
    filled = Filled(listener)
    with listener:
        filled.wait()
    assert set(read) == set(range(1, 2_001))
    assert len(read) - 2_000 <= 500  # what receivers had in their hands


@needs_logical_messages
def test_a_connection_that_is_lost_loses_no_row(
    client: Client, engine: Engine, Item: Any, route: dict[str, Any], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlalchemy_watch.listener.backfill.reading.MOST_ROWS", 100)
    fill(client, 3_000)
    read: list[int] = []

    @Item.watch.read.connect
    def note(sender: Any, event: Any) -> None:
        read.append(event.identity[0])
        if len(read) in (500, 1_500, 2_500):
            query = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND datname = %s"
            )
            client.execute(query, [APPLICATION_NAME, database])

    listener = Listener(engine, Item, backfill=True, **route)
    filled = Filled(listener)
    with listener:
        filled.wait()
    assert set(read) == set(range(1, 3_001))


@needs_logical_messages
def test_another_process_of_the_group_may_ask_for_it(
    client: Client, engine: Engine, Item: Any, group: str, cluster: Cluster, database: str
) -> None:
    fill(client, 3)
    read: list[int] = []
    Item.watch.read.connect(lambda sender, event: read.append(event.identity[0]))
    active = Listener(engine, Item, durable=group)
    filled = Filled(active)
    with active:
        waiting = Listener(engine, Item, durable=group)
        waiting.start()
        assert waiting.stats().active is False
        waiting.backfill(Item)
        filled.wait()
        waiting.stop()
    assert read == [1, 2, 3]
    drop_slots(cluster, database)


@needs_logical_messages
def test_the_rows_that_are_noted_do_not_grow_while_a_receiver_is_slow(
    client: Client, engine: Engine, Item: Any, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "PRUNED_FROM", 10)
    monkeypatch.setattr(attempt, "LOOK_SECONDS", 0.01)
    fill(client, 100)
    reading, go_on = threading.Event(), threading.Event()

    @Item.watch.read.connect
    def wait(sender: Any, event: Any) -> None:
        if event.identity == (50,):
            reading.set()
            assert go_on.wait(30)

    listener = Listener(engine, Item, durable=group, workers=4)
    filled = Filled(listener)
    with listener:
        listener.backfill(Item)
        assert reading.wait(30)
        client.execute("UPDATE items SET version = 2 WHERE id > 50")
        touched: Any = dispatcher_of(listener).touched
        wait_until(client, lambda: len(touched) == 0)
        go_on.set()
        filled.wait()
