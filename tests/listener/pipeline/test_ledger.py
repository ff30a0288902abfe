"""The ledger: what is acknowledged, what is kept, and who is told. Pure."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from sqlalchemy_watch.listener.pipeline.ledger import COMPACT_FROM, Ledger
from sqlalchemy_watch.listener.pipeline.parts import Part, Transaction


def begin(ledger: Ledger, *ends: int, now: float = 1.0) -> list[Transaction]:
    """Transactions that end there, and were read in full."""
    begun = [Transaction(end - 5) for end in ends]
    for transaction, end in zip(begun, ends, strict=True):
        transaction.end = end
    ledger.begin([Part(transaction, [], True) for transaction in begun], now)
    return begun


def handle(ledger: Ledger, *transactions: Transaction) -> None:
    for transaction in transactions:
        ledger.handled(transaction)
    ledger.settle()


def test_acknowledged_is_the_end_of_what_is_done_without_a_gap() -> None:
    ledger = Ledger(10)
    one, two, three = begin(ledger, 10, 20, 30)
    handle(ledger, two)
    assert (ledger.acknowledged, ledger.is_idle) == (0, False)
    handle(ledger, one)
    assert ledger.acknowledged == 20
    handle(ledger, three)
    assert (ledger.acknowledged, ledger.is_idle) == (30, True)


def test_what_was_handled_counts_once_the_balance_is_drawn() -> None:
    ledger = Ledger(10)
    (one,) = begin(ledger, 10)
    ledger.handled(one)
    assert ledger.acknowledged == 0
    ledger.settle()
    assert ledger.acknowledged == 10


def test_a_transaction_that_is_held_twice_is_done_when_both_let_go() -> None:
    ledger = Ledger(10)
    (one,) = begin(ledger, 10)
    ledger.hold(one)
    ledger.hold(one, 0)
    handle(ledger, one)
    assert (ledger.acknowledged, ledger.kept) == (0, 1)
    ledger.done(one)
    assert (ledger.acknowledged, ledger.kept) == (0, 0)
    ledger.done(one, 0)
    assert ledger.acknowledged == 10


def test_a_transaction_begins_with_its_first_part() -> None:
    ledger = Ledger(10)
    (one,) = begin(ledger, 10, now=1.0)
    ledger.begin([Part(one, [], True)], 2.0)
    assert ledger.waiting_since == 1.0
    handle(ledger, one)
    assert (ledger.waiting_since, ledger.is_idle) == (None, True)


def test_it_is_full_while_as_many_events_are_kept_as_may_be() -> None:
    ledger = Ledger(2)
    (one,) = begin(ledger, 10)
    for is_full in (False, True, True):
        ledger.hold(one)
        assert ledger.is_full is is_full
    ledger.done(one)
    ledger.done(one)
    assert not ledger.is_full


def test_whoever_waits_is_told_once_all_in_front_is_done_as_well() -> None:
    ledger = Ledger(10)
    one, two = begin(ledger, 10, 20)
    told: list[str] = []
    ledger.when_done(two, lambda: told.append("first"))
    ledger.when_done(two, lambda: told.append("second"))
    handle(ledger, two)
    assert told == []
    handle(ledger, one)
    assert told == ["first", "second"]


def test_nobody_is_told_under_the_lock() -> None:
    ledger = Ledger(10)
    (one,) = begin(ledger, 10)
    others: list[threading.Thread] = []

    def look() -> None:
        others.append(threading.Thread(target=ledger.acknowledge, args=[5]))
        others[-1].start()
        others[-1].join(5)

    ledger.when_done(one, look)
    ledger.on_progress = look
    handle(ledger, one)
    assert [other.is_alive() for other in others] == [False, False]


def test_a_later_position_is_noted_and_an_earlier_one_is_not() -> None:
    ledger = Ledger(10, acknowledged=50)
    begun = begin(ledger, 40)
    handle(ledger, *begun)
    assert ledger.acknowledged == 50
    ledger.acknowledge(70)
    ledger.acknowledge(60)
    assert ledger.acknowledged == 70


def test_one_that_is_held_for_long_keeps_nothing_of_all_behind_it_that_is_done() -> None:
    ledger, told = Ledger(10), list[int]()
    (held,) = begin(ledger, 10)
    ledger.hold(held)
    for end in range(20, 200_020, 10):
        (one,) = begin(ledger, end, now=float(end))
        ledger.when_done(one, lambda end=end: told.append(end))
        handle(ledger, one)
        assert len(ledger._open) <= COMPACT_FROM + 2
    (last,) = begin(ledger, 200_020)
    ledger.hold(last)
    handle(ledger, held, last)
    assert ledger.acknowledged == 0
    ledger.done(held)
    assert (ledger.acknowledged, told) == (200_010, list(range(20, 200_020, 10)))
    assert ledger.waiting_since == 1.0
    ledger.done(last)
    assert ledger.is_idle


@pytest.mark.parametrize("seed", range(20))
def test_in_whatever_order_all_let_go_it_ends_with_everything_acknowledged(seed: int) -> None:
    rng, ledger = random.Random(seed), Ledger(1000)
    begun = begin(ledger, *range(10, 310, 10))
    left: list[tuple[Transaction, Callable[[Transaction], None]]] = []
    for transaction in begun:
        left.append((transaction, lambda one: handle(ledger, one)))
        for _ in range(rng.randrange(3)):
            ledger.hold(transaction)
            left.append((transaction, ledger.done))
    rng.shuffle(left)
    while left:
        transaction, let_go = left.pop()
        let_go(transaction)
        held = {id(one) for one, _ in left}
        prefix = next((number for number, one in enumerate(begun) if id(one) in held), len(begun))
        assert ledger.acknowledged == (begun[prefix - 1].end if prefix else 0)
    assert (ledger.is_idle, ledger.kept) == (True, 0)
