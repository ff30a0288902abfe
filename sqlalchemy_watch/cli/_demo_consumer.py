"""The demo's consumer: it knows NATS, and nothing of SQLAlchemy, PostgreSQL or this library.

`python _demo_consumer.py URL` prints the CloudEvents that come, one JSON object a line, until it is ended. Without an
acknowledgement NATS gives it a message again.
"""

import asyncio
import sys

import nats


async def main(url: str) -> None:
    """Print what comes."""
    connection = await nats.connect(url)
    stream = connection.jetstream()
    subscription = await stream.subscribe("watch.>", durable="demo", manual_ack=True)
    async for message in subscription.messages:
        print(message.data.decode(), flush=True)
        await message.ack()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
