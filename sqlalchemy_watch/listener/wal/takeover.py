"""Whose log it is that is read: the server's system and timeline, and what it shares with a log read before.

A server that was promoted, or recovered to a point in time, goes on in a timeline of its own. Up to where that
begins its log is the one before it, byte for byte; behind that, positions stand for something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from .messages import parse_lsn


@dataclass(frozen=True)
class Log:
    """The log of a server, as it is now."""

    system: str
    timeline: int
    written: int
    #: Where the timelines before this one were left.
    ancestors: Mapping[int, int]

    @property
    def begins(self) -> int:
        """Where its timeline begins."""
        return max(self.ancestors.values(), default=0)

    def continues(self, other: Log) -> bool:
        """Whether it is the same log, as far as one can see."""
        return (self.system, self.timeline) == (other.system, other.timeline)

    def shared_with(self, before: Log) -> int:
        """Up to where this log and one of another timeline are the same; 0 where they have nothing in common."""
        return self.ancestors.get(before.timeline, 0) if self.system == before.system else 0


def read_log(pgconn: PGconn) -> Log:
    """Ask a walsender.

    :raises psycopg.OperationalError: where it does not answer.
    """
    result = pgconn.exec_(b"IDENTIFY_SYSTEM")
    if result.status != ExecStatus.TUPLES_OK:
        raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
    timeline = int(_text(result, 1))
    ancestors: Mapping[int, int] = {}
    if timeline > 1:
        history = pgconn.exec_(b"TIMELINE_HISTORY %d" % timeline)
        if history.status == ExecStatus.TUPLES_OK:  # otherwise nothing is known to be shared
            ancestors = parse_history(_text(history, 1))
    return Log(_text(result, 0), timeline, parse_lsn(_text(result, 2) or "0/0"), ancestors)


def parse_history(text: str) -> dict[int, int]:
    """Timelines and where they were left, from a history file: a line for each, `1\\t0/3000148\\treason`."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        words = line.split(None, 2)
        if len(words) >= 2 and words[0].isdigit():
            found[int(words[0])] = parse_lsn(words[1])
    return found


def _text(result: PGresult, column: int) -> str:
    return bytes(result.get_value(0, column) or b"").decode(errors="replace")
