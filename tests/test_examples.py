"""Every example runs by itself, and does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

SHOWS = {
    "cache_invalidation.py": "tea costs 350 and coffee None",
    "email_on_change.py": "an email went to ada@old.example and ada@new.example",
    "search_index.py": "the index was rebuilt after a resync",
    "webhook.py": "the webhook was called for order 8 of customer 2",
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHOWS, "embedded.py"}


@pytest.mark.parametrize("name", SHOWS)
def test_example_does_what_it_says(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert SHOWS[name] in done.stdout.splitlines()
