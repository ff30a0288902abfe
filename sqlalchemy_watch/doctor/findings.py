"""`Finding`: a need, whether it is met, and what meets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: What is looked at, in this order.
Part = Literal["server", "platform", "pooler", "role", "settings", "triggers", "slot", "listeners"]

#: `"warning"`: it works, and something is worth a look.
State = Literal["met", "warning", "missing"]


@dataclass(frozen=True)
class Remedy:
    """A step that helps.

    `kind` is `"sql"`, for an administrator or owner; `"shell"`; or `"do"`, in words. What is to be filled in is in
    capitals. Nothing holds a password.
    """

    kind: Literal["sql", "shell", "do"]
    text: str


@dataclass(frozen=True)
class Finding:
    """A need, whether it is met, and what meets it. Several remedies are steps, one after the other."""

    part: Part
    state: State
    #: What was found.
    what: str
    #: What it is needed for; empty where it is met.
    why: str = ""
    remedies: tuple[Remedy, ...] = ()


def met(part: Part, what: str) -> Finding:
    """Return that a need is met."""
    return Finding(part, "met", what)


def missing(part: Part, what: str, why: str, *remedies: Remedy) -> Finding:
    """Return that something needed is not there."""
    return Finding(part, "missing", what, why, remedies)


def warning(part: Part, what: str, why: str, *remedies: Remedy) -> Finding:
    """Return that something is worth a look."""
    return Finding(part, "warning", what, why, remedies)


def sql(text: str) -> Remedy:
    """Return a statement, or several."""
    return Remedy("sql", text)


def shell(text: str) -> Remedy:
    """Return a command of the shell."""
    return Remedy("shell", text)


def do(text: str) -> Remedy:
    """Return what is to be done, in words."""
    return Remedy("do", text)
