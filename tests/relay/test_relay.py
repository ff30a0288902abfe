"""Relays: from a database to brokers that run, are killed, frozen and full."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from listener.conftest import drop_slots
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from support import PATIENCE, wait_until

from sqlalchemy_watch import ConfigurationError, ListenerStartError
from sqlalchemy_watch.relay import Message, Refused, Relay
from sqlalchemy_watch.relay.messages import Writer

from .brokers import Broker, MockKafka, Nats, Redis, Tansu
from .conftest import Start
from .relaying import KEYS, Base, Program, numbers_of, writing
from .test_publishers import make_topic, nats, read

Client = psycopg.Connection[Any]

pytestmark = needs_logical_messages

every_broker = pytest.mark.parametrize("kind", [Nats, Redis, MockKafka, Tansu])

#: Times that a relay is killed.
KILLS = int(os.environ.get("WATCH_TEST_KILLS", "3"))


@pytest.fixture
def group(cluster: Cluster, database: str) -> Iterator[str]:
    yield f"group_{database}"
    drop_slots(cluster, database)


@pytest.fixture
def tables(engine: Engine) -> None:
    Base.metadata.create_all(engine)


def got(broker: Broker) -> list[dict[str, Any]]:
    """Return the events that a broker has; of CloudEvents their data, with the envelope's type."""
    found = asyncio.run(read(broker))
    return [json.loads(data)["data"] | {"type": json.loads(data)["type"]} for _, _, _, data in found]


def prepare(broker: Broker) -> None:
    if isinstance(broker, (Tansu, MockKafka)):
        asyncio.run(make_topic(broker))


def rows(broker: Broker) -> list[tuple[str, int]]:
    """Return the operations and keys of all that is no resync."""
    return [(one["operation"], one["identity"][0]) for one in got(broker) if one["operation"] != "resync"]


class Recording:
    """A publisher that keeps what it gets, and fails as it is told to."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.errors: list[Exception] = []
        self.calls: list[list[str]] = []
        self.changed = threading.Condition()
        self.starts = self.closes = 0

    async def start(self) -> None:
        self.starts += 1

    async def publish(self, messages: Sequence[Message]) -> None:
        with self.changed:
            self.calls.append([one.id for one in messages])
            self.changed.notify_all()
            if self.errors:
                raise self.errors.pop(0)
            self.messages += messages

    async def close(self) -> None:
        self.closes += 1

    def wait_for(self, number: int) -> list[Message]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.messages) >= number, PATIENCE), self.messages
            return self.messages


@every_broker
def test_events_are_published_in_order(
    kind: type[Broker], start: Start, engine: Engine, tables: None, client: Client, group: str
) -> None:
    broker = start(kind)
    prepare(broker)
    with Relay(engine, Base, group=group, to=broker.url, create=kind is Nats) as relay:
        client.execute("INSERT INTO orders (id, note) VALUES (1, 'a'), (2, 'b')")
        client.execute("UPDATE orders SET note = 'c' WHERE id = 1")
        client.execute("DELETE FROM orders WHERE id = 1")
        client.execute("TRUNCATE orders")
        relay.listener.catch_up()
        events = [one for one in got(broker) if one["type"] != "sqlalchemy_watch.resync"]
        by_row = [(one["operation"], one["identity"]) for one in events if one["identity"] == [1]]
        assert by_row == [("inserted", [1]), ("updated", [1]), ("deleted", [1])]
        operations = {one["id"]: one["operation"] for one in events}  # without a key it is in each partition of Kafka
        assert sorted(operations.values()) == ["deleted", "inserted", "inserted", "truncated", "updated"]
        assert relay.healthy()
        stats = relay.stats()
        assert (stats.published - stats.listener.resyncs, stats.refused, stats.waits_for) == (5, 0, None)  # type: ignore[union-attr]


@every_broker
def test_a_relay_that_is_killed_loses_nothing_and_keeps_the_order_of_rows(
    kind: type[Broker], start: Start, cluster: Cluster, database: str, tables: None, client: Client, group: str
) -> None:
    broker = start(kind)
    prepare(broker)
    url = cluster.url(database, "psycopg")
    relay = Program(url, group, broker.url)
    with writing(url) as last:
        for _ in range(KILLS):
            before = sum(last.values())
            wait_until(client, lambda before=before: sum(last.values()) > before + 100)
            relay.kill()
            relay = Program(url, group, broker.url)
    written = dict(last)
    client.execute("INSERT INTO orders (id) VALUES (1000)")
    place = "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE slot_name = %s"
    (here,) = client.execute("SELECT pg_current_wal_insert_lsn()").fetchone() or (None,)
    wait_until(client, place, here, group)
    relay.process.send_signal(signal.SIGTERM)
    _, errors = relay.process.communicate(timeout=PATIENCE)
    assert relay.process.returncode == 0, errors
    events = got(broker)
    counted = Counter(one["id"] for one in events)
    assert len({one["id"] for one in events if one["operation"] == "inserted"}) == KEYS + 1
    seen: set[str] = set()
    first = [one for one in events if not (one["id"] in seen or seen.add(one["id"]))]
    assert numbers_of(first) == {key: list(range(1, number + 1)) for key, number in written.items() if number}
    if kind is Nats:
        assert max(counted.values()) == 1
    again = sum(counted.values()) - len(counted)
    logging.getLogger(__name__).info("%d events, %d of them again", len(counted), again)


@pytest.mark.parametrize("how", ["restarted", "killed", "frozen"])
@pytest.mark.parametrize("kind", [Nats, Redis])
def test_a_broker_that_goes_and_comes_back_is_waited_for(
    kind: type[Broker], how: str, start: Start, engine: Engine, tables: None, client: Client, group: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    broker = start(kind)
    with Relay(engine, Base, group=group, to=broker.url, create=kind is Nats, timeout=2.0) as relay:
        client.execute("INSERT INTO orders (id) VALUES (1)")
        relay.listener.catch_up()
        (broker.freeze if how == "frozen" else broker.kill if how == "killed" else broker.stop)()
        client.execute("INSERT INTO orders (id) SELECT generate_series(2, 500)")
        wait_until(client, lambda: relay.stats().waits_for is not None)
        assert not relay.healthy()
        (broker.thaw if how == "frozen" else broker.start)()
        client.execute("INSERT INTO orders (id) VALUES (501)")
        relay.listener.catch_up(PATIENCE)
        assert relay.stats().waits_for is None
        events = [one for one in got(broker) if one["operation"] == "inserted"]
        assert {one["identity"][0] for one in events} == set(range(1, 502))
        if kind is Nats:
            assert len(events) == 501
    assert any("does not take" in words and "tried again in" in words for words in caplog.messages)


def test_a_full_stream_is_waited_for(start: Start, engine: Engine, tables: None, client: Client, group: str) -> None:
    broker = start(Nats)

    async def set_limit(most: int) -> None:
        connection = await nats.connect(broker.url)
        stream = connection.jetstream()
        config = {"name": "watch", "subjects": ["watch.>"], "max_msgs": most, "discard": "new"}
        await (stream.update_stream(**config) if most > 10 else stream.add_stream(**config))
        await connection.close()

    asyncio.run(set_limit(10))
    with Relay(engine, Base, group=group, to=broker.url) as relay:
        client.execute("INSERT INTO orders (id) SELECT generate_series(1, 50)")
        wait_until(client, lambda: relay.stats().waits_for is not None)
        asyncio.run(set_limit(1_000))
        relay.listener.catch_up(PATIENCE)
        assert {one["identity"][0] for one in got(broker) if one["operation"] == "inserted"} == set(range(1, 51))


def test_a_message_that_is_too_large_stops_its_key_alone(
    start: Start, engine: Engine, tables: None, client: Client, group: str
) -> None:
    broker = start(Nats)
    broker.stop()
    config = broker.folder / "nats.conf"
    config.write_text("max_payload: 4096\n")
    broker.arguments = ("-c", str(config))
    broker.start()
    with Relay(engine, Base, group=group, to=broker.url, create=True) as relay:
        client.execute("INSERT INTO orders (id, note) VALUES (1, repeat('x', 5000)), (2, '')")
        client.execute("UPDATE orders SET number = 1")
        relay.listener.catch_up()
        events = [
            (one["operation"], *one["identity"]) for one in got(broker) if one["type"] != "sqlalchemy_watch.resync"
        ]
        assert events == [("inserted", 2), ("updated", 2)]
        assert relay.stats().refused == 1
        letters = client.execute("SELECT error, attempts FROM sqlalchemy_watch.dead_letters ORDER BY lsn, position")
        assert [attempts for _, attempts in letters] == [1, 0]
        broker.stop()
        config.write_text("max_payload: 100000\n")
        broker.start()
        client.execute("UPDATE sqlalchemy_watch.dead_letters SET retry_at = now()")
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
        events = [
            (one["operation"], *one["identity"]) for one in got(broker) if one["type"] != "sqlalchemy_watch.resync"
        ]
        assert events == [("inserted", 2), ("updated", 2), ("inserted", 1), ("updated", 1)]


def test_a_message_that_is_refused_is_given_up_after_so_many_attempts(
    engine: Engine, tables: None, client: Client, group: str
) -> None:
    class Picky(Recording):
        async def publish(self, messages: Sequence[Message]) -> None:
            refused = [one for one in messages if one.key == "1" and one.type == "inserted"]
            after = [one for one in messages if one.key == "1" and one not in refused and refused]
            await super().publish([one for one in messages if one not in refused and one not in after])
            if refused:
                raise Refused([(one, "not this one") for one in refused], after)

    broker = Picky()
    with Relay(engine, Base, group=group, to=broker, max_attempts=2) as relay:
        client.execute("INSERT INTO orders (id) VALUES (1), (2)")
        client.execute("UPDATE orders SET number = 1")
        relay.listener.catch_up()
        wait_until(client, "SELECT count(*) = 1 FROM sqlalchemy_watch.dead_letters WHERE retry_at IS NULL")
        wait_until(client, "SELECT count(*) = 1 FROM sqlalchemy_watch.dead_letters")
        told = [(one.type, one.key) for one in broker.messages]
        assert told == [("inserted", "2"), ("updated", "2"), ("updated", "1")]
        error = client.execute("SELECT error FROM sqlalchemy_watch.dead_letters").fetchone()
        assert error is not None
        assert "not this one" in error[0]


def test_what_fails_for_the_moment_is_tried_again_and_never_parked(
    engine: Engine, tables: None, client: Client, group: str
) -> None:
    broker = Recording()
    with Relay(engine, Base, group=group, to=broker, max_attempts=1) as relay:
        broker.errors = [OSError(f"no broker, the time {number}") for number in range(4)]
        client.execute("INSERT INTO orders (id) VALUES (1)")
        assert [one.type for one in broker.wait_for(1)] == ["inserted"]
        assert relay.stats().failed == 4
        assert broker.starts == 5
        assert client.execute("SELECT count(*) FROM sqlalchemy_watch.dead_letters").fetchone() == (0,)


def test_of_two_relays_one_publishes_and_the_other_takes_over(
    engine: Engine, tables: None, client: Client, group: str
) -> None:
    one, another = Recording(), Recording()
    first = Relay(engine, Base, group=group, to=one)
    first.start()
    with Relay(engine, Base, group=group, to=another) as second:
        client.execute("INSERT INTO orders (id) VALUES (1)")
        assert one.wait_for(1)[-1].key == "1"
        assert second.stats().listener.active is False  # type: ignore[union-attr]
        first.stop()
        client.execute("INSERT INTO orders (id) VALUES (2)")
        assert [each.key for each in another.wait_for(1)] == ["2"]


def test_a_broker_that_is_not_there_is_told_of_or_waited_for(
    start: Start, engine: Engine, tables: None, client: Client, group: str
) -> None:
    broker = start(Nats)
    broker.stop()
    relay = Relay(engine, Base, group=group, to=broker.url, create=True)
    with pytest.raises(ListenerStartError, match="the broker did not answer in time"):
        relay.start(timeout=1.0)
    assert not relay.running
    assert client.execute("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", [group]).fetchone() == (0,)
    relay.start(wait=False)
    wait_until(client, lambda: relay.stats().waits_for is not None)
    broker.start()
    wait_until(client, relay.healthy)
    client.execute("INSERT INTO orders (id) VALUES (1)")
    relay.listener.catch_up()
    assert [one["identity"] for one in got(broker) if one["operation"] == "inserted"] == [[1]]
    relay.stop()
    relay.stop()


def test_a_subject_without_a_stream_is_refused_at_once(start: Start, engine: Engine, tables: None, group: str) -> None:
    broker = start(Nats)
    for begin in (Relay.start, Relay.run):
        with pytest.raises(ConfigurationError, match="create"):
            begin(Relay(engine, Base, group=group, to=broker.url))


def test_it_stops_at_once_while_the_broker_does_not_answer(
    start: Start, engine: Engine, tables: None, client: Client, group: str
) -> None:
    broker = start(Redis)
    relay = Relay(engine, Base, group=group, to=broker.url, timeout=60.0)
    relay.start()
    broker.freeze()
    client.execute("INSERT INTO orders (id) VALUES (1)")
    stopping = threading.Thread(target=relay.stop, args=[2.0])
    stopping.start()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert not relay.running
    broker.thaw()
    with Relay(engine, Base, group=group, to=broker.url) as relay:
        relay.listener.catch_up()
        assert {one["identity"][0] for one in got(broker) if one["operation"] == "inserted"} == {1}


def test_a_resync_that_could_not_be_published_comes_at_the_next_start(
    engine: Engine, tables: None, client: Client, group: str
) -> None:
    broker = Recording()
    with Relay(engine, Base, group=group, to=broker) as relay:
        broker.errors = [OSError("no broker")] * 1_000
        client.execute("SELECT pg_logical_emit_message(true, 'sqlalchemy_watch/watch_orders_inserted', '{\"v\": 999}')")
        wait_until(client, lambda: relay.stats().waits_for is not None)
    assert broker.messages == []
    broker.errors = []
    with Relay(engine, Base, group=group, to=broker) as relay:
        client.execute("INSERT INTO orders (id) VALUES (1)")
        assert [one.type for one in broker.wait_for(2)] == ["resync", "inserted"]


def test_a_resync_that_is_refused_holds_the_line(engine: Engine, tables: None, client: Client, group: str) -> None:
    class Picky(Recording):
        async def publish(self, messages: Sequence[Message]) -> None:
            if messages[0].type == "resync" and len(self.calls) < 2:
                self.calls.append([one.id for one in messages])
                raise Refused([(messages[0], "no stream")])
            await super().publish(messages)

    broker = Picky()
    with Relay(engine, Base, group=group, to=broker) as relay:
        client.execute("SELECT pg_logical_emit_message(true, 'sqlalchemy_watch/watch_orders_inserted', '{\"v\": 999}')")
        client.execute("INSERT INTO orders (id) VALUES (1)")
        wait_until(client, lambda: relay.stats().waits_for is not None)
        assert not relay.healthy()
        assert [one.type for one in broker.wait_for(2)] == ["resync", "inserted"]
    assert broker.calls[0] == broker.calls[1] == broker.calls[2]  # the same id


def test_a_stream_that_does_not_take_resyncs_is_refused_at_once(
    start: Start, engine: Engine, tables: None, group: str
) -> None:
    broker = start(Nats)

    async def make() -> None:
        connection = await nats.connect(broker.url)
        await connection.jetstream().add_stream(name="watch", subjects=["watch.public.>"])
        await connection.close()

    asyncio.run(make())
    with pytest.raises(ConfigurationError, match=r"no stream for 'watch\._\._\.resync\._'"):
        Relay(engine, Base, group=group, to=broker.url).start()


def test_what_comes_after_a_refused_message_is_not_given_up_with_it(
    engine: Engine, tables: None, client: Client, group: str
) -> None:
    class Picky(Recording):
        async def publish(self, messages: Sequence[Message]) -> None:
            if any(one.type == "inserted" for one in messages):
                first, *others = messages
                raise Refused([(first, "not this one")], others)
            await super().publish(messages)

    broker = Picky()
    with Relay(engine, Base, group=group, to=broker, max_attempts=1) as relay:
        client.execute(
            "BEGIN; INSERT INTO orders (id) VALUES (1); UPDATE orders SET number = 1; "
            "UPDATE orders SET number = 2; COMMIT"
        )
        relay.listener.catch_up()
        assert [one.type for one in broker.messages] == ["updated", "updated"]
        assert client.execute("SELECT count(*) FROM sqlalchemy_watch.dead_letters").fetchone() == (1,)


def test_what_can_not_be_written_holds_back_what_comes_after_it_of_its_row(
    engine: Engine, tables: None, client: Client, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Writer.event

    def fail(writer: Writer, event: Any) -> Message:
        if event.values.get("number") == 13:
            raise ConfigurationError("13 has no form in JSON")
        return write(writer, event)

    monkeypatch.setattr(Writer, "event", fail)
    broker = Recording()
    with Relay(engine, Base, group=group, to=broker) as relay:
        client.execute(
            "BEGIN; INSERT INTO orders (id) VALUES (1), (2); UPDATE orders SET number = 13 WHERE id = 1; "
            "UPDATE orders SET number = 14; COMMIT"
        )
        relay.listener.catch_up()
        told = [(one.type, one.key) for one in broker.messages]
        assert told == [("inserted", "1"), ("inserted", "2"), ("updated", "2")]
        letters = client.execute("SELECT attempts FROM sqlalchemy_watch.dead_letters ORDER BY lsn, position").fetchall()
        assert letters == [(1,), (0,)]


def test_one_that_is_stopped_while_it_starts_leaves_nothing_running(
    start: Start, engine: Engine, tables: None, client: Client, group: str
) -> None:
    class Slow(Recording):
        def __init__(self) -> None:
            super().__init__()
            self.begun = threading.Event()

        async def start(self) -> None:
            self.begun.set()
            await asyncio.sleep(3600)

    broker = Slow()
    relay = Relay(engine, Base, group=group, to=broker)
    errors: list[BaseException] = []

    def begin() -> None:
        try:
            relay.start(timeout=60.0)
        except ListenerStartError as error:
            errors.append(error)

    starting = threading.Thread(target=begin)
    starting.start()
    assert broker.begun.wait(PATIENCE)
    relay.stop()
    starting.join(PATIENCE)
    assert [str(error) for error in errors] == ["the relay was stopped meanwhile"]
    assert not relay.running
    assert not relay.listener.running


def test_a_publisher_that_is_cancelled_has_failed(engine: Engine, tables: None, client: Client, group: str) -> None:
    broker = Recording()
    with Relay(engine, Base, group=group, to=broker) as relay:
        broker.errors = [asyncio.CancelledError()]  # type: ignore[list-item]
        client.execute("INSERT INTO orders (id) VALUES (1)")
        broker.wait_for(1)
        assert (relay.stats().failed, broker.starts) == (1, 2)


def test_bad_input_is_refused_at_once(engine: Engine) -> None:
    for options, words in (
        ({"to": "amqp://localhost"}, "no broker is known by it"),
        ({"to": 7}, "give a URL such as"),
        ({"to": Recording}, "give a URL such as"),
        ({"to": "nats://localhost:x"}, "'x' is no port"),
        ({"format": "xml"}, "it is 'cloudevents' or 'plain'"),
        ({"subject": "a b"}, "whitespace"),
        ({"durable": "x"}, "durable= is not an option of it: use group="),
        ({"retry": None}, "retry= is not an option of it: use max_attempts="),
        ({"max_attempts": 0}, "max_attempts must be an int of at least 1"),
        ({"group": "Not-a-slot"}, "a consumer group is a replication slot"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Relay(engine, Base, **{"group": "g", "to": Recording(), **options})  # type: ignore[arg-type]
