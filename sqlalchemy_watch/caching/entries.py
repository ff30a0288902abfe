"""Entries of a region as the store has them, each with its epoch; and what a thread has looked for last.

Importing this needs dogpile.cache.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from dogpile.cache.api import NO_VALUE, CachedValue

from ..errors import ConfigurationError
from .stamps import Stamp

#: Under this key, mangled as others are, the store holds the epoch; under this name an entry's metadata has it.
EPOCH: Final = "sqlalchemy_watch:epoch"

#: Looked for keys that a thread or a task is remembered to have, so that it may store their values.
MOST_LOOKED_FOR = 1_000

#: Keys that a process remembers to have stored.
MOST_STORED = 50_000


class Looked(NamedTuple):
    """What held when a key was looked for; a value that was loaded later may be stored while it holds still."""

    stamp: Stamp
    epoch: str


#: Never holds.
NEVER = Looked((-1, -1), "")


class LookedFor(threading.local):
    """The keys that a thread, or one of its tasks, has looked for last, and what held then.

    One that is remembered for long does no harm: what held earlier is the stricter.
    """

    def __init__(self) -> None:
        self._of_thread: dict[Any, Looked] = {}
        self._of_tasks: MutableMapping[Any, dict[Any, Looked]] = weakref.WeakKeyDictionary()

    def note(self, looked_for: Mapping[Any, Looked]) -> None:
        """Note these, all of them, and forget the oldest of the others."""
        own = self._own()
        for key in looked_for:
            own.pop(key, None)
        while own and len(own) > MOST_LOOKED_FOR - len(looked_for):
            del own[next(iter(own))]
        own.update(looked_for)

    def found(self, key: Any) -> Looked | None:
        """Return what held when the key was looked for; None where it was not."""
        return self._own().get(key)

    def _own(self) -> dict[Any, Looked]:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no event loop runs here
            task = None
        return self._of_thread if task is None else self._of_tasks.setdefault(task, {})


class Stored:
    """The keys of entries that a process has stored, as far as it remembers; each method is safe in any thread."""

    def __init__(self) -> None:
        self._younger: dict[Any, None] = {}
        self._older: dict[Any, None] = {}

    def add(self, keys: Iterable[Any]) -> None:
        """Remember some; where they become too many, forget those that are older."""
        if len(self._younger) > MOST_STORED // 2:
            self._older, self._younger = self._younger, {}
        self._younger.update(dict.fromkeys(keys))

    def remove(self, key: Any) -> None:
        """Forget one, whose entry is gone."""
        self._younger.pop(key, None)
        self._older.pop(key, None)

    def take(self) -> list[Any]:
        """Return all, and forget them."""
        older, younger = self._older, self._younger
        self._older, self._younger = {}, {}
        return [*older.copy(), *younger.copy()]


def epoch_in(raw: Any) -> str | None:
    """Return the epoch that the store holds; None where it holds none."""
    if isinstance(raw, CachedValue):
        raw = raw.payload
    return raw.decode() if isinstance(raw, bytes) else raw if isinstance(raw, str) else None


def _head(epoch: str) -> bytes:
    """Return the beginning of the JSON with which dogpile's serialized entries begin, so that others can read it."""
    return b'{"%b": "%b", ' % (EPOCH.encode(), epoch.encode())


def with_epoch(value: Any, epoch: str) -> Any:
    """Return an entry as it is stored.

    :raises ConfigurationError: for what no region makes.
    """
    if isinstance(value, bytes):
        return _head(epoch) + (value[1:] if value.startswith(b"{") else b"\0" + value)
    if not isinstance(value, CachedValue):
        raise ConfigurationError(
            f"a proxy of the region makes {type(value).__name__} of what is stored: wrap it before invalidate()"
        )
    return CachedValue(value.payload, {**value.metadata, EPOCH: epoch})


def without_epoch(value: Any, epoch: str) -> Any:
    """Return an entry of the present epoch as it was given; any other is none."""
    if isinstance(value, bytes):
        head = _head(epoch)
        if not value.startswith(head):
            return NO_VALUE
        rest = value[len(head) :]
        return rest[1:] if rest.startswith(b"\0") else b"{" + rest  # without it another proxy has made it unlike JSON
    if isinstance(value, CachedValue) and value.metadata.get(EPOCH) == epoch:
        return value
    return NO_VALUE
