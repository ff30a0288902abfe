"""Templates of several lines, filled in with parts that have lines of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

#: A text, or lines.
Part: TypeAlias = str | Sequence[str]

_PLACE = re.compile(r"\{(\w+)\}")

#: Between the lines of a part. A line break will not do: a name may have one, and is not to be indented.
_BREAK = "\0"


def fill(template: str, **parts: Part) -> list[str]:
    """Return the lines of a template with its `{places}` filled in.

    The further lines of a part are indented like the line that it stands in. A line with nothing but a part is left out
    where the part is empty.
    """
    filled = []
    for line in template.split("\n"):
        name = _PLACE.fullmatch(line.strip())
        if name is not None and not parts[name[1]]:
            continue
        text = _PLACE.sub(lambda place: _joined(parts[place[1]]), line)
        indent = " " * (len(line) - len(line.lstrip()))
        first, *others = text.split(_BREAK)
        filled += [first, *(indent + other for other in others)]
    return filled


def _joined(part: Part) -> str:
    return part if isinstance(part, str) else _BREAK.join(part)
