"""The values of columns in JSON, and back: exactly, by the type of the column.

==================================  ============================================================================
numbers, booleans, texts, NULL      themselves; a float that is no number "NaN", "Infinity" or "-Infinity"
Decimal, UUID, addresses            a text
Enum                                its name
date, time, datetime                a text, ISO 8601
timedelta                           seconds
bytes                               a text, base64
ARRAY                               a list
ranges                              {"lower": ..., "upper": ..., "bounds": "[)", "empty": false}
multiranges                         a list of these
JSON, HSTORE                        themselves
TypeDecorator                       the form of what it stores
==================================  ============================================================================

A value that its column's type does not lead to is `{"$python": ...}`, as `python_values` has it: some drivers give
texts, and a TypeDecorator may have no way back, or one that loses something. What looks like that, but is the
column's own JSON, is `{"$stored": ...}`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.ranges import AbstractMultiRange, AbstractRange
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..declaring.dialect import POSTGRESQL
from . import python_values
from .json_scalars import PLAIN, SCALARS, Address, Codec, Scalar, Unfit, read_inet

_BOUNDS = ("[)", "(]", "[]", "()")

#: The Python types of the bounds of ranges.
_BOUND_TYPES: dict[str, type] = {
    "INT4": int, "INT8": int, "NUM": Decimal, "DATE": date, "TS": datetime, "TSTZ": datetime,
}  # fmt: skip


class _Array(Codec):
    def __init__(self, item: Codec, as_tuple: bool) -> None:
        self._item = item
        self._sequence: type[Any] = tuple if as_tuple else list

    def write_own(self, value: Any) -> Any:
        if value is None:
            return None
        if type(value) is not self._sequence:
            raise Unfit
        return [self.write_own(each) if type(each) is self._sequence else self._item.write(each) for each in value]

    def read_own(self, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, list):
            raise TypeError("not a list")
        return self._sequence(
            [self.read_own(each) if isinstance(each, list) else self._item.read(each) for each in value]
        )


class _Range(Codec):
    def __init__(self, bound: Codec) -> None:
        self._bound = bound

    def write_own(self, value: Any) -> Any:
        if value is None:
            return None
        if type(value) is not postgresql.Range:
            raise Unfit
        lower, upper = self._bound.write_own(value.lower), self._bound.write_own(value.upper)
        return {"lower": lower, "upper": upper, "bounds": value.bounds, "empty": value.empty}

    def read_own(self, value: Any) -> Any:
        if value is None:
            return None
        if value["bounds"] not in _BOUNDS or type(value["empty"]) is not bool:
            raise ValueError("no range")
        lower, upper = self._bound.read_own(value["lower"]), self._bound.read_own(value["upper"])
        return postgresql.Range(lower, upper, bounds=value["bounds"], empty=value["empty"])


class _MultiRange(Codec):
    def __init__(self, item: Codec) -> None:
        self._item = item

    def write_own(self, value: Any) -> Any:
        if value is None:
            return None
        if type(value) is not postgresql.ranges.MultiRange:
            raise Unfit
        return [self._item.write_own(each) for each in value]

    def read_own(self, value: Any) -> Any:
        if value is not None and not isinstance(value, list):
            raise TypeError("not a list")
        return None if value is None else postgresql.ranges.MultiRange([self._item.read_own(each) for each in value])


class _Processed(Codec):
    """Values that the type itself converts, from and to what is stored.

    :param to_stored: makes of a value what is stored; None where the type has no way back.
    """

    def __init__(
        self, stored: Codec, to_stored: Callable[[Any], Any] | None, from_stored: Callable[[Any], Any]
    ) -> None:
        self._stored, self._to_stored, self._from_stored = stored, to_stored, from_stored

    def write_own(self, value: Any) -> Any:
        if self._to_stored is None:
            raise Unfit
        try:
            written = self._write_stored(self._to_stored(value))
            is_exact = bool(self.read_own(written) == value)
        except Exception as error:  # of the type's own code
            raise Unfit from error
        if not is_exact:
            try:
                python_values.write(value)
            except TypeError:  # perhaps it has no __eq__, and the way back is the right one
                return written
            raise Unfit
        return written

    def _write_stored(self, stored: Any) -> Any:
        if isinstance(stored, str):  # which the server takes for values of any type
            try:
                stored = self._stored.read(stored)
            except Exception:
                pass
        return self._stored.write(stored)

    def read_own(self, value: Any) -> Any:
        return self._from_stored(self._stored.read(value))


def codec_of(type_: TypeEngine[Any]) -> Codec:
    """Return the codec for the values of a column of this type."""
    impl: Any = type_.dialect_impl(POSTGRESQL)
    if isinstance(impl, TypeDecorator):
        return _decorated(impl)
    if isinstance(impl, sqltypes.UserDefinedType):
        return _user_defined(impl)
    if isinstance(impl, postgresql.DOMAIN):
        return codec_of(impl.data_type)
    if isinstance(impl, sqltypes.Enum) and impl.enum_class is not None:
        kind: Any = impl.enum_class
        return Scalar(kind, lambda member: member.name, lambda name: kind[name])
    if isinstance(impl, sqltypes.ARRAY):
        return _Array(codec_of(impl.item_type), bool(impl.as_tuple))
    if isinstance(impl, AbstractRange):
        return _range(impl)
    if isinstance(impl, postgresql.INET):
        return Address(read_inet)
    if isinstance(impl, postgresql.CIDR):
        return Address(ipaddress.ip_network)
    return _by_python_type(impl)


def _range(impl: Any) -> Codec:
    name = str(impl.__visit_name__).upper().removesuffix("RANGE").removesuffix("MULTI")
    codec = _Range(SCALARS[_BOUND_TYPES[name]])
    return _MultiRange(codec) if isinstance(impl, AbstractMultiRange) else codec


def _by_python_type(impl: Any) -> Codec:
    try:
        kind = impl.python_type
    except NotImplementedError:
        return PLAIN
    if isinstance(kind, type) and issubclass(kind, str) and kind is not str:
        return Scalar(kind, str, kind)
    return SCALARS.get(kind, PLAIN)


def _decorated(type_: Any) -> Codec:
    stored = codec_of(type_.impl_instance)
    kind = type(type_)
    if kind.process_result_value is TypeDecorator.process_result_value:
        return stored
    if kind.process_bind_param is TypeDecorator.process_bind_param:
        to_stored = None
    else:
        to_stored = lambda value: type_.process_bind_param(value, POSTGRESQL)  # noqa: E731
    return _Processed(stored, to_stored, lambda value: type_.process_result_value(value, POSTGRESQL))


def _user_defined(type_: Any) -> Codec:
    to_stored = type_.bind_processor(POSTGRESQL)
    from_stored = type_.result_processor(POSTGRESQL, None)
    if from_stored is None:
        return PLAIN
    return _Processed(PLAIN, to_stored, from_stored)
