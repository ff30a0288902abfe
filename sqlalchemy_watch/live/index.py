"""Of each table, the live queries that an event of it concerns: looked up by the row's new and old values."""

from __future__ import annotations

import itertools
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from sqlalchemy import Table
from sqlalchemy.orm import Mapper

from ..declaring.filing import endpoints_of, living_watches, original_of
from ..declaring.spec import TableWatch
from ..errors import ConfigurationError, ListenerError
from ..events.event import Event
from ..signals.watch_signals import WatchSignal, feed_of
from .reads import Read

OPERATIONS = ("inserted", "updated", "deleted", "truncated")

Key = tuple[Any, ...]


class Concerned(Protocol):
    """A live query, as seen from here. Called in any thread, and never for long."""

    def mark(self) -> None:
        """Note that its result may have changed."""

    def end(self) -> None:
        """Hear that nothing is heard of a table any more."""


class _Hearing:
    """The signals that together hear every change of a table's rows, by operation."""

    def __init__(self, table: Table) -> None:
        own = dict(_heard_of(table))
        self.by_operation: dict[str, tuple[TableWatch, WatchSignal[Any]]] = own
        #: By which rows come and go; its own too, where they are declared.
        self.signals: list[WatchSignal[Any]] = [signal for _, signal in own.values()]
        parent = _parent_of(table)
        #: False for the table of a joined subclass, whose rows come and go with those of the root, without its columns.
        self.is_whole: bool = parent is None
        self._root: Table | None = parent
        if parent is not None:
            of_root = {name: heard for name, heard in _heard_of(parent) if name != "updated"}
            self.by_operation = of_root | ({"updated": own["updated"]} if "updated" in own else {})
            self.signals += [signal for _, signal in of_root.values()]

    @property
    def missing(self) -> list[str]:
        """The operations that nothing hears of; of which table, where they are to be watched on another one."""
        of_root = f" of {self._root.key!r}" if self._root is not None else ""
        return [
            operation + (of_root if operation != "updated" else "")
            for operation in OPERATIONS
            if operation not in self.by_operation
        ]

    def attributes(self) -> Mapping[str, str]:
        """Return attribute names by column, of those by which rows can be told apart: each event has their values.

        Without old values it would not be known whom a row was taken from.
        """
        if not self.is_whole or self.missing or not self.by_operation["updated"][0].old:
            return {}
        carrying = [self.by_operation[operation][0] for operation in OPERATIONS[:3]]
        everywhere = set.intersection(*({column.attribute for column in watch.carried} for watch in carrying))
        return {column.name: column.attribute for column in carrying[1].compared if column.attribute in everywhere}


def _heard_of(table: Table) -> Iterator[tuple[str, tuple[TableWatch, WatchSignal[Any]]]]:
    endpoints = endpoints_of(table)
    for watch in living_watches(table):
        if watch.condition is not None or watch.trigger_columns or not watch.is_notified:
            continue
        for endpoint in endpoints.get(watch.label, ()):
            if endpoint.is_living and _has_all_rows(endpoint.owner, table):
                yield watch.operation, (watch, endpoint.signal)


def _has_all_rows(owner: Mapper[Any] | Table, table: Table) -> bool:
    """Return False for a class that shares the table with classes above."""
    if isinstance(owner, Table):
        return True
    table = original_of(table)
    return owner.local_table is table and (owner.inherits is None or owner.inherits.local_table is not table)


def _parent_of(table: Table) -> Table | None:
    """Return the root's table, for that of a joined subclass."""
    owners = (endpoint.owner for endpoints in endpoints_of(table).values() for endpoint in endpoints)
    for owner in owners:
        if isinstance(owner, Mapper) and owner.local_table is original_of(table) and not owner.concrete:
            root = owner.base_mapper.local_table
            if isinstance(root, Table) and root is not table:
                return root
    return None


def check(tables: Iterable[Table]) -> None:
    """Raise unless each change of these tables is heard.

    :raises ConfigurationError: where a table is not watched, or for some operations alone.
    """
    problems = [
        f"{table.key!r} ({', '.join(missing)})"
        for table in dict.fromkeys(tables)
        if (missing := _Hearing(table).missing)
    ]
    if problems:
        raise ConfigurationError(
            f"live(): of these tables not every change is heard: {', '.join(problems)}: watch them without conditions, "
            f"delivery 'notify' or 'both': __watch__ = everything(); or give every= (seconds), or tables="
        )


class _Index:
    """The queries of one table."""

    def __init__(self, table: Table, number: int) -> None:
        self._table = table
        hearing = _Hearing(table)
        self.attributes = hearing.attributes()
        self.signals = hearing.signals
        #: The number of reads that it is kept for.
        self.users = 0
        self.of_any_row: dict[Concerned, int] = {}
        #: attribute names -> their values -> queries, each as often as it asks for them
        self.by_values: dict[tuple[str, ...], dict[Key, dict[Concerned, int]]] = defaultdict(dict)
        #: When this was opened, and when something changed last, in counts of the register.
        self.opened_at = self.changed_at = number
        for signal in self.signals:
            signal.connect(self.receive)
            feed_of(signal).tell(self)

    def close(self) -> None:
        for signal in self.signals:
            signal.disconnect(self.receive)
            feed_of(signal).tell_no_more(self)

    def places(self, read: Read, narrow: bool) -> Iterator[tuple[tuple[str, ...], Key] | None]:
        """Return where a query stands that reads these rows; None for any row."""
        known = [column for column in read.columns if column in self.attributes]
        if not narrow or read.values is None or not known:
            yield None
            return
        ordered = sorted(known, key=lambda column: self.attributes[column])
        names = tuple(self.attributes[column] for column in ordered)
        indexes = [read.columns.index(column) for column in ordered]
        for values in {tuple(values[index] for index in indexes) for values in read.values}:
            yield names, values

    def add(self, query: Concerned, read: Read, narrow: bool) -> None:
        self.users += 1
        for place in self.places(read, narrow):
            found = self.of_any_row if place is None else self.by_values[place[0]].setdefault(place[1], {})
            found[query] = found.get(query, 0) + 1

    def remove(self, query: Concerned, read: Read, narrow: bool) -> None:
        self.users -= 1
        for place in self.places(read, narrow):
            found = self.of_any_row if place is None else self.by_values[place[0]][place[1]]
            found[query] -= 1
            if not found[query]:
                del found[query]
            if place is not None and not found:
                del self.by_values[place[0]][place[1]]
                if not self.by_values[place[0]]:
                    del self.by_values[place[0]]

    def receive(self, sender: Any, event: Event[Any]) -> None:
        for query in self._those_of(lambda: self._concerned(event)):
            query.mark()

    #: In the order of the log: a row that changes twice at once is nothing to decide about here.
    receive.in_order = True  # type: ignore[attr-defined]

    def _those_of(self, find: Callable[[], Iterable[Concerned]]) -> Iterable[Concerned]:
        """Note a change, and return the queries that it concerns; none of the parent's in a forked child."""
        with _register.lock:
            self.changed_at = _register.count()
            return find() if _register.indexes.get(self._table) is self else ()

    def _concerned(self, event: Event[Any]) -> Iterable[Concerned]:
        found = dict(self.of_any_row)
        if not self.by_values:
            return found
        is_vague = (
            event.operation == "truncated" or event.partial or (event.operation == "updated" and event.old is None)
        )
        if is_vague:
            return self._all()
        old = None if event.old is None else {**event.values, **event.old}
        try:
            for names, queries in self.by_values.items():
                for row in (event.values,) if old is None else (event.values, old):
                    found.update(queries.get(tuple([row[name] for name in names]), {}))
        except (LookupError, TypeError):  # another release of the triggers carries less; or no value to look up by
            return self._all()
        return found

    def _all(self) -> dict[Concerned, int]:
        found = dict(self.of_any_row)
        for queries in self.by_values.values():
            for each in queries.values():
                found.update(each)
        return found

    def missed(self, reason: str) -> None:
        """Run all again: something may have been missed. Called by the listener."""
        for query in self._those_of(self._all):
            query.mark()

    def end(self) -> None:
        """End all: the last listener has stopped. Called by the listener."""
        if any(not feed_of(signal).sources for signal in self.signals):
            for query in self._those_of(self._all):
                query.end()


class _Register:
    """The indexes of the tables that live queries read at present."""

    def __init__(self) -> None:
        #: Held for moments, by the dispatch thread too.
        self.lock = threading.RLock()
        self.indexes: dict[Table, _Index] = {}
        self._numbers = itertools.count(1)

    def count(self) -> int:
        """Return a number above all before."""
        return next(self._numbers)


_register = _Register()


def _begin_anew() -> None:
    global _register
    _register = _Register()  # the parent's may have been locked at the fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def moment() -> int:
    """Return the present, for `Subscriptions.add`."""
    with _register.lock:
        return _register.count()


class Subscriptions:
    """What one query reads, as the indexes have it.

    :param narrow: False where each change of a table concerns it.
    """

    def __init__(self, query: Concerned, narrow: bool) -> None:
        self._query, self._narrow = query, narrow
        self._reads: dict[Read, None] = {}
        self._is_ended = False

    def __contains__(self, read: Read) -> bool:
        return read in self._reads

    def add(self, read: Read, since: int) -> bool:
        """Hear of these rows from now on; return True if some change since that moment may have been missed.

        :raises ListenerError: where no running listener hears of the table.
        """
        with _register.lock:
            if read in self._reads or self._is_ended:
                return False
            index = _register.indexes.get(read.table)
            if index is None:
                index = _Index(read.table, _register.count())
                _register.indexes[read.table] = index
            index.add(self._query, read, self._narrow)
            self._reads[read] = None
            if unserved := [signal.name for signal in index.signals if not feed_of(signal).is_heard]:
                self._remove([read])
                raise ListenerError(
                    f"live(): no running listener of this process hears {', '.join(unserved)}: start a "
                    f"Listener with {read.table.key!r} among its targets before (without durable= and exclusive=, with "
                    f"which one process alone hears)"
                )
            return index.opened_at > since or index.changed_at > since

    def keep(self, reads: Iterable[Read]) -> None:
        """Hear of these rows alone."""
        kept = set(reads)
        with _register.lock:
            self._remove([read for read in self._reads if read not in kept])

    def end(self) -> None:
        """Hear of nothing any more, whatever a run that is under way reads yet."""
        with _register.lock:
            self._is_ended = True
            self._remove(list(self._reads))

    def _remove(self, reads: Iterable[Read]) -> None:
        for read in reads:
            del self._reads[read]
            index = _register.indexes[read.table]
            index.remove(self._query, read, self._narrow)
            if not index.users:
                index.close()
                del _register.indexes[read.table]
