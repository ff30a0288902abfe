"""Names and strings as SQL text."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql

_preparer = postgresql.dialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]


def quote(identifier: str) -> str:
    """An identifier, quoted as PostgreSQL needs it (and percent signs left alone)."""
    return _preparer.quote(identifier)


def qualified(schema: str | None, name: str) -> str:
    """A name with its schema, if one is declared."""
    return quote(name) if schema is None else f"{_preparer.quote_schema(schema)}.{quote(name)}"


def literal(text: str) -> str:
    """A string literal, the same under either setting of standard_conforming_strings."""
    quoted = text.replace("'", "''")
    return f"E'{quoted}'".replace("\\", "\\\\") if "\\" in text else f"'{quoted}'"
