"""Type checkers refuse receivers of another model's events, and those that take no event."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import sqlalchemy_watch

CASES = Path(__file__).with_name("typing_cases.py")
PACKAGE = Path(sqlalchemy_watch.__file__).parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def wrong_lines() -> list[int]:
    return [number for number, line in enumerate(CASES.read_text().splitlines(), 1) if line.endswith("# error")]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a type checker over the package that is tested, wherever that is installed."""
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install --group typing")
    is_installed = "site-packages" in PACKAGE.parts
    paths = {} if is_installed else {"PYTHONPATH": str(PACKAGE), "MYPYPATH": str(PACKAGE)}
    command = [sys.executable, "-m", module, *arguments, str(CASES)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **paths})


def test_mypy_finds_the_wrong_receivers_and_no_other(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    cache: Any = getattr(pytestconfig, "cache", None)  # it may be switched off
    directory = str(cache.mkdir("mypy")) if cache is not None else str(tmp_path)
    done = run("mypy", "--strict", "--config-file=", "--no-error-summary", "--cache-dir", directory)
    found = {int(line) for line in re.findall(r"typing_cases\.py:(\d+): error:", done.stdout)}
    assert sorted(found) == wrong_lines(), done.stdout + done.stderr


def test_pyright_finds_the_wrong_receivers_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "pyrightconfig.json").write_text("{}")
    done = run("pyright", "--project", str(tmp_path), "--pythonpath", sys.executable, "--outputjson")
    try:
        report = json.loads(done.stdout)
    except ValueError:
        pytest.skip(f"pyright does not run here: {done.stderr.strip()[-200:]}")
    errors = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    assert sorted({each["range"]["start"]["line"] + 1 for each in errors}) == wrong_lines(), errors
