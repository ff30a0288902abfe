"""What a listener does not hear, said at its start: receivers of such watches would be silent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Table

from ..declaring.targets import watches_of_table
from ..watched import forgotten_in
from .decoding.routes import Router

log: logging.Logger = logging.getLogger(__name__)

_WITHOUT_GROUP = "their delivery is 'durable', and it has no group: start one with durable='a_group' as well"
_OF_A_GROUP = "their delivery is 'notify', and it has a group: start one without durable= as well, or declare 'both'"


def warn_of_forgotten(targets: Iterable[Any]) -> None:
    """Log the models of a listener's targets that look watched, and are not."""
    for words in forgotten_in(*targets):
        log.warning("%s", words)


def warn_of_unheard(router: Router, tables: Sequence[Table], group: str | None) -> None:
    """Log what is not heard.

    :param tables: those of the listener's targets, watched or not.
    """
    if not router.routes:
        log.warning("%s", _nothing_watched(tables, group))
        return
    with_receivers = [signal for signal in router.unheard if signal.has_receivers and not signal.is_muted]
    names = ", ".join(sorted(signal.name for signal in with_receivers or router.unheard))
    if with_receivers:
        words = _WITHOUT_GROUP if group is None else _OF_A_GROUP
        log.warning("this listener does not hear %s, which have receivers: %s", names, words)
    elif names:
        log.info("this listener does not hear %s: their delivery is another one", names)


def _nothing_watched(tables: Sequence[Table], group: str | None) -> str:
    if not any(watches_of_table(table) for table in tables):
        return "nothing is watched by the listener's targets: add __watch__ to a model, or call watch()"
    if group is not None:
        return "nothing durable is watched by the listener's targets: add delivery='durable' to a Watch"
    return "the listener's targets watch only what is durable: pass durable='a_group' to the Listener"
