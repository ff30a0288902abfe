"""Features of EctoWatch (Elixir), and those that are here alone: a test for each, named after the fact."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import VERSION
from sqlalchemy import Column, Engine, ForeignKey, Integer, MetaData, Table, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from support import end_listeners, resync_reasons, wait_until

from sqlalchemy_watch import (
    ConfigurationError,
    Listener,
    Watch,
    Watched,
    context,
    install,
    muted,
    status,
    uninstall,
    watch,
)
from sqlalchemy_watch.declaring.naming import MAX_BYTES

Client = psycopg.Connection[Any]


class World:
    """Models, their tables, a receiver and a running listener."""

    def __init__(self, engine: Engine, client: Client, base: type[DeclarativeBase], recorder: Recorder) -> None:
        self.engine, self.client, self.base, self.recorder = engine, client, base, recorder

    def user(self, *specs: Any) -> Any:
        class User(Watched, self.base):  # type: ignore[name-defined,misc]
            __tablename__ = "users"
            __watch__ = specs
            id: Mapped[int] = mapped_column(primary_key=True)
            role_id: Mapped[int | None]
            email: Mapped[str] = mapped_column("e_mail", server_default="")

        self.base.metadata.create_all(self.engine)
        return User

    @contextmanager
    def listening(self, *signals: Any) -> Iterator[Listener]:
        for signal in signals:
            signal.connect(self.recorder)
        with Listener(self.engine, self.base) as listener:
            yield listener
            listener.catch_up()

    def do(self, *statements: str) -> None:
        for statement in statements:
            self.client.execute(statement)

    @property
    def heard(self) -> list[tuple[Any, ...]]:
        return self.recorder.heard()


@pytest.fixture
def world(engine: Engine, client: Client, Base: type[DeclarativeBase], recorder: Recorder) -> World:
    return World(engine, client, Base, recorder)


# Features of EctoWatch


def test_inserted_updated_and_deleted_rows_are_heard(world: World) -> None:
    User = world.user("inserted", "updated", "deleted")
    with world.listening(User.watch):
        world.do("INSERT INTO users VALUES (1)", "UPDATE users SET role_id = 2", "DELETE FROM users")
    assert world.heard == [("inserted", (1,)), ("updated", (1,)), ("deleted", (1,))]


def test_changes_of_any_client_are_heard(world: World, cluster: Any, database: str) -> None:
    User = world.user("inserted")
    with world.listening(User.watch):
        with Session(world.engine) as session:
            session.add(User(id=1))
            session.commit()
        world.do("INSERT INTO users VALUES (2)")
        cluster.psql(database, "-c", "INSERT INTO users VALUES (3)")
    assert world.heard == [("inserted", (1,)), ("inserted", (2,)), ("inserted", (3,))]


def test_the_key_alone_is_carried_by_default(world: World) -> None:
    User = world.user("inserted")
    with world.listening(User.watch):
        world.do("INSERT INTO users VALUES (1, 2, 'a@b')")
    assert dict(world.recorder.events[0].values) == {"id": 1}


def test_extra_columns_are_carried_by_attribute_name(world: World) -> None:
    User = world.user(Watch("inserted", extra_columns=("role_id", "email")))
    with world.listening(User.watch):
        world.do("INSERT INTO users VALUES (1, 2, 'a@b')")
    assert dict(world.recorder.events[0].values) == {"id": 1, "role_id": 2, "email": "a@b"}


def test_a_label_names_a_signal(world: World) -> None:
    User = world.user(Watch("updated", label="touched"))
    assert User.watch.touched.name == "User.touched"
    with world.listening(User.watch.touched):
        world.do("INSERT INTO users VALUES (1)", "UPDATE users SET role_id = 2")
    assert world.heard == [("touched", (1,))]


def test_trigger_columns_limit_updates_to_real_changes(world: World) -> None:
    User = world.user(Watch("updated", label="email_changed", trigger_columns=("email",)))
    with world.listening(User.watch):
        world.do(
            "INSERT INTO users VALUES (1, 1, 'a'), (2, 1, 'b')",
            "UPDATE users SET role_id = 5",
            "UPDATE users SET e_mail = 'a'",
        )
    assert world.heard == [("email_changed", (2,))]


def test_a_model_has_several_watches(world: World) -> None:
    User = world.user("updated", Watch("updated", label="role_changed", trigger_columns=("role_id",)))
    with world.listening(User.watch):
        world.do("INSERT INTO users VALUES (1, 1)", "UPDATE users SET e_mail = 'x'", "UPDATE users SET role_id = 2")
    assert sorted(world.heard) == [("role_changed", (1,)), ("updated", (1,)), ("updated", (1,))]


def test_one_row_is_subscribed_to_by_its_key(world: World) -> None:
    User = world.user("updated")
    with world.listening(User.watch.updated.filter_by(id=2)):
        world.do("INSERT INTO users VALUES (1), (2), (3)", "UPDATE users SET role_id = 9")
    assert world.heard == [("updated", (2,))]


def test_rows_are_subscribed_to_by_an_association_column(world: World) -> None:
    User = world.user(Watch("inserted", extra_columns=("role_id",)))
    with world.listening(User.watch.inserted.filter_by(role_id=7)):
        world.do("INSERT INTO users VALUES (1, 7), (2, 8), (3, 7)")
    assert world.heard == [("inserted", (1,)), ("inserted", (3,))]


def test_subscribing_by_a_column_that_is_not_carried_raises(world: World) -> None:
    User = world.user("updated")
    with pytest.raises(ConfigurationError, match="'role_id'.*isn't carried: add it to extra_columns"):
        User.watch.updated.filter_by(role_id=1)


def test_subscribing_to_inserted_by_key_raises(world: World) -> None:
    User = world.user("inserted")
    with pytest.raises(ConfigurationError, match="isn't known before it is inserted"):
        User.watch.inserted.filter_by(id=1)


def test_unsubscribing_ends_delivery(world: World) -> None:
    User = world.user("inserted")
    with world.listening(User.watch.inserted) as listener:
        world.do("INSERT INTO users VALUES (1)")
        listener.catch_up()
        User.watch.inserted.disconnect(world.recorder)
        world.do("INSERT INTO users VALUES (2)")
    assert world.heard == [("inserted", (1,))]


def test_tables_without_a_model_are_watched(engine: Engine, client: Client, recorder: Recorder) -> None:
    metadata = MetaData()
    logs = Table("logs", metadata, Column("number", Integer, primary_key=True), Column("line", Text))
    signals = watch(logs, Watch("inserted", extra_columns=("line",)))
    signals.inserted.connect(recorder)
    metadata.create_all(engine)
    with Listener(engine, logs) as listener:
        client.execute("INSERT INTO logs VALUES (5, 'x')")
        listener.catch_up()
    assert recorder.senders == [logs]
    assert dict(recorder.events[0].values) == {"number": 5, "line": "x"}


def test_tables_in_other_schemas_are_watched(world: World) -> None:
    class Account(Watched, world.base):  # type: ignore[name-defined,misc]
        __tablename__ = "accounts"
        __table_args__ = {"schema": "billing"}
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    world.do("CREATE SCHEMA billing")
    world.base.metadata.create_all(world.engine)
    with world.listening(Account.watch):
        world.do("INSERT INTO billing.accounts VALUES (1)")
    assert world.heard == [("inserted", (1,))]
    assert Account.watch.inserted.details.channel == "watch_billing_accounts_inserted"


def test_keys_need_not_be_named_id(world: World) -> None:
    class Country(Watched, world.base):  # type: ignore[name-defined,misc]
        __tablename__ = "countries"
        __watch__ = ("inserted",)
        code: Mapped[str] = mapped_column("iso code", primary_key=True)

    world.base.metadata.create_all(world.engine)
    with world.listening(Country.watch):
        world.do("INSERT INTO countries VALUES ('IS')")
    assert world.heard == [("inserted", ("IS",))]
    assert dict(world.recorder.events[0].values) == {"code": "IS"}


def test_names_too_long_are_cut_and_stay_apart(world: World) -> None:
    name = "a_table_whose_name_is_as_long_as_a_name_may_be_in_postgresql_xx"
    assert len(name) == MAX_BYTES

    class Long(Watched, world.base):  # type: ignore[name-defined,misc]
        __tablename__ = name
        __watch__ = ("inserted", "updated", Watch("deleted", label="ü" * 60))
        id: Mapped[int] = mapped_column(primary_key=True)

    details = [signal.details for signal in Long.watch]
    assert all(len(d.function_name.encode()) <= MAX_BYTES and len(d.channel.encode()) <= MAX_BYTES for d in details)
    assert len({d.function_name for d in details}) == 3
    world.base.metadata.create_all(world.engine)
    with world.listening(Long.watch):
        world.do(f"INSERT INTO {name} VALUES (1)", f"UPDATE {name} SET id = 1", f"DELETE FROM {name}")
    assert world.heard == [("inserted", (1,)), ("updated", (1,)), ("ü" * 60, (1,))]


@pytest.mark.server
def test_left_over_triggers_are_reported_removed_on_request_and_foreign_ones_left_alone(world: World) -> None:
    world.user("inserted", "updated")
    world.do(
        "CREATE FUNCTION watch_by_hand() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER watch_by_hand AFTER INSERT ON users EXECUTE FUNCTION watch_by_hand()",
    )
    later = MetaData()
    watch(Table("users", later, Column("id", Integer, primary_key=True)), "inserted")
    states = {item.label: item.state for item in status(world.engine, later)}
    assert states == {"inserted": "installed", "updated": "orphaned"}
    removed = install(world.engine, later, remove_orphaned=True)
    assert [item.trigger_name for item in removed] == ["watch_users_updated"]
    uninstall(world.engine, later)
    left = world.client.execute("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal").fetchall()
    assert left == [("watch_by_hand",)]


@pytest.mark.server
def test_partitions_are_not_reported_as_left_overs(world: World) -> None:
    class Metric(Watched, world.base):  # type: ignore[name-defined,misc]
        __tablename__ = "metrics"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    world.base.metadata.create_all(world.engine)
    world.do("CREATE TABLE metrics_1 PARTITION OF metrics FOR VALUES FROM (0) TO (10)")
    assert [item.state for item in status(world.engine, world.base)] == ["installed"]
    with world.listening(Metric.watch):
        world.do("INSERT INTO metrics VALUES (1)", "INSERT INTO metrics_1 VALUES (2)")
    assert world.heard == [("inserted", (1,)), ("inserted", (2,))]


def test_duplicate_labels_and_duplicate_watches_are_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"User: two watches are named 'updated': give one of them another"):
        world.user("updated", Watch("updated", extra_columns=("email",)))
    with pytest.raises(ConfigurationError, match="two watches are named 'a'"):
        world.user(Watch("updated", label="a"), Watch("inserted", label="a"))


def test_every_option_is_validated_with_a_clear_message() -> None:
    with pytest.raises(ConfigurationError, match="unknown operation 'update': allowed are 'inserted', 'updated'"):
        Watch("update")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="needs a label.*add label="):
        Watch("updated", trigger_columns=("email",))
    with pytest.raises(ConfigurationError, match=r"write extra_columns=\('email',\)"):
        Watch("updated", extra_columns="email")
    with pytest.raises(ConfigurationError, match="trigger_columns are for 'updated' only"):
        Watch("inserted", label="x", trigger_columns=("email",))


def test_details_tell_what_stands_in_the_database(world: World) -> None:
    User = world.user(Watch("updated", extra_columns=("email",)))
    details = User.watch.updated.details
    assert (details.function_name, details.trigger_name) == ("watch_users_updated", "watch_users_updated")
    assert (details.channel, details.table, details.columns) == ("watch_users_updated", "users", ("id", "e_mail"))
    found = world.client.execute(
        "SELECT tgname, proname FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid WHERE NOT tgisinternal"
    ).fetchall()
    assert found == [(details.trigger_name, details.function_name)]


@pytest.mark.parametrize("name", ["sqlalchemy_watch.watch", "sqlalchemy_watch.watch.users.updated"])
def test_debug_logging_shows_all_watches_or_one_without_contents(
    world: World, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    User = world.user("inserted", Watch("updated", extra_columns=("email",)))
    with caplog.at_level(logging.DEBUG, logger=name), world.listening(User.watch):
        world.do("INSERT INTO users VALUES (1), (2)", "UPDATE users SET e_mail = 'secret'")
    lines = [(r.name.rpartition(".")[2], r.getMessage().partition(" by")[0]) for r in caplog.records if "rows" in r.msg]
    both = [("inserted", "2 rows inserted"), ("updated", "2 rows updated")]
    assert lines == (both if name == "sqlalchemy_watch.watch" else both[1:])
    assert "secret" not in caplog.text


def test_an_empty_list_of_watches_is_allowed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    User = world.user()
    assert list(User.watch) == []
    with world.listening():
        pass
    assert "nothing is watched by the listener's targets" in caplog.text


def test_a_transaction_can_be_muted(world: World) -> None:
    User = world.user("inserted")
    with world.listening(User.watch), Session(world.engine) as session:
        with muted(session):
            session.add(User(id=1))
        session.add(User(id=2))
        session.commit()
    assert world.heard == [("inserted", (2,))]


@pytest.mark.server
def test_the_oldest_server_at_hand_is_served(world: World) -> None:
    User = world.user("inserted")
    assert world.client.info.server_version // 10_000 == VERSION >= 13
    with world.listening(User.watch):
        world.do("INSERT INTO users VALUES (1)")
    assert world.heard == [("inserted", (1,))]


def test_catch_up_saves_tests_from_sleeping(world: World) -> None:
    User = world.user("inserted")
    with Listener(world.engine, world.base) as listener, User.watch.inserted.connected_to(world.recorder):
        world.do("INSERT INTO users SELECT * FROM generate_series(1, 1000)")
        listener.catch_up()
        assert len(world.heard) == 1000


# Features that are here alone


def test_composite_keys_identify_rows_in_the_mappers_order(world: World) -> None:
    class Seat(Watched, world.base):  # type: ignore[name-defined,misc]
        __tablename__ = "seats"
        __watch__ = ("updated",)
        row: Mapped[str] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)
        taken: Mapped[bool]

    world.base.metadata.create_all(world.engine)
    world.do("INSERT INTO seats VALUES ('A', 1, false), ('B', 2, false)")
    with world.listening(Seat.watch):
        world.do("UPDATE seats SET taken = true WHERE row = 'B'")
    assert world.heard == [("updated", ("B", 2))]
    with Session(world.engine) as session:
        assert world.recorder.events[0].load(session).taken is True


def test_a_bulk_statement_is_few_notifications(world: World) -> None:
    User = world.user("updated")
    world.do("INSERT INTO users SELECT * FROM generate_series(1, 10000)")
    with world.listening(User.watch) as listener:
        world.do("UPDATE users SET role_id = 1")
        listener.catch_up()
        assert listener.stats().notifications < 30
    assert len(world.heard) == 10_000


def test_payloads_over_the_limit_come_without_extra_columns(world: World) -> None:
    User = world.user(Watch("inserted", extra_columns=("email",)))
    with world.listening(User.watch):
        world.do("INSERT INTO users VALUES (1, 1, repeat('x', 100000)), (2, 1, 'short')")
    by_key = {event.identity: event for event in world.recorder.events}
    assert by_key[(1,)].partial
    assert dict(by_key[(1,)].values) == {"id": 1}
    assert not by_key[(2,)].partial


def test_a_gap_is_told_by_resync(world: World) -> None:
    User = world.user("inserted")
    with world.listening(User.watch) as listener:
        reasons = resync_reasons(listener)
        end_listeners(world.client)
        listener.catch_up()
    assert reasons == ["the connection was lost and is back"]


def test_conditions_choose_rows(world: World) -> None:
    User = world.user(Watch("updated", label="promoted", when=lambda old, new: new.role_id > old.role_id))
    with world.listening(User.watch):
        world.do(
            "INSERT INTO users VALUES (1, 5), (2, 5)", "UPDATE users SET role_id = CASE id WHEN 1 THEN 6 ELSE 4 END"
        )
    assert world.heard == [("promoted", (1,))]


def test_old_values_and_changed_names_travel_along(world: World) -> None:
    User = world.user(Watch("updated", extra_columns=("email", "role_id"), old=True))
    with world.listening(User.watch):
        world.do("INSERT INTO users VALUES (1, 5, 'a')", "UPDATE users SET e_mail = 'b'")
    (event,) = world.recorder.events
    assert dict(event.old) == {"id": 1, "email": "a", "role_id": 5}
    assert event.changed == {"email"}


def test_truncate_is_heard(world: World) -> None:
    User = world.user("truncated")
    with world.listening(User.watch):
        world.do("TRUNCATE users")
    (event,) = world.recorder.events
    assert (event.operation, event.identity, dict(event.values)) == ("truncated", (), {})


def test_values_have_their_python_types(world: World) -> None:
    class Price(Watched, world.base):  # type: ignore[name-defined,misc]
        __tablename__ = "prices"
        __watch__ = (Watch("inserted", extra_columns=("amount",)),)
        id: Mapped[int] = mapped_column(primary_key=True)
        amount: Mapped[Decimal]

    world.base.metadata.create_all(world.engine)
    with world.listening(Price.watch):
        world.do("INSERT INTO prices VALUES (1, 12.50)")
    amount = world.recorder.events[0].values["amount"]
    assert type(amount) is Decimal
    assert str(amount) == "12.50"


def test_the_writers_context_travels_along(world: World) -> None:
    User = world.user("inserted")
    with world.listening(User.watch), Session(world.engine) as session:
        with context(session, request_id="r1"):
            session.add(User(id=1))
        session.add(User(id=2))
        session.commit()
    assert [dict(event.context) for event in world.recorder.events] == [{"request_id": "r1"}, {}]


def test_one_receivers_failure_is_kept_from_the_others(world: World) -> None:
    User = world.user("inserted")
    failures: list[Any] = []

    def fail(sender: Any, event: Any) -> None:
        raise RuntimeError("no")

    def note_failure(listener: Listener, receiver: Any, event: Any, error: BaseException) -> None:
        failures.append((receiver, event.identity, str(error)))

    User.watch.inserted.connect(fail)
    with world.listening(User.watch) as listener:
        listener.receiver_failed.connect(note_failure)
        world.do("INSERT INTO users VALUES (1)", "INSERT INTO users VALUES (2)")
    assert world.heard == [("inserted", (1,)), ("inserted", (2,))]
    assert failures == [(fail, (1,), "no"), (fail, (2,), "no")]


def test_memory_is_bounded_and_what_did_not_fit_is_told(world: World) -> None:
    User = world.user("inserted")
    go_on = threading.Event()

    def wait(sender: Any, event: Any) -> None:
        assert go_on.wait(30)

    User.watch.inserted.connect(wait)
    with Listener(world.engine, world.base, max_queue=10) as listener:
        reasons = resync_reasons(listener)
        world.do("DO $$ BEGIN FOR i IN 1..100 LOOP INSERT INTO users VALUES (i); END LOOP; END $$")
        wait_until(world.client, lambda: listener.stats().notifications == 100)
        assert listener.stats().queue_depth <= 10
        go_on.set()
        listener.catch_up()
        assert listener.stats().dropped >= 89
    assert len(reasons) == 1
    assert "queue was full" in reasons[0]


def test_changes_by_foreign_key_cascade_are_heard(world: World) -> None:
    class Parent(world.base):  # type: ignore[name-defined,misc]
        __tablename__ = "parents"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Child(Watched, world.base):  # type: ignore[name-defined,misc]
        __tablename__ = "children"
        __watch__ = ("deleted",)
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int] = mapped_column(ForeignKey("parents.id", ondelete="CASCADE"))

    world.base.metadata.create_all(world.engine)
    with world.engine.begin() as connection:
        connection.execute(text("INSERT INTO parents VALUES (1)"))
        connection.execute(text("INSERT INTO children VALUES (10, 1), (11, 1)"))
    with world.listening(Child.watch):
        world.do("DELETE FROM parents")
    assert world.heard == [("deleted", (10,)), ("deleted", (11,))]
