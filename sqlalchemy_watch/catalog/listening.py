"""How many sessions listen: each commit that notifies wakes all of them, whatever they listen to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: From so many on it is worth a word: commits slow down with each.
MANY = 20

#: Sessions of this library that LISTEN on this database, as far as the role may see them. The last statement of one is
#: its LISTEN, its round trip, or until the first of these the end of its look at the triggers.
COUNT = """
SELECT count(*) FROM pg_catalog.pg_stat_activity
WHERE datname = pg_catalog.current_database() AND application_name = 'sqlalchemy-watch'
  AND (query = 'ROLLBACK' OR query LIKE 'LISTEN %' OR pg_catalog.strpos(query, 'pg_notification_queue_usage') > 0)
"""

REMEDY = "one can do it for many: see `sqlalchemy-watch relay --broadcast`, and docs/scaling.md"


def count_listening(ask: Callable[[str], Any]) -> int:
    """Return how many sessions listen.

    :param ask: runs a query, and returns its only value.
    """
    return int(ask(COUNT))


def words_for(listening: int) -> str | None:
    """Return what there is to say of so many; None for few."""
    if listening < MANY:
        return None
    return f"{listening} sessions listen to this database, and each commit that notifies wakes all of them: {REMEDY}"
