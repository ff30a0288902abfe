"""`python docs/make_reference.py`: writes docs/reference.md from the docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import sqlalchemy_watch as package
from sqlalchemy_watch import otel, relay, testing, web
from sqlalchemy_watch.web import flask, starlette

PAGE = Path(__file__).parent / "reference.md"

GROUPS: dict[str, tuple[Any, ...]] = {
    "Declaring": (package.Watched, package.Watch, package.watch),
    "Signals": (
        package.WatchSignals, package.WatchSignal, package.FilteredSignal, package.EventsSignal,
        package.EventStream, package.EventIterator, package.Resync, package.TransactionsSignal, package.Transaction,
        package.Details,
    ),
    "Events": (package.Event,),
    "Listening": (package.Listener, package.RetryPolicy, package.Stats, otel.instrument),
    "In the browser": (
        web.EventSource, web.to_json, starlette.sse, starlette.push, starlette.lifespan, flask.sse,
        flask.stop_with_server,
    ),
    "On more than one machine": (
        relay.Relay, relay.RelayStats, relay.publisher_for, relay.Publisher, relay.Message, relay.Refused,
        relay.Broadcast, relay.nats,
    ),
    "Testing": (testing.Capture, testing.make_event, testing.Expecting),
    "Writing": (package.muted, package.context),
    "Without Alembic": (package.install, package.uninstall, package.status, package.WatchStatus),
    "Errors": (
        package.WatchError, package.ConfigurationError, package.ListenerError, package.ListenerStartError,
        package.BatchFailed, package.RetryAfter, package.CatchUpTimeout, package.EventsDropped, package.OwnershipError,
        package.PayloadError, package.SlotError, package.UnknownVersionError, package.UnsupportedServerError,
    ),
}  # fmt: skip

#: The classes that users call.
CALLED = {
    package.Watch,
    package.Listener,
    package.RetryPolicy,
    web.EventSource,
    testing.Capture,
    relay.Relay,
    relay.Broadcast,
}

#: The modules that others are imported from.
MODULES = ("otel", "web", "starlette", "flask", "relay", "testing")

INTRODUCTION = """\
# Reference

Made by `python docs/make_reference.py` from the docstrings. Everything stands in `sqlalchemy_watch`, but for what is
named with a module.
"""


def page() -> str:
    """Return the page as it should be."""
    parts = [INTRODUCTION.rstrip()]
    for title, members in GROUPS.items():
        parts.append(f"## {title}")
        for member in members:
            parts.extend(_describe(member))
    return "\n\n".join(parts) + "\n"


def _describe(member: Any) -> Iterator[str]:
    name = _name(member)
    if not isinstance(member, type):
        yield f"### `{name}{_signature(member)}`"
        yield _text(member)
        return
    is_error = issubclass(member, Exception)
    bases = ", ".join(base.__name__ for base in member.__bases__ if base.__module__ not in ("builtins", "typing"))
    arguments = f"({bases})" if is_error and bases else _signature(member) if member in CALLED else ""
    yield f"### `{name}{arguments}`"
    yield _text(member)
    if not is_error:
        yield from _members(member)


def _name(member: Any) -> str:
    """Return the name, with the module's that it is imported from where that is not the package."""
    _, *path = member.__module__.split(".")
    module = dict.fromkeys(part for part in path if part in MODULES)
    return ".".join([*module, member.__name__])


def _members(owner: type) -> Iterator[str]:
    found = {
        name: value
        for base in reversed(owner.__mro__)
        if base.__module__.startswith("sqlalchemy_watch")
        for name, value in vars(base).items()
        if not name.startswith("_")
    }
    for name, value in found.items():
        if isinstance(value, property):
            yield f"**`.{name}`** {_text(value)}"
        elif isinstance(value, (FunctionType, classmethod)):
            function = getattr(owner, name)
            prefix = "await " if inspect.iscoroutinefunction(function) else ""
            yield f"**`{prefix}.{name}{_signature(function)}`**"
            yield _text(function)


def _signature(function: Any) -> str:
    if dataclasses.is_dataclass(function) and isinstance(function, type):
        fields = [field for field in dataclasses.fields(function) if not field.name.startswith("_")]
        return f"({', '.join(field.name for field in fields)})"
    parameters = inspect.signature(function).parameters.values()
    shown = [
        str(p.replace(annotation=inspect.Parameter.empty))
        for p in parameters
        if p.name not in ("self", "cls") and not p.name.startswith("_")
    ]
    if any(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters) and not any("*" in text for text in shown):
        first = next(i for i, p in enumerate(p for p in parameters if p.name != "self") if p.kind is p.KEYWORD_ONLY)
        shown.insert(first, "*")
    text = re.sub(r"<object object at \w+>", "...", f"({', '.join(shown)})")  # a mark of ours for "not given"
    return re.sub(r"<function (\w+) at \w+>", r"\1", text)


def _text(member: Any) -> str:
    text = inspect.cleandoc(member.__doc__ or "")
    text = re.sub(r"::(?=\n\n    )", ":", text)
    text = re.sub(r"\n+:param (\w+): ", r"\n- `\1`: ", text)
    text = re.sub(r"\n+:raises (\w+): ", r"\n- raises `\1` ", text)
    text = re.sub(r"\n+:returns: ", r"\n- returns ", text)
    return re.sub(r"\n+- ", "\n\n- ", text, count=1)  # a list begins behind an empty line


if __name__ == "__main__":
    PAGE.write_text(page())
