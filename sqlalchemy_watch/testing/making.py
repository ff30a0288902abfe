"""`make_event`: a real `Event` without a database."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..errors import ConfigurationError
from ..events.event import Event, T
from ..events.mappings import EMPTY, FrozenDict, Values
from ..events.messages import EventKind, Extras, Message
from ..events.models import watched
from ..signals.watch_signals import WatchSignal, model_of

#: Of events, so that each has an id of its own.
_numbers = itertools.count()


def make_event(
    signal: WatchSignal[T],
    values: Mapping[str, Any] | None = None,
    /,
    *,
    old: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    txid: int = 1,
    emitted_at: datetime | None = None,
    schema: str = "public",
    **more: Any,
) -> Event[T]:
    """Return an event of a signal, for the unit test of a receiver::

        event = make_event(Order.watch.updated, id=1, status="shipped", old={"id": 1, "status": "new"})
        send_mail(Order, event)

    :param signal: of one watch, such as `Order.watch.updated`.
    :param old: the previous values, of a watch with `old=True`; what is left out has not changed.
    :param context: what the writer has set.
    :param emitted_at: by default now.
    :param values: those of all attributes that the event carries, by keyword; of those that are called as a parameter
        is, such as `context`, in a mapping: `make_event(signal, {"context": "x"}, id=1)`.
    :raises ConfigurationError: for an attribute that it does not carry, and without one that it does.
    """
    if not isinstance(signal, WatchSignal):
        raise ConfigurationError(f"make_event: {signal!r} is no signal of one watch, such as Order.watch.updated")
    model, label = model_of(signal), signal.name.rpartition(".")[2]
    columns = watched(model, label)
    values = {**(values or {}), **more}
    _check(signal, "values", set(columns.carried), values, are_all_needed=signal.operation != "truncated")
    extras = None
    if old is not None:
        if signal.operation not in ("updated", "deleted"):
            raise ConfigurationError(f"make_event: {signal.name!r} has no old values: leave old= out")
        _check(signal, "old", set(columns.codecs), old, are_all_needed=False)
        before = Values({name: old.get(name, values.get(name)) for name in columns.codecs if name in {*old, *values}})
        changed = frozenset(name for name, value in before.items() if name in values and values[name] != value)
        extras = Extras(before, changed | (frozenset(old) - values.keys()), False)
    kind = EventKind(signal.operation, label, len(columns.key), columns.carried)
    made = Message(kind, txid, emitted_at or datetime.now(UTC), FrozenDict(context) if context else EMPTY, schema)
    made.channel, made.first_number = signal.details.channel, next(_numbers)
    row = tuple(values[name] for name in columns.carried) if values else ()
    return Event(model, made, row, extras)


def _check(
    signal: WatchSignal[Any], what: str, carried: set[str], given: Mapping[str, Any], *, are_all_needed: bool
) -> None:
    unknown, missing = given.keys() - carried, carried - given.keys() if are_all_needed else set()
    if unknown or missing:
        words = f"does not carry {', '.join(sorted(map(repr, unknown)))}" if unknown else "carries"
        rest = f" {', '.join(sorted(map(repr, missing)))} as well" if missing and not unknown else ""
        raise ConfigurationError(
            f"make_event: {signal.name!r} {words}{rest}: its {what} are {', '.join(sorted(map(repr, carried)))}"
        )
