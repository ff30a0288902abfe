"""Durable delivery: the same events as by NOTIFY, and none missed while nobody listens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from models import declare_order
from postgres import needs_logical_messages
from sqlalchemy import Engine, MetaData, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from support import insert, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched, context, muted

from ..conftest import MakeListener
from ..insides import dispatcher_of, gate_of

pytestmark = [pytest.mark.server, needs_logical_messages]


def shown(event: Any) -> tuple[Any, ...]:
    """The parts of an event that are the same by either route."""
    return (
        event.model, event.operation, event.label, event.identity, dict(event.values),
        None if event.old is None else dict(event.old), event.changed, event.txid, dict(event.context),
    )  # fmt: skip


class BothRoutes:
    """The same changes heard by a plain listener and by a durable one, one after the other."""

    def __init__(self, engine: Engine, base: type[DeclarativeBase], group: str) -> None:
        self.engine, self.base, self.group = engine, base, group

    def hear(self, model: Any, write: Callable[[], None]) -> tuple[list[Any], list[Any]]:
        """The events by NOTIFY, and those from the slot."""
        notified, durable = Recorder(), Recorder()
        with Listener(self.engine, self.base, durable=self.group):
            pass  # makes the slot
        model.watch.connect(notified)
        with Listener(self.engine, self.base) as listener:
            write()
            listener.catch_up()
        model.watch.disconnect(notified)
        model.watch.connect(durable)
        with Listener(self.engine, self.base, durable=self.group) as listener:
            listener.catch_up()
        return notified.events, durable.events


@pytest.fixture
def both_routes(engine: Engine, Base: type[DeclarativeBase], group: str) -> BothRoutes:
    return BothRoutes(engine, Base, group)


def test_all_operations_conditions_old_values_mute_and_context_are_the_same_by_both_routes(
    engine: Engine, Base: type[DeclarativeBase], client: psycopg.Connection[Any], both_routes: BothRoutes
) -> None:
    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = (
            "inserted",
            Watch("updated", extra_columns=("name", "score"), old=True),
            Watch("updated", label="got_rich", when=lambda old, new: new.score > 100),
            Watch("updated", label="renamed", trigger_columns=("name",)),
            Watch("deleted", extra_columns=("name",)),
            "truncated",
        )
        __watch_delivery__ = "both"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        score: Mapped[int] = mapped_column(server_default="0")

    Base.metadata.create_all(engine)

    def write() -> None:
        client.execute("INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 120) i")
        with Session(engine) as session, session.begin():
            with muted(session):
                session.execute(text("INSERT INTO users VALUES (999, 'nobody')"))
            with context(session, request_id="r-1"):
                session.execute(text("UPDATE users SET name = 'Ada', score = 101 WHERE id <= 3"))
        client.execute("UPDATE users SET score = score + 1 WHERE id > 100")
        with client.transaction(force_rollback=True):
            client.execute("INSERT INTO users VALUES (1000, 'rolled back')")
        client.execute("DELETE FROM users WHERE id = 7")
        client.execute("TRUNCATE users")

    notified, durable = both_routes.hear(User, write)
    assert [shown(event) for event in durable] == [shown(event) for event in notified]
    labels = [event.label for event in durable]
    assert {label: labels.count(label) for label in labels} == {
        "inserted": 120, "updated": 24, "got_rich": 3, "renamed": 3, "deleted": 1, "truncated": 1,
    }  # fmt: skip
    assert {event.context.get("request_id") for event in durable if event.label == "got_rich"} == {"r-1"}
    assert all(event.lsn is None and event.position is None for event in notified)


@pytest.mark.parametrize("level", ["row", None])
def test_rows_of_partitioned_tables_are_heard_by_both_routes(
    engine: Engine, Base: type[DeclarativeBase], client: psycopg.Connection[Any], both_routes: BothRoutes, level: Any
) -> None:
    class Visit(Watched, Base):
        __tablename__ = "visits"
        __table_args__ = {"postgresql_partition_by": "LIST (country)"}
        __watch__ = tuple(Watch(operation, level=level) for operation in ("inserted", "updated", "deleted"))
        __watch_delivery__ = "both"
        id: Mapped[int] = mapped_column(primary_key=True)
        country: Mapped[str] = mapped_column(primary_key=True)
        pages: Mapped[int] = mapped_column(server_default="0")

    Base.metadata.create_all(engine)
    client.execute("CREATE TABLE visits_at PARTITION OF visits FOR VALUES IN ('at')")
    client.execute("CREATE TABLE visits_de PARTITION OF visits FOR VALUES IN ('de')")

    def write() -> None:
        client.execute("INSERT INTO visits VALUES (1, 'at'), (2, 'de')")
        client.execute("INSERT INTO visits_de VALUES (3, 'de')")
        client.execute("UPDATE visits SET pages = 1")
        client.execute("DELETE FROM visits_at")

    notified, durable = both_routes.hear(Visit, write)
    assert [shown(event) for event in durable] == [shown(event) for event in notified]
    assert [(event.label, event.identity[0]) for event in durable] == [
        ("inserted", 1), ("inserted", 2), ("inserted", 3), ("updated", 1), ("updated", 2), ("updated", 3),
        ("deleted", 1),
    ]  # fmt: skip


def test_a_row_of_100_kilobytes_is_partial_by_notify_and_never_by_the_durable_route(
    engine: Engine, Base: type[DeclarativeBase], client: psycopg.Connection[Any], both_routes: BothRoutes
) -> None:
    class Comment(Watched, Base):
        __tablename__ = "comments"
        __watch__ = (Watch("inserted", extra_columns=("body",), delivery="both"),)
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]

    Base.metadata.create_all(engine)
    notified, durable = both_routes.hear(
        Comment,
        lambda: (
            client.execute("INSERT INTO comments SELECT i, repeat('ü', 50000) FROM generate_series(1, 5) i") and None
        ),
    )
    assert [event.partial for event in notified] == [True] * 5
    assert [(event.identity, event.partial, len(event.values["body"])) for event in durable] == [
        ((i,), False, 50_000) for i in range(1, 6)
    ]


def test_long_rows_of_a_durable_watch_are_never_partial(
    engine: Engine,
    Base: type[DeclarativeBase],
    client: psycopg.Connection[Any],
    durable: MakeListener,
    recorder: Recorder,
) -> None:
    class Comment(Watched, Base):
        __tablename__ = "comments"
        __watch__ = (Watch("updated", extra_columns=("body",), old=True), Watch("inserted", level="row"))
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]

    Base.metadata.create_all(engine)
    Comment.watch.connect(recorder)
    with durable() as listener:
        client.execute("INSERT INTO comments SELECT i, repeat('a', 100000) FROM generate_series(1, 60) i")
        client.execute("UPDATE comments SET body = repeat('b', 100000)")
        listener.catch_up()
    assert [event.identity[0] for event in recorder.events] == [*range(1, 61)] * 2
    assert not any(event.partial for event in recorder.events)
    assert {(event.values["body"][0], len(event.old["body"])) for event in recorder.events[60:]} == {("b", 100_000)}


def test_the_default_of_a_declarative_base_is_inherited_and_a_watch_has_the_last_word(
    engine: Engine, client: psycopg.Connection[Any], group: str, recorder: Recorder
) -> None:
    class Base(DeclarativeBase):
        __watch_delivery__ = "durable"

    Order = declare_order(Base, "inserted", Watch("deleted", delivery="notify"))
    Base.metadata.create_all(engine)
    Order.watch.connect(recorder)
    with Listener(engine, Base, durable=group) as durable, Listener(engine, Base) as plain:
        insert(client, "orders", 1)
        durable.catch_up()
        client.execute("DELETE FROM orders")
        plain.catch_up()
        durable.catch_up()
    assert recorder.heard() == [("inserted", (1,)), ("deleted", (1,))]
    assert [event.lsn is not None for event in recorder.events] == [True, False]


def test_the_default_of_a_metadata_holds_for_its_tables(
    engine: Engine, client: psycopg.Connection[Any], group: str, recorder: Recorder
) -> None:
    class Base(DeclarativeBase):
        metadata = MetaData(info={"sqlalchemy_watch_delivery": "durable"})

    Order = declare_order(Base)
    Base.metadata.create_all(engine)
    Order.watch.connect(recorder)
    with Listener(engine, Base, durable=group) as listener:
        insert(client, "orders", range(1, 3))
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,)), ("inserted", (2,))]


def test_an_unknown_default_is_refused(Base: type[DeclarativeBase]) -> None:
    with pytest.raises(ConfigurationError, match="delivery 'sometimes' is unknown: allowed are"):
        declare_order(Base, delivery="sometimes")


def test_a_listener_whose_targets_watch_nothing_durable_says_so(
    engine: Engine, Base: type[DeclarativeBase], group: str, caplog: pytest.LogCaptureFixture
) -> None:
    declare_order(Base)
    Base.metadata.create_all(engine)
    with Listener(engine, Base, durable=group):
        pass
    assert "nothing durable is watched by the listener's targets: add delivery='durable' to a Watch" in caplog.text


def test_lsn_and_position_identify_events_and_grow(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, recorder: Recorder
) -> None:
    Order.watch.connect(recorder)
    with durable() as listener:
        insert(client, "orders", range(1, 4))
        with client.transaction():
            insert(client, "orders", range(4, 6))
            client.execute("UPDATE orders SET note = 'x' WHERE id = 4")
        insert(client, "orders", 6)
        listener.catch_up()
    places = [(event.lsn, event.position) for event in recorder.events]
    assert places == sorted(set(places))
    assert [position for _, position in places] == [0, 1, 2, 0, 1, 2, 0]
    assert len({lsn for lsn, _ in places}) == 3


def test_rows_that_are_rolled_back_are_not_heard(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, recorder: Recorder
) -> None:
    Order.watch.connect(recorder)
    with durable() as listener:
        with client.transaction(force_rollback=True):
            insert(client, "orders", range(1, 4))
        with client.transaction():
            insert(client, "orders", 4)
            with client.transaction(force_rollback=True):
                insert(client, "orders", 5)
        listener.catch_up()
    assert recorder.heard() == [("inserted", (4,))]


def test_catch_up_returns_when_the_server_has_noted_the_acknowledgement(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, recorder: Recorder, group: str
) -> None:
    Order.watch.connect(recorder)
    with durable() as listener:
        for i in range(20):
            insert(client, "orders", i)
            listener.catch_up()
            row = client.execute(
                "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = %s", [group]
            ).fetchone()
            assert row is not None
            assert row[0] > recorder.events[-1].lsn
            assert len(recorder.events) == i + 1


def test_a_consumer_that_was_down_hears_everything_in_commit_order(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, recorder: Recorder
) -> None:
    with durable():
        pass
    Order.watch.connect(recorder)
    first_begins_and_last_commits = client
    with psycopg.connect(client.info.dsn) as other:
        with first_begins_and_last_commits.transaction():
            insert(client, "orders", 1)
            insert(other, "orders", 2)
            other.commit()
        client.execute("DELETE FROM orders WHERE id = 2")
    with durable() as listener:
        listener.catch_up()
    assert recorder.heard() == [("inserted", (2,)), ("inserted", (1,)), ("deleted", (2,))]


def test_two_groups_are_independent(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    heard: dict[str, list[Any]] = {"mailer": [], "indexer": []}
    release = threading.Event()

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        name = threading.current_thread().name
        heard.setdefault(name, []).append(event.identity[0])
        if name == "mailer":
            release.wait(10)

    mailer, indexer = durable(durable=f"{group}_mailer"), durable(durable=f"{group}_indexer")
    for name, listener in (("mailer", mailer), ("indexer", indexer)):
        listener.start()
        dispatcher_of(listener).thread.name = name
    insert(client, "orders", range(1, 4))
    indexer.catch_up()
    assert heard["indexer"] == [1, 2, 3]
    assert len(heard["mailer"]) <= 1
    indexer.stop()
    insert(client, "orders", 4)
    release.set()
    mailer.catch_up()
    assert heard == {"mailer": [1, 2, 3, 4], "indexer": [1, 2, 3]}


def test_a_transaction_in_the_middle_of_which_the_listener_stops_is_delivered_again_in_full(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, recorder: Recorder
) -> None:
    heard: list[int] = []
    reached = threading.Event()
    go_on = threading.Event()

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        heard.append(event.identity[0])
        if event.identity == (15,):
            reached.set()
            go_on.wait(10)

    listener = durable()
    listener.start()
    insert(client, "orders", range(1, 4))
    with client.transaction():
        insert(client, "orders", range(11, 21))
        insert(client, "orders", range(21, 23))
    assert reached.wait(10)
    stopping = threading.Thread(target=listener.stop)
    stopping.start()
    wait_until(client, lambda: gate_of(listener).is_stopped)
    go_on.set()
    stopping.join()
    assert heard == [1, 2, 3, 11, 12, 13, 14, 15]
    Order.watch.connect(recorder)
    with durable() as again:
        again.catch_up()
    assert [event.identity[0] for event in recorder.events] == list(range(11, 23))
    assert [event.position for event in recorder.events] == list(range(12))


def test_coroutine_receivers_have_returned_before_their_transaction_is_acknowledged(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str, recorder: Recorder
) -> None:
    async def main() -> list[int]:
        begun, release = asyncio.Event(), asyncio.Event()
        done: list[int] = []

        @Order.watch.inserted.connect
        async def send_receipt(sender: Any, event: Any) -> None:
            begun.set()
            await release.wait()
            done.append(event.identity[0])

        listener = durable()
        async with listener:
            await asyncio.to_thread(insert, client, "orders", range(1, 3))
            await begun.wait()
            row = client.execute(
                "SELECT confirmed_flush_lsn - '0/0', pg_current_wal_lsn() - '0/0' FROM pg_replication_slots "
                "WHERE slot_name = %s", [group],
            ).fetchone()  # fmt: skip
            assert row is not None
            assert row[0] < row[1]
        assert done == []  # stopped while it waited
        async with durable() as again:
            release.set()
            await again.catch_up_async()
        Order.watch.inserted.disconnect(send_receipt)
        return done

    assert asyncio.run(main())[-2:] == [1, 2]
    Order.watch.connect(recorder)
    with durable() as listener:
        listener.catch_up()
    assert recorder.events == []


def test_writes_to_unwatched_tables_do_not_make_an_idle_slot_hold_the_log(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    client.execute("CREATE TABLE noise (text text)")
    with durable(heartbeat_interval=0.2) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        client.execute("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
        row = client.execute("SELECT pg_current_wal_lsn()").fetchone()
        assert row is not None
        wait_until(
            client, "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s", row[0],
            group,
        )  # fmt: skip


def test_a_group_name_that_no_slot_can_have_is_refused(engine: Engine, Base: type[DeclarativeBase]) -> None:
    with pytest.raises(ConfigurationError, match="1 to 63 lower-case letters, digits and underscores"):
        Listener(engine, Base, durable="Mailer-1")
