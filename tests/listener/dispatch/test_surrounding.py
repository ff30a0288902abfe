"""What calls of receivers are made inside of: `Listener.surround_calls`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from support import insert, records_of

from sqlalchemy_watch import Listener, RetryPolicy

around: ContextVar[str] = ContextVar("around", default="nothing")


class Journal:
    """Surrounds calls, and notes what it hears of each."""

    def __init__(self) -> None:
        #: The receiver's name, the keys of the events, and what it raised.
        self.calls: list[tuple[str, list[int], str | None]] = []

    @contextlib.contextmanager
    def __call__(self, call: Any) -> Iterator[None]:
        token = around.set(call.name)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            around.reset(token)
            keys = [event.identity[0] for event in call.events]
            self.calls.append((call.name, keys, None if error is None else type(error).__name__))


def test_every_kind_of_call_is_made_inside_of_it(engine: Engine, client: psycopg.Connection[Any], User: Any) -> None:
    journal, heard = Journal(), []

    def note(sender: Any, event: Any = None, events: Any = None) -> None:
        heard.append((around.get(), threading.current_thread().name))

    User.watch.inserted.connect(note, name="plain")
    batches = User.watch.inserted.batches(max_size=2, max_wait=60)
    batches.connect(lambda sender, events: note(sender), name="batch")
    listener = Listener(engine, User)
    listener.events.connect(lambda sender, event: note(sender), name="all")
    listener.surround_calls(journal)
    stream = User.watch.inserted.iterate(timeout=0)
    with listener:
        insert(client, "users", [1, 2])
        listener.catch_up()
    assert [event.identity for event in stream] == [(1,), (2,)]
    assert journal.calls == [
        ("plain", [1], None), ("all", [1], None),
        ("plain", [2], None), ("batch", [1, 2], None), ("all", [2], None),
    ]  # fmt: skip
    assert [name for name, _ in heard] == [name for name, _, _ in journal.calls]
    assert {thread for _, thread in heard} == {"sqlalchemy-watch-dispatch"}
    assert around.get() == "nothing"


def test_it_surrounds_a_coroutine_receiver_in_its_own_task(
    engine: Engine, client: psycopg.Connection[Any], User: Any
) -> None:
    journal, heard = Journal(), []

    async def receive(sender: Any, event: Any) -> None:
        before = around.get(), asyncio.current_task()
        await asyncio.sleep(0)
        heard.append((before[0], around.get(), before[1] is asyncio.current_task()))
        raise KeyError(event.identity)

    async def main() -> None:
        User.watch.inserted.connect(receive, name="async")
        listener = Listener(engine, User)
        listener.surround_calls(journal)
        async with listener:
            insert(client, "users", 1)
            await listener.catch_up_async()

    asyncio.run(main())
    assert heard == [("async", "async", True)]
    assert journal.calls == [("async", [1], "KeyError")]


def test_it_surrounds_calls_in_lanes(engine: Engine, client: psycopg.Connection[Any], User: Any) -> None:
    journal, heard = Journal(), []
    User.watch.inserted.connect(lambda sender, event: heard.append(around.get()), name="in a lane")
    listener = Listener(engine, User, workers=2)
    listener.surround_calls(journal)
    with listener:
        insert(client, "users", 1, 2, 3)
        listener.catch_up()
    assert heard == ["in a lane"] * 3
    assert sorted(journal.calls) == [("in a lane", [key], None) for key in (1, 2, 3)]


@needs_logical_messages
def test_each_attempt_is_surrounded_and_transactions_are(
    engine: Engine, client: psycopg.Connection[Any], Order: Any, group: str
) -> None:
    journal, attempts = Journal(), iter(range(9))

    def fail_once(sender: Any, event: Any) -> None:
        if next(attempts) == 0:
            raise ValueError("not yet")

    Order.watch.inserted.connect(fail_once, name="order")
    listener = Listener(engine, Order, durable=group, retry=RetryPolicy(None, 0.01, 0.01))
    listener.transactions.connect(lambda listener, transaction: None, name="transaction")
    listener.surround_calls(journal)
    with listener:
        client.execute("INSERT INTO orders VALUES (1), (2)")
        listener.catch_up()
    assert journal.calls == [
        ("order", [1], "ValueError"), ("order", [1], None), ("order", [2], None), ("transaction", [1, 2], None),
    ]  # fmt: skip


class Broken(contextlib.AbstractContextManager[None]):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        self.where = where
        if where == "making":
            raise SystemExit(where)

    def __enter__(self) -> None:
        if self.where == "entering":
            raise SystemExit(self.where)

    def __exit__(self, *exc_info: object) -> bool:
        if self.where == "leaving":
            raise SystemExit(self.where)
        return True  # swallow


@pytest.mark.parametrize("where", ["making", "entering", "leaving", "nowhere"])
def test_one_that_fails_or_swallows_changes_nothing_for_the_receiver(
    where: str, engine: Engine, client: psycopg.Connection[Any], User: Any
) -> None:
    journal, failures = Journal(), []

    def receive(sender: Any, event: Any) -> None:
        if event.identity == (1,):
            raise KeyError("the receiver's")

    User.watch.inserted.connect(receive, name="receive")
    listener = Listener(engine, User)
    listener.receiver_failed.connect(lambda listener, receiver, event, error: failures.append(error))
    listener.surround_calls(lambda call: Broken(where))
    listener.surround_calls(journal)
    with records_of("sqlalchemy_watch.listener.surrounding") as records, listener:
        insert(client, "users", 1, 2)
        listener.catch_up()
    assert journal.calls == [("receive", [1], "KeyError"), ("receive", [2], None)]
    assert [type(error) for error in failures] == [KeyError]
    assert records.qsize() == (0 if where == "nowhere" else 1)  # of two


def test_it_ends_where_it_is_taken_away_once_for_each_time_it_was_added(
    engine: Engine, client: psycopg.Connection[Any], User: Any
) -> None:
    journal = Journal()
    User.watch.inserted.connect(lambda sender, event: None, name="receive")
    listener = Listener(engine, User)
    removals = [listener.surround_calls(journal), listener.surround_calls(journal)]
    with listener:
        for number, remove in enumerate([*removals, lambda: None]):
            insert(client, "users", number)
            listener.catch_up()
            remove()
            remove()
    assert [keys for _, keys, _ in journal.calls] == [[0], [0], [1]]
