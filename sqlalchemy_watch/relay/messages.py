"""Messages: events, and gaps among them, as brokers get them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from ..errors import ConfigurationError
from ..events.event import Event
from ..events.models import table_name_of_model
from .subjects import NONE, SUBJECT, Template, escape

#: `"cloudevents"` is CloudEvents 1.0 as one JSON text. `"plain"` is `Event.to_json()`, and with the headers it is
#: CloudEvents as well: what that calls its binary mode.
Format = Literal["cloudevents", "plain"]

#: Names where messages come from, in CloudEvents: a URI, or the path of one.
SOURCE = "/sqlalchemy-watch"

#: What `type` begins with in CloudEvents.
TYPE_PREFIX = "sqlalchemy_watch."

_STRUCTURED, _JSON = "application/cloudevents+json; charset=UTF-8", "application/json"

_ORDERED_ID = re.compile(r"([0-9A-F]{16})-(\d+)")

#: W3C's, which CloudEvents has as an attribute of that name.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_SOURCE = re.compile(r"[!#-;=?-\[\]_a-z~]+")


@dataclass(frozen=True, slots=True)
class Message:
    """What a broker gets of one event, or of a gap.

    Those of one `lane`, a row, stay in order.
    """

    #: `Event.id`, `LSN-position`, the same however often it is published; of a resync `resync-…`.
    id: str
    #: The row's identity as a text: `7`, of several columns `7,DE`. None where no row is named: truncated and resync.
    key: str | None
    subject: str
    #: The operation, such as `updated`; or `resync`.
    type: str
    #: The attributes of CloudEvents: brokers have a prefix of their own for them.
    headers: Mapping[str, str] = field(hash=False)
    data: bytes
    content_type: str
    #: Empty in a resync, like `table`.
    schema: str
    table: str
    label: str
    #: When the row's transaction committed.
    time: datetime

    @property
    def lane(self) -> tuple[str, str, str | None]:
        """The row. Where no row is named, it is in order with all."""
        return self.schema, self.table, self.key

    @property
    def is_structured(self) -> bool:
        """True if `data` is CloudEvents' JSON."""
        return self.content_type == _STRUCTURED

    @property
    def fields(self) -> dict[str, str]:
        """What a `Template` is filled with."""
        return _fields(self.schema, self.table, self.type, self.label, self.key)


def order_of(message_id: str) -> tuple[int, int] | None:
    """Return what ids of events compare by, earlier ones being smaller; None for any other id."""
    found = _ORDERED_ID.fullmatch(message_id)
    return None if found is None else (int(found[1], 16), int(found[2]))


class Writer:
    """Makes messages.

    :param subject: the template of their subjects.
    :param format: `"cloudevents"` or `"plain"`.
    :param source: where they come from, in CloudEvents: a URI or a path, such as `/shop/eu`. Ids are unique in one
        database server, so give each its own.
    :raises ConfigurationError: for a wrong argument.
    """

    def __init__(self, subject: str = SUBJECT, format: Format = "cloudevents", source: str = SOURCE) -> None:
        if format not in get_args(Format):
            raise ConfigurationError(f"format={format!r}: it is 'cloudevents' or 'plain'")
        if not isinstance(source, str) or not _SOURCE.fullmatch(source):
            raise ConfigurationError(f"source={source!r}: give a URI or a path, such as '/shop/eu', in ASCII")
        self.subject: Template = Template(subject)
        self._format, self._source = format, source

    def event(self, event: Event[Any]) -> Message:
        """Return the message of an event.

        :raises ConfigurationError: for an event without a place in the server's log, and for a value that has no form
            in JSON.
        """
        if event.lsn is None:
            raise ConfigurationError(f"{event!r} is not of a consumer group: a relay needs Listener(durable=...)")
        data, table = event.to_dict(), table_name_of_model(event.model)
        return self._make(
            event.id, event.operation, data, event.emitted_at,
            schema=event.schema, table=table, label=event.label, key=key_of(data["identity"]),
            traceparent=event.context.get("traceparent"),
        )  # fmt: skip

    def resync(self, reason: str, place: int | None = None, at: datetime | None = None) -> Message:
        """Return the message that says that events are missing: reload what you hold.

        :param reason: in words.
        :param place: the place in the server's log that identifies the gap, so that it has the same id when it is told
            of again. Without it the id is random.
        :param at: when the gap was found; None for now.
        """
        message_id = f"resync-{uuid.uuid4() if place is None else f'{place:016X}'}"
        data = {"id": message_id, "operation": "resync", "reason": reason}
        return self._make(message_id, "resync", data, at or datetime.now(UTC))

    def _make(
        self, message_id: str, operation: str, data: dict[str, Any], at: datetime,
        schema: str = "", table: str = "", label: str = "", key: str | None = None, traceparent: object = None,
    ) -> Message:  # fmt: skip
        fields = _fields(schema, table, operation, label, key)
        headers = {
            "specversion": "1.0",
            "id": message_id,
            "source": self._source,
            "type": TYPE_PREFIX + operation,
            "time": at.isoformat(),
        }
        if schema:
            headers["subject"] = "/".join([fields["schema"], fields["table"]] + [fields["key"]] * (key is not None))
        if key:
            headers["partitionkey"] = fields["key"]
        if isinstance(traceparent, str) and _TRACEPARENT.fullmatch(traceparent):  # any client may have set it
            headers["traceparent"] = traceparent
        is_structured = self._format == "cloudevents"
        written = {**headers, "datacontenttype": _JSON, "data": data} if is_structured else data
        return Message(
            id=message_id,
            key=key,
            subject=self.subject.render(fields),
            type=operation,
            headers=headers,
            data=json.dumps(written, allow_nan=False, separators=(",", ":")).encode(),
            content_type=_STRUCTURED if is_structured else _JSON,
            schema=schema,
            table=table,
            label=label,
            time=at,
        )


def key_of(identity: list[Any]) -> str | None:
    """Return an identity, as JSON has it, as a text; None for that of no row.

    One column's value stands as it is. Of several, commas stand between them, and a comma or `%` inside one is escaped.
    """
    texts = [value if isinstance(value, str) else json.dumps(value, sort_keys=True) for value in identity]
    if len(texts) < 2:
        return texts[0] if texts else None
    return ",".join(text.replace("%", "%25").replace(",", "%2C") for text in texts)


def _fields(schema: str, table: str, operation: str, label: str, key: str | None) -> dict[str, str]:
    return {
        "schema": escape(schema) if schema else NONE,
        "table": escape(table) if table else NONE,
        "operation": escape(operation),
        "label": escape(label) if label else NONE,
        "key": NONE if key is None else escape(key),
    }
