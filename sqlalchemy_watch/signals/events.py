"""`Event`: one changed row, as receivers get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, overload

from sqlalchemy.orm import Session, scoped_session

from ..declaring.spec import Operation
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session

T = TypeVar("T")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EventKind:
    """The common part of the events of one watch whose payloads name the same columns."""

    operation: Operation
    label: str
    #: The number of leading values that are the primary key.
    key_length: int
    #: Attribute names of the values in a whole row, the key first.
    attributes: tuple[str, ...]
    #: The index of each of them in the row.
    indexes: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "indexes", {name: index for index, name in enumerate(self.attributes)})


class Message:
    """The common part of the rows of one notification."""

    __slots__ = ("at", "context", "first_position", "kind", "listener", "lsn", "origin", "schema", "txid")

    def __init__(
        self,
        kind: EventKind,
        txid: int,
        at: int,
        context: Mapping[str, Any] = _EMPTY,
        schema: str = "",
    ) -> None:
        self.kind: EventKind = kind
        self.txid: int = txid
        #: Microseconds since 1970.
        self.at: int = at
        self.context: Mapping[str, Any] = context
        self.schema: str = schema
        #: The listener that heard it.
        self.listener: Any = None
        #: With durable delivery: where the transaction committed in the server's log, the number of the first row
        #: within it, and, for the dead letters, the notification and the numbers of rows in it that could not be
        #: decoded.
        self.lsn: int | None = None
        self.first_position: int | None = None
        self.origin: Any = None


class Extras(NamedTuple):
    """The parts that most rows lack."""

    old: Mapping[str, Any] | None
    changed: frozenset[str] | None
    partial: bool


class Event(Generic[T]):
    """One changed row, as receivers get it. Immutable; `T` is the model.

    Events are made by the listener. `values`, `old` and `identity` hold the Python values that the attributes of the
    loaded object would have::

        @Order.watch.updated.connect
        def tell(sender, event):
            if event.changed is not None and "status" in event.changed:  # of a Watch with old=True
                print(event.identity, event.old["status"], "->", event.values["status"])
    """

    # One is made for each row. The parts that most rows lack stand in an object of their own.
    __slots__ = ("_extras", "_index", "_message", "_model", "_row")

    def __init__(
        self, model: Any, message: Message, row: tuple[Any, ...], extras: Extras | None = None, index: int = 0
    ) -> None:
        self._model = model
        self._message = message
        self._row = row
        self._extras = extras
        #: The number of the row within the message.
        self._index = index

    @property
    def model(self) -> Any:
        """The model class of the row (in a mapped hierarchy its own class), or the `Table`: the sender as well."""
        return self._model

    @property
    def operation(self) -> Operation:
        """`"inserted"`, `"updated"`, `"deleted"` or `"truncated"`."""
        return self._message.kind.operation

    @property
    def label(self) -> str:
        """The watch's label; the operation where it has none."""
        return self._message.kind.label

    @property
    def schema(self) -> str:
        """The schema of the table whose row it is; of a partition, that of the partition."""
        return self._message.schema

    @property
    def listener(self) -> Any:
        """The `Listener` that heard it: two in one process may share a receiver."""
        return self._message.listener

    @property
    def identity(self) -> tuple[Any, ...] | None:
        """The primary key as a tuple, like `inspect(obj).identity`; None for `truncated`."""
        return self._row[: self._message.kind.key_length] or None

    @property
    def values(self) -> Mapping[str, Any]:
        """The primary key and the extra columns, by attribute name. A deleted row has its last values."""
        if not self._row:
            return _EMPTY
        return MappingProxyType(dict(zip(self._message.kind.attributes, self._row, strict=False)))

    @property
    def old(self) -> Mapping[str, Any] | None:
        """The previous values by attribute name; None without `Watch(old=True)`, and where the key itself changed."""
        return None if self._extras is None else self._extras.old

    @property
    def changed(self) -> frozenset[str] | None:
        """The names of the attributes in `old` whose value differs; None where `old` is None."""
        return None if self._extras is None else self._extras.changed

    @property
    def txid(self) -> int:
        """The transaction's id (`pg_current_xact_id`)."""
        return self._message.txid

    @property
    def emitted_at(self) -> datetime:
        """The time at which the trigger ran, by the server's clock: an aware datetime in UTC."""
        return EPOCH + timedelta(microseconds=self._message.at)

    @property
    def context(self) -> Mapping[str, Any]:
        """The mapping that the writer set with `context(...)`; empty otherwise."""
        return self._message.context

    @property
    def partial(self) -> bool:
        """True if extra columns were left out of `values`, because the row would not fit into a notification."""
        return self._extras is not None and self._extras.partial

    @property
    def lsn(self) -> int | None:
        """The place in the server's log where the transaction committed; None without durable delivery.

        It grows from transaction to transaction, and is the same when the event is delivered again.
        """
        return self._message.lsn

    @property
    def position(self) -> int | None:
        """The number of the event within its transaction, from 0; None without durable delivery.

        `(lsn, position)` identifies an event, and grows from one to the next.
        """
        first = self._message.first_position
        return None if first is None else first + self._index

    @overload
    def load(self, session: Session | scoped_session[Any]) -> T | None: ...
    @overload
    async def load(self, session: AsyncSession | async_scoped_session[Any]) -> T | None: ...

    def load(self, session: Any) -> Any:
        """Return the row's instance as `session.get()` does: None where the row is gone::

            order = event.load(session)
            order = await event.load(async_session)

        :param session: an instance that it holds already is returned as it is, unless it is expired.
        :raises ConfigurationError: for a Core table, which has no class to load, and for a `truncated` event, which
            names no row.
        """
        if not isinstance(self._model, type):
            raise ConfigurationError(
                f"table {self._model.key!r} has no mapped class to load: select by event.values instead"
            )
        if self.identity is None:
            raise ConfigurationError(f"a {self.operation} event names no row to load")
        return session.get(self._model, self.identity)

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return the value of one attribute; the default where the event does not carry it."""
        return self.values.get(attribute, default)

    def __repr__(self) -> str:
        name = getattr(self._model, "__name__", None) or getattr(self._model, "key", self._model)
        values = ", ".join(f"{k}={v!r}" for k, v in self.values.items())
        return f"<Event {name}.{self.label}({values})>"


def parts_of(event: Event[Any]) -> tuple[Message, tuple[Any, ...], Extras | None, int]:
    """Return the parts of an event: the message, the values of the row, its extras, and its number in the message.

    They are of use to the listener and the filters alone, and so no members of `Event`.
    """
    return event._message, event._row, event._extras, event._index  # noqa: SLF001 - of the same module
