"""`Watched` and `watch()`: declarations become `TableWatch`es in the MetaData and signals on the class.

A mapper event does the work when a class is mapped, so that a migration's env.py, which never runs
`configure_mappers()`, finds everything in the MetaData.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar, overload

from sqlalchemy import Column, Table
from sqlalchemy import event as sa_event
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.ext.declarative import AbstractConcreteBase
from sqlalchemy.orm import Mapper

from .declaring import conditions, hierarchy
from .declaring.filing import Endpoint, endpoints_of, file_watches
from .declaring.spec import TableWatch, Watch, parse_specs, read_watch
from .declaring.targets import mappers_of
from .errors import ConfigurationError
from .events.event import Event, T
from .resolving import check_columns, check_old, heard_from_root, resolve
from .signals.feeds import Feed
from .signals.filters import feeds_of
from .signals.watch_signals import Details, WatchSignal, WatchSignals

M = TypeVar("M")


class _Declared(NamedTuple):
    """The signals of a class or Table, and what they were declared for: a mapper, or the Table itself."""

    owner: weakref.ref[Mapper[Any] | Table]
    signals: WatchSignals[Any]


#: Of each watched class and Table.
_declared: weakref.WeakKeyDictionary[Any, _Declared] = weakref.WeakKeyDictionary()


class _WatchAttribute:
    """`Model.watch`, typed by the model."""

    def __get__(self, instance: object, owner: type[T]) -> WatchSignals[T]:
        try:
            return _declared[owner].signals
        except KeyError:
            if "__mapper__" not in vars(owner) or issubclass(owner, AbstractConcreteBase):
                raise AttributeError(
                    f"{owner.__name__} has no table, and so no signals: use the mapped subclass"
                ) from None
            raise AttributeError(
                f"{owner.__name__} has no signals: declare them with watch({owner.__name__}, ...)"
            ) from None


class Watched:
    """Mixin for declarative models: `__watch__` says what to hear about.

    `__watch__` is an iterable of operation names (`"inserted"`, `"updated"`, `"deleted"`, `"truncated"`)
    and `Watch` objects. Subclasses inherit it. `Model.watch` then has a signal for each.

    :raises ConfigurationError: in the class statement, where `__watch__` is wrong.
    """

    __watch__: ClassVar[Iterable[Any]] = ()

    watch: ClassVar[_WatchAttribute] = _WatchAttribute()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if isinstance(cls.__watch__, Iterator):  # it is read again when the class is mapped
            cls.__watch__ = tuple(cls.__watch__)
        # Before the class is mapped, and so before its table exists.
        parse_specs(cls.__name__, cls.__watch__)
        _refuse_hidden(cls)
        super().__init_subclass__(**kwargs)


def _refuse_hidden(cls: type) -> None:
    if not isinstance(_static(cls, "watch"), _WatchAttribute):
        raise ConfigurationError(
            f"{cls.__name__}: the attribute 'watch' hides the signals: rename it, or don't use Watched and "
            f"declare with watch({cls.__name__}, ...), which returns the signals"
        )


def _static(cls: type, name: str) -> object:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


@sa_event.listens_for(Watched, "after_mapper_constructed", propagate=True)
def _declare_class(mapper: Mapper[Any], class_: type) -> None:
    _refuse_hidden(class_)  # by an annotation, or a column of the table
    if issubclass(class_, AbstractConcreteBase) and not isinstance(mapper.local_table, Table):
        return  # a union of its subclasses, each of which has a table of its own
    _declare_mapper(mapper, parse_specs(class_.__name__, getattr(class_, "__watch__", ())))


@overload
def watch(target: Table, *specs: Any) -> WatchSignals[Any]: ...
@overload
def watch(target: type[M], *specs: Any) -> WatchSignals[M]: ...


def watch(target: Any, *specs: Any) -> WatchSignals[Any]:
    """Watch a class that can't be changed (automap, imperative mapping, third party), or a Core `Table`.

    :param target: a mapped class, or a `Table` (a declared or a reflected one) with a primary key.
    :param specs: operation names and `Watch` objects, as in `__watch__`.
    :returns: the signals; on a mapped class they are also set as `.watch`, unless it has such an attribute.
    :raises ConfigurationError: where the target is neither, is watched already, or a spec is wrong.
    """
    if isinstance(target, Table):
        watches = parse_specs(f"table {target.key!r}", specs)
        _refuse_second(target, target, f"table {target.key!r}")
        return _declare_table(target, watches)
    try:
        mapper = sa_inspect(target) if isinstance(target, type) else None
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper):
        raise ConfigurationError(f"watch(): {target!r} is neither a mapped class nor a Table")
    watches = parse_specs(target.__name__, specs)
    _refuse_second(target, mapper, target.__name__)
    signals = _declare_mapper(mapper, watches)
    if _static(target, "watch") is None:
        target.watch = _WatchAttribute()
    return signals


def _refuse_second(target: Any, owner: Mapper[Any] | Table, name: str) -> None:
    declared = _declared.get(target)
    if declared is not None and len(declared.signals) and declared.owner() is owner:
        raise ConfigurationError(f"{name} is watched already: declare all its watches in one place")


def signals_of(target: Any) -> WatchSignals[Any] | None:
    """Return the signals of a class or Table; None where it isn't watched."""
    declared = _declared.get(target)
    return None if declared is None else declared.signals


def forgotten_in(*targets: Any) -> list[str]:
    """Return, in words, the models of these targets that have `__watch__` and nothing that reads it."""
    found = []
    for class_ in (mapper.class_ for mapper in mappers_of(*targets)):
        if getattr(class_, "__watch__", ()) and not any(map(_is_declared, class_.__mro__)):
            name, bases = class_.__name__, [base.__name__ for base in class_.__bases__ if base is not object]
            found.append(
                f"{name} has __watch__ and is not Watched, so that nothing of it is heard: class "
                f"{name}({', '.join(['Watched', *bases])})"
            )
    return found


def _is_declared(class_: type) -> bool:
    return class_ is Watched or bool(signals_of(class_))


def signals_in(tables: Iterable[Table]) -> list[WatchSignal[Any]]:
    """Return every signal that watches of these tables feed."""
    return list(dict.fromkeys(e.signal for table in tables for es in endpoints_of(table).values() for e in es))


def feeds_of_event(event: Event[Any]) -> frozenset[Feed]:
    """Return the signals that fire for an event: those of its model, and of the classes above."""
    classes = [event.model] if isinstance(event.model, Table) else event.model.__mro__
    found = (signals_of(each) for each in classes)
    return frozenset(
        feed
        for signals in found
        if signals is not None and event.label in signals
        for feed in feeds_of(signals[event.label])
    )


def _declare_table(table: Table, watches: tuple[Watch, ...]) -> WatchSignals[Any]:
    owner = f"table {table.key!r}"
    columns = dict(table.columns.items())
    key = dict(table.primary_key.columns.items())
    if not key:
        raise ConfigurationError(f"{owner} has no primary key, which identifies its rows in events: add one")
    filings: list[_Filing] = []
    for spec in watches:
        check_columns(owner, (table.key,), columns, spec)
        try:
            table_watch = resolve(owner, table, columns, key, spec)
        except conditions.UnknownColumn as error:
            raise ConfigurationError(f"{owner}: watch {spec.name!r}: when: {error}") from None
        check_old(owner, spec, [table_watch])
        filings.append(_Filing(table, table_watch, Endpoint(table, _signal(table.key, table, [table_watch]))))
    return _file(table, table, owner, filings)


def _declare_mapper(mapper: Mapper[Any], watches: tuple[Watch, ...]) -> WatchSignals[Any]:
    class_ = mapper.class_
    filings: list[_Filing] = []
    chain = hierarchy.parts_of(mapper) if watches else ()
    delivery = getattr(class_, "__watch_delivery__", None)
    discriminators = [hierarchy.discriminator(mapper, part) for part in chain]
    for spec in watches:
        _check_attributes(class_.__name__, chain, spec)
        filed: list[TableWatch] = []
        for part, discriminator in zip(chain, discriminators, strict=True):
            if not hierarchy.is_heard_from(part, spec):
                continue
            try:
                key = dict(zip(part.key_attributes, part.key, strict=True))
                table_watch = resolve(class_.__name__, part.table, part.columns, key, spec, discriminator, delivery)
            except conditions.UnknownColumn as error:
                if part.is_root and (spec.operation != "updated" or len(chain) == 1):
                    below = _columns_of(p for p in chain if p is not part)
                    reason = heard_from_root(error.name, below, spec) if error.name in below else str(error)
                    raise ConfigurationError(f"{class_.__name__}: watch {spec.name!r}: when: {reason}") from None
                continue  # of the tables of a hierarchy, those count that have the columns
            filed.append(table_watch)
        if not filed:
            raise ConfigurationError(
                f"{class_.__name__}: watch {spec.name!r}: no table of the hierarchy has all columns that `when` names"
            )
        check_old(class_.__name__, spec, filed)
        endpoint = Endpoint(mapper, _signal(class_.__name__, class_, filed))
        tables = {part.table.key: part.table for part in chain}
        filings += [_Filing(tables[table_watch.table_key], table_watch, endpoint) for table_watch in filed]
    return _file(class_, mapper, class_.__name__, filings)


class _Filing(NamedTuple):
    """A watch of a table that is to be filed, and the signal it feeds."""

    table: Table
    watch: TableWatch
    endpoint: Endpoint


def _file(target: Any, owner: Mapper[Any] | Table, name: str, filings: list[_Filing]) -> WatchSignals[Any]:
    """File the watches of a class or Table, all of them or none."""
    file_watches(filings)
    signals = {table_watch.label: endpoint.signal for _, table_watch, endpoint in filings}
    root = filings[-1].table if filings else None  # of a hierarchy the root comes last
    own = [table_watch for table, table_watch, _ in filings if table is root]

    def make_read() -> WatchSignal[Any] | None:
        found = read_watch(own)
        return None if found is None else _signal(name, held(), [found])

    held = weakref.ref(target)  # which the collection is kept by
    collection = WatchSignals[Any](name, signals, held, make_read)
    _declared[target] = _Declared(weakref.ref(owner), collection)
    return collection


def _signal(owner: str, target: Any, filed: list[TableWatch]) -> WatchSignal[Any]:
    # The class's own table comes first; a filter needs what the events of all its tables carry.
    own = filed[0]
    everywhere = set.intersection(*({c.attribute for c in w.carried} for w in filed))
    return WatchSignal(
        f"{owner}.{own.label}",
        own.operation,
        Details(own.function_name, own.trigger_name, own.channel, own.table_key, tuple(c.name for c in own.carried)),
        tuple(c.attribute for c in own.key),
        {c.attribute: c for c in own.carried if c.attribute in everywhere},
        own.delivery,
        own.old,
        weakref.ref(target),
    )


def _check_attributes(owner: str, chain: tuple[hierarchy.Part, ...], spec: Watch) -> None:
    """Raise unless every attribute named is a column of a table whose trigger fires for the operation."""
    parts = [p for p in chain if p.is_root or spec.operation == "updated"]
    below = _columns_of(p for p in chain if p not in parts)
    check_columns(owner, [p.table.key for p in parts], _columns_of(parts), spec, below)


def _columns_of(parts: Iterable[hierarchy.Part]) -> dict[str, Column[Any]]:
    return {attribute: column for part in reversed(list(parts)) for attribute, column in part.columns.items()}
