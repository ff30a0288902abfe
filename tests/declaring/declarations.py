"""Random declarations as plain data, the models that they stand for, and what is to be heard of their writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import sqlalchemy as sa
from hypothesis import strategies as st
from psycopg import sql
from sqlalchemy.orm import DeclarativeBase, mapped_column

from sqlalchemy_watch import Watch, Watched, WatchSignals, watch

OPERATIONS = ("inserted", "updated", "deleted", "truncated")

#: Names that need quotes, are cut, or mean something else in a function.
NAMES = [
    "a", "r", "o", "w", "p", "j", "k0", "new", "old", "watch", "watch_new", "watch_rows", "tg_op", "order", "user",
    "select", "table", "Mixed Case", "größe", "名前", 'quo"ted', "it's", "per%cent", "co:lon", "back\\slash", "do.t",
    "$1", "x" * 63, "é" * 31, "E'", "--", "/*", "[]", " ", "values", "row", "type", "count", "text", "w.j",
    "begin", "by", "if", "loop", "strict",
]  # fmt: skip

TEXTS = ("", "a", "b", "it's", "é%", "\\x", 'q"q', "NULL", "$watch$")

#: The attributes of every class, in this order: the key, the rest, the class of the row.
KEY, VALUES, KIND = ("k0", "k1"), ("n0", "n1", "t0", "t1"), "kind"


@dataclass(frozen=True)
class Spec:
    """A `Watch`; columns are attributes of its class."""

    operation: str
    label: str | None = None
    extra: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    #: A comparison, and the attribute that it is of.
    when: tuple[str, str] | None = None
    old: bool = False
    level: str | None = None
    delivery: str | None = None
    as_sets: bool = False

    @property
    def name(self) -> str:
        return self.label or self.operation

    def watch(self, names: dict[str, str]) -> Any:
        """Return the watch; refused where the options do not go together."""
        kind: Any = frozenset if self.as_sets else tuple
        return Watch(
            self.operation,  # type: ignore[arg-type]
            label=self.label,
            extra_columns=kind(names[a] for a in self.extra),
            trigger_columns=kind(names[a] for a in self.triggers),
            when=None if self.when is None else self._condition(*self.when, names),
            old=self.old,
            level=self.level,  # type: ignore[arg-type]
            delivery=self.delivery,  # type: ignore[arg-type]
        )

    @staticmethod
    def _condition(how: str, attribute: str, names: dict[str, str]) -> Any:
        name = names[attribute]
        return {
            "new": lambda o, n: getattr(n, name) > _threshold(attribute),
            "old": lambda o, n: getattr(o, name) > _threshold(attribute),
            "grown": lambda o, n: getattr(n, name) > getattr(o, name),
            "among": lambda o, n: getattr(n, name).in_(_members(attribute)),
            "not among": lambda o, n: ~getattr(n, name).in_(_members(attribute)) | getattr(n, name).is_(None),
        }[how]

    def tells(self, old: dict[str, Any] | None, new: dict[str, Any] | None, columns: Sequence[str]) -> bool:
        """Return True if it tells of a row of a table with these columns."""
        triggers = [a for a in self.triggers if a in columns]
        if triggers and old is not None and new is not None and all(old[a] == new[a] for a in triggers):
            return False
        return self.when is None or self._holds(*self.when, old or {}, new or {})

    @staticmethod
    def _holds(how: str, attribute: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
        was, now = old.get(attribute), new.get(attribute)
        if how == "not among":
            return now not in _members(attribute)
        if how == "old":
            return was is not None and was > _threshold(attribute)
        if how == "grown":
            return was is not None and now is not None and now > was
        return now is not None and (now in _members(attribute) if how == "among" else now > _threshold(attribute))


def _threshold(attribute: str) -> Any:
    return 0


def _members(attribute: str) -> frozenset[Any]:
    return frozenset({1, 2, -3}) if attribute[0] in "kn" else frozenset({"a", "it's", "é%", "\\x"})


@dataclass(frozen=True)
class Plan:
    """A declaration. Its tables are those of `Parent`, and of `Child` where that has one of its own."""

    kind: str  # core, mapped, single, joined, concrete
    names: tuple[str, ...]
    schema: str | None
    composite: bool
    specs: tuple[Spec, ...]
    #: None where Child inherits its parent's.
    child_specs: tuple[Spec, ...] | None
    writes: tuple[tuple[Any, ...], ...]

    @property
    def key(self) -> tuple[str, ...]:
        return KEY if self.composite else KEY[:1]

    @property
    def has_child(self) -> bool:
        return self.kind in ("single", "joined", "concrete")

    @property
    def tables(self) -> tuple[str, ...]:
        return self.names[:2] if self.kind in ("joined", "concrete") else self.names[:1]

    def columns(self, table: str) -> dict[str, str]:
        """The columns of a table by attribute; of a joined child's, the key and its own."""
        attributes = [*self.key, *VALUES]
        if self.kind == "joined":
            attributes = [*self.key, *(VALUES[:2] if table == self.tables[0] else VALUES[2:])]
        if self.kind in ("single", "joined") and table == self.tables[0]:
            attributes.append(KIND)
        return dict(zip(attributes, self.names[2:], strict=False))


def _type(attribute: str) -> Any:
    return sa.Integer() if attribute[0] in "n" or attribute in KEY else sa.Text()


def declare(plan: Plan) -> tuple[sa.MetaData, list[WatchSignals[Any]]]:
    """Declare the models.

    :raises ConfigurationError: where they can't be watched so.
    """
    metadata = sa.MetaData(schema=plan.schema)
    if plan.kind == "core":
        columns = plan.columns(plan.tables[0])
        table = sa.Table(
            plan.tables[0], metadata,
            *(sa.Column(name, _type(a), primary_key=a in plan.key, autoincrement=False) for a, name in columns.items()),
        )  # fmt: skip
        return metadata, [watch(table, *(spec.watch(columns) for spec in plan.specs))]
    Base: Any = type("Base", (DeclarativeBase,), {"metadata": metadata})
    parent = _class(plan, "Parent", (Watched, Base), plan.tables[0], plan.specs)
    if not plan.has_child:
        return metadata, [parent.watch]
    own_table = plan.tables[1] if len(plan.tables) > 1 else None
    return metadata, [parent.watch, _class(plan, "Child", (parent,), own_table, plan.child_specs).watch]


def _class(plan: Plan, name: str, bases: Any, table: str | None, specs: tuple[Spec, ...] | None) -> Any:
    body: dict[str, Any] = {}
    if table is not None:
        body["__tablename__"] = table
        for attribute, column in plan.columns(table).items():
            is_key = attribute in plan.key
            body[attribute] = mapped_column(column, _type(attribute), primary_key=is_key, autoincrement=False)
    arguments: dict[str, Any] = {}
    if plan.kind in ("single", "joined"):
        arguments = {"polymorphic_identity": name} | ({"polymorphic_on": KIND} if name == "Parent" else {})
    if name == "Child" and plan.kind == "joined":
        above, own = (plan.columns(t) for t in plan.tables)
        parents = [bases[0].__table__.c[above[a]] for a in plan.key]
        body["__table_args__"] = (sa.ForeignKeyConstraint([own[a] for a in plan.key], parents),)
    elif name == "Child" and plan.kind == "concrete":
        arguments = {"concrete": True}
    if specs is not None:
        names = {a: a for a in (*KEY, *VALUES, KIND)}
        body["__watch__"] = tuple(spec.watch(names) for spec in specs)
    return type(name, bases, body | {"__mapper_args__": arguments})


Heard = tuple[str, str, tuple[Any, ...]]


class Oracle:
    """Makes the writes of a plan, and says what is to be heard of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        #: The rows of each table, by key, and the class of each key of the topmost table.
        self.rows: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {table: {} for table in plan.tables}
        self.classes: dict[tuple[str, tuple[Any, ...]], str] = {}
        self.heard: list[Heard] = []

    def write(self, client: psycopg.Connection[Any]) -> list[Heard]:
        """Run the statements; return what is to be heard: (signal, sender, identity)."""
        self._client = client
        for how, of_child, *arguments in self.plan.writes:
            class_ = "Child" if of_child and self.plan.has_child else "Parent"
            getattr(self, f"_{how}")(class_, *arguments)
        return self.heard

    def _tables(self, class_: str) -> tuple[str, ...]:
        """The tables of a class, the topmost first."""
        tables = self.plan.tables
        if class_ == "Parent" or self.plan.kind == "single":
            return tables[:1]
        return tables if self.plan.kind == "joined" else tables[1:]

    def _run(self, statement: str, **parts: Any) -> None:
        self._client.execute(sql.SQL(statement).format(**parts))  # type: ignore[arg-type]

    def _name(self, table: str) -> sql.Identifier:
        return sql.Identifier(*([self.plan.schema] if self.plan.schema else []), table)

    def _insert(self, class_: str, rows: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
        tables = self._tables(class_)
        fresh = {key[: len(self.plan.key)]: row for key, row in rows}
        fresh = {key: row for key, row in fresh.items() if not any(key in self.rows[t] for t in tables)}
        if not fresh:
            return
        for table in tables:
            columns = self.plan.columns(table)
            for key, values in fresh.items():
                row = dict(zip(self.plan.key, key, strict=True)) | values | {KIND: class_}
                row = {a: row[a] for a in columns}
                self.rows[table][key] = row
                if table == tables[0]:
                    self.classes[table, key] = class_
                    self.heard += self.expected("inserted", table, class_, key, None, row)
            self._run(
                "INSERT INTO {table} ({columns}) VALUES {rows}",
                table=self._name(table),
                columns=sql.SQL(", ").join(map(sql.Identifier, columns.values())),
                rows=sql.SQL(", ").join(
                    sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, self.rows[table][key].values())))
                    for key in fresh
                ),
            )

    def _update(self, class_: str, attribute: str, number: Any, text: Any) -> None:
        table = self._tables(class_)[-1]
        columns = self.plan.columns(table)
        if attribute not in columns:
            attribute = next(a for a in VALUES if a in columns)
        value = number if attribute[0] == "n" else text
        for key, old in self.rows[table].items():
            new = old | {attribute: value}
            self.rows[table][key] = new
            class_ = self.classes[self.plan.tables[0] if self.plan.kind == "joined" else table, key]
            self.heard += self.expected("updated", table, class_, key, old, new)
        self._run(
            "UPDATE {table} SET {column} = {value}",
            table=self._name(table), column=sql.Identifier(columns[attribute]), value=sql.Literal(value),
        )  # fmt: skip

    def _delete(self, class_: str, first: int) -> None:
        tables = self.plan.tables if self.plan.kind == "joined" else self._tables(class_)
        for table in reversed(tables):
            for key in [key for key in self.rows[table] if key[0] == first]:
                row = self.rows[table].pop(key)
                if table == tables[0]:
                    self.heard += self.expected("deleted", table, self.classes.pop((table, key)), key, row, None)
            column = sql.Identifier(self.plan.columns(table)[KEY[0]])
            self._run(
                "DELETE FROM {table} WHERE {column} = {first}", table=self._name(table), column=column, first=first
            )

    def _truncate(self, class_: str) -> None:
        table = self._tables(class_)[0]
        for each in self.plan.tables if self.plan.kind == "joined" else [table]:
            self.rows[each].clear()
        self.heard += self.truncated(table)
        self._run("TRUNCATE {table} CASCADE", table=self._name(table))

    def specs(self, class_: str) -> tuple[Spec, ...]:
        own = self.plan.child_specs if class_ == "Child" else None
        return self.plan.specs if own is None else own

    def chain(self, class_: str) -> list[str]:
        return [class_] if class_ == "Parent" or self.plan.kind == "concrete" else [class_, "Parent"]

    def expected(
        self, operation: str, table: str, class_: str, key: tuple[Any, ...], old: Any = None, new: Any = None
    ) -> Iterator[Heard]:
        """Yield (signal, sender, identity) for a row of a class that is written in a table."""
        filed = {
            spec.name: spec
            for c in ("Parent", "Child")
            for spec in self._filed(c, table)
            if spec.operation == operation
        }
        columns = self.plan.columns(table)
        for spec in filed.values():
            if spec.tells(old, new, tuple(columns)):
                for listening in self.chain(class_):
                    if any(s.name == spec.name for s in self.specs(listening)):
                        yield f"{listening}.{spec.name}", class_, key

    def truncated(self, table: str) -> Iterator[Heard]:
        for class_ in ("Parent", "Child") if self.plan.has_child else ("Parent",):
            for spec in self._filed(class_, table):
                if spec.operation == "truncated":
                    yield f"{class_}.{spec.name}", class_, ()

    def _filed(self, class_: str, table: str) -> Iterator[Spec]:
        if class_ == "Child" and not self.plan.has_child:
            return
        own = self._tables(class_)
        columns = self.plan.columns(table)
        for spec in self.specs(class_):
            heard = table == own[0] if spec.operation != "updated" else table in own
            if spec.triggers and not any(a in columns for a in spec.triggers):
                heard = False
            if spec.when is not None and spec.when[1] not in columns:
                heard = False
            if heard:
                yield spec


# ---- strategies ----

_attributes = st.sampled_from((*VALUES, KEY[0]))


@st.composite
def _specs(draw: Any, label: str) -> Spec:
    operation = draw(st.sampled_from((*OPERATIONS, "updated", "updated")))
    is_update = operation == "updated"
    columns = st.lists(_attributes, max_size=3, unique=True).map(tuple)
    triggers = draw(columns) if is_update or draw(st.integers(0, 20)) == 0 else ()
    when = None
    if operation != "truncated" and draw(st.booleans()):
        attribute = draw(_attributes)
        hows = {
            "inserted": ["new", "among", "not among"],
            "deleted": ["old"],
            "updated": ["new", "old", "grown", "among"],
        }
        how = draw(st.sampled_from(hows[operation]))
        if attribute[0] == "t" and how in ("new", "old", "grown"):
            attribute = draw(st.sampled_from(("n0", "n1", "k0")))
        when = (how, attribute)
    needs_label = bool(triggers or when) and draw(st.integers(0, 15)) > 0
    return Spec(
        operation,
        draw(st.sampled_from((label, f"{label}_größe", label + "y" * 60)))
        if needs_label or draw(st.booleans())
        else None,
        draw(columns) if operation != "truncated" else (),
        triggers,
        when,
        draw(st.booleans()) if operation in ("updated", "deleted") else draw(st.integers(0, 20)) == 0,
        draw(st.sampled_from((None, None, "statement", "row"))) if operation != "truncated" else None,
        draw(st.sampled_from((None, "notify", "both"))),
        draw(st.booleans()),
    )


def _spec_lists(prefix: str) -> Any:
    return st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)).flatmap(
        lambda numbers: st.tuples(*(_specs(f"{prefix}{n}") for n in numbers[0]))
    )


_integers = st.integers(-3, 3) | st.none()
_rows = st.fixed_dictionaries(
    {
        "n0": _integers,
        "n1": _integers,
        "t0": st.sampled_from(TEXTS) | st.none(),
        "t1": st.sampled_from(TEXTS) | st.none(),
    }
)
_keys = st.tuples(st.integers(-2, 2), st.integers(0, 1))
_inserted = st.lists(st.tuples(_keys, _rows), min_size=2, max_size=4)
_updated = (st.sampled_from(VALUES), _integers, st.sampled_from((*TEXTS, None)))


@st.composite
def _writes(draw: Any) -> tuple[tuple[Any, ...], ...]:
    """Rows of both classes that come, change in ways that watches tell apart, and go."""
    both = draw(st.permutations((False, True)))
    of = st.sampled_from(both)
    return (
        *(("insert", c, draw(_inserted)) for c in both),
        *(("update", c, a, draw(st.integers(1, 3)), draw(st.sampled_from(TEXTS[1:]))) for a in VALUES for c in both),
        *draw(
            st.lists(
                st.tuples(st.just("update"), of, *_updated) | st.tuples(st.just("insert"), of, _inserted), max_size=4
            )
        ),
        *(("delete", draw(of), first) for first in draw(st.permutations((-2, -1, 0)))),
        *(("truncate", c) for c in both),
    )


def _of_parent(spec: Spec) -> Spec:
    """Return the spec without the attributes that the parent of a joined child does not have."""
    when = spec.when and (spec.when[0], spec.when[1].replace("t", "n"))
    extra, triggers = (tuple(a for a in names if a[0] != "t") for names in (spec.extra, spec.triggers))
    return replace(spec, when=when, extra=extra, triggers=triggers)


@st.composite
def plans(draw: Any) -> Plan:
    """A declaration, and writes to its tables."""
    kind = draw(st.sampled_from(("core", "mapped", "single", "joined", "concrete")))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=9, max_size=9, unique_by=str.lower))
    specs = draw(_spec_lists("p"))
    return Plan(
        kind,
        tuple(names),
        draw(st.sampled_from((None, 'Ünder %s "schema"'))),
        draw(st.booleans()),
        tuple(map(_of_parent, specs)) if kind == "joined" else specs,
        draw(st.none() | _spec_lists("c")) if kind in ("single", "joined", "concrete") else None,
        draw(_writes()),
    )
