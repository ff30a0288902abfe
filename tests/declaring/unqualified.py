"""What PostgreSQL looks for along the search_path in a text of SQL: operators, and words that stand for one.

Strings, names in quotes and comments are passed over.
"""

from __future__ import annotations

import re

_PASSED_OVER = re.compile(
    r"""\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$""", re.DOTALL
)
_QUALIFIED = re.compile(r"OPERATOR\(pg_catalog\.[-+*/<>=~!@#%^&|`?]+\)")

#: Not operators: the sign of a number, all columns, an argument by its name.
_SIGN = re.compile(
    r"((?:^|[(\[,;]|\b(?:AND|OR|NOT|WHEN|THEN|ELSE|SELECT|WHERE|LIMIT|OFFSET))\s*)-(?=[\d.])", re.IGNORECASE
)
_OTHERS = re.compile(r"(?<=[(.])\*(?=\))|(?<=SELECT )\*|=>", re.IGNORECASE)

_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|`?]+")
_WORDS = re.compile(
    r"\bIN\b|\b(?:BETWEEN|I?LIKE|SIMILAR|NULLIF|OVERLAPS|USING|NATURAL)\b|\bDISTINCT\s+FROM\b|\bCASE\b(?!\s+WHEN\b)",
    re.IGNORECASE,
)


def unqualified_operators(sql: str) -> list[str]:
    """Return the operators without a schema, and the words that stand for one."""
    rest = _QUALIFIED.sub(";", _PASSED_OVER.sub(" string ", sql))
    rest = _OTHERS.sub(" ", _SIGN.sub(r"\1", rest))
    return [*_OPERATOR.findall(rest), *_WORDS.findall(rest)]
