"""What is sent of an event."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ..errors import ConfigurationError
from ..events.event import Event
from ..events.models import name_of_model, table_name_of_model

#: Identifiers with full stops between them.
_TYPE = re.compile(r"\w+(\.\w+)*", re.ASCII)

#: Where a word of a class's name begins.
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def check_type(type_: str | None) -> None:
    """Refuse a type of events that is none.

    :raises ConfigurationError: naming the rule.
    """
    if type_ is not None and not (isinstance(type_, str) and _TYPE.fullmatch(type_)):
        raise ConfigurationError(
            f"webhook: type must be of the letters A-Z, a-z, digits and '_', with full stops between its parts, such "
            f"as 'order.shipped', not {type_!r:.100}"
        )


def type_of(event: Event[Any]) -> str:
    """Return the type of an event, from model and label: `order_line.shipped`."""
    model = event.model
    name = name_of_model(model) if isinstance(model, type) else table_name_of_model(model)
    return ".".join(re.sub(r"\W", "_", part, flags=re.ASCII) for part in (_WORD.sub("_", name).lower(), event.label))


def default_body(event: Event[Any], type_: str | None) -> dict[str, Any]:
    """Return what is sent where nobody says otherwise: all that the event carries, but not the writer's context."""
    fields = event.to_dict()
    return {
        "type": type_ or type_of(event),
        "timestamp": fields["emitted_at"],
        "data": {name: fields[name] for name in ("identity", "values", "old", "changed")},
    }


def payload_of(event: Event[Any], body: Callable[[Event[Any]], Any] | None, type_: str | None) -> bytes:
    """Return what is sent.

    :raises ConfigurationError: where `body` returns what JSON does not have.
    """
    made = default_body(event, type_) if body is None else body(event)
    if isinstance(made, bytes):
        return made
    try:
        if isinstance(made, str):
            return made.encode()
        return json.dumps(made, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        # Of these a TypeError alone has no values in its words, but types.
        reason = str(error) if isinstance(error, TypeError) else f"a {type(error).__name__}"
    words = f"{name_of_model(event.model)}.{event.label}"
    raise ConfigurationError(f"webhook: body({words}) must return what JSON has, a text or bytes ({reason})")
