"""`doctor`: what the database lacks, each with the command that helps."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..declaring.targets import tables_of
from ..doctor import Finding, Subject, examine, subject_of_listener, subject_of_target
from ..errors import ConfigurationError
from ..listener.listener import Listener
from ..listener.options import check_group_name
from .output import PIPE_WIDTH, print_json_lines, printable
from .target import Url, check_watched, load_object, make_engine

_COLOURS = {"met": "green", "warning": "yellow", "missing": "red"}
_WORDS = {"met": "ok", "warning": "warning", "missing": "missing"}
_MARKS = {"sql": "=> ", "shell": "$ ", "do": "- "}

#: Characters that the names of parts and states take.
_PART, _STATE = 10, 8

EXAMPLE = "myapp.models:Base or myapp.worker:listener"


def doctor(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="What is watched, as module:name, such as myapp.models:Base; or a Listener, whose own engine and "
            "options are looked at, such as myapp.worker:listener.",
            show_default=False,
        ),
    ],
    url: Url = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="The consumer group that hears what is durable; of a Listener it is known.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Look at server, role, settings, pooler, triggers and slot, and print what is missing with what helps.

    Exit status 1 where something needed is missing. Nothing is changed.
    """
    source = context.get_parameter_source("url")
    is_url_given = source is not None and source.name == "COMMANDLINE"  # and not by DATABASE_URL
    subject = _subject(target, url, group, is_url_given=is_url_given)
    logging.getLogger("sqlalchemy_watch").setLevel(logging.ERROR)  # what is found is printed, and not logged as well
    findings = examine(subject)
    if as_json:
        print_json_lines(map(_fields, findings))
    else:
        _print(findings)
    raise typer.Exit(1 if any(finding.state == "missing" for finding in findings) else 0)


def _subject(target: str, url: str | None, group: str | None, *, is_url_given: bool) -> Subject:
    if group is not None:
        check_group_name(group)
    found: Any = load_object(target, EXAMPLE)
    if not isinstance(found, Listener):
        tables_of(found)
        check_watched(target, found)
        return subject_of_target(target, found, make_engine(url), group)
    if is_url_given:
        raise ConfigurationError(f"target {target!r} is a Listener, which has an engine of its own: leave --url out")
    if group is not None:
        raise ConfigurationError(
            f"target {target!r} is a Listener, which says itself which group it is: leave --group out"
        )
    return subject_of_listener(found)


def _fields(finding: Finding) -> dict[str, object]:
    return asdict(finding)


def _print(findings: list[Finding]) -> None:
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    for finding in findings:
        line = Text(f"{finding.part:{_PART}}")
        line.append(f"{_WORDS[finding.state]:{_STATE}}", _COLOURS[finding.state])
        line.append(printable(finding.what))
        console.print(line)
        if finding.why:
            console.print(Text(" " * (_PART + _STATE) + printable(finding.why), "dim"))
        for remedy in finding.remedies:
            console.print(Text(" " * (_PART + _STATE) + _MARKS[remedy.kind] + printable(remedy.text), "bold"))
    count = sum(finding.state == "missing" for finding in findings)
    console.print(f"{count} missing" if count else "nothing is missing")
