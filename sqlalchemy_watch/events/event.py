"""`Event`: one changed row, as receivers get it."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from sqlalchemy.orm import Session, scoped_session

from ..declaring.spec import EventOperation
from ..errors import ConfigurationError
from .json_events import read_event, write_context, write_values
from .loading import load
from .messages import ChangedRow, EventKind, Extras, Message, T_co
from .models import ModelReference, name_of_model, reference_to, table_of_model

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session

T = TypeVar("T")


class Event(ChangedRow[T_co]):
    """One changed row, as receivers get it. Immutable; `T_co` is the model.

    Events are made by the listener. `values`, `old` and `identity` hold the Python values that the attributes of the
    loaded object would have::

        @Order.watch.updated.connect
        def tell(sender, event):
            if event.changed is not None and "status" in event.changed:  # of a Watch with old=True
                print(event.identity, event.old["status"], "->", event.values["status"])

    It can be pickled and copied, and `to_json()` is for other programs. Such a copy has no `listener`, and equals the
    event: two events are equal if all their attributes but `listener` are.
    """

    __slots__ = ()

    @overload
    def load(self, session: Session | scoped_session[Any], **get_options: Any) -> T_co | None: ...
    @overload
    async def load(self, session: AsyncSession | async_scoped_session[Any], **get_options: Any) -> T_co | None: ...

    def load(self, session: Any, **get_options: Any) -> Any:
        """Return the row's instance as the database holds it now, and None where the row is gone::

            order = event.load(session)
            order = await event.load(async_session, options=[selectinload(Order.lines)])

        An instance that the session holds already is refreshed; one that has changes which are not flushed, or is to
        be deleted, is returned as it is, if its row is still there. Now is, in a transaction that is REPEATABLE READ or
        SERIALIZABLE, the moment of its first query: begin one after the event.

        :param session: a `Session`, a `scoped_session`, or one of the asynchronous ones, where the result is awaited.
        :param get_options: those of `Session.get()`, such as `options` and `with_for_update`.
        :raises ConfigurationError: for a Core table, which has no class to load, and for a `truncated` event, which
            names no row.
        """
        if not isinstance(self._model, type):
            raise ConfigurationError(
                f"table {self._model.key!r} has no mapped class to load: select by event.values instead"
            )
        if not self.identity:
            raise ConfigurationError(f"a {self.operation} event names no row to load")
        return load(self._model, self.identity, session, get_options)

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return the value of one attribute; the default where the event does not carry it."""
        return self.values.get(attribute, default)

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON has it, for `json.dumps` and the like::

            {"id": "771-watch_orders_updated-0", "model": "Order", "table": "orders", "schema": "public",
             "operation": "updated", "label": "updated", "identity": [7], "values": {"id": 7, "total": "12.50"},
             "old": {"id": 7, "total": "10.00"}, "changed": ["total"], "partial": False, "txid": 771,
             "emitted_at": "2024-02-29T12:34:56.789012+00:00", "context": {"request_id": "5f1c"}, "lsn": None,
             "position": None}

        Decimal and UUID are texts, an Enum is its name, times are ISO 8601, a timedelta is its seconds, bytes are
        base64. For a Core table `model` is its key.

        :raises ConfigurationError: for a value that has no form in JSON, of a type of one's own.
        """
        message, kind = self._message, self._message.kind
        values = write_values(self._model, kind.label, self.values)
        return {
            "id": self.id,
            "model": name_of_model(self._model),
            "table": table_of_model(self._model),
            "schema": message.schema,
            "operation": kind.operation,
            "label": kind.label,
            "identity": [values[name] for name in kind.attributes[: kind.key_length]] if values else [],
            "values": values,
            "old": None if self.old is None else write_values(self._model, kind.label, self.old),
            "changed": None if self.changed is None else sorted(self.changed),
            "partial": self.partial,
            "txid": message.txid,
            "emitted_at": self.emitted_at.isoformat(),
            "context": write_context(message.context),
            "lsn": message.lsn,
            "position": self.position,
        }

    def to_json(self) -> str:
        """Return `to_dict()` as a text, in ASCII, which `from_json` reads."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, *targets: Any) -> Event[Any]:
        """Return the event that `to_json()` has written, here or in another process::

            event = Event.from_json(text, Base)

        It equals the one that was written; `listener` is None. Names in it that the model does not carry any more are
        left out.

        :param targets: declarative bases, registries, MetaData, mapped classes or Tables, which have its model.
        :raises PayloadError: where the text is no event.
        :raises ConfigurationError: where the targets do not have its model, or that does not watch its label.
        """
        parts = read_event(text, targets)
        kind = EventKind(cast(EventOperation, parts.operation), parts.label, parts.key_length, parts.attributes)
        message = Message(kind, parts.txid, parts.at, parts.context, parts.schema)
        message.lsn, message.first_position = parts.lsn, parts.position
        message.channel, message.first_number = parts.channel, parts.number
        has_extras = parts.old is not None or parts.changed is not None or parts.partial
        extras = Extras(parts.old, parts.changed, parts.partial) if has_extras else None
        return Event(parts.model, message, parts.row, extras)

    def __reduce__(self) -> Any:
        return _restore, (reference_to(self._model, self.label), *self._pieces())

    def __copy__(self) -> Event[T_co]:
        return _restore(self._model, *self._pieces())

    def __deepcopy__(self, memo: dict[int, Any]) -> Event[T_co]:
        return _restore(self._model, *deepcopy(self._pieces(), memo))

    def _pieces(self) -> tuple[Any, ...]:
        message, kind, extras = self._message, self._message.kind, self._extras
        return (
            (kind.operation, kind.label, kind.key_length, kind.attributes),
            (message.txid, message.at, message.context, message.schema),
            (message.lsn, message.first_position, message.channel, message.first_number),
            self._row,
            None if extras is None else tuple(extras),
            self._index,
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in self.values.items())
        return f"<Event {name_of_model(self._model)}.{self.label}({values})>"


def _restore(
    model: Any,
    kind: tuple[Any, ...],
    message: tuple[Any, ...],
    place: tuple[int | None, int | None, str, int],
    row: tuple[Any, ...],
    extras: tuple[Any, ...] | None,
    index: int,
) -> Event[Any]:
    """Return a copied or unpickled event. Without a listener, which is of another process, or no part of the event."""
    restored = Message(EventKind(*kind), *message)
    restored.lsn, restored.first_position, restored.channel, restored.first_number = place
    found = model.resolve() if isinstance(model, ModelReference) else model
    return Event(found, restored, row, None if extras is None else Extras(*extras), index)
