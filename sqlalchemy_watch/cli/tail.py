"""`tail`: the events of a running application's database, as they come."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Annotated, Any

import typer

from ..errors import ConfigurationError, one_line
from ..events.event import Event
from ..listener.foreground import LOOK_SECONDS
from ..listener.listener import Listener
from ..signals.filters import feeds_of
from ..signals.watch_signals import WatchSignal, model_of
from ..watched import signals_of
from .output import json_line, printable, say
from .target import Target, Url, check_watched, load_target, make_engine

#: Types whose values need no quotes in a line of text.
_PLAIN = (int, float, Decimal, uuid.UUID, date, time, timedelta, type(None))


def tail(
    target: Target,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many events; 0 goes on.")] = 0,
    group: Annotated[
        str | None, typer.Option("--durable", help="Read as this consumer group, what is declared durable.")
    ] = None,
) -> None:
    """Print every event, as text or as JSON lines; ends with Ctrl-C. The application's receivers are not called."""
    found = load_target(target)
    check_watched(target, found)
    ended = threading.Event()
    listener = Listener(make_engine(url), found, durable=group)
    signals = _heard(listener.signals, group)
    printer = _Printer(as_json, count, ended, max((len(str(signal.name)) for signal in signals), default=0))
    listener.events.connect(printer.print_event)
    listener.resync.connect(printer.print_resync)
    listener.disconnected.connect(printer.print_disconnected)
    # Not `ended.set()`: where the main thread begins to wait it holds the lock that this needs.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            stack.enter_context(_silent(listener))
            stack.enter_context(listener)
            say("listening", to_stderr=True)
            while not ended.wait(LOOK_SECONDS):  # in steps: a signal that comes right before it waits does not end that
                pass
    except KeyboardInterrupt:
        pass
    if printer.broken:
        raise BrokenPipeError


@contextmanager
def _silent(listener: Listener) -> Iterator[None]:
    """Call nothing that importing the application has connected to its models' signals, those of `read` included."""
    collections = {signals_of(model_of(signal)) for signal in listener.signals}
    feeds = [feed for signals in collections if signals is not None for feed in feeds_of(signals)]
    for feed in feeds:
        feed.is_muted = True
    try:
        yield
    finally:
        for feed in feeds:
            feed.is_muted = False


def _heard(signals: Iterable[WatchSignal[Any]], group: str | None) -> list[WatchSignal[Any]]:
    """Return the signals whose events come this way, and tell of the others."""
    other = "durable" if group is None else "notify"
    hidden = sorted(str(signal.name) for signal in signals if signal.delivery == other)
    if hidden:
        how = "shown with --durable GROUP" if group is None else "shown without --durable"
        print(f"not among what follows: {', '.join(hidden)}; {how}", file=sys.stderr, flush=True)
    return [signal for signal in signals if signal.delivery != other]


class _Printer:
    def __init__(self, as_json: bool, count: int, ended: threading.Event, width: int) -> None:
        self._as_json, self._left, self._ended, self._width = as_json, count or None, ended, width
        self._last: Event[Any] | None = None
        self.broken = False

    def print_event(self, sender: Any, event: Event[Any]) -> None:
        if self._ended.is_set() or event is self._last:  # in a hierarchy several signals fire for a row
            return
        self._last = event
        try:
            print(self._line(event), flush=True)
        except BrokenPipeError:
            self.broken = True
            # The rest of the buffer would fail again at exit, with exit status 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._ended.set()
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._ended.set()

    def _line(self, event: Event[Any]) -> str:
        if self._as_json:
            return json_line(event_fields(event))
        return event_text(event, self._width)

    def print_resync(self, sender: Any, reason: str) -> None:
        say(f"events may have been missed: {reason}", to_stderr=True)

    def print_disconnected(self, sender: Any, error: BaseException | None) -> None:
        say(f"disconnected: {one_line(error)}", to_stderr=True)


def signal_name(event: Event[Any]) -> str:
    """Return a name such as `User.updated`, of the row's own class: that may be below the one that is watched."""
    return f"{model_name(event)}.{event.label}"


def model_name(event: Event[Any]) -> str:
    """Return the class's name, or the table's."""
    return str(getattr(event.model, "__name__", None) or event.model.key)


def event_fields(event: Event[Any]) -> dict[str, Any]:
    """Return the fields of a JSON line; without values where one of them has no form in JSON."""
    try:
        return event.to_dict()
    except ConfigurationError as error:
        return {"id": event.id, "model": model_name(event), "label": event.label, "error": str(error)}


def event_text(event: Event[Any], width: int = 0) -> str:
    """Return a line of text.

    :param width: of the signal's name, in characters.
    """
    changes = ""
    if event.old is not None and event.changed:
        changes = "  was " + _pairs({name: event.old[name] for name in sorted(event.changed)})
    context = f"  by {_pairs(event.context)}" if event.context else ""
    clock = event.emitted_at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    return printable(f"{clock}  {signal_name(event):<{width}}  {_pairs(event.values)}{changes}{context}")


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    # Others may have control characters in them, or blanks: they are shown as Python writes them.
    return str(value) if isinstance(value, _PLAIN) else repr(value)
