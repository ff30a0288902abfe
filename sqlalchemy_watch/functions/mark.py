"""The first line of a function's body, which marks it as ours, and names the application and the options."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from ..declaring.spec import TableWatch

#: Of the functions' text; the golden test freezes what each version looks like.
TEMPLATE_VERSION: Final = 1

#: The beginning of that line.
MARK: Final = "-- sqlalchemy_watch "

#: Characters; a longer line is no mark. Anybody may have written it.
MAX_MARK_LENGTH: Final = 4_096

_encode = json.JSONEncoder(separators=(",", ":")).encode

#: No name of PostgreSQL's has one of these, and no query can carry them.
_IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")


def mark_line(watch: TableWatch) -> str:
    """Return the comment that marks a function as ours: template version, application, table, label and options."""
    fields = {"application": watch.application, "schema": watch.schema, "table": watch.table, "label": watch.label}
    return f"{MARK}{TEMPLATE_VERSION} {_encode(fields | options(watch))}"


def options(watch: TableWatch) -> dict[str, Any]:
    """Return what the text is made from, as far as it is told by name; nothing for an option that is not set."""
    when = None if watch.condition is None else watch.condition.row_sql
    named = {
        "carries": [column.name for column in watch.carried],
        "fires_on": [column.name for column in watch.trigger_columns],
        "when": when and hashlib.sha256(when.encode()).hexdigest()[:8],
        "old": watch.old,
        "level": "row" if watch.fires_per_row else None,
        "delivery": None if watch.delivery == "notify" else watch.delivery,
        # Of the trigger, not of the text: here it tells what was declared from what somebody chose by hand.
        "fires": watch.fires,
    }
    return {name: value for name, value in named.items() if value}


def read_mark(body: str) -> tuple[int, dict[str, Any]] | None:
    """Return the template version and the fields of a mark; None where there is none, or it doesn't parse."""
    line = body.lstrip("\n").split("\n", 1)[0]
    found = re.fullmatch(rf"{re.escape(MARK)}([0-9]{{1,9}}) (.*)", line)
    if found is None or len(line) > MAX_MARK_LENGTH:
        return None
    try:
        fields = json.loads(found[2])
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.setdefault("schema", None), str | None):
        return None
    values = [fields.get(name) for name in ("application", "table", "label")]
    if not all(isinstance(value, str) for value in values):
        return None
    possible = _IMPOSSIBLE.search("".join(map(str, [*values, fields["schema"]]))) is None
    return (int(found[1]), fields) if possible else None
