"""The PostgreSQL dialect that text is written in where there is no connection."""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.sql.compiler import IdentifierPreparer

#: A literal that says how its backslashes are meant, or one that does not. The first kind is left as it is.
_LITERAL = re.compile(r"\b[eE]'(?:[^'\\]|\\.|'')*'|'(?P<plain>(?:[^']|'')*)'", re.DOTALL)


def escape_backslashes(sql: str) -> str:
    """Spell the literals in SQL so that they mean the same under either setting of standard_conforming_strings."""
    return _LITERAL.sub(_escaped, sql) if "\\" in sql else sql


def _escaped(literal: re.Match[str]) -> str:
    plain: str | None = literal["plain"]
    if plain is None or "\\" not in plain:
        return literal[0]
    doubled = plain.replace("\\", "\\\\")
    return f"E'{doubled}'"


class _Compiler(PGCompiler):
    """Writes literals that are the same under either setting of standard_conforming_strings."""

    def render_literal_value(self, value: Any, type_: Any) -> str:
        # Not PGCompiler's, which doubles backslashes or not, by the version of SQLAlchemy.
        rendered: str = super(PGCompiler, self).render_literal_value(value, type_)
        return escape_backslashes(rendered)


def _make_dialect() -> Dialect:
    # Named parameters leave percent signs alone.
    dialect: Dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    dialect.statement_compiler = _Compiler
    return dialect


POSTGRESQL: Final[Dialect] = _make_dialect()

#: Quotes identifiers where PostgreSQL needs it.
PREPARER: Final[IdentifierPreparer] = POSTGRESQL.identifier_preparer
