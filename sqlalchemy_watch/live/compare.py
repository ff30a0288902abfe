"""Results compared by their loaded values; and `patch`, which says what turns one list of rows into another."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from decimal import Decimal
from typing import Any, Generic, TypeVar

from sqlalchemy import Row
from sqlalchemy.orm import InstanceState, Mapper

R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Patch(Generic[K, R]):
    """What turns one list of rows into another: remove, then put what is changed and added, then order.

    :param removed: the keys of rows that are gone.
    :param added: new rows, by key, in the new list's order.
    :param changed: rows with another value than before, by key.
    :param order: all keys in their new order; None where what is left, with what is added behind it, is in order.
    """

    removed: list[K]
    added: dict[K, R]
    changed: dict[K, R]
    order: list[K] | None

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed or self.order is not None)


def patch(old: Iterable[R], new: Iterable[R], key: Callable[[R], K]) -> Patch[K, R]:
    """Return what turns one list of rows into another, such as for a page that shows them::

        async for rows in live(async_session, query):
            await websocket.send_json(to_json(patch(shown, rows, key=lambda row: row.Order.id)))
            shown = rows

    :param key: returns what identifies a row among the others.
    :raises ValueError: where two rows of a list have the same key.
    """
    before, after = _by_key(old, key), _by_key(new, key)
    added = {k: row for k, row in after.items() if k not in before}
    kept = [k for k in before if k in after]
    changed = {k: after[k] for k in kept if not same(before[k], after[k])}
    order = list(after)
    return Patch([k for k in before if k not in after], added, changed, None if [*kept, *added] == order else order)


def _by_key(rows: Iterable[R], key: Callable[[R], K]) -> dict[K, R]:
    found: dict[K, R] = {}
    for row in rows:
        k = key(row)
        if k in found:
            raise ValueError(f"patch(): two rows have the key {k!r}: give a key= that identifies a row")
        found[k] = row
    return found


def same(one: Any, other: Any) -> bool:
    """Return True if two results have the same values."""
    return equal(image(one), image(other))


def equal(one: Any, other: Any) -> bool:
    """Return True if two images are equal; False where a value can't be compared."""
    try:
        return bool(one == other)
    except Exception:  # such as arrays, which answer with an array
        return False


def image(value: Any) -> Any:
    """Return the values of a result as they are now, to be compared later: rows, instances and collections taken apart.

    Of an instance these are the attributes that are loaded, relationships included.
    """
    return _image(value, {})


def _image(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    type_ = type(value)
    if type_ is str or type_ is int or value is None:
        return value
    if isinstance(value, (bool, float, Decimal)):  # 1.0 is not 1 on a page, and nan is nan
        return (type_, repr(value))
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, (Row, tuple)):
        return tuple([_image(each, seen) for each in value])
    return _taken_apart(value, seen)


def _taken_apart(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    state: InstanceState[Any] | None = getattr(value, "_sa_instance_state", None)
    if state is not None:
        return _instance(value, state, seen)
    is_dataclass = dataclasses.is_dataclass(value) and not isinstance(value, type)
    has_parts = is_dataclass or isinstance(value, (list, Mapping, Set))
    if not has_parts and not _is_model(value):
        return value
    if id(value) in seen:  # a circle, or the same object once more
        return ("seen", seen[id(value)][0])
    seen[id(value)] = len(seen), value  # kept, so that no other object has its id meanwhile
    if isinstance(value, Mapping):
        return ("mapping", {k: _image(each, seen) for k, each in value.items()})
    if isinstance(value, Set):
        return ("set", *sorted([_image(each, seen) for each in value], key=repr))
    if isinstance(value, list):
        return ("list", *[_image(each, seen) for each in value])
    fields = [f.name for f in dataclasses.fields(value)] if is_dataclass else sorted(vars(value))
    return (type(value), *[(name, _image(getattr(value, name), seen)) for name in fields])


def _instance(value: Any, state: InstanceState[Any], seen: dict[int, tuple[int, Any]]) -> Any:
    """Return the attributes of an instance that are loaded."""
    if id(value) in seen:
        return ("seen", seen[id(value)][0])
    seen[id(value)] = len(seen), value
    mapper = state.mapper
    keys = _keys.get(mapper)
    if keys is None:
        keys = _keys[mapper] = tuple(mapper.attrs.keys())
    loaded = state.dict
    return (type(value), *[(key, _image(loaded[key], seen)) for key in keys if key in loaded])


#: By mapper, the names of its attributes in order.
_keys: weakref.WeakKeyDictionary[Mapper[Any], tuple[str, ...]] = weakref.WeakKeyDictionary()


def _is_model(value: Any) -> bool:
    """Return True for an object whose class says nothing of equality, or compares its attributes, as pydantic's do."""
    class_: Any = type(value)
    if not hasattr(value, "__dict__") or callable(value):
        return False
    return class_.__eq__ is object.__eq__ or hasattr(class_, "model_fields")
