"""The mode of a trigger: in which sessions it fires, as `pg_trigger.tgenabled` has it.

`O` is the default: in all but those with `session_replication_role = replica`, in which a subscription writes. `R` is
in these alone, `A` is in all, and `D` is in none.
"""

from __future__ import annotations

from typing import Final

from ..declaring.spec import TableWatch
from .installed import InstalledFunction

DEFAULT: Final = "O"
ALWAYS: Final = "A"
DISABLED: Final = "D"

_IN_WORDS: Final = {DISABLED: "is disabled", ALWAYS: "fires always"}


def declared_mode(watch: TableWatch) -> str:
    """Return the mode of a trigger that is made new."""
    return ALWAYS if watch.fires == "always" else DEFAULT


def wanted_mode(watch: TableWatch, found: InstalledFunction) -> str:
    """Return the mode in which the trigger should be: what somebody chose by hand stays, unless it is switched off.

    The mark tells such a choice from a mode that was declared, and is no more.
    """
    mode = found.trigger.enabled if found.trigger is not None else DEFAULT
    if watch.fires == "always" or mode in (DEFAULT, DISABLED):
        return declared_mode(watch)
    mark = found.mark if mode == ALWAYS else None
    return DEFAULT if mark is not None and mark[1].get("fires") == "always" else mode


def has_odd_copies(watch: TableWatch, found: InstalledFunction) -> bool:
    """Return True if the trigger's copy on a partition does not fire as the watch has to."""
    return _odd_copy(watch, found) is not None


def _odd_copy(watch: TableWatch, found: InstalledFunction) -> str | None:
    """Return the mode of such a copy."""
    copies = found.trigger.copies if found.trigger is not None else ()
    return next((m for m in copies if (m != ALWAYS if watch.fires == "always" else m == DISABLED)), None)


def mode_problem(watch: TableWatch, found: InstalledFunction) -> str | None:
    """Describe how the mode of an existing trigger differs."""
    assert found.trigger is not None
    if found.trigger.enabled != wanted_mode(watch, found):
        return _in_words(found.trigger.enabled)
    odd = _odd_copy(watch, found)
    return None if odd is None else f"{_in_words(odd)} on a partition"


def _in_words(mode: str) -> str:
    return f"the trigger {_IN_WORDS.get(mode, 'does not fire always')}"
