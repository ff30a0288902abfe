"""The first line of a function's body, which marks it as ours and names the application."""

from __future__ import annotations

import json
from typing import Any, Final

from ..declaring.spec import TableWatch

#: Of the functions' text; the golden test freezes what each version looks like.
TEMPLATE_VERSION: Final = 1

#: The beginning of that line.
MARK: Final = "-- sqlalchemy_watch "


def mark_line(watch: TableWatch) -> str:
    """Return the comment that marks a function as ours: template version, application, table and label."""
    fields = {"application": watch.application, "schema": watch.schema, "table": watch.table, "label": watch.label}
    return f"{MARK}{TEMPLATE_VERSION} {json.dumps(fields)}"


def read_mark(body: str) -> tuple[int, dict[str, Any]] | None:
    """Return the template version and the fields of a mark; None where there is none, or it doesn't parse."""
    line = body.lstrip("\n").split("\n", 1)[0]
    if not line.startswith(MARK):
        return None
    version, _, text = line[len(MARK) :].partition(" ")
    try:
        number, fields = int(version), json.loads(text)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.setdefault("schema", None), str | None):
        return None
    complete = all(isinstance(fields.get(name), str) for name in ("application", "table", "label"))
    return (number, fields) if complete else None
