"""Declared watches matched with installed triggers and functions; what matches no watch is left over."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Table

from ..declaring.filing import application_of, shared_name
from ..declaring.spec import TableWatch
from ..declaring.targets import watches_of_table
from ..declaring.translating import NO_MAP, SchemaMap, translated, translated_place
from .claims import Place, refusal
from .comparing import function_problems, trigger_problems
from .installed import InstalledFunction, Relation
from .levels import UNWATCHABLE, at_needed_level, level_problems, missed_writes
from .ownership import in_words, oddity, strangers_in_words
from .reading import Fetch, Scope, read_functions, read_relations
from .status import NO_TABLE, WatchState, WatchStatus
from .virtual import virtual_problems

log: logging.Logger = logging.getLogger(__name__)


class Matching(NamedTuple):
    """The watches of an application, and what is left over of it."""

    items: list[WatchStatus]
    #: Functions whose mark can't be read to its end: nobody can say whose they are.
    unreadable: list[InstalledFunction]
    #: The declared schema of each table that exists, by its oid.
    declared_schemas: dict[int, str | None]
    #: All functions that were looked at, once for each trigger that calls them.
    functions: list[InstalledFunction]
    #: What has our mark, and is not ours all the same, in words.
    left_alone: list[str]


def read_status(
    fetch: Fetch, tables: Iterable[Table], schemas: SchemaMap = NO_MAP, *, finds_leftovers: bool = True
) -> list[WatchStatus]:
    """Return one item for each watch of these tables, and for each left-over.

    :param schemas: the `schema_translate_map` that leads to the tables.
    :param finds_leftovers: False to look at nothing but the functions and triggers of the watches.
    """
    tables = list(tables)
    applications = {application_of(table.metadata) for table in tables}
    matching = match_watches(fetch, tables, applications, schemas=schemas, finds_leftovers=finds_leftovers)
    for words in matching.left_alone:
        log.warning("%s", words)
    return [replace(i, problems=(*i.problems, *i.obstacles, *i.missed)) for i in matching.items]


def match_watches(
    fetch: Fetch,
    tables: Sequence[Table],
    applications: Collection[str],
    leaving: Sequence[Table] = (),
    schemas: SchemaMap = NO_MAP,
    *,
    finds_leftovers: bool = True,
) -> Matching:
    """Match the watches of these tables with what is installed.

    :param applications: the names in the marks of left-overs that are ours.
    :param leaving: tables that are about to be dropped: their watches are left over.
    :param finds_leftovers: False to look at nothing but the functions and triggers of the watches.
    """
    watches = [
        (translated_place(table.schema, table.name, schemas), translated(watch, schemas))
        for table in tables
        for watch in watches_of_table(table)
    ]
    # Tables that were copied into another MetaData keep their application's name.
    applications = {*applications, *(watch.application for _, watch in watches)}
    places = {translated_place(table.schema, table.name, schemas) for table in (*tables, *leaving)}
    relations = read_relations(fetch, places)
    scope = _scope(watches, relations, places, finds_leftovers)
    found, strangers = read_functions(fetch, scope)
    functions = [f.seen_from(f.trigger.relation.oid) if f.trigger else f for f in found]
    relations |= read_relations(fetch, {place for f in functions if (place := _marked_place(f))} - relations.keys())
    pairs = [(at_needed_level(watch, relations.get(place)), relations.get(place)) for place, watch in watches]
    needed = {(relation.schema, watch.function_name) for watch, relation in pairs if relation is not None}
    finder = _Finder(functions, places, relations)
    items = [finder.status(watch, relation) for watch, relation in pairs]
    items = _with_missed_writes(items, pairs)

    matched = {item.installed.key for item in items if item.installed is not None}
    rest = [f for f in functions if f.key not in matched and (f.trigger is not None or f.name_key not in needed)]
    considered = {relations[place].oid: place[0] for place in places if place in relations}
    left_alone = strangers_in_words(strangers, applications)
    for function in rest:
        if function.stranger and function.is_marked:
            left_alone.append(in_words(function, f"it {function.stranger}"))
        elif _is_ours(function, applications, considered, relations):
            place = _marked_place(function)
            reason = oddity(function, relations[place].oid if place in relations else None)
            if reason is None:
                items.append(_orphan(function))
            else:
                left_alone.append(in_words(function, reason))
    unreadable = {f.name_key: f for f in functions if f.looks_marked and f.mark is None}
    return Matching(
        _with_sharing(items, functions, needed), list(unreadable.values()), considered, functions, left_alone
    )


def _scope(
    watches: Sequence[tuple[Place, TableWatch]],
    relations: Mapping[Place, Relation],
    places: Collection[Place],
    finds_leftovers: bool,
) -> Scope:
    """Return what is to be looked at: anybody may have made other things that have our mark."""
    schemas = {schema for schema, _ in places} | {relation.schema for relation in relations.values()}
    schemas |= {None} if finds_leftovers else set()  # of tables that are gone as well
    names = {watch.function_name for _, watch in watches}
    return Scope(names, [relation.oid for relation in relations.values()], schemas, finds_leftovers)


class _Finder:
    """Finds the function in a watch's place: the one that its trigger calls, else the one of its name."""

    def __init__(
        self, functions: Iterable[InstalledFunction], known: Collection[Place], relations: Mapping[Place, Relation]
    ) -> None:
        self._by_trigger: dict[tuple[int, str], InstalledFunction] = {}
        self._by_name: dict[tuple[str, str], list[InstalledFunction]] = defaultdict(list)
        self._watches: dict[tuple[str, str], TableWatch] = {}
        self._known, self._relations = known, relations
        for function in functions:
            self._by_name[function.name_key].append(function)
            if (trigger := function.trigger) is not None:
                self._by_trigger[trigger.relation.oid, trigger.name] = function

    def status(self, watch: TableWatch, relation: Relation | None) -> WatchStatus:
        """Return the state of a watch."""
        if relation is None:
            return _watch_status(watch, None, None, None)
        refused = self._refusal(watch, relation)
        if refused is not None:
            return replace(_watch_status(watch, relation, None, None), problems=(refused,), refusal=refused)
        return _watch_status(watch, relation, *self._find(watch, relation))

    def _find(self, watch: TableWatch, relation: Relation) -> tuple[InstalledFunction | None, InstalledFunction | None]:
        """Return the function in its place, and the one of its name, if that is another."""
        functions = self._by_name.get((relation.schema, watch.function_name), ())
        named = replace(functions[0], trigger=None).seen_from(relation.oid) if functions else None
        found = self._by_trigger.get((relation.oid, watch.trigger_name))
        if found is None:
            return named, None
        return found, None if named is None or named.name_key == found.name_key else named

    def _refusal(self, watch: TableWatch, relation: Relation) -> str | None:
        key = relation.schema, watch.function_name
        other = self._watches.setdefault(key, watch)
        if (other.table, other.label) != (watch.table, watch.label):  # whose schema is spelled in another way
            return shared_name(other, watch)
        found = self._by_trigger.get((relation.oid, watch.trigger_name))
        for function in (self._by_name.get(key), found and self._by_name[found.name_key]):
            seen = [each.seen_from(relation.oid) for each in function or ()]
            if seen and (refused := refusal(watch, relation, seen, self._known, self._relations)) is not None:
                return refused
        return None


def _with_missed_writes(
    items: Sequence[WatchStatus], pairs: Sequence[tuple[TableWatch, Relation | None]]
) -> list[WatchStatus]:
    heard: dict[str, set[str]] = defaultdict(set)
    for watch, relation in pairs:
        if relation is not None:
            heard[watch.operation].add(f"{relation.schema}.{relation.name}")
    return [
        replace(item, missed=missed)
        if relation is not None and (missed := missed_writes(watch, relation, heard[watch.operation]))
        else item
        for item, (watch, relation) in zip(items, pairs, strict=True)
    ]


def _marked_place(function: InstalledFunction) -> tuple[str | None, str] | None:
    """Return the table that the mark of a function names, if no trigger calls the function."""
    mark = function.mark if function.trigger is None else None
    return None if mark is None else (function.schema, mark[1]["table"])


def _with_sharing(
    items: Sequence[WatchStatus], functions: Sequence[InstalledFunction], needed: Collection[tuple[str, str]]
) -> list[WatchStatus]:
    """Return the items; those whose function would be dropped say if something else needs that function."""
    leaving = {item.installed.key: item.installed for item in items if item.installed and item.drops_function}
    staying = {f.name_key for f in functions if f.trigger is not None and f.key not in leaving}
    staying |= {f.name_key for f in functions if f.is_called_elsewhere}
    last = {f.name_key: f.key for f in leaving.values()}
    result = []
    for item in items:
        found = item.installed
        if item.drops_function and found is not None:
            shared = found.name_key in needed or found.name_key in staying or last[found.name_key] != found.key
            item = replace(item, shares_function=shared)
        result.append(item)
    return result


def _watch_status(
    watch: TableWatch,
    relation: Relation | None,
    found: InstalledFunction | None,
    displaced: InstalledFunction | None,
) -> WatchStatus:
    obstacles: tuple[str, ...] = ()
    if relation is not None and relation.kind in UNWATCHABLE:
        obstacles = (UNWATCHABLE[relation.kind],)
    elif relation is not None:
        obstacles = (*virtual_problems(watch, relation.virtual_columns), *level_problems(watch, relation))
    of_function = [] if found is None else function_problems(watch, found)
    of_trigger = [] if found is None else trigger_problems(watch, found)

    def item(state: WatchState, *problems: str) -> WatchStatus:
        return WatchStatus(
            state, watch.table_key, watch.label, watch.function_name, watch.trigger_name, problems, watch, found,
            displaced=displaced, obstacles=obstacles, relation=relation,
            function_differs=found is None or bool(of_function), trigger_differs=found is None or bool(of_trigger),
        )  # fmt: skip

    if relation is None:
        return item("missing", NO_TABLE)
    if relation.kind in UNWATCHABLE:
        return item("missing")
    if found is None:
        return item("missing", "there is no such trigger")
    if found.trigger is None:
        return item("missing", "the function is there, but no trigger calls it")
    return item("outdated" if of_function or of_trigger else "installed", *of_function, *of_trigger)


def _is_ours(
    found: InstalledFunction,
    applications: Collection[str],
    considered: Collection[int],
    relations: Mapping[tuple[str | None, str], Relation],
) -> bool:
    """Return True if a left-over belongs to this application: those of others are not to be reported."""
    mark = found.mark
    if mark is None or mark[1]["application"] not in applications:
        return False
    if found.trigger is not None:
        return True
    if found.is_called_elsewhere:
        return False
    # A copy in another tenant's schema may be in use there.
    schema = mark[1]["schema"]
    if not (found.in_default_schema if schema is None else found.schema == schema):
        return False
    # A function that no trigger calls: its table, or the watch of it, is gone.
    place = _marked_place(found)
    relation = relations.get(place) if place is not None else None
    return relation is None or relation.oid in considered


def _orphan(found: InstalledFunction) -> WatchStatus:
    assert found.mark is not None
    fields = found.mark[1]
    table = fields["table"] if fields["schema"] is None else f"{fields['schema']}.{fields['table']}"
    return WatchStatus(
        "orphaned", table, fields["label"], found.name,
        found.trigger.name if found.trigger is not None else found.name,
        ("it is not declared any more",), None, found,
    )  # fmt: skip
