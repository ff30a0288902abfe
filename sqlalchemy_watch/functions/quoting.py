"""Names and strings as SQL text."""

from __future__ import annotations

from ..declaring.dialect import PREPARER, escape_backslashes


def quote(identifier: str) -> str:
    """Return an identifier, quoted where PostgreSQL needs it; percent signs are left alone."""
    return PREPARER.quote(identifier)


def qualified(schema: str | None, name: str) -> str:
    """Return a name with its schema, if one is declared."""
    return quote(name) if schema is None else f"{PREPARER.quote_schema(schema)}.{quote(name)}"


def literal(text: str) -> str:
    """Return a string literal, the same under either setting of standard_conforming_strings."""
    quoted = text.replace("'", "''")
    return escape_backslashes(f"'{quoted}'")
