"""Events as JSON: what `Event.to_dict` writes, and `Event.from_json` reads, whoever has sent it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ..errors import ConfigurationError, PayloadError
from .json_scalars import PLAIN, Codec
from .mappings import FrozenDict, Values
from .messages import read_time
from .models import WatchedColumns, find_model, name_of_model, shown, watched

#: The fields, and the types of their values.
_FIELDS: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "model": (str,),
    "table": (str,),
    "schema": (str,),
    "operation": (str,),
    "label": (str,),
    "identity": (list,),
    "values": (dict,),
    "old": (dict, type(None)),
    "changed": (list, type(None)),
    "partial": (bool,),
    "txid": (int,),
    "emitted_at": (str,),
    "context": (dict,),
    "lsn": (int, type(None)),
    "position": (int, type(None)),
}


class Parts(NamedTuple):
    """What an event is made of."""

    model: Any
    operation: str
    label: str
    key_length: int
    attributes: tuple[str, ...]
    row: tuple[Any, ...]
    old: Values | None
    changed: frozenset[str] | None
    partial: bool
    schema: str
    txid: int
    at: datetime
    context: Mapping[str, Any]
    lsn: int | None
    position: int | None
    channel: str
    number: int


def write_values(model: Any, label: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row as JSON has them, by attribute name.

    :raises ConfigurationError: for a value that has no form in JSON.
    """
    codecs = watched(model, label).codecs
    written = {}
    for name, value in values.items():
        try:
            written[name] = codecs.get(name, PLAIN).write(value)
        except (TypeError, RecursionError) as error:
            raise ConfigurationError(
                f"{name_of_model(model)}.{label}: {name!r} can't be written as JSON ({error}): give its type a "
                f"process_bind_param, from which process_result_value makes the same value again"
            ) from None
    return written


def write_context(context: Mapping[str, Any]) -> Any:
    """Return the writer's context as JSON has it."""
    return PLAIN.write(dict(context))


def read_event(text: str | bytes, targets: Iterable[Any]) -> Parts:
    """Return the parts of the event in a JSON text.

    :raises PayloadError: where the text is no event.
    :raises ConfigurationError: where the targets do not have its model, or that does not watch its label.
    """
    fields = _read_fields(text)
    model = find_model(fields["model"], fields["table"], fields["label"], targets)
    columns = watched(model, fields["label"])
    if columns.operation != fields["operation"]:
        raise PayloadError(f"operation {shown(fields['operation'])} of a watch of {columns.operation!r}")
    values, old = fields["values"], fields["old"]
    attributes = tuple(name for name in columns.carried if name in values)
    if attributes[: len(columns.key)] != columns.key or fields["identity"] != [values[name] for name in columns.key]:
        raise PayloadError("the identity is not that of the values")
    row = tuple(_read_value(columns, name, values[name]) for name in attributes)
    left_out = tuple(name for name in columns.carried if name not in values) if fields["partial"] else ()
    return Parts(
        model=model,
        operation=fields["operation"],
        label=fields["label"],
        key_length=len(columns.key),
        attributes=attributes + left_out,
        row=row,
        old=None if old is None else _read_old(columns, old),
        changed=_read_changed(fields["changed"]),
        partial=fields["partial"],
        schema=fields["schema"],
        txid=fields["txid"],
        at=_read_time(fields["emitted_at"]),
        context=_read_context(fields["context"]),
        lsn=fields["lsn"],
        position=fields["position"],
        **_read_id(fields),
    )


def _read_id(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return channel and number, which only an event without durable delivery has."""
    if fields["lsn"] is not None:
        if fields["position"] is None or fields["id"] != f"{fields['lsn']:016X}-{fields['position']}":
            raise PayloadError("field 'id' is not that of lsn and position")
        return {"channel": "", "number": 0}
    found = re.fullmatch(rf"{fields['txid']}-(.*)-([0-9]{{1,18}})", fields["id"], re.DOTALL)
    if found is None:
        raise PayloadError("field 'id' is not that of an event")
    return {"channel": found[1], "number": int(found[2])}


def _read_fields(text: str | bytes) -> dict[str, Any]:
    if not isinstance(text, (str, bytes)):
        raise ConfigurationError(f"an event is read from a text or bytes, not from {type(text).__name__}")
    try:
        fields = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"not JSON ({type(error).__name__})") from None
    if not isinstance(fields, dict):
        raise PayloadError("not a JSON object")
    for name, kinds in _FIELDS.items():
        if type(fields.get(name)) not in kinds:
            raise PayloadError(f"field {name!r} is missing or not a {kinds[0].__name__}")
    return fields


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _read_value(columns: WatchedColumns, name: str, value: Any) -> Any:
    return _decode(columns.codecs[name], name, value)


def _decode(codec: Codec, name: str, value: Any) -> Any:
    try:
        return codec.read(value)
    except Exception as error:
        raise PayloadError(f"a value of {name!r} can't be read ({type(error).__name__})") from None


def _read_old(columns: WatchedColumns, old: Mapping[str, Any]) -> Values:
    return Values({name: _read_value(columns, name, value) for name, value in old.items() if name in columns.codecs})


def _read_changed(changed: list[Any] | None) -> frozenset[str] | None:
    if changed is not None and not all(isinstance(name, str) for name in changed):
        raise PayloadError("field 'changed' is not a list of names")
    return None if changed is None else frozenset(changed)


def _read_context(context: dict[str, Any]) -> Mapping[str, Any]:
    found = _decode(PLAIN, "context", context)
    if not isinstance(found, dict):
        raise PayloadError("field 'context' is not a dict")
    return FrozenDict(found)


def _read_time(text: str) -> datetime:
    try:
        return read_time(text)
    except ValueError:
        raise PayloadError("field 'emitted_at' is no time with an offset") from None
