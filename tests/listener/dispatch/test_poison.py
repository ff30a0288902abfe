"""Values that can't be hashed or compared, and errors inside the library: nothing that was not dispatched is lost."""

from __future__ import annotations

import logging
import threading
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import needs_logical_messages
from sqlalchemy import ARRAY, Engine, Integer, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import insert, resync_reasons, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, RetryPolicy, Watch, Watched
from sqlalchemy_watch.listener.dispatch import batches as batches_module
from sqlalchemy_watch.listener.dispatch.calls import make_all
from sqlalchemy_watch.listener.dispatch.dispatcher import UNEXPECTED
from sqlalchemy_watch.listener.dispatch.receivers import UNCOMPARED
from sqlalchemy_watch.signals.matching import MAX_DEPTH

from ..conftest import MakeListener
from ..insides import dispatcher_of
from .test_retries import QUICK

Client = psycopg.Connection[Any]

#: A listener without a group, and one with.
ROUTES = [pytest.param(False, id="notify"), pytest.param(True, id="durable", marks=needs_logical_messages)]


class Odd:
    """A value whose class raises, where it is told to, when it is hashed or compared."""

    fails: str | None = None
    error: type[Exception] = RecursionError

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        if Odd.fails == "__hash__":
            raise Odd.error("no hash")
        return 1

    def __eq__(self, other: object) -> bool:
        if Odd.fails == "__eq__":
            raise Odd.error("no comparison")
        return isinstance(other, Odd) and self.number == other.number


class OddType(TypeDecorator[Odd]):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value.number if isinstance(value, Odd) else value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else Odd(value)


@pytest.fixture(autouse=True)
def sane() -> Any:
    Odd.fails, Odd.error = None, RecursionError
    yield
    Odd.fails = None


def declare(Base: Any, engine: Engine, key: Any) -> Any:
    class Thing(Watched, Base):  # type: ignore[misc]
        __tablename__ = "things"
        __watch__ = (Watch("inserted", extra_columns=("it",), delivery="both"),)
        id: Mapped[Any] = mapped_column(key, primary_key=True)
        it: Mapped[Any] = mapped_column(JSONB, nullable=True)

    Base.metadata.create_all(engine)
    return Thing


KEYS = {
    "array": (ARRAY(Integer), ["'{1,2}'", "'{1,2,3}'"], [[1, 2], [1, 2, 3]]),
    "two dimensions": (ARRAY(Integer, dimensions=2), ["'{{1,2}}'", "'{{1},{2}}'"], [[[1, 2]], [[1], [2]]]),
    "jsonb": (JSONB, ["'{\"a\": [1]}'", "'[{\"a\": 1}]'"], [{"a": [1]}, [{"a": 1}]]),
    "deep jsonb": (JSONB, [f"'{'[' * 300}{']' * 300}'"], None),
}


@pytest.mark.parametrize("durable_route", ROUTES)
@pytest.mark.parametrize("kind", KEYS)
def test_batches_of_the_latest_events_have_rows_of_any_key(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str, kind: str, durable_route: bool
) -> None:
    key, literals, expected = KEYS[kind]
    Thing = declare(Base, engine, key)
    found: list[Any] = []

    def take(sender: Any, events: list[Any]) -> None:
        found.extend(event.identity[0] for event in events)

    Thing.watch.inserted.batches(max_wait=60, latest_only=True).connect(take)
    with Listener(engine, Thing, durable=group if durable_route else None) as listener:
        reasons = resync_reasons(listener)
        for _ in range(2):
            client.execute(f"INSERT INTO things (id) VALUES {', '.join(f'({literal})' for literal in literals)}")
            client.execute("DELETE FROM things")
        listener.catch_up()
    assert reasons == []
    if expected is None:
        assert len(found) == 2  # too deep to be compared: nothing replaces another
    else:
        assert found == expected


@pytest.mark.parametrize("durable_route", ROUTES)
@pytest.mark.parametrize("fails", ["__hash__", "__eq__"])
@pytest.mark.parametrize("error", [RecursionError, MemoryError, TypeError, ValueError])
def test_batches_of_the_latest_events_have_what_cannot_be_compared(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str, fails: str, error: type[Exception],
    durable_route: bool,
) -> None:  # fmt: skip
    Thing = declare(Base, engine, OddType)
    found: list[int] = []

    def take(sender: Any, events: list[Any]) -> None:
        found.extend(event.identity[0].number for event in events)

    Thing.watch.inserted.batches(max_wait=60, latest_only=True).connect(take)
    Odd.fails, Odd.error = fails, error
    with Listener(engine, Thing, durable=group if durable_route else None) as listener:
        client.execute("INSERT INTO things (id) VALUES (1), (2)")
        listener.catch_up()
        assert listener.stats().resyncs == 0
    assert found == [1, 2]


@pytest.mark.parametrize("durable_route", ROUTES)
def test_a_deep_value_matches_no_filter_and_keeps_nothing_from_anybody(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str, recorder: Recorder, durable_route: bool
) -> None:
    Thing = declare(Base, engine, Integer)
    filtered = Recorder()
    Thing.watch.inserted.connect(recorder)
    Thing.watch.inserted.filter_by(it=[1]).connect(filtered)
    deep = f"{'[' * 400}{']' * 400}"
    with Listener(engine, Thing, durable=group if durable_route else None) as listener:
        reasons = resync_reasons(listener)
        client.execute(f"INSERT INTO things VALUES (1, '{deep}'), (2, '[1]'), (3, '{{\"a\": {deep}}}')")
        listener.catch_up()
    assert reasons == []
    assert [event.identity for event in recorder.events] == [(1,), (2,), (3,)]
    assert [event.identity for event in filtered.events] == [(2,)]


def test_filters_by_values_too_deep_to_be_compared_are_refused(engine: Engine, Base: type[DeclarativeBase]) -> None:
    signal = declare(Base, engine, Integer).watch.inserted
    value: list[Any] = []
    for _ in range(MAX_DEPTH + 5):
        value = [value]
    with pytest.raises(ConfigurationError, match="can't filter by 'it': it is nested more than"):
        signal.filter_by(it=value)


class Filtered:
    """A watched model with two receivers: one of a filter by an odd value, and one of everything."""

    def __init__(self, Base: Any, engine: Engine) -> None:
        class Thing(Watched, Base):  # type: ignore[misc]
            __tablename__ = "things"
            __watch__ = (Watch("inserted", extra_columns=("it",), delivery="both"),)
            id: Mapped[int] = mapped_column(primary_key=True)
            it: Mapped[Any] = mapped_column(OddType)

        Base.metadata.create_all(engine)
        self.Thing = Thing
        self.all, self.some = Recorder(), Recorder()
        Thing.watch.inserted.connect(self.all)
        self.view = Thing.watch.inserted.filter_by(it=Odd(2))
        self.view.connect(self.some)

    def heard(self) -> tuple[list[int], list[int]]:
        return [event.identity[0] for event in self.all.events], [event.identity[0] for event in self.some.events]


@pytest.fixture
def filtered(Base: type[DeclarativeBase], engine: Engine) -> Filtered:
    return Filtered(Base, engine)


INSERT = "INSERT INTO things VALUES (1, 1), (2, 2), (3, 3)"


@pytest.mark.parametrize("fails", ["__hash__", "__eq__"])
@pytest.mark.parametrize("error", [RecursionError, MemoryError, ValueError])
def test_a_filter_that_cannot_compare_is_a_gap(
    engine: Engine, client: Client, filtered: Filtered, fails: str, error: type[Exception]
) -> None:
    Odd.fails, Odd.error = fails, error
    with Listener(engine, filtered.Thing) as listener:
        reasons = resync_reasons(listener)
        client.execute(INSERT)
        listener.catch_up()
        Odd.fails = None
        client.execute("INSERT INTO things VALUES (4, 2)")
        listener.catch_up()
    assert filtered.heard() == ([1, 2, 3, 4], [4])
    assert set(reasons) == {UNCOMPARED}


@needs_logical_messages
@pytest.mark.parametrize("fails", ["__hash__", "__eq__"])
def test_a_groups_filter_that_cannot_compare_is_tried_again_like_a_receiver(
    engine: Engine, client: Client, filtered: Filtered, durable: MakeListener, fails: str
) -> None:
    Odd.fails = fails
    failed = threading.Event()

    def note(sender: Any, receiver: Any, event: Any, error: BaseException) -> None:
        failed.set()

    listener = durable(retry=RetryPolicy(**QUICK))
    listener.receiver_failed.connect(note)
    with listener:
        client.execute(INSERT)
        assert failed.wait(20)
        assert filtered.heard() == ([1], [])
        Odd.fails = None
        listener.catch_up()
        assert listener.stats().resyncs == 0
    assert filtered.heard() == ([1, 2, 3], [2])


@needs_logical_messages
def test_a_groups_filter_that_cannot_compare_acknowledges_nothing(
    client: Client, filtered: Filtered, durable: MakeListener
) -> None:
    Odd.fails = "__eq__"
    with durable(retry=RetryPolicy(first_delay=60)) as listener:
        client.execute(INSERT)
        wait_until(client, lambda: listener.stats().failed_receivers)
    Odd.fails = None
    with durable() as listener:
        listener.catch_up()
    assert filtered.heard() == ([1, 1, 2, 3], [2])


@needs_logical_messages
@pytest.mark.parametrize("in_order", [True, False])
def test_a_groups_filter_that_cannot_compare_has_dead_letters(
    client: Client, filtered: Filtered, durable: MakeListener, in_order: bool
) -> None:
    Odd.fails = "__hash__"
    policy = RetryPolicy(max_attempts=2, in_order=in_order, **QUICK)
    with durable(retry=policy) as listener:
        client.execute(INSERT)
        listener.catch_up()
        wait_until(client, "SELECT count(*) = 3 FROM sqlalchemy_watch.dead_letters WHERE retry_at IS NULL")
        Odd.fails = None
        client.execute("UPDATE sqlalchemy_watch.dead_letters SET retry_at = now(), attempts = 0")
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert filtered.heard() == ([1, 2, 3], [2])


@needs_logical_messages
def test_filters_that_are_gone_hold_nothing_up(client: Client, filtered: Filtered, durable: MakeListener) -> None:
    Odd.fails = "__hash__"
    with durable(retry=RetryPolicy(first_delay=60)) as listener:
        client.execute(INSERT)
        wait_until(client, lambda: listener.stats().failed_receivers)
        Odd.fails = None
        filtered.view.disconnect(filtered.some)
        listener.catch_up()
    assert filtered.heard() == ([1, 2, 3], [])


@needs_logical_messages
@pytest.mark.parametrize("error", [MemoryError, RecursionError, SystemExit])
def test_an_error_inside_the_library_acknowledges_nothing_and_repeats_nothing_that_went_before(
    client: Client, Order: Any, durable: MakeListener, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    Order.watch.inserted.connect(recorder)
    failures = [0]

    def call_all(signal: Any, subscribers: Any, sender: Any, event: Any) -> None:
        if event.identity == (2,) and failures[0] < 3:
            failures[0] += 1
            raise error
        original(signal, subscribers, sender, event)

    with durable(retry=RetryPolicy(**QUICK)) as listener:
        original = dispatcher_of(listener).receivers.call_all
        monkeypatch.setattr(dispatcher_of(listener).receivers, "call_all", call_all)
        insert(client, "orders", range(1, 4))
        insert(client, "orders", 4)
        listener.catch_up()
        assert listener.stats().resyncs == 0
    assert failures == [3]
    assert [(event.identity[0], event.position) for event in recorder.events] == [(1, 0), (2, 1), (3, 2), (4, 0)]


@needs_logical_messages
def test_what_an_error_inside_the_library_held_up_comes_again_in_the_next_process(
    client: Client, Order: Any, durable: MakeListener, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Order.watch.inserted.connect(recorder)
    failed = threading.Event()

    def fail(transaction: Any, notification: Any) -> None:
        failed.set()
        raise MemoryError

    with durable(retry=RetryPolicy(first_delay=60)) as listener, monkeypatch.context() as patched:
        patched.setattr(dispatcher_of(listener), "_handle_notification", fail)
        insert(client, "orders", 1)
        assert failed.wait(20)
    assert recorder.events == []
    with durable() as listener:
        listener.catch_up()
    assert [event.identity for event in recorder.events] == [(1,)]


@needs_logical_messages
def test_a_batch_that_an_error_inside_the_library_held_up_is_delivered_and_acknowledged_then(
    client: Client, Order: Any, durable: MakeListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def take(sender: Any, events: list[Any]) -> None:
        found.extend(event.identity[0] for event in events)

    Order.watch.inserted.batches(max_size=2, max_wait=60).connect(take)
    failures = [0]

    def fail_twice(waiting: Any, calls: Any) -> Any:
        failures[0] += 1
        if failures[0] <= 2:
            raise MemoryError
        return make_all(waiting, calls)

    monkeypatch.setattr(batches_module, "make_all", fail_twice)
    with durable(retry=RetryPolicy(**QUICK)) as listener:
        insert(client, "orders", 1, 2)
        listener.catch_up()
    assert found == [1, 2]
    with durable() as listener:
        listener.catch_up()
    assert found == [1, 2]


def test_an_error_inside_the_library_is_a_gap_for_its_rows_alone(
    client: Client, User: Any, engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    User.watch.inserted.connect(recorder)

    def call_all(signal: Any, subscribers: Any, sender: Any, event: Any) -> None:
        if event.identity[0] % 2:
            raise MemoryError
        original(signal, subscribers, sender, event)

    with Listener(engine, User) as listener:
        reasons = resync_reasons(listener)
        original = dispatcher_of(listener).receivers.call_all
        monkeypatch.setattr(dispatcher_of(listener).receivers, "call_all", call_all)
        insert(client, "users", range(1, 7))
        listener.catch_up()
    assert [event.identity[0] for event in recorder.events] == [2, 4, 6]
    assert reasons == [UNEXPECTED]


@pytest.mark.parametrize("durable_route", ROUTES)
def test_a_handler_of_the_log_that_raises_loses_no_failure_of_a_receiver(
    client: Client, Base: type[DeclarativeBase], engine: Engine, group: str, durable_route: bool
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the disk is full")

    Thing = declare(Base, engine, Integer)
    calls: list[str] = []

    def first(sender: Any, event: Any) -> None:
        calls.append("first")
        if calls.count("first") == 1:
            raise ValueError

    def second(sender: Any, event: Any) -> None:
        calls.append("second")
        if calls.count("second") == 1:
            raise ValueError

    Thing.watch.inserted.connect(first)
    Thing.watch.inserted.connect(second)
    log = logging.getLogger("sqlalchemy_watch.listener.run")
    log.addHandler(handler := Broken())
    policy = RetryPolicy(**QUICK) if durable_route else None
    try:
        with Listener(engine, Thing, durable=group if durable_route else None, retry=policy) as listener:
            client.execute("INSERT INTO things VALUES (1)")
            listener.catch_up()
            assert listener.stats().failed_receivers == 2
            assert listener.stats().resyncs == 0
    finally:
        log.removeHandler(handler)
    assert calls == (["first", "second"] * 2 if durable_route else ["first", "second"])


@needs_logical_messages
def test_what_an_error_between_two_messages_has_dropped_is_read_again(
    client: Client, Order: Any, durable: MakeListener, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Order.watch.inserted.connect(recorder)
    failures = [0]

    def fail_once(message: Any) -> None:
        failures[0] += 1
        if failures[0] == 1:
            raise MemoryError
        original(message)

    with durable() as listener:
        inbox = dispatcher_of(listener)._inbox
        original = inbox.note_taken
        monkeypatch.setattr(inbox, "note_taken", fail_once)
        insert(client, "orders", 1, 2)
        wait_until(client, lambda: len({event.identity for event in recorder.events}) == 2)
        listener.catch_up()
    assert failures[0] > 1
