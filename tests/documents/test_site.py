"""The documentation's site is built without a warning: each link leads somewhere, each docstring can be read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sqlalchemy_watch import Event

from .snippets import ROOT

pytest.importorskip("sphinx_book_theme", reason="the dependency group `docs` is not installed")

pytestmark = pytest.mark.slow


def test_site_is_built_without_a_warning_and_knows_what_docstrings_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    overview = (tmp_path / "overview.html").read_text()
    assert 'href="examples.html#live-orders"' in overview  # a link of README's, which leads to a directory there
    events = (tmp_path / "reference" / "events.html").read_text()
    missing = [n for n in dir(Event) if n[0] != "_" and f'id="sqlalchemy_watch.Event.{n}"' not in events]
    assert not missing
    relay = (tmp_path / "reference" / "relay.html").read_text()  # whose docstring has `Listener` in backticks
    assert 'href="listening.html#sqlalchemy_watch.Listener"' in relay
    travels = (tmp_path / "how-it-works.html").read_text()
    assert re.search(r"<svg class=\"travel\".*<text[^>]*>NOTIFY</text>", travels, re.DOTALL)
