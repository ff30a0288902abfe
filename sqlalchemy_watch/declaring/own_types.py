"""The types that are PostgreSQL's own, whose operators are in pg_catalog, and their names with that schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

from sqlalchemy import Column, Dialect
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import operators, sqltypes
from sqlalchemy.sql.elements import ClauseList, CollectionAggregate, ExpressionClauseList, Grouping
from sqlalchemy.types import TypeEngine

from .dialect import PostgreSQL

#: The first words of types that the grammar knows.
_WORDS: Final = frozenset({
    "bigint", "bit", "boolean", "char", "character", "dec", "decimal", "double", "float", "int", "integer", "interval",
    "national", "nchar", "numeric", "real", "smallint", "time", "timestamp", "varchar",
})  # fmt: skip

#: Types that are looked for along the search_path.
_NAMES: Final = frozenset({
    "bool", "box", "bpchar", "bytea", "cid", "cidr", "circle", "date", "datemultirange", "daterange", "float4",
    "float8", "inet", "int2", "int2vector", "int4", "int4multirange", "int4range", "int8", "int8multirange",
    "int8range", "json", "jsonb", "jsonpath", "line", "lseg", "macaddr", "macaddr8", "money", "name", "nummultirange",
    "numrange", "oid", "oidvector", "path", "pg_lsn", "pg_snapshot", "point", "polygon", "refcursor", "regclass",
    "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator", "regproc", "regprocedure",
    "regrole", "regtype", "text", "tid", "timestamptz", "timetz", "tsmultirange", "tsquery", "tsrange",
    "tstzmultirange", "tstzrange", "tsvector", "txid_snapshot", "uuid", "varbit", "xid", "xid8", "xml",
})  # fmt: skip

_FIRST_WORD: Final = re.compile(r'[a-z_][a-z0-9_]*(?![\w."])', re.IGNORECASE)


class UnknownType(sqltypes.NullType):
    """The type of a column of which SQLAlchemy knows none, such as one that was reflected: it may be an extension's."""


def unwrapped(type_: Any) -> Any:
    """Return the type that a TypeDecorator decorates."""
    while isinstance(type_, sqltypes.TypeDecorator):
        type_ = type_.impl_instance
    return type_


def are_own(*elements: Any) -> bool:
    """Return True if these operands are of PostgreSQL's own types, as those of unknown functions are thought to be."""
    return all(_is_own(type_) for element in elements for type_ in _types(element))


def _types(element: Any) -> Iterator[Any]:
    """Iterate over the types by which PostgreSQL chooses an operator."""
    if isinstance(element, Grouping):
        yield from _types(element.element)
    elif isinstance(element, CollectionAggregate):
        of = unwrapped(element.element.type)
        yield of.item_type if isinstance(of, sqltypes.ARRAY) else of
    elif isinstance(element, postgresql.array):
        yield element.type
    elif isinstance(element, ClauseList | ExpressionClauseList) and element.operator in _LISTED:
        for clause in element.clauses:
            yield from _types(clause)
    elif isinstance(element, Column) and isinstance(element.type, sqltypes.NullType):
        yield UnknownType()
    else:
        yield getattr(element, "type", sqltypes.NULLTYPE)


#: Between the members of IN and of tuples, and the bounds of BETWEEN.
_LISTED: Final = (operators.comma_op, operators.and_)


def _is_own(type_: Any) -> bool:
    impl = unwrapped(type_.dialect_impl(_DIALECT))
    if isinstance(impl, sqltypes.TupleType):
        return all(map(_is_own, impl.types))
    if isinstance(impl, postgresql.DOMAIN):
        return _is_own(impl.data_type)
    if isinstance(impl, sqltypes.ARRAY | postgresql.ENUM | sqltypes.JSON.JSONElementType):  # whatever they are made of
        return True
    if isinstance(impl, sqltypes.NullType):
        return not isinstance(impl, UnknownType)
    try:
        spelled = type_.compile(dialect=_DIALECT)
    except (CompileError, AttributeError):  # the user's, without a name
        return False
    word = _FIRST_WORD.match(spelled)
    return spelled.startswith("pg_catalog.") or (word is not None and word[0].lower() in _WORDS)


class _Types(PGTypeCompiler):
    def process(self, type_: TypeEngine[Any], **kw: Any) -> str:
        spelled = super().process(type_, **kw)
        word = _FIRST_WORD.match(spelled)
        if word is None or word[0].lower() not in _NAMES:
            return spelled
        return f"pg_catalog.{word[0].lower()}{spelled[word.end() :]}"


class _Interval(postgresql.INTERVAL):
    """Its literals are calls of a function."""

    @classmethod
    def adapt_emulated_to_native(cls, interval: Any, **kw: Any) -> _Interval:  # type: ignore[override]
        return cls(precision=interval.second_precision)

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        process: Any = super().literal_processor(dialect)
        return lambda value: f"pg_catalog.{process(value)}"


class TypesDialect(PostgreSQL):
    """Writes PostgreSQL's own types with their schema, where they are no words of the grammar."""

    type_compiler_cls: ClassVar[Any] = _Types
    colspecs: dict[Any, Any] = {**PostgreSQL.colspecs, sqltypes.Interval: _Interval, postgresql.INTERVAL: _Interval}
    supports_statement_cache: bool = True


_DIALECT: Final = TypesDialect()
