"""Modules whose optional dependency is missing: the error names the extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = """
import importlib, sys
module, sys.modules[sys.argv[2]] = sys.argv[1], None
try:
    importlib.import_module(module)
except ModuleNotFoundError as error:
    print(error)
    print(error.name)
"""


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("webhooks", "httpcore", "webhooks"),
        ("web.starlette", "starlette", "web"),
        ("web.flask", "flask", "web"),
        ("otel", "opentelemetry", "otel"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(module: str, package: str, extra: str) -> None:
    name = f"sqlalchemy_watch.{module}"
    done = subprocess.run([sys.executable, "-c", IMPORT, name, package], capture_output=True, text=True, check=True)
    words, missing = done.stdout.splitlines()
    assert words == f'{name} needs {package}: pip install "sqlalchemy-watch[{extra}]"'
    assert missing.partition(".")[0] == package


def test_what_an_optional_package_itself_lacks_is_named_as_it_is() -> None:
    command = [sys.executable, "-c", IMPORT, "sqlalchemy_watch.web.starlette", "anyio"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].partition(".")[0] == "anyio"
    assert "pip install" not in done.stdout
