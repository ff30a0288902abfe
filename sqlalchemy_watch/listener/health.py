"""Is a listener healthy? For probes: this reads what the threads have noted, and asks nobody."""

from __future__ import annotations

from .options import Options
from .source import SourceState


def is_hearing(state: SourceState, options: Options, busy_since: float | None, now: float) -> bool:
    """Return True if events are heard and dispatched, or another process does so and this one is ready to follow.

    :param busy_since: the time since which the dispatcher has been at one item; None between items.
    """
    if state.standing_by is not None:
        return not state.is_displaced
    silence = options.heartbeat_interval + options.heartbeat_timeout
    if not state.listening or (state.proved_at is not None and now - state.proved_at > 2 * silence):
        return False
    return busy_since is None or now - busy_since <= options.heartbeat_interval


def lag(since: float | None, newest: float | None, options: Options, now: float) -> float:
    """Return the age of the oldest event that is not done, in seconds; 0 where there is none.

    :param since: the time since which it has been here, by `time.monotonic()`; None without any.
    :param newest: the age, in seconds, that the newest event had when it was dispatched; None before the first.
    """
    if since is None:
        return 0.0
    # What a group reads may have been committed long ago; the last event that was dispatched tells how long.
    committed = (newest or 0.0) if options.group is not None else 0.0
    return max(now - since, committed)
