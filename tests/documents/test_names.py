"""The documents name tests and link to files; each of them is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .snippets import DOCUMENTS, ROOT

MODULES = list((ROOT / "tests").rglob("test_*.py"))
TESTS = {
    node.name
    for path in MODULES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_tests_and_files_are_there(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named <= TESTS, named - TESTS
    files = {name for name in re.findall(r"`(tests/[\w/.]+)`", text) if not (ROOT / name).exists()}
    assert not files


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_as_they_are_read_in_the_repository(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL))
    assert not [link for link in links if not (path.parent / link).exists()]
