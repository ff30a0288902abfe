"""Forks, and the end of the process: what runs in threads stops, or is given up.

A forked child has the parent's sockets and none of its threads. It must neither use those sockets nor close them in a
way that sends a byte; and were it to keep them open, the server would not notice the parent's death.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from typing import Any, Protocol

log: logging.Logger = logging.getLogger(__name__)

#: Seconds that each gets at the end of the process.
EXIT_SECONDS = 1.0


class Running(Protocol):
    """Runs in threads of its own."""

    def stop(self, timeout: float) -> None:
        """Stop within so many seconds."""

    def disown(self) -> None:
        """Give up everything that is the parent's, in a forked child."""


#: Held for the moment in which something begins or ends to run. Reentrant, since a collection meanwhile may run
#: somebody's stop() in this very thread.
lock: threading.RLock = threading.RLock()

_running: weakref.WeakSet[Running] = weakref.WeakSet()

#: Kept once they are disowned, so that garbage collection closes nothing of the parent's.
_inherited: list[Any] = []


def register(running: Running) -> None:
    """Have it stopped at the end of the process, and disowned in a forked child."""
    _running.add(running)


def unregister(running: Running) -> None:
    """Forget what has been stopped."""
    _running.discard(running)


def let_go(descriptor: int | None) -> None:
    """Give up a socket of the parent's in a forked child, without a byte being sent.

    Closing it would not do: the object that it belongs to may use its number once more, for another file by then.
    """
    if descriptor is not None and descriptor >= 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, descriptor)
        os.close(null)


@atexit.register
def _stop_all() -> None:
    for running in list(_running):
        running.stop(EXIT_SECONDS)


def _disown_all() -> None:
    found = list(_running)
    for running in found:
        _running.discard(running)
        _inherited.append(running)
        running.disown()
    if found:
        with contextlib.suppress(Exception):  # a handler may be of no use in the child
            log.warning(
                "a listener of the parent does not run in this forked process (%d): start one here if it is to hear",
                os.getpid(),
            )


if hasattr(os, "register_at_fork"):
    # A child must not inherit the lock from a thread that it does not have.
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    os.register_at_fork(after_in_child=_disown_all)
