"""Promotions of a standby: events that the new server has are delivered, and doubts are told by a resync."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from threading import Event
from typing import Any

import psycopg
import pytest
from models import declare_base, declare_order
from postgres import Cluster, needs, needs_logical_messages
from sqlalchemy import URL, create_engine, text
from sqlalchemy.orm import Session, sessionmaker
from support import PATIENCE, insert, wait_until

from sqlalchemy_watch import Listener
from sqlalchemy_watch.listener.source import Tokens
from sqlalchemy_watch.listener.wal.protocol import SLOT_LOST
from sqlalchemy_watch.listener.wal.source import SERVER_CHANGED

from ..clusters import Standby, create_tables, removed_afterwards

pytestmark = needs_logical_messages

SYNCED = (
    "SELECT synced AND NOT temporary AND invalidation_reason IS NULL FROM pg_replication_slots WHERE slot_name = %s"
)

synchronizing = needs(17, "slots that are copied to standbys")


#: Query: a walsender reads the slot, which is active while it is made, too.
READ = (
    "SELECT count(*) = 1 FROM pg_replication_slots AS s JOIN pg_stat_replication AS r ON r.pid = s.active_pid "
    "WHERE s.slot_name = 'mailer'"
)


Base = declare_base()
Order = declare_order(Base, delivery="durable")


class Consumer:
    """A process's listener of the group `mailer`, with the ids and the reasons to resync it told of, in order."""

    def __init__(self, *clusters: Cluster, **options: Any) -> None:
        hosts = tuple(f"127.0.0.1:{cluster.port}" for cluster in clusters)
        query = {"host": hosts, "target_session_attrs": "read-write"}
        self.engine = create_engine(URL.create("postgresql+psycopg", "postgres", database="postgres", query=query))
        self.listener = Listener(self.engine, Base, durable="mailer", heartbeat_interval=0.5, **options)
        self.heard: list[int | str] = []
        #: (lsn, position) of each event.
        self.places: list[tuple[int, int]] = []

    def __enter__(self) -> Consumer:
        Order.watch.inserted.connect(self._take)
        self.listener.resync.connect(self._note_resync)
        self.listener.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        Order.watch.inserted.disconnect(self._take)
        self.listener.stop()
        self.engine.dispose()

    def _take(self, sender: Any, event: Any) -> None:
        self.heard.append(event.identity[0])
        self.places.append((event.lsn, event.position))

    def _note_resync(self, listener: Listener, reason: str) -> None:
        self.heard.append(reason)


class Pair:
    """A primary and, once it is made, its standby."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.primary = stack.enter_context(removed_afterwards(Cluster()))
        create_tables(self.primary, Base)
        with self.primary.connect() as client:
            client.execute("SELECT pg_create_physical_replication_slot('standby', true)")
        self.standby = Standby(
            self.primary,
            "-S",
            "standby",
            "-d",
            f"host=127.0.0.1 port={self.primary.port} user=postgres dbname=postgres",
        )
        self._stack.callback(self.standby.remove)

    def start_standby(self, **settings: Any) -> None:
        self.standby.configure(hot_standby_feedback="on", **settings)
        self.standby.start()

    def write(self, first: int, last: int) -> None:
        """Insert orders on the primary, each in a transaction of its own."""
        with self.primary.connect() as client:
            insert(client, "orders", *range(first, last + 1))

    def wait_for_standby(self) -> None:
        """Wait until it has applied all that the primary has written."""
        with self.primary.connect() as client, self.standby.connect() as reader:
            (end,) = client.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone() or ("",)
            wait_until(reader, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", end)

    def wait_for_slot(self) -> None:
        """Wait until the group's slot is on the standby, to stay."""
        with self.primary.connect() as client, self.standby.connect() as reader:

            def is_there() -> bool:
                # A standby may decode from the point at which the primary logs its running transactions.
                client.execute("SELECT pg_log_standby_snapshot()")
                return reader.execute(SYNCED, ["mailer"]).fetchone() == (True,)

            wait_until(reader, is_there)

    def copy_slot(self) -> None:
        """Copy the group's slot to the standby once, as it is now."""
        self.wait_for_standby()
        with self.primary.connect() as client, self.standby.connect() as reader:

            def is_there() -> bool:
                client.execute("SELECT pg_log_standby_snapshot()")
                self.wait_for_standby()
                reader.execute("SELECT pg_sync_replication_slots()")
                return reader.execute(SYNCED, ["mailer"]).fetchone() == (True,)

            wait_until(reader, is_there)

    def fail_over(self) -> None:
        """Stop the primary, and promote the standby."""
        self.primary.stop()
        self.standby.promote()

    def part(self) -> None:
        """Stop the standby: it will not have the primary's writes from now on."""
        self.wait_for_standby()
        self.standby.stop("fast")

    def fail_over_parted(self) -> None:
        self.primary.stop()
        self.standby.start()
        self.standby.promote()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


@pytest.mark.server
@synchronizing
def test_a_consumer_goes_on_on_the_promoted_standby_without_a_gap_and_without_a_resync(pair: Pair) -> None:
    pair.primary.configure(synchronized_standby_slots="standby")
    pair.primary.restart()
    with Consumer(pair.primary, pair.standby) as consumer:
        pair.start_standby(sync_replication_slots="on", synchronized_standby_slots="")
        pair.wait_for_slot()
        pair.write(1, 20)
        consumer.listener.catch_up()
        pair.write(21, 40)
        pair.wait_for_standby()
        pair.fail_over()
        with pair.standby.connect() as client:
            insert(client, "orders", *range(41, 61))
        consumer.listener.catch_up()
        assert consumer.heard == list(range(1, 61))
        assert consumer.places == sorted(set(consumer.places))  # positions continue across a promotion
        assert consumer.listener.stats().reconnects == 1


@synchronizing
def test_whoever_hears_in_whatever_way_goes_on_on_the_promoted_standby(pair: Pair) -> None:
    pair.primary.configure(synchronized_standby_slots="standby")
    pair.primary.restart()
    with pair.primary.connect() as client:
        client.execute("CREATE TABLE bookings (order_id int)")
        client.execute("SET sqlalchemy_watch.muted = 'on'")
        insert(client, "orders", *range(1001, 4001))  # before anybody listens
    consumer = Consumer(pair.primary, pair.standby, workers=4)
    heard: dict[str, list[int]] = {"lanes": [], "batches": [], "transactions": [], "read": []}
    listener, signal = consumer.listener, Order.watch.inserted
    begun, filled = Event(), Event()

    def note_all(events: Any, how: str) -> None:
        heard[how] += [event.identity[0] for event in events if event.operation == "inserted"]

    def read(sender: Any, event: Any) -> None:
        heard["read"].append(event.identity[0])
        begun.set()
        Event().wait(0.002)  # so that the failover comes in between

    def book(sender: Any, event: Any, session: Session) -> None:
        session.execute(text("INSERT INTO bookings VALUES (:id)"), {"id": event.identity[0]})

    def note(sender: Any, event: Any) -> None:
        note_all([event], "lanes")

    def note_batch(sender: Any, events: Any) -> None:
        note_all(events, "batches")

    batches = signal.batches(max_size=7, max_wait=0.02)
    listener.transactions.connect(lambda sender, whole: note_all(whole.events, "transactions"))
    listener.backfilled.connect(lambda sender, *, model, started_at: filled.set(), weak=False)
    signal.connect_once(book, sessionmaker(consumer.engine))
    with (
        signal.connected_to(note), batches.connected_to(note_batch), Order.watch.read.connected_to(read), consumer
    ):  # fmt: skip
        pair.start_standby(sync_replication_slots="on", synchronized_standby_slots="")
        pair.wait_for_slot()
        listener.backfill(Order)
        assert begun.wait(PATIENCE)
        pair.write(1, 40)
        pair.wait_for_standby()
        assert not filled.is_set()
        pair.fail_over()
        with pair.standby.connect() as client:
            insert(client, "orders", *range(41, 61))
        listener.catch_up(timeout=60)
        assert filled.wait(60)
        with pair.standby.connect() as client:
            booked = [row[0] for row in client.execute("SELECT order_id FROM bookings ORDER BY order_id")]
    signal.disconnect(book)
    everything = list(range(1, 61))
    assert sorted(set(heard["lanes"])) == heard["batches"] == booked == everything
    assert heard["transactions"] == everything
    assert set(heard["read"]) >= set(range(1001, 4001))
    assert set(consumer.heard) == set(everything)  # and no resync


@synchronizing
def test_a_process_that_starts_after_the_failover_hears_what_the_copied_slot_has_not_seen_acknowledged(
    pair: Pair,
) -> None:
    with Consumer(pair.primary) as before:
        pair.write(1, 5)
        before.listener.catch_up()
        pair.start_standby()
        pair.copy_slot()
        pair.write(6, 20)
        before.listener.catch_up()
    pair.wait_for_standby()
    pair.fail_over()
    with Consumer(pair.standby) as after:
        with pair.standby.connect() as client:
            insert(client, "orders", *range(21, 31))
        after.listener.catch_up()
    assert (before.heard, after.heard) == (list(range(1, 21)), list(range(6, 31)))
    assert after.places[:15] == before.places[5:]  # so they are known again


@synchronizing
def test_a_new_server_that_lacks_delivered_events_is_told_by_a_resync_and_none_of_its_own_is_passed_over(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, failures = Tokens.rename, [psycopg.OperationalError("cut off while the slot was taken up")]

    def fail_once(tokens: Tokens) -> list[str]:
        if failures:
            raise failures.pop()
        return rename(tokens)

    with Consumer(pair.primary, pair.standby) as consumer:
        pair.start_standby()
        pair.copy_slot()
        pair.write(1, 10)
        consumer.listener.catch_up()
        pair.part()
        pair.write(11, 200)
        consumer.listener.catch_up()
        monkeypatch.setattr(Tokens, "rename", fail_once)
        pair.fail_over_parted()
        with pair.standby.connect() as client:
            insert(client, "orders", *range(201, 211))
        consumer.listener.catch_up()
        assert failures == []
        assert consumer.heard == [*range(1, 201), SERVER_CHANGED, *range(201, 211)]
        undone, new = consumer.places[10:200], consumer.places[200:]
        assert new[0] < undone[-1]  # the same positions, for other events


@pytest.mark.server
def test_a_failover_to_a_server_without_the_slot_and_the_last_events_is_one_resync(pair: Pair) -> None:
    with Consumer(pair.primary, pair.standby) as consumer:
        pair.start_standby()
        pair.write(1, 10)
        pair.part()
        pair.write(11, 20)
        consumer.listener.catch_up()
        pair.fail_over_parted()
        with pair.standby.connect() as client:
            wait_until(client, READ)
            insert(client, "orders", *range(21, 31))
        consumer.listener.catch_up()
        assert consumer.heard == [*range(1, 21), SLOT_LOST, *range(21, 31)]
        assert consumer.listener.stats().resyncs == 1


@synchronizing
def test_a_consumer_waits_for_the_standby_rather_than_be_ahead_of_it(pair: Pair) -> None:
    pair.primary.configure(synchronized_standby_slots="standby")
    pair.primary.restart()
    pair.start_standby()
    with Consumer(pair.primary, heartbeat_timeout=1) as consumer, pair.primary.connect() as client:
        pair.wait_for_standby()
        pair.standby.stop("fast")
        insert(client, "orders", *range(1, 11))
        wait_until(client, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'WaitForStandbyConfirmation'")
        client.execute("SELECT pg_sleep(2)")  # some heartbeats
        assert consumer.heard == []
        pair.standby.start()
        consumer.listener.catch_up()
        assert consumer.heard == list(range(1, 11))
        assert consumer.listener.stats().reconnects == 0
