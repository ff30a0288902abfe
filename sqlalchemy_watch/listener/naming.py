"""Receivers and events in words: for logs, and for the names in dead letters.

Of an event's values its identity alone is told: logs never have the contents of payloads.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..events.event import Event
from ..signals.receivers import Subscriber, name_of
from ..signals.transactions import Transaction

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def numbered_names(subscribers: Iterable[Subscriber]) -> Iterator[str]:
    """Return the name of each receiver of an event; where several have the same name, all but the first a number.

    Names have to be the same in the next process, and identities are not: so the order of connecting tells them apart.
    """
    known: dict[str, list[Any]] = {}
    for subscriber in subscribers:
        name = name_of(subscriber)
        receivers = known.setdefault(name, [])
        if subscriber.receiver_id not in receivers:
            receivers.append(subscriber.receiver_id)
        number = receivers.index(subscriber.receiver_id) + 1
        yield name if number == 1 else f"{name}#{number}"


def model_name(model: Any) -> str:
    """Return the name of a class, or the key of a table."""
    return str(getattr(model, "__name__", None) or getattr(model, "key", model))


def event_words(argument: Event[Any] | Sequence[Event[Any]] | Transaction) -> str:
    """Return an event, or the first of several, in words such as `Order.inserted (7,)`."""
    if isinstance(argument, Transaction):
        argument = argument.events
    if isinstance(argument, Sequence):
        others = f" and {len(argument) - 1} more" if len(argument) > 1 else ""
        return f"{event_words(argument[0])}{others}" if argument else "no event"
    try:
        identity = _REPR.repr(argument.identity)
    except Exception:  # from the value's own code
        identity = "(a key that can't be shown)"
    return f"{model_name(argument.model)}.{argument.label} {identity}"
