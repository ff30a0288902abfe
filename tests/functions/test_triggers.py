"""Writes of every kind are heard, once, in order; no write fails because it is watched."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from hypothesis import given, settings
from hypothesis import strategies as st
from models import declare_base, declare_order, declare_user
from postgres import VERSION, Cluster, needs
from sqlalchemy import Engine, ForeignKey, create_engine, text
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from support import created_database, resync_reasons

from sqlalchemy_watch import Listener, Watch, Watched, context, install, muted, status, watch
from sqlalchemy_watch.wire import MAX_CONTEXT_BYTES

pytestmark = pytest.mark.server

LEVELS: Any = ("statement", "row")
Client = psycopg.Connection[Any]


class Heard:
    """Events and resyncs that writes to tables are heard as."""

    def __init__(self, engine: Engine, base: Any, client: Client, *models: Any) -> None:
        self.engine, self.client, self.base = engine, client, base
        self._recorder = Recorder()
        for model in models:
            model.watch.connect(self._recorder)
        self.level = ""
        self.listener = Listener(engine, base)
        self.reasons = resync_reasons(self.listener)

    def events(self, sql: str | None = None, *parameters: Any) -> list[Any]:
        """The events since the last call, after this statement."""
        if sql is not None:
            self.client.execute(sql.encode(), parameters or None)
        self.listener.catch_up()
        found, self._recorder.events = self._recorder.events, []
        return found

    def __call__(self, sql: str | None = None, *parameters: Any) -> list[tuple[Any, ...]]:
        """(label, key...) of each event."""
        return [(event.label, *(event.identity or ())) for event in self.events(sql, *parameters)]


@pytest.fixture(params=LEVELS)
def users(request: pytest.FixtureRequest, engine: Engine, client: Client, Base: Any) -> Iterator[Heard]:
    """A table `users`, watched with every option, at either level."""
    level = request.param

    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = [
            Watch("inserted", level=level),
            Watch("updated", level=level),
            Watch("deleted", level=level),
            "truncated",
            Watch("updated", label="renamed", trigger_columns=("name",), extra_columns=("name",), old=True,
                  level=level),
            Watch("inserted", label="paid", when=lambda old, new: new.total > 10, level=level),
            Watch("updated", label="raised", when=lambda old, new: new.total > old.total, level=level),
            Watch("deleted", label="lost", when=lambda old, new: old.total > 10, old=True, extra_columns=("total",),
                  level=level),
        ]  # fmt: skip
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        name: Mapped[str | None]
        total: Mapped[int] = mapped_column(server_default="0")

    Base.metadata.create_all(engine)
    heard = Heard(engine, Base, client, User)
    heard.level = level
    with heard.listener:
        yield heard
        assert heard.reasons == []
        assert heard.listener.stats().garbage == 0


def test_each_operation_is_heard(users: Heard) -> None:
    assert sorted(users("INSERT INTO users VALUES (1, 'a', 20), (2, 'b', 1)")) == [
        ("inserted", 1), ("inserted", 2), ("paid", 1),
    ]  # fmt: skip
    assert users("UPDATE users SET total = total") == [("updated", 1), ("updated", 2)]
    assert sorted(users("DELETE FROM users")) == [("deleted", 1), ("deleted", 2), ("lost", 1)]
    assert users("TRUNCATE users") == [("truncated",)]


def test_many_rows_of_a_statement_are_heard_once_each(users: Heard) -> None:
    inserted = users("INSERT INTO users SELECT i, repeat('ä', i / 20), i FROM generate_series(1, 1000) AS i")
    assert sorted(inserted) == sorted(
        [("inserted", i) for i in range(1, 1001)] + [("paid", i) for i in range(11, 1001)]
    )
    updated = users("UPDATE users SET name = name || CASE WHEN id > 990 THEN 'x' ELSE '' END, total = 500")
    assert sorted(updated) == sorted(
        [("updated", i) for i in range(1, 1001)]
        + [("renamed", i) for i in range(991, 1001)]
        + [("raised", i) for i in range(1, 500)]
    )
    assert len(users("DELETE FROM users WHERE id <= 600")) == 1200


def test_copy_is_heard(users: Heard) -> None:
    with users.client.cursor().copy("COPY users FROM STDIN") as copy:
        for number in range(100):
            copy.write_row((number, "x", 0))
    assert users() == [("inserted", number) for number in range(100)]


@needs(15, "MERGE")
@pytest.mark.parametrize("rows", [1, 60])
def test_merge_is_heard(users: Heard, rows: int) -> None:
    users(f"INSERT INTO users SELECT i FROM generate_series(1, {2 * rows}) AS i")
    heard = users(
        f"MERGE INTO users AS u USING generate_series(1, {3 * rows}) AS s(i) ON u.id = s.i "
        f"WHEN MATCHED AND s.i <= {rows} THEN UPDATE SET total = 5 "
        f"WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.i, NULL, 0)"
    )
    ids = range(1, rows + 1)
    assert sorted(heard) == sorted(
        [("updated", i) for i in ids]
        + [("raised", i) for i in ids]
        + [("deleted", i + rows) for i in ids]
        + [("inserted", i + 2 * rows) for i in ids]
    )


def test_conflicts_are_heard_as_what_they_become(users: Heard) -> None:
    users("INSERT INTO users VALUES (1, 'a')")
    assert users("INSERT INTO users VALUES (1) ON CONFLICT DO NOTHING") == []
    assert users("INSERT INTO users VALUES (1, 'a'), (2, 'b') ON CONFLICT DO NOTHING") == [("inserted", 2)]
    heard = users("INSERT INTO users VALUES (1, 'x'), (3, 'c') ON CONFLICT (id) DO UPDATE SET name = excluded.name")
    assert sorted(heard) == [("inserted", 3), ("renamed", 1), ("updated", 1)]


def test_statement_that_touches_no_row_is_not_heard(users: Heard) -> None:
    notifications = users.listener.stats().notifications
    assert users("UPDATE users SET total = 1") == []
    assert users("DELETE FROM users") == []
    assert users("INSERT INTO users SELECT 1 WHERE false") == []
    assert users.listener.stats().notifications == notifications


def test_rollback_and_savepoint_are_not_heard(users: Heard) -> None:
    with users.client.transaction(force_rollback=True):
        users.client.execute("INSERT INTO users VALUES (1)")
    with users.client.transaction():
        users.client.execute("INSERT INTO users VALUES (2)")
        with users.client.transaction(force_rollback=True):
            users.client.execute("INSERT INTO users VALUES (3)")
            users.client.execute("UPDATE users SET total = 3")
        with users.client.transaction():
            users.client.execute("INSERT INTO users VALUES (4)")
    assert users() == [("inserted", 2), ("inserted", 4)]


def test_insert_delete_insert_of_one_key_is_heard_as_that(users: Heard) -> None:
    with users.client.transaction():
        for _ in range(20):
            users.client.execute("INSERT INTO users VALUES (1)")
            users.client.execute("DELETE FROM users")
        users.client.execute("INSERT INTO users VALUES (1)")
    assert users() == [("inserted", 1), ("deleted", 1)] * 20 + [("inserted", 1)]


def test_insert_delete_insert_in_one_server_call_is_heard_as_that(users: Heard) -> None:
    loop = "FOR i IN 1..50 LOOP INSERT INTO users VALUES (1); DELETE FROM users; END LOOP"
    assert users(f"DO 'BEGIN {loop}; END'") == [("inserted", 1), ("deleted", 1)] * 50


def test_changed_key_is_told_with_the_one_before(users: Heard) -> None:
    users("INSERT INTO users SELECT i, 'a', 5 FROM generate_series(1, 3) AS i")
    shifted = users("UPDATE users SET id = id + 100 WHERE id < 3")
    assert sorted(shifted) == [("renamed", 101), ("renamed", 102), ("updated", 101), ("updated", 102)]
    events = users.events("UPDATE users SET id = id - 100, name = id WHERE id > 100")
    assert sorted((e.identity, dict(e.old), sorted(e.changed)) for e in events if e.label == "renamed") == [
        ((1,), {"id": 101, "name": "a"}, ["id", "name"]),
        ((2,), {"id": 102, "name": "a"}, ["id", "name"]),
    ]


def test_old_values_and_names_of_changed_columns_are_told(users: Heard) -> None:
    users("INSERT INTO users VALUES (1, 'a', 20)")
    (event,) = [e for e in users.events("UPDATE users SET name = 'b'") if e.label == "renamed"]
    assert (dict(event.values), dict(event.old), event.changed) == (
        {"id": 1, "name": "b"}, {"id": 1, "name": "a"}, {"name"},
    )  # fmt: skip
    (event,) = [e for e in users.events("UPDATE users SET name = NULL") if e.label == "renamed"]
    assert (event.values["name"], event.old["name"]) == (None, "b")
    (event,) = [e for e in users.events("DELETE FROM users") if e.label == "lost"]
    assert (dict(event.values), dict(event.old), event.changed) == (
        {"id": 1, "total": 20},
        {"id": 1, "total": 20},
        set(),
    )


def test_trigger_column_counts_where_it_really_changed(users: Heard) -> None:
    users("INSERT INTO users VALUES (1, 'a'), (2, NULL)")
    assert users("UPDATE users SET name = name") == [("updated", 1), ("updated", 2)]
    users.client.execute(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.name := upper(NEW.name); RETURN NEW; END'"
    )
    users.client.execute("CREATE TRIGGER shout BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION shout()")
    assert sorted(users("UPDATE users SET total = 0")) == [("renamed", 1), ("updated", 1), ("updated", 2)]


def test_muted_writes_are_not_heard(users: Heard) -> None:
    with Session(users.engine) as session:
        with muted(session):
            session.execute(text("INSERT INTO users VALUES (1)"))
        session.execute(text("INSERT INTO users VALUES (2)"))
        session.commit()
        with muted(session):
            session.execute(text("UPDATE users SET total = 1"))
            session.execute(text("TRUNCATE users"))
            session.commit()
        session.execute(text("INSERT INTO users VALUES (3)"))
        session.commit()
    assert users() == [("inserted", 2), ("inserted", 3)]


def test_context_travels_and_garbage_in_its_place_does_not(users: Heard) -> None:
    with Session(users.engine) as session, session.begin():
        with context(session, a=1):
            with context(session, b="ä\"'\\"):
                session.execute(text("INSERT INTO users VALUES (1)"))
            session.execute(text("INSERT INTO users VALUES (2)"))
        session.execute(text("INSERT INTO users VALUES (3)"))
    assert [dict(event.context) for event in users.events()] == [{"a": 1, "b": "ä\"'\\"}, {"a": 1}, {}]
    too_long = '{"a": "' + "x" * MAX_CONTEXT_BYTES + '"}'
    for garbage in ("{", "[1]", "7", "\x01\n\t\"'\\", "[" * 1_900, "ä" * 990, too_long, "\x01" * 5000):
        users.client.execute("SELECT set_config('sqlalchemy_watch.context', %s, false)", [garbage])
        assert [dict(event.context) for event in users.events("UPDATE users SET total = 0 WHERE id = 1")] == [{}]


@pytest.mark.parametrize("size", [300, 332, 333, 1900])
def test_a_long_context_makes_no_other_rows_be_heard(users: Heard, size: int) -> None:
    value = json.dumps({"a": "x" * (size - 9)})
    assert len(value) == size
    users.client.execute("SELECT set_config('sqlalchemy_watch.context', %s, false)", [value])
    (event,) = users.events("INSERT INTO users VALUES (1, 'a', 1)")
    assert (event.label, dict(event.context)) == ("inserted", json.loads(value))
    assert users("INSERT INTO users SELECT 1 WHERE false") == []
    assert users("UPDATE users SET name = name") == [("updated", 1)]
    assert sorted(users("UPDATE users SET name = 'b', total = 2")) == [("raised", 1), ("renamed", 1), ("updated", 1)]
    assert users("DELETE FROM users") == [("deleted", 1)]


def test_deferred_constraint_may_fail_the_commit_and_then_nothing_is_heard(users: Heard) -> None:
    users.client.execute("ALTER TABLE users ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(psycopg.errors.UniqueViolation), users.client.transaction():
        users.client.execute("INSERT INTO users VALUES (1, 'a'), (2, 'a')")
    with users.client.transaction():
        users.client.execute("INSERT INTO users VALUES (1, 'a'), (2, 'a')")
        users.client.execute("UPDATE users SET name = 'b' WHERE id = 2")
    assert sorted(users()) == [("inserted", 1), ("inserted", 2), ("renamed", 2), ("updated", 2)]


def test_replica_sessions_are_not_heard(users: Heard) -> None:
    users.client.execute("SET session_replication_role = replica")
    assert users("INSERT INTO users VALUES (1)") == []
    users.client.execute("RESET session_replication_role")
    assert users("INSERT INTO users VALUES (2)") == [("inserted", 2)]


def test_role_that_may_only_write_is_heard(users: Heard) -> None:
    users.client.execute("DROP ROLE IF EXISTS clerk; CREATE ROLE clerk")
    users.client.execute("GRANT INSERT, UPDATE (total) ON users TO clerk; SET ROLE clerk")
    assert users("INSERT INTO users VALUES (1, 'a', 1)") == [("inserted", 1)]
    assert sorted(users("UPDATE users SET total = 2")) == [("raised", 1), ("updated", 1)]
    users.client.execute("RESET ROLE; DROP OWNED BY clerk; DROP ROLE clerk")


def test_a_function_renamed_by_hand_makes_no_write_fail(users: Heard) -> None:
    for function in ("inserted", "updated", "deleted", "truncated"):
        users.client.execute(f"ALTER FUNCTION watch_users_{function}() RENAME TO mine_{function}".encode())
    assert users("INSERT INTO users VALUES (1), (2)") == [("inserted", 1), ("inserted", 2)]
    assert users("UPDATE users SET id = id") == [("updated", 1), ("updated", 2)]
    assert users("DELETE FROM users") == [("deleted", 1), ("deleted", 2)]
    assert users("TRUNCATE users") == [("truncated",)]


def test_an_integer_column_that_holds_fractions_by_now_is_never_told_of_rounded(users: Heard) -> None:
    users.client.execute("ALTER TABLE users ALTER id TYPE numeric")
    assert users("INSERT INTO users VALUES (1.5)") == []
    assert users("INSERT INTO users VALUES (2.5), (3.5)") == []
    assert set(users.reasons) == {"a row could not be decoded"}
    users.reasons.clear()


def test_rows_that_have_no_key_any_more_ask_to_resync(users: Heard) -> None:
    users.client.execute("ALTER TABLE users DROP CONSTRAINT users_pkey; ALTER TABLE users ALTER id DROP NOT NULL")
    for statement in ("INSERT INTO users VALUES (NULL)", "INSERT INTO users VALUES (NULL), (NULL)"):
        assert users(statement) == []
        assert users.reasons.pop() == "a row could not be decoded"
        assert users.listener.stats().garbage == 0
    users.reasons.clear()


def test_temporary_namesake_is_not_heard(users: Heard) -> None:
    users.client.execute("CREATE TEMP TABLE users (id int, name text, total int)")
    assert users("INSERT INTO users VALUES (1)") == []
    assert users("INSERT INTO public.users VALUES (2)") == [("inserted", 2)]


@pytest.mark.parametrize(
    ("change", "back"),
    [
        ("RENAME COLUMN name TO title", "RENAME COLUMN title TO name"),
        ("DROP COLUMN name", "ADD COLUMN name text"),
        ("RENAME COLUMN total TO amount", "RENAME COLUMN amount TO total"),
        ("ALTER COLUMN total DROP DEFAULT, ALTER COLUMN total TYPE text USING 'many', "
         "ALTER COLUMN total SET DEFAULT 'many'",
         "ALTER COLUMN total DROP DEFAULT, ALTER COLUMN total TYPE int USING 0, ALTER COLUMN total SET DEFAULT 0"),
    ],
)  # fmt: skip
def test_column_changed_by_hand_makes_no_write_fail_and_asks_to_resync(users: Heard, change: str, back: str) -> None:
    notices: list[str] = []
    users.client.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
    users("INSERT INTO users (id) VALUES (1)")
    users.client.execute(f"ALTER TABLE users {change}".encode())
    for sql in ("INSERT INTO users (id) VALUES (2)", "UPDATE users SET id = id", "DELETE FROM users"):
        heard = users(sql)
        assert {"inserted": "INSERT", "updated": "UPDATE", "deleted": "DELETE"}[heard[0][0]] in sql
    assert any("could not be described" in notice for notice in notices)
    assert set(users.reasons) == {"the trigger function could not build the notification"}
    users.client.execute(f"ALTER TABLE users {back}".encode())
    users.reasons.clear()
    install(users.engine, users.base)
    with Session(users.engine) as session:
        session.execute(text("INSERT INTO users (id, name, total) VALUES (9, 'a', 20)"))
        session.execute(text("UPDATE users SET name = 'b', total = 30"))
        session.commit()
    assert sorted(users()) == [("inserted", 9), ("paid", 9), ("raised", 9), ("renamed", 9), ("updated", 9)]


def test_muted_writes_ask_for_no_resync_where_a_column_was_changed_by_hand(users: Heard) -> None:
    notices: list[str] = []
    users.client.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
    users.client.execute("ALTER TABLE users RENAME COLUMN total TO amount; SET sqlalchemy_watch.muted = 'on'")
    assert users("INSERT INTO users (id) VALUES (1), (2)") == []
    assert users("UPDATE users SET name = 'b'") == []
    assert users("DELETE FROM users WHERE id = 1") == []
    assert notices == users.reasons == []


def test_plan_of_a_small_statement_is_not_used_for_a_large_one(users: Heard) -> None:
    rows = 2_000 if users.level == "row" else 60_000
    users.client.execute("INSERT INTO users SELECT i, 'a' FROM generate_series(1, %s) AS i", [rows])
    for number in range(1, 10):  # long enough for a generic plan
        users.client.execute("UPDATE users SET name = 'b' WHERE id = %s", [number])
    users()
    users.client.execute("SET statement_timeout = '60s'")  # nested loops would take minutes
    assert len(users("UPDATE users SET name = 'c', total = 1")) == 3 * rows


def test_foreign_key_cascade_is_heard(engine: Engine, client: Client, Base: Any) -> None:
    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = ("deleted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = [Watch("updated", old=True, extra_columns=("user_id",)), "deleted"]
        id: Mapped[int] = mapped_column(primary_key=True)
        user_id: Mapped[int] = mapped_column(ForeignKey(User.id, ondelete="CASCADE", onupdate="CASCADE"))

    Base.metadata.create_all(engine)
    client.execute("INSERT INTO users VALUES (1), (2); INSERT INTO orders VALUES (10, 1), (11, 1), (12, 2)")
    heard = Heard(engine, Base, client, User, Order)
    with heard.listener:
        events = heard.events("UPDATE users SET id = 7 WHERE id = 1")
        assert sorted((e.identity, e.values["user_id"], e.old["user_id"]) for e in events) == [
            ((10,), 7, 1),
            ((11,), 7, 1),
        ]
        assert sorted(heard("DELETE FROM users WHERE id = 7")) == [("deleted", 7), ("deleted", 10), ("deleted", 11)]


NAMES = [
    "100%",
    "a\\b",
    "it's",
    "50%% :x",
    "🙂",
    "$watch$",
    'q"q',
    "%s",
    "\\'; --",
    "E'\\\\'",
    "tab\there",
    "two\n\nlines",
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000", "asyncpg"])
def test_conditions_with_hostile_literals_choose_their_rows(
    cluster: Cluster, database: str, Base: Any, driver: str, level: Any
) -> None:
    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = [
            *(Watch("inserted", label=f"is_{i}", when=lambda old, new, name=name: new.name == name, level=level)
              for i, name in enumerate(NAMES)),
            Watch("inserted", label="among", when=lambda old, new: new.name.in_(NAMES), level=level),
            Watch("inserted", label="listed", level=level,
                  when=lambda old, new: new.name == sa.any_(sa.literal(NAMES, pg.ARRAY(sa.Text)))),
            Watch("inserted", label="like", when=lambda old, new: new.name.like("%0\\%%"), level=level),
            Watch("inserted", label="starts", when=lambda old, new: new.name.startswith("50%", autoescape=True),
                  level=level),
            Watch("inserted", label="vip", level=level,
                  when=lambda old, new: new.id.in_(text("SELECT id FROM public.vips WHERE name = '\\:x%'"))),
        ]  # fmt: skip
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    with cluster.connect(database) as client:
        client.execute("CREATE TABLE vips AS SELECT 3 AS id, ':x%' AS name")
    if driver == "asyncpg":
        import asyncio

        from sqlalchemy.ext.asyncio import create_async_engine

        async def create() -> None:
            async_engine = create_async_engine(cluster.url(database, driver))
            async with async_engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            await async_engine.dispose()

        asyncio.run(create())
    else:
        own = create_engine(cluster.url(database, driver))
        Base.metadata.create_all(own)
        own.dispose()
    engine = create_engine(cluster.url(database, "psycopg"))
    with cluster.connect(database) as client:
        heard = Heard(engine, Base, client, User)
        assert {item.state for item in status(engine, Base)} == {"installed"}
        with heard.listener:
            for strings in ("on", "off"):
                # In a session of its own, which parses each condition once.
                with cluster.connect(database) as heard.client:
                    heard.client.execute(f"SET standard_conforming_strings = {strings}; TRUNCATE users")
                    for number, name in enumerate(NAMES):
                        labels = {label for label, _ in heard("INSERT INTO users VALUES (%s, %s)", number, name)}
                        expected = {f"is_{number}", "among", "listed"}
                        expected |= {"like"} if "0%" in name else set()
                        expected |= {"starts"} if name.startswith("50%") else set()
                        expected |= {"vip"} if number == 3 else set()
                        assert labels == expected
        assert heard.reasons == []
    engine.dispose()


@pytest.mark.parametrize("level", LEVELS)
def test_condition_may_have_a_subquery_over_another_table(
    engine: Engine, client: Client, Base: Any, level: Any
) -> None:
    vips = sa.Table("vips", Base.metadata, sa.Column("id", sa.Integer), schema="public")

    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = [
            Watch("inserted", label="vip", when=lambda old, new: sa.exists().where(vips.c.id == new.id), level=level),
            Watch("updated", label="known", when=lambda old, new: new.id.in_(sa.select(vips.c.id)), level=level),
        ]
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    client.execute("INSERT INTO vips VALUES (2)")
    heard = Heard(engine, Base, client, User)
    with heard.listener:
        assert heard("INSERT INTO users VALUES (1), (2), (3)") == [("vip", 2)]
        assert heard("UPDATE users SET id = id") == [("known", 2)]
    assert heard.reasons == []


def partitioned(base: Any, level: Any = None, schema: str | None = None) -> Any:
    class Order(Watched, base):
        __tablename__ = "orders"
        __table_args__ = {"postgresql_partition_by": "LIST (region)", "schema": schema}
        __watch__ = [
            Watch("inserted", level=level),
            Watch("updated", level=level, old=True, extra_columns=("total",)),
            Watch("deleted", level=level),
        ]
        id: Mapped[int] = mapped_column(primary_key=True)
        region: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[int] = mapped_column(server_default="0")

    return Order


def test_partitioned_table_is_heard_whatever_partition_is_written_to(engine: Engine, client: Client, Base: Any) -> None:
    Order = partitioned(Base)
    Base.metadata.create_all(engine)
    client.execute("CREATE SCHEMA elsewhere; CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1)")
    client.execute("CREATE TABLE elsewhere.any_name PARTITION OF orders FOR VALUES IN (2)")
    client.execute("CREATE TABLE orders_3 PARTITION OF orders FOR VALUES IN (3) PARTITION BY LIST (region)")
    client.execute("CREATE TABLE elsewhere.orders PARTITION OF orders_3 FOR VALUES IN (3)")
    heard = Heard(engine, Base, client, Order)
    with heard.listener:
        rows = [("inserted", 1, 1), ("inserted", 2, 2), ("inserted", 3, 3)]
        assert heard("INSERT INTO orders VALUES (1, 1), (2, 2), (3, 3)") == rows
        assert heard("INSERT INTO elsewhere.any_name VALUES (4, 2)") == [("inserted", 4, 2)]
        assert heard("INSERT INTO elsewhere.orders VALUES (5, 3)") == [("inserted", 5, 3)]
        (event,) = heard.events("UPDATE orders_1 SET total = 7")
        assert (event.old["total"], event.changed) == (0, {"total"})
        # Between partitions PostgreSQL fires the row triggers of what it does: a DELETE and an INSERT.
        assert heard("UPDATE orders SET region = 2 WHERE id = 1") == [("deleted", 1, 1), ("inserted", 1, 2)]
        assert len(heard("DELETE FROM orders")) == 5
    assert {item.state for item in status(engine, Base)} == {"installed"}


def test_partitioned_table_at_statement_level_hears_a_row_that_moves_as_updated(
    engine: Engine, client: Client, Base: Any
) -> None:
    Order = partitioned(Base, "statement")
    Base.metadata.create_all(engine)
    client.execute("CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1)")
    client.execute("CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2)")
    heard = Heard(engine, Base, client, Order)
    with heard.listener:
        assert heard("INSERT INTO orders VALUES (1, 1), (2, 2)") == [("inserted", 1, 1), ("inserted", 2, 2)]
        events = heard.events("UPDATE orders SET region = 2, total = 1")
        assert sorted((e.identity, e.old["region"], e.changed) for e in events) == [
            ((1, 2), 1, {"region", "total"}),
            ((2, 2), 2, {"total"}),
        ]
        assert heard("INSERT INTO orders_1 VALUES (3, 1)") == []


def test_tenants_by_search_path_do_not_hear_each_other(cluster: Cluster, database: str, client: Client) -> None:
    heards = {}
    for tenant in ("a", "b"):
        Base = declare_base()
        User = declare_user(Base)
        client.execute(f"CREATE SCHEMA {tenant}")
        engine = create_engine(cluster.url(database, "psycopg"), connect_args={"options": f"-c search_path={tenant}"})
        Base.metadata.create_all(engine)
        heards[tenant] = Heard(engine, Base, client, User)
        assert {item.state for item in status(engine, Base)} == {"installed"}
    with heards["a"].listener, heards["b"].listener:
        client.execute("INSERT INTO a.users VALUES (1); INSERT INTO b.users VALUES (2)")
        client.execute("SET search_path = a; INSERT INTO users VALUES (3); INSERT INTO b.users VALUES (4)")
        assert heards["a"]() == [("inserted", 1), ("inserted", 3)]
        assert heards["b"]() == [("inserted", 2), ("inserted", 4)]
    for heard in heards.values():
        heard.engine.dispose()


def test_applications_in_two_schemas_do_not_hear_or_touch_each_other(engine: Engine, client: Client) -> None:
    bases, heards = {}, {}
    for schema in ("one", "two", "public"):

        class Base(DeclarativeBase):
            metadata = sa.MetaData(schema=None if schema == "public" else schema)

        class User(Watched, Base):
            __tablename__ = "users"
            __watch__ = ("inserted", "updated")
            id: Mapped[int] = mapped_column(primary_key=True)

        client.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        Base.metadata.create_all(engine)
        bases[schema], heards[schema] = Base, Heard(engine, Base, client, User)
    with heards["one"].listener, heards["two"].listener, heards["public"].listener:
        for number, schema in enumerate(heards):
            client.execute(f"INSERT INTO {schema}.users VALUES ({number})")
        assert [heard() for heard in heards.values()] == [[("inserted", 0)], [("inserted", 1)], [("inserted", 2)]]
    bases["one"].metadata.drop_all(engine)
    install(engine, bases["public"], remove_orphaned=True)
    for schema in ("two", "public"):
        assert {item.state for item in status(engine, bases[schema])} == {"installed"}
        assert len(status(engine, bases[schema])) == 2


SYSTEM_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid", "oid"}

_names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from("'\"\\%$:.{}() \n"),
    min_size=1,
    max_size=20,
) | st.sampled_from(
    [
        "$watch$", "$$", "watch_new", "watch_old", "watch_rows", "watch_seen", "watch_piece", "watch_room", "r", "o",
        "w", "p", "j", "piece", "new", "old", "NEW", "select", "x" * 63, "🙂" * 15, "ä" * 31, "'; DROP TABLE x; --",
        "a\nb",
        "%s", "a\n\nb", "%%", "%(a)s", ":name", "::int", "{0}", "/*", "--", "pg_catalog", "id", "tg_op",
        "watch_longest", "k0",
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def names_database(cluster: Cluster) -> Iterator[str]:
    with created_database(cluster, "test_names") as name:
        yield name


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    schema=st.none() | _names.map(lambda name: "s" + name[:60] if name.startswith("pg_") else name),
    table=_names,
    names=st.lists(_names.map(lambda name: name + "_" * (name in SYSTEM_COLUMNS)), min_size=3, max_size=3, unique=True),
    level=st.sampled_from(LEVELS),
    label=st.sampled_from(["label", "größe", "x" * 70, "数据"]),
)
def test_any_name_works(
    cluster: Cluster, names_database: str, schema: str | None, table: str, names: list[str], level: Any, label: str
) -> None:
    class Base(DeclarativeBase):
        pass

    key, value, number = names
    extra = ("value", "number")
    members = {
        "__tablename__": table,
        "__table_args__": {"schema": schema},
        "__watch__": [
            Watch("inserted", extra_columns=extra, level=level),
            Watch("updated", label=label, trigger_columns=("value",), old=True, extra_columns=extra, level=level,
                  when=lambda old, new: new.number > old.number),
            Watch("deleted", when=lambda old, new: old.value == "'\\%", label="gone", level=level),
            "truncated",
        ],
        "key": mapped_column(key, sa.Text, primary_key=True),
        "value": mapped_column(value, sa.Text),
        "number": mapped_column(number, sa.Integer),
    }  # fmt: skip
    Model: Any = type("Model", (Watched, Base), members)
    engine = create_engine(cluster.url(names_database, "psycopg"))
    with cluster.connect(names_database) as client:
        Base.metadata.drop_all(engine)  # of an example that failed
        if schema is not None:
            client.execute(psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(psycopg.sql.Identifier(schema)))
        Base.metadata.create_all(engine)
        assert {item.state for item in status(engine, Base)} == {"installed"}
        heard = Heard(engine, Base, client, Model)
        with heard.listener, Session(engine) as session:
            rows = [Model(key=f"{table}{i}", value="'\\%", number=i) for i in range(60)]
            session.add_all(rows)
            session.commit()
            events = heard.events()
            assert sorted(e.identity for e in events) == sorted((row.key,) for row in rows)
            session.execute(sa.update(Model).values(value="", number=Model.number + 1))
            session.commit()
            events = heard.events()
            assert {(e.label, e.changed, e.old["value"]) for e in events} == {(label, frozenset(extra), "'\\%")}
            assert len(events) == 60
            session.execute(sa.update(Model).values(value="'\\%"))
            session.execute(sa.delete(Model).where(Model.number < 31))
            session.commit()
            assert [e.label for e in heard.events()] == ["gone"] * 30
            session.execute(sa.text("SELECT 1"))
        assert heard.reasons == []
        assert heard.listener.stats().garbage == heard.listener.stats().ignored == 0
        Base.metadata.drop_all(engine)
        left = client.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch%'").fetchone()
        assert left == (0,)
    engine.dispose()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["UNLOGGED", ""])
def test_unlogged_tables_and_generated_columns_are_heard(
    engine: Engine, client: Client, Base: Any, level: Any, kind: str
) -> None:
    class User(Watched, Base):
        __tablename__ = "users"
        __table_args__ = {"prefixes": [kind] if kind else []}
        __watch__ = [
            Watch("inserted", extra_columns=("double",), level=level),
            Watch("updated", label="doubled", trigger_columns=("double",), old=True, level=level),
            Watch("deleted", level=level),
        ]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        number: Mapped[int]
        double: Mapped[int] = mapped_column(sa.Computed("number * 2", persisted=True))

    Base.metadata.create_all(engine)
    heard = Heard(engine, Base, client, User)
    with heard.listener:
        (event,) = heard.events("INSERT INTO users VALUES (1, 4)")
        assert event.values["double"] == 8
        (event,) = heard.events("UPDATE users SET number = 5")
        assert event.old["double"] == 8
        loop = "DELETE FROM users; INSERT INTO users VALUES (1, 1)"
        expected = [("deleted", 1), ("inserted", 1)] * 100
        assert heard(f"DO 'BEGIN FOR i IN 1..100 LOOP {loop}; END LOOP; END'") == expected


def test_inherited_tables_are_heard_through_their_parent(engine: Engine, client: Client, Base: Any) -> None:
    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = ["inserted", Watch("updated", old=True, extra_columns=("name",)), "deleted"]
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None]

    Base.metadata.create_all(engine)
    client.execute("CREATE TABLE admins (level int) INHERITS (users); INSERT INTO admins VALUES (1, 'a')")
    heard = Heard(engine, Base, client, User)
    with heard.listener:
        (event,) = heard.events("UPDATE users SET name = 'b'")
        assert event.old["name"] == "a"
        assert heard("UPDATE admins SET name = 'c'") == []  # PostgreSQL fires no trigger of the parent
        assert heard("DELETE FROM users") == [("deleted", 1)]


@pytest.mark.parametrize("level", LEVELS)
def test_key_that_the_database_lets_be_null_is_heard(engine: Engine, client: Client, level: Any) -> None:
    client.execute("CREATE TABLE entries (a int, b int, note text)")  # as a legacy table that is mapped by hand
    metadata = sa.MetaData()

    class Base(DeclarativeBase):
        pass

    class Entry(Watched, Base):
        __table__ = sa.Table(
            "entries", metadata, sa.Column("a", sa.Integer), sa.Column("b", sa.Integer), sa.Column("note", sa.Text)
        )
        __mapper_args__ = {"primary_key": [__table__.c.a, __table__.c.b]}
        __watch__ = [Watch("inserted", level=level), Watch("updated", level=level, old=True, extra_columns=("note",))]

    install(engine, metadata)
    heard = Heard(engine, metadata, client, Entry)
    with heard.listener:
        assert heard("INSERT INTO entries VALUES (1, NULL)") == [("inserted", 1, None)]
        assert heard("UPDATE entries SET note = 'x'") == [("updated", 1, None)]
        many = heard("INSERT INTO entries SELECT i, NULL FROM generate_series(1, 100) AS i")
        assert len(many) == 100


@pytest.fixture
def Counter(engine: Engine, Base: type[DeclarativeBase]) -> Any:
    """Counters, of whose updates the numbers before and after are told; the table exists."""

    class Counter(Watched, Base):
        __tablename__ = "counters"
        __watch__ = [Watch("updated", old=True, extra_columns=("number",))]
        id: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[int]

    Base.metadata.create_all(engine)
    return Counter


def test_row_changed_twice_by_one_statement_is_heard_in_order(engine: Engine, client: Client, Counter: Any) -> None:
    client.execute(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN "
        "UPDATE counters SET number = number + 1 WHERE number < 3; RETURN NULL; END'"
    )
    client.execute("CREATE TRIGGER a_again AFTER UPDATE ON counters FOR EACH STATEMENT WHEN (pg_trigger_depth() < 3) "
                   "EXECUTE FUNCTION again()")  # fmt: skip
    client.execute("INSERT INTO counters VALUES (1, 0)")
    heard = Heard(engine, Counter, client, Counter)
    with heard.listener:
        events = heard.events("UPDATE counters SET number = 1")
        assert sorted((e.old["number"], e.values["number"]) for e in events) == [(0, 1), (1, 2), (2, 3)]


def test_concurrent_writers_are_heard_in_commit_order(
    engine: Engine, cluster: Cluster, database: str, Counter: Any
) -> None:
    def add() -> None:
        with cluster.connect(database) as connection:
            for _ in range(50):
                connection.execute("UPDATE counters SET number = number + 1")

    with cluster.connect(database) as client:
        client.execute("INSERT INTO counters VALUES (1, 0)")
        heard = Heard(engine, Counter, client, Counter)
        with heard.listener:
            threads = [threading.Thread(target=add) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            events: Sequence[Any] = heard.events()
    assert [(e.old["number"], e.values["number"]) for e in events] == [(i, i + 1) for i in range(200)]


def test_table_declared_without_a_schema_hears_its_own_schema_alone(engine: Engine, client: Client) -> None:
    metadata = sa.MetaData()
    users = sa.Table("users", metadata, sa.Column("id", sa.Integer, primary_key=True))
    signals = watch(users, "inserted")
    metadata.create_all(engine)
    client.execute("CREATE SCHEMA other; SET search_path = other")
    other = create_engine(engine.url, connect_args={"options": "-c search_path=other"})
    metadata.create_all(other)
    other.dispose()
    heard = Heard(engine, metadata, client, SimpleNamespace(watch=signals))
    with heard.listener:
        assert heard("INSERT INTO other.users VALUES (1); INSERT INTO public.users VALUES (2)") == [("inserted", 2)]
        assert heard.listener.stats().ignored == 1


def test_temp_file_limit_bounds_bulk_writes_at_statement_level_alone(
    engine: Engine, client: Client, Base: type[DeclarativeBase]
) -> None:
    # README, Limits: the server itself keeps the rows for the trigger.
    declare_user(Base, Watch("inserted", level="row"))
    declare_order(Base)
    Base.metadata.create_all(engine)
    client.execute("SET temp_file_limit = '1MB'")
    client.execute("SET work_mem = '64kB'")
    client.execute("INSERT INTO users SELECT generate_series(1, 300000)")
    client.execute("INSERT INTO orders SELECT generate_series(1, 1000)")
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="temp_file_limit"):
        client.execute("INSERT INTO orders SELECT generate_series(1001, 301000)")


def test_version_of_the_server_is_the_one_asked_for(client: Client) -> None:
    assert client.info.server_version // 10_000 == VERSION


@pytest.mark.parametrize("level", LEVELS)
def test_sessions_go_on_after_a_column_got_another_type(
    engine: Engine, cluster: Cluster, database: str, client: Client, level: Any
) -> None:
    def declare(kind: Any) -> Any:
        class Base(DeclarativeBase):
            pass

        class User(Watched, Base):
            __tablename__ = "users"
            __watch__ = [
                Watch("inserted", level=level),
                Watch("updated", level=level, old=True, extra_columns=("number",)),
            ]
            id: Mapped[int] = mapped_column(kind, primary_key=True, autoincrement=False)
            number: Mapped[int] = mapped_column(kind)

        return User

    before, after = declare(sa.Integer), declare(sa.BigInteger)
    before.metadata.create_all(engine)
    heard = Heard(engine, after, client, after)
    with heard.listener:
        assert heard("INSERT INTO users VALUES (1, 1)") == [("inserted", 1)]
        assert heard("UPDATE users SET number = 2") == [("updated", 1)]
        with cluster.connect(database) as migration:
            migration.execute("ALTER TABLE users ALTER id TYPE bigint, ALTER number TYPE bigint")
        install(engine, after)
        assert heard("INSERT INTO users VALUES (%s, 1)", 2**40) == [("inserted", 2**40)]
        assert heard("UPDATE users SET number = 2 WHERE id > 1") == [("updated", 2**40)]
    assert heard.reasons == []
