"""The operation as lines of a migration: plain `op.execute(...)`, which need this library no more.

Characters that would not arrive unharmed are spelled in another way. `text()` reads `:name` as a parameter. A
percent sign is doubled for some drivers, and in `--sql` mode never halved again. A tab becomes spaces there.
"""

from __future__ import annotations

import re

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext

from .operations import WatchOp


@renderers.dispatch_for(WatchOp)
def render_watch(context: AutogenContext, operation: WatchOp) -> list[str]:
    """Return a comment that names the change, then one `op.execute` for each statement."""
    prefix = context.opts["alembic_module_prefix"] or ""
    comment = f"# watch: {operation.verb} {operation.table!r}, signal {operation.label!r}"
    calls = [f"{prefix}execute({_argument(sql)})" for sql in operation.statements()]
    # In one piece: between lines of their own, Mako would look for blocks that open and close.
    return ["\n".join([comment, *calls])] if calls else []


def _argument(sql: str) -> str:
    """Return the statement as Python literals, one a line, which no editor and no re-indenting changes."""
    lines = [repr(line) for line in re.findall(r"[^\n]*\n|[^\n]+", escape_colons(without_percent(sql)))]
    return lines[0] if len(lines) == 1 else "".join(["\n", *(f"    {line}\n" for line in lines)])


def escape_colons(sql: str) -> str:
    r"""Return the text that `text()` turns into this SQL, under SQLAlchemy 2.0 as under 2.1.

    A cast (`::name`) is left as it is. Colons that touch a backslash, or each other in other ways, depend on
    details of the expressions that `text()` is read with: then all of them are escaped.
    """
    if re.search(r"\\:|:::|(?<!:):\w+:", sql):
        return sql.replace(":", r"\:")
    return re.sub(r"(?<!:):(?=\w)", r"\:", sql)


#: A dollar-quoted literal, a quoted name, a literal. The text between them is ASCII of ours and of PostgreSQL.
_QUOTED = re.compile(
    r"""(?P<tag>\$\w*\$)(?P<body>.*?)(?P=tag) | "(?P<name>(?:[^"]|"")+)" | (?P<e>E?)'(?P<literal>(?:[^']|'')*)'""",
    re.DOTALL | re.VERBOSE,
)
_HARMED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f%]")


def without_percent(sql: str) -> str:
    """Return the same statement with neither a percent sign nor a control character in it."""
    return _QUOTED.sub(_respelled, sql) if _HARMED.search(sql) else sql


def _respelled(match: re.Match[str]) -> str:
    if not _HARMED.search(match[0]):
        return match[0]
    if match["name"] is not None:
        name: str = match["name"].replace("\\", "\\\\")
        return f'U&"{_HARMED.sub(_code_point, name)}"'
    if match["tag"]:
        text = match["body"].replace("\\", "\\\\").replace("'", "''")
    else:
        text = match["literal"] if match["e"] else match["literal"].replace("\\", "\\\\")
    return f"E'{_HARMED.sub(_hex, text)}'"


def _code_point(match: re.Match[str]) -> str:
    return f"\\{ord(match[0]):04x}"


def _hex(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"
