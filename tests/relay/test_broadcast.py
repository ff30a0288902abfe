"""A broadcast over NATS: one LISTEN for many, with what LISTEN promises."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from postgres import Cluster, restore_interrupts
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import PATIENCE, created_database, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, ListenerStartError, Watch, Watched, relay
from sqlalchemy_watch.listener.pipeline.parts import Notification
from sqlalchemy_watch.relay import Broadcast
from sqlalchemy_watch.relay.frames import Frame
from sqlalchemy_watch.relay.naming import subject_of

from .brokers import Nats
from .conftest import Start

nats = pytest.importorskip("nats")

Client = psycopg.Connection[Any]


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Order(Watched, Base):  # type: ignore[misc]
        __tablename__ = "orders"
        __watch__ = (Watch("inserted", extra_columns=("note",)), "updated", "deleted")
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(server_default="")

    Base.metadata.create_all(engine)
    return Order


@pytest.fixture
def broker(start: Start) -> Nats:
    return start(Nats)  # type: ignore[no-any-return]


@pytest.fixture
def broadcast(broker: Nats, engine: Engine, Order: Any) -> Iterator[Broadcast]:
    with Broadcast(engine, Order, to=broker.url) as broadcast:
        yield broadcast


@pytest.fixture
def heard(Order: Any) -> SimpleQueue[Any]:
    heard: SimpleQueue[Any] = SimpleQueue()
    Order.watch.connect(lambda sender, event: heard.put((event.label, *event.identity, event.id)))
    return heard


def test_events_are_those_of_a_listen_with_the_same_ids(
    broker: Nats, broadcast: Broadcast, engine: Engine, Order: Any, client: Client
) -> None:
    by_listener: dict[Any, list[Any]] = {}
    Order.watch.connect(lambda sender, event: by_listener.setdefault(event.listener, []).append((event.id, event)))
    with Listener(engine, Order) as listening, Listener(engine, Order, via=relay.nats(broker.url)) as following:
        client.execute("INSERT INTO orders SELECT n, repeat('x', 100) FROM generate_series(1, 3000) AS n")
        client.execute("UPDATE orders SET note = 'é' WHERE id < 10")
        client.execute("DELETE FROM orders WHERE id = 1")
        for listener in (listening, following):
            listener.catch_up()
            assert listener.healthy()
        assert len(by_listener[following]) == 3000 + 9 + 1
        assert [id_ for id_, _ in by_listener[following]] == [id_ for id_, _ in by_listener[listening]]
        assert [event for _, event in by_listener[following]] == [event for _, event in by_listener[listening]]
        assert following.stats().resyncs == 0


def test_it_needs_no_connection_to_the_database_to_hear(
    broker: Nats, broadcast: Broadcast, engine: Engine, Order: Any, client: Client, heard: Any, database: str
) -> None:
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE 'LISTEN%%'"
    with Listener(engine, Order, via=relay.nats(broker.url)) as listener:
        before = client.execute(sessions, [database]).fetchone()
        listener.catch_up()
        client.execute("INSERT INTO orders VALUES (1)")
        assert heard.get(timeout=PATIENCE)[:2] == ("inserted", 1)
        assert client.execute(sessions, [database]).fetchone() == before


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_broker_that_goes_is_a_resync_when_it_is_back(
    how: str, broker: Nats, broadcast: Broadcast, engine: Engine, Order: Any, client: Client, heard: Any
) -> None:
    resyncs: SimpleQueue[str] = SimpleQueue()
    lost = threading.Event()
    listener = Listener(engine, Order, via=relay.nats(broker.url), heartbeat_timeout=3.0)
    listener.resync.connect(lambda sender, reason: resyncs.put(reason))
    listener.disconnected.connect(lambda sender, error: lost.set())
    with listener:
        (broker.kill if how == "killed" else broker.freeze)()
        assert lost.wait(PATIENCE)
        assert not listener.healthy()
        client.execute("INSERT INTO orders VALUES (1)")
        (broker.start if how == "killed" else broker.thaw)()
        assert resyncs.get(timeout=PATIENCE)
        wait_until(client, listener.healthy)
        client.execute("INSERT INTO orders VALUES (2)")
        while heard.get(timeout=PATIENCE)[1] != 2:
            pass


def test_a_pause_of_the_process_is_no_silence(
    broker: Nats, broadcast: Broadcast, engine: Engine, Order: Any, client: Client, heard: Any
) -> None:
    with Listener(engine, Order, via=relay.nats(broker.url), heartbeat_timeout=3.0) as listener:
        source: Any = listener._run._source  # type: ignore[union-attr]
        before = source._looked_at
        source._looked_at -= 60  # frames would lie in the socket, and have not been read yet
        wait_until(client, lambda: source._looked_at > before)
        client.execute("INSERT INTO orders VALUES (1)")
        listener.catch_up()
        assert heard.get(timeout=PATIENCE)[:2] == ("inserted", 1)
        assert listener.stats().resyncs == 0


def test_what_the_broadcast_missed_is_a_resync(
    broker: Nats, broadcast: Broadcast, engine: Engine, Order: Any, client: Client, heard: Any, database: str
) -> None:
    resyncs: SimpleQueue[str] = SimpleQueue()
    listener = Listener(engine, Order, via=relay.nats(broker.url))
    listener.resync.connect(lambda sender, reason: resyncs.put(reason))
    with listener:
        client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = %s AND application_name = 'sqlalchemy-watch'",
            [database],
        )
        assert resyncs.get(timeout=PATIENCE)
        wait_until(client, lambda: broadcast.is_heard)
        client.execute("INSERT INTO orders VALUES (1)")
        assert heard.get(timeout=PATIENCE)[:2] == ("inserted", 1)
        listener.catch_up()


PROGRAM = """
import sys
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_watch import Watch, Watched
from sqlalchemy_watch.relay import Broadcast

class Base(DeclarativeBase):
    pass

class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = (Watch("inserted", extra_columns=("note",)), "updated", "deleted")
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str]

Broadcast(create_engine(sys.argv[1]), Base, to=sys.argv[2]).run()
"""


def test_another_broadcast_takes_over_from_one_that_is_killed(
    broker: Nats, engine: Engine, cluster: Cluster, database: str, Order: Any, client: Client, heard: Any
) -> None:
    command = [sys.executable, "-c", PROGRAM, cluster.url(database, "psycopg"), broker.url]
    first = subprocess.Popen(command, preexec_fn=restore_interrupts, stderr=subprocess.DEVNULL)
    resyncs: SimpleQueue[str] = SimpleQueue()
    listener = Listener(engine, Order, via=relay.nats(broker.url))
    listener.resync.connect(lambda sender, reason: resyncs.put(reason))
    try:
        listener.start(PATIENCE)
        second = subprocess.Popen(command, preexec_fn=restore_interrupts, stderr=subprocess.PIPE, text=True)
        try:
            client.execute("INSERT INTO orders VALUES (1)")
            assert heard.get(timeout=PATIENCE)[:2] == ("inserted", 1)
            first.kill()
            assert resyncs.get(timeout=PATIENCE)
            client.execute("INSERT INTO orders VALUES (2)")
            listener.catch_up(PATIENCE)
            assert heard.get(timeout=PATIENCE)[:2] == ("inserted", 2)
            assert heard.empty()
            second.terminate()
            assert second.wait(PATIENCE) == 0
        finally:
            second.kill()
            second.communicate()
    finally:
        first.kill()
        first.wait()
        listener.stop()


def test_a_broadcast_with_fewer_channels_that_takes_over_is_noticed(
    broker: Nats, engine: Engine, Order: Any, Base: type[DeclarativeBase], caplog: pytest.LogCaptureFixture,
    client: Client,
) -> None:  # fmt: skip
    class Later(Watched, Base):  # type: ignore[misc]
        __tablename__ = "laters"
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    whole, part = Broadcast(engine, Base, to=broker.url), Broadcast(engine, Order, to=broker.url)
    whole.start()
    with Listener(engine, Base, via=relay.nats(broker.url)) as listener, part:
        whole.stop()
        wait_until(client, lambda: not listener.healthy())
        wait_until(client, lambda: any("does not have the channel" in words for words in caplog.messages))


def test_catching_up_needs_no_connection_that_was_there_before(
    broker: Nats, broadcast: Broadcast, engine: Engine, Order: Any, client: Client, database: str
) -> None:
    with Listener(engine, Order, via=relay.nats(broker.url)) as listener:
        for _ in range(3):
            listener.catch_up()
            client.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = %s AND application_name = 'sqlalchemy-watch'",
                [database],
            )
            listener.catch_up(PATIENCE)


def test_an_outage_of_the_broadcast_is_one_resync(
    broker: Nats, broadcast: Broadcast, engine: Engine, Order: Any, client: Client, database: str
) -> None:
    with Listener(engine, Order, via=relay.nats(broker.url)) as listener:
        client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = %s AND application_name = 'sqlalchemy-watch'",
            [database],
        )
        wait_until(client, lambda: listener.stats().resyncs > 0)
        wait_until(client, lambda: broadcast.is_heard)
        listener.catch_up()
        assert listener.stats().resyncs == 1


def test_a_broadcast_that_may_not_publish_says_so(
    start: Start, engine: Engine, Order: Any, client: Client, tmp_path: Any
) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        'authorization { users = [{ user: "a", password: "p%w", permissions: { publish: "other", subscribe: ">" } }] }'
    )
    broker = start(Nats, "-c", str(config))
    broadcast = Broadcast(engine, Order, to=broker.url.replace("//", "//a:p%25w@"))
    broadcast.start()
    wait_until(client, lambda: "permissions violation" in str(broadcast.waits_for).lower())
    broadcast.stop()


def test_two_databases_of_one_name_are_told_apart(
    broker: Nats, engine: Engine, Order: Any, client: Client, cluster: Cluster, database: str, heard: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    # As those of two servers would be: by a name that is given.
    with created_database(cluster, f"{database}_other") as other_database:
        other_engine = create_engine(cluster.url(other_database, "psycopg"))
        Order.metadata.create_all(other_engine)
        via = relay.nats(broker.url, name="shop")
        with (
            Broadcast(engine, Order, to=broker.url, name="shop"),
            Broadcast(other_engine, Order, to=broker.url, name="shop"),
            Listener(engine, Order, via=via) as listener,
        ):
            with other_engine.begin() as connection:
                connection.execute(text("INSERT INTO orders VALUES (1)"))
            wait_until(client, lambda: any("another database of the name" in words for words in caplog.messages))
            client.execute("INSERT INTO orders VALUES (2)")
            listener.catch_up()
            assert heard.get(timeout=PATIENCE)[:2] == ("inserted", 2)
            assert heard.empty()
            assert listener.stats().resyncs == 0
        other_engine.dispose()


def test_existing_rows_come_in_their_place(
    broker: Nats, broadcast: Broadcast, engine: Engine, Order: Any, client: Client, heard: Any
) -> None:
    client.execute("INSERT INTO orders SELECT generate_series(1, 50)")
    done = threading.Event()
    listener = Listener(engine, Order, via=relay.nats(broker.url), backfill=True)
    listener.backfilled.connect(lambda sender, model, started_at: done.set())
    with listener:
        assert done.wait(PATIENCE)
    found = [heard.get() for _ in range(heard.qsize())]
    assert sorted(identity for label, identity, _ in found if label == "read") == list(range(1, 51))


def test_frames_of_strangers_harm_nobody(
    broker: Nats, broadcast: Broadcast, engine: Engine, Order: Any, client: Client, heard: Any, database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    strange = [
        b"", b"\xff\xfe", b"{}\n", b'{"version": 1, "epoch": "e"}\n', b"[" * 100_000,
        Frame("", 0).encode(), Frame("stranger", 5, [Notification("no_such_channel", b"{}")]).encode(),
        Frame("stranger", 6, [Notification("watch_orders_inserted", b"\x00garbage")]).encode(),
    ]  # fmt: skip

    async def send() -> None:
        connection = await nats.connect(broker.url)
        for data in strange:
            await connection.publish(subject_of(database), data)
        await connection.flush()
        await connection.close()

    with Listener(engine, Order, via=relay.nats(broker.url)) as listener:
        asyncio.run(send())
        wait_until(client, lambda: any("passed over" in words for words in caplog.messages))
        client.execute("INSERT INTO orders VALUES (1)")
        wait_until(client, lambda: listener.stats().garbage == 1)
        assert listener.running
    assert listener.stats().resyncs >= 1


def test_nobody_who_broadcasts_or_another_model_is_told_of(
    broker: Nats, engine: Engine, Order: Any, Base: type[DeclarativeBase]
) -> None:
    via = relay.nats(broker.url)
    with pytest.raises(ListenerStartError, match="nobody broadcasts on watch.broadcast"):
        Listener(engine, Order, via=via, heartbeat_timeout=3.0).start(timeout=4.0)
    with Broadcast(engine, Order, to=broker.url):

        class Later(Watched, Base):  # type: ignore[misc]
            __tablename__ = "laters"
            __watch__ = ("inserted",)
            id: Mapped[int] = mapped_column(primary_key=True)

        Base.metadata.create_all(engine)
        with pytest.raises(ConfigurationError, match="start it anew with the models of this listener"):
            Listener(engine, Base, via=via).start()


def test_a_broker_that_is_not_there_is_told_of(broker: Nats, engine: Engine, Order: Any) -> None:
    broker.stop()
    with pytest.raises(ListenerStartError, match="the broker was not there within 1 s: no connection to NATS"):
        Broadcast(engine, Order, to=broker.url).start(timeout=1.0)
    with pytest.raises(ListenerStartError, match="no connection to NATS"):
        Listener(engine, Order, via=relay.nats(broker.url)).start(timeout=1.0)


def test_bad_input_is_refused_at_once(engine: Engine, Order: Any, Base: type[DeclarativeBase]) -> None:
    class Paid(Watched, Base):  # type: ignore[misc]
        __tablename__ = "paid"
        __watch__ = (Watch("inserted", delivery="durable"),)
        id: Mapped[int] = mapped_column(primary_key=True)

    for arguments, options, words in (
        ((Order,), {"to": "redis://localhost"}, "a broadcast goes over NATS"),
        ((Order,), {"to": ""}, "a broadcast goes over NATS"),
        ((Order,), {"to": "nats://[::1"}, "a broadcast goes over NATS"),
        ((Order,), {"to": "nats://h:99999"}, "a broadcast goes over NATS"),
        ((Order,), {"to": "nats://localhost", "name": ""}, "a broadcast has a name of 1 to 100"),
        ((Paid,), {"to": "nats://localhost"}, "nothing is sent by NOTIFY"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Broadcast(engine, *arguments, **options)  # type: ignore[arg-type]
    via = relay.nats("nats://localhost")
    for options, words in (
        ({"via": "nats://localhost"}, r"write via=relay.nats\('nats://...'\)"),
        ({"via": via, "durable": "g"}, "via= and durable= don't go together"),
        ({"via": via, "exclusive": "g"}, "via= and exclusive= don't go together"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Listener(engine, Order, **options)  # type: ignore[arg-type]
