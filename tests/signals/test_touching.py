"""`touching()`: rows that have certain values, or had them before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import needs_logical_messages
from sqlalchemy import Engine, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import resync_reasons

from sqlalchemy_watch import ConfigurationError, Event, Listener, Watch, Watched
from sqlalchemy_watch.events.mappings import Values
from sqlalchemy_watch.events.messages import EventKind, Extras, Message
from sqlalchemy_watch.signals.watch_signals import feed_of

Client = psycopg.Connection[Any]

CARRIED = ("customer_id", "status")
KIND = EventKind("updated", "updated", 1, ("id", *CARRIED))


def declare(Base: type[DeclarativeBase], **options: Any) -> Any:
    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = (
            Watch("updated", extra_columns=CARRIED, old=True, **options),
            Watch("updated", label="without_old", extra_columns=CARRIED),
            Watch("deleted", extra_columns=CARRIED),
            Watch("inserted", extra_columns=CARRIED),
            "truncated",
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        customer_id: Mapped[int | None]
        status: Mapped[str] = mapped_column(String, server_default="new")

    return Order


@pytest.fixture
def Order(Base: type[DeclarativeBase]) -> Any:
    return declare(Base)


def calls(Order: Any, before: tuple[Any, ...] | None, after: tuple[Any, ...]) -> tuple[list[Any], bool]:
    """The receivers of a change, and True if some could not be decided; values are customer and status."""
    old = None if before is None else Extras(Values(zip(KIND.attributes, (7, *before), strict=True)), None, False)
    event: Event[Any] = Event(Order, Message(KIND, 1, datetime.now(UTC)), (7, *after), old)
    feed = feed_of(Order.watch.updated)
    found = [subscriber.resolve() for subscriber, _ in feed.calls_for(Order, event)]
    return found, feed.matching_subscribers(Order, (7, *after), KIND.indexes, old)[1]


def test_rows_that_come_stay_and_leave_are_told_once(Order: Any, recorder: Recorder) -> None:
    Order.watch.updated.touching(customer_id=42).connect(recorder)
    told = {
        (before, after): len(calls(Order, (before, "new"), (after, "new"))[0])
        for before in (42, 1, None)
        for after in (42, 1, None)
    }
    assert told == {
        (42, 42): 1, (42, 1): 1, (42, None): 1, (1, 42): 1, (None, 42): 1,
        (1, 1): 0, (1, None): 0, (None, 1): 0, (None, None): 0,
    }  # fmt: skip


def test_several_values_are_all_those_of_the_row_or_all_those_of_the_row_before(Order: Any, recorder: Recorder) -> None:
    Order.watch.updated.touching(status="new", customer_id=42).connect(recorder)
    told = [
        len(calls(Order, before, after)[0])
        for before, after in [
            ((42, "new"), (42, "new")),
            ((42, "new"), (1, "paid")),
            ((1, "paid"), (42, "new")),
            ((42, "paid"), (1, "new")),  # each of them somewhere, but nowhere both
            ((1, "paid"), (42, "paid")),
        ]
    ]
    assert told == [1, 1, 1, 0, 0]


def test_a_receiver_of_both_values_is_told_once_and_each_receiver_of_either(Order: Any) -> None:
    hub, leaving, coming, both = Recorder(), Recorder(), Recorder(), Recorder()
    for customer, receivers in ((1, (hub, leaving)), (2, (hub, coming))):
        for receiver in receivers:
            Order.watch.updated.touching(customer_id=customer).connect(receiver)
    Order.watch.updated.touching(customer_id=1).connect(both, sender=Order)
    assert calls(Order, (1, "new"), (2, "new"))[0] == [hub, coming, leaving, both]
    assert calls(Order, (3, "new"), (2, "new"))[0] == [hub, coming]


def test_a_touching_view_is_no_filter_of_the_same_values(Order: Any, recorder: Recorder) -> None:
    signal = Order.watch.updated
    view = signal.touching(customer_id=42)
    assert view == signal.touching(customer_id=42) != signal.filter_by(customer_id=42)
    assert len({view, signal.filter_by(customer_id=42)}) == 2
    assert view.name == "Order.updated[touching customer_id]"
    assert repr(view) == "<FilteredSignal Order.updated: touching customer_id=42>"
    signal.filter_by(customer_id=42).connect(recorder)
    view.connect(recorder)
    assert calls(Order, (42, "new"), (42, "new"))[0] == [recorder] * 2
    signal.filter_by(customer_id=42).disconnect(recorder)
    assert calls(Order, (42, "new"), (1, "new"))[0] == [recorder]
    view.disconnect(recorder)
    assert feed_of(signal).filters == {}


def test_a_row_without_its_previous_values_can_not_be_decided(Order: Any, recorder: Recorder) -> None:
    Order.watch.updated.touching(customer_id=42).connect(recorder)
    assert calls(Order, None, (1, "new")) == ([], True)
    assert calls(Order, None, (42, "new")) == ([recorder], True)
    with Order.watch.updated.muted():
        assert calls(Order, (42, "new"), (42, "new")) == ([], False)


def test_it_is_refused_where_previous_values_are_not_carried(Order: Any) -> None:
    for signal, words in (
        (Order.watch.without_old, "declare old=True in its Watch"),
        (Order.watch.inserted, r"inserted rows have no previous values .*: use filter_by\(\)"),
        (Order.watch.truncated, r"truncated rows have no previous values .*: use filter_by\(\)"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            signal.touching(customer_id=42)
    with pytest.raises(ConfigurationError, match=r"touching\(\) needs at least one key"):
        Order.watch.updated.touching()
    with pytest.raises(ConfigurationError, match="isn't carried"):
        Order.watch.updated.touching(anything=1)
    with pytest.raises(ConfigurationError, match="would never match"):
        Order.watch.updated.touching(customer_id="42")


def test_of_deleted_rows_the_last_values_are_compared(Order: Any) -> None:
    assert Order.watch.deleted.touching(customer_id=42) == Order.watch.deleted.filter_by(customer_id=42)


@pytest.mark.parametrize("level", ["statement", "row"])
def test_what_concerns_a_customer_is_heard_leaving_included(
    engine: Engine, client: Client, Base: type[DeclarativeBase], recorder: Recorder, level: str
) -> None:
    Order = declare(Base, level=level)
    Base.metadata.create_all(engine)
    batches: list[list[int]] = []
    Order.watch.updated.touching(customer_id=42).connect(recorder)
    Order.watch.deleted.touching(customer_id=42).connect(recorder)

    @Order.watch.updated.touching(customer_id=42).batches(max_wait=60).connect
    def keep(sender: Any, events: list[Any]) -> None:
        batches.append([event.identity[0] for event in events])

    client.execute("INSERT INTO orders VALUES (1, 42), (2, 42), (3, 1), (4, NULL)")
    with Listener(engine, Order) as listener:
        reasons = resync_reasons(listener)
        client.execute("UPDATE orders SET customer_id = CASE id WHEN 1 THEN 1 WHEN 3 THEN 42 ELSE customer_id END")
        client.execute("UPDATE orders SET customer_id = NULL WHERE id = 2")
        client.execute("DELETE FROM orders")
        listener.catch_up()
        updates, delete = [("updated", (id_,)) for id_ in (1, 2, 3, 2)], ("deleted", (3,))
        assert recorder.heard() == [*updates, delete]
        assert batches == [[1, 2, 3, 2]]
        assert reasons == []
        client.execute("INSERT INTO orders VALUES (5, 42)")
        client.execute("UPDATE orders SET id = 6, customer_id = 1")
        listener.catch_up()
    assert recorder.heard()[5:] == [("updated", (6,))]
    assert recorder.events[-1].old == {"id": 5, "customer_id": 42, "status": "new"}
    assert recorder.events[-1].changed == {"id", "customer_id"}
    assert reasons == []


@needs_logical_messages
def test_a_durable_row_that_leaves_is_heard(
    engine: Engine, client: Client, Base: type[DeclarativeBase], recorder: Recorder
) -> None:
    Order = declare(Base, delivery="durable")
    Base.metadata.create_all(engine)
    client.execute("INSERT INTO orders VALUES (1, 42)")
    Order.watch.updated.touching(customer_id=42).connect(recorder, name="recorder")
    with Listener(engine, Order, durable="touching") as listener:
        client.execute("UPDATE orders SET customer_id = 1")
        listener.catch_up()
    assert recorder.heard() == [("updated", (1,))]
    assert recorder.events[0].old["customer_id"] == 42
    client.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
