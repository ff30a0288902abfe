"""What is installed, read from pg_catalog, and how it differs from what is declared.

Two queries, however many tables there are, and none of them writes. Definitions are compared by their
structure: `prosrc` is byte-exact, the rest of `pg_proc` and `pg_trigger` is numbers and names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Table

from ..spec import TableWatch, application_of
from ..targets import watches_of_table
from .body import MARK, TEMPLATE_VERSION, function_body, read_mark, settings
from .ddl import transition_tables

State = Literal["installed", "outdated", "missing", "orphaned"]

#: Runs a query with named parameters (`:name`) and gives its rows.
Fetch = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]

_TABLES = """
SELECT t.name, c.oid, n.nspname, c.relkind
FROM unnest(CAST(:names AS text[])) AS t(name)
JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass(t.name)
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
"""

_FUNCTIONS = """
SELECT pn.nspname, p.proname, p.prosrc, l.lanname, p.prosecdef, coalesce(p.proconfig, '{}'),
  t.tgname, t.tgrelid, cn.nspname, c.relname, t.tgtype, t.tgenabled, t.tgoldtable, t.tgnewtable,
  t.tgqual IS NULL AND t.tgattr::text = '' AND t.tgnargs = 0 AND NOT t.tgdeferrable AS plain,
  pg_catalog.pg_get_functiondef(p.oid), pg_catalog.pg_get_triggerdef(t.oid)
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace
JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_trigger AS t ON t.tgfoid = p.oid AND t.tgparentid = 0 AND NOT t.tgisinternal
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
LEFT JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
WHERE p.prorettype = CAST('pg_catalog.trigger' AS pg_catalog.regtype)
  AND (pg_catalog.strpos(p.prosrc, :mark) = 2
    OR p.proname = ANY (CAST(:names AS text[])) OR t.tgname = ANY (CAST(:names AS text[])))
ORDER BY pn.nspname, p.proname, t.tgname
"""

_EVENT_BITS = {"inserted": 4, "deleted": 8, "updated": 16, "truncated": 32}
_ROW_BIT = 1


@dataclass(frozen=True)
class Relation:
    """A table as it exists."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True)
class InstalledTrigger:
    """A trigger as it exists."""

    name: str
    relation: Relation
    type_bits: int
    enabled: str
    transition_tables: tuple[str | None, str | None]
    #: No WHEN, no column list, no arguments, not deferrable.
    plain: bool
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
    definition: str
    trigger: InstalledTrigger | None

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
    not there) or `"orphaned"` (there and ours, not declared). `problems` says in words what differs.
    """

    state: State
    table: str
    label: str
    function_name: str
    trigger_name: str
    problems: tuple[str, ...] = ()
    watch: TableWatch | None = field(default=None, repr=False)
    installed: InstalledFunction | None = field(default=None, repr=False)

    @property
    def trigger_differs(self) -> bool:
        """Whether replacing the function alone would not do."""
        return self.watch is None or self.installed is None or bool(trigger_problems(self.watch, self.installed))


def read_status(fetch: Fetch, tables: Iterable[Table]) -> list[WatchStatus]:
    """One item for each watch of these tables, and for each left-over."""
    tables = list(tables)
    relations = read_relations(fetch, tables)
    watches = [(table, watch) for table in tables for watch in watches_of_table(table)]
    functions = read_functions(fetch, [watch.function_name for _, watch in watches])
    by_trigger = {(f.trigger.relation.oid, f.trigger.name): f for f in functions if f.trigger is not None}
    items = []
    matched: set[int] = set()
    for table, watch in watches:
        relation = relations.get(table.key)
        found = by_trigger.get((relation.oid, watch.trigger_name)) if relation is not None else None
        if found is None and relation is not None:
            found = next(
                (f for f in functions if f.trigger is None and f.name == watch.function_name
                 and f.schema == relation.schema), None)  # fmt: skip
        if found is not None:
            matched.add(id(found))
        items.append(_watch_status(watch, relation, found))
    leftovers = [f for f in functions if id(f) not in matched and f.mark is not None]
    items += [_orphan(f) for f in leftovers if _is_ours(f, tables, relations)]
    return items


def read_relations(fetch: Fetch, tables: Sequence[Table]) -> dict[str, Relation]:
    """The tables that exist, by `Table.key`; those without a schema are looked up on the search path."""
    if not tables:
        return {}
    names = {_always_quoted(table): table.key for table in tables}
    rows = fetch(_TABLES, {"names": list(names)})
    by_key = {table.key: table for table in tables}
    return {names[name]: Relation(oid, schema, by_key[names[name]].name) for name, oid, schema, _ in rows}


def read_functions(fetch: Fetch, names: Sequence[str]) -> list[InstalledFunction]:
    """The trigger functions that carry our mark, and those that have one of these names."""
    rows = fetch(_FUNCTIONS, {"mark": MARK, "names": list(names)})
    return [_function(row) for row in rows]


def _function(row: Sequence[Any]) -> InstalledFunction:
    trigger = None
    if row[6] is not None:
        relation = Relation(row[7], row[8], row[9])
        trigger = InstalledTrigger(row[6], relation, row[10], _char(row[11]), (row[12], row[13]), row[14], row[16])
    return InstalledFunction(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), row[15], trigger)


def _char(value: Any) -> str:
    """asyncpg gives the type "char" as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _always_quoted(table: Table) -> str:
    parts = [table.name] if table.schema is None else [table.schema, table.name]
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def _watch_status(watch: TableWatch, relation: Relation | None, found: InstalledFunction | None) -> WatchStatus:
    def item(state: State, *problems: str) -> WatchStatus:
        return WatchStatus(
            state, watch.table_key, watch.label, watch.function_name, watch.trigger_name, problems, watch, found
        )

    if relation is None:
        return item("missing", "the table does not exist")
    if found is None:
        return item("missing", "there is no such trigger")
    if not found.looks_marked:
        return item("missing", f"a function or trigger {found.name!r} without our mark is in its place")
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


def _is_ours(found: InstalledFunction, tables: Sequence[Table], relations: Mapping[str, Relation]) -> bool:
    """Whether a left-over belongs to this application: nothing of another one's may be reported."""
    assert found.mark is not None
    fields = found.mark[1]
    application = fields.get("application", "")
    ours = {application_of(table.metadata) for table in tables}
    if application not in ours:
        return False
    if application:
        return True
    if found.trigger is not None:
        return found.trigger.relation.oid in {r.oid for r in relations.values()}
    # A function that no trigger calls: its table, or the watch of it, is gone.
    return any(
        table.name == fields.get("table") and table.key in relations and relations[table.key].schema == found.schema
        for table in tables
    )


def _orphan(found: InstalledFunction) -> WatchStatus:
    assert found.mark is not None
    fields = found.mark[1]
    table = str(fields.get("table")) if fields.get("schema") is None else f"{fields['schema']}.{fields.get('table')}"
    return WatchStatus(
        "orphaned", table, str(fields.get("label")), found.name,
        found.trigger.name if found.trigger is not None else found.name,
        ("it is not declared any more",), None, found,
    )  # fmt: skip
