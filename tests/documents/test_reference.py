"""The reference is the one that the docstrings make, and has every public name."""

from __future__ import annotations

import runpy
from typing import Any

import sqlalchemy_watch
from sqlalchemy_watch import testing, web

from .snippets import ROOT

MAKER: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))


def test_reference_is_up_to_date() -> None:
    assert MAKER["PAGE"].read_text() == MAKER["page"](), "run `python docs/make_reference.py`"


def test_reference_has_every_public_name() -> None:
    described = {MAKER["_name"](member) for members in MAKER["GROUPS"].values() for member in members}
    of_rooms = {f"web.{name}" for name in web.__all__} | {f"testing.{name}" for name in testing.__all__}
    functions = {"otel.instrument", "web.flask.sse", *(f"web.starlette.{name}" for name in ("sse", "push", "lifespan"))}
    assert described == {*sqlalchemy_watch.__all__, *of_rooms, *functions}
