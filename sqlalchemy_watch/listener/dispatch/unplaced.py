"""The log of events that are not known to be of the table. The names in them may be anybody's invention."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict

from ..server.asking import Reply

log: logging.Logger = logging.getLogger(__name__)

#: Names of schemas that are remembered as told.
MAX_TOLD = 1_000

#: Warnings that may follow one another at once, and seconds until there may be one more.
WARNINGS, WARNING_SECONDS = 20, 10.0

#: Characters of a name: PostgreSQL has no longer ones.
MAX_NAME = 63


class Bucket:
    """Holds back what comes too often: some at once, and then one in so many seconds."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size, self._seconds = size, seconds
        self._level, self._at = 0.0, -math.inf

    def take(self, now: float) -> float:
        """Add one, and return the seconds until it may be done."""
        self._level = max(0.0, self._level - (now - self._at) / self._seconds) + 1.0
        self._at = now
        return max(0.0, self._level - self._size) * self._seconds

    def has_space(self, now: float) -> bool:
        """Return True if one more may be done at once."""
        return self._level - (now - self._at) / self._seconds + 1.0 <= self._size


class UnplacedLog:
    """Warns once for each table and schema, and says what to do."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._bucket = Bucket(WARNINGS, WARNING_SECONDS)

    def note(self, table: str, schema: str, reply: Reply, usable: bool | None) -> None:
        """Note an event that is neither ours nor known to be another's.

        :param usable: True if triggers of such a table are there, and False if so and the role may not use the schema;
            None where there are none.
        """
        session, shown = reply.answer.session, _shown(schema)
        if usable is None:
            why = "where no such table has a trigger of ours: it was moved or dropped, or somebody made the event up"
        elif not reply.is_certain:
            why = "and where the engine's search_path leads could not be looked up over a connection of its own kind"
        else:
            why = f"where the engine's search_path ({', '.join(session.path)}) does not lead"
        grant = f", run GRANT USAGE ON SCHEMA for the role {session.role!r}" if usable is False else ""
        self._warn(
            "unplaced", table, schema,
            f"events of table {table!r} in schema {shown} are not heard, {why}: to hear them, have the engine's "
            f"search_path lead there{grant}, or pass schemas=({shown},) or schemas='*' to the Listener",
        )  # fmt: skip

    def note_gone(self, table: str, oid: int) -> None:
        """Note an event of something of which nobody can say any more what it was."""
        self._warn(
            "gone", table, str(oid),
            f"events of table {table!r} are not heard whose own table or partition (oid {oid}) was dropped or altered "
            f"before anybody looked whose it was, or that somebody made up",
        )  # fmt: skip

    def note_foreign(self, table: str, schema: str) -> None:
        """Note an event of another schema than the one that is declared."""
        self._warn(
            "foreign", table, schema,
            f"events of table {table!r} in schema {_shown(schema)} are not heard, since another one is declared: "
            f"remove schema= from the model to hear the table in several schemas",
        )  # fmt: skip

    def note_unusable(self, table: str, schema: str, role: str) -> None:
        """Note that the table is where the role may not look."""
        self._warn(
            "unusable", table, schema,
            f"table {table!r} is in schema {_shown(schema)}, which the role {role!r} may not use: its events are "
            f"heard, but its rows can't be loaded; run GRANT USAGE ON SCHEMA for the role",
        )  # fmt: skip

    def _warn(self, kind: str, table: str, schema: str, words: str) -> None:
        key, now = (kind, table, schema[: MAX_NAME + 1]), time.monotonic()
        if key in self._told:
            return
        if not self._bucket.has_space(now):
            log.debug("%s", words)
            return
        self._bucket.take(now)
        self._told[key] = None
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        log.warning("%s", words)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= MAX_NAME else name[:MAX_NAME] + "...")
