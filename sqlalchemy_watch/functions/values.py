"""Values of columns as JSON, in SQL, and how many bytes they take.

Integers and booleans become JSON's own, NULL becomes null, and everything else a string of PostgreSQL's own text form.
The JSON stays well-formed where somebody retyped the column by hand, or the server finds an error, and the listener is
told to resync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from sqlalchemy import types as sqltypes
from sqlalchemy.types import TypeEngine

from .. import wire
from ..declaring.spec import CarriedColumn

#: A SQL expression over a column, from the qualified, quoted column.
_Encoding = Callable[[str], str]


def _integer(type_name: str) -> _Encoding:
    # Costs nothing for an integer. A cast would round a fraction, and a bare text could carry whole rows of its own:
    # beside an integer it is an error.
    return lambda column: f"coalesce({column}, NULL::{type_name})"


def _boolean(column: str) -> str:
    return f"{column}::boolean::pg_catalog.text"


def _quoted(type_name: str) -> _Encoding:
    # Half the cost of escaping, which these need not.
    return lambda column: (
        f"""'"' OPERATOR(pg_catalog.||) {column}::{type_name}::pg_catalog.text OPERATOR(pg_catalog.||) '"'"""
    )


def _json(column: str) -> str:
    # Dates: ISO 8601, whatever the writer's DateStyle is. A cast to text would strip the padding of CHAR and
    # add a netmask to INET, which loading the row does not.
    return f"pg_catalog.to_json({column})"


def _utc(column: str) -> str:
    # Year 1 has no year before it, and 9999 none after it, in Python: the writer's TimeZone must not move them there.
    # By an interval: a session's TimeZone may have an abbreviation UTC of its own, which PostgreSQL 18 takes first.
    return f"pg_catalog.to_json(pg_catalog.timezone('0'::interval, {column}))"


def _escaped(column: str) -> str:
    return f"pg_catalog.to_json({column}::pg_catalog.text)"


def _hex(column: str) -> str:
    # Without the leading backslash, which standard_conforming_strings would change the meaning of.
    encoded = f"pg_catalog.encode({column}::pg_catalog.bytea, 'hex')"
    return f"""'"' OPERATOR(pg_catalog.||) {encoded} OPERATOR(pg_catalog.||) '"'"""


#: By the type's name in SQL. Others are escaped.
_ENCODINGS: Final[dict[str, _Encoding]] = {
    "smallint": _integer("smallint"),
    "integer": _integer("integer"),
    "bigint": _integer("bigint"),
    "boolean": _boolean,
    "numeric": _quoted("numeric"),
    "uuid": _quoted("pg_catalog.uuid"),
    "timestamp without time zone": _json,
    "timestamp with time zone": _utc,
    "date": _json,
    "bytea": _hex,
    "char": _json,
    "nchar": _json,
    "inet": _json,
}

_INTEGERS = ("smallint", "integer", "bigint")

#: Bytes of the longest value's JSON. An integer column may have become a larger one.
_BOUNDS: Final = dict.fromkeys(_INTEGERS, 20) | {
    "boolean": 5,
    "uuid": 38,
    "date": 20,
    "timestamp without time zone": 34,
    "timestamp with time zone": 34,
}

#: Types whose text form depends on no setting of the writer's session.
_STABLE = frozenset(_ENCODINGS) | {
    "varchar", "text", "citext", "json", "jsonb", "cidr", "macaddr", "time without time zone",
    "time with time zone",
}  # fmt: skip


def argument(column: CarriedColumn, sql: str, breaks_if_null: bool = False) -> str:
    """Return a SQL expression for a column's value as JSON, of any type that concat() writes as it is.

    :param sql: the qualified, quoted column.
    :param breaks_if_null: True where NULL is to make the payload no JSON, which asks for a resync, as of a primary key.
    """
    if column.is_primary or breaks_if_null:
        return _encoded(column, sql)
    return f"coalesce({_encoded(column, sql)}{'::pg_catalog.text' if _is_integer(column) else ''}, 'null')"


def text(column: CarriedColumn, sql: str, breaks_if_null: bool = False) -> str:
    """Return the same as text, which is never NULL: in a query over many rows, `||` is faster than concat()."""
    encoded = _encoded(column, sql)
    cast = "::pg_catalog.text" if _is_integer(column) or encoded.startswith("pg_catalog.to_json(") else ""
    null = "''" if breaks_if_null else "'null'"
    return f"coalesce({encoded}{cast}, {null})"


def _encoded(column: CarriedColumn, sql: str) -> str:
    return _ENCODINGS.get(wire.sql_type(column.type), _escaped)(sql)


def _is_integer(column: CarriedColumn) -> bool:
    return wire.sql_type(column.type) in _INTEGERS


def longest(columns: Iterable[CarriedColumn]) -> int | None:
    """Return the bytes of the longest values' JSON, a comma behind each; None where a type has no bound."""
    bounds = [_BOUNDS.get(wire.sql_type(column.type)) for column in columns]
    known = [bound + 1 for bound in bounds if bound is not None]
    return sum(known) if len(known) == len(bounds) else None


def has_exact_equality(type_: TypeEngine[Any]) -> bool:
    """Return True if values of the type are equal where their stored bytes are, and only there."""
    return wire.sql_type(type_) in _BOUNDS


def needs_fixed_settings(type_: TypeEngine[Any]) -> bool:
    """Return True if the text of such a value depends on DateStyle, IntervalStyle and the like."""
    return wire.sql_type(type_) not in _STABLE and not isinstance(type_, sqltypes.Enum)
