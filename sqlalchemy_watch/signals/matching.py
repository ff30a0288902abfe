"""Values as the keys of dictionaries: the way in which filters compare, and batches that keep the latest event."""

from __future__ import annotations

import uuid
from collections.abc import Hashable
from typing import Any, NamedTuple, cast

from .receivers import Subscriber

#: Attribute names that a filter compares.
Keys = tuple[str, ...]


class TouchingKeys(Keys):
    """Keys whose values are compared with those of the previous row as well."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TouchingKeys) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((TouchingKeys, tuple(self)))


#: The types of keys that `freeze` need not look at, of those that keys mostly are.
FROZEN = frozenset([int, str, uuid.UUID, type(None)])

#: Levels of lists and dictionaries within a value that can be filtered by. Without a bound, a value would be compared
#: in one thread, and be too deep for the stack of another.
MAX_DEPTH = 100


def freeze(value: Any, depth: int = 0) -> Hashable:
    """Return the value as a dictionary key: lists and dictionaries (arrays, JSON) become tuples and sets.

    :raises TypeError: for a value that is nested more deeply than `MAX_DEPTH`.
    """
    if type(value) in FROZEN:
        return cast(Hashable, value)
    if depth > MAX_DEPTH:
        raise TypeError(f"it is nested more than {MAX_DEPTH} levels deep")
    depth += 1
    if isinstance(value, list):
        return ("list", *[freeze(item, depth) for item in value])
    if isinstance(value, dict):
        return ("dict", frozenset([(key, freeze(item, depth)) for key, item in value.items()]))
    if isinstance(value, set):
        return frozenset([freeze(item, depth) for item in value])
    if type(value) is tuple:
        return tuple([freeze(item, depth) for item in value])
    return cast(Hashable, value)


class Matches(NamedTuple):
    """The receivers of filters for one row."""

    subscribers: list[tuple[Subscriber, ...]]
    #: True if a filter could not be decided for want of a column.
    is_undecided: bool
    #: The keys whose values could not be compared, with what that raised.
    failed: list[tuple[Keys, Exception]]
