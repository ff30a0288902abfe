"""The keys of events: those of one key come one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

from ...events.event import Event
from ...events.models import table_of_model
from ...signals.matching import freeze
from ..naming import event_words

log: logging.Logger = logging.getLogger(__name__)

#: Returns the key of an event.
KeyOf = Callable[[Any], Hashable]


class Keys:
    """Finds keys.

    :param key_of: the application's; None for table and identity.
    """

    def __init__(self, key_of: KeyOf | None) -> None:
        self._key_of = key_of
        #: By model.
        self._tables: dict[Any, str] = {}

    def of(self, event: Event[Any]) -> Hashable:
        """Return the key of an event, by which its lane is found; what can't be compared has one of its own."""
        try:
            hash(frozen := freeze(self._find(event)))
        except Exception:  # from the value's own code, or the application's
            log.exception("%s has no key: it comes beside all others", event_words(event))
            return object()
        return frozen

    def text_of(self, event: Event[Any]) -> str | None:
        """Return the key as a text that is the same in every process; None where it has none.

        In ASCII, which a database of any encoding can hold.
        """
        try:
            return ascii(self._find(event))
        except Exception:
            return None

    def _find(self, event: Event[Any]) -> Hashable:
        if self._key_of is not None:
            return self._key_of(event)
        model = event.model
        table = self._tables.get(model)
        if table is None:
            table = self._tables[model] = table_of_model(model)
        return table, event.identity
