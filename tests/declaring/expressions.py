"""Random SQLAlchemy expressions over the columns of one table, of every type that has operators in pg_catalog."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy import any_, func, literal_column, tuple_
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.sql.elements import Grouping


class Mood(enum.Enum):
    sad = "sad"
    ok = "ok"


#: The columns: by name the type, and what SQLAlchemy takes it for.
COLUMNS: dict[str, tuple[str, Any]] = {
    "small": ("smallint", sa.SmallInteger()),
    "i": ("integer", sa.Integer()),
    "i2": ("integer", sa.Integer()),
    "big": ("bigint", sa.BigInteger()),
    "num": ("numeric(10, 2)", sa.Numeric(10, 2)),
    "re": ("real", sa.REAL()),
    "f": ("double precision", sa.Double()),
    "v": ("varchar(8)", sa.String(8)),
    "t": ("text", sa.Text()),
    "t2": ("text", sa.Text()),
    "ch": ("character(4)", sa.CHAR(4)),
    "b": ("boolean", sa.Boolean()),
    "d": ("date", sa.Date()),
    "ts": ("timestamp", sa.DateTime()),
    "tz": ("timestamptz", sa.DateTime(timezone=True)),
    "iv": ("interval", sa.Interval()),
    "mood": ("mood", sa.Enum(Mood, name="mood")),
    "u": ("uuid", sa.Uuid()),
    "j": ("jsonb", pg.JSONB()),
    "js": ("json", pg.JSON()),
    "ia": ("integer[]", pg.ARRAY(sa.Integer)),
    "ta": ("text[]", pg.ARRAY(sa.Text)),
    "rg": ("int4range", pg.INT4RANGE()),
    "ip": ("inet", pg.INET()),
    "bits": ("bit(4)", pg.BIT(4)),
    "tsv": ("tsvector", pg.TSVECTOR()),
    "dom": ("positive", sa.Integer()),
}

#: The kinds of expressions, and the columns that are of each.
KINDS = {
    "integer": ("small", "i", "i2", "big", "dom"),
    "number": ("num", "re", "f"),
    "text": ("v", "t", "t2", "ch"),
    "boolean": ("b",),
    "date": ("d",),
    "time": ("ts", "tz"),
    "interval": ("iv",),
    "mood": ("mood",),
    "uuid": ("u",),
    "json": ("j", "js"),
    "integers": ("ia",),
    "texts": ("ta",),
    "range": ("rg",),
    "inet": ("ip",),
    "bits": ("bits",),
}

TEXTS = ("", "a", "b", "A%", "it's", "a\\b", 'q"q', "é_", "a ", "ab")

_LITERALS: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.sampled_from((0, 1, 2, -3, 7, 2_147_483_648)),
    "number": st.sampled_from((decimal.Decimal("1.1"), decimal.Decimal("-2.50"), decimal.Decimal("0"), 1.5)),
    "text": st.sampled_from(TEXTS),
    "boolean": st.booleans(),
    "date": st.sampled_from((dt.date(2020, 1, 1), dt.date(1999, 12, 31))),
    "time": st.sampled_from((dt.datetime(2020, 1, 1), dt.datetime(1999, 12, 31, 23, 59, 59))),
    "interval": st.sampled_from((dt.timedelta(days=1), dt.timedelta(seconds=-30))),
    "mood": st.sampled_from(Mood),
    "uuid": st.sampled_from((uuid.UUID(int=0), uuid.UUID(int=5))),
    "integers": st.sampled_from(([1, 2], [3], [1])),
    "texts": st.sampled_from((["a", "b"], ["it's"], ["a\\b", 'q"q'])),
}

#: What has no literal of SQLAlchemy's.
_CASTS = {
    "json": ('{"a": 1}', '[1, {"b": "x"}]', '"a"', "null", '{"a": {"b": 2}, "0": 3}'),
    "range": ("[1,5)", "empty", "(,3]"),
    "inet": ("10.0.0.1/8", "::1"),
    "bits": ("1010", "0000"),
}
_CAST_TYPES: dict[str, Any] = {"json": pg.JSONB(), "range": pg.INT4RANGE(), "inet": pg.INET(), "bits": pg.BIT(4)}
_LITERAL_TYPES: dict[str, Any] = {
    "time": sa.DateTime(), "mood": sa.Enum(Mood, name="mood"),
    "integers": pg.ARRAY(sa.Integer), "texts": pg.ARRAY(sa.Text),
}  # fmt: skip

Draw = Callable[[st.SearchStrategy[Any]], Any]


def column(name: str) -> Any:
    """A column as a condition has it."""
    return literal_column(f"r.{name}", COLUMNS[name][1])


@st.composite
def expressions(draw: Draw, kind: str | None = None, depth: int = 3) -> Any:
    """An expression of a kind, or of any."""
    kind = kind or draw(st.sampled_from(sorted(KINDS)))
    ways = _WAYS.get(kind, ())
    if depth == 0 or not ways or draw(st.integers(0, 3)) == 0:
        return draw(_leaf(kind))

    def part(kind: str) -> Any:
        return draw(expressions(kind, depth - 1))

    return draw(st.sampled_from(ways))(part, draw)


@st.composite
def _leaf(draw: Draw, kind: str) -> Any:
    if draw(st.integers(0, 2)):
        return column(draw(st.sampled_from(KINDS[kind])))
    return _literal(kind, draw)


def _literal(kind: str, draw: Draw) -> Any:
    if kind in _CASTS:
        return sa.cast(sa.literal(draw(st.sampled_from(_CASTS[kind])), sa.String()), _CAST_TYPES[kind])
    return sa.literal(draw(_LITERALS[kind]), _LITERAL_TYPES.get(kind))


def _values(kind: str, draw: Draw, least: int = 0) -> list[Any]:
    return draw(st.lists(_LITERALS[kind] | st.none(), min_size=least, max_size=4))


Part = Callable[[str], Any]
_COMPARABLE = tuple(kind for kind in KINDS if kind != "json")
_IN_LISTS = ("integer", "number", "text", "date", "time", "mood", "uuid", "boolean", "interval")


def _comparison(part: Part, draw: Draw) -> Any:
    kind = draw(st.sampled_from(_COMPARABLE))
    left, right = part(kind), part(kind)
    how = draw(
        st.sampled_from(("eq", "ne", "lt", "le", "gt", "ge", "distinct", "same", "between", "outside", "symmetric"))
    )
    return {
        "eq": lambda: left == right,
        "ne": lambda: left != right,
        "lt": lambda: left < right,
        "le": lambda: left <= right,
        "gt": lambda: left > right,
        "ge": lambda: left >= right,
        "distinct": lambda: left.is_distinct_from(right),
        "same": lambda: left.is_not_distinct_from(right),
        "between": lambda: left.between(right, part(kind)),
        "outside": lambda: ~left.between(right, part(kind)),
        "symmetric": lambda: left.between(right, part(kind), symmetric=True),
    }[how]()


def _membership(part: Part, draw: Draw) -> Any:
    kind = draw(st.sampled_from(_IN_LISTS))
    left, values = part(kind), _values(kind, draw)
    if draw(st.booleans()):
        values = [*values, part(kind)]
    return left.not_in(values) if draw(st.booleans()) else left.in_(values)


def _rows(part: Part, draw: Draw) -> Any:
    left = tuple_(part("integer"), part("text"))
    right = tuple_(part("integer"), part("text"))
    values = draw(st.lists(st.tuples(_LITERALS["integer"], _LITERALS["text"]), max_size=3))
    return draw(
        st.sampled_from(
            (
                left == right,
                left != right,
                left < right,
                left >= right,
                left.in_(values),
                left.not_in(values),
            )
        )
    )


def _like(part: Part, draw: Draw) -> Any:
    left = part("text")
    name = draw(
        st.sampled_from(
            ("like", "ilike", "startswith", "istartswith", "endswith", "iendswith", "contains", "icontains")
        )
    )
    if name in ("like", "ilike") or draw(st.booleans()):
        found = getattr(left, name)(part("text"), escape=draw(st.sampled_from((None, "/"))))
    else:
        found = getattr(left, name)(draw(_LITERALS["text"]), autoescape=True)
    return ~found if draw(st.booleans()) else found


def _pattern(part: Part, draw: Draw) -> Any:
    left, flags = part("text"), draw(st.sampled_from((None, "i", "n")))
    found = left.regexp_match(draw(st.sampled_from(("^a", "[ab]+$", "\\\\", "é"))), flags=flags)
    return ~found if draw(st.booleans()) else found


def _of_arrays(part: Part, draw: Draw) -> Any:
    kind, member = draw(st.sampled_from((("integers", "integer"), ("texts", "text"))))
    left, right = part(kind), part(kind)
    return draw(
        st.sampled_from(
            (
                left.contains(right),
                left.contained_by(right),
                left.overlap(right),
                part(member) == any_(left),
                part(member) != sa.all_(left),
                part(member) < any_(right),
                left[draw(st.integers(1, 2))] == part(member),
                left[1:2] == right,
            )
        )
    )


def _of_json(part: Part, draw: Draw) -> Any:
    left, right = part("json"), sa.cast(part("json"), pg.JSONB)
    binary = sa.cast(left, pg.JSONB)
    key = draw(st.sampled_from(("a", "b", "0", 0, 1)))
    return draw(
        st.sampled_from(
            (
                binary.contains(right),
                binary.contained_by(right),
                binary.has_key("a"),
                binary.has_any(pg.array(["a", "b"])),
                binary.has_all(pg.array(["a", "b"])),
                binary == right,
                left[key].astext == part("text"),
                left[("a", "b")].astext == part("text"),
                left["a"].as_string() == "1",
                left["a"].as_integer() > 0,
                left[("a", "b")].as_integer() == part("integer"),
                binary.path_exists(sa.cast(sa.literal("$.a", sa.String()), pg.JSONPATH)),
                binary.path_match(sa.cast(sa.literal("$.a > 0", sa.String()), pg.JSONPATH)),
                binary[key].is_(None),
                binary[key][key] == right,
            )
        )
    )


def _of_ranges(part: Part, draw: Draw) -> Any:
    left, right = part("range"), part("range")
    return draw(
        st.sampled_from(
            (
                left.contains(right),
                left.contains(sa.literal(draw(st.integers(0, 4)), sa.Integer())),
                left.contained_by(right),
                left.overlaps(right),
                left.strictly_left_of(right),
                left.strictly_right_of(right),
                left.not_extend_right_of(right),
                left.not_extend_left_of(right),
                left.adjacent_to(right),
            )
        )
    )


def _choice(kind: str) -> Callable[[Part, Draw], Any]:
    def choose(part: Part, draw: Draw) -> Any:
        by = draw(st.sampled_from(("integer", "text", "date", "mood")))
        if draw(st.booleans()):
            return sa.case((part("boolean"), part(kind)), else_=part(kind))
        whens = [(_literal(by, draw), part(kind)) for _ in range(draw(st.integers(1, 3)))]
        return sa.case(*whens, value=part(by), else_=part(kind) if draw(st.booleans()) else None)

    return choose


def _nullif(column_name: str, kind: str) -> Callable[[Part, Draw], Any]:
    return lambda part, draw: func.nullif(column(column_name), part(kind), type_=COLUMNS[column_name][1])


_INTEGER_SMALL = st.integers(0, 3)

_WAYS: dict[str, list[Callable[[Part, Draw], Any]]] = {
    "boolean": [
        _comparison, _comparison, _membership, _membership, _rows, _like, _pattern, _of_arrays, _of_json, _of_ranges,
        lambda part, draw: part("boolean") & part("boolean"),
        lambda part, draw: part("boolean") | part("boolean"),
        lambda part, draw: Grouping(~part("boolean")),  # `NOT a = b` is another thing
        lambda part, draw: part("boolean").is_(None),
        lambda part, draw: part("boolean").is_(draw(st.booleans())),
        lambda part, draw: Grouping(column("t").match("a b")),
        lambda part, draw: Grouping(column("tsv").match("a", postgresql_regconfig="simple")),
        lambda part, draw: sa.exists(sa.select(sa.literal(1)).where(part("boolean"))),
        lambda part, draw: part("integer").in_(sa.select(part("integer"))),
        lambda part, draw: part("text").not_in(sa.select(part("text"))),
        lambda part, draw: tuple_(part("integer"), part("text")).in_(sa.select(part("integer"), part("text"))),
        lambda part, draw: part("integer") == sa.all_(sa.select(part("integer")).scalar_subquery()),
        _choice("boolean"),
    ],
    "integer": [
        lambda part, draw: part("integer") + part("integer"),
        lambda part, draw: part("integer") - part("integer"),
        lambda part, draw: part("integer") * part("integer"),
        lambda part, draw: part("integer") % part("integer"),
        lambda part, draw: part("integer") // part("integer"),
        lambda part, draw: -(part("integer") * part("integer")),
        lambda part, draw: part("integer").bitwise_and(part("integer")),
        lambda part, draw: part("integer").bitwise_or(part("integer")),
        lambda part, draw: part("integer").bitwise_xor(part("integer")),
        lambda part, draw: Grouping((part("integer") % part("integer")).bitwise_not()),
        lambda part, draw: part("integer").bitwise_lshift(draw(_INTEGER_SMALL)),
        lambda part, draw: part("integer").bitwise_rshift(draw(_INTEGER_SMALL)),
        lambda part, draw: part("date") - part("date"),
        lambda part, draw: func.pg_catalog.length(part("text"), type_=sa.Integer()),
        lambda part, draw: sa.select(part("integer")).scalar_subquery(),
        lambda part, draw: sa.cast(part("text"), sa.Integer),
        _choice("integer"), _nullif("i", "integer"), _nullif("big", "integer"),
    ],
    "number": [
        lambda part, draw: part("number") + part("integer"),
        lambda part, draw: part("number") - part("number"),
        lambda part, draw: part("number") * part("number"),
        lambda part, draw: part("integer") / part("integer"),
        lambda part, draw: part("number") / part("number"),
        lambda part, draw: part("number") // part("integer"),
        lambda part, draw: -(part("number") + part("integer")),
        lambda part, draw: part("integer") + part("number") + part("integer"),
        lambda part, draw: sa.extract("year", part("time")),
        _choice("number"), lambda part, draw: func.nullif(column("i"), draw(_LITERALS["number"]), type_=sa.Numeric()),
    ],
    "text": [
        lambda part, draw: part("text") + part("text"),
        lambda part, draw: part("text").concat(part("text")).concat(part("text")),
        lambda part, draw: part("text").regexp_replace("a", "b"),
        lambda part, draw: part("text").regexp_replace("A", part("text"), flags="gi"),
        lambda part, draw: part("text").collate("C"),
        lambda part, draw: sa.cast(part("integer"), sa.Text),
        lambda part, draw: sa.cast(part("uuid"), sa.String),
        lambda part, draw: func.pg_catalog.lower(part("text"), type_=sa.Text()),
        _choice("text"), _nullif("t", "text"),
    ],
    "date": [lambda part, draw: part("date") + part("integer"), _choice("date"), _nullif("d", "date")],
    "time": [
        lambda part, draw: part("time") + part("interval"),
        lambda part, draw: part("date") + part("interval"),
        lambda part, draw: part("time") - part("interval"),
        _choice("time"),
    ],
    "interval": [
        lambda part, draw: part("time") - part("time"),
        lambda part, draw: part("interval") + part("interval"),
        lambda part, draw: -(part("interval") + part("interval")),
        lambda part, draw: part("interval") * draw(_INTEGER_SMALL),
        _choice("interval"),
    ],
    "mood": [_choice("mood")],
    "uuid": [_choice("uuid")],
    "json": [
        lambda part, draw: part("json")[draw(st.sampled_from(("a", "b", "0", 0, 1)))],
        lambda part, draw: part("json")[("a", "b")],
        lambda part, draw: sa.cast(part("json"), pg.JSONB).delete_path(pg.array(["a", "b"])),
        lambda part, draw: sa.cast(part("json"), pg.JSONB).concat(sa.cast(part("json"), pg.JSONB)),
    ],
    "integers": [
        lambda part, draw: part("integers") + part("integers"),
        lambda part, draw: pg.array([part("integer"), part("integer")]),
        _choice("integers"),
    ],
    "texts": [lambda part, draw: part("texts") + part("texts"), _choice("texts")],
    "range": [
        lambda part, draw: part("range") + part("range"),
        lambda part, draw: part("range") - part("range"),
        lambda part, draw: part("range") * part("range"),
    ],
    "inet": [lambda part, draw: part("inet") + sa.literal(draw(_INTEGER_SMALL), sa.Integer())],
    "bits": [
        lambda part, draw: part("bits").bitwise_and(part("bits")),
        lambda part, draw: part("bits").bitwise_xor(part("bits")),
        lambda part, draw: Grouping(part("bits").bitwise_not()),
    ],
}  # fmt: skip
