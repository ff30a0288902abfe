"""The keys of events: those of one key come one after the other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Hashable
from typing import Any

from ...errors import one_line
from ...events.event import Event
from ...events.json_scalars import PLAIN
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
        self._has_warned = False

    def of(self, event: Event[Any]) -> Hashable:
        """Return the key of an event, by which its lane is found; what can't be compared has one of its own."""
        try:
            hash(frozen := freeze(self._find(event)))
        except Exception:  # from the value's own code, or the application's
            log.exception("%s has no key: it comes beside all others", event_words(event))
            return object()
        return frozen

    def text_of(self, event: Event[Any]) -> str | None:
        """Return the key as a text that is the same in every process; None where it can't be written as one.

        In ASCII, which a database of any encoding can hold.
        """
        try:
            if self._key_of is None:
                return json.dumps([self._table_of(event.model), event.to_dict()["identity"]])
            return json.dumps(_plain(self._key_of(event)))
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                log.warning(
                    "the key of %s can't be written as a text (%s), so nothing waits behind it: have key= return "
                    "numbers, texts, dates, UUIDs, or tuples of these", event_words(event), one_line(error),
                )  # fmt: skip
            return None

    def _find(self, event: Event[Any]) -> Hashable:
        if self._key_of is not None:
            return self._key_of(event)
        return self._table_of(event.model), event.identity

    def _table_of(self, model: Any) -> str:
        table = self._tables.get(model)
        if table is None:
            table = self._tables[model] = table_of_model(model)
        return table


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, (tuple, list)) else PLAIN.write(value)
