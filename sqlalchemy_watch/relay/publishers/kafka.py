"""Kafka: a record for each message, its key the row's (extra `kafka`)."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Sequence
from typing import Any, ClassVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTopicError, MessageSizeTooLargeError, UnknownTopicOrPartitionError

from ...errors import ConfigurationError, one_line
from ..messages import Message
from ..subjects import Template, shortened
from .protocol import TIMEOUT, Refusals, check_timeout, runs, within
from .urls import read, whole_number

log: logging.Logger = logging.getLogger(__name__)

#: One topic for each table.
TOPIC = "watch.{schema}.{table}"

#: What a topic's template may name: one for each row would be too many.
TOPIC_FIELDS = ("schema", "table", "operation", "label")

_LONGEST_TOPIC = 249

_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")

#: Of the URL, and the types of AIOKafkaProducer's arguments of these names.
_TEXTS = ("security_protocol", "sasl_mechanism", "compression_type")
_NUMBERS = ("max_request_size",)

#: How often the client tries to connect, and more.
_ATTEMPTS = 4

_PASSING_SECONDS = 0.1

#: Where a message goes: its id, the topic, and the partition, None for that of its key.
_Place = tuple[str, str, int | None]


class KafkaPublisher:
    """Publishes to Kafka, with acks=all and an idempotent producer.

    The row's identity is the record's key, and so all of one row is in one partition. What names no row, truncated and
    resync, concerns all of them and goes to every partition. What a relay that was killed had written is written again:
    consumers drop a `ce_id` that they have seen.

    :param servers: `host:port`.
    :param topic: its name, or a template, where characters that Kafka does not take are `_`. For a resync schema and
        table are `_`.
    :param timeout: seconds within which the broker has to answer.
    :param idempotent: False for brokers that know no idempotent producers; a list may be written twice.
    :param options: further arguments of `AIOKafkaProducer`, such as `security_protocol`.
    :raises ConfigurationError: for a wrong argument.
    """

    #: Its name in metrics.
    system: ClassVar[str] = "kafka"

    def __init__(
        self, *servers: str, topic: str = TOPIC, timeout: float = TIMEOUT, idempotent: bool = True, **options: Any
    ) -> None:
        self._servers, self._options, self._is_idempotent = list(servers), options, idempotent
        self._timeout = check_timeout(timeout)
        self._topic = Template(topic, "topic", TOPIC_FIELDS)
        self._producer: AIOKafkaProducer | None = None
        #: What is on its way after a time-out: the client goes on with it for ever, and it is not to be sent again.
        self._on_way: dict[_Place, asyncio.Future[Any]] = {}
        #: Topics that are not there, by what is published at present: to ask for each takes a while.
        self._missing: set[str] = set()
        if not servers:
            raise ConfigurationError("to=kafka://: name a host, as in kafka://localhost:9092")
        if _ILLEGAL.search(re.sub(r"\{\w+\}", "", topic)):
            raise ConfigurationError(f"topic={topic!r}: Kafka takes ASCII letters, digits, '.', '_' and '-' alone")

    @classmethod
    def from_url(cls, url: str, *, subject: str, create: bool, timeout: float) -> KafkaPublisher:
        """Return the publisher for a URL, as `publisher_for` has it."""
        address = read(url, [*_TEXTS, *_NUMBERS, "idempotent"])
        if create:
            raise ConfigurationError(
                "create=True (--create): how many partitions and replicas a topic has is for you to say; make it with "
                "kafka-topics.sh --create, or have the broker do so (auto.create.topics.enable)"
            )
        idempotent = address.options.pop("idempotent", "true")
        if idempotent not in ("true", "false"):
            raise ConfigurationError(f"to=kafka://…?idempotent={idempotent}: it is true or false")
        options: dict[str, Any] = dict(address.options)
        options |= {name: whole_number(address, name) for name in _NUMBERS if name in options}
        if address.user is not None:
            options |= {"sasl_plain_username": address.user, "sasl_plain_password": address.password or ""}
            options.setdefault("security_protocol", "SASL_SSL")
        return cls(
            *address.hosts, topic=address.path or TOPIC, timeout=timeout, idempotent=idempotent == "true", **options
        )

    async def start(self) -> None:
        """Connect.

        :raises ConfigurationError: without the topic, where it is one for all, and for a wrong option.
        """
        await self.close()
        await self._connect()
        topic = self._topic.prefix
        if topic == self._topic.text:
            try:
                await within(self._timeout, f"asking Kafka for {topic!r}", self._partitions(topic))
            except UnknownTopicOrPartitionError:
                await self.close()
                raise ConfigurationError(
                    f"Kafka has no topic {topic!r}: make it, with kafka-topics.sh --create --topic {topic}"
                ) from None
            except BaseException:
                await self.close()
                raise

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish messages, and return once all replicas that are in sync have them.

        :raises Refused: they are too large, or there is no such topic.
        """
        refusals = Refusals()
        self._missing.clear()
        for run in runs(messages):
            fitting = [message for message in run if not refusals.holds(message)]
            too_large = await self._publish(fitting, refusals)
            for message in too_large:
                # It was refused with the batch that it was in; what is too large alone is so for good.
                if len(fitting) == 1 or await self._publish([message], refusals):
                    refusals.add(message, "it is larger than the broker's message.max.bytes")
        refusals.check()

    async def close(self) -> None:
        """Disconnect."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            # Of what is on its way the client would wait for the confirmation, however long that takes.
            seconds = _PASSING_SECONDS if self._on_way else self._timeout
            await within(seconds, "disconnecting from Kafka", producer.stop())
        except Exception as error:
            log.debug("disconnecting from Kafka: %s", one_line(error))
            task = producer._sender.sender_task  # noqa: SLF001 - it would try for ever
            if task is not None:
                task.cancel()
            await asyncio.wait([asyncio.ensure_future(producer.client.close())], timeout=self._timeout)
        for answer in self._on_way.values():
            answer.cancel()
        self._on_way.clear()

    async def _connect(self) -> None:
        options = dict(self._options)
        if "SSL" in options.get("security_protocol", ""):
            options.setdefault("ssl_context", ssl.create_default_context())
        try:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._servers,
                acks="all",
                enable_idempotence=self._is_idempotent,
                request_timeout_ms=int(self._timeout * 500),
                **options,
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"to=kafka://…: an option in it can't be ({one_line(error)})") from None
        self._producer = producer
        try:
            # Whose time-outs end it before: cancelled, it leaves connections open.
            await within(_ATTEMPTS * self._timeout, "connecting to Kafka", producer.start())
        except BaseException:
            await self.close()
            raise

    async def _partitions(self, topic: str) -> list[int]:
        if self._producer is None:
            raise ConnectionError("not connected to Kafka: start() first")
        return sorted(await self._producer.partitions_for(topic))

    async def _publish(self, run: Sequence[Message], refusals: Refusals) -> list[Message]:
        """Publish messages of different rows; return those that were too large for the broker."""
        if self._producer is None:
            await self._connect()
        await self._look_for_topics(run)
        answers: dict[asyncio.Future[Any], tuple[Message, _Place]] = {}
        await within(self._timeout, "publishing to Kafka", self._send(run, answers, refusals))
        if not answers:
            return []
        done, late = await asyncio.wait(answers, timeout=self._timeout)
        errors = [(answers[each][0], each.exception()) for each in done if each.exception() is not None]
        for each in done:
            del self._on_way[answers[each][1]]
        if errors:
            # Its numbers have a gap now, with which the broker takes nothing more of an idempotent producer.
            await self.close()
        for _, error in errors:
            if error is not None and not isinstance(error, MessageSizeTooLargeError):
                raise error
        if late:
            raise TimeoutError(f"publishing to Kafka: no answer within {self._timeout:g} s")
        return list(dict.fromkeys(message for message in run if any(message is each for each, _ in errors)))

    async def _send(
        self, run: Sequence[Message], answers: dict[asyncio.Future[Any], tuple[Message, _Place]], refusals: Refusals
    ) -> None:
        """Send what is not on its way, and add the answers to wait for."""
        for message in run:
            topic = self._topic_of(message)
            if topic in self._missing:
                refusals.add(message, f"there is no topic {topic!r}: make it, or name one for all in the URL")
                continue
            try:
                partitions = [None] if message.key is not None else await self._partitions(topic)
                for partition in partitions:
                    place = (message.id, topic, partition)
                    if place not in self._on_way:
                        self._on_way[place] = await self._send_one(message, topic, partition)
                    answers[self._on_way[place]] = message, place
            except MessageSizeTooLargeError as error:
                refusals.add(message, one_line(error))

    async def _look_for_topics(self, run: Sequence[Message]) -> None:
        for topic in {self._topic_of(message) for message in run} - self._missing:
            try:
                await within(self._timeout, f"asking Kafka for {topic!r}", self._partitions(topic))
            except (UnknownTopicOrPartitionError, InvalidTopicError):
                self._missing.add(topic)

    async def _send_one(self, message: Message, topic: str, partition: int | None) -> asyncio.Future[Any]:
        if self._producer is None:
            raise ConnectionError("not connected to Kafka: start() first")
        headers = {"content-type": message.content_type}
        headers |= {f"ce_{name}": value for name, value in message.headers.items()}
        sent: asyncio.Future[Any] = await self._producer.send(
            topic,
            message.data,
            key=None if message.key is None else message.key.encode(errors="surrogatepass"),
            partition=partition,
            headers=[(name, value.encode()) for name, value in headers.items()],
        )
        return sent

    def _topic_of(self, message: Message) -> str:
        topic = _ILLEGAL.sub("_", self._topic.render(message.fields))
        return topic if len(topic) <= _LONGEST_TOPIC else shortened(topic, topic, _LONGEST_TOPIC, "_")
