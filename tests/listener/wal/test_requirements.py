"""Requirements of a server: errors at start that name the remedy, and slots that are lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from models import declare_base, declare_order
from postgres import VERSION, Cluster, bin_path, needs_logical_messages
from sqlalchemy import Engine, create_engine
from support import resync_reasons, wait_until

from sqlalchemy_watch import Listener, SlotError, UnsupportedServerError, status
from sqlalchemy_watch.listener.wal import slots
from sqlalchemy_watch.listener.wal.protocol import SLOT_LOST

from ..clusters import removed_afterwards
from ..conftest import MakeListener

pytestmark = [pytest.mark.server, needs_logical_messages]


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """A server with room for three slots, whose settings may be changed."""
    with removed_afterwards(Cluster(max_replication_slots=3)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def without_decoding() -> Iterator[Cluster]:
    with removed_afterwards(Cluster(wal_level="replica")) as cluster:
        yield cluster


@contextmanager
def orders_on(cluster: Cluster) -> Iterator[tuple[Any, Engine]]:
    """A model all of whose operations are durable, and an engine for the server, where its table is made anew."""
    Order = declare_order(declare_base(), delivery="durable")
    engine = create_engine(cluster.url(driver="psycopg"))
    Order.metadata.drop_all(engine)
    Order.metadata.create_all(engine)
    yield Order, engine
    engine.dispose()


@pytest.fixture
def own_orders(own: Cluster) -> Iterator[tuple[Any, Engine]]:
    with orders_on(own) as orders:
        yield orders


def test_without_logical_decoding_writes_succeed_start_raises_and_status_says_what_is_wrong(
    without_decoding: Cluster,
) -> None:
    with orders_on(without_decoding) as (Order, engine):
        with without_decoding.connect() as client:
            assert client.execute("INSERT INTO orders VALUES (1) RETURNING id").fetchone() == (1,)
        listener = Listener(engine, Order, durable="mailer")
        with pytest.raises(UnsupportedServerError, match="set wal_level = logical and restart"):
            listener.start()
        assert not listener.running
        (item,) = status(engine, Order)
    assert (item.state, item.problems) == (
        "installed",
        ("wal_level is 'replica', so durable delivery can't work: set wal_level = logical and restart the server",),
    )


def test_status_has_no_problem_to_tell_where_logical_decoding_works(engine: Any, Base: Any, Order: Any) -> None:
    assert [item.problems for item in status(engine, Base)] == [()] * 4


def test_a_role_that_may_not_replicate_is_told_what_to_grant(
    client: psycopg.Connection[Any], cluster: Cluster, database: str, Base: Any, Order: Any, group: str
) -> None:
    role = f"weak_{database}"
    client.execute(f"CREATE ROLE {role} LOGIN")
    client.execute("CREATE PUBLICATION sqlalchemy_watch")
    engine = create_engine(f"postgresql+psycopg://{role}@127.0.0.1:{cluster.port}/{database}")
    with pytest.raises(SlotError, match=f"may not create the slot.*REPLICATION.*slots create {group}"):
        Listener(engine, Base, durable=group).start()
    client.execute("DROP PUBLICATION sqlalchemy_watch")
    with pytest.raises(SlotError, match="may not create the publication.*grant CREATE on the database"):
        Listener(engine, Base, durable=group).start()
    engine.dispose()
    client.execute(f"DROP ROLE {role}")


def test_a_server_without_room_for_a_slot_is_refused_with_the_remedy(
    own: Cluster, own_orders: tuple[Any, Engine]
) -> None:
    Order, engine = own_orders
    with own.connect() as client:
        for i in range(3):
            client.execute("SELECT pg_create_physical_replication_slot(%s)", [f"taken_{i}"])
        with pytest.raises(SlotError, match="no room for the slot 'mailer'.*raise max_replication_slots"):
            Listener(engine, Order, durable="mailer").start()
        client.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def test_a_slot_of_another_database_is_refused(
    cluster: Cluster, client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    with cluster.connect() as elsewhere:
        elsewhere.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [group])
        try:
            with pytest.raises(SlotError, match=f"{group}' is held by database 'postgres'.*choose another name"):
                durable().start()
            found = elsewhere.execute("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", [group])
            assert found.fetchone() == (1,)
        finally:
            elsewhere.execute("SELECT pg_drop_replication_slot(%s)", [group])


@pytest.mark.skipif(
    not any((bin_path(VERSION).parent / "lib").rglob("test_decoding.*")),
    reason="the server comes without test_decoding, the only other output plugin that one may come with",
)
def test_a_slot_of_another_plugin_is_refused(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    client.execute("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", [group])
    with pytest.raises(SlotError, match="is of the plugin 'test_decoding', not pgoutput.*choose another name"):
        durable().start()
    found = client.execute("SELECT plugin FROM pg_replication_slots WHERE slot_name = %s", [group])
    assert found.fetchone() == ("test_decoding",)


def test_a_slot_dropped_by_hand_is_made_anew_with_a_resync(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str, recorder: Any
) -> None:
    Order.watch.connect(recorder)
    with durable() as listener:
        reasons = resync_reasons(listener)
        client.execute("INSERT INTO orders VALUES (1)")
        listener.catch_up()
        client.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", [group]
        )
        wait_until(client, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", group)
        client.execute("SELECT pg_drop_replication_slot(%s)", [group])
        wait_until(client, lambda: reasons)
        client.execute("INSERT INTO orders VALUES (2)")
        listener.catch_up()
    assert len(reasons) == 1
    assert "the slot was dropped: events in between are lost" in reasons[0]
    assert recorder.heard() == [("inserted", (1,)), ("inserted", (2,))]


def lose_slot(client: psycopg.Connection[Any]) -> None:
    """Write so much log that the server gives up what lies behind by more than max_slot_wal_keep_size."""
    for _ in range(5):
        client.execute("SELECT pg_logical_emit_message(true, 'noise', repeat('x', 100))")
        client.execute("SELECT pg_switch_wal()")
    client.execute("CHECKPOINT")
    wait_until(client, "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = 'mailer'")


@pytest.fixture
def keeping_little(own: Cluster) -> Iterator[psycopg.Connection[Any]]:
    """A client of a server that keeps hardly any log for slots."""
    with own.connect() as client:
        client.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        client.execute("SELECT pg_reload_conf()")
        yield client
        client.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        client.execute("SELECT pg_reload_conf()")
        wait_until(client, "SELECT count(*) = 0 FROM pg_replication_slots WHERE active")
        client.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def test_a_slot_lost_while_nobody_listened_is_made_anew_with_a_resync(
    own_orders: tuple[Any, Engine], keeping_little: psycopg.Connection[Any], recorder: Any
) -> None:
    Order, engine = own_orders
    Order.watch.connect(recorder)
    with Listener(engine, Order, durable="mailer"):
        pass
    keeping_little.execute("INSERT INTO orders VALUES (1)")
    lose_slot(keeping_little)
    listener = Listener(engine, Order, durable="mailer")
    reasons = resync_reasons(listener)
    with listener:
        keeping_little.execute("INSERT INTO orders VALUES (2)")
        listener.catch_up()
    assert len(reasons) == 1
    assert "the server gave up the log that the slot needed" in reasons[0]
    assert recorder.heard() == [("inserted", (2,))]


def test_the_resync_for_a_lost_slot_comes_again_until_it_is_acknowledged_whoever_made_the_slot_anew(
    own_orders: tuple[Any, Engine], keeping_little: psycopg.Connection[Any]
) -> None:
    Order, engine = own_orders
    resynced: list[tuple[str, str]] = []
    stopping = threading.Event()

    def note_resync(name: str) -> Callable[..., None]:
        def note(sender: Listener, reason: str) -> None:
            resynced.append((name, reason))
            if name == "stops at once":
                sender.stop()
                stopping.set()

        return note

    with Listener(engine, Order, durable="mailer"):
        pass
    keeping_little.execute("INSERT INTO orders VALUES (1)")
    lose_slot(keeping_little)
    assert slots.ensure_slot(keeping_little, "mailer") is not None  # by a process that dies right after
    for name in ("stops at once", "stays", "finds nothing to say"):
        listener = Listener(engine, Order, durable="mailer")
        noting = note_resync(name)
        listener.resync.connect(noting)
        listener.start()
        if name == "stops at once":
            assert stopping.wait(10)
        else:
            listener.catch_up()
            listener.stop()
    assert resynced == [("stops at once", SLOT_LOST), ("stays", SLOT_LOST)]


def test_the_resync_for_a_lost_slot_is_its_own_groups_alone_and_its_reason_nobody_elses(
    own_orders: tuple[Any, Engine], keeping_little: psycopg.Connection[Any]
) -> None:
    Order, engine = own_orders
    with Listener(engine, Order, durable="mailer"):
        pass
    lose_slot(keeping_little)
    with Listener(engine, Order, durable="indexer") as other:
        reasons = resync_reasons(other)
        assert slots.ensure_slot(keeping_little, "mailer") is not None
        keeping_little.execute("SELECT pg_logical_emit_message(true, 'sqlalchemy_watch/resync', 'a secret')")
        other.catch_up()
    assert reasons == []


def test_a_slot_lost_behind_a_receiver_that_is_too_slow_is_made_anew_with_a_resync(
    own_orders: tuple[Any, Engine], keeping_little: psycopg.Connection[Any], recorder: Any
) -> None:
    Order, engine = own_orders
    begun, go_on = threading.Event(), threading.Event()

    @Order.watch.inserted.connect
    def send_receipt(sender: Any, event: Any) -> None:
        begun.set()
        assert go_on.wait(20)

    listener = Listener(engine, Order, durable="mailer")
    reasons = resync_reasons(listener)
    Order.watch.connect(recorder)
    with listener:
        keeping_little.execute("INSERT INTO orders VALUES (1)")
        assert begun.wait(10)
        lose_slot(keeping_little)
        keeping_little.execute("INSERT INTO orders VALUES (2)")
        go_on.set()
        wait_until(keeping_little, lambda: reasons)
        keeping_little.execute("INSERT INTO orders VALUES (3)")
        listener.catch_up()
    # Events that had been read are not lost with the slot.
    assert [identity for _, identity in recorder.heard()][:1] == [(1,)]
    assert recorder.heard()[-1] == ("inserted", (3,))
    assert listener.stats().resyncs == 1
