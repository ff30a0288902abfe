"""The code that stands in the documents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

#: As it stands in the documents' programs: the database they work on.
SHOP_URL = "postgresql+psycopg://localhost/shop"

_FENCE = re.compile(r"(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```\n", re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a document."""

    page: str
    line: int
    language: str
    code: str
    #: What an HTML comment right above it says.
    note: str | None

    @property
    def file_name(self) -> str | None:
        """The name by which others import it, from a comment in its first line."""
        match = re.match(r"# (\w+\.py)\n", self.code)
        return None if match is None else match[1]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets_of(page: Path) -> list[Snippet]:
    """Return the fenced blocks of a document that have a language."""
    text = page.read_text()
    return [
        Snippet(page.name, text.count("\n", 0, match.start("code")), match["language"], match["code"], match["note"])
        for match in _FENCE.finditer(text)
    ]


#: Those of the tutorial build a program of their own, step by step.
SNIPPETS = [snippet for page in DOCUMENTS if page.name != "tutorial.md" for snippet in snippets_of(page)]

#: README's program, beside which all others stand.
SHOP = next(snippet.code for snippet in SNIPPETS if snippet.file_name == "shop.py")
