"""Messages as a relay makes them, and brokers for one test."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Event, Watch, Watched
from sqlalchemy_watch.events.messages import EventKind
from sqlalchemy_watch.events.messages import Message as Notification
from sqlalchemy_watch.relay.messages import Message, Writer

from .brokers import Broker

B = TypeVar("B", bound=Broker)

#: Runs a broker with arguments of its own until the test ends.
Start = Callable[..., Any]


HERE = Path(__file__).parent


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = (Watch("inserted", extra_columns=["note"]), Watch("updated", extra_columns=["note"]), "truncated")
    id: Mapped[str] = mapped_column(primary_key=True)
    note: Mapped[str]


class Line(Watched, Base):
    __tablename__ = "lines"
    __watch__ = ("inserted",)
    order_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


def event(
    *row: Any, number: int = 1, position: int = 0, operation: str = "updated", at: datetime | None = None,
    model: Any = Order, schema: str = "public", context: dict[str, Any] | None = None,
) -> Event[Any]:  # fmt: skip
    """Make an event of a consumer group."""
    attributes = ("order_id", "number") if model is Line else ("id", "note")
    key_length = 0 if not row else 2 if model is Line else 1
    kind = EventKind(operation, operation, key_length, attributes if row else ())  # type: ignore[arg-type]
    made = Notification(kind, 771, at or datetime.now(UTC), context or {}, schema)
    made.lsn, made.first_position = number, position
    return Event(model, made, row)


def message(number: int, key: str | None = "7", note: str = "", writer: Writer | None = None, **fields: Any) -> Message:
    """Make the message of an update of an order; without a key, of its truncation."""
    row = () if key is None else (key, note)
    fields.setdefault("operation", "updated" if row else "truncated")
    return (writer or Writer()).event(event(*row, number=number, **fields))


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs brokers until the test ends."""
    with ExitStack() as stack:

        def start(kind: type[B], *arguments: str) -> B:
            folder = tmp_path / kind.__name__
            folder.mkdir()
            broker = kind(folder, *arguments)
            stack.callback(broker.kill)
            broker.start()
            return broker

        yield start
    gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let NATS's client leave sockets to the garbage collection: those of connections that failed half-way.

    `Client._attempt_reconnect` forgets the connection whose handshake has failed, and tries the next one.
    """
    for item in items:
        if item.path.is_relative_to(HERE) and "start" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
