"""`invalidate`, and what it returns."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, Protocol

from ..errors import ConfigurationError
from ..events.event import Event
from ..listener.listener import Listener, hears_alone
from ..listener.source import STARTED_LATE
from .callables import Callables
from .hearing import Hearing, WhileDisconnected
from .keys import KeyFunction, Keys
from .stamps import Stamp


class Cache(Protocol):
    """A cache, whatever it is."""

    #: Values that were not kept.
    refused: int

    @property
    def is_async(self) -> bool:
        """True if deleting is awaited."""

    @property
    def is_guarded(self) -> bool:
        """True if the cache does not take what is late."""

    def open(self, hearing: Hearing) -> None:
        """Keep only what a listener hears of."""

    def close(self, hearing: Hearing) -> None:
        """Ask it no more."""

    def begin(self) -> None:
        """Note that the listener begins to hear."""

    def look_for(self, key: Any) -> Stamp:
        """Return the stamp of a key whose value is about to be loaded."""

    def stamp(self, key: Any) -> Stamp:
        """Return the present stamp of a key."""

    def change(self, keys: Iterable[Any] | None) -> None:
        """Have nothing kept that was loaded before; without keys, of all."""

    def drop(self, keys: Iterable[Any] | None) -> Awaitable[None] | None:
        """Delete entries; without keys, all."""


class Invalidation:
    """What `invalidate` returns: it drops entries until `close()`, or the end of a `with` block."""

    def __init__(self, cache: Cache, keys: Keys, listener: Listener, while_disconnected: WhileDisconnected) -> None:
        self._cache, self._keys, self._listener = cache, keys, listener
        self._clears_at_loss = while_disconnected == "bypass" and not cache.is_guarded
        self._hearing = Hearing(listener, while_disconnected, keys.signals[0], cache.begin)
        self._receivers: list[Callable[[Any, Event[Any]], Any]] = (
            [self._note, self._drop_async] if cache.is_async else [self._drop]
        )
        self._is_open = True
        for signal in keys.signals:
            for receiver in self._receivers:
                signal.connect(receiver)
        listener.resync.connect(self._on_resync)
        listener.disconnected.connect(self._on_loss)
        self._hearing.open()
        cache.open(self._hearing)

    @property
    def refused(self) -> int:
        """The number of values that were not kept: their key was invalidated meanwhile, or the listener did not hear.

        Those of a region are counted together, whatever the model.
        """
        return self._cache.refused

    def loading(self, *keys: Any) -> Loading:
        """Return a context in which the values of these keys are loaded and stored, by whatever function::

            with invalidation.loading(key):
                cache.set(key, load())

        What was invalidated meanwhile is deleted at the end of it, so that it does not stay. With coroutine functions
        it is `async with`. A region's `get_or_create` and `cache_on_arguments` need it not, its `set` does.

        :raises ConfigurationError: without a key.
        """
        if not keys:
            raise ConfigurationError("loading() needs the keys whose values are loaded: loading(f'price:{number}')")
        return Loading(self._cache, keys, lambda: self._is_open and self._hearing.may_store)

    def close(self) -> None:
        """Drop nothing any more; closing twice does nothing. A region is left as it is without `invalidate`."""
        self._is_open = False
        for signal in self._keys.signals:
            for receiver in self._receivers:
                signal.disconnect(receiver)
        self._listener.resync.disconnect(self._on_resync)
        self._listener.disconnected.disconnect(self._on_loss)
        self._hearing.close()
        self._cache.close(self._hearing)

    def __enter__(self) -> Invalidation:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _drop(self, sender: Any, event: Event[Any]) -> None:
        keys, error = self._keys_of(event)
        self._cache.change(keys)
        self._cache.drop(keys)
        if error is not None:
            raise error

    def _note(self, sender: Any, event: Event[Any]) -> None:
        self._cache.change(self._keys_of(event)[0])  # at once, whatever the event loop does

    async def _drop_async(self, sender: Any, event: Event[Any]) -> None:
        keys, error = self._keys_of(event)
        dropping = self._cache.drop(keys)
        if dropping is not None:
            await dropping
        if error is not None:
            raise error

    #: Not behind slow receivers of the same key.
    _drop.in_order = _note.in_order = _drop_async.in_order = True  # type: ignore[attr-defined]

    def _keys_of(self, event: Event[Any]) -> tuple[list[Hashable] | None, Exception | None]:
        """Return the keys to drop; None for all, as where the function fails."""
        try:
            return self._keys.of(event), None
        except Exception as error:
            return None, error

    def _on_resync(self, listener: Any, *, reason: str) -> Awaitable[None] | None:
        if reason == STARTED_LATE and self._cache.is_guarded:
            return None  # nothing was stored before, and what is older is passed over already
        self._cache.change(None)
        return self._cache.drop(None)

    def _on_loss(self, listener: Any, *, error: BaseException | None) -> Awaitable[None] | None:
        if not self._clears_at_loss:
            return None
        self._cache.change(None)
        return self._cache.drop(None)


class Loading:
    """A context in which values are loaded and stored; made by `Invalidation.loading`."""

    def __init__(self, cache: Cache, keys: Iterable[Any], may_store: Callable[[], bool]) -> None:
        self._cache, self._keys, self._may_store = cache, tuple(keys), may_store
        self._stamps: dict[Any, Stamp] = {}

    @property
    def is_current(self) -> bool:
        """True as long as nothing was invalidated; one may look before a store, to spare it."""
        return self._may_store() and all(self._cache.stamp(key) == stamp for key, stamp in self._stamps.items())

    def __enter__(self) -> Loading:
        if self._cache.is_async:
            raise ConfigurationError("this cache is deleted from by a coroutine function: use async with")
        self._stamps = {key: self._cache.look_for(key) for key in self._keys}
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    async def __aenter__(self) -> Loading:
        self._stamps = {key: self._cache.look_for(key) for key in self._keys}
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        dropping = self._end()
        if dropping is not None:
            await dropping

    def _end(self) -> Awaitable[None] | None:
        """Delete what came too late, unless the cache has refused that."""
        if self._cache.is_guarded:
            return None
        may_store = self._may_store()
        late = [key for key, stamp in self._stamps.items() if not may_store or self._cache.stamp(key) != stamp]
        self._cache.refused += len(late)
        return self._cache.drop(late) if late else None


def invalidate(
    cache: Any, model: Any, *, key: KeyFunction, listener: Listener, everything: Callable[[], Any] | None = None,
    while_disconnected: WhileDisconnected = "serve",
) -> Invalidation:  # fmt: skip
    """Drop the entries of a cache when the rows that they were made of change, and keep nothing that was loaded before.

    A value that a row's change overtakes is not kept, so that no entry is stale for ever::

        invalidate(region, Product, key=lambda row: f"price:{row['id']}", listener=listener)
        invalidate(cache.delete, Order, key=lambda row: f"orders:{row['customer_id']}", everything=cache.clear,
                   listener=listener)

    At a `resync` all entries go. Each process that stores in the cache has a listener and calls this; a region over a
    store that several processes have in common sees to the entries of the others as well.

    :param cache: a configured region of dogpile.cache, whose `get_or_create` and `cache_on_arguments` need no change;
        or a function that deletes the entry of a key: that of any other cache, a coroutine function as well. Loads and
        stores of the latter stand in `with invalidation.loading(key)`.
    :param model: a mapped class, or a `Table`, watched for `updated`, `deleted` and `truncated` without conditions; and
        for `inserted`, where the key is made of more than the primary key, or where the absence of a row is cached.
    :param key: returns the key of a row's entry, an iterable of several keys, or None, from a mapping of the values
        that events carry, by attribute. It is called with the values that a row has, and with those that it had.
    :param listener: the one that hears the model, by NOTIFY.
    :param everything: with a function: one that clears the cache, where nobody knows the keys.
    :param while_disconnected: for losses of the connection that the listener has noticed: `"serve"` goes on, until the
        `resync` after it; `"bypass"` passes over the cache meanwhile. Without a running listener nothing is stored.
    :returns: an object with `close()`.
    :raises ConfigurationError: where entries would stay behind: for a model that is not watched for all that, a key
        that asks for what is not carried, or for what may change without `old=True`; for a listener that does not hear
        the model, or of which one process alone hears; and for a region without a backend.
    """
    if while_disconnected not in ("serve", "bypass"):
        raise ConfigurationError(f"while_disconnected must be 'serve' or 'bypass', not {while_disconnected!r}")
    keys = Keys(model, key)
    _check_listener(listener, keys)
    return Invalidation(_cache_of(cache, everything), keys, listener, while_disconnected)


def _check_listener(listener: Listener, keys: Keys) -> None:
    if not isinstance(listener, Listener):
        raise ConfigurationError(f"listener must be a Listener, not {listener!r}")
    if hears_alone(listener):
        raise ConfigurationError(
            "the listener has durable= or exclusive=, so that one process alone hears, and each one that stores in the "
            "cache has to: give invalidate() another Listener, without them"
        )
    served = set(map(id, listener.signals))
    for signal in keys.signals:
        if id(signal) not in served:
            raise ConfigurationError(
                f"the listener does not hear table {signal.details.table!r} ({signal.name}): add it to its targets"
            )


def _cache_of(cache: Any, everything: Callable[[], Any] | None) -> Cache:
    module = sys.modules.get("dogpile.cache.region")
    if module is None or not isinstance(cache, module.CacheRegion):
        return Callables(cache, everything)
    from .regions import GuardedRegion

    if everything is not None:
        raise ConfigurationError("everything= is for functions: a region is cleared without it")
    return GuardedRegion(cache)
