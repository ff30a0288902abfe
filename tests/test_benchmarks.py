"""The benchmarks run; their results are not for tests to judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_quick_benchmark_prints_its_tables_and_leaves_the_page_alone() -> None:
    page = ROOT / "docs" / "benchmarks.md"
    before = page.read_bytes()
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "dispatch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "## Dispatch with many filtered subscriptions" in done.stdout
    assert "| figure" in done.stdout
    assert page.read_bytes() == before
