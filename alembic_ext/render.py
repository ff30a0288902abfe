"""The operations as lines of a migration: plain `op.execute(...)`, which need this library no more.

The text that functions share stands once, as a literal in front of them, and each fills in what is its own by
`str.format`. A function that shares nothing is a literal.

Characters that would not arrive unharmed are spelled in another way. `text()` reads `:name` as a parameter. A
percent sign is doubled for some drivers, and in `--sql` mode never halved again. A tab becomes spaces there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op

from .factoring import Filled, factor
from .operations import WatchOp, WatchOps

#: On the autogenerate context: how many shared texts stand in the migration, so that each has a name of its own.
_SHARED = "_sqlalchemy_watch_shared"

#: Characters of the parts that stand in one line.
_WIDTH = 110

_FUNCTION = ("CREATE FUNCTION ", "CREATE OR REPLACE FUNCTION ")


@renderers.dispatch_for(WatchOps)
def render_watches(context: AutogenContext, container: WatchOps) -> list[str]:
    """Return the lines of the operations that the hooks have left, behind those of the text that they share."""
    watches = [operation for operation in container.ops if isinstance(operation, WatchOp)]
    filled = _factored(sql for watch in watches for sql in watch.statements() if sql.startswith(_FUNCTION))
    names: dict[str, str] = {}
    lines = []
    for template, number in Counter(each.template for each in filled.values()).items():
        vars(context)[_SHARED] = vars(context).get(_SHARED, 0) + 1
        names[template] = f"function_{vars(context)[_SHARED]}"
        comment = f"# watch: what {number} of the functions below have in common; in braces is what each fills in"
        lines.append(f"{comment}\n{names[template]} = ({_literals(template)})")
    arguments = {sql: _filled(names[each.template], each.parts) for sql, each in filled.items()}
    for operation in container.ops:
        if isinstance(operation, WatchOp):
            lines += _rendered(context, operation, arguments)
        else:  # a hook's
            lines += render_op(context, operation)
    return lines


@renderers.dispatch_for(WatchOp)
def render_watch(context: AutogenContext, operation: WatchOp) -> list[str]:
    """Return the lines of an operation on its own, with nothing shared: a hook has taken it out of its container."""
    return _rendered(context, operation, {})


def _rendered(context: AutogenContext, operation: WatchOp, arguments: Mapping[str, str]) -> list[str]:
    """Return a comment that names the change, then one `op.execute` for each statement."""
    prefix = context.opts["alembic_module_prefix"] or ""
    comment = f"# watch: {operation.verb} {operation.table!r}, signal {operation.label!r}"
    calls = [f"{prefix}execute({arguments.get(sql) or _literals(spelled(sql))})" for sql in operation.statements()]
    # In one piece: between lines of their own, Mako would look for blocks that open and close.
    return ["\n".join([comment, *calls])] if calls else []


def _factored(statements: Iterable[str]) -> dict[str, Filled]:
    """Return those of the statements that share text with others, as they are spelled in a migration.

    Only those that are spelled in the same way are compared.
    """
    alike: dict[tuple[bool, bool], dict[str, str]] = {}
    for sql in statements:
        kind = _HARMED.search(sql) is not None, _ODD_COLONS.search(sql) is not None
        alike.setdefault(kind, {})[sql] = spelled(sql)
    return {
        sql: filled
        for texts in alike.values()
        for sql, filled in zip(texts, factor(list(texts.values())), strict=True)
        if filled is not None
    }


def _filled(name: str, parts: Mapping[str, str]) -> str:
    """Return the expression that fills in the parts, the short ones first, as many in a line as fit."""
    lines = [f"{name}.format("]
    for key in sorted(parts, key=lambda key: len(parts[key]) > _WIDTH // 2):
        part = f"{key}={parts[key]!r},"
        for number, line in enumerate(lines):
            if len(line) + len(part) < _WIDTH:
                lines[number] += f" {part}" if line.endswith(",") else part
                break
        else:
            lines.append(f"    {part}")
    return "\n".join(lines)[:-1] + ")"


def _literals(text: str) -> str:
    """Return the text as Python literals, one a line, which no editor and no re-indenting changes."""
    lines = [repr(line) for line in re.findall(r"[^\n]*\n|[^\n]+", text)]
    return lines[0] if len(lines) == 1 else "".join(["\n", *(f"    {line}\n" for line in lines)])


def spelled(sql: str) -> str:
    """Return the statement as `op.execute()` has to get it."""
    return escape_colons(without_percent(sql))


#: Colons that touch a backslash, or each other in other ways than in a cast.
_ODD_COLONS = re.compile(r"\\:|:::|(?<!:):\w+:")


def escape_colons(sql: str) -> str:
    r"""Return the text that `text()` turns into this SQL, under SQLAlchemy 2.0 as under 2.1.

    A cast (`::name`) is left as it is. Colons that touch a backslash, or each other in other ways, depend on
    details of the expressions that `text()` is read with: then all of them are escaped.
    """
    if _ODD_COLONS.search(sql):
        return sql.replace(":", r"\:")
    return re.sub(r"(?<!:):(?=\w)", r"\:", sql)


#: A dollar-quoted literal (a dollar within a name begins none), a quoted name, a literal. The text between them is
#: ASCII of ours and of PostgreSQL, and names.
_QUOTED = re.compile(
    r"""(?<![\w$])(?P<tag>\$\w*\$)(?P<body>.*?)(?P=tag) | "(?P<name>(?:[^"]|"")+)"
    | (?P<e>E?)'(?P<literal>(?:[^']|'')*)'""",
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
