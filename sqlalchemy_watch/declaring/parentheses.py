"""Whether SQL text needs parentheses to stand as the operand of any operator. It may be the user's own."""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<nothing>\s+|--[^\n]*|/\*.*?\*/)
    |(?P<string>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(?P<tag>[^\W\d]\w*|)\$.*?\$(?P=tag)\$)
    |(?P<name>"(?:[^"]|"")*"|[^\W\d][\w$]*)
    |(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<other>.)
    """,
    re.DOTALL | re.VERBOSE,
)

#: Tokens as letters, those in brackets as one: a string, a number, a name or a call with subscripts behind it, a group.
_OPERAND: Final = re.compile(r"s|-?1|n(\.n)*[(\[]*|\((\[|\.n)*")

_QUERY: Final = re.compile(r"(?:SELECT|VALUES|WITH|TABLE)\b", re.IGNORECASE)


def _shape(sql: str) -> str:
    shape, depth = "", 0
    for token in _TOKEN.finditer(sql):
        kind, text = token.lastgroup, token[0]
        depth -= text in ")]"
        if depth == 0 and kind != "nothing" and text not in ")]":
            shape += {"string": "s", "name": "n", "number": "1"}.get(kind or "", text)
        depth += text in "(["
    return shape


def enclosed(sql: str) -> str:
    """Return an expression that can be an operand: in parentheses, unless it is a single thing already.

    `ANY (...)` is one, and must not be in parentheses.
    """
    return sql if _OPERAND.fullmatch(_shape(sql)) else f"({sql})"


def disclosed(sql: str) -> str:
    """Return an expression without parentheses around all of it."""
    return sql[1:-1] if sql.startswith("(") and _shape(sql) == "(" and not is_query(sql) else sql


def is_untyped(sql: str) -> bool:
    """Return True for what takes its type from what it stands beside: a string, or NULL."""
    return _shape(sql) == "s" or sql == "NULL"


def is_query(sql: str) -> bool:
    """Return True if this is a query, in any number of parentheses, and not a list that begins with one."""
    sql = sql.lstrip()
    if sql.startswith("("):
        return "," not in _shape(sql) and is_query(sql[1:])
    return _QUERY.match(sql) is not None
