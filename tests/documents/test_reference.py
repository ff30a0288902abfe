"""The reference has every public name, and no other."""

from __future__ import annotations

import re

import pytest_sqlalchemy_watch
import sqlalchemy_watch
from sqlalchemy_watch import caching, live, relay, testing, web, webhooks
from sqlalchemy_watch.web import flask

from .snippets import ROOT

#: Public names by module, of which some are functions that others import from where they stand.
PUBLIC = {
    "sqlalchemy_watch": set(sqlalchemy_watch.__all__),
    "sqlalchemy_watch.web": set(web.__all__),
    "sqlalchemy_watch.web.starlette": {"sse", "push", "lifespan"},
    "sqlalchemy_watch.web.flask": set(flask.__all__) - {"EventSource"},
    "sqlalchemy_watch.caching": set(caching.__all__),
    "sqlalchemy_watch.live": set(live.__all__),
    "sqlalchemy_watch.webhooks": set(webhooks.__all__),
    "sqlalchemy_watch.relay": set(relay.__all__),
    "sqlalchemy_watch.testing": set(testing.__all__),
    "sqlalchemy_watch.otel": {"Instrumentation", "instrument", "links_to"},
    "pytest_sqlalchemy_watch": {name for name in vars(pytest_sqlalchemy_watch) if name.startswith("watch_")},
}


DIRECTIVE = re.compile(r"^\.\. (currentmodule|auto(?:class|function|exception)):: (\S+)$", re.MULTILINE)


def described() -> set[str]:
    """Return the names that the reference's pages describe, each with its module's."""
    found, module = set(), ""
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        for directive, name in DIRECTIVE.findall(page.read_text()):
            if directive == "currentmodule":
                module = name
            else:
                found.add(f"{module}.{name}")
    return found


def test_reference_has_every_public_name() -> None:
    assert described() == {f"{module}.{name}" for module, names in PUBLIC.items() for name in names}
