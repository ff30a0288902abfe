"""Dead letters under trouble: errors that can't be stored, letters that can't be read, servers out of reach, operators.

Whatever happens, an event is with its receiver, in the table, or not acknowledged; and the line moves on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import insert, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, RetryPolicy, Watch, Watched, context
from sqlalchemy_watch.listener.dispatch import dead_letters

from ..conftest import MakeListener
from ..insides import inbox_of
from ..proxy import Proxy
from .test_retries import QUICK, Flaky, letters

pytestmark = needs_logical_messages

NO_LETTERS = "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters"
BEING_WRITTEN = (
    "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'sqlalchemy_watch.dead_letters'::regclass AND NOT granted"
)
ALL_GIVEN_UP = "SELECT bool_and(retry_at IS NULL) FROM sqlalchemy_watch.dead_letters"

GIVEN_UP_AT_ONCE = RetryPolicy(max_attempts=1, **QUICK)
PARKED_AND_GIVEN_UP = RetryPolicy(max_attempts=2, in_order=False, **QUICK)


class Wordless(Exception):
    """An exception that can't be put into words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Failing:
    """A receiver that raises an exception of the test's for some orders, always."""

    def __init__(self, error: Exception, *numbers: int) -> None:
        self._error, self._numbers = error, numbers
        self.sent: list[int] = []

    def __call__(self, sender: Any, event: Any) -> None:
        number = event.identity[0]
        if number in self._numbers:
            raise self._error
        self.sent.append(number)


class Hook:
    """A `do_connect` hook, which asks a service for the password; the listener's threads find that service down."""

    def __init__(self, engine: Engine, failures: int | None) -> None:
        self._failures = failures
        self._failed: dict[str, int] = {}
        self.broken, self.has_failed_twice = False, threading.Event()
        event.listen(engine, "do_connect", self)

    def __call__(self, dialect: Any, record: Any, args: Any, parameters: Any) -> None:
        name = threading.current_thread().name
        if not self.broken or not name.startswith("sqlalchemy-watch"):
            return
        failures = self._failed[name] = self._failed.get(name, 0) + 1
        if name == "sqlalchemy-watch-dispatch" and failures == 2:
            self.has_failed_twice.set()
        if self._failures is None or failures <= self._failures:
            raise RuntimeError("the token service is down")


class Breaking(Failing):
    """Fails on the first order, just when the token service goes down."""

    def __init__(self, hook: Hook) -> None:
        super().__init__(ValueError("no such address"), 1)
        self._hook = hook

    def __call__(self, sender: Any, event: Any) -> None:
        self._hook.broken |= event.identity == (1,)
        super().__call__(sender, event)


@pytest.mark.parametrize("policy", [GIVEN_UP_AT_ONCE, PARKED_AND_GIVEN_UP], ids=["in order", "parked"])
@pytest.mark.parametrize(
    "error",
    [ValueError("caf\udce9.txt"), Wordless(), ValueError("a\nb\0" * 1000)],
    ids=["unencodable", "wordless", "long"],
)
def test_a_letter_is_written_whatever_the_error_says(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, error: Exception, policy: RetryPolicy,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.CRITICAL, logger="sqlalchemy_watch")  # pytest-xdist can't pass such words on
    failing, steady = Failing(error, 1), Flaky({})
    Order.watch.inserted.connect(failing)
    Order.watch.inserted.connect(steady)
    with durable(retry=policy) as listener:
        insert(client, "orders", range(1, 6))
        insert(client, "orders", 6)
        listener.catch_up()
        wait_until(client, ALL_GIVEN_UP)
        listener.catch_up()
        assert (listener.stats().resyncs, listener.stats().dead_letters) == (0, 1)
    assert (failing.sent, steady.calls) == ([2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    ((number, words, attempts, given_up),) = letters(client)
    assert (number, attempts, given_up) == ("1", policy.max_attempts, True)
    assert words.startswith(type(error).__name__)
    assert words.isprintable()
    assert len(words) <= 2000


def test_a_hook_that_raises_while_a_letter_is_written_is_asked_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, engine: Engine
) -> None:
    hook = Hook(engine, failures=1)
    send_receipt = Breaking(hook)
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=GIVEN_UP_AT_ONCE) as listener:
        insert(client, "orders", range(1, 5))
        insert(client, "orders", 5)
        listener.catch_up()
        assert listener.stats().resyncs == 0
    assert send_receipt.sent == [2, 3, 4, 5]
    assert [number for number, *_ in letters(client)] == ["1"]


def test_an_event_whose_letter_could_not_be_written_is_not_acknowledged(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, engine: Engine
) -> None:
    hook = Hook(engine, failures=None)
    send_receipt = Breaking(hook)
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=GIVEN_UP_AT_ONCE):
        insert(client, "orders", range(1, 5))
        assert hook.has_failed_twice.wait(10)
    assert send_receipt.sent == []
    Order.watch.inserted.disconnect(send_receipt)
    hook.broken = False
    send_again = Flaky({})
    Order.watch.inserted.connect(send_again)
    with durable() as listener:
        listener.catch_up()
    assert send_again.sent == [1, 2, 3, 4]


def test_stop_in_the_middle_of_a_parked_letters_retry_leaves_it_in_the_table(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    async def main() -> tuple[list[Any], list[int]]:
        calls: list[int] = []
        under_way = asyncio.Event()

        async def send_receipt(sender: Any, event: Any) -> None:
            calls.append(event.identity[0])
            if len(calls) == 1:
                raise ConnectionError("the mail server is down")
            if len(calls) == 2:
                under_way.set()
                await asyncio.Event().wait()

        Order.watch.inserted.connect(send_receipt)
        async with durable(retry=RetryPolicy(in_order=False, **QUICK)):
            await asyncio.to_thread(insert, client, "orders", 1)
            await asyncio.wait_for(under_way.wait(), 10)
        left = letters(client)
        async with durable(retry=RetryPolicy(in_order=False, **QUICK)):
            await asyncio.to_thread(wait_until, client, NO_LETTERS)
        return left, calls

    left, calls = asyncio.run(main())
    assert left == [("1", "ConnectionError: the mail server is down", 1, False)]
    assert calls == [1, 1, 1]


@pytest.fixture
def distant(engine_through_proxy: Engine, Base: type[DeclarativeBase], group: str) -> Iterator[MakeListener]:
    """Makes the listener whose connections go through the proxy."""
    made: list[Listener] = []

    def make(**options: Any) -> Listener:
        options = {"heartbeat_interval": 0.2, "heartbeat_timeout": 1.0, **options}
        made.append(Listener(engine_through_proxy, Base, durable=group, **options))
        return made[-1]

    yield make
    for listener in made:
        listener.stop(timeout=2.0)


def come_back(proxy: Proxy, client: psycopg.Connection[Any], listener: Listener) -> None:
    """Wait until the listener has noticed a freeze, and let it reach the server again by new connections."""
    wait_until(client, lambda: not listener.stats().active)
    # The server has not noticed.
    client.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
    proxy.resume(thaw=False)


def test_a_network_that_falls_silent_while_a_letter_is_written_holds_the_line_up_no_longer_than_it_lasts(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], Order: Any, proxy: Proxy, distant: MakeListener
) -> None:
    send_receipt = Failing(ValueError("no such address"), 1)
    Order.watch.inserted.connect(send_receipt)
    with distant(retry=GIVEN_UP_AT_ONCE) as listener:
        with cluster.connect(database) as blocker, blocker.transaction():
            blocker.execute("LOCK TABLE sqlalchemy_watch.dead_letters IN SHARE ROW EXCLUSIVE MODE")
            insert(client, "orders", range(1, 3))
            insert(client, "orders", 3)
            wait_until(client, BEING_WRITTEN)
            proxy.freeze()
        come_back(proxy, client, listener)
        wait_until(client, lambda: send_receipt.sent[-1:] == [3])
        listener.catch_up()
        assert listener.stats().resyncs == 0
    assert send_receipt.sent == [2, 3]
    assert letters(client) == [("1", "ValueError: no such address", 1, True)]


def test_a_network_that_falls_silent_while_a_letter_is_tried_again_holds_the_line_up_no_longer_than_it_lasts(
    client: psycopg.Connection[Any], Order: Any, proxy: Proxy, distant: MakeListener
) -> None:
    class Freezing(Flaky):
        def __call__(self, sender: Any, event: Any) -> None:
            if self.calls == [1, 2]:
                proxy.freeze()
            super().__call__(sender, event)

    send_receipt = Freezing({1: 1})
    Order.watch.inserted.connect(send_receipt)
    with distant(retry=RetryPolicy(in_order=False, **QUICK)) as listener:
        insert(client, "orders", range(1, 3))
        wait_until(client, lambda: len(send_receipt.calls) == 3)
        come_back(proxy, client, listener)
        insert(client, "orders", 3)
        wait_until(client, lambda: 3 in send_receipt.sent)
        wait_until(client, NO_LETTERS)
        assert listener.stats().resyncs == 0
    assert send_receipt.calls[:3] == [1, 2, 1]
    assert set(send_receipt.calls[3:]) <= {1, 3}  # at least once


def test_new_events_do_not_wait_for_all_the_letters_that_are_due(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    calls: list[int] = []
    done = threading.Event()

    def send_receipt(sender: Any, event: Any) -> None:
        calls.append(event.identity[0])
        if len(calls) <= 10:
            raise ConnectionError("the mail server is down")
        if len(calls) == 11:
            insert(client, "orders", 100)
            wait_until(client, lambda: len(inbox_of(listener)))
        elif len(calls) == 21:
            done.set()

    Order.watch.inserted.connect(send_receipt)
    listener = durable(retry=RetryPolicy(in_order=False, **QUICK))
    with listener:
        insert(client, "orders", range(1, 11))
        assert done.wait(20)
    assert (sorted(calls[:10]), sorted(calls[10:])) == ([*range(1, 11)], [*range(1, 11), 100])
    assert calls.index(100) == 11  # behind the letter that was being tried


UNREADABLE = {
    "channel": "channel = channel || 'x'",
    "row": "payload = regexp_replace(payload, '\"rows\":.*', '\"rows\": [[]]}')",
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
def test_a_letter_that_can_no_longer_be_read_is_given_up_and_those_behind_it_are_tried(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, change: str
) -> None:
    send_receipt = Flaky({1: 1, 2: 1})
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=RetryPolicy(in_order=False, first_delay=60)) as listener:
        insert(client, "orders", range(1, 3))
        listener.catch_up()
    first = "id = (SELECT min(id) FROM sqlalchemy_watch.dead_letters)"
    assert client.execute(f"UPDATE sqlalchemy_watch.dead_letters SET {change} WHERE {first}").rowcount == 1
    client.execute("UPDATE sqlalchemy_watch.dead_letters SET retry_at = now()")
    with durable(retry=RetryPolicy(in_order=False, first_delay=60)) as listener:
        wait_until(client, "SELECT count(*) = 1 AND bool_and(retry_at IS NULL) FROM sqlalchemy_watch.dead_letters")
        insert(client, "orders", 3)
        listener.catch_up()
        assert listener.stats().resyncs == 0
    assert send_receipt.calls == [1, 2, 2, 3]
    ((words, attempts),) = client.execute("SELECT error, attempts FROM sqlalchemy_watch.dead_letters").fetchall()
    assert "can't be read" in words
    assert attempts <= 2


def test_a_listener_without_max_attempts_tries_again_what_an_operator_wants_tried(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    send_receipt = Flaky({1: 1})
    Order.watch.inserted.connect(send_receipt)
    with durable(max_attempts=1) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    assert send_receipt.calls == [1]
    with durable(heartbeat_interval=0.2) as listener:
        assert dead_letters.retry(client, group, None) == 1
        wait_until(client, NO_LETTERS)
        insert(client, "orders", 2)
        listener.catch_up()
    assert send_receipt.calls == [1, 1, 2]


def test_a_letter_that_an_operator_wants_tried_while_it_is_tried_for_the_last_time_is_tried_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    calls: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def send_receipt(sender: Any, event: Any) -> None:
        calls.append(event.identity[0])
        if len(calls) == 2:
            begun.set()
            assert go_on.wait(20)
        if len(calls) <= 2:
            raise ConnectionError("the mail server is down")

    Order.watch.inserted.connect(send_receipt)
    with durable(retry=PARKED_AND_GIVEN_UP) as listener:
        insert(client, "orders", 1)
        assert begun.wait(10)
        assert dead_letters.retry(client, group, None) == 1
        go_on.set()
        wait_until(client, NO_LETTERS, seconds=10)
        assert listener.stats().dead_letters == 0
    assert calls == [1, 1, 1]


def test_a_letter_that_an_operator_wanted_tried_again_has_all_its_attempts(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, group: str
) -> None:
    send_receipt = Flaky({1: 3})
    Order.watch.inserted.connect(send_receipt)
    with durable(retry=PARKED_AND_GIVEN_UP) as listener:
        insert(client, "orders", 1)
        wait_until(client, ALL_GIVEN_UP)
        assert dead_letters.retry(client, group, None) == 1
        wait_until(client, NO_LETTERS, seconds=10)
        assert listener.stats().dead_letters == 1
    assert send_receipt.calls == [1, 1, 1, 1]


@pytest.mark.parametrize("retry", ["x", {"max_attempts": 3}], ids=["str", "dict"])
def test_anything_but_a_policy_is_refused(engine: Engine, Base: type[DeclarativeBase], retry: Any) -> None:
    with pytest.raises(ConfigurationError, match="retry.*RetryPolicy"):
        Listener(engine, Base, durable="mailer", retry=retry)


@pytest.mark.parametrize(
    "options",
    [{"first_delay": "1"}, {"first_delay": True}, {"max_delay": None}, {"max_delay": "60"}, {"in_order": "no"}],
    ids=str,
)
def test_a_policy_of_wrong_types_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RetryPolicy(**options)


@pytest.mark.parametrize("schema", [None, "app"])
def test_a_letter_says_whose_it_is_after_the_partition_is_gone(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], group: str, schema: str | None
) -> None:
    class Order(Watched, Base):
        __tablename__ = "orders"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)", "schema": schema}
        __watch__ = (Watch("inserted", delivery="both"),)
        id: Mapped[int] = mapped_column(primary_key=True)

    client.execute("CREATE SCHEMA app; CREATE SCHEMA parts")
    Base.metadata.create_all(engine)
    root = "public.orders" if schema is None else "app.orders"
    client.execute(f"CREATE TABLE parts.p PARTITION OF {root} DEFAULT".encode())
    heard: list[Any] = []

    def send_receipt(sender: Any, event: Any) -> None:
        heard.append(event)
        if len(heard) == 1:
            raise ConnectionError("down")

    Order.watch.inserted.connect(send_receipt, name="receipt")
    with Listener(engine, Base, durable=group, retry=GIVEN_UP_AT_ONCE) as listener:
        with engine.begin() as connection, context(connection, user=7):
            connection.exec_driver_sql(f"INSERT INTO {root} VALUES (1)")
        listener.catch_up()
    client.execute("DROP TABLE parts.p")
    with Listener(engine, Base, durable=group, heartbeat_interval=0.2) as listener:
        assert dead_letters.retry(client, group, None) == 1
        wait_until(client, NO_LETTERS)
    first, again = heard
    assert first == again
    assert (again.schema, again.txid, again.emitted_at) == ("parts", first.txid, first.emitted_at)
    assert again.context == {"user": 7}
