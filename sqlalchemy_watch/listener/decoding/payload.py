"""From payloads to the values of events. Pure functions over untrusted bytes, which raise only `PayloadError`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.types import TypeEngine

from ... import wire
from ...declaring.spec import CarriedColumn, TableWatch
from ...errors import PayloadError, UnknownVersionError
from ...events.mappings import EMPTY, FrozenDict, Values
from ...events.messages import EventKind, Extras, Message, Stamp, read_time
from .rows import Column, Decode, Row, RowLayout

#: The size up to which the rows of a payload are counted one by one: many times `wire.DURABLE_PAYLOAD_BYTES`.
MAX_COUNTED_BYTES = 1024 * 1024

#: The oids that a table can have are from 1 to below this.
_OIDS_END = 2**32


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
    for name, kind in _CONSTANT:
        if type(fields.get(name)) is not kind:
            raise PayloadError(f"field {name!r} is missing or not a {kind.__name__}")
    for name in (*fields["columns"], *_old_names(fields)):
        if type(name) is not str:
            raise PayloadError("names must be strings")
    return fields


_CONSTANT = (("table", str), ("label", str), ("op", str), ("columns", list))


def read_place(fields: Mapping[str, Any], schema: str | None = None) -> tuple[int | None, str | None]:
    """Return the oid of the table or partition that a payload is of, and its schema, as far as the payload says.

    :param schema: where the head has been taken away, the one in it.
    :raises PayloadError: where it says neither.
    """
    oid, schema = fields.get("oid"), fields.get("schema", schema)
    if type(schema) is not str and (schema is not None or oid is None):
        raise PayloadError("field 'schema' is missing or not a str")
    if oid is not None and (type(oid) is not int or not 0 < oid < _OIDS_END):
        raise PayloadError("field 'oid' is no oid")
    return oid, schema


def read_stamp(fields: Mapping[str, Any]) -> Stamp:
    """Return the number of the transaction, and the time, of a payload that has them.

    :raises PayloadError: where it has none.
    """
    txid = fields.get("txid")
    if type(txid) is not int:
        raise PayloadError("field 'txid' is missing or not an int")
    try:
        return txid, read_time(fields.get("at"))
    except (ValueError, TypeError):
        raise PayloadError("field 'at' is no time with an offset") from None


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


#: What `raw_decode` calls: half a microsecond less.
_decoder: Any = json.JSONDecoder(parse_constant=_refuse_constant)
_scan_json: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once


def _read_json(payload: bytes, begin: str = "") -> Any:
    try:
        text = begin + payload.decode()
        found, end = _scan_json(text, 0)
        if end != len(text):
            raise ValueError(text)
    except (ValueError, RecursionError, StopIteration) as error:
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
    return _count(payload)[1]


def count_rows_of(payload: bytes) -> tuple[int | None, int]:
    """Return the number of the transaction of a payload, and that of its rows, whether or not it can be decoded here.

    :returns: None and 0 for what is none.
    """
    return _count(payload)


def _count(payload: bytes) -> tuple[int | None, int]:
    try:
        fields = json.loads(payload.decode("latin-1"))  # of any encoding: those of a server keep ASCII as it is
    except (ValueError, RecursionError):
        return None, 0
    if not isinstance(fields, dict):
        return None, 0
    rows, txid = fields.get("rows"), fields.get("txid")
    return (txid if type(txid) is int else None), (len(rows) if isinstance(rows, list) else 0)


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
        self._beginning = wire.beginning(watch).encode()

    def read_declared(self, payload: bytes) -> dict[str, Any] | None:
        """Return the fields behind the head of a payload whose head is as declared: that needs no parsing.

        :returns: None where it begins otherwise: then `read_fields` may read it.
        :raises PayloadError: where the rest is no JSON.
        """
        if not payload.startswith(self._declared_head):
            return None
        fields: dict[str, Any] = _read_json(payload[len(self._declared_head) :], "{")
        return fields

    def begins(self, payload: bytes) -> bool:
        """Return True if a payload begins as the triggers of this watch begin it, whatever their declaration was."""
        return payload.startswith(self._beginning)

    def decode_declared(self, fields: Mapping[str, Any], schema: str, stamp: Stamp) -> Decoded:
        """Decode what `read_declared` has returned, as `decode` does the whole."""
        return self._decode(fields, schema, stamp, *self._declared)

    def decode(self, fields: Mapping[str, Any], schema: str, stamp: Stamp) -> Decoded:
        """Decode a payload.

        :param schema: of the table or partition that it is of.
        :param stamp: its transaction's number, and its time.
        :raises PayloadError: where it contradicts itself or the declaration.
        """
        if fields["op"] != self._watch.operation:
            raise PayloadError(f"another operation on a watch of {self._watch.operation!r}")
        return self._decode(fields, schema, stamp, *self._read_layout(fields["columns"], _old_names(fields)))

    def _read_layout(self, names: list[str], old: list[str]) -> tuple[EventKind, RowLayout]:
        layout = RowLayout(self._columns, self._carried, self._always, names, old)
        watch = self._watch
        return EventKind(watch.operation, watch.label, len(watch.key), layout.attributes), layout

    def _decode(
        self, fields: Mapping[str, Any], schema: str, stamp: Stamp, kind: EventKind, layout: RowLayout
    ) -> Decoded:
        encoded, context, resync = fields.get("rows"), fields.get("context"), fields.get("resync")
        if type(encoded) is not list:
            raise PayloadError("field 'rows' is missing or not a list")
        txid, at = stamp
        message = Message(kind, txid, at, EMPTY if context is None else _context(context), schema)
        rows, lost = layout.decode(encoded)
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
    """Return the writer's context; an empty one where it is too long, or no JSON object: any client can set it so."""
    if type(text) is not str or _is_too_long(text):
        return EMPTY
    try:
        context = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return EMPTY
    return FrozenDict(context) if isinstance(context, dict) else EMPTY


def _is_too_long(text: str) -> bool:
    """Return True for a context that takes more bytes in a payload than `context()` allows."""
    if len(text) * 6 + 2 <= wire.MAX_CONTEXT_BYTES:  # no character takes more
        return False
    return len(json.dumps(text, ensure_ascii=False).encode(errors="surrogatepass")) > wire.MAX_CONTEXT_BYTES
