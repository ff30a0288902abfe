"""Results compared by their values, and patches: no database."""

from __future__ import annotations

import dataclasses
import datetime
import random
from decimal import Decimal
from typing import Any

import pytest
from models import declare_base
from sqlalchemy.orm import make_transient_to_detached

from live.conftest import declare_shop
from sqlalchemy_watch.live import Patch, patch
from sqlalchemy_watch.live.compare import same

shop = declare_shop(declare_base())


@dataclasses.dataclass
class Page:
    title: str
    rows: list[Any]


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


def order(**values: Any) -> Any:
    found = shop.Order(**values)
    make_transient_to_detached(found)
    return found


NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1),
        ([(1, "a")], [(1, "a")]),
        (NAN, float("nan")),
        ([Decimal("NaN")], [Decimal("NaN")]),
        ({"a": [1, {2}]}, {"a": [1, {2}]}),
        (datetime.datetime(2026, 1, 1), datetime.datetime(2026, 1, 1)),
        (Page("a", [order(id=1, total=2)]), Page("a", [order(id=1, total=2)])),
        (Plain([1]), Plain([1])),
        (bytearray(b"x"), b"x"),
        ({order(id=1), order(id=2)}, {order(id=2), order(id=1)}),
    ],
)  # fmt: skip
def test_equal_values_are_the_same(one: Any, other: Any) -> None:
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, True),
        (1, 1.0),
        (Decimal("1.0"), Decimal("1.00")),
        (0.0, -0.0),
        ([1, 2], [2, 1]),
        ([1], (1,)),
        ({"a": 1}, {"a": 2}),
        (Page("a", [order(id=1, total=2)]), Page("a", [order(id=1, total=3)])),
        (Plain(1), Plain(2)),
        (order(id=1), order(id=1, total=None)),
        (order(id=1, items=[shop.Item(id=1)]), order(id=1, items=[shop.Item(id=2)])),
        (order(id=1), shop.Item(id=1)),
    ],
)  # fmt: skip
def test_other_values_are_not(one: Any, other: Any) -> None:
    assert not same(one, other)


def test_circles_are_followed_once() -> None:
    def circle(price: int) -> Any:
        found = order(id=1, items=[shop.Item(id=1, price=price)])
        assert found.items[0].order is found
        return found

    assert same(circle(1), circle(1))
    assert not same(circle(1), circle(2))


class Array:
    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_what_can_t_be_compared_is_another_value() -> None:
    assert not same([Array()], [Array()])


def applied(old: list[Any], found: Patch) -> list[Any]:
    """Do to a list of (key, value) what the patch says, as a browser does."""
    rows = {row[0]: row for row in old}
    for key in found.removed:
        del rows[key]
    rows.update(found.changed)
    rows.update(found.added)
    return [rows[key] for key in (found.order or rows)]


def test_a_patch_turns_one_list_into_the_other() -> None:
    chance = random.Random(7)
    for _ in range(500):
        old, new = ([(k, chance.randint(0, 2)) for k in chance.sample(range(8), chance.randint(0, 8))] for _ in "ab")
        found = patch(old, new, key=lambda row: row[0])
        assert applied(old, found) == new
        assert bool(found) is (old != new)


def test_a_patch_says_no_more_than_is_needed() -> None:
    old, new = [(1, "a"), (2, "b"), (3, "c")], [(2, "B"), (3, "c"), (4, "d")]
    assert patch(old, new, key=lambda row: row[0]) == Patch([1], {4: (4, "d")}, {2: (2, "B")}, None)
    assert patch(old, old[::-1], key=lambda row: row[0]) == Patch([], {}, {}, [3, 2, 1])


def test_a_patch_wants_keys_that_tell_rows_apart() -> None:
    with pytest.raises(ValueError, match="two rows have the key 1: give a key="):
        patch([(1, "a"), (1, "b")], [], key=lambda row: row[0])
