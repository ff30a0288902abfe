"""What several texts have in common, and what is each one's own, so that the common text stands in a migration once.

Nothing is known here of how the texts are made, so that those of an earlier library, which the database holds, share
theirs as well. They are compared line by line, from both ends of a line on. What differs becomes a part with a name:
an expression between two keywords, or a word of it; and where the same differs in several places, that is one part.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from functools import lru_cache
from itertools import chain, count
from typing import NamedTuple

#: What stands in one place of each text.
Values = tuple[str, ...]

#: What all texts have in a place, or what each of them has.
Piece = str | Values

#: Characters of a text that is compared, and parts that it may have: more of them nobody would read, or wait for.
MAX_LENGTH = 65_536
MAX_PARTS = 30

_ATOM = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\w+|\s+|.""", re.DOTALL)
_CLOSING = {"(": ")", "[": "]", "{": "}", "CASE": "END"}
_PAIRS = (*_CLOSING.items(), ("'", "'"), ('"', '"'))

#: Between these stand expressions.
_KEYWORDS = frozenset([
    "SELECT", "INTO", "STRICT", "FROM", "JOIN", "LEFT", "ON", "WHERE", "GROUP", "ORDER", "BY", "LIMIT", "OFFSET", "AS",
    "WHEN", "THEN", "ELSE", "IF", "IN", "RETURN", "PERFORM", ":=", ",", ";",
])  # fmt: skip

#: A word, in quotes or not, or none.
_SIMPLE = re.compile(r"""\w*|"[^"]*"|'[^']*'""")

#: Names of parts, by the text in front; None is what is found there. The first that fits, in any of a part's places.
_NAMES = tuple(
    (re.compile(pattern, re.IGNORECASE if name is None else 0), name)
    for pattern, name in (
        (r"\bFUNCTION (?:\S+\.)?\W*$", "name"),
        (r'"([a-z]\w*)": ?\W*$', None),
        (r"\b(?:SELECT|THEN) $", "row"),
        (r"\b(?:WHERE|WHEN|ELSE|AND|OR) \W*$", "condition"),
        (r"\bON $", "pairs"),
        (r"\bFROM $", "rows"),
        (r"(?:pg_notify|emit_message)\(.*$", "channel"),
        (r"\bthe rows of $", "watch"),
        (r"\b[a-z]\.$", "column"),
        (r"^--", "options"),
        (r'"$', "more"),
        (r"(?:watch_)?([a-z]\w*) OPERATOR\(\S+\) $", None),
        (r"(?:watch_)?([a-z]\w*)\W*$", None),
    )
)


class Filled(NamedTuple):
    """A text, which is `template.format(**parts)`."""

    template: str
    parts: dict[str, str]


def factor(texts: Sequence[str]) -> list[Filled | None]:
    """Return each text as one that is filled in; None for one that is like no other."""
    alike: dict[object, list[int]] = {}
    for place, text in enumerate(texts):
        if len(text) <= MAX_LENGTH:
            alike.setdefault(_outline(text), []).append(place)
    result: list[Filled | None] = [None] * len(texts)
    for places in alike.values():
        for place, filled in zip(places, _shared([texts[place] for place in places]), strict=True):
            if filled is not None and filled.template.format(**filled.parts) == texts[place]:
                result[place] = filled
    for cached in (_beginning, _clauses, _words, _atoms, _opened):
        cached.cache_clear()
    return result


def _outline(text: str) -> tuple[object, ...]:
    """Return what texts must have in common to be compared: the number of lines, and how each begins."""
    return tuple(map(_beginning, text.split("\n")))


@lru_cache(None)
def _beginning(line: str) -> str:
    match = re.match(r"\s*(?:(?:[A-Z]{2,}\s+)+|\W*\w*)", line)
    return match[0] if match else ""


def _shared(texts: Sequence[str]) -> Sequence[Filled | None]:
    if len(texts) == 1:
        return [None]
    try:
        lines = _Comparison(texts).lines()
    except RecursionError:  # brackets in brackets, hundreds of them
        lines = None
    if lines is None:
        return [None] * len(texts)
    names = _names(lines)
    template = "\n".join(
        "".join(f"{{{names[piece]}}}" if isinstance(piece, tuple) else _doubled(piece) for piece in line)
        for line in lines
    )
    return [Filled(template, {name: part[n] for part, name in names.items()}) for n in range(len(texts))]


def _doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _names(lines: Iterable[Sequence[Piece]]) -> dict[Values, str]:
    """Return the parts, each with a name of its own that tells what it is."""
    found: dict[Values, tuple[int, str]] = {}
    for line in lines:
        before = ""
        for piece in line:
            if isinstance(piece, tuple):
                ranked = _name(before)
                found[piece] = min(found.get(piece, ranked), ranked, key=lambda ranked: ranked[0])
            before += "_" if isinstance(piece, tuple) else piece
    names: dict[Values, str] = {}
    for part, (_, name) in found.items():
        taken = set(names.values())
        names[part] = next(n for i in count(1) if (n := f"{name}_{i}" if i > 1 else name) not in taken)
    return names


def _name(before: str) -> tuple[int, str]:
    """Return a name for what follows, and its rank: the lower, the better it tells."""
    for rank, (pattern, fixed) in enumerate(_NAMES):
        if match := pattern.search(before):
            name = fixed or match[1].lower()
            if name.isascii() and name.isidentifier() and not keyword.iskeyword(name):
                return rank, name
    return len(_NAMES), "part"


class _Where(Enum):
    """The surroundings, which say what may become a part."""

    #: Keywords and expressions: these.
    CODE = auto()
    #: An expression: a word in it, or else the whole.
    EXPRESSION = auto()
    #: In an expression: a word.
    WITHIN = auto()
    #: A literal: anything in it.
    LITERAL = auto()


_INSIDE = {
    "CASE": _Where.CODE, "(": _Where.WITHIN, "[": _Where.EXPRESSION,
    "{": _Where.LITERAL, "'": _Where.LITERAL, '"': _Where.LITERAL,
}  # fmt: skip


class _Comparison:
    """Texts of the same number of lines."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._lines: list[Values] = list(zip(*(text.split("\n") for text in texts), strict=True))
        self._parts: set[Values] = set()
        #: What was found: for good, where it has no parts but those; else until there is another one.
        self._settled: dict[Values, list[Piece]] = {}
        self._found: dict[tuple[Values, _Where], list[Piece] | None] = {}

    def lines(self) -> list[list[Piece]] | None:
        """Return the pieces of each line; None where there are too many parts.

        The shortest part is settled first, and looked for in all other places: longer ones may contain it.
        """
        unsettled = list(dict.fromkeys(self._lines))
        while unsettled:
            self._found = {}
            new = {line: self._new(self._line(line)) for line in unsettled}
            unsettled = [line for line, parts in new.items() if parts]
            if unsettled:
                if len(self._parts) == MAX_PARTS:
                    return None
                self._parts.add(min(chain(*new.values()), key=lambda part: sum(map(len, part))))
        return [self._line(line) for line in self._lines]

    def _line(self, values: Values) -> list[Piece]:
        return self._pieces(values, _Where.CODE) or []

    def _new(self, pieces: Iterable[Piece]) -> list[Values]:
        return [piece for piece in pieces if isinstance(piece, tuple) and piece not in self._parts]

    def _pieces(self, values: Values, where: _Where) -> list[Piece] | None:
        """Return what the values are made of; None where something would be a new part that may not be one."""
        if values.count(values[0]) == len(values):
            return [values[0]] if values[0] else []
        if values in self._parts:
            return [values]
        if (settled := self._settled.get(values)) is not None:
            return settled
        if (values, where) not in self._found:
            found = self._compared(values, where)
            self._found[values, where] = found
            if found is not None and not self._new(found):
                self._settled[values] = found
        return self._found[values, where]

    def _compared(self, values: Values, where: _Where) -> list[Piece] | None:
        if where is _Where.CODE:
            return self._sequence([_clauses(value) for value in values], _Where.EXPRESSION)
        if where is _Where.EXPRESSION:
            return self._pieces(values, _Where.WITHIN) or [values]
        for split in (_words, _atoms):
            items = [split(value) for value in values]
            if any(len(of_one) > 1 for of_one in items):
                return self._sequence(items, where)
        return self._bracket(values, where)

    def _bracket(self, values: Values, where: _Where) -> list[Piece] | None:
        opened = [_opened(value) for value in values]
        first = opened[0]
        if first is None or any(o is None or (o[0], o[2]) != (first[0], first[2]) for o in opened):
            return self._part(values, where)
        pieces = self._pieces(tuple(o[1] for o in opened if o is not None), _INSIDE[first[0]])
        return None if pieces is None else [first[0], *pieces, first[2]]

    def _part(self, values: Values, where: _Where) -> list[Piece] | None:
        return [values] if where is not _Where.WITHIN or all(map(_SIMPLE.fullmatch, values)) else None

    def _sequence(self, items: Sequence[Values], where: _Where) -> list[Piece] | None:
        """Compare from both ends on, as far as nothing new is found, and then what is left in the middle."""
        front = self._run(zip(*items, strict=False), where)
        back = self._run(zip(*(of_one[len(front) :][::-1] for of_one in items), strict=False), where)
        left = [of_one[len(front) : len(of_one) - len(back)] for of_one in items]
        middle = self._middle(left, where)
        if middle is None:
            middle = self._part(tuple(map("".join, left)), where)
        return None if middle is None else [*chain(*front), *middle, *chain(*back[::-1])]

    def _run(self, places: Iterable[Values], where: _Where) -> list[list[Piece]]:
        run = []
        for values in places:
            pieces = self._pieces(values, where)
            if pieces is None or self._new(pieces):
                break
            run.append(pieces)
        return run

    def _middle(self, items: Sequence[Values], where: _Where) -> list[Piece] | None:
        """Return the pieces of items that are as many in each text; None where they are one part together."""
        if len(set(map(len, items))) > 1:
            return None
        pieces: list[Piece] = []
        differences: set[Values] = set()
        for values in zip(*items, strict=True):
            found = self._pieces(values, where)
            if found is None or (len(set(values)) > 1 and not _KEYWORDS.isdisjoint(values)):
                return None
            pieces += found
            differences.update(self._new(found)[:1])
        return pieces if where is not _Where.WITHIN or len(differences) < 2 else None


@lru_cache(None)
def _clauses(text: str) -> Values:
    """Return the expressions, and what stands between them: keywords, and the spaces around them."""
    clauses: list[str] = []
    is_between = True
    words = _words(text)
    for word, after in zip(words, (*words, "")[1:], strict=True):
        was_between = is_between
        is_between = word in _KEYWORDS or (word.isspace() and (was_between or after in _KEYWORDS or not after))
        if is_between or was_between:
            clauses.append(word)
        else:
            clauses[-1] += word
    return tuple(clauses)


@lru_cache(None)
def _words(text: str) -> Values:
    """Return what stands between spaces and keywords outside of brackets, and these."""
    words: list[str] = []
    is_apart = True
    for atom in _atoms(text):
        was_apart = is_apart
        is_apart = atom.isspace() or atom in _KEYWORDS
        if is_apart or was_apart:
            words.append(atom)
        else:
            words[-1] += atom
    return tuple(words)


@lru_cache(None)
def _atoms(text: str) -> Values:
    """Return names, numbers, literals and signs; a bracket with all in it is one."""
    atoms: list[str] = []
    opened: list[tuple[int, str]] = []
    awaited: Counter[str] = Counter()
    for atom in _ATOM.findall(text):
        atoms.append(atom)
        if atom in _CLOSING:
            opened.append((len(atoms) - 1, _CLOSING[atom]))
            awaited[_CLOSING[atom]] += 1
        while awaited[atom]:
            start, closing = opened.pop()
            awaited[closing] -= 1
            if closing == atom:
                atoms[start:] = ["".join(atoms[start:])]
                break
    return tuple(atoms)


@lru_cache(None)
def _opened(atom: str) -> tuple[str, str, str] | None:
    """Return a bracket or literal as its beginning, what is inside, and its end."""
    for opening, closing in _PAIRS:
        inside = atom[len(opening) : -len(closing)]
        if atom == f"{opening}{inside}{closing}" and (opening != "CASE" or inside[:1].isspace()):
            return opening, inside, closing
    return None
