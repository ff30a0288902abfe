"""SQLAlchemy's operators in conditions are written as PostgreSQL's own, each with its schema.

Beside these pure tests: `test_expressions.py` has a server evaluate random expressions.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import any_, case, cast, exists, func, literal, literal_column, select, text, tuple_
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql import operators as pg_operators
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import compiler, default_comparator, operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, ClauseList, UnaryExpression
from sqlalchemy.types import UserDefinedType

from sqlalchemy_watch import ConfigurationError
from sqlalchemy_watch.declaring.conditions import compile_condition
from sqlalchemy_watch.declaring.operators import QUALIFIED

from .expressions import column
from .unqualified import unqualified_operators

pytestmark = pytest.mark.sqlalchemy

i, num, f, t, t2, b, d, ts, iv = (column(n) for n in ("i", "num", "f", "t", "t2", "b", "d", "ts", "iv"))
mood, j, js, ia, ta, rg, tsv = (column(n) for n in ("mood", "j", "js", "ia", "ta", "rg", "tsv"))
citext = literal_column("r.c", pg.CITEXT())
hstore = literal_column("r.h", pg.HSTORE())


def sql(clause: Any) -> str:
    return str(clause.compile(dialect=QUALIFIED, compile_kwargs={"literal_binds": True}))


#: At least one expression for every operator that SQLAlchemy has.
EXAMPLES: list[Any] = [
    i == 1, i != 1, i < 1, i <= 1, i > 1, i >= -1,
    i + 1, 1 + i + i, i - 1, i * 2, i % 2, i / 2, num / 2, i // 2, f // 2, -i, -(i + 1), -literal(5), -literal(-5),
    i.bitwise_and(1), i.bitwise_or(1), i.bitwise_xor(1), i.bitwise_not(), i.bitwise_lshift(1), i.bitwise_rshift(1),
    t + "x", t.concat("x").concat(t), d + 1, ts + dt.timedelta(days=1), ts - ts > dt.timedelta(1),
    i.is_distinct_from(1), i.is_not_distinct_from(i), i.is_distinct_from(None), b.is_not_distinct_from(True),
    i.in_([1, 2]), i.in_([1]), i.in_([]), i.not_in([]), i.not_in([1, None]), i.in_([i, 2, 3]), t.in_(["a", "it's"]),
    t.in_(["a\\b", 'q"q']), mood.in_(["sad", "ok"]), d.in_([dt.date(2020, 1, 1), dt.date(2021, 1, 1)]),
    num.in_([1, 2.5]),
    i.in_(select(column("i2"))), i.not_in(select(column("i2"))), i.in_(text("1, 2")),
    ~i.in_(text("(SELECT 1), 2")), i.not_in(text("(1, 2)")),
    i.in_(text("SELECT 1")), citext.in_([]), i.in_(sa.values(sa.column("x", sa.Integer), name="v").data([(1,), (2,)])),
    tuple_(i, t) == tuple_(1, "a"), tuple_(i, t) != tuple_(i, t), tuple_(i, t) < tuple_(1, "a"),
    tuple_(i, t).in_([(1, "a"), (2, "b")]), tuple_(i, t).not_in([(1, "a")]), tuple_(i, t).in_([]),
    tuple_(i, t).in_(text("(1, 'a'), (2, 'b')")), ~tuple_(i, t).in_(text("(1, 'a')")),
    tuple_(i, t).in_(select(i, t)), tuple_(i, t).is_distinct_from(tuple_(1, "a")),
    tuple_(i, t) == select(i, t).scalar_subquery(),
    i.between(1, 2), ~i.between(1, 2), i.between(1, 2, symmetric=True), ~i.between(1, 2, symmetric=True),
    *(getattr(t, name)("a") for name in (
        "like", "ilike", "not_like", "not_ilike", "startswith", "istartswith", "endswith", "iendswith", "contains",
        "icontains",
    )),
    *(~getattr(t, name)("50%", autoescape=True) for name in (
        "startswith", "istartswith", "endswith", "iendswith", "contains", "icontains",
    )),
    t.like("a/%", escape="/"), t.like(any_(ta)),
    t.match("a"), ~t.match("a"), tsv.match("a", postgresql_regconfig="english"),
    t.regexp_match("a"), ~t.regexp_match("a"), t.regexp_match("a", flags="i"), ~t.regexp_match("a", flags="ix"),
    t.regexp_replace("a", "b"), t.regexp_replace("a", "b", flags="g"),
    b.is_(True), i.is_(None), i.is_not(None), ~b, ~(i == 1), b == True, b & (i == 1), b | ~b,  # noqa: E712
    t.collate("C") > "a", exists(select(literal(1)).where(i == 1)), ~exists(select(literal(1)).where(i == 1)),
    i == any_(ia), i < sa.all_(ia), i == any_(select(i).scalar_subquery()), i == func.any(ia), literal(1) == any_(ia),
    ia[1] == 1, ia[1:2] == ia, ia + ia == pg.array([1, 2]), pg.array([], type_=sa.Text) == ta,
    ia.contains(ia), ia.contained_by([1]), ia.overlap([1]),
    js["a"].astext == "x", js["a"][0].is_(None), j["a"] == j["b"][0], j[("a", "b")] == j, j[("a", "b")].astext == "x",
    j["a"].as_string() == "x", j["a"].as_integer() > 1, j[("a", "b")].as_boolean(), j[t] == j,
    j.contains(j), j.contained_by(j), j.has_key("a"), j.has_all(ta), j.has_any(ta), j.delete_path(pg.array(["a"])) == j,
    j.path_exists(cast("$.a", pg.JSONPATH)), j.path_match(cast("$.a", pg.JSONPATH)),
    rg.contains(1), rg.contained_by(rg), rg.overlaps(rg), rg.strictly_left_of(rg), rg.strictly_right_of(rg),
    rg.not_extend_left_of(rg), rg.not_extend_right_of(rg), rg.adjacent_to(rg), rg + rg == rg, rg - rg == rg,
    rg * rg == rg,
    case((i == 1, "x"), else_="y") == "x", case({1: "x", 2: "y"}, value=i, else_="z") == "x",
    case({"a": 1}, value="a") == 1,
    func.nullif(i, 0) == 1, func.nullif("1", i) == 1, func.nullif(i, 1.5) == 1,
    cast(i, sa.Text) == "1", cast(t, pg.ARRAY(pg.UUID)) == ta, sa.extract("year", ts) == 2020, func.pow(i, 2) == 4,
    select(func.count(i).filter(i > 1)).order_by((i + 1).desc(), i.asc().nulls_first(), i.desc().nulls_last())
    .group_by(i % 2).having(func.count(i.distinct()) > 1).limit(literal(1) + 1).scalar_subquery() == 1,
    select(func.sum(i).over(partition_by=i % 2, order_by=-i)).scalar_subquery() == 1,
    func.aggregate_strings(t, ",") == "a",
    exists(select(literal(1)).select_from(sa.table("x", sa.column("y")).join(
        sa.table("z", sa.column("y")), sa.column("y") == sa.column("y")))),
    BinaryExpression(i, ClauseList(i, literal(1), operator=operators.add), operators.eq),
    func.foo(i, 1).as_comparison(1, 2),
    func.pg_catalog.lower(t) == "a", t.bool_op("OPERATOR(pg_catalog.~~)")("a%"), t == text("pg_catalog.lower(r.t2)"),
]  # fmt: skip
if hasattr(i, "__pow__"):
    EXAMPLES += [i**2 == 4, 2**i == 4]

#: Names among SQLAlchemy's operators that no expression of PostgreSQL's is written by.
NEVER_WRITTEN = {
    "from_", "as_", "filter_op", "null_op", "_asbool",  # for other purposes
    "lshift", "rshift", "contains", "matmul", "div",  # refused by every type of SQLAlchemy's and of PostgreSQL's
    "pow", "any", "all",  # functions
    "custom_op", "custom_op_binary", "op",  # the user's own
    "asc_op", "desc_op", "nulls_first_op", "nulls_last_op",  # of ORDER BY
    "->", "hstore_getitem_op",  # an extension's
}  # fmt: skip


def _names_of_operators() -> set[str]:
    """Every operator that SQLAlchemy lists anywhere, and every one that a compiler has a method for."""
    methods = (re.fullmatch(r"visit_(\w+)_(?:binary|unary_operator|unary_modifier)", name) for name in dir(PGCompiler))
    listed = (*compiler.OPERATORS, *operators._PRECEDENCE)
    return (
        set(default_comparator.operator_lookup)
        | {operator.__name__ for operator in listed}
        | {method[1] for method in methods if method}
    )


def test_every_operator_of_sqlalchemy_is_among_the_examples() -> None:
    used = set()
    for example in EXAMPLES:
        for element in visitors.iterate(example):
            for operator in (getattr(element, "operator", None), getattr(element, "modifier", None)):
                used.add(getattr(operator, "opstring", None) or getattr(operator, "__name__", None))
    of_dialect = {o.opstring for o in vars(pg_operators).values() if isinstance(o, operators.custom_op)}
    missing = (_names_of_operators() | of_dialect) - used - NEVER_WRITTEN
    assert missing == set()


def test_no_operator_is_without_a_schema() -> None:
    texts = [sql(example) for example in EXAMPLES]
    assert {text: found for text in texts if (found := unqualified_operators(text))} == {}


#: What looks like a call and is a word of the grammar; the functions that the examples name themselves; and types.
WORDS = {
    "operator", "any", "all", "array", "cast", "exists", "case", "extract", "values", "and", "or", "not", "as", "over",
    "filter", "where", "when", "then", "else", "limit", "by", "from", "select", "join", "on", "in", "offset", "having",
}  # fmt: skip
FUNCTIONS = {"count", "sum", "foo", "pow"}
TYPES = {"integer", "varchar", "numeric", "boolean", "double", "bigint"}


def test_no_function_and_no_type_of_sqlalchemys_is_without_a_schema() -> None:
    for example in EXAMPLES:
        written = re.sub(r"'(?:[^']|'')*'", "''", sql(example)).lower()
        assert set(re.findall(r"(?<![\w.])(\w+)\s*\(", written)) <= WORDS | FUNCTIONS | {"v"}
        assert set(re.findall(r"(?<=cast)\(.* as (\w+)(?![\w.])", written)) <= TYPES


TEXTS: list[tuple[Any, str]] = [
    (1 + i * 2, "(1 OPERATOR(pg_catalog.+) (r.i OPERATOR(pg_catalog.*) 2))"),
    ((1 + i) * 2, "((1 OPERATOR(pg_catalog.+) r.i) OPERATOR(pg_catalog.*) 2)"),
    (i - (i - 1), "(r.i OPERATOR(pg_catalog.-) (r.i OPERATOR(pg_catalog.-) 1))"),
    (i.bitwise_not() + 1, "((OPERATOR(pg_catalog.~) r.i) OPERATOR(pg_catalog.+) 1)"),
    (~(i == 1) & (t != "a"), "(r.i OPERATOR(pg_catalog.<>) 1) AND (r.t OPERATOR(pg_catalog.<>) 'a')"),
    (-literal(2147483648), "-2147483648"),
    (t.startswith("50%", autoescape=True), "(r.t OPERATOR(pg_catalog.~~) "
     "pg_catalog.like_escape(('50/%' OPERATOR(pg_catalog.||) '%'), '/'))"),
    (i.in_([1, 2]), "(r.i OPERATOR(pg_catalog.=) ANY (ARRAY[1, 2]))"),
    (~t.in_(["a", "it's", None]), """(r.t OPERATOR(pg_catalog.<>) ALL ('{"a","it''s",NULL}'))"""),
    (t.in_(['q"']), """(r.t OPERATOR(pg_catalog.=) 'q"')"""),
    (t.in_(['q"', "a"]), r"""(r.t OPERATOR(pg_catalog.=) ANY (E'{"q\\"","a"}'))"""),
    (num.in_([1.5, 2]), "(r.num OPERATOR(pg_catalog.=) ANY ((ARRAY[CASE WHEN false THEN r.num END, 1.5, 2])[2:]))"),
    (i.in_([i, 1]), "((r.i OPERATOR(pg_catalog.=) r.i) OR (r.i OPERATOR(pg_catalog.=) 1))"),
    (~i.in_(text("SELECT 1")), "(NOT (r.i OPERATOR(pg_catalog.=) ANY (SELECT 1)))"),
    (i.in_(text("(SELECT 1), 2")), "(r.i OPERATOR(pg_catalog.=) ANY "
     "((ARRAY[CASE WHEN false THEN r.i END, (SELECT 1), 2])[2:]))"),
    (t.is_distinct_from("a"),
     "((r.t OPERATOR(pg_catalog.=) 'a') IS NOT TRUE AND (r.t IS NOT NULL OR 'a' IS NOT NULL))"),
    (j["a"][0].astext == "x", "(((r.j OPERATOR(pg_catalog.#>) ARRAY['a']) OPERATOR(pg_catalog.->>) 0) "
     "OPERATOR(pg_catalog.=) 'x')"),
    (ts + dt.timedelta(days=1), "(r.ts OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs=>86400.0))"),
    (cast(t, pg.ARRAY(pg.UUID)) == ta, "(CAST(r.t AS pg_catalog.uuid[]) OPERATOR(pg_catalog.=) r.ta)"),
]  # fmt: skip


@pytest.mark.parametrize(("clause", "written"), TEXTS, ids=[written for _, written in TEXTS])
def test_texts(clause: Any, written: str) -> None:
    assert sql(clause) == written


class Ltree(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **kw: Any) -> str:
        return "LTREE"


class Caseless(sa.TypeDecorator[str]):
    impl = pg.CITEXT
    cache_ok = True


OWN_SQL: list[tuple[Any, str]] = [
    (text("r.i = 1 AND r.t LIKE 'a'"), "r.i = 1 AND r.t LIKE 'a'"),
    (literal_column("r.i + 1") * 2, "((r.i + 1) OPERATOR(pg_catalog.*) 2)"),
    (i == text("r.i - 1"), "(r.i OPERATOR(pg_catalog.=) (r.i - 1))"),
    (i == text("ANY (r.ia)"), "(r.i OPERATOR(pg_catalog.=) ANY (r.ia))"),
    (func.lower(t) == func.public.f(i), "(lower(r.t) OPERATOR(pg_catalog.=) public.f(r.i))"),
    (t.op("===")(i + 1), "r.t === (r.i OPERATOR(pg_catalog.+) 1)"),
    (t.op("->", precedence=15)("k") == "v", "((r.t -> 'k') OPERATOR(pg_catalog.=) 'v')"),
    (t.op("->", precedence=15)("k") == "v", "((r.t -> 'k') OPERATOR(pg_catalog.=) 'v')"),
    (ia.op("&&", precedence=5, is_comparison=True)(ia), "r.ia && r.ia"),
    (t.bool_op("~~")(t), "r.t ~~ r.t"),
    (citext == "a", "r.c = 'a'"),
    (citext.in_(["a", "b"]) & (i == 1), "r.c IN ('a', 'b') AND (r.i OPERATOR(pg_catalog.=) 1)"),
    (citext.like("a" + t), "r.c LIKE ('a' OPERATOR(pg_catalog.||) r.t)"),
    ((citext == t) == b, "((r.c = r.t) OPERATOR(pg_catalog.=) r.b)"),
    (tuple_(i, citext) == tuple_(1, "a"), "((r.i OPERATOR(pg_catalog.=) 1) AND r.c = 'a')"),
    (tuple_(i, citext).in_([(1, "a"), (2, "b")]), "(((r.i OPERATOR(pg_catalog.=) 1) AND r.c = 'a') OR "
     "((r.i OPERATOR(pg_catalog.=) 2) AND r.c = 'b'))"),
    (citext.in_([]), "(r.c IS NULL AND false)"),
    (hstore["a"] == "x", "(r.h['a'] OPERATOR(pg_catalog.=) 'x')"),
    (hstore.contains(hstore), "r.h @> r.h"),
    (citext == any_(literal_column("r.cs", pg.ARRAY(pg.CITEXT))), "r.c = ANY (r.cs)"),
    (literal("a") == any_(literal_column("r.cs", pg.ARRAY(pg.CITEXT))), "'a' = ANY (r.cs)"),
    (literal_column("r.l", Ltree()) == text("'a.b'"), "r.l = 'a.b'"),
    (literal_column("r.c", Caseless()) == "a", "r.c = 'a'"),
    (literal_column("r.c", sa.String().with_variant(pg.CITEXT(), "postgresql")) == "a", "r.c = 'a'"),
    (BinaryExpression(literal_column("r.c", pg.DOMAIN("d", pg.CITEXT())), t, operators.eq), "r.c = r.t"),
    (BinaryExpression(literal_column("r.d", pg.DOMAIN("d", sa.Integer())), i, operators.eq),
     "(r.d OPERATOR(pg_catalog.=) r.i)"),
    (func.f(i, type_=pg.CITEXT) == "a", "f(r.i) = 'a'"),
    (cast(t, pg.CITEXT) == "a", "CAST(r.t AS CITEXT) = 'a'"),
    (sa.Column("x", sa.types.NullType()) == i, "x = r.i"),
]  # fmt: skip


@pytest.mark.parametrize(("clause", "written"), OWN_SQL, ids=[written for _, written in OWN_SQL])
def test_the_users_own_sql_stays_as_it_is(clause: Any, written: str) -> None:
    assert sql(clause).replace("r.h -> 'a'", "r.h['a']").replace("(r.h['a'])", "r.h['a']") == written


def test_a_column_of_unknown_type_may_be_an_extensions() -> None:
    columns = {"place": sa.Column("place", sa.types.NullType()), "total": sa.Column("total", sa.Integer())}
    condition = compile_condition("x", "inserted", lambda old, new: (new.place == "a") & (new.total > 1), columns)
    assert condition.statement_sql == "r.place = 'a' AND (r.total OPERATOR(pg_catalog.>) 1)"


def test_an_operator_that_is_not_known_is_refused() -> None:
    def soundex(a: Any, b: Any) -> Any:
        raise NotImplementedError

    for clause in (
        BinaryExpression(t, t2, soundex),
        UnaryExpression(t, operator=soundex),
        ClauseList(t, t2, operator=soundex),
    ):
        with pytest.raises(CompileError, match="the operator soundex of SQLAlchemy is not known here"):
            sql(clause)
    when = lambda old, new: BinaryExpression(new.t, new.t, soundex, type_=sa.Boolean())  # noqa: E731
    with pytest.raises(ConfigurationError, match="write them as text"):
        compile_condition("x", "inserted", when, {"t": sa.Column("t", sa.Text())})
