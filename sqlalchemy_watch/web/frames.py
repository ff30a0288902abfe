"""Frames of server-sent events, as the HTML standard has them (section 9.2, "Server-sent events")."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ..errors import ConfigurationError
from ..events.event import Event
from ..events.json_events import write_values
from ..events.models import name_of_model, table_of_model

#: What a browser is not told of unless it is asked for: previous values, and what the writer has said of itself.
LEFT_OUT = ("old", "context")

#: Makes the text of an event; None for one that is not sent.
Serialize = Callable[[Event[Any]], str | bytes | None]

#: Names of what is no event of the database, and of what browsers tell by themselves.
RESERVED = frozenset(["connected", "error", "left", "open", "resync", "snapshot"])

_LINE_ENDS = re.compile(r"\r\n|\r|\n")

_NO_ID = re.compile(r"[\r\n\0]")

#: The id of a browser that came before anything was kept: who comes back with it is told to reload.
NOWHERE = "-"

HEARTBEAT = b":\n\n"


class Frame(NamedTuple):
    """An event for the browser."""

    #: Its name there.
    event: str
    #: Empty for what is no event of the database.
    id: str
    data: str

    def encode(self) -> bytes:
        """Return it as it is sent."""
        lines = [f"event: {self.event}"]
        if self.id:
            lines.append(id_line(self.id))
        lines += [f"data: {line}" for line in _LINE_ENDS.split(self.data)]
        return ("\n".join(lines) + "\n\n").encode(errors="replace")

    def to_json(self) -> str:
        """Return it as a WebSocket sends it."""
        return json.dumps({"event": self.event, "id": self.id, "data": self.data})


def resync(reason: str) -> Frame:
    """Return the frame that says that events are missing: reload what the page shows."""
    return Frame("resync", "", reason)


def to_json(event: Event[Any], *, include: Collection[str] = ()) -> str:
    """Return `Event.to_dict()` as JSON, without previous values and the writer's context.

    :param include: `"old"`, `"context"`, to have them in it.
    :raises ConfigurationError: for another name, and as `Event.to_dict` does.
    """
    unknown = set(include) - {*LEFT_OUT}
    if unknown:
        raise ConfigurationError(f"to_json: include may name {' and '.join(map(repr, LEFT_OUT))}, not {unknown!r}")
    found = {name: value for name, value in event.to_dict().items() if name not in LEFT_OUT or name in include}
    return json.dumps(found, allow_nan=False, separators=(",", ":"))


def left(event: Event[Any]) -> Frame:
    """Return the frame that says that a row is no longer among those that the page shows: its values are not told."""
    key = list(event.values)[: len(event.identity)]
    before = event.old or {}  # of a row whose key changed the page knows the old one
    identity = write_values(event.model, event.label, {name: before.get(name, event.values[name]) for name in key})
    told = {
        "model": name_of_model(event.model), "table": table_of_model(event.model), "schema": event.schema,
        "identity": list(identity.values()),
    }  # fmt: skip
    return Frame("left", event.id, json.dumps(told, allow_nan=False, separators=(",", ":")))


def id_line(event_id: str) -> str:
    """Return the line with an id; one that lines can't have, of a table with such a name, can't be come back with."""
    return f"id: {NOWHERE if _NO_ID.search(event_id) else event_id}"


def own_name(text: str) -> str:
    """Return the name of all events of a stream, if it is not one that means something else there.

    :raises ConfigurationError: otherwise.
    """
    if text in RESERVED:
        raise ConfigurationError(
            f"event={text!r}: the browser would take events for something else: not {', '.join(sorted(RESERVED))}"
        )
    return field_name(text)


def field_name(text: str) -> str:
    """Return the name of an event, if it can be one.

    :raises ConfigurationError: for one that is empty, or of more than one line.
    """
    if not isinstance(text, str) or not text or _LINE_ENDS.search(text):
        raise ConfigurationError(f"event={text!r}: the name of an event in the browser is a text of one line")
    return text
