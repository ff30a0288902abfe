"""Payload -> rows. Pure functions over untrusted bytes: whatever comes, only `PayloadError` is raised."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy.types import TypeEngine

from .. import wire
from ..errors import PayloadError, UnknownVersionError
from ..events import Message
from ..spec import CarriedColumn, TableWatch
from .values import Decode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """A decoded row: its values in the order of `Message.attributes`."""

    values: tuple[Any, ...]
    old: Mapping[str, Any] | None
    changed: frozenset[str] | None
    partial: bool


@dataclass(slots=True)  # not frozen, which would make them slower to make
class Decoded:
    """A notification, read."""

    message: Message
    rows: Sequence[Row]
    #: Why rows are missing; None where none are.
    resync: str | None


class Declared(NamedTuple):
    """The part of a payload that is the same in all of them, while trigger and declaration agree."""

    prefix: bytes
    fields: Mapping[str, Any]


def read_fields(payload: bytes, declared: Declared | None = None) -> dict[str, Any]:
    """The payload's fields, checked as far as that is possible without the declaration.

    :param declared: how it probably begins; that need not be parsed then.
    :raises PayloadError: where it is not a payload of a version known here.
    """
    if declared is not None and payload.startswith(declared.prefix):
        variable: dict[str, Any] = _decode(b"{" + payload[len(declared.prefix) :])
        variable.update(declared.fields)
        _check(variable, _VARIABLE)
        return variable
    fields = _decode(payload)
    if not isinstance(fields, dict) or type(fields.get("v")) is not int:
        raise PayloadError("not an object with a version")
    if fields["v"] != wire.VERSION:
        raise UnknownVersionError("unknown version: bring this library up to date")
    _check(fields, _CONSTANT)
    _check(fields, _VARIABLE)
    for name in (*fields["columns"], *_old_names(fields)):
        if type(name) is not str:
            raise PayloadError("names must be strings")
    return fields


_CONSTANT = (("table", str), ("label", str), ("op", str), ("columns", list))
_VARIABLE = (("schema", str), ("rows", list), ("txid", int), ("at", int))


def _check(fields: Mapping[str, Any], kinds: Iterable[tuple[str, type]]) -> None:
    for name, kind in kinds:
        if type(fields.get(name)) is not kind:
            raise PayloadError(f"field {name!r} is missing or not a {kind.__name__}")


def _decode(payload: bytes) -> Any:
    try:
        return _decode_json(payload.decode())
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"not JSON ({type(error).__name__})") from None


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


#: `json.loads` would make a decoder for each payload.
_decode_json = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _old_names(fields: Mapping[str, Any]) -> list[Any]:
    old = fields.get("old", [])
    if type(old) is not list:
        raise PayloadError("field 'old' is not a list")
    return old


class _Column(NamedTuple):
    attribute: str
    #: What `type(value)` may be in the JSON, besides NoneType.
    expected: type
    decode: Decode | None

    def decode_one(self, value: Any) -> Any:
        """What `decode_all` does, to one value."""
        if type(value) is not self.expected and value is not None:
            raise PayloadError(f"a value of {self.attribute!r} is not a {self.expected.__name__}")
        if self.decode is None:
            return value
        try:
            return self.decode(value)
        except Exception as error:
            raise PayloadError(f"a value of {self.attribute!r} can't be decoded ({type(error).__name__})") from error

    def decode_all(self, values: Sequence[Any]) -> Sequence[Any]:
        if not {type(value) for value in values} <= {self.expected, type(None)}:
            raise PayloadError(f"a value of {self.attribute!r} is not a {self.expected.__name__}")
        if self.decode is None:
            return values
        decode = self.decode
        try:
            return [decode(value) for value in values]
        except Exception as error:
            raise PayloadError(f"a value of {self.attribute!r} can't be decoded ({type(error).__name__})") from error


class PayloadDecoder:
    """Decodes the payloads of one watch, also those of an earlier or later declaration of it."""

    def __init__(self, watch: TableWatch, decoder: Callable[[TypeEngine[Any]], Decode | None]) -> None:
        self._watch = watch
        self._columns = {c.name: _column(c, decoder) for c in (*watch.compared, *watch.carried)}
        self._carried = tuple(c.name for c in watch.carried)
        self._always = len(watch.always)
        fields = {"old": [], **wire.head_fields(watch)}
        self.declared: Declared = Declared(f"{wire.head_json(watch)},".encode(), MappingProxyType(fields))
        self._declared_names, self._declared_old = fields["columns"], fields["old"]
        self._declared_layout = self._layout(self._declared_names, self._declared_old)

    def decode(self, fields: Mapping[str, Any]) -> Decoded:
        """The rows of a payload.

        :raises PayloadError: where it contradicts itself or the declaration.
        """
        if fields["op"] != self._watch.operation:
            raise PayloadError(f"another operation on a watch of {self._watch.operation!r}")
        names, old = fields["columns"], _old_names(fields)
        layout = self._declared_layout
        if names != self._declared_names or old != self._declared_old:
            layout = self._layout(names, old)
        resync = _reason(fields.get("resync"))
        message = Message(
            operation=self._watch.operation,
            label=self._watch.label,
            key_length=len(self._watch.key),
            attributes=layout.attributes,
            txid=fields["txid"],
            emitted_at=_timestamp(fields["at"]),
            context=_context(fields.get("context")),
        )
        rows, lost = layout.decode(fields["rows"])
        if self._watch.old and self._watch.operation == "deleted":
            rows = [row._replace(old=_mapping(layout.attributes, row), changed=frozenset()) for row in rows]
        if lost and resync is None:
            resync = "a row could not be decoded"
        return Decoded(message, rows, resync)

    def _layout(self, names: list[str], old: list[str]) -> _Layout:
        return _Layout(self._columns, self._carried, self._always, names, old)


def _column(column: CarriedColumn, decoder: Callable[[TypeEngine[Any]], Decode | None]) -> _Column:
    return _Column(column.attribute, wire.bare_type(column.type) or str, decoder(column.type))


def _mapping(attributes: tuple[str, ...], row: Row) -> Mapping[str, Any]:
    return MappingProxyType(dict(zip(attributes, row.values, strict=False)))


def _timestamp(microseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        raise PayloadError("field 'at' is no time") from None


def _reason(reason: object) -> str | None:
    """A reason of ours; anything else is not repeated, since it would go to the logs."""
    if reason is None or reason in (wire.TOO_LARGE, wire.BUILD_FAILED):
        return reason if isinstance(reason, str) else None
    return "the database says that rows are missing"


def _context(text: object) -> Mapping[str, Any]:
    """The writer's context; any client can set the setting to anything, and then there is none."""
    if type(text) is not str:
        return _EMPTY
    try:
        context = json.loads(text)
    except (ValueError, RecursionError):
        return _EMPTY
    return MappingProxyType(context) if isinstance(context, dict) else _EMPTY


class _Layout:
    """Where the values stand in the rows of one payload."""

    def __init__(
        self, columns: Mapping[str, _Column], carried: tuple[str, ...], always: int, names: list[str], old: list[str]
    ) -> None:
        position = {name: index for index, name in enumerate(names)}
        if any(name not in position for name in carried[:always]):
            raise PayloadError("a column of the key is not among the columns")
        known = [name for name in carried if name in position]
        self._columns = [(position[name], columns[name]) for name in known]
        self._always = always
        self._width = len(names)
        #: A column the declaration has and the (earlier) trigger does not carry is missing like one left out.
        self._incomplete = len(known) < len(carried)
        self._old = [(index, columns[name]) for index, name in enumerate(old) if name in columns]
        self._old_width = len(old)
        self.attributes = tuple(column.attribute for _, column in self._columns)

    def decode(self, rows: list[Any]) -> tuple[list[Row], int]:
        """The rows, in order, and how many of them could not be decoded."""
        if len(rows) == 1 and type(rows[0]) is list and len(rows[0]) == self._width:
            try:
                return [self._decode_single(rows[0])], 0
            except PayloadError:
                pass  # perhaps the key alone can be decoded
        decoded: list[Row] = []
        lost = 0
        for shape, run in groupby(rows, self._shape):
            same = list(run)
            try:
                decoded.extend(self._decode_run(shape, same))
            except PayloadError:
                # One of them can't be: decode them one by one, and without the extra columns if need be.
                for row in same:
                    found = self._decode_one(shape, row)
                    lost += found is None
                    decoded.extend(() if found is None else (found,))
        return decoded, lost

    def _decode_single(self, row: list[Any]) -> Row:
        """The one row of a payload, without what is worth it for many."""
        values = tuple([column.decode_one(row[index]) for index, column in self._columns])
        return Row(values, None, None, self._incomplete)

    def _shape(self, row: Any) -> str:
        if type(row) is list:
            if len(row) == self._width:
                return "whole"
            if len(row) == self._width + 1 + self._old_width:
                return "paired"
        elif type(row) is dict and type(row.get("partial")) is list and len(row["partial"]) == self._always:
            return "partial"
        raise PayloadError("a row does not fit the columns")

    def _decode_run(self, shape: str, rows: list[Any]) -> Iterator[Row]:
        if shape == "partial":
            return self._decode_partial([row["partial"] for row in rows])
        by_position = list(zip(*rows, strict=True))
        values = [column.decode_all(by_position[index]) for index, column in self._columns]
        whole = list(zip(*values, strict=True)) if values else [()] * len(rows)
        if shape == "whole":
            incomplete = self._incomplete
            return iter([Row(row, None, None, incomplete) for row in whole])
        return self._decode_paired(whole, by_position[self._width :])

    def _decode_partial(self, rows: list[list[Any]]) -> Iterator[Row]:
        by_position = list(zip(*rows, strict=True))
        try:
            values = [column.decode_all(by_position[index]) for index, column in self._columns[: self._always]]
        except IndexError:
            raise PayloadError("a partial row lacks a column of the key") from None
        return (Row(row, None, None, True) for row in zip(*values, strict=True))

    def _decode_paired(self, whole: list[tuple[Any, ...]], previous: Sequence[Sequence[Any]]) -> Iterator[Row]:
        masks, by_position = previous[0], previous[1:]
        if not all(type(mask) is str and len(mask) == self._old_width for mask in masks):
            raise PayloadError("a mask of changes does not fit")
        names = [column.attribute for _, column in self._old]
        olds = list(zip(*(column.decode_all(by_position[index]) for index, column in self._old), strict=True))
        olds = olds or [()] * len(whole)
        key = self.attributes[: self._always]
        for row, mask, values in zip(whole, masks, olds, strict=True):
            # Rows pair by their key, so the previous one had the same.
            old = MappingProxyType({**dict(zip(key, row, strict=False)), **dict(zip(names, values, strict=True))})
            changed = frozenset(column.attribute for index, column in self._old if mask[index] == "1")
            yield Row(row, old, changed, self._incomplete)

    def _decode_one(self, shape: str, row: Any) -> Row | None:
        try:
            return next(iter(list(self._decode_run(shape, [row]))))
        except PayloadError:
            pass
        try:
            return next(self._decode_partial([row["partial"] if shape == "partial" else row]), None)
        except PayloadError:
            return None
