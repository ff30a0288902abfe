"""Publishers, and the brokers they are for: real servers, that are killed, frozen and full."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from support import PATIENCE

from sqlalchemy_watch import ConfigurationError
from sqlalchemy_watch.relay.messages import Message, Writer
from sqlalchemy_watch.relay.publishers import Publisher, Refused, publisher_for

from .brokers import Broker, MockKafka, Nats, Redis, Tansu
from .conftest import Start, asynchronous, message

nats = pytest.importorskip("nats")
redis = pytest.importorskip("redis.asyncio")
aiokafka = pytest.importorskip("aiokafka")

#: Seconds; short, for brokers that do not answer.
TIMEOUT = 2.0

LONG_AGO = datetime.now(UTC) - timedelta(days=1)

every_broker = pytest.mark.parametrize("kind", [Nats, Redis, MockKafka, Tansu])
lasting_broker = pytest.mark.parametrize("kind", [Nats, Redis, MockKafka])

#: What was got: the id, the key (of NATS the subject), the headers or fields, and the data.
Got = tuple[str, str | None, dict[str, str], bytes]


@asynccontextmanager
async def publishing(broker: Broker, **options: Any) -> AsyncIterator[Publisher]:
    """A publisher that is connected."""
    options.setdefault("create", isinstance(broker, Nats))
    publisher = publisher_for(broker.url, **{"timeout": PATIENCE, **options})
    if isinstance(broker, (Tansu, MockKafka)):
        await make_topic(broker)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.close()


async def make_topic(broker: Broker) -> None:
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    if isinstance(broker, Tansu):
        admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{broker.port}")
        await admin.start()
        await admin.create_topics([NewTopic("watch", 3, 1)])
        await admin.close()


async def read(broker: Broker, stream: str = "watch") -> list[Got]:
    """Return all that the broker has, as a consumer gets it."""
    if isinstance(broker, Nats):
        return await read_nats(broker, stream)
    return await (read_redis if isinstance(broker, Redis) else read_kafka)(broker, stream)


async def read_nats(broker: Broker, stream: str) -> list[Got]:
    from nats.js.api import AckPolicy, ConsumerConfig

    client = await nats.connect(broker.url)
    js = client.jetstream()
    left = (await js.stream_info(stream)).state.messages
    found: list[Got] = []
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    subscription = await js.pull_subscribe(">", stream=stream, config=config)
    while left:
        batch = await subscription.fetch(min(left, 1000), timeout=PATIENCE)
        found += [(one.headers["ce-id"], one.subject, one.headers, one.data) for one in batch]
        left -= len(batch)
    await client.close()
    return found


async def read_redis(broker: Broker, stream: str) -> list[Got]:
    async with redis.Redis.from_url(broker.url) as client:
        entries = await client.xrange(stream)
    fields = [{name.decode(): value for name, value in entry.items()} for _, entry in entries]
    texts = [{name: value.decode() for name, value in each.items() if name != "data"} for each in fields]
    return [(each["id"], each.get("key"), each, raw["data"]) for each, raw in zip(texts, fields, strict=True)]


async def read_kafka(broker: Broker, topic: str) -> list[Got]:
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=f"127.0.0.1:{broker.port}", enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[Got] = []
    try:
        await consumer._client._wait_on_metadata(topic)
        places = [aiokafka.TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for one in records:
                    headers = {name: value.decode() for name, value in one.headers}
                    found.append((headers["ce_id"], None if one.key is None else one.key.decode(), headers, one.value))
    finally:
        await consumer.stop()
    return found


def ids(got: list[Got]) -> list[str]:
    return [one[0] for one in got]


def by_key(messages: list[Message]) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for one in messages:
        found.setdefault(one.key, []).append(one.id)
    return found


async def eventually(publish: Callable[[], Awaitable[None]]) -> None:
    """Publish until it works, as the relay does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await publish()
        except Refused:
            raise
        except Exception:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def failed(done: Awaitable[None]) -> Exception | None:
    """Return what it raises."""
    try:
        await done
    except Exception as error:
        return error
    return None


# Any broker


@every_broker
@asynchronous
async def test_what_is_published_is_there(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    messages = [message(number, f"k{number % 5}") for number in range(50)]
    async with publishing(broker) as publisher:
        await publisher.publish([])
        await publisher.publish(messages)
    got = await read(broker)
    assert sorted(ids(got)) == [one.id for one in messages]
    data = {one.id: one.data for one in messages}
    assert all(raw == data[one] for one, _, _, raw in got)


@every_broker
@asynchronous
async def test_order_of_a_row_is_kept_across_operations(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    operations = ("inserted", "updated", "updated")
    messages = [message(number, f"k{number % 7}", operation=operations[number % 3]) for number in range(100)]
    async with publishing(broker) as publisher:
        await publisher.publish(messages)
    got = ids(await read(broker))
    assert len(got) == 100
    for expected in by_key(messages).values():
        assert [one for one in got if one in expected] == expected


@every_broker
@asynchronous
async def test_ten_thousand_messages(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    messages = [message(number, str(number % 9_000)) for number in range(10_000)]
    async with publishing(broker) as publisher:
        await publisher.publish(messages)
    assert sorted(ids(await read(broker))) == [one.id for one in messages]


@every_broker
@asynchronous
async def test_hostile_names_and_keys(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    texts = [
        "", "_", ".", "*", ">", "a.b.>", "a b", "\r\nPUB x 0\r\n", "ä\U0001f600", "%", "~", "$JS.API", "x" * 20_000,
        "\x7f\x1f",
    ]  # fmt: skip
    messages = [message(number, key, schema=f"s{key[:60]}") for number, key in enumerate(texts)]
    async with publishing(broker) as publisher:
        await publisher.publish(messages)
    assert sorted(ids(await read(broker))) == [one.id for one in messages]


@every_broker
@asynchronous
async def test_too_large_is_refused_and_what_comes_after_it_is_held(kind: type[Broker], start: Start) -> None:
    arguments = ("--proto-max-bulk-len", "1mb") if kind is Redis else ()
    broker = start(kind, *arguments)
    note = "x" * 1_100_000
    one, large, same, other = message(1, "a"), message(2, "a", note), message(3, "a"), message(4, "b")
    async with publishing(broker) as publisher:
        with pytest.raises(Refused) as raised:
            await publisher.publish([one, large, same, other])
        assert [each.id for each, _ in raised.value.reasons] == [large.id]
        assert raised.value.held == [same]
        assert sorted(ids(await read(broker))) == [one.id, other.id]
        await publisher.publish(raised.value.held)
    assert sorted(ids(await read(broker))) == [one.id, same.id, other.id]


@every_broker
@asynchronous
async def test_frozen_broker_is_no_hang_and_what_it_missed_comes_in_order(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    messages = [message(number, f"k{number % 2}") for number in range(10)]
    async with publishing(broker, timeout=TIMEOUT) as publisher:
        await publisher.publish(messages[:2])
        broker.freeze()
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(Exception) as raised:
                await publisher.publish(messages[2:])
            assert not isinstance(raised.value, (Refused, ConfigurationError))
            assert time.monotonic() - began < 2 * TIMEOUT + 1
        broker.thaw()
        await eventually(lambda: publisher.publish(messages[2:]))
    got = ids(await read(broker))
    assert set(got) == {one.id for one in messages}
    first = [one for place, one in enumerate(got) if one not in got[:place]]
    for expected in by_key(messages).values():
        assert [one for one in first if one in expected] == expected
    if kind is Nats:
        assert len(got) == len(messages)


@every_broker
@asynchronous
async def test_frozen_broker_holds_up_neither_start_nor_close(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    async with publishing(broker, timeout=TIMEOUT) as publisher:
        broker.freeze()
        with pytest.raises(Exception) as raised:
            await publisher.publish([message(1)])
        assert not isinstance(raised.value, (Refused, ConfigurationError))
        began = time.monotonic()
        await publisher.close()
        assert time.monotonic() - began < 3 * TIMEOUT + 1
        began = time.monotonic()
        with pytest.raises(Exception) as raised:
            await publisher.start()
        assert not isinstance(raised.value, ConfigurationError)
        assert time.monotonic() - began < 6 * TIMEOUT + 1
        broker.thaw()
        await eventually(publisher.start)
        await publisher.publish([message(2)])


@every_broker
@asynchronous
async def test_without_a_broker_it_can_be_tried_again(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    broker.kill()
    publisher = publisher_for(broker.url, timeout=TIMEOUT)
    for _ in range(2):
        with pytest.raises(Exception) as raised:
            await publisher.start()
        assert not isinstance(raised.value, (Refused, ConfigurationError))
    with pytest.raises(Exception) as raised:
        await publisher.publish([message(1)])
    assert not isinstance(raised.value, (Refused, ConfigurationError))
    await publisher.close()


@every_broker
@asynchronous
async def test_publisher_can_be_started_again(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    async with publishing(broker) as publisher:
        await publisher.publish([message(1)])
        await publisher.start()
        await publisher.publish([message(2)])
        await publisher.close()
        await publisher.close()
        await publisher.start()
        await publisher.publish([message(3)])
    assert sorted(ids(await read(broker))) == [message(number).id for number in (1, 2, 3)]


@lasting_broker
@pytest.mark.parametrize("how", ["stopped", "killed"])
@asynchronous
async def test_broker_that_comes_back_has_what_it_confirmed(kind: type[Broker], how: str, start: Start) -> None:
    broker = start(kind)
    messages = [message(number, str(number % 3)) for number in range(300)]
    async with publishing(broker, timeout=TIMEOUT) as publisher:
        for place in range(0, 300, 30):
            if place in (90, 210):
                broker.restart(kill=how == "killed")
            part = messages[place : place + 30]
            await eventually(lambda part=part: publisher.publish(part))  # type: ignore[misc]
    got = ids(await read(broker))
    first = [one for place, one in enumerate(got) if one not in got[:place]]
    assert set(got) == {one.id for one in messages}
    for expected in by_key(messages).values():
        assert [one for one in first if one in expected] == expected


@lasting_broker
@asynchronous
async def test_broker_that_is_killed_while_it_is_published_to(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    messages = [message(number, str(number % 50)) for number in range(3_000)]
    async with publishing(broker, timeout=TIMEOUT) as publisher:
        for _ in range(3):
            task = asyncio.ensure_future(publisher.publish(messages))
            await asyncio.sleep(0.03)
            await asyncio.to_thread(broker.restart, kill=True)
            assert not isinstance(await failed(task), (Refused, ConfigurationError))
        await eventually(lambda: publisher.publish(messages))
    got = ids(await read(broker))
    first = list(dict.fromkeys(got))
    assert set(got) == {one.id for one in messages}
    for expected in by_key(messages).values():
        those = set(expected)
        assert [one for one in first if one in those] == expected
    if kind is Nats:
        assert len(got) == len(messages)


@every_broker
@asynchronous
async def test_what_was_published_when_the_publisher_went_away_is_published_by_the_next(
    kind: type[Broker], start: Start
) -> None:
    broker = start(kind)
    if isinstance(broker, Nats):
        await make_stream(broker, duplicate_window=0.1)
    messages = [message(number, str(number % 40), at=LONG_AGO) for number in range(1_000)]
    for seconds in (0.01, 0.05, 0.1, 0.2):
        async with publishing(broker) as publisher:
            task = asyncio.ensure_future(publisher.publish(messages))
            await asyncio.wait([task], timeout=seconds)
            task.cancel()
            await asyncio.wait([task])
        await asyncio.sleep(0.3)
    async with publishing(broker) as publisher:
        await publisher.publish(messages)
    got = ids(await read(broker))
    first = list(dict.fromkeys(got))
    assert set(got) == {one.id for one in messages}
    for expected in by_key(messages).values():
        those = set(expected)
        assert [one for one in first if one in those] == expected
    if kind is Nats:
        assert len(got) == len(messages)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(Nats, ("--user", "me", "--pass", "p@:/%x")), (Redis, ("--requirepass", "p@:/%x"))],
)
@asynchronous
async def test_password_in_the_url(kind: type[Broker], arguments: tuple[str, ...], start: Start) -> None:
    broker = start(kind, *arguments)
    user = "me" if kind is Nats else ""
    url = broker.url.replace("://", f"://{user}:{quote('p@:/%x', safe='')}@")
    publisher = publisher_for(url, create=True, timeout=TIMEOUT)
    await publisher.start()
    await publisher.publish([message(1)])
    await publisher.close()
    wrong = publisher_for(url.replace("%25x", "y"), timeout=TIMEOUT)
    with pytest.raises(Exception, match=r"(?i)authorization|password") as raised:
        await wrong.start()
    assert not isinstance(raised.value, ConfigurationError)
    assert "p@:" not in str(raised.value)


# NATS


@asynchronous
async def test_nats_gets_subjects_and_headers(start: Start) -> None:
    broker = start(Nats)
    structured, plain = message(1), message(2, writer=Writer(format="plain"))
    async with publishing(broker) as publisher:
        await publisher.publish([structured, plain])
    (_, subject, headers, data), (_, _, plain_headers, _) = await read(broker)
    assert subject == "watch.public.orders.updated.7"
    assert headers["content-type"] == "application/cloudevents+json; charset=UTF-8"
    assert "ce-specversion" not in headers  # the Go SDK would take the data for that of a binary message
    assert headers["ce-id"] == json.loads(data)["id"] == structured.id
    assert plain_headers["ce-specversion"] == "1.0"
    assert plain_headers["content-type"] == "application/json"


@asynchronous
async def test_nats_drops_what_it_has(start: Start) -> None:
    broker = start(Nats)
    messages = [message(number, str(number % 3)) for number in range(30)]
    async with publishing(broker) as publisher:
        await publisher.publish(messages)
        await publisher.publish(messages)
    async with publishing(broker) as publisher:
        await publisher.publish(messages)
    assert ids(await read(broker)) == [one.id for one in messages]


@pytest.mark.parametrize("direct", [True, False])
@asynchronous
async def test_nats_is_asked_for_what_its_window_has_forgotten(direct: bool, start: Start) -> None:
    broker = start(Nats)
    await make_stream(broker, duplicate_window=0.2, allow_direct=direct)
    messages = [message(number, str(number % 3), at=LONG_AGO) for number in range(60)]
    async with publishing(broker) as publisher:
        await publisher.publish(messages[:40])
        await asyncio.sleep(0.5)
        await publisher.publish(messages[:40])
    async with publishing(broker) as publisher:
        await publisher.publish(messages[20:])
    assert ids(await read(broker)) == [one.id for one in messages]


@asynchronous
async def test_nats_gets_a_dead_letter_that_is_older_than_the_last_of_its_subject(start: Start) -> None:
    broker = start(Nats)
    await make_stream(broker, duplicate_window=0.2)
    messages = [message(number, at=LONG_AGO) for number in range(30)]
    async with publishing(broker) as publisher:
        await publisher.publish(messages[:13] + messages[14:])
        for _ in range(2):
            await asyncio.sleep(0.5)
            await publisher.publish([messages[13]])
        await publisher.publish([messages[2]])
    assert sorted(ids(await read(broker))) == [one.id for one in messages]


@asynchronous
async def test_nats_gets_what_comes_after_places_in_the_log_begin_anew(start: Start) -> None:
    """After an upgrade of PostgreSQL, or another server, whose numbers are smaller."""
    broker = start(Nats)
    before = [message(number, at=LONG_AGO) for number in range(1_000, 1_010)]
    after = [message(number, at=LONG_AGO) for number in range(10)]
    async with publishing(broker) as publisher:
        await publisher.publish(before)
        await publisher.publish(after)
    assert ids(await read(broker)) == [one.id for one in before + after]


@asynchronous
async def test_nats_keeps_two_relays_of_one_stream_apart(start: Start) -> None:
    broker = start(Nats)
    await make_stream(broker, subjects=["one.>", "two.>"])
    for prefix in ("one", "two"):
        template = f"{prefix}.{{table}}.{{key}}"
        async with publishing(broker, subject=template) as publisher:
            await publisher.publish([message(1, writer=Writer(template))])
    assert [one[1] for one in await read(broker)] == ["one.orders.7", "two.orders.7"]


@asynchronous
async def test_nats_without_a_stream_is_refused_at_the_start(start: Start) -> None:
    broker = start(Nats)
    with pytest.raises(
        ConfigurationError, match=r"no stream for 'watch.\*.\*.\*.\*'.*nats stream add watch .*--create"
    ):
        async with publishing(broker, create=False):
            pass


@asynchronous
async def test_nats_stream_is_made_and_found_again(start: Start) -> None:
    broker = start(Nats)
    for create in (True, True, False):
        async with publishing(broker, subject="shop.eu.{table}", create=create) as publisher:
            await publisher.publish([message(1, writer=Writer("shop.eu.{table}"))])
    client = await nats.connect(broker.url)
    config = (await client.jetstream().stream_info("shop_eu")).config
    await client.close()
    assert (config.subjects, config.storage, config.duplicate_window) == (["shop.eu.>"], "file", 120.0)
    assert ids(await read(broker, "shop_eu")) == [message(1).id]


def test_nats_stream_for_everything_is_not_made() -> None:
    with pytest.raises(ConfigurationError, match="begin it with a word"):
        publisher_for("nats://localhost", subject="{table}.{key}", create=True)


@asynchronous
async def test_nats_without_jetstream_says_so(start: Start) -> None:
    class Plain(Nats):
        def command(self) -> list[str]:
            return [argument for argument in super().command() if argument != "-js"]

    with pytest.raises(ConnectionError, match="-js"):
        async with publishing(start(Plain)):
            pass


@asynchronous
async def test_nats_refuses_what_no_stream_takes(start: Start) -> None:
    broker = start(Nats)
    await make_stream(broker, subjects=["watch.public.>", "watch._.>"])
    good, bad = message(1), message(2, "8", schema="other")
    async with publishing(broker) as publisher:
        with pytest.raises(Refused, match=r"no stream takes the subject 'watch\.other\.orders\.updated\.8'") as raised:
            await publisher.publish([bad, good])
    assert [one for one, _ in raised.value.reasons] == [bad]
    assert ids(await read(broker)) == [good.id]


@asynchronous
async def test_nats_refuses_what_is_larger_than_the_stream_takes(start: Start) -> None:
    broker = start(Nats)
    await make_stream(broker, max_msg_size=2_000)
    good, large, after = message(1, "8"), message(2, note="x" * 3_000), message(3)
    async with publishing(broker) as publisher:
        with pytest.raises(Refused, match="max_msg_size") as raised:
            await publisher.publish([large, good, after])
        assert raised.value.held == [after]
    assert ids(await read(broker)) == [good.id]


@asynchronous
async def test_nats_refuses_what_fits_only_without_its_headers(start: Start) -> None:
    """The client looks at the data alone, and the server would end the connection."""
    broker = start(Nats)
    note = "x" * (1024 * 1024 - len(message(1).data))
    assert len(message(1, note=note).data) == 1024 * 1024
    async with publishing(broker) as publisher:
        with pytest.raises(Refused, match="max_payload is 1,048,576"):
            await publisher.publish([message(1, note=note)])
        await publisher.publish([message(2)])


@asynchronous
async def test_nats_refuses_a_subject_that_ends_the_connection(start: Start) -> None:
    broker = start(Nats)
    template = "watch." + ".".join(["{key}"] * 10)
    async with publishing(broker, subject=template) as publisher:
        with pytest.raises(Refused, match="subject is longer"):
            await publisher.publish([message(1, "x" * 10_000, writer=Writer(template))])
        await publisher.publish([message(2, writer=Writer(template))])


@asynchronous
async def test_nats_stream_that_is_full_is_worth_another_try(start: Start) -> None:
    broker = start(Nats)
    await make_stream(broker, max_bytes=20_000, discard="new")
    messages = [message(number, str(number % 2), "x" * (10 if number % 2 else 2_000)) for number in range(40)]
    async with publishing(broker) as publisher:
        with pytest.raises(Exception, match="maximum bytes exceeded") as raised:
            await publisher.publish(messages)
        assert not isinstance(raised.value, Refused)
        client = await nats.connect(broker.url)
        js = client.jetstream()
        await js.update_stream((await js.stream_info("watch")).config.evolve(max_bytes=10_000_000))
        await client.close()
        await publisher.publish(messages)
    got = ids(await read(broker))
    assert sorted(got) == [one.id for one in messages]
    for expected in by_key(messages).values():
        assert [one for one in got if one in expected] == expected


async def make_stream(broker: Broker, **config: Any) -> None:
    client = await nats.connect(broker.url)
    await client.jetstream().add_stream(**{"name": "watch", "subjects": ["watch.>"], **config})
    await client.close()


# Redis


@asynchronous
async def test_redis_gets_plain_fields(start: Start) -> None:
    broker = start(Redis)
    one, all_rows = message(1), message(2, None)
    async with publishing(broker) as publisher:
        await publisher.publish([one, all_rows])
    (_, _, fields, data), (_, _, others, _) = await read(broker)
    assert fields == {
        "id": one.id, "type": "updated", "subject": one.subject, "schema": "public", "table": "orders", "key": "7",
        "content_type": one.content_type,
    }  # fmt: skip
    assert data == one.data
    assert "key" not in others


@asynchronous
async def test_redis_streams_by_template_are_trimmed(start: Start) -> None:
    broker = start(Redis)
    publisher = publisher_for(f"{broker.url}/0?stream=watch:{{schema}}:{{table}}&maxlen=100")
    await publisher.start()
    await publisher.publish([message(number, str(number)) for number in range(1_000)])
    await publisher.publish([Writer().resync("lost", 7)])
    await publisher.close()
    assert 100 <= len(await read(broker, "watch:public:orders")) < 1_000
    assert ids(await read(broker, "watch:_:_")) == ["resync-0000000000000007"]


@asynchronous
async def test_redis_that_is_full_writes_nothing_of_a_list(start: Start) -> None:
    broker = start(Redis, "--maxmemory", "5mb", "--maxmemory-policy", "noeviction")
    messages = [message(number, str(number), "x" * 10_000) for number in range(300)]
    async with publishing(broker) as publisher:
        for _ in range(30):
            filled = await failed(publisher.publish(messages[:20]))
        assert filled is not None
        assert "memory" in str(filled)
        async with redis.Redis.from_url(broker.url) as client:
            before = await client.xlen("watch")
            with pytest.raises(Exception, match="(?i)memory"):
                await publisher.publish(messages)
            assert await client.xlen("watch") == before
            await client.config_set("maxmemory", 0)
        await publisher.publish(messages)
    assert ids(await read(broker))[before:] == [one.id for one in messages]


@asynchronous
async def test_redis_that_is_read_only_is_worth_another_try(start: Start) -> None:
    broker = start(Redis)
    async with publishing(broker) as publisher, redis.Redis.from_url(broker.url) as client:
        await client.replicaof("127.0.0.1", 1)
        with pytest.raises(redis.RedisError) as raised:
            await publisher.publish([message(1)])
        assert "replica" in str(raised.value)
        await client.replicaof("NO", "ONE")
        await publisher.publish([message(1)])
    assert ids(await read(broker)) == [message(1).id]


@asynchronous
async def test_redis_refuses_a_stream_that_is_none(start: Start) -> None:
    broker = start(Redis)
    async with redis.Redis.from_url(broker.url) as client:
        await client.set("watch", "x")
        async with publishing(broker) as publisher:
            with pytest.raises(Refused, match="'watch' is no stream"):
                await publisher.publish([message(1)])
            await client.delete("watch")
            await publisher.publish([message(1)])
    assert ids(await read(broker)) == [message(1).id]


@asynchronous
async def test_redis_lost_confirmation_writes_a_list_once_more_and_not_more_often(start: Start) -> None:
    """The client by itself would, with its own retries."""
    broker = start(Redis)
    async with publishing(broker, timeout=TIMEOUT) as publisher:
        broker.freeze()
        with pytest.raises(Exception, match="(?i)time|answer"):
            await publisher.publish([message(1)])
        broker.thaw()
        await publisher.publish([message(1)])
    assert ids(await read(broker)) == [message(1).id] * 2


@asynchronous
async def test_redis_option_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        await publisher_for("redis://localhost?nonsense=1").start()


# Kafka


@pytest.mark.parametrize("kind", [MockKafka, Tansu])
@asynchronous
async def test_kafka_gets_keys_and_headers(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    one = message(1, "ä")
    async with publishing(broker) as publisher:
        await publisher.publish([one])
    ((_, key, headers, data),) = await read(broker)
    assert (key, data) == ("ä", one.data)
    assert headers == {
        "content-type": "application/cloudevents+json; charset=UTF-8",
        **{f"ce_{name}": value for name, value in one.headers.items()},
    }
    assert headers["ce_specversion"] == "1.0"


@pytest.mark.parametrize("kind", [MockKafka, Tansu])
@asynchronous
async def test_kafka_gets_what_names_no_row_in_every_partition(kind: type[Broker], start: Start) -> None:
    broker = start(kind)
    truncated, resync = message(1, None), Writer().resync("lost", 7)
    async with publishing(broker) as publisher:
        await publisher.publish([truncated, resync])
    got = ids(await read(broker))
    partitions = len(got) // 2
    assert partitions > 1
    assert got.count(truncated.id) == got.count(resync.id) == partitions


@asynchronous
async def test_kafka_topics_by_template(start: Start) -> None:
    broker = start(MockKafka)
    publisher = publisher_for(f"{broker.url.removesuffix('/watch')}/x.{{schema}}.{{table}}")
    await publisher.start()
    await publisher.publish([message(1, schema="größe"), message(2, schema="s" * 63 + "ä" * 100)])
    await publisher.close()
    assert ids(await read(broker, "x.gr_C3_B6_C3_9Fe.orders")) == [message(1).id]


#: Of Kafka's protocol: a kind of request, and errors.
PRODUCE, UNKNOWN_TOPIC, TOO_LARGE, NOT_LEADER, UNAUTHORIZED = 0, 3, 10, 6, 29


@asynchronous
async def test_kafka_without_the_topic(start: Start) -> None:
    broker = start(MockKafka)
    broker.tell(f"topic watch {UNKNOWN_TOPIC}")
    with pytest.raises(ConfigurationError, match="no topic 'watch'.*kafka-topics.sh"):
        await publisher_for(broker.url, timeout=TIMEOUT).start()
    broker.tell(f"topic watch.public.orders {UNKNOWN_TOPIC}")
    publisher = publisher_for(broker.url.removesuffix("/watch"), timeout=TIMEOUT)
    await publisher.start()
    bad, good = [message(number, str(number)) for number in range(20)], message(100, schema="other")
    with pytest.raises(Refused, match=r"no topic 'watch.public.orders'.*and 19 others") as raised:
        await publisher.publish([*bad, good])
    assert [one for one, _ in raised.value.reasons] == bad
    await publisher.close()
    assert ids(await read(broker, "watch.other.orders")) == [good.id]


@asynchronous
async def test_kafka_batch_that_is_too_large_for_the_broker_is_sent_one_by_one(start: Start) -> None:
    broker = start(MockKafka)
    messages = [message(number, f"k{number}") for number in range(20)]
    async with publishing(broker) as publisher:
        await publisher.publish(messages[:1])
        broker.tell(f"push {PRODUCE} {TOO_LARGE}")
        await publisher.publish(messages[1:])
        broker.tell(f"push {PRODUCE} {TOO_LARGE}")
        with pytest.raises(Refused, match=r"message\.max\.bytes"):
            await publisher.publish([message(100)])
        await publisher.publish([message(101)])
    assert sorted(ids(await read(broker))) == [one.id for one in messages] + [message(101).id]


@pytest.mark.parametrize("code", [NOT_LEADER, UNAUTHORIZED])
@asynchronous
async def test_kafka_error_that_passes_is_worth_another_try(code: int, start: Start) -> None:
    broker = start(MockKafka)
    async with publishing(broker, timeout=TIMEOUT) as publisher:
        broker.tell(f"push {PRODUCE} {code}")
        await eventually(lambda: publisher.publish([message(1)]))
        await publisher.publish([message(2)])
    assert sorted(ids(await read(broker))) == [message(1).id, message(2).id]


def test_kafka_topics_are_not_made() -> None:
    with pytest.raises(ConfigurationError, match="partitions"):
        publisher_for("kafka://localhost", create=True)
