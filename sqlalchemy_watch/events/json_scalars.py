"""The codecs of single values: numbers, texts, times, addresses, JSON itself."""

from __future__ import annotations

import base64
import ipaddress
import math
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from . import python_values

#: The keys of objects that are no column's own form.
_PYTHON, _STORED = "$python", "$stored"


#: What INET and CIDR are loaded as.
ADDRESSES: Final = frozenset([
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Interface, ipaddress.IPv6Interface,
    ipaddress.IPv4Network, ipaddress.IPv6Network,
])  # fmt: skip


class Unfit(TypeError):
    """A value is not of the type that its column leads to."""


class Codec:
    """Writes and reads the values of one column type."""

    def write(self, value: Any) -> Any:
        """Return a value as JSON has it.

        :raises TypeError: for a value that has no form in JSON.
        """
        try:
            found = self.write_own(value)
        except Unfit:
            return {_PYTHON: python_values.write(value)}
        return {_STORED: found} if _is_wrapped(found) else found

    def read(self, value: Any) -> Any:
        """Return the Python value of what `write` has written.

        :raises Exception: of many kinds, where it has not.
        """
        if _is_wrapped(value):
            return python_values.read(value[_PYTHON]) if _PYTHON in value else self.read_own(value[_STORED])
        return self.read_own(value)

    def write_own(self, value: Any) -> Any:
        """Return a value in the column's own form.

        :raises Unfit: for a value of another type.
        """
        raise NotImplementedError

    def read_own(self, value: Any) -> Any:
        """Return the Python value of what `write_own` has written."""
        raise NotImplementedError


def _is_wrapped(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and (_PYTHON in value or _STORED in value)


class _Json(Codec):
    """JSON, and all whose values are JSON's own."""

    def write_own(self, value: Any) -> Any:
        if not _is_json(value):
            raise Unfit
        return value

    def read_own(self, value: Any) -> Any:
        return value


#: For values that are JSON themselves.
PLAIN = _Json()


def _is_json(value: Any) -> bool:
    kind = type(value)
    if kind is list:
        return all(map(_is_json, value))
    if kind is dict:
        return all(type(key) is str and _is_json(each) for key, each in value.items())
    return value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value))


class Scalar(Codec):
    """Values of one Python type.

    :param kind: the type.
    :param write: makes JSON of a value.
    :param read: makes a value of JSON.
    :param written: the types of that JSON.
    """

    def __init__(
        self, kind: type, write: Callable[[Any], Any], read: Callable[[Any], Any], written: tuple[type, ...] = (str,)
    ) -> None:
        self._kind, self._write, self._read, self._written = kind, write, read, written

    def write_own(self, value: Any) -> Any:
        if value is None:
            return None
        if type(value) is not self._kind:
            raise Unfit
        return self._write(value)

    def read_own(self, value: Any) -> Any:
        if value is None:
            return None
        if type(value) not in self._written:
            raise TypeError(f"not a {self._written[0].__name__}")
        return self._read(value)


def _write_float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _read_float(value: Any) -> float:
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError("not a number")
    return float(value)


def _write_timedelta(value: timedelta) -> float | str:
    seconds = value.total_seconds()
    if timedelta(seconds=seconds) == value:
        return int(seconds) if seconds.is_integer() else seconds
    return str(value // timedelta(microseconds=1))  # too large for a float: microseconds, as a text


def _read_timedelta(value: Any) -> timedelta:
    return timedelta(microseconds=int(value)) if isinstance(value, str) else timedelta(seconds=value)


def _write_address(value: Any) -> str:
    return str(value)


def _itself(value: Any) -> Any:
    return value


SCALARS: dict[type, Codec] = {
    bool: Scalar(bool, _itself, _itself, (bool,)),
    int: Scalar(int, _itself, _itself, (int,)),
    str: Scalar(str, _itself, _itself),
    float: Scalar(float, _write_float, _read_float, (float, int, str)),
    Decimal: Scalar(Decimal, str, Decimal),
    uuid.UUID: Scalar(uuid.UUID, str, uuid.UUID),
    datetime: Scalar(datetime, datetime.isoformat, datetime.fromisoformat),
    date: Scalar(date, date.isoformat, date.fromisoformat),
    time: Scalar(time, time.isoformat, time.fromisoformat),
    timedelta: Scalar(timedelta, _write_timedelta, _read_timedelta, (float, int, str)),
    bytes: Scalar(
        bytes, lambda value: base64.b64encode(value).decode(), lambda value: base64.b64decode(value, validate=True)
    ),
}


def write_scalar(value: Any) -> Any:
    """Return a single value as JSON has it, of whatever column, in the form that `Event.to_json` gives it.

    :raises Unfit: for a value of another type, lists and objects included.
    """
    kind = type(value)
    if value is None:
        return None
    if isinstance(value, Enum):
        return value.name
    if kind in SCALARS:
        return SCALARS[kind].write_own(value)
    if kind in ADDRESSES:
        return str(value)
    raise Unfit


class Address(Codec):
    """INET and CIDR, as psycopg loads them."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self._read = read

    def write_own(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            raise Unfit
        written = str(value)
        if type(self._read(written)) is not type(value):
            raise Unfit
        return written

    def read_own(self, value: Any) -> Any:
        if value is not None and not isinstance(value, str):
            raise TypeError("not a str")
        return None if value is None else self._read(value)


def read_inet(value: str) -> Any:
    return ipaddress.ip_interface(value) if "/" in value else ipaddress.ip_address(value)
