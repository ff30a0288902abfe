"""Differences between a declared watch and what is installed for it.

Definitions are compared by their structure: `prosrc` is byte-exact, the rest of `pg_proc` and `pg_trigger` is
numbers and names.
"""

from __future__ import annotations

from ..declaring.spec import TableWatch
from ..functions.body import function_body, settings
from ..functions.expressions import TRIGGER_EVENTS, transition_tables
from ..functions.mark import TEMPLATE_VERSION
from .installed import InstalledFunction


def function_problems(watch: TableWatch, found: InstalledFunction) -> list[str]:
    """Describe how the function differs from the one that the watch would make."""
    problems = []
    if found.body != function_body(watch):
        mark = found.mark
        if mark is None:
            problems.append("the function's first line was edited")
        elif mark[0] != TEMPLATE_VERSION:
            problems.append(f"the function is of template version {mark[0]}, and this library has {TEMPLATE_VERSION}")
        else:
            problems.append("the function's body differs from the declaration")
    if found.name != watch.function_name:
        problems.append(f"the trigger calls {found.name!r}")
    if {s.casefold() for s in found.settings} != {f"{k}={v}".casefold() for k, v in settings(watch)}:
        problems.append("the function's settings differ")
    if found.language != "plpgsql" or found.security_definer:
        problems.append("the function's language or security differs")
    return problems


def trigger_problems(watch: TableWatch, found: InstalledFunction) -> list[str]:
    """Describe how the trigger differs from the one that the watch would make."""
    trigger = found.trigger
    if trigger is None:
        return ["there is no trigger"]
    problems = []
    if trigger.enabled != "O":
        problems.append(
            "the trigger is disabled" if trigger.enabled == "D" else "the trigger's mode is not the default"
        )
    found_options = (trigger.timing, trigger.events, trigger.fires_per_row, trigger.transition_tables)
    wanted_options = ("AFTER", (TRIGGER_EVENTS[watch.operation],), watch.fires_per_row, transition_tables(watch))
    if found_options != wanted_options or not trigger.plain:
        problems.append("the trigger was created with other options")
    if found.name != watch.function_name:
        problems.append("the trigger calls another function")
    return problems
