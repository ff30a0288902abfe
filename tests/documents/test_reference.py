"""The reference is the one that the docstrings make, and has every public name."""

from __future__ import annotations

import runpy
from typing import Any

import sqlalchemy_watch
from sqlalchemy_watch import relay, testing, web
from sqlalchemy_watch.web import flask

from .snippets import ROOT

MAKER: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))


def test_reference_is_up_to_date() -> None:
    assert MAKER["PAGE"].read_text() == MAKER["page"](), "run `python docs/make_reference.py`"


def test_reference_has_every_public_name() -> None:
    described = {MAKER["_name"](member) for members in MAKER["GROUPS"].values() for member in members}
    rooms = {"web": web, "testing": testing, "relay": relay}
    of_rooms = {f"{room}.{name}" for room, module in rooms.items() for name in module.__all__}
    functions = {"otel.instrument", *(f"web.starlette.{name}" for name in ("sse", "push", "lifespan"))}
    functions |= {f"web.flask.{name}" for name in flask.__all__ if name != "EventSource"}
    assert described == {*sqlalchemy_watch.__all__, *of_rooms, *functions}
