"""What each call of a receiver is made inside of: for tracing, error reporters, an application's context.

It never gets in a receiver's way: what goes wrong in it is logged, once, and the call is made.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

log: logging.Logger = logging.getLogger(__name__)

#: Returns what a call is made inside of; called with the `Call`.
Surround = Callable[[Any], AbstractContextManager[Any]]


class Surroundings:
    """All that the calls of a listener's receivers are made inside of. The first one added is the outermost."""

    def __init__(self) -> None:
        #: Replaced, and never changed: read for each call, by any thread.
        self.makers: tuple[Surround, ...] = ()
        self._has_failed = False
        self._lock = threading.RLock()  # reentrant: a garbage collection may run a finalizer that removes one

    def add(self, surround: Surround) -> Callable[[], None]:
        """Add one; return a function that takes it away again."""
        maker: Surround = lambda call: surround(call)  # noqa: E731 - its own, so that one added twice is taken away once
        with self._lock:
            self.makers = (*self.makers, maker)

        def remove() -> None:
            with self._lock:
                self.makers = tuple(each for each in self.makers if each is not maker)

        return remove

    def of(self, call: Any) -> AbstractContextManager[None]:
        """Return what this call is made inside of."""
        return _Inside(self.makers, call, self._note_failure)

    def _note_failure(self) -> None:
        level = logging.DEBUG if self._has_failed else logging.ERROR  # it may fail in each of many calls
        self._has_failed = True
        log.log(level, "what surrounds the calls of receivers failed; they are called all the same", exc_info=True)


class _Inside(AbstractContextManager[None]):
    def __init__(self, makers: tuple[Surround, ...], call: Any, note_failure: Callable[[], None]) -> None:
        self._makers, self._call, self._note_failure = makers, call, note_failure
        self._entered: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> None:
        for make in self._makers:
            try:
                manager = make(self._call)
                manager.__enter__()
            except BaseException:  # as receivers are: SystemExit ends no thread here
                self._note_failure()
            else:
                self._entered.append(manager)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._entered:
            try:
                self._entered.pop().__exit__(exc_type, exc, traceback)
            except BaseException as error:
                if error is not exc:
                    self._note_failure()
