"""Left-overs that have our mark, and are not ours all the same: anybody may write a mark.

What counts as ours is dropped, and made again by a downgrade, with the rights of whoever runs that. So it has to be of
somebody who may do these things anyway, and in everything such as it is made here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..functions.body import FIXED_SETTINGS
from ..functions.mark import read_mark
from .installed import InstalledFunction, InstalledTrigger
from .reading import Stranger

_SETTINGS = frozenset(f"{name}={value}".casefold() for name, value in FIXED_SETTINGS)


def may_be_made_again(found: InstalledFunction) -> bool:
    """Return True if a function has no other rights than its caller's, and so none of whoever makes it again."""
    return found.language == "plpgsql" and not found.security_definer


def oddity(found: InstalledFunction, table: int | None) -> str | None:
    """Return the reason for which a left-over is not ours, in words; None where it is.

    :param table: that of its mark, by its oid, where no trigger calls it; None where there is no such table.
    """
    trigger = found.trigger
    found = found.seen_from(table if trigger is None else trigger.relation.oid)
    if found.stranger:
        return f"it {found.stranger}"
    settings = {setting.casefold() for setting in found.settings}
    if not may_be_made_again(found) or not settings <= _SETTINGS:
        return "its language, security or settings are none of ours"
    if trigger is not None and not _is_plain_trigger(trigger):
        return f"the trigger {trigger.name!r} that calls it is none of ours"
    return None


def _is_plain_trigger(trigger: InstalledTrigger) -> bool:
    return trigger.timing == "AFTER" and len(trigger.events) == 1 and trigger.plain


def in_words(found: InstalledFunction, reason: str) -> str:
    """Say that a function is left alone."""
    return _in_words(f"{found.schema}.{found.name}", reason)


def _in_words(name: str, reason: str) -> str:
    return (
        f"the function {name} has the mark of sqlalchemy_watch, but {reason}: it is left alone; look at it, and "
        f"drop it by hand, or give it to the table's owner (ALTER FUNCTION ... OWNER TO) if it is yours"
    )


def strangers_in_words(strangers: Iterable[Stranger], applications: Collection[str]) -> list[str]:
    """Describe functions with our mark that are of somebody who has no say there.

    :param applications: those of others are not described.
    """
    words = []
    for stranger in strangers:
        mark = read_mark(stranger.body)
        if mark is None or mark[1]["application"] in applications:
            reason = f"it belongs to the role {stranger.owner!r}, which has no say there"
            words.append(_in_words(stranger.name, reason))
    return words
