"""Nothing of a stranger's runs in a watched write, though the writer's search_path leads to namesakes of everything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from models import declare_base
from postgres import Cluster
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import mapped_column
from support import created_database

from sqlalchemy_watch import Watch, Watched
from sqlalchemy_watch.declaring.targets import watches_of
from sqlalchemy_watch.functions.body import function_body
from sqlalchemy_watch.functions.quoting import quote

from .hostile import hostile_calls, make_hostile
from .kinds_of_tables import BRIEF, LEVELS, Kind, declare_kinds
from .twins import Twins, warnings_of

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

TEXTS = "\n".join(function_body(watch) for watch in watches_of(declare_kinds()[0]))
FUNCTIONS = set(re.findall(r"pg_catalog\.(\w+)\(", TEXTS))
OPERATORS = set(re.findall(r"OPERATOR\(pg_catalog\.(.+?)\)", TEXTS))


@pytest.fixture(scope="module")
def twins(cluster: Cluster) -> Iterator[Twins]:
    kinds = declare_kinds(conditions=False)
    with created_database(cluster, "test_hostile") as database, Twins(cluster, database, *kinds) as twins:
        make_hostile(twins.admin, FUNCTIONS, OPERATORS, [f"{level}_people" for level in LEVELS])
        twins.plain()
        yield twins


PATHS = pytest.mark.parametrize(
    "path", ["hostile, pg_catalog", "hostile", "hostile, pg_catalog, public", "public, hostile"]
)


@contextmanager
def writing(twins: Twins, path: str) -> Iterator[Client]:
    """A session of such a search_path, in which nothing of a stranger's is to run."""
    with twins.cluster.connect(twins.database) as writer:
        writer.execute(f"SET search_path = {path}".encode())
        calls = hostile_calls(writer)
        try:
            yield writer
        finally:
            assert set(calls) == set()


#: Where a hierarchy's root is looked up by its name, another table is seen, but not read.
MANAGERS = ("managers",)


@PATHS
def test_nothing_of_a_strangers_runs(twins: Twins, path: str) -> None:
    with writing(twins, path) as writer:
        twins.check(writer, may_resync=() if path == "public, hostile" else MANAGERS)


@pytest.fixture
def renamed(twins: Twins) -> Iterator[Twins]:
    """All tables have other names than they were declared with."""
    declared = twins.kinds
    others = [
        replace(kind, table=kind.table.to_metadata(sa.MetaData(), name=f"renamed_{n}"))
        for n, kind in enumerate(declared)
    ]
    twins.plain(BRIEF)
    _rename(twins, declared, others)
    yield twins
    _rename(twins, others, declared)


def _rename(twins: Twins, before: Sequence[Kind], after: Sequence[Kind]) -> None:
    for one, other in zip(before, after, strict=True):
        for name in (one.name, one.twin):
            twins.admin.execute(f"ALTER TABLE {name} RENAME TO {quote(other.table.name)}".encode())
    twins.kinds = after


@PATHS
def test_nothing_of_a_strangers_runs_where_a_table_was_renamed(renamed: Twins, path: str) -> None:
    with writing(renamed, path) as writer:
        renamed.check(writer, BRIEF, may_resync=() if path == "public, hostile" else MANAGERS)


@pytest.fixture
def retyped(twins: Twins) -> Iterator[Twins]:
    """Tables with columns of a type that the functions were not made for."""
    twins.plain(BRIEF)
    twins.empty()
    changed = [kind for kind in twins.kinds if "n" in kind.table.columns]
    for kind in changed:
        for name in (kind.name, kind.twin):
            twins.admin.execute(f"ALTER TABLE {name} ALTER n TYPE text".encode())
    yield twins
    for kind in changed:
        for name in (kind.name, kind.twin):
            twins.admin.execute(f"ALTER TABLE {name} ALTER n TYPE int USING n::int".encode())


@PATHS
def test_nothing_of_a_strangers_runs_where_a_function_fails(retyped: Twins, path: str) -> None:
    with writing(retyped, path) as writer:
        warnings = warnings_of(writer)
        retyped.check(writer, BRIEF, may_resync=("things", '"P', *MANAGERS))
        assert warnings


@pytest.fixture
def unrelated(twins: Twins) -> Iterator[Twins]:
    """Hierarchies whose foreign keys are declared, but not in the database."""
    foreign_key = "FOREIGN KEY (id) REFERENCES public.{0}_people"
    for level in LEVELS:
        twins.admin.execute(f"ALTER TABLE {level}_managers DROP CONSTRAINT {level}_managers_id_fkey".encode())
    yield twins
    twins.empty()
    for level in LEVELS:
        twins.admin.execute(f"ALTER TABLE {level}_managers ADD {foreign_key.format(level)}".encode())


@PATHS
def test_nothing_of_a_strangers_runs_where_no_foreign_key_tells_the_root(unrelated: Twins, path: str) -> None:
    with writing(unrelated, path) as writer:
        unrelated.check(writer, BRIEF, may_resync=() if path == "public, hostile" else MANAGERS)


def test_each_name_in_the_texts_has_a_namesake(twins: Twins) -> None:
    made = {name for (name,) in twins.admin.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'hostile'::regnamespace UNION "
        "SELECT oprname FROM pg_operator WHERE oprnamespace = 'hostile'::regnamespace UNION "
        "SELECT relname FROM pg_class WHERE relnamespace = 'hostile'::regnamespace UNION "
        "SELECT typname FROM pg_type WHERE typnamespace = 'hostile'::regnamespace"
    )}  # fmt: skip
    assert set(re.findall(r"pg_catalog\.(\w+)", TEXTS)) | OPERATORS <= made


def test_texts_without_qualified_names_would_call_them(twins: Twins) -> None:
    definitions = "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname LIKE 'watch%things%'"
    functions = [row[0] for row in twins.admin.execute(definitions)]
    twins.empty()
    with twins.cluster.connect(twins.database) as writer:
        writer.execute("SET search_path = hostile, pg_catalog")
        calls = hostile_calls(writer)
        for function in functions:
            twins.admin.execute(re.sub(r"OPERATOR\(pg_catalog\.(.+?)\)|pg_catalog\.", r"\1", function).encode())
        for _ in twins.write_all(writer, BRIEF):
            pass
        for function in functions:
            twins.admin.execute(function.encode())
    assert calls


# ---- conditions ----

#: What SQLAlchemy writes itself. text(), functions and op() are the user's own.
CONDITIONS: list[Any] = [
    lambda new: new.n == 8,
    lambda new: new.n != 8,
    lambda new: new.n > 8,
    lambda new: new.n >= 8,
    lambda new: new.n < 8,
    lambda new: new.n <= 8,
    lambda new: new.n + 1 > 8,
    lambda new: new.n + 1 * new.n - 2 > 8,
    lambda new: (new.n - 1) * 2 > 8,
    lambda new: new.n / 2 > 3,
    lambda new: new.n // 2 > 3,
    lambda new: new.n % 2 == 0,
    lambda new: -new.n < -8,
    lambda new: new.n.bitwise_and(8) == 8,
    lambda new: new.n.in_([1, 8]),
    lambda new: new.n.not_in([1, 8]),
    lambda new: new.n.in_([]),
    lambda new: new.n.between(1, 8),
    lambda new: ~new.n.between(1, 8),
    lambda new: new.t == "t8",
    lambda new: new.t > "t7",
    lambda new: new.t.in_(["t8", "t9"]),
    lambda new: new.t.like("t8%"),
    lambda new: new.t.not_like("t8%"),
    lambda new: new.t.ilike("T8%"),
    lambda new: new.t.startswith("t8", autoescape=True),
    lambda new: new.t.contains("8"),
    lambda new: new.t.endswith("8"),
    lambda new: new.t.regexp_match("^t8$"),
    lambda new: new.t + "x" == "t8x",
    lambda new: new.t.concat("x") == "t8x",
    lambda new: new.t.is_distinct_from("t8"),
    lambda new: new.t.is_not_distinct_from("t8"),
    lambda new: new.t.collate("C") == "t8",
    lambda new: new.t.is_(None) | (new.n == 8),
    lambda new: new.f & (new.n == 8),
    lambda new: ~(new.f | (new.n == 8)),
    lambda new: new.f.is_(True),
    lambda new: sa.case((new.n == 8, True), else_=False),
    lambda new: sa.case({8: True, 9: False}, value=new.n, else_=False),
    lambda new: new.n == sa.any_(sa.literal([8, 9], pg.ARRAY(sa.Integer))),
    lambda new: sa.cast(new.n, sa.Text) == "8",
    lambda new: new.j["a"].astext == "8",
    lambda new: new.j["a"].as_integer() > 7,
    lambda new: new.d > 7.5,
    lambda new: sa.tuple_(new.n, new.t) == sa.tuple_(8, "t8"),
    lambda new: sa.tuple_(new.n, new.t) > sa.tuple_(8, "t7"),
]


def _with_conditions(base: Any, level: Any) -> Kind:
    watches = [
        Watch("inserted", label=f"when_{number}", when=lambda old, new, c=condition: c(new), level=level)
        for number, condition in enumerate(CONDITIONS)
    ]
    types = {"n": sa.Integer, "t": sa.Text, "f": sa.Boolean, "j": pg.JSONB, "d": sa.Numeric}
    columns = {name: mapped_column(type_) for name, type_ in types.items()}
    key = mapped_column(sa.Integer, primary_key=True, autoincrement=False)
    members = {"__tablename__": f"{level}_conditions", "__watch__": watches, "id": key, **columns}
    model: Any = type(f"{level}_condition", (Watched, base), members)

    def row(number: int, long: bool) -> list[str]:
        n = f"'{number}'"
        return [n, n, f"'t{number}'", "'true'", f"""'{{"a": {number}}}'""", n] if number else [n, *["NULL"] * 5]

    return Kind(model.__table__, row, "n = '30'", "id = id")


@pytest.fixture(scope="module")
def conditions(cluster: Cluster) -> Iterator[Twins]:
    base = declare_base()
    kinds = [_with_conditions(base, level) for level in LEVELS]
    name = "test_hostile_conditions"
    with created_database(cluster, name), Twins(cluster, name, base.metadata, kinds) as twins:
        make_hostile(twins.admin, FUNCTIONS, OPERATORS, [])
        yield twins


@pytest.mark.parametrize("path", ["hostile, pg_catalog", "public, hostile"])
def test_operators_of_conditions_are_postgresqls_own(conditions: Twins, path: str) -> None:
    with writing(conditions, path) as writer:
        conditions.check(writer, ("insert one", "insert 60", "delete all"))
