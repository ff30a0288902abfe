"""Publication, slot and table: made before the slot is read, over a plain connection."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import errors

from ...errors import SlotError
from ...signals.once import Once
from ..dispatch.dead_letters import LETTERS
from ..dispatch.once import ONCE, check_sessions, consumer_of
from ..options import Options
from ..server.checks import check_server
from ..server.connect import Connect
from ..source import SourceState
from . import slots

log: logging.Logger = logging.getLogger(__name__)

SLOT_IN_MAKING = (
    "the slot is being made, for which the server waits until transactions have ended that were open before: "
    "see pg_stat_activity"
)


class Prepared(NamedTuple):
    """The slot is there."""

    #: Seconds of silence after which the server ends a walsender's connection.
    sender_timeout: float
    #: The beginning of the slot, if it was made just now.
    begins: int | None


class Preparation:
    """Makes what is missing, before each connection to a walsender.

    :param on_prepared: called each time; has the triggers looked at.
    :param once: returns the receivers that have sessions.
    """

    def __init__(
        self,
        connect: Connect,
        options: Options,
        on_prepared: Callable[[], None],
        once: Callable[[], Sequence[Once]],
    ) -> None:
        self._connect, self._group, self._once = connect, options.slot, once
        self._needs_table, self._on_prepared = options.retry.needs_table, on_prepared
        self._had_slot = False
        #: True if the log behind the slot can't be decoded, however often that is tried.
        self._is_unreadable = False

    def prepare(self, state: SourceState, stopping: threading.Event) -> Prepared:
        """Have publication, table and slot.

        :param state: told what is waited for.
        :raises SlotError: where one of them can't be made, or is something else's.
        :raises ConfigurationError: for receivers whose sessions are of another database.
        """
        with contextlib.closing(self._connect(stopping=stopping)) as connection:
            check_server(connection)
            slots.ensure_publication(connection)
            if self._needs_table:
                LETTERS.ensure(connection)
            if receivers := self._once():
                ONCE.ensure(connection)
                check_sessions(receivers, consumer_of(connection, self._group))
            self._had_slot |= bool(slots.read_slots(connection, self._group))
            state.error = SlotError(SLOT_IN_MAKING)
            begins = slots.ensure_slot(
                connection, self._group, existed=self._had_slot, is_unreadable=self._is_unreadable
            )
            state.error = None
            self._is_unreadable = False
            timeout = _sender_timeout(connection)
        self._on_prepared()
        if begins is not None:
            log.info("made the slot %r: events from now on are kept for this consumer group", self._group)
        self._had_slot = True
        return Prepared(timeout, begins)

    def note_failure(self, error: BaseException) -> None:
        """Note why reading the slot failed: a publication that is missing can't be mended by trying again."""
        # In whatever language, and whatever else may be missing: a slot has another name.
        self._is_unreadable = (
            isinstance(error, errors.UndefinedObject)
            and re.search(rf"\b{slots.PUBLICATION}\b", str(error)) is not None
            and self._group != slots.PUBLICATION
        )


def _sender_timeout(connection: psycopg.Connection[Any]) -> float:
    row = connection.execute("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'").fetchone()
    return int(row[0]) / 1000 if row is not None and int(row[0]) else math.inf  # 0 is no limit
