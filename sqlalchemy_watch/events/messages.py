"""Messages and their rows: the parts of events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from ..declaring.spec import EventOperation
from .mappings import EMPTY, NO_VALUES, PartialValues, Values

T_co = TypeVar("T_co", covariant=True)

#: The number of a transaction, and a time with an offset.
Stamp: TypeAlias = tuple[int, datetime]


@dataclass(frozen=True, slots=True)
class EventKind:
    """The common part of the events of one watch whose payloads name the same columns."""

    operation: EventOperation
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

    __slots__ = (
        "at", "channel", "context", "first_number", "first_position", "kind", "listener", "lsn", "origin", "schema",
        "transaction", "txid",
    )  # fmt: skip

    def __init__(
        self,
        kind: EventKind,
        txid: int,
        at: datetime,
        context: Mapping[str, Any] = EMPTY,
        schema: str = "",
    ) -> None:
        self.kind: EventKind = kind
        self.txid: int = txid
        #: With any offset.
        self.at: datetime = at
        self.context: Mapping[str, Any] = context
        self.schema: str = schema
        #: The listener that heard it.
        self.listener: Any = None
        #: Without durable delivery: the channel, and the number of the first row among those of the transaction there.
        self.channel: str = ""
        self.first_number: int = 0
        #: With durable delivery: where the transaction committed in the server's log, the number of the first row
        #: within it, and, for the dead letters, the notification and the numbers of rows in it that could not be
        #: decoded.
        self.lsn: int | None = None
        self.first_position: int | None = None
        self.origin: Any = None
        #: With durable delivery: the transaction, which whoever keeps an event holds.
        self.transaction: Any = None


class Extras(NamedTuple):
    """The parts that most rows lack."""

    old: Mapping[str, Any] | None
    changed: frozenset[str] | None
    partial: bool


class ChangedRow(Generic[T_co]):
    """One changed row: the attributes of an `Event`."""

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
    def operation(self) -> EventOperation:
        """`"inserted"`, `"updated"`, `"deleted"` or `"truncated"`; `"read"` of a row that was there before."""
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
    def identity(self) -> tuple[Any, ...]:
        """The primary key as a tuple, like `inspect(obj).identity`; an empty tuple for `truncated`."""
        return self._row[: self._message.kind.key_length]

    @property
    def values(self) -> Mapping[str, Any]:
        """The primary key and the extra columns, by attribute name. A deleted row has its last values.

        A `partial` event lacks some: a `KeyError` says so.
        """
        row = self._row
        if not row:
            return NO_VALUES
        attributes = self._message.kind.attributes
        values = zip(attributes, row, strict=False)
        return Values(values) if len(row) == len(attributes) else PartialValues(values, attributes[len(row) :])

    @property
    def old(self) -> Mapping[str, Any] | None:
        """The previous values by attribute name, those of the key included, which may have been another.

        None without `Watch(old=True)`, and where an `updated` row was left out in part (`partial`).
        """
        return None if self._extras is None else self._extras.old

    @property
    def changed(self) -> frozenset[str] | None:
        """The names of the attributes in `old` whose value differs, those of the key included; None where `old` is."""
        return None if self._extras is None else self._extras.changed

    @property
    def txid(self) -> int:
        """The transaction's number, in 64 bits (`pg_current_xact_id()`)."""
        return self._message.txid

    @property
    def emitted_at(self) -> datetime:
        """The time at which the trigger ran; with durable delivery, that of the commit.

        By the server's clock: an aware datetime in UTC.
        """
        return self._message.at.astimezone(UTC)

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

        It counts what is in the server's log: rows that nobody watches here, or that can't be read, as well. So
        `(lsn, position)` identifies an event, grows from one to the next, and is the same in every process and release.
        """
        first = self._message.first_position
        return None if first is None else first + self._index

    @property
    def id(self) -> str:
        """A text that identifies the event, the same in every process.

        With durable delivery `lsn` in hexadecimal digits and `position`, and so growing from one event to the next.
        Otherwise the transaction's number, the channel, and the number of the row among those of the transaction there,
        whether or not they are heard here.
        """
        message = self._message
        if message.lsn is not None:
            return f"{message.lsn:016X}-{self.position}"
        return f"{message.txid}-{message.channel}-{message.first_number + self._index}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChangedRow):
            return NotImplemented
        if self is other:
            return True
        mine, others = self._message, other._message
        return (
            self._model is other._model
            and (mine.kind.operation, mine.kind.label, mine.schema)
            == (others.kind.operation, others.kind.label, others.schema)
            and (mine.txid, mine.at, self.id) == (others.txid, others.at, other.id)
            and (self.partial, self.changed, mine.context) == (other.partial, other.changed, others.context)
            and mine.kind.key_length == others.kind.key_length
            and _are_same(self.values, other.values)
            and _are_same(self.old, other.old)
        )

    def __hash__(self) -> int:
        message = self._message
        try:
            return hash((message.txid, message.at, message.kind.label, self.identity))
        except TypeError:  # an array in the key
            return hash((message.txid, message.at, message.kind.label))


def _are_same(one: Any, other: Any) -> bool:
    """Return True for equal values; those that do not equal themselves, NaN, are the same as another such."""
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_are_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and type(one) is type(other):
        return len(one) == len(other) and all(map(_are_same, one, other))
    return bool(one == other or (one != one and other != other))


def read_time(text: Any) -> datetime:
    """Return a time in ISO 8601, which has an offset and exists in UTC.

    :raises ValueError: for any other text.
    :raises TypeError: for what is no text.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None or not 1 < found.year < 9999:
        raise ValueError("no offset, or too far out")
    return found


def parts_of(event: ChangedRow[Any]) -> tuple[Message, tuple[Any, ...], Extras | None, int]:
    """Return the parts of an event: the message, the values of the row, its extras, and its number in the message.

    They are of use to the listener and the filters alone, and so no members of `Event`.
    """
    return event._message, event._row, event._extras, event._index  # noqa: SLF001 - of the same module
