"""Templates of several lines, filled in with parts that have lines of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

#: A text, or lines.
Part: TypeAlias = str | Sequence[str]

#: Of a line: its indentation, what is in front of the first place, each place with what is behind it, and the only
#: place where there is nothing else.
_Line: TypeAlias = tuple[str, str, list[tuple[str, str]], str | None]

_PLACE = re.compile(r"\{(\w+)\}")


def fill(template: str, **parts: Part) -> list[str]:
    """Return the lines of a template with its `{places}` filled in.

    The further lines of a part are indented like the line that it stands in. A line with nothing but a part is left out
    where the part is empty.
    """
    filled: list[str] = []
    for indent, text, places, sole in _parsed(template):
        if sole and not parts[sole]:
            continue
        for name, behind in places:
            part = parts[name]
            if isinstance(part, str):
                text += part + behind
            else:
                first, *others = part or [""]
                text += first
                for other in others:
                    filled.append(text)
                    text = indent + other
                text += behind
        filled.append(text)
    return filled


@cache
def _parsed(template: str) -> list[_Line]:
    lines: list[_Line] = []
    for line in template.split("\n"):
        beginning, *rest = _PLACE.split(line)
        sole = _PLACE.fullmatch(line.strip())
        indent = " " * (len(line) - len(line.lstrip()))
        places = list(zip(rest[::2], rest[1::2], strict=True))
        lines.append((indent, beginning, places, sole[1] if sole else None))
    return lines
