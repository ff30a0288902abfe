"""From payloads to the values of events. Pure functions over untrusted bytes, which raise only `PayloadError`."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy.types import TypeEngine

from ... import wire
from ...declaring.spec import CarriedColumn, TableWatch
from ...errors import PayloadError, UnknownVersionError
from ...events.mappings import EMPTY, FrozenDict, Values
from ...events.messages import EventKind, Extras, Message
from .rows import Column, Decode, Row, RowLayout

#: The size up to which the rows of a payload are counted one by one: many times `wire.DURABLE_PAYLOAD_BYTES`.
MAX_COUNTED_BYTES = 1024 * 1024

#: The bounds of `at`: microseconds since 1970 that a datetime can hold.
_EARLIEST, _LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999


@dataclass(slots=True)  # not frozen, which would make them slower to make
class Decoded:
    """A notification that was read."""

    message: Message
    rows: list[Row]
    #: The numbers within the payload of rows that could not be decoded.
    lost: list[int]
    #: The reason for which rows are missing; None where none are.
    resync: str | None


def read_fields(payload: bytes) -> dict[str, Any]:
    """Return the fields of a payload, checked as far as that is possible without the declaration.

    :raises PayloadError: where it is no payload, or one of a version that is not known here.
    """
    fields = _read_json(payload)
    if not isinstance(fields, dict) or type(fields.get("v")) is not int:
        raise PayloadError("not an object with a version")
    if fields["v"] != wire.VERSION:
        raise UnknownVersionError("unknown version: bring this library up to date")
    _check(fields, _CONSTANT)
    _check_variable(fields)
    for name in (*fields["columns"], *_old_names(fields)):
        if type(name) is not str:
            raise PayloadError("names must be strings")
    return fields


_CONSTANT = (("table", str), ("label", str), ("op", str), ("columns", list))
_VARIABLE = (("schema", str), ("rows", list), ("txid", int), ("at", int))
_VARIABLE_TYPES = [kind for _, kind in _VARIABLE]
_variable = itemgetter(*(name for name, _ in _VARIABLE))


def _check_variable(fields: Mapping[str, Any]) -> None:
    """Check the fields that differ from payload to payload: as `_check` does, at a fraction of the time."""
    try:
        if list(map(type, _variable(fields))) == _VARIABLE_TYPES:
            return
    except KeyError:
        pass
    _check(fields, _VARIABLE)


def _check(fields: Mapping[str, Any], kinds: Iterable[tuple[str, type]]) -> None:
    for name, kind in kinds:
        if type(fields.get(name)) is not kind:
            raise PayloadError(f"field {name!r} is missing or not a {kind.__name__}")


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


_decode_json = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode


def _read_json(payload: bytes, begin: str = "") -> Any:
    try:
        text = begin + payload.decode()
        found, end = _decode_json(text)
        if end != len(text):
            raise ValueError(text)
    except (ValueError, RecursionError) as error:
        garbage = PayloadError(f"not JSON ({type(error).__name__})")
        # An SQL_ASCII server does not check what it stores: even a payload of a trigger may be no text.
        garbage.tells_of_rows = isinstance(error, UnicodeDecodeError)
        raise garbage from None
    return found


def _old_names(fields: Mapping[str, Any]) -> list[Any]:
    old = fields.get("old", [])
    if type(old) is not list:
        raise PayloadError("field 'old' is not a list")
    return old


def count_rows(payload: bytes) -> int:
    """Return the number of rows of a payload, whether or not it can be decoded here; 0 for what is none.

    Of positions in a transaction: it must not depend on anything that another release declares or knows. Of more than
    `MAX_COUNTED_BYTES` it is 1: triggers write so much for a single row alone, and reading it would take much memory.
    """
    if len(payload) > MAX_COUNTED_BYTES:
        return 1
    try:
        fields = json.loads(payload.decode("latin-1"))  # of any encoding: those of a server keep ASCII as it is
    except (ValueError, RecursionError):
        return 0
    rows = fields.get("rows") if isinstance(fields, dict) else None
    return len(rows) if isinstance(rows, list) else 0


class PayloadDecoder:
    """Decodes the payloads of one watch, those of an earlier or later declaration of it included."""

    def __init__(self, watch: TableWatch, decoder: Callable[[TypeEngine[Any]], Decode | None]) -> None:
        self._watch = watch
        self._columns = {c.name: _column(c, decoder) for c in (*watch.compared, *watch.carried)}
        self._carried = tuple(c.name for c in watch.carried)
        self._always = len(watch.always)
        declared = {"old": [], **wire.head_fields(watch)}
        self._declared = self._read_layout(declared["columns"], declared["old"])
        self._declared_head = f"{wire.head_json(watch)},".encode()

    def decode_declared(self, payload: bytes, schemas: Collection[str] | None) -> Decoded | None:
        """Decode a payload that begins as the declaration says: that part of it needs no parsing.

        :param schemas: of the table; None for any.
        :returns: None where it begins otherwise, or is of another schema: then `decode` may read it.
        :raises PayloadError: where the rest is not in order.
        """
        if not payload.startswith(self._declared_head):
            return None
        fields = _read_json(payload[len(self._declared_head) :], "{")
        _check_variable(fields)
        if schemas is not None and fields["schema"] not in schemas:
            return None
        return self._decode(fields, *self._declared)

    def decode(self, fields: Mapping[str, Any]) -> Decoded:
        """Decode a payload.

        :raises PayloadError: where it contradicts itself or the declaration.
        """
        if fields["op"] != self._watch.operation:
            raise PayloadError(f"another operation on a watch of {self._watch.operation!r}")
        return self._decode(fields, *self._read_layout(fields["columns"], _old_names(fields)))

    def _read_layout(self, names: list[str], old: list[str]) -> tuple[EventKind, RowLayout]:
        layout = RowLayout(self._columns, self._carried, self._always, names, old)
        watch = self._watch
        return EventKind(watch.operation, watch.label, len(watch.key), layout.attributes), layout

    def _decode(self, fields: Mapping[str, Any], kind: EventKind, layout: RowLayout) -> Decoded:
        at = fields["at"]
        if not _EARLIEST <= at <= _LATEST:
            raise PayloadError("field 'at' is no time")
        context, resync = fields.get("context"), fields.get("resync")
        message = Message(kind, fields["txid"], at, EMPTY if context is None else _context(context), fields["schema"])
        rows, lost = layout.decode(fields["rows"])
        if self._watch.old and self._watch.operation == "deleted":
            rows = [_with_old(kind.attributes, row) for row in rows]
        if resync is not None:
            resync = _reason(resync)
        elif lost:
            resync = "a row could not be decoded"
        return Decoded(message, rows, lost, resync)


def _column(column: CarriedColumn, decoder: Callable[[TypeEngine[Any]], Decode | None]) -> Column:
    return Column(column.attribute, wire.bare_type(column.type) or str, decoder(column.type), column.is_primary)


def _with_old(attributes: tuple[str, ...], row: Row) -> Row:
    """Return a deleted row with its values as the previous ones."""
    values, extras = row
    old = Values(zip(attributes, values, strict=False))
    return values, Extras(old, frozenset(), extras is not None and extras.partial)


def _reason(reason: object) -> str:
    """Return a reason of ours as it is. Any other is not repeated, since it would go to the logs."""
    if reason in (wire.TOO_LARGE, wire.BUILD_FAILED):
        return str(reason)
    return "the database says that rows are missing"


def _context(text: object) -> Mapping[str, Any]:
    """Return the writer's context; an empty one where it is no JSON object, since any client can set it to anything."""
    if type(text) is not str:
        return EMPTY
    try:
        context = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return EMPTY
    return FrozenDict(context) if isinstance(context, dict) else EMPTY
