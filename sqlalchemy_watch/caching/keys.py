"""The watches that a cache needs, and the keys of an event: what would leave an entry behind is refused beforehand."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Table
from sqlalchemy import inspect as sa_inspect

from ..declaring.filing import endpoints_of
from ..declaring.spec import TableWatch
from ..declaring.targets import tables_of, watches_of_table
from ..errors import ConfigurationError
from ..events.event import Event
from ..signals.coroutines import is_coroutine_function
from ..signals.watch_signals import WatchSignal
from ..watched import signals_of

Row: TypeAlias = Mapping[str, Any]
#: Returns one key, an iterable of several, or None where the row is in no entry.
KeyFunction: TypeAlias = Callable[[Row], Any]


class Heard(NamedTuple):
    """A signal, and the watches of tables that feed it: of a hierarchy several."""

    signal: WatchSignal[Any]
    watches: Sequence[TableWatch]

    @property
    def is_unconditional(self) -> bool:
        """True if it hears every row."""
        return not any(watch.condition is not None or watch.trigger_columns for watch in self.watches)

    @property
    def carried(self) -> frozenset[str]:
        """The attributes that all of its events have."""
        return frozenset.intersection(*(frozenset(c.attribute for c in watch.carried) for watch in self.watches))

    @property
    def identity(self) -> frozenset[str]:
        """Those of the primary key."""
        return frozenset(column.attribute for watch in self.watches for column in watch.key)

    @property
    def subject(self) -> str:
        """The table and the operation, for messages."""
        return f"table {self.watches[0].table_key!r}, {self.signal.operation!r}"


class Keys:
    """The keys of the entries that a model's rows are in.

    :ivar signals: those to hear, one of each operation.
    :raises ConfigurationError: where entries would be left behind; it names the table, the operation and the remedy.
    """

    def __init__(self, model: Any, key: KeyFunction) -> None:
        if not callable(key) or is_coroutine_function(key):
            raise ConfigurationError(
                f"key must be a plain function of a row's values, such as lambda row: f\"price:{{row['id']}}\", "
                f"not {key!r}"
            )
        self._key = key
        #: What it asks for beside the primary key.
        self._others: set[str] = set()
        #: True if it has failed on made-up values, and so may ask for more than was seen.
        self._is_known_in_part = False
        candidates = _candidates(model)
        self._attributes = _attributes_of(model)
        self.signals: list[WatchSignal[Any]] = [self._chosen(found) for found in candidates.values()]
        if "inserted" not in candidates and self._others:
            table, name = self.signals[0].details.table, min(self._others)
            raise ConfigurationError(
                f"table {table!r}, 'inserted': key asks for {name!r}, so that an entry may be made of several rows, "
                f"and a new one would not drop it: watch 'inserted' as well, without when, and with these extra_columns"
            )

    def of(self, event: Event[Any]) -> list[Hashable] | None:
        """Return the keys of an event's row, as it is and as it was; None where they can't be told.

        :raises Exception: what the key function raises.
        """
        if event.operation == "truncated" or (event.partial and (self._others or self._is_known_in_part)):
            return None
        rows: list[Row] = [event.values]
        if event.old is not None:
            rows.append({**event.values, **event.old})
        return list(dict.fromkeys(key for row in rows for key in _as_keys(self._key(row))))

    def _chosen(self, candidates: Sequence[Heard]) -> WatchSignal[Any]:
        """Return the first of an operation's signals whose events carry what the key needs."""
        refusals: list[ConfigurationError] = []
        for heard in candidates:
            try:
                self._check(heard)
            except ConfigurationError as refusal:
                refusals.append(refusal)
            else:
                return heard.signal
        raise refusals[0]

    def _check(self, heard: Heard) -> None:
        if heard.signal.operation == "truncated":
            return
        row = _Probe(heard.carried)
        try:
            list(_as_keys(self._key(row)))
        except KeyError as error:
            names = {name for name in error.args if isinstance(name, str)}  # of a dict made of the row, perhaps
            row.missing.update((names & self._attributes) - heard.carried)
            self._is_known_in_part = True
        except Exception:  # it does not like the values, which are made up
            self._is_known_in_part = True
        if row.missing:
            missing = ", ".join(map(repr, sorted(row.missing)))
            raise ConfigurationError(
                f"{heard.subject}: key asks for {missing}, which events do not carry: they carry "
                f"{', '.join(map(repr, sorted(heard.carried)))}; add it to extra_columns of the Watch"
            )
        others = sorted(row.asked - heard.identity)
        if others and heard.signal.operation == "updated" and not all(watch.old for watch in heard.watches):
            raise ConfigurationError(
                f"{heard.subject}: key asks for {others[0]!r}, which may change, and the entry under its previous "
                f"value would stay: declare old=True in the Watch"
            )
        self._others.update(others)


def _attributes_of(model: Any) -> frozenset[str]:
    return frozenset(model.columns.keys() if isinstance(model, Table) else sa_inspect(model).attrs.keys())


def _candidates(model: Any) -> dict[str, list[Heard]]:
    """Return the signals to choose from, by operation."""
    if isinstance(model, (list, tuple, set, frozenset)):
        raise ConfigurationError("invalidate() takes one model: call it once for each; they share what a region has")
    signals = None if isinstance(model, str) else signals_of(model)
    name = getattr(model, "__name__", None) or getattr(model, "key", None) or repr(model)
    if not signals:
        raise ConfigurationError(f"{name} is not watched: add __watch__ to the model, or call watch()")
    tables = tables_of(model)
    of_model = [
        Heard(signal, [
            watch for table in tables for watch in watches_of_table(table)
            if any(endpoint.signal is signal for endpoint in endpoints_of(table).get(watch.label, ()))
        ])
        for signal in signals
    ]  # fmt: skip
    found = {}
    for operation in ("updated", "deleted", "truncated", "inserted"):
        of_operation = [heard for heard in of_model if heard.signal.operation == operation]
        usable = [heard for heard in of_operation if heard.is_unconditional and heard.signal.delivery != "durable"]
        if usable:
            found[operation] = usable
        elif operation != "inserted":
            raise ConfigurationError(f"{name}: {_refusal(operation, of_operation)}")
    return found


def _refusal(operation: str, of_operation: Sequence[Heard]) -> str:
    if not of_operation:
        return f"entries of {operation} rows would stay, because {operation!r} is not watched: add it to __watch__"
    first = next((heard for heard in of_operation if heard.is_unconditional), None)
    if first is not None:
        return (
            f"{first.subject}: its delivery is 'durable', so that one process alone hears it, and each one that stores "
            f"has to: declare delivery='both', or another Watch with delivery='notify'"
        )
    return (
        f"{of_operation[0].subject}: signal {of_operation[0].signal.name!r} hears only a part of the "
        f"rows (when, trigger_columns), and entries of the others would stay: add a Watch({operation!r}) without them"
    )


def _as_keys(found: Any) -> Iterator[Hashable]:
    if found is None:
        return
    if isinstance(found, (str, bytes, int)) or not isinstance(found, Iterable):
        yield found
    else:
        yield from found


class _Probe(Mapping[str, Any]):
    """A row whose values are not known, which keeps the names that it is asked for."""

    def __init__(self, carried: frozenset[str]) -> None:
        self._carried = carried
        self.asked: set[str] = set()
        self.missing: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        if name not in self._carried:
            self.missing.add(name)
            raise KeyError(name)
        self.asked.add(name)
        return _AnyValue(1)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._carried))

    def __len__(self) -> int:
        return len(self._carried)


class _AnyValue(int):
    """Stands for a value of any type, as far as a key is made of it: a number which is whatever else is wanted."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getitem__(self, key: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __add__(self, other: Any) -> Any:
        return self

    __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __truediv__ = __add__

    def __format__(self, spec: str) -> str:
        return "1"
