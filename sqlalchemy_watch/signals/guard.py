"""The lock under which receivers are connected and disconnected, and what a garbage collection may do meanwhile."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: Guards connecting and disconnecting; dispatch takes it only after such a change. Reentrant, because a garbage
#: collection may disconnect receivers in the middle of anything, in the same thread.
lock: threading.RLock = threading.RLock()

if hasattr(os, "register_at_fork"):  # a child must not inherit it from a thread that it does not have
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


class Change(Generic[K]):
    """Guards a change of the connected receivers: those that die in the middle of it are removed at its end.

    A garbage collection may come with any allocation, in the very thread that is changing something. Used in `with`
    statements.

    :param remove: called under the lock, with the key of a receiver that is gone.
    """

    __slots__ = ("_depth", "_dying", "_remove")

    def __init__(self, remove: Callable[[K], None]) -> None:
        self._remove = remove
        self._depth = 0
        self._dying: deque[K] = deque()

    def __enter__(self) -> None:
        lock.acquire()
        self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        self._depth -= 1
        try:
            while self._dying and not self._depth:
                self._depth = 1
                try:
                    self._remove(self._dying.popleft())
                finally:
                    self._depth = 0
        finally:
            lock.release()

    def remove(self, key: K) -> None:
        """Remove a receiver: now, or at the end of the change under way."""
        self._dying.append(key)
        with self:
            pass

    def forget(self, key: K, reference: object) -> None:
        """Remove a receiver that was garbage collected: the callback of its weak reference."""
        if not sys.is_finalizing():
            self.remove(key)
