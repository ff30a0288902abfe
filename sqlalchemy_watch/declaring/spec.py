"""`Watch` as it is declared, `TableWatch` as it applies to one table.

There is no database here and no ORM state. A `Watch` validates its own options. `watched` resolves attribute names
into columns; `filing` keeps the resulting `TableWatch` in the MetaData.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias, get_args

from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from ..errors import ConfigurationError
from . import naming
from .ordering import is_unordered

Operation: TypeAlias = Literal["inserted", "updated", "deleted", "truncated"]
#: Of an event: `"read"` is that of a row that was there before, of which no trigger tells.
EventOperation: TypeAlias = Literal["inserted", "updated", "deleted", "truncated", "read"]
Level: TypeAlias = Literal["statement", "row"]
Delivery: TypeAlias = Literal["notify", "durable", "both"]
Fires: TypeAlias = Literal["always"]

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
LEVELS: tuple[Level, ...] = get_args(Level)
DELIVERIES: tuple[Delivery, ...] = get_args(Delivery)
FIRES: tuple[Fires, ...] = get_args(Fires)

#: The label of existing rows.
READ: Final = "read"

#: Attributes of the collection `Model.watch`, which a label must not hide.
RESERVED_LABELS = frozenset(
    [
        "batches", "connect", "connect_once", "connect_via", "connected_to", "disconnect", "events", "iterate", "name",
        READ, "stream",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Watch:
    """One operation to hear about, with its options.

    :param operation: `"inserted"`, `"updated"`, `"deleted"` or `"truncated"`.
    :param label: another name for the signal (`User.watch.<label>`). Needed with `trigger_columns` and
        with `when`, and where an operation is watched twice.
    :param trigger_columns: for `"updated"`: emit only for rows in which one of these attributes really
        changed (by their stored bytes), not those in which it was merely named in SET.
    :param extra_columns: attributes carried beside the primary key, in `event.values`.
    :param when: a SQL condition as a function of the old and the new row,
        `lambda old, new: new.total > 100`. Inserted rows have no `old`, deleted ones no `new`.
    :param old: carry in `event.old` the previous values of the key, the carried and the trigger columns, and in
        `event.changed` the names of those that differ. For `"updated"` and `"deleted"`.
    :param level: `"statement"` (one call for all rows of a statement, far cheaper for bulk writes) or
        `"row"`. None chooses: statement, but row on a partitioned table, where statement triggers miss
        writes that go straight to a partition.
    :param delivery: `"notify"` (to who listens at the moment), `"durable"` (through the server's own log,
        kept until acknowledged; see `Listener(durable=...)`) or `"both"`. None takes the default of the
        model (`__watch_delivery__`) or of its MetaData (`info["sqlalchemy_watch_delivery"]`), else notify.
    :param fires: `"always"`: also for what a subscription of logical replication writes, and in sessions with
        `session_replication_role = replica` (it is PostgreSQL's `ALTER TABLE ... ENABLE ALWAYS TRIGGER`). The
        level is then `"row"` unless it is given, since a subscription fires no statement triggers but those of
        TRUNCATE. None: PostgreSQL's default, or what somebody chose for the trigger by hand.
    :raises ConfigurationError: at once, where an option is wrong or does not go with the operation.

    Columns are given as names of mapped attributes, or as the attributes themselves (`User.role_id`);
    on a Core table as column keys or columns.
    """

    operation: Operation
    label: str | None = field(default=None, kw_only=True)
    trigger_columns: Iterable[Any] = field(default=(), kw_only=True)
    extra_columns: Iterable[Any] = field(default=(), kw_only=True)
    when: Callable[[Any, Any], ColumnElement[bool]] | None = field(default=None, kw_only=True)
    old: bool = field(default=False, kw_only=True)
    level: Level | None = field(default=None, kw_only=True)
    delivery: Delivery | None = field(default=None, kw_only=True)
    fires: Fires | None = field(default=None, kw_only=True)
    #: True where the previous key is all that is wanted of the previous values.
    is_for_keys: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise ConfigurationError(
                f"unknown operation {self.operation!r}: allowed are {', '.join(map(repr, OPERATIONS))}"
            )
        for option in ("trigger_columns", "extra_columns"):
            object.__setattr__(self, option, _references(self, option, getattr(self, option)))
        self._check_label()
        self._check_combination()

    @property
    def name(self) -> str:
        """The signal's name on `Model.watch`: the label, or the operation without one."""
        return self.label if self.label is not None else self.operation

    def _check_label(self) -> None:
        label = self.label
        if label is None:
            if self.trigger_columns or self.when is not None:
                option = "trigger_columns" if self.trigger_columns else "when"
                raise ConfigurationError(
                    f"Watch({self.operation!r}, {option}=...) needs a label, because it hears only a part of what "
                    f"{self.operation!r} says: add label='a_name'"
                )
            return
        if not isinstance(label, str) or not label.isidentifier() or keyword.iskeyword(label) or label.startswith("_"):
            raise self._refusal(
                f"label {label!r} must be a Python name, no keyword, that does not start with an underscore, since it "
                f"becomes an attribute of Model.watch"
            )
        if label in RESERVED_LABELS:
            raise self._refusal(f"label {label!r} is an attribute of Model.watch: choose another")
        if label in OPERATIONS and label != self.operation:
            raise self._refusal(f"label {label!r} is the name of another operation: choose another")

    def _check_combination(self) -> None:
        if self.trigger_columns and self.operation != "updated":
            raise self._refusal("trigger_columns are for 'updated' only: remove them")
        if self.operation == "truncated" and (self.extra_columns or self.when is not None):
            raise self._refusal("TRUNCATE names no rows: remove extra_columns and when")
        if self.when is not None and not callable(self.when):
            raise self._refusal(
                "when must be a function of the old and the new row, such as lambda old, new: new.total > 100"
            )
        if not isinstance(self.old, bool):
            raise self._refusal("old must be True or False")
        if self.old and self.operation not in ("updated", "deleted"):
            raise self._refusal(f"{self.operation} rows have no previous values: remove old=True")
        if self.level is not None and self.level not in LEVELS:
            raise self._refusal("level must be 'statement', 'row' or None")
        if self.delivery is not None:
            check_delivery(f"Watch({self.operation!r})", self.delivery)
        if self.fires is not None and self.fires not in FIRES:
            raise self._refusal("fires must be 'always' or None")
        if self.operation == "truncated" and self.level == "row":
            raise self._refusal("TRUNCATE fires once a statement: remove level='row'")

    def _refusal(self, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{reason}: in {self!r}")

    def __repr__(self) -> str:
        options = {
            "label": None, "trigger_columns": (), "extra_columns": (), "when": None, "old": False, "level": None,
            "delivery": None, "fires": None,
        }  # fmt: skip
        given = [f"{k}={_spelled(getattr(self, k))}" for k, default in options.items() if getattr(self, k) != default]
        return f"Watch({', '.join([repr(self.operation), *given])})"


def _spelled(value: object) -> str:
    return f"{{{', '.join(sorted(map(repr, value)))}}}" if isinstance(value, frozenset) else repr(value)


def _references(watch: Watch, option: str, value: object) -> tuple[Any, ...] | frozenset[Any]:
    """Return the columns that an option names: a set where they have no order, which the table then gives them."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigurationError(
            f"Watch({watch.operation!r}): {option} must be a sequence of attribute names: write {option}=({value!r},)"
        )
    if value and is_unordered(value):
        return frozenset(value)
    names = tuple(value)
    if len({name if isinstance(name, str) else id(name) for name in names}) < len(names):
        raise ConfigurationError(f"Watch({watch.operation!r}): {option} names a column twice: in {names!r}")
    return names


def parse_specs(owner: str, specs: object) -> tuple[Watch, ...]:
    """Return the `Watch` objects that a `__watch__`, or the arguments of `watch()`, stand for.

    :param owner: the class or table, for the messages.
    :raises ConfigurationError: for anything but operation names and `Watch` objects, and for a signal
        that would be defined twice.
    """
    if isinstance(specs, (str, bytes, Watch)) or not isinstance(specs, Iterable):
        raise ConfigurationError(
            f"{owner}: __watch__ must be an iterable of operation names and Watch objects: "
            f"write __watch__ = ({specs!r},)"
        )
    watches: dict[str, Watch] = {}
    for item in specs:
        if isinstance(item, str) and item in OPERATIONS:
            item = Watch(item)
        if not isinstance(item, Watch):
            nested = ": give them one by one" if isinstance(item, Iterable) and not isinstance(item, str) else ""
            raise ConfigurationError(
                f"{owner}: allowed are {', '.join(map(repr, OPERATIONS))} and Watch(...) objects{nested}: "
                f"{item!r} can't be watched"
            )
        if item.name in watches:
            raise ConfigurationError(
                f"{owner}: two watches are named {item.name!r}: give one of them another label=, "
                f"such as Watch({item.operation!r}, label='another_name')"
            )
        watches[item.name] = item
    if is_unordered(specs):
        return tuple(sorted(watches.values(), key=lambda watch: (OPERATIONS.index(watch.operation), watch.name)))
    return tuple(watches.values())


@dataclass(frozen=True)
class CarriedColumn:
    """A column whose value travels, and the attribute under which the event shows it."""

    attribute: str
    name: str
    type: TypeEngine[Any] = field(compare=False)
    #: True for a column of the table's own primary key, which is never NULL.
    is_primary: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Discriminator:
    """The column that tells the class of a row: of the table itself, or of the hierarchy's root table."""

    column: CarriedColumn
    #: The way to the root's column; None where the column is the table's own.
    lookup: RootLookup | None = None


@dataclass(frozen=True)
class RootLookup:
    """The way from a joined table's row to its row of the root table: `root.key[i] = row.key[i]`."""

    schema: str | None
    table: str
    key: tuple[str, ...]
    #: The tables between the row's and the root's, nearest first.
    between: tuple[str, ...] = ()


@dataclass(frozen=True)
class Condition:
    """A `when`, as SQL over the aliases of a statement-level and of a row-level function."""

    statement_sql: str
    row_sql: str
    uses_old: bool


@dataclass(frozen=True)
class TableWatch:
    """One watch of one table: all that its trigger, its payload and its signals are made from."""

    schema: str | None
    table: str
    label: str
    operation: EventOperation
    key: tuple[CarriedColumn, ...]
    extra: tuple[CarriedColumn, ...] = ()
    trigger_columns: tuple[CarriedColumn, ...] = ()
    discriminator: Discriminator | None = None
    condition: Condition | None = None
    old: bool = False
    level: Level = "statement"
    application: str = ""
    delivery: Delivery = "notify"
    #: True if the declaration names the level; otherwise the table in the database decides.
    level_is_given: bool = field(default=False, compare=False)
    fires: Fires | None = None
    #: The schema that a `schema_translate_map` leads to, for a table declared without one.
    translated_schema: str | None = None

    @property
    def home(self) -> str | None:
        """The schema of the table and its function in statements; None for the first one of the search path."""
        return self.schema if self.translated_schema is None else self.translated_schema

    @property
    def table_key(self) -> str:
        """The `Table.key`: schema and name."""
        return self.table if self.schema is None else f"{self.schema}.{self.table}"

    @property
    def identity(self) -> tuple[str, str | None, str, str]:
        """The watch that this is, whatever its options: application, schema, table and label."""
        return self.application, self.schema, self.table, self.label

    @cached_property
    def function_name(self) -> str:
        return naming.object_name(self.table, self.label)

    @property
    def trigger_name(self) -> str:
        return self.function_name

    @cached_property
    def channel(self) -> str:
        return naming.channel_name(self.schema, self.table, self.label)

    @property
    def fires_per_row(self) -> bool:
        """True if the trigger fires for each row, not once for a statement."""
        return self.level == "row" and self.operation != "truncated"

    @property
    def is_notified(self) -> bool:
        """True if listeners without a consumer group hear it."""
        return self.delivery in ("notify", "both")

    @property
    def is_durable(self) -> bool:
        """True if consumer groups hear it."""
        return self.delivery in ("durable", "both")

    @cached_property
    def always(self) -> tuple[CarriedColumn, ...]:
        """The columns that are carried even where the row does not fit: key, then discriminator."""
        if self.discriminator is None or self.discriminator.column in self.key:
            return self.key
        return (*self.key, self.discriminator.column)

    @cached_property
    def carried(self) -> tuple[CarriedColumn, ...]:
        """All columns whose values are in `event.values`, in the order of the payload."""
        return (*self.always, *(c for c in self.extra if c not in self.always))

    @cached_property
    def compared(self) -> tuple[CarriedColumn, ...]:
        """The columns whose previous values travel; the key first, which may have changed."""
        columns = [c for c in self.carried if not self.is_looked_up(c)]
        return (*columns, *(c for c in self.trigger_columns if c not in columns))

    @cached_property
    def needs_old_rows(self) -> bool:
        """True if the function has to see the previous rows of an update."""
        return self.operation == "updated" and bool(
            self.old or self.trigger_columns or (self.condition and self.condition.uses_old)
        )

    def is_looked_up(self, column: CarriedColumn) -> bool:
        """Return True for a discriminator that is a column of the hierarchy's root."""
        d = self.discriminator
        return d is not None and d.lookup is not None and d.column == column


def read_watch(watches: Iterable[TableWatch]) -> TableWatch | None:
    """Return what stands for the existing rows of a table, and has no trigger: it carries what any of its watches does.

    :returns: None where none of them carries a row.
    """
    carrying = [watch for watch in watches if watch.operation != "truncated"]
    if not carrying:
        return None
    extra = dict.fromkeys(column for watch in carrying for column in watch.extra)
    deliveries = {watch.delivery for watch in carrying}
    return replace(
        carrying[0],
        label=READ,
        operation=READ,
        extra=tuple(extra),
        trigger_columns=(),
        condition=None,
        old=False,
        delivery=deliveries.pop() if len(deliveries) == 1 else "both",
    )


def check_delivery(owner: str, delivery: object) -> Delivery:
    """Return the value, if it is a way of delivery.

    :raises ConfigurationError: otherwise.
    """
    if delivery not in DELIVERIES:
        raise ConfigurationError(
            f"{owner}: delivery {delivery!r} is unknown: allowed are {', '.join(map(repr, DELIVERIES))}"
        )
    return delivery
