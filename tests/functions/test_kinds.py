"""The text of a function of each kind is that of its golden file: see `kinds`."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module
from types import CodeType, FrameType
from typing import Any

import pytest

from sqlalchemy_watch import functions
from sqlalchemy_watch.triggers.ddl import create_function

from .kinds import FOLDER, kinds, path_of, text_of

KINDS = kinds()


@pytest.mark.sqlalchemy
@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_that_of_the_golden_file(kind: str) -> None:
    golden, text = path_of(kind).read_text(), text_of(KINDS[kind])
    lines = difflib.unified_diff(golden.splitlines(), text.splitlines(), path_of(kind).name, "now", lineterm="", n=2)
    assert text == golden, "\n".join(lines)


def test_the_plain_function_has_80_lines_at_most() -> None:
    assert len(create_function(KINDS["inserted_bounded_types"]).splitlines()) <= 80


def test_each_file_is_of_a_kind() -> None:
    assert {path.stem for path in FOLDER.glob("*")} == set(KINDS)


#: Of the modules that make the text; `mark` reads it as well.
MODULES = [
    import_module(f"{functions.__name__}.{module.name}")
    for module in pkgutil.iter_modules(functions.__path__)
    if module.name != "mark"
]


def _lines(code: CodeType) -> Iterator[int]:
    """The lines of the functions in a module."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            lines = {line for _, _, line in constant.co_lines() if line}
            # Nothing happens in the first one of several.
            yield from lines - {constant.co_firstlineno} or lines
            yield from _lines(constant)


def test_every_line_that_makes_text_is_gone_through() -> None:
    files = {inspect.getfile(module): module for module in MODULES}
    seen: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        seen.add((frame.f_code.co_filename, frame.f_lineno))
        return note

    for module in files.values():
        for value in vars(module).values():
            getattr(value, "cache_clear", lambda: None)()
    before = sys.gettrace()
    sys.settrace(note)
    try:
        for filed in KINDS.values():
            text_of(filed)
    finally:
        sys.settrace(before)
    for file, module in files.items():
        source = inspect.getsource(module)
        missed = set(_lines(compile(source, file, "exec"))) - {line for name, line in seen if name == file}
        shown = [f"{file}:{line}: {source.splitlines()[line - 1].strip()}" for line in sorted(missed)]
        assert not shown, "\n".join(["no kind goes through these lines:", *shown])
