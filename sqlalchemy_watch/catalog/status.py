"""What is installed, read from pg_catalog, and how it differs from what is declared.

Two queries, however many tables there are, and none of them writes. Definitions are compared by their
structure: `prosrc` is byte-exact, the rest of `pg_proc` and `pg_trigger` is numbers and names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import psycopg
from sqlalchemy import Connection, Table, text

from ..declaring.spec import TableWatch, application_of
from ..declaring.targets import watches_of_table
from ..functions.body import function_body, settings
from ..functions.expressions import transition_tables
from ..functions.mark import MARK, TEMPLATE_VERSION, read_mark
from .virtual import virtual_problems

State = Literal["installed", "outdated", "missing", "orphaned"]

#: Runs a query with named parameters (`:name`) and gives its rows.
Fetch = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]

_TABLES = """
SELECT t.schema, t.name, c.oid, n.nspname, c.relname, c.relkind IN ('v', 'm'),
  ARRAY(SELECT CAST(a.attname AS text) FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped ORDER BY a.attnum)
FROM unnest(CAST(:schemas AS text[]), CAST(:names AS text[])) AS t(schema, name)
JOIN pg_catalog.pg_class AS c ON c.relname = CAST(t.name AS pg_catalog.name)
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE CASE WHEN t.schema IS NULL THEN pg_catalog.pg_table_is_visible(c.oid) ELSE n.nspname = t.schema END
"""

_FUNCTIONS = """
SELECT pn.nspname, p.proname, p.prosrc, l.lanname, p.prosecdef, coalesce(p.proconfig, '{}'),
  t.tgname, t.tgrelid, cn.nspname, c.relname, t.tgtype, t.tgenabled, t.tgoldtable, t.tgnewtable,
  t.tgqual IS NULL AND t.tgattr::text = '' AND t.tgnargs = 0 AND NOT t.tgdeferrable AND t.tgconstraint = 0 AS plain,
  pg_catalog.substr(pg_catalog.pg_get_functiondef(p.oid), pg_catalog.length('CREATE OR REPLACE FUNCTION '
    || pg_catalog.quote_ident(pn.nspname) || '.' || pg_catalog.quote_ident(p.proname)) + 1),
  pg_catalog.pg_get_triggerdef(t.oid),
  CASE WHEN p.proacl IS NOT NULL THEN ARRAY(
    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
      || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_catalog.aclexplode(p.proacl) AS a WHERE a.grantee <> p.proowner ORDER BY 1) END,
  coalesce(pn.nspname = pg_catalog.current_schema(), false)
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace
JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_trigger AS t ON t.tgfoid = p.oid AND t.tgparentid = 0 AND NOT t.tgisinternal
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
LEFT JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
WHERE p.prorettype = CAST('pg_catalog.trigger' AS pg_catalog.regtype)
  AND (pg_catalog.strpos(p.prosrc, :mark) = 2
    OR p.proname = ANY (CAST(:names AS text[])) OR t.tgname = ANY (CAST(:names AS text[])))
ORDER BY pn.nspname, p.proname, t.tgname, cn.nspname, c.relname
"""

NO_TABLE = "the table does not exist"
IS_VIEW = "it is a view, which can't have such triggers"

_WAL_LEVEL = "SELECT pg_catalog.current_setting('wal_level')"

_EVENT_BITS = {"inserted": 4, "deleted": 8, "updated": 16, "truncated": 32}
_ROW_BIT = 1


@dataclass(frozen=True)
class Relation:
    """A table as it exists."""

    oid: int
    schema: str
    name: str
    is_view: bool = False
    #: Generated columns that are not stored.
    virtual_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class InstalledTrigger:
    """A trigger as it exists."""

    name: str
    relation: Relation
    type_bits: int
    enabled: str
    transition_tables: tuple[str | None, str | None]
    #: No WHEN, no column list, no arguments, no constraint trigger.
    plain: bool
    #: As `pg_get_triggerdef` spells it.
    definition: str


@dataclass(frozen=True)
class InstalledFunction:
    """A trigger function as it exists, with one of its triggers, if it has any."""

    schema: str
    name: str
    body: str
    language: str
    security_definer: bool
    settings: tuple[str, ...]
    #: What follows the name in `CREATE OR REPLACE FUNCTION name`, as `pg_get_functiondef` spells it.
    definition: str
    #: Who may call it, beside the owner, as GRANT spells it; None where nothing was granted or revoked.
    grants: tuple[str, ...] | None
    #: Whether it is in the first schema of the search path.
    in_default_schema: bool
    trigger: InstalledTrigger | None

    @property
    def name_key(self) -> tuple[str, str]:
        """Schema and name, which no other trigger function has."""
        return self.schema, self.name

    @property
    def key(self) -> tuple[str, str, int | None, str | None]:
        """The function, and the trigger that calls it."""
        trigger = self.trigger
        if trigger is None:
            return (*self.name_key, None, None)
        return (*self.name_key, trigger.relation.oid, trigger.name)

    @property
    def mark(self) -> tuple[int, dict[str, Any]] | None:
        """Template version and fields of the mark; None where the function isn't ours."""
        return read_mark(self.body)

    @property
    def looks_marked(self) -> bool:
        """Whether it begins like one of ours, even where the mark no longer parses."""
        return self.body.lstrip("\n").startswith(MARK)


@dataclass(frozen=True)
class WatchStatus:
    """How a watch, or a left-over, stands in the database.

    `state` is `"installed"`, `"outdated"` (the database has it in another form), `"missing"` (declared,
    not there) or `"orphaned"` (there and ours, not declared). `problems` says in words what differs, and
    why a watch can't work though it is installed.
    """

    state: State
    table: str
    label: str
    function_name: str
    trigger_name: str
    problems: tuple[str, ...] = ()
    watch: TableWatch | None = field(default=None, repr=False)
    installed: InstalledFunction | None = field(default=None, repr=False)
    #: Whether another watch or another trigger needs the installed function.
    shares_function: bool = field(default=False, repr=False)
    #: What stands under the watch's name, where its trigger calls another function.
    displaced: InstalledFunction | None = field(default=None, repr=False)
    #: Why the watch can't work, whatever is installed: of columns that it needs.
    column_problems: tuple[str, ...] = field(default=(), repr=False)

    @property
    def drops_function(self) -> bool:
        """Whether nothing that is declared keeps the installed function under its name."""
        return self.installed is not None and (self.watch is None or self.installed.name != self.watch.function_name)

    @property
    def is_foreign(self) -> bool:
        """Whether something that is not ours, or that nobody can read, stands in its place."""
        return any(f is not None and f.mark is None for f in (self.installed, self.displaced))

    @property
    def function_differs(self) -> bool:
        """Whether the function has to be created or replaced."""
        return self.watch is None or self.installed is None or bool(function_problems(self.watch, self.installed))

    @property
    def trigger_differs(self) -> bool:
        """Whether replacing the function alone would not do."""
        return self.watch is None or self.installed is None or bool(trigger_problems(self.watch, self.installed))

    @property
    def trigger_has_other_shape(self) -> bool:
        """Whether switching the trigger on would not do."""
        trigger = self.installed.trigger if self.installed is not None else None
        if self.watch is None or self.installed is None or trigger is None:
            return True
        return bool(trigger_problems(self.watch, replace(self.installed, trigger=replace(trigger, enabled="O"))))


class Reading(NamedTuple):
    """What the catalog says of an application's watches."""

    items: list[WatchStatus]
    #: Functions that begin with our mark, which can't be read any further: nobody can say whose they are.
    unreadable: list[InstalledFunction]
    #: The schema of each table that exists, by oid, as the declaration spells it.
    declared_schemas: dict[int, str | None]


def fetcher(connection: Connection) -> Fetch:
    """Runs the catalog's queries on a SQLAlchemy connection."""

    def fetch(sql: str, parameters: Mapping[str, Any]) -> Any:
        return connection.execute(text(sql), dict(parameters)).all()

    return fetch


def psycopg_fetcher(connection: psycopg.Connection[Any]) -> Fetch:
    """Runs the catalog's queries on a psycopg connection, which spells parameters in another way."""

    def fetch(sql: str, parameters: Mapping[str, Any]) -> Any:
        translated = re.sub(r"(?<![:\w]):(\w+)", r"%(\1)s", sql.replace("%", "%%"))
        return connection.execute(translated, parameters).fetchall()

    return fetch


def read_status(fetch: Fetch, tables: Iterable[Table]) -> list[WatchStatus]:
    """One item for each watch of these tables, and for each left-over."""
    tables = list(tables)
    items = read_catalog(fetch, tables, {application_of(table.metadata) for table in tables}).items
    return [replace(i, problems=(*i.problems, *i.column_problems)) if i.column_problems else i for i in items]


def with_server_problems(fetch: Fetch, items: list[WatchStatus]) -> list[WatchStatus]:
    """The items, where those of durable watches also say what hinders the server from delivering them."""
    if not any(item.watch is not None and item.watch.is_durable for item in items):
        return items
    level = fetch(_WAL_LEVEL, {})[0][0]
    if level == "logical":
        return items
    problem = f"wal_level is {level!r}, so durable delivery can't work: set wal_level = logical and restart the server"
    return [
        replace(item, problems=(*item.problems, problem)) if item.watch is not None and item.watch.is_durable else item
        for item in items
    ]


def read_catalog(
    fetch: Fetch, tables: Sequence[Table], applications: Collection[str], leaving: Sequence[Table] = ()
) -> Reading:
    """How the watches of these tables stand.

    :param applications: whose left-overs are ours, by the names in their marks.
    :param leaving: tables that are about to be dropped: their watches are left over.
    """
    watches = [((table.schema, table.name), watch) for table in tables for watch in watches_of_table(table)]
    functions = read_functions(fetch, [watch.function_name for _, watch in watches])
    places = {(table.schema, table.name) for table in (*tables, *leaving)}
    relations = read_relations(fetch, {*places, *(place for f in functions if (place := _marked_place(f)))})
    pairs = [(watch, relations.get(place)) for place, watch in watches]
    needed = {(relation.schema, watch.function_name) for watch, relation in pairs if relation is not None}
    find = _Finder(functions)
    items = [_watch_status(watch, relation, *find(watch, relation)) for watch, relation in pairs]

    matched = {item.installed.key for item in items if item.installed is not None}
    considered = {relations[place].oid: place[0] for place in places if place in relations}
    for function in functions:
        if function.key in matched or (function.trigger is None and function.name_key in needed):
            continue
        if _is_ours(function, applications, considered, relations):
            items.append(_orphan(function))
    unreadable = {f.name_key: f for f in functions if f.looks_marked and f.mark is None}
    return Reading(_mark_shared(items, functions, needed), list(unreadable.values()), considered)


class _Finder:
    """Finds what stands in a watch's place: by the trigger, else by the function's name."""

    def __init__(self, functions: Iterable[InstalledFunction]) -> None:
        self._by_trigger: dict[tuple[int, str], InstalledFunction] = {}
        self._by_name: dict[tuple[str, str], InstalledFunction] = {}
        for function in functions:
            self._by_name[function.name_key] = function
            if (trigger := function.trigger) is not None:
                self._by_trigger[trigger.relation.oid, trigger.name] = function

    def __call__(
        self, watch: TableWatch, relation: Relation | None
    ) -> tuple[InstalledFunction | None, InstalledFunction | None]:
        """The function in its place, and the one under its name, if that is another."""
        if relation is None:
            return None, None
        named = self._by_name.get((relation.schema, watch.function_name))
        named = None if named is None else replace(named, trigger=None)
        found = self._by_trigger.get((relation.oid, watch.trigger_name))
        if found is None:
            return named, None
        return found, None if named is None or named.name_key == found.name_key else named


def read_relations(fetch: Fetch, places: Collection[tuple[str | None, str]]) -> dict[tuple[str | None, str], Relation]:
    """The tables that exist, by schema and name; those without a schema are looked up on the search path."""
    if not places:
        return {}
    rows = fetch(_TABLES, {"schemas": [schema for schema, _ in places], "names": [name for _, name in places]})
    return {(row[0], row[1]): Relation(row[2], row[3], row[4], row[5], tuple(row[6])) for row in rows}


def _marked_place(function: InstalledFunction) -> tuple[str | None, str] | None:
    """Where the table of a function that no trigger calls would be."""
    mark = function.mark if function.trigger is None else None
    return None if mark is None else (function.schema, mark[1]["table"])


def _mark_shared(
    items: Sequence[WatchStatus], functions: Sequence[InstalledFunction], needed: Collection[tuple[str, str]]
) -> list[WatchStatus]:
    """Say of each item whose function would go whether something else needs that function."""
    leaving = {item.installed.key: item.installed for item in items if item.installed and item.drops_function}
    staying = {f.name_key for f in functions if f.trigger is not None and f.key not in leaving}
    last = {f.name_key: f.key for f in leaving.values()}
    result = []
    for item in items:
        found = item.installed
        if item.drops_function and found is not None:
            shared = found.name_key in needed or found.name_key in staying or last[found.name_key] != found.key
            item = replace(item, shares_function=shared)
        result.append(item)
    return result


def read_functions(fetch: Fetch, names: Sequence[str]) -> list[InstalledFunction]:
    """The trigger functions that carry our mark, and those that have one of these names."""
    rows = fetch(_FUNCTIONS, {"mark": MARK, "names": list(names)})
    return [_function(row) for row in rows]


def _function(row: Sequence[Any]) -> InstalledFunction:
    trigger = None
    if row[6] is not None:
        relation = Relation(row[7], row[8], row[9])
        trigger = InstalledTrigger(row[6], relation, row[10], _char(row[11]), (row[12], row[13]), row[14], row[16])
    grants = None if row[17] is None else tuple(row[17])
    return InstalledFunction(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), row[15], grants, row[18], trigger)


def _char(value: Any) -> str:
    """asyncpg gives the type "char" as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _watch_status(
    watch: TableWatch,
    relation: Relation | None,
    found: InstalledFunction | None,
    displaced: InstalledFunction | None,
) -> WatchStatus:
    column_problems = () if relation is None else virtual_problems(watch, relation.virtual_columns)

    def item(state: State, *problems: str) -> WatchStatus:
        return WatchStatus(
            state, watch.table_key, watch.label, watch.function_name, watch.trigger_name, problems, watch, found,
            displaced=displaced, column_problems=column_problems,
        )  # fmt: skip

    if relation is None:
        return item("missing", NO_TABLE)
    if relation.is_view:
        return item("missing", IS_VIEW)
    if found is None:
        return item("missing", "there is no such trigger")
    for function in (found, displaced):
        if function is not None and not function.looks_marked:
            return item("missing", f"a function or trigger {function.name!r} without our mark is in its place")
    if found.trigger is None:
        return item("missing", "the function is there, but no trigger calls it")
    problems = [*function_problems(watch, found), *trigger_problems(watch, found)]
    return item("outdated", *problems) if problems else item("installed")


def function_problems(watch: TableWatch, found: InstalledFunction) -> list[str]:
    """How the function differs from what the watch would make."""
    problems = []
    if found.body != function_body(watch):
        mark = found.mark
        if mark is None:
            problems.append("the function's first line was edited")
        elif mark[0] != TEMPLATE_VERSION:
            problems.append(f"the function is of template version {mark[0]}, and this library has {TEMPLATE_VERSION}")
        else:
            problems.append("the function's body differs from the declaration")
    if found.name != watch.function_name:
        problems.append(f"the trigger calls {found.name!r}")
    if {s.casefold() for s in found.settings} != {f"{k}={v}".casefold() for k, v in settings(watch)}:
        problems.append("the function's settings differ")
    if found.language != "plpgsql" or found.security_definer:
        problems.append("the function's language or security differs")
    return problems


def trigger_problems(watch: TableWatch, found: InstalledFunction) -> list[str]:
    """How the trigger differs from what the watch would make."""
    trigger = found.trigger
    if trigger is None:
        return ["there is no trigger"]
    problems = []
    if trigger.enabled != "O":
        problems.append(
            "the trigger is disabled" if trigger.enabled == "D" else "the trigger's mode is not the default"
        )
    row_bit = _ROW_BIT if watch.level == "row" and watch.operation != "truncated" else 0
    if (
        trigger.type_bits != _EVENT_BITS[watch.operation] | row_bit
        or trigger.transition_tables != transition_tables(watch)
        or not trigger.plain
    ):
        problems.append("the trigger was created with other options")
    if found.name != watch.function_name:
        problems.append("the trigger calls another function")
    return problems


def _is_ours(
    found: InstalledFunction,
    applications: Collection[str],
    considered: Collection[int],
    relations: Mapping[tuple[str | None, str], Relation],
) -> bool:
    """Whether a left-over belongs to this application: nothing of another one's may be reported."""
    mark = found.mark
    if mark is None or mark[1]["application"] not in applications:
        return False
    if found.trigger is not None:
        return found.trigger.relation.oid in considered
    # Of a copy in another tenant's schema nobody here can say whether it is left over.
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
