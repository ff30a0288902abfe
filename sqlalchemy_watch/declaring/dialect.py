"""The PostgreSQL dialect that text is written in where there is no connection."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.sql.compiler import IdentifierPreparer


class _Compiler(PGCompiler):
    """Writes literals that are the same under either setting of standard_conforming_strings."""

    def render_literal_value(self, value: Any, type_: Any) -> str:
        # Not PGCompiler's, which doubles backslashes or not, by the version of SQLAlchemy.
        rendered: str = super(PGCompiler, self).render_literal_value(value, type_)
        if not rendered.startswith("'") or "\\" not in rendered:
            return rendered
        return "E" + rendered.replace("\\", "\\\\")


def _make_dialect() -> Dialect:
    # Named parameters leave percent signs alone.
    dialect: Dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    dialect.statement_compiler = _Compiler
    return dialect


POSTGRESQL: Final[Dialect] = _make_dialect()

#: Quotes identifiers where PostgreSQL needs it.
PREPARER: Final[IdentifierPreparer] = POSTGRESQL.identifier_preparer
