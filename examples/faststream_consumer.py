"""Consume what a relay publishes to NATS, with FastStream. It needs neither SQLAlchemy nor PostgreSQL::

    sqlalchemy-watch relay myapp.models:Base --group to_nats --to nats://localhost --create
    faststream run faststream_consumer:app

An event may come twice, where a confirmation was lost: what has been done is noted by its id, in the same transaction
as the work, and an id that is known is dropped. Here the work is a table of SQLite.
"""

from __future__ import annotations

import json
import os
import sqlite3
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.js.api import ConsumerConfig


async def read_envelope(message: NatsMessage) -> Any:
    """Decode CloudEvents, whose content type, application/cloudevents+json, FastStream takes for no JSON."""
    return json.loads(message.body)


broker = NatsBroker(os.environ.get("NATS_URL", "nats://localhost:4222"), decoder=read_envelope)
app = FastStream(broker)

database = sqlite3.connect(os.environ.get("ORDERS", "orders.sqlite"))
database.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY)")
database.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, status TEXT)")

#: The relay's stream: it is there already.
stream = JStream("watch", declare=False)


@broker.subscriber(
    "watch.public.orders.>", stream=stream, durable="orders", pull_sub=PullSub(),
    ack_policy=AckPolicy.MANUAL,  # by default what raises would be lost
    config=ConsumerConfig(ack_wait=5.0, max_ack_pending=1),  # it comes again after 5 seconds, and nothing overtakes it
)  # fmt: skip
async def take_order(envelope: dict[str, Any], message: NatsMessage) -> None:
    """Note an order."""
    with database:
        is_new = database.execute("INSERT OR IGNORE INTO seen VALUES (?)", [envelope["id"]]).rowcount == 1
        if is_new:
            do(envelope["data"])
    await message.ack()
    print("done:" if is_new else "seen before:", envelope["id"], envelope["type"], envelope["subject"])


def do(event: dict[str, Any]) -> None:
    """Do the work, in the transaction."""
    if event["operation"] == "truncated":
        database.execute("DELETE FROM orders")
    elif event["operation"] == "deleted":
        database.execute("DELETE FROM orders WHERE id = ?", event["identity"])
    else:
        status = event["values"].get("status", "new")
        database.execute("INSERT OR REPLACE INTO orders VALUES (?, ?)", [*event["identity"], status])


@broker.subscriber("watch._._.resync._", stream=stream, durable="resyncs", pull_sub=PullSub())
async def reload(envelope: dict[str, Any]) -> None:
    """Events may be missing: whatever holds a copy reads everything anew, here by `sqlalchemy-watch backfill`."""
    print("events may be missing:", envelope["data"]["reason"])
