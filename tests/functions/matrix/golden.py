"""The golden files: what was heard of each step, once for all variants and routes that heard the same.

A file has JSON lines. A step begins with its name, and with those who heard of it what follows: the events, a line
each. Of many events there are their number, a digest of each hundred, the first and the last.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path

from .hearing import Step

FOLDER = Path(__file__).parent / "golden"

#: Events of a step that are written out.
WRITTEN_OUT = 10

#: Events that have a digest in common.
CHUNK = 100

#: What a failure shows of a step.
SHOWN = 40

#: Who heard, as "both row notified": delivery, level and route.
Heard = dict[str, list[Step]]

#: The fewest words that name some who hear the same.
NAMES = ("all", "statement", "row", "notified", "logged", "statement notified", "statement logged", "row notified",
         "row logged")  # fmt: skip


def path_of(part: str, folder: Path = FOLDER) -> Path:
    return folder / f"{part}.jsonl"


def write(part: str, heard: Heard, folder: Path = FOLDER) -> None:
    """Write the file of a part."""
    lines = []
    by_name = {who: {step.name: step.lines for step in steps} for who, steps in heard.items()}
    assert all(len(by_name[who]) == len(steps) for who, steps in heard.items()), f"{part} has two steps of one name"
    for name in dict.fromkeys(name for steps in by_name.values() for name in steps):
        alike: dict[tuple[str, ...], list[str]] = {}
        for who, steps in by_name.items():
            if name in steps:
                alike.setdefault(tuple(condensed(steps[name])), []).append(who)
        for outcome, those in alike.items():
            lines += [json.dumps({"step": name, "heard by": _named(those, list(heard))}), *outcome]
    path_of(part, folder).write_text("\n".join(lines) + "\n")


def read(part: str, who: str, folder: Path = FOLDER) -> dict[str, list[str]]:
    """Return the lines of each step, as one of those that heard it was to hear them."""
    steps: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in path_of(part, folder).read_text().splitlines():
        fields = json.loads(line)
        if "step" in fields:
            lines = []
            if any(_is_named(who, name) for name in fields["heard by"]):
                steps[fields["step"]] = lines
        else:
            lines.append(line)
    return steps


def _named(those: list[str], everybody: list[str]) -> list[str]:
    """Return names that stand for those, and for nobody else of the others."""
    names: list[str] = []
    left = those
    for name in (*NAMES, *everybody):
        meant = [who for who in everybody if _is_named(who, name)]
        if set(meant) <= set(those) and set(meant) & set(left):
            names.append(name)
            left = [who for who in left if who not in meant]
    return names


def _is_named(who: str, name: str) -> bool:
    return set(name.split()) <= {"all", *who.split()}


def condensed(lines: list[str]) -> list[str]:
    """Return the lines of a step; of many of them, their number and digests."""
    if len(lines) <= WRITTEN_OUT:
        return lines
    chunks = [lines[start : start + CHUNK] for start in range(0, len(lines), CHUNK)]
    return [json.dumps({"events": len(lines), "digests": " ".join(map(_digest, chunks))}), lines[0], lines[-1]]


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def differences(expected: dict[str, list[str]], heard: list[Step]) -> list[str]:
    """Return what is otherwise than in the file: a text for each step."""
    found = []
    names = [step.name for step in heard]
    if names != list(expected):
        found.append("\n".join(["the steps are others:", *_diff(list(expected), names)]))
    for step in heard:
        was, now = expected.get(step.name, []), condensed(step.lines)
        if was != now:
            found.append("\n".join([f"step {step.name!r}:", *_diff(was, now), *_chunks(was, step.lines)]))
    return found


def _diff(was: list[str], now: list[str]) -> list[str]:
    lines = list(difflib.unified_diff(was, now, "golden", "heard", lineterm="", n=1))
    return lines[:SHOWN] + ([f"... and {len(lines) - SHOWN} more lines"] if len(lines) > SHOWN else [])


def _chunks(was: list[str], lines: list[str]) -> list[str]:
    """Return the first events of the first hundred whose digest differs."""
    digests = json.loads(was[0]).get("digests", "").split() if was else []
    for number, start in enumerate(range(0, len(lines), CHUNK) if digests else ()):
        chunk = lines[start : start + CHUNK]
        if number >= len(digests) or digests[number] != _digest(chunk):
            return [f"the first difference is among the events from {start} on, which are now:", *chunk[:SHOWN]]
    return []
