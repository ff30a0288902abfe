"""The PostgreSQL dialect that text is written in where there is no connection."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect, PGIdentifierPreparer
from sqlalchemy.sql.compiler import IdentifierPreparer

#: A literal that says how its backslashes are meant, or one that does not. The first kind is left as it is.
_LITERAL = re.compile(r"\b[eE]'(?:[^'\\]|\\.|'')*'|'(?P<plain>(?:[^']|'')*)'", re.DOTALL)

#: PL/pgSQL's reserved words: `NEW.begin` is none of its expressions, and `loop` ends one. Some are SQL's as well.
PLPGSQL_WORDS: Final = frozenset({
    "all", "begin", "by", "case", "declare", "else", "end", "execute", "for", "foreach", "from", "if", "in", "into",
    "loop", "not", "null", "or", "strict", "then", "to", "using", "when", "while",
})  # fmt: skip


def escape_backslashes(sql: str) -> str:
    """Spell the literals in SQL so that they mean the same under either setting of standard_conforming_strings."""
    return _LITERAL.sub(_escaped, sql) if "\\" in sql else sql


def _escaped(literal: re.Match[str]) -> str:
    plain: str | None = literal["plain"]
    if plain is None or "\\" not in plain:
        return literal[0]
    doubled = plain.replace("\\", "\\\\")
    return f"E'{doubled}'"


class _Preparer(PGIdentifierPreparer):
    """Quotes what SQL or PL/pgSQL would take for a word of its own."""

    reserved_words: set[str] = PGIdentifierPreparer.reserved_words | PLPGSQL_WORDS
    #: Dollar signs would look like a literal's quotes.
    legal_characters: re.Pattern[str] = re.compile(r"[a-z0-9_]+\Z", re.IGNORECASE)

    def quote(self, ident: str) -> str:
        # Column(quote=False) is for the statements of SQL.
        if getattr(ident, "quote", None) is False and ident.lower() in PLPGSQL_WORDS:
            return self.quote_identifier(ident.lower())
        return super().quote(ident)


class Compiler(PGCompiler):
    """Writes literals that are the same under either setting of standard_conforming_strings."""

    def render_literal_value(self, value: Any, type_: Any) -> str:
        # Not PGCompiler's, which doubles backslashes or not, by the version of SQLAlchemy.
        rendered: str = super(PGCompiler, self).render_literal_value(value, type_)
        return escape_backslashes(rendered)


if TYPE_CHECKING:  # where SQLAlchemy's own is of no type
    _SQLAlchemys = PGDialect
else:
    _SQLAlchemys = postgresql.dialect


class PostgreSQL(_SQLAlchemys):
    """SQLAlchemy's, with names and literals that mean the same wherever the text is run."""

    preparer: type[PGIdentifierPreparer] = _Preparer
    statement_compiler: type[PGCompiler] = Compiler
    supports_statement_cache: bool = True

    def __init__(self) -> None:
        super().__init__(paramstyle="named")  # type: ignore[no-untyped-call] # which leaves percent signs alone


POSTGRESQL: Final[Dialect] = PostgreSQL()

#: Quotes identifiers where PostgreSQL needs it.
PREPARER: Final[IdentifierPreparer] = POSTGRESQL.identifier_preparer
