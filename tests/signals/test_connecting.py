"""Receivers are held, and may be named; a signal shows what users call, and nothing else. No server is needed here."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import blinker
import pytest
from conftest import Recorder
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import ConfigurationError, Event, Listener, Watch, Watched
from sqlalchemy_watch.declaring.spec import RESERVED_LABELS
from sqlalchemy_watch.events.messages import EventKind, Message
from sqlalchemy_watch.signals.receivers import name_of
from sqlalchemy_watch.signals.watch_signals import feed_of

MESSAGE = Message(EventKind("updated", "updated", 1, ("id", "amount")), 1, datetime.now(UTC))

LIFECYCLE = ("connected", "disconnected", "resync", "receiver_failed", "dead_lettered")


@pytest.fixture
def Item(Base: type[DeclarativeBase]) -> Any:
    class Item(Watched, Base):
        __tablename__ = "items"
        __watch__ = (Watch("updated", extra_columns=("amount",), old=True), "deleted")
        id: Mapped[int] = mapped_column(primary_key=True)
        amount: Mapped[int | None]

    return Item


@pytest.fixture
def listener(Item: Any) -> Listener:
    return Listener(create_engine("postgresql+psycopg://"), Item)


def subscribers(Item: Any) -> list[Any]:
    """The receivers of an update of row 1, as dead letters know them."""
    feed = feed_of(Item.watch.updated)
    return [subscriber for subscriber, _ in feed.calls_for(Item, Event(Item, MESSAGE, (1, None)))]


def signals(Item: Any) -> list[Any]:
    """All that has `connect`, for receivers of events or of batches."""
    updated = Item.watch.updated
    return [
        updated, updated.filter_by(id=1), updated.touching(id=1), updated.batches(),
        updated.filter_by(id=1).batches(), Item.watch,
    ]  # fmt: skip


def connect_forgotten(connect: Callable[..., Any], **options: Any) -> weakref.ref[Any]:
    """Connect a receiver that nothing else refers to."""

    def receive(sender: Any = None, event: Any = None, events: Any = None, **kwargs: Any) -> None:
        """Does nothing."""

    connect(receive, **options)
    return weakref.ref(receive)


@pytest.mark.parametrize("number", range(6))
def test_a_receiver_made_inside_a_function_is_held_unless_it_is_weak(Item: Any, number: int) -> None:
    for connect in (signals(Item)[number].connect, lambda f, **options: signals(Item)[number].connect(**options)(f)):
        held = connect_forgotten(connect)
        forgotten = connect_forgotten(connect, weak=True)
        gc.collect()
        assert held() is not None
        assert forgotten() is None
        signals(Item)[number].disconnect(held())
        assert subscribers(Item) == []


def test_the_receivers_of_connect_via_are_held_and_hear_one_sender_alone(Item: Any) -> None:
    for signal in (Item.watch.updated, Item.watch.updated.filter_by(id=1)):
        held = connect_forgotten(lambda f, signal=signal: signal.connect_via(Item)(f))
        other = connect_forgotten(lambda f, signal=signal: signal.connect_via(int)(f))
        gc.collect()
        assert [subscriber.resolve() for subscriber in subscribers(Item)] == [held()]
        signal.disconnect(held())
        signal.disconnect(other())


@pytest.mark.parametrize("signal", LIFECYCLE)
def test_the_listeners_own_signals_hold_their_receivers_unless_they_are_weak(listener: Listener, signal: str) -> None:
    found = getattr(listener, signal)
    held, forgotten = connect_forgotten(found.connect), connect_forgotten(found.connect, weak=True)
    gc.collect()
    assert list(found.receivers_for(listener)) == [held()]
    assert forgotten() is None


def test_a_bound_method_keeps_its_object_until_it_is_disconnected(Item: Any) -> None:
    class Service:
        def hear(self, sender: Any, event: Any) -> None:
            """Does nothing."""

    service = Service()
    known = weakref.ref(service)
    Item.watch.updated.connect(service.hear)
    Item.watch.updated.filter_by(id=1).connect(service.hear)
    del service
    gc.collect()
    kept: Any = known()
    assert len(subscribers(Item)) == 2
    Item.watch.updated.disconnect(kept.hear)
    Item.watch.updated.filter_by(id=1).disconnect(kept.hear)
    del kept
    gc.collect()
    assert known() is None


def test_connected_to_ends_with_its_block(Item: Any, recorder: Recorder) -> None:
    for signal in (Item.watch.updated, Item.watch.updated.filter_by(id=1), Item.watch.updated.touching(id=1)):
        with signal.connected_to(recorder):
            assert [subscriber.resolve() for subscriber in subscribers(Item)] == [recorder]
        assert subscribers(Item) == []


# ---- Names


def receive(sender: Any, event: Any) -> None:
    """Does nothing."""


def receive_many(sender: Any, events: Any) -> None:
    """Does nothing."""


def test_a_receiver_is_known_by_its_name_or_by_its_qualified_name(Item: Any) -> None:
    Item.watch.updated.connect(receive)
    Item.watch.updated.connect(functools.partial(receive))
    Item.watch.updated.filter_by(id=1).connect(Recorder(), name="ledger")
    assert [name_of(subscriber) for subscriber in subscribers(Item)] == [f"{__name__}.receive"] * 2 + ["ledger"]
    assert type(name_of(subscribers(Item)[2])) is str


def test_connect_with_a_name_alone_decorates(Item: Any) -> None:
    @Item.watch.updated.connect(name="mail")
    def send(sender: Any, event: Any) -> None:
        """Does nothing."""

    @Item.watch.updated.filter_by(id=1).batches().connect(name="index")
    def index(sender: Any, events: Any) -> None:
        """Does nothing."""

    assert [(subscriber.resolve(), name_of(subscriber)) for subscriber in subscribers(Item)] == [
        (send, "mail"),
        (index, "index"),
    ]


@pytest.mark.parametrize("name", ["", " \n", "a\x00b", "a\x1bb", "tab\t", "\ud800", "x" * 201, 7, b"mail"])
def test_a_name_that_is_none_is_refused_and_leaves_nothing(Item: Any, name: Any) -> None:
    for signal, receiver in zip(signals(Item), [receive] * 3 + [receive_many] * 2 + [receive], strict=True):
        with pytest.raises(ConfigurationError, match="must be a text of 1 to 200 printable characters") as failure:
            signal.connect(receiver, name=name)
        assert len(str(failure.value)) < 400
    assert subscribers(Item) == []


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("second", range(5))
def test_two_receivers_of_one_name_are_refused_wherever_they_are_connected(Item: Any, first: int, second: int) -> None:
    def receiver_of(number: int) -> Any:
        return (lambda sender, events: None) if number > 2 else (lambda sender, event: None)

    one, other = receiver_of(first), receiver_of(second)
    signals(Item)[first].connect(one, name="mail")
    signals(Item)[first].connect(one, name="mail")
    with pytest.raises(ConfigurationError, match="would both be named 'mail'.*another name=") as refused:
        signals(Item)[second].connect(other, name="mail")
    assert repr(one) in str(refused.value)
    assert repr(other) in str(refused.value)
    signals(Item)[second].connect(other, name="other mail")
    signals(Item)[first].disconnect(one)
    signals(Item)[second].connect(other, name="mail")
    assert {name_of(each) for each in subscribers(Item)} <= {"mail"}


def test_a_receiver_has_one_name_in_many_filters_and_signals(Item: Any) -> None:
    for number in range(10):
        Item.watch.updated.filter_by(id=number).connect(receive, name="mail")
    Item.watch.connect(receive, name="mail")
    with pytest.raises(ConfigurationError, match="would both be named"):
        Item.watch.connect(lambda sender, event: None, name="mail")
    assert len(Item.watch.updated.receivers) == len(Item.watch.deleted.receivers) == 1


def test_a_collection_connects_to_all_of_its_signals_or_to_none(Item: Any) -> None:
    Item.watch.deleted.connect(receive, name="mail")
    with pytest.raises(ConfigurationError, match=r"Item\.deleted"):
        Item.watch.connect(lambda sender, event: None, name="mail")
    assert not Item.watch.updated.receivers


def test_the_name_of_a_receiver_that_is_gone_is_free(Item: Any) -> None:
    for number in range(3):
        mortal = Recorder()
        Item.watch.updated.connect(mortal, weak=True, name="mail")
        Item.watch.updated.filter_by(id=number).connect(mortal, weak=True, name="mail")
        kept = subscribers(Item)  # as a dispatcher has them, in the middle of a row
        del mortal
        gc.collect()
    del kept
    assert len(feed_of(Item.watch.updated).names._known) == 0


# ---- What is shown


def names(instance: object) -> set[str]:
    return {name for name in dir(instance) if not name.startswith("_")}


def test_a_signal_shows_what_users_call_and_nothing_else(Item: Any) -> None:
    of_blinker = names(blinker.NamedSignal("any"))
    updated = Item.watch.updated
    assert isinstance(updated, blinker.NamedSignal)
    own = {"batches", "connect_once", "delivery", "details", "filter_by", "iterate", "operation", "stream", "touching"}
    assert names(updated) - of_blinker == own
    view = {
        "batches",
        "connect",
        "connect_once",
        "connect_via",
        "connected_to",
        "disconnect",
        "iterate",
        "name",
        "stream",
    }
    assert names(updated.filter_by(id=1)) == names(updated.touching(id=1)) == view
    assert names(updated.batches()) - of_blinker == {"latest_only", "max_size", "max_wait"}
    assert names(Item.watch) == view | {"deleted", "read", "updated"}
    assert view < RESERVED_LABELS  # of what may come as well
