"""Publish every change to RabbitMQ, by a publisher of one's own.

To a topic exchange, where queues are bound to `watch.public.orders.#` and the like: persistent, confirmed by the
broker, and refused where no queue takes it. RabbitMQ drops nothing that comes twice: a consumer drops the ids that it
has seen. It runs on an embedded PostgreSQL, and on the RabbitMQ of AMQP_URL.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange
from aio_pika.exceptions import PublishError
from embedded import as_another_program, embedded_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched
from sqlalchemy_watch.relay import Message, Relay
from sqlalchemy_watch.relay.publishers import Refusals, runs

EXCHANGE = "watch"

#: RabbitMQ's own limit.
LONGEST_ROUTING_KEY = 255


class RabbitPublisher:
    """A `Publisher`: start, publish, close. The relay calls them one at a time, and tries again what raises."""

    system = "rabbitmq"  # in metrics

    def __init__(self, url: str, exchange: str = EXCHANGE, timeout: float = 10.0) -> None:
        self._url, self._name, self._timeout = url, exchange, timeout
        self._connection: AbstractConnection | None = None
        self._exchange: AbstractExchange | None = None

    async def start(self) -> None:
        """Connect. Not by `connect_robust`, which would connect anew behind the relay's back."""
        await self.close()
        async with asyncio.timeout(self._timeout):
            self._connection = await aio_pika.connect(self._url)
            channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            self._exchange = await channel.declare_exchange(self._name, aio_pika.ExchangeType.TOPIC, durable=True)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish messages, and return once the broker has confirmed all of them.

        In runs without two of a row: those of a run are on their way together, and any of them may fail.
        """
        if self._exchange is None:
            raise ConnectionError("not connected to RabbitMQ")
        refusals = Refusals()
        for run in runs(messages):
            fitting = [message for message in run if not refusals.holds(message)]
            async with asyncio.timeout(self._timeout):
                sent = (self._publish(self._exchange, message) for message in fitting)
                reasons = await asyncio.gather(*sent, return_exceptions=True)
            for message, reason in zip(fitting, reasons, strict=True):
                if isinstance(reason, BaseException):
                    raise reason
                if reason is not None:
                    refusals.add(message, reason)
        refusals.check()  # raises Refused, with what is to wait behind it

    async def close(self) -> None:
        """Disconnect. Never raises."""
        connection, self._connection, self._exchange = self._connection, None, None
        if connection is not None:
            try:
                async with asyncio.timeout(self._timeout):
                    await connection.close()
            except Exception as error:
                print("disconnecting from RabbitMQ:", error)

    async def _publish(self, exchange: AbstractExchange, message: Message) -> str | None:
        """Publish a message; return why it will never be taken, None where it is."""
        if len(message.subject) > LONGEST_ROUTING_KEY:
            return f"its routing key is longer than {LONGEST_ROUTING_KEY} characters"
        try:
            await exchange.publish(
                aio_pika.Message(
                    message.data,
                    headers={f"cloudEvents:{name}": value for name, value in message.headers.items()},
                    content_type=message.content_type,
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    message_id=message.id,
                    timestamp=message.time,
                    type=message.type,
                ),
                routing_key=message.subject,
                mandatory=True,
            )
        except PublishError:
            return f"no queue is bound for {message.subject!r}"
        return None


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = ("inserted", Watch("updated", extra_columns=("status",)))
    __watch_delivery__ = "durable"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(server_default="new")


async def declare_queue(url: str, name: str, binding: str) -> None:
    """Make a queue, with what comes to it from now on."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(name, durable=True)
        await queue.bind(exchange, binding)


async def take_from(url: str, name: str) -> list[dict[str, Any]]:
    """Return the CloudEvents of a queue, each once."""
    found: dict[str, dict[str, Any]] = {}
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(name)
        while (message := await queue.get(fail=False)) is not None:
            event = json.loads(message.body)
            found.setdefault(event["id"], event)
            await message.ack()
    return list(found.values())


def main() -> None:
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")
    asyncio.run(declare_queue(url, "orders", "watch.public.orders.#"))
    asyncio.run(declare_queue(url, "resyncs", "watch.*.*.resync.#"))
    with embedded_engine() as engine:
        Base.metadata.create_all(engine)
        with Relay(engine, Base, group="to_rabbitmq", to=RabbitPublisher(url)) as relay:
            as_another_program(engine, "INSERT INTO orders SELECT generate_series(1, 3)")
            as_another_program(engine, "UPDATE orders SET status = 'shipped' WHERE id = 2")
            relay.listener.catch_up()
    events = asyncio.run(take_from(url, "orders"))
    for event in events:
        print(event["type"], event["subject"], event["data"]["values"])
    if [event["subject"] for event in events][-1:] != ["public/orders/2"] or len(events) != 4:
        raise SystemExit("not the events that were to come")


if __name__ == "__main__":
    main()
