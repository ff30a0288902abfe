"""Differences between a declared watch and what is installed for it.

Definitions are compared by their structure: `prosrc` is byte-exact, the rest of `pg_proc` and `pg_trigger` is
numbers and names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..declaring.conditions import STATEMENT_ALIASES
from ..declaring.spec import TableWatch
from ..functions.body import function_body, settings
from ..functions.expressions import TRIGGER_EVENTS, transition_tables
from ..functions.mark import TEMPLATE_VERSION, options
from ..functions.quoting import quote
from .installed import InstalledFunction, InstalledTrigger
from .modes import mode_problem


def function_problems(watch: TableWatch, found: InstalledFunction) -> list[str]:
    """Describe how the function differs from the one that the watch would make."""
    problems = []
    wanted = function_body(watch)
    if found.body != wanted:
        mark = found.mark
        if mark is None:
            problems.append("the function's first line was edited")
        elif mark[0] != TEMPLATE_VERSION:
            problems.append(f"the function is of template version {mark[0]}, and this library has {TEMPLATE_VERSION}")
        else:
            problems += changed_options(watch, mark[1]) or [_changed_body(watch, found.body, wanted)]
    if found.name != watch.function_name:
        problems.append(f"the trigger calls {found.name!r}")
    if {s.casefold() for s in found.settings} != {f"{k}={v}".casefold() for k, v in settings(watch)}:
        problems.append("the function's settings differ")
    if found.language != "plpgsql" or found.security_definer:
        problems.append("the function's language or security differs")
    return problems


#: Of a body: names with and without quotes, and signs.
_TOKEN = re.compile(r'"(?:[^"]|"")*"|\w+|[^\w\s]')

_ROWS = frozenset({*STATEMENT_ALIASES, "NEW", "OLD"})


def _changed_body(watch: TableWatch, found: str, wanted: str) -> str:
    """Say that the body is another one, and which columns are read where it differs: they may be of another type."""
    names = {quote(column.name): column.name for column in (*watch.carried, *watch.trigger_columns)}
    pairs = zip(_reading_lines(found), _reading_lines(wanted), strict=False)
    there = {name for found_words, words in pairs for name in _read_there(found_words, words)}
    at = ", ".join(repr(name) for quoted, name in names.items() if quoted in there)
    return f"the function's body differs from the declaration{f', at {at}' if at else ''}"


def _reading_lines(body: str) -> list[list[str]]:
    """Return the words of the lines that read a row, of those for a single one: what follows has more lines or less."""
    lines = map(_TOKEN.findall, body.partition("\n  EXCEPTION\n")[0].split("\n"))
    return [words for words in lines if any(_columns(words, 0, len(words)))]


def _read_there(found: Sequence[str], wanted: Sequence[str]) -> Iterator[str]:
    """Yield the columns of rows that are read where two lines differ."""
    start = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted))
    behind = next((i for i, (a, b) in enumerate(zip(reversed(found), reversed(wanted), strict=False)) if a != b), 0)
    return _columns(wanted, start, len(wanted) - behind)


def _columns(words: Sequence[str], start: int, end: int) -> Iterator[str]:
    for i in range(max(start, 2), end):
        if words[i - 1] == "." and words[i - 2] in _ROWS:
            yield words[i]


def changed_options(watch: TableWatch, installed: Mapping[str, Any]) -> list[str]:
    """Describe the options that differ.

    :param installed: the fields of the function's mark.
    """
    declared = options(watch)
    changes = [
        *_changed_columns("extra_columns", declared.get("carries"), installed.get("carries")),
        *_changed_columns("trigger_columns", declared.get("fires_on"), installed.get("fires_on")),
    ]
    if declared.get("when") != installed.get("when"):
        was = "there was none" if not installed.get("when") else "it was another"
        changes.append(f"when: {was}" if declared.get("when") else "when: there is none any more")
    for name, default in (("old", False), ("level", "statement"), ("delivery", "notify"), ("fires", None)):
        now, was = declared.get(name, default), installed.get(name, default)
        if now != was:
            changes.append(f"{name}: {now!r}, and it was {was!r}")
    return changes


def _changed_columns(option: str, now: object, was: object) -> list[str]:
    now_names, was_names = _names(now), _names(was)
    added = [name for name in now_names if name not in was_names]
    removed = [name for name in was_names if name not in now_names]
    changes = [
        f"{', '.join(map(repr, names))} {verb}" for names, verb in ((added, "added"), (removed, "removed")) if names
    ]
    if not changes and now_names != was_names:
        changes = ["another order"]
    return [f"{option}: {', '.join(changes)}"] if changes else []


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def trigger_problems(watch: TableWatch, found: InstalledFunction) -> list[str]:
    """Describe how the trigger differs from the one that the watch would make."""
    trigger = found.trigger
    if trigger is None:
        return ["there is no trigger"]
    problems = []
    if (problem := mode_problem(watch, found)) is not None:
        problems.append(problem)
    problems += _trigger_options(watch, trigger)
    if found.name != watch.function_name:
        problems.append("the trigger calls another function")
    return problems


def _trigger_options(watch: TableWatch, trigger: InstalledTrigger) -> list[str]:
    problems = []
    fires, wanted = (trigger.timing, trigger.events), ("AFTER", (TRIGGER_EVENTS[watch.operation],))
    if fires != wanted:
        problems.append(f"the trigger fires {_fires(*fires)}, not {_fires(*wanted)}")
    if trigger.fires_per_row != watch.fires_per_row:
        levels = ("each row", "each statement")
        is_row = watch.fires_per_row
        missed = "a subscription writes" if watch.fires == "always" else "is written straight to a partition"
        why = f", which misses what {missed}" if is_row and not watch.level_is_given else ""
        problems.append(f"the trigger fires for {levels[is_row]}, not for {levels[not is_row]}{why}")
    elif trigger.transition_tables != transition_tables(watch):
        problems.append("the trigger's transition tables differ")
    if not trigger.plain:
        problems.append("the trigger has a condition, columns or arguments, or is a constraint trigger")
    return problems


def _fires(timing: str, events: Collection[str]) -> str:
    return f"{timing} {' OR '.join(events)}"
