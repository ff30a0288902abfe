"""`filter_by()`: views of a signal, and the subscriptions made through them. No server is needed here."""

from __future__ import annotations

import functools
import gc
import inspect
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import Recorder
from sqlalchemy import Column, Integer, Table, TypeDecorator
from sqlalchemy.dialects.postgresql import ARRAY, INTEGER
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import ConfigurationError, FilteredSignal, Watch, Watched, watch
from sqlalchemy_watch.events.event import Event
from sqlalchemy_watch.events.messages import EventKind, Message
from sqlalchemy_watch.signals.watch_signals import feed_of

ATTRIBUTES = ("id", "amount", "numbers")
MESSAGE = Message(EventKind("updated", "updated", 1, ATTRIBUTES), 1, datetime.now(UTC))


@pytest.fixture
def Item(Base: type[DeclarativeBase]) -> Any:
    class Item(Watched, Base):
        __tablename__ = "items"
        __watch__ = (Watch("updated", extra_columns=ATTRIBUTES[1:]), "inserted")
        id: Mapped[int] = mapped_column(primary_key=True)
        amount: Mapped[int | None]
        numbers: Mapped[list[int] | None] = mapped_column(ARRAY(INTEGER))

    return Item


def update(Item: Any, *row: Any, sender: Any = None) -> bool:
    """Call the receivers of a row, and return True if a filter could not be decided."""
    signal, sender = Item.watch.updated, Item if sender is None else sender
    for subscriber, argument in feed_of(signal).calls_for(sender, Event(sender, MESSAGE, row)):
        receiver = subscriber.resolve()
        if receiver is not None:
            receiver(sender, argument)
    return bool(feed_of(signal).matching_subscribers(sender, row, MESSAGE.kind.indexes, None).is_undecided)


def count(Item: Any) -> int:
    """Return how many values there are subscriptions to."""
    return sum(len(index) for index in feed_of(Item.watch.updated).filters.values())


class Cyclic(Recorder):
    """Freed by the garbage collector alone, at any time and in any thread."""

    def __init__(self) -> None:
        super().__init__()
        self.itself = self


class Service:
    """Receivers that are bound methods."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def hear(self, sender: Any, event: Any) -> None:
        self.heard.append(event.identity[0])


def test_equal_views_are_of_the_same_signal_keys_and_values(Item: Any) -> None:
    updated, inserted = Item.watch.updated, Item.watch.inserted
    view = updated.filter_by(id=1, amount=2)
    assert view == updated.filter_by(amount=2, id=1)
    assert len({view, updated.filter_by(amount=2, id=1)}) == 1
    assert view not in (updated.filter_by(id=2, amount=1), updated.filter_by(id=1), updated, 1)
    assert updated.filter_by(numbers=[1, 2]) == updated.filter_by(numbers=[1, 2]) != updated.filter_by(numbers=[2])
    with pytest.raises(ConfigurationError, match="isn't carried"):
        inserted.filter_by(amount=2)


def test_views_of_different_models_differ(Item: Any, Base: type[DeclarativeBase]) -> None:
    pins = Table("pins", Base.metadata, Column("id", Integer, primary_key=True))
    assert watch(pins, "updated").updated.filter_by(id=1) != Item.watch.updated.filter_by(id=1)


def test_a_view_shows_its_signal_and_its_values_and_cannot_be_changed(Item: Any) -> None:
    view = Item.watch.updated.filter_by(amount=2, id=1)
    assert isinstance(view, FilteredSignal)
    assert (view.name, repr(view)) == (
        "Item.updated[amount, id]",
        "<FilteredSignal Item.updated: amount=2, id=1>",
    )
    assert repr(Item.watch.updated.filter_by(amount=None)) == "<FilteredSignal Item.updated: amount=None>"
    for name in ("name", "anything"):
        with pytest.raises(AttributeError):
            setattr(view, name, 1)


def test_an_attribute_called_self_can_be_filtered_by(Base: type[DeclarativeBase]) -> None:
    pins = Table("pins", Base.metadata, Column("self", Integer, primary_key=True))
    signals = watch(pins, "updated")
    assert signals.updated.filter_by(self=1) == signals.updated.filter_by(self=1)


def test_truncated_has_nothing_to_filter_by(Base: type[DeclarativeBase]) -> None:
    pins = Table("pins", Base.metadata, Column("id", Integer, primary_key=True))
    with pytest.raises(ConfigurationError, match="can't filter by 'id'.*use another operation"):
        watch(pins, "truncated").truncated.filter_by(id=1)


def test_a_subscription_outlives_its_view_and_ends_through_another(Item: Any, recorder: Recorder) -> None:
    Item.watch.updated.filter_by(id=1).connect(recorder)
    update(Item, 1, 7, None)
    update(Item, 2, 7, None)
    assert recorder.heard() == [("updated", (1,))]
    Item.watch.updated.filter_by(id=1).disconnect(recorder)
    update(Item, 1, 7, None)
    assert len(recorder.events) == 1
    assert feed_of(Item.watch.updated).filters == {}


def test_connect_decorates_and_the_same_receiver_is_called_once_in_its_first_place(Item: Any) -> None:
    called: list[str] = []
    view = Item.watch.updated.filter_by(id=1)

    @view.connect
    def first(sender: Any, event: Any) -> None:
        called.append("first")

    @view.connect
    def second(sender: Any, event: Any) -> None:
        called.append("second")

    assert view.connect(first) is first
    update(Item, 1, 7, None)
    assert called == ["first", "second"]
    del first
    gc.collect()
    update(Item, 1, 7, None)
    assert called == ["first", "second"] * 2


@pytest.mark.parametrize("others", [0, 1])
def test_connecting_again_says_anew_whether_the_receiver_is_held(Item: Any, others: int) -> None:
    view, recorders = Item.watch.updated.filter_by(id=1), [Recorder() for _ in range(others)]
    for recorder in recorders:
        view.connect(recorder)
    receiver: Any = Recorder()
    view.connect(receiver)
    view.connect(receiver, weak=True)
    gone = weakref.ref(receiver)
    del receiver
    gc.collect()
    assert gone() is None
    assert count(Item) == others


def test_a_sender_restricts_and_senders_add_up(Item: Any) -> None:
    class Special(Item):  # type: ignore[misc]
        pass

    view, recorder, other = Item.watch.updated.filter_by(id=1), Recorder(), Recorder()
    view.connect(other)
    view.connect(recorder, sender=Special)
    update(Item, 1, 7, None)
    update(Item, 1, 7, None, sender=Special)
    assert [event.model for event in recorder.events] == [Special]
    view.connect(recorder, sender=Item)
    update(Item, 1, 7, None)
    view.disconnect(recorder, sender=Special)
    update(Item, 1, 7, None, sender=Special)
    assert [event.model for event in recorder.events] == [Special, Item]
    view.disconnect(recorder, sender=Item)
    update(Item, 1, 7, None)
    assert (len(recorder.events), len(other.events)) == (2, 5)
    view.disconnect(other, sender=Item)  # it hears all senders, and goes on
    update(Item, 1, 7, None)
    assert len(other.events) == 6
    view.disconnect(other)
    assert feed_of(Item.watch.updated).filters == {}


def test_connected_to_every_sender_a_receiver_is_restricted_no_more(Item: Any, recorder: Recorder) -> None:
    view = Item.watch.updated.filter_by(id=1)
    view.connect(recorder, sender=int)
    view.connect(recorder)
    view.connect(recorder, sender=int)
    update(Item, 1, 7, None)
    assert len(recorder.events) == 1


def test_a_sender_is_not_kept_alive_and_the_next_one_at_its_address_is_another(Item: Any, recorder: Recorder) -> None:
    class Sender:
        pass

    sender: Any = Sender()
    Item.watch.updated.filter_by(id=1).connect(recorder, sender=sender)
    gone = weakref.ref(sender)
    del sender
    assert gone() is None
    for _ in range(10):
        update(Item, 1, 7, None, sender=Sender())
    assert recorder.events == []


def test_receivers_of_any_kind_are_told_apart_and_called_in_the_order_of_connecting(Item: Any) -> None:
    called: list[str] = []

    class Methods:
        def one(self, sender: Any, event: Any) -> None:
            called.append("one")

        def two(self, sender: Any, event: Any) -> None:
            called.append("two")

    def partly(word: str, sender: Any, event: Any) -> None:
        called.append(word)

    methods, others = Methods(), Methods()
    receivers = [methods.two, functools.partial(partly, "partial"), methods.one, others.two]
    view = Item.watch.updated.filter_by(id=1)
    for receiver in receivers:
        view.connect(receiver)
    update(Item, 1, 7, None)
    assert called == ["two", "partial", "one", "two"]
    view.disconnect(methods.two)
    update(Item, 1, 7, None)
    assert called[4:] == ["partial", "one", "two"]


@pytest.mark.parametrize("receiver", [lambda: None, lambda a, b, c: None, "no function", None])
def test_receivers_that_cannot_be_called_are_refused_at_connect_and_leave_nothing(Item: Any, receiver: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Item\.updated\[id\].*(can't be called|not callable)"):
        Item.watch.updated.filter_by(id=1).connect(receiver)
    assert feed_of(Item.watch.updated).filters == {}


def test_a_receiver_that_has_no_weak_references_leaves_nothing(Item: Any) -> None:
    class Slotted:
        __slots__ = ()

        def __call__(self, sender: Any, event: Any) -> None:
            """Does nothing."""

    view, receiver = Item.watch.updated.filter_by(id=1), Slotted()
    with pytest.raises(TypeError, match="weak reference"):
        view.connect(receiver, weak=True)
    assert feed_of(Item.watch.updated).filters == {}
    view.connect(receiver)
    assert count(Item) == 1


def test_an_event_without_a_column_leaves_the_filters_by_it_undecided_alone(Item: Any) -> None:
    first, second = Recorder(), Recorder()
    Item.watch.updated.filter_by(id=1).connect(first)
    assert not update(Item, 1)
    Item.watch.updated.filter_by(numbers=None).connect(second)
    assert update(Item, 1)
    assert (len(first.events), len(second.events)) == (2, 0)


def test_a_muted_signal_mutes_its_filters(Item: Any, recorder: Recorder) -> None:
    Item.watch.updated.filter_by(id=1).connect(recorder)
    Item.watch.updated.connect(recorder)
    with Item.watch.updated.muted():
        update(Item, 1, 7, None)
    assert recorder.events == []
    update(Item, 1, 7, None)
    assert len(recorder.events) == 2


def test_batches_of_equal_views_are_the_same_and_are_kept_while_they_have_receivers(Item: Any) -> None:
    def index(sender: Any, events: Any) -> None:
        """Does nothing."""

    def batches() -> Any:
        return Item.watch.updated.filter_by(id=1).batches(max_size=5)

    kept = batches()
    assert kept is batches()
    assert kept is not Item.watch.updated.filter_by(id=2).batches(max_size=5)
    assert kept is not Item.watch.updated.batches(max_size=5)
    kept.connect(index)
    known = weakref.ref(kept)
    del kept
    gc.collect()
    assert batches() is known()
    batches().disconnect(index)
    gc.collect()
    assert known() is None
    assert feed_of(Item.watch.updated).filters == {}


def test_batches_whose_receiver_is_restricted_to_a_sender_end_with_that(Item: Any) -> None:
    def index(sender: Any, events: Any) -> None:
        """Does nothing."""

    for signal in (Item.watch.updated, Item.watch.updated.filter_by(id=1)):
        batches = signal.batches()
        batches.connect(index, sender=Item)
        batches.disconnect(index, sender=Item)
    assert feed_of(Item.watch.updated).subscribers_for(Item) == ()
    assert feed_of(Item.watch.updated).filters == {}


def test_batches_whose_receivers_were_garbage_collected_are_forgotten(Item: Any) -> None:
    class Index:
        def __call__(self, sender: Any, events: Any) -> None:
            """Does nothing."""

    index = Index()
    Item.watch.updated.filter_by(id=1).batches().connect(index, weak=True)
    Item.watch.updated.filter_by(id=2).connect(recorder := Recorder())
    del index
    gc.collect()
    assert list(feed_of(Item.watch.updated).filters.values()) == [{2: feed_of(Item.watch.updated).filters[("id",)][2]}]
    update(Item, 2, 7, None)
    assert len(recorder.events) == 1


def test_filters_of_receivers_that_are_gone_are_forgotten(Item: Any) -> None:
    receivers: list[Any] = [Recorder() for _ in range(100)]
    for number, receiver in enumerate(receivers):
        Item.watch.updated.filter_by(id=number).connect(receiver, weak=True)
        Item.watch.updated.filter_by(amount=1, id=number).connect(receiver, weak=True)
        Item.watch.updated.filter_by(amount=1).connect(receiver, weak=True)
    assert count(Item) == 201
    del receivers, receiver
    gc.collect()
    assert feed_of(Item.watch.updated).filters == {}
    assert feed_of(Item.watch.updated).registry._subscriptions == {}


class Counted:
    """A value that counts how often it is hashed or compared."""

    operations = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        Counted.operations += 1
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        Counted.operations += 1
        return isinstance(other, Counted) and other.number == self.number


class Seen:
    """A value by which anything may happen when it is looked up."""

    def __init__(self) -> None:
        self.then: list[Callable[[], object]] = []

    def __hash__(self) -> int:
        if self.then:
            self.then.pop()()
        return 1


class Anything(TypeDecorator[Any]):
    impl = Integer
    cache_ok = True


@pytest.fixture
def Thing(Base: type[DeclarativeBase]) -> Any:
    class Thing(Watched, Base):
        __tablename__ = "things"
        __watch__ = (Watch("updated", extra_columns=("it",)),)
        id: Mapped[int] = mapped_column(primary_key=True)
        it: Mapped[Any] = mapped_column(Anything)

    return Thing


def test_a_receiver_that_dies_is_looked_for_among_its_own_values_alone(Thing: Any) -> None:
    """So that the deaths of many receivers take time in proportion."""

    def operations_of_a_death(others: int) -> int:
        services = [Service() for _ in range(others)]
        for number, service in enumerate(services):
            Thing.watch.updated.filter_by(it=Counted(number)).connect(service.hear, weak=True)
        mortal = Service()
        for number in (-3, -2, 0):
            Thing.watch.updated.filter_by(it=Counted(number)).connect(mortal.hear, weak=True)
        Counted.operations = 0
        del mortal
        assert count(Thing) == others
        return Counted.operations

    few = operations_of_a_death(10)
    gc.collect()
    assert feed_of(Thing.watch.updated).filters == {}
    assert 0 < operations_of_a_death(1000) <= few + 4  # a collision or two in a larger dictionary


def test_many_bound_methods_of_one_value_are_removed_one_by_one_without_being_copied(Item: Any) -> None:
    services = [Service() for _ in range(1000)]
    for service in services:
        Item.watch.updated.filter_by(id=1).connect(service.hear, weak=True)
    entry = feed_of(Item.watch.updated).filters[("id",)][1]
    update(Item, 1, 7, None)
    assert [service.heard for service in services] == [[1]] * 1000
    del services[10:]
    service = services[0]
    gc.collect()
    assert feed_of(Item.watch.updated).filters[("id",)][1] is entry  # changed in its place
    assert entry.for_any_sender is None
    update(Item, 1, 7, None)
    assert [service.heard for service in services] == [[1, 1]] * 10


def test_many_subscriptions_of_one_receiver_share_all_but_their_value(Item: Any, recorder: Recorder) -> None:
    for number in range(1000):
        Item.watch.updated.filter_by(id=number).connect(recorder, weak=True)
    assert len({id(entry) for entry in feed_of(Item.watch.updated).filters[("id",)].values()}) == 1
    assert len(weakref.getweakrefs(recorder)) == 1


def test_a_garbage_collection_at_any_moment_disturbs_no_dispatch(Item: Any) -> None:
    signal, keys = Item.watch.updated, [{"id": 1}, {"amount": 2}, {"numbers": None}, {"id": 1, "amount": 2}]
    before = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for number in range(100):
            signal.connect(Cyclic(), weak=True)
            feed_of(signal).subscribers_for(Item)
            for values in keys:
                signal.filter_by(**values).connect(Cyclic(), weak=True)
                signal.filter_by(**values).connect(Cyclic(), sender=Item, weak=True)
                signal.filter_by(**values).batches(max_wait=number).connect(Cyclic().__call__, weak=True)
            update(Item, 1, 2, None)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert feed_of(signal).subscribers_for(Item) == ()
    assert feed_of(signal).filters == {}
    assert feed_of(signal).registry._subscriptions == {}


def test_a_garbage_collection_at_any_moment_takes_no_live_receiver_along(Item: Any) -> None:
    signal, kept = Item.watch.updated, [Recorder() for _ in range(20)]
    before = gc.get_threshold()
    gc.set_threshold(2)
    try:
        for _ in range(15):
            for number, recorder in enumerate(kept):
                signal.filter_by(id=number % 3).connect(Cyclic(), weak=True)
                signal.filter_by(id=number % 3).connect(recorder)
                signal.filter_by(id=(number + 1) % 3).connect(Cyclic(), weak=True)
                signal.filter_by(amount=number).connect(Cyclic(), weak=True)
                signal.filter_by(amount=number).connect(recorder)
                signal.filter_by(amount=number).disconnect(recorder)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert list(feed_of(signal).filters) == [("id",)]
    for number in range(3):
        update(Item, number, 7, None)
    assert [len(recorder.events) for recorder in kept] == [1] * 20


def test_receivers_that_die_in_the_middle_of_connecting_take_no_other_along(Thing: Any, recorder: Recorder) -> None:
    signal, value = Thing.watch.updated, Seen()
    mortals: list[Recorder] = [Recorder()]
    signal.filter_by(it=1).connect(mortals[0], weak=True)
    second = signal.filter_by(it=value)
    value.then += [mortals.clear, lambda: None]  # the only filter there was, gone between two steps
    second.connect(recorder)
    assert not mortals
    assert list(feed_of(signal).filters) == [("it",)]
    assert list(feed_of(signal).filters[("it",)]) == [value]


@pytest.mark.parametrize("moment", range(10))
@pytest.mark.parametrize("mortals", [1, 2])
@pytest.mark.parametrize("change", ["connect", "disconnect"])
def test_nothing_is_left_of_receivers_that_die_in_the_middle_of_a_change(
    Thing: Any, recorder: Recorder, moment: int, mortals: int, change: str
) -> None:
    signal, value = Thing.watch.updated, Seen()
    view, dying = signal.filter_by(it=value), [Recorder() for _ in range(mortals)]
    for mortal in dying:
        view.connect(mortal, weak=True)
    del mortal
    if change == "disconnect":
        view.connect(recorder)
    value.then += [dying.clear, *[lambda: None] * moment]
    getattr(view, change)(recorder)
    value.then.clear()
    dying.clear()
    remaining = [subscriber.resolve() for subscriber in subscribers_of(signal, value)]
    assert remaining == ([recorder] if change == "connect" else [])
    assert len(feed_of(signal).registry._subscriptions) == len(remaining)
    view.disconnect(recorder)
    assert feed_of(signal).filters == {}


def subscribers_of(signal: Any, value: object) -> list[Any]:
    matching = feed_of(signal).matching_subscribers(None, (value,), {"it": 0}, None).subscribers
    return [subscriber for subscribers in matching for subscriber in subscribers]


@pytest.mark.parametrize("moment", range(6))
def test_filters_that_go_in_the_middle_of_connecting_take_no_other_along(
    Thing: Any, recorder: Recorder, moment: int
) -> None:
    signal, value = Thing.watch.updated, Seen()
    first, second = signal.filter_by(it=1), signal.filter_by(it=value)
    first.connect(recorder)
    value.then += [lambda: first.disconnect(recorder), *[lambda: None] * moment]
    second.connect(recorder)
    value.then.clear()
    assert value in feed_of(signal).filters[("it",)]
    second.disconnect(recorder)
    first.disconnect(recorder)
    assert feed_of(signal).filters == {}


@pytest.mark.parametrize("moment", range(6))
def test_filters_that_go_in_the_middle_of_disconnecting_disturb_nobody(
    Thing: Any, recorder: Recorder, moment: int
) -> None:
    signal, value = Thing.watch.updated, Seen()
    first, second = signal.filter_by(it=1), signal.filter_by(it=value)
    first.connect(recorder)
    second.connect(recorder)
    value.then += [lambda: first.disconnect(recorder), *[lambda: None] * moment]
    second.disconnect(recorder)
    value.then.clear()
    first.disconnect(recorder)
    assert feed_of(signal).filters == {}


def test_a_receiver_stays_connected_while_another_one_is_added(Item: Any, recorder: Recorder) -> None:
    """The dispatch thread takes no lock: the first receiver is there at every moment."""
    view = Item.watch.updated.filter_by(id=1)

    def receivers() -> list[Any]:
        feed = feed_of(Item.watch.updated)
        matching = feed.matching_subscribers(Item, (1, 7, None), MESSAGE.kind.indexes, None).subscribers
        return [subscriber.resolve() for subscribers in matching for subscriber in subscribers]

    class Receiver(Recorder):
        @property
        def __signature__(self) -> inspect.Signature:  # asked for in the middle of connecting
            seen.append(receivers())
            return inspect.Signature.from_callable(recorder)

    seen: list[Any] = []
    receiver = Receiver()
    view.connect(receiver)
    seen.clear()
    view.connect(recorder)
    view.connect(receiver)
    assert receivers() == [receiver, recorder]
    assert seen
    assert all(each[:1] == [receiver] for each in seen)


def test_a_receiver_hears_every_row_while_others_come_and_go_in_other_threads(Item: Any, recorder: Recorder) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []
    view = Item.watch.updated.filter_by(id=1)
    view.connect(recorder)

    def change(number: int) -> None:
        try:
            while not stop.is_set():
                other = Recorder()
                view.connect(other, weak=True)
                view.connect(Cyclic(), weak=True)
                Item.watch.updated.filter_by(amount=number).connect(other, weak=True)
                Item.watch.updated.filter_by(amount=number).batches().connect(Cyclic().__call__, weak=True)
                view.disconnect(other)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(1000):
            update(Item, 1, 7, None)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    gc.collect()
    assert errors == []
    assert len(recorder.events) == 1000
    assert list(feed_of(Item.watch.updated).filters.values()) == [{1: feed_of(Item.watch.updated).filters[("id",)][1]}]
    assert count(Item) == 1


def test_two_threads_connect_and_disconnect_each_its_own(Item: Any) -> None:
    start = threading.Barrier(2)

    def change(service: Service) -> None:
        start.wait()
        for number in range(2000):
            Item.watch.updated.filter_by(id=number).connect(service.hear, weak=True)
        for number in range(1, 2000):
            Item.watch.updated.filter_by(id=number).disconnect(service.hear)

    services = [Service(), Service()]
    threads = [threading.Thread(target=change, args=(service,)) for service in services]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(Item) == 1
    for number in range(2000):
        update(Item, number, 7, None)
    assert [service.heard for service in services] == [[0], [0]]
