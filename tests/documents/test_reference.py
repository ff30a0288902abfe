"""The reference is the one that the docstrings make, and has every public name."""

from __future__ import annotations

import runpy
from typing import Any

import sqlalchemy_watch

from .snippets import ROOT

MAKER: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))


def test_reference_is_up_to_date() -> None:
    assert MAKER["PAGE"].read_text() == MAKER["page"](), "run `python docs/make_reference.py`"


def test_reference_has_every_public_name() -> None:
    described = {member.__name__ for members in MAKER["GROUPS"].values() for member in members}
    assert described == {*sqlalchemy_watch.__all__, "instrument"}
