"""Caches that are known by the functions which delete one entry and clear all: any will do."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from functools import partial
from typing import Any

from ..errors import ConfigurationError
from ..signals.coroutines import is_coroutine_function
from .hearing import Hearing
from .stamps import Stamp, Stamps


class Callables:
    """A cache, as `invalidate` deals with it.

    :raises ConfigurationError: where a function is missing, or none.
    """

    #: What is stored is not seen.
    is_guarded: bool = False

    def __init__(self, delete: Callable[[Any], Any], everything: Callable[[], Any] | None) -> None:
        if not callable(delete) or callable(getattr(type(delete), "delete", None)):
            raise ConfigurationError(
                f"invalidate() takes a dogpile.cache region, or a function that deletes the entry of a key, such as "
                f"cache.delete, not {delete!r}"
            )
        if not callable(everything):
            raise ConfigurationError(
                f"everything= must be a function that clears the cache, such as cache.clear, not {everything!r}: at a "
                f"resync, after TRUNCATE and for rows that came in part nobody knows the keys"
            )
        self._delete, self._everything = delete, everything
        self.is_async: bool = is_coroutine_function(delete) or is_coroutine_function(everything)
        #: Values that were not kept.
        self.refused: int = 0
        self._stamps = Stamps()
        #: True where all has to be cleared: nobody knows the keys, or one could not be deleted.
        self._is_due = False

    def open(self, hearing: Hearing) -> None:
        """Do nothing: what is stored is not seen."""

    def close(self, hearing: Hearing) -> None:
        """Do nothing."""

    def begin(self) -> None:
        """Have nothing kept that was loaded before."""
        self._stamps.change_all(is_news=False)

    def look_for(self, key: Hashable) -> Stamp:
        """Return the stamp of a key whose value is about to be loaded."""
        return self._stamps.of(key)

    stamp = look_for

    def change(self, keys: Iterable[Hashable] | None) -> None:
        """Have nothing kept that was loaded before; without keys, of all."""
        if keys is None:
            self._stamps.change_all()
            self._is_due = True
            return
        for key in keys:
            self._stamps.change(key)

    def drop(self, keys: Iterable[Hashable] | None) -> Awaitable[None] | None:
        """Delete entries; without keys, all. Where that has failed before, all are deleted.

        :returns: with coroutine functions, what does so when it is awaited.
        """
        if self.is_async:
            return self._drop_async(keys)
        with self._noting_failure():
            for call in self._calls(keys):
                outcome = call()
                if inspect.isawaitable(outcome):
                    if inspect.iscoroutine(outcome):
                        outcome.close()
                    raise ConfigurationError(f"{call!r} has to be awaited: pass the coroutine function itself")
        return None

    def _calls(self, keys: Iterable[Hashable] | None) -> list[Callable[[], Any]]:
        if keys is None or self._is_due:
            self._is_due = False
            return [self._everything]
        return [partial(self._delete, key) for key in keys]

    async def _drop_async(self, keys: Iterable[Hashable] | None) -> None:
        with self._noting_failure():
            for call in self._calls(keys):
                outcome = call()
                if inspect.isawaitable(outcome):
                    await outcome

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._is_due = True  # it may be there still
            raise
