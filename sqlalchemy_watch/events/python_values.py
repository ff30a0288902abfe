"""Python values in JSON with their types, for those that the form of their column can't say.

`None`, booleans, whole numbers, finite floats, texts, lists and dictionaries with text keys are themselves; of the
others each is an object with one key, the type: `{"set": [1, 2]}`. Only types that are known here are read.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

_PLAIN = frozenset([type(None), bool, int, str])

_ADDRESSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network,
        ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network,
    )
}  # fmt: skip


def _members(values: Any) -> list[Any]:
    return sorted(map(write, values), key=repr)


#: Type: how its values are written, and read.
_TYPES: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    float: (repr, float),
    Decimal: (str, Decimal),
    uuid.UUID: (str, uuid.UUID),
    datetime: (datetime.isoformat, datetime.fromisoformat),
    date: (date.isoformat, date.fromisoformat),
    time: (time.isoformat, time.fromisoformat),
    timedelta: (lambda v: [v.days, v.seconds, v.microseconds], lambda v: timedelta(*v)),
    bytes: (lambda v: base64.b64encode(v).decode(), lambda v: base64.b64decode(v, validate=True)),
    tuple: (lambda v: [write(each) for each in v], lambda v: tuple([read(each) for each in _list(v)])),
    set: (_members, lambda v: {read(each) for each in _list(v)}),
    frozenset: (_members, lambda v: frozenset([read(each) for each in _list(v)])),
    dict: (
        lambda v: [[write(key), write(each)] for key, each in v.items()],
        lambda v: {read(key): read(each) for key, each in _list(v)},
    ),
    **{kind: (str, kind) for kind in _ADDRESSES.values()},
}

_READERS: dict[str, Callable[[Any], Any]] = {kind.__name__: reader for kind, (_, reader) in _TYPES.items()}


def write(value: Any) -> Any:
    """Return the value as JSON has it.

    :raises TypeError: for a value of a type that is not known here.
    """
    kind = type(value)
    if kind in _PLAIN or (kind is float and math.isfinite(value)):
        return value
    if kind is list:
        return [write(each) for each in value]
    if kind is dict and all(type(key) is str for key in value) and not _is_tagged(value):
        return {key: write(each) for key, each in value.items()}
    try:
        writer, _ = _TYPES[kind]
    except KeyError:
        raise TypeError(f"a {kind.__qualname__} has no form in JSON") from None
    return {kind.__name__: writer(value)}


def read(value: Any) -> Any:
    """Return the value that `write` has written.

    :raises Exception: of many kinds, where it has not.
    """
    if isinstance(value, list):
        return [read(each) for each in value]
    if not isinstance(value, dict):
        return value
    if _is_tagged(value):
        [(name, inner)] = value.items()
        return _READERS[name](inner)
    return {key: read(each) for key, each in value.items()}


def _is_tagged(value: dict[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in _READERS


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value
