"""dogpile.cache: a `ProxyBackend` between a region and its backend, so that `get_or_create` needs no change.

Three things keep an entry from being stale for ever, whoever stores it:

- An event deletes it, and changes the stamp of its key. A value whose stamp has changed since it was looked for, in the
  thread or task that stores it, is refused; one whose stamp changes while it is stored is deleted again.
- Each entry carries the epoch that stood in the store when its value was looked for. A `resync` puts a new epoch there,
  in one write, and with that all entries are of the past: those of other processes and regions over the same store as
  well, and those that are stored later by a load which began before.
- When listening begins, entries that are older are passed over by this process, since nobody may have heard meanwhile.

Importing this needs dogpile.cache.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dogpile.cache import CacheRegion
from dogpile.cache.api import NO_VALUE, CachedValue
from dogpile.cache.proxy import ProxyBackend
from dogpile.cache.region import value_version

from ..errors import ConfigurationError
from .entries import EPOCH, NEVER, Looked, LookedFor, Stored, epoch_in, with_epoch, without_epoch
from .hearing import Hearing
from .stamps import Stamp, Stamps

log: logging.Logger = logging.getLogger(__name__)

#: Keys that are deleted in one round trip.
AT_ONCE = 1_000

#: Seconds that a load takes at the most, where a value is stored that was not looked for before.
LOAD_SECONDS = 60.0


class Guard(ProxyBackend):
    """Between a region and its backend, once for all models whose entries the region has."""

    def __init__(self, region: CacheRegion) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stamps: Stamps = Stamps()
        #: Values that were not kept.
        self.refused: int = 0
        self._region = region
        self._epoch_key = _mangled(region, EPOCH)
        #: Replaced, never changed. Nothing is guarded without any.
        self._hearings: tuple[Hearing, ...] = ()
        self._looked_for = LookedFor()
        self._stored = Stored()
        self._lock = threading.Lock()
        #: True where the store has to have a new epoch before it is read.
        self._is_due = False
        self._has_warned = False
        if region.async_creation_runner is not None:
            region.async_creation_runner = self._noting(region.async_creation_runner)

    def follow(self, hearing: Hearing) -> None:
        """Keep only what a listener hears of."""
        with self._lock:
            self._hearings = (*self._hearings, hearing)

    def unfollow(self, hearing: Hearing) -> None:
        """Ask it no more."""
        with self._lock:
            self._hearings = tuple(each for each in self._hearings if each is not hearing)

    def begin(self) -> None:
        """Pass over what is older than the listener's hearing; in this process alone, since others may have heard."""
        self.stamps.change_all(is_news=False)
        self._region.invalidate()  # type: ignore[no-untyped-call]

    def renew(self) -> None:
        """Have nothing served any more that is in the store, or on its way there, in whatever process."""
        self.stamps.change_all()
        self._is_due = True
        with self.noting_failure():
            self._put_epoch(uuid.uuid4().hex)
            self._is_due = False
            # They take memory, and whoever reads without a guard would have them.
            keys = self._stored.take()
            for start in range(0, len(keys), AT_ONCE):
                self.proxied.delete_multi(keys[start : start + AT_ONCE])

    @contextlib.contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Have the store get a new epoch before it is read again, where something could not be deleted."""
        try:
            yield
        except BaseException:
            self._is_due = True
            raise

    def look_for(self, keys: Iterable[str]) -> None:
        """Note that the values of these keys are about to be loaded by this thread or task."""
        if self._region.serializer is not None:
            self._read(keys, self.proxied.get_serialized, self.proxied.get_serialized_multi)
        else:
            self._read(keys, self.proxied.get, self.proxied.get_multi)

    # What a region calls

    def get(self, key: Any) -> Any:
        return self._read([key], self.proxied.get, self.proxied.get_multi)[0]

    def get_serialized(self, key: Any) -> Any:
        return self._read([key], self.proxied.get_serialized, self.proxied.get_serialized_multi)[0]

    def get_multi(self, keys: Iterable[Any]) -> Sequence[Any]:
        return self._read(keys, None, self.proxied.get_multi)

    def get_serialized_multi(self, keys: Iterable[Any]) -> Sequence[Any]:
        return self._read(keys, None, self.proxied.get_serialized_multi)

    def set(self, key: Any, value: Any) -> None:
        self._write({key: value}, lambda kept: self.proxied.set(key, kept[key]))

    def set_serialized(self, key: Any, value: Any) -> None:
        self._write({key: value}, lambda kept: self.proxied.set_serialized(key, kept[key]))

    def set_multi(self, mapping: Mapping[Any, Any]) -> None:
        self._write(mapping, self.proxied.set_multi)

    def set_serialized_multi(self, mapping: Mapping[Any, Any]) -> None:
        self._write(mapping, self.proxied.set_serialized_multi)

    def delete(self, key: Any) -> None:
        self.stamps.change(key)
        self._stored.remove(key)
        self.proxied.delete(key)

    def delete_multi(self, keys: Iterable[Any]) -> None:
        keys = list(keys)
        for key in keys:
            self.stamps.change(key)
            self._stored.remove(key)
        self.proxied.delete_multi(keys)

    # How it is done

    def _read(
        self, keys: Iterable[Any], one: Callable[[Any], Any] | None, many: Callable[[list[Any]], Sequence[Any]]
    ) -> list[Any]:
        keys = list(keys)
        if not self._hearings or not keys:
            return [one(key) for key in keys] if one is not None else list(many(keys))
        if not all(hearing.may_serve for hearing in self._hearings):
            self._looked_for.note(dict.fromkeys(keys, NEVER))
            return [NO_VALUE] * len(keys)
        if self._is_due:
            self.renew()
        stamps = {key: self.stamps.of(key) for key in keys}  # before it is read
        wanted = [*keys, self._epoch_key]
        # In one round trip; not through others' proxies, which may know `get` alone.
        apart = one is not None and isinstance(self.proxied, ProxyBackend)
        *found, raw = [one(key) for key in wanted] if apart and one is not None else many(wanted)
        epoch = epoch_in(raw) or self._begin_epoch()
        self._looked_for.note({key: Looked(stamp, epoch) for key, stamp in stamps.items()})
        return [without_epoch(value, epoch) for value in found]

    def _write(self, values: Mapping[Any, Any], write: Callable[[dict[Any, Any]], None]) -> None:
        if not self._hearings:
            write(dict(values))
            return
        if not all(hearing.may_store for hearing in self._hearings):
            self._refuse(len(values))
            return
        looked_for = {key: self._looked_for.found(key) or self._guess(key) for key in values}
        holding = [key for key in values if self._holds(key, looked_for)]
        kept = {key: with_epoch(values[key], looked_for[key].epoch) for key in holding}
        try:
            if kept:
                self._stored.add(kept)
                write(kept)
        finally:  # it may have been stored, whatever it has raised
            late = [key for key in kept if not self._holds(key, looked_for)]
            self.refused += len(values) - len(kept) + len(late)
            if late:
                with self.noting_failure():
                    self.proxied.delete_multi(late)

    def _holds(self, key: Any, looked_for: Mapping[Any, Looked]) -> bool:
        return looked_for[key].stamp == self.stamps.of(key)

    def _refuse(self, count: int) -> None:
        self.refused += count
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "nothing is stored in the cache: the listener is not connected, so that nobody would drop it when its "
                "row changes (said once)"
            )

    def _guess(self, key: Any) -> Looked:
        """Return what held before a value was loaded which was not looked for: nobody knows when that was."""
        stamp = self.stamps.of(key)
        if self.stamps.was_changed_within(LOAD_SECONDS, key):
            return NEVER
        return Looked(stamp, self._epoch())

    def _epoch(self) -> str:
        is_serialized = self._region.serializer is not None
        raw = (self.proxied.get_serialized if is_serialized else self.proxied.get)(self._epoch_key)
        return epoch_in(raw) or self._begin_epoch()

    def _begin_epoch(self) -> str:
        """Return the store's first epoch, or the first after the store has lost it."""
        epoch = uuid.uuid4().hex
        self._put_epoch(epoch)
        return epoch

    def _put_epoch(self, epoch: str) -> None:
        if self._region.serializer is not None:
            self.proxied.set_serialized(self._epoch_key, epoch.encode())
        else:
            self.proxied.set(self._epoch_key, CachedValue(epoch, {"ct": time.time(), "v": value_version}))

    def _noting(self, runner: Callable[..., Any]) -> Callable[..., Any]:
        """Return a runner whose creators are noted where they run: it is there that their values are stored."""

        @functools.wraps(runner)
        def run(region: CacheRegion, key: Any, creator: Callable[[], Any], mutex: Any) -> Any:
            @functools.wraps(creator)
            def create() -> Any:
                self.look_for([_mangled(region, key)])
                return creator()

            return runner(region, key, create, mutex)

        return run


def _mangled(region: CacheRegion, key: Any) -> Any:
    return key if region.key_mangler is None else region.key_mangler(key)


_wrapping = threading.Lock()


def _guard_of(region: CacheRegion) -> Guard:
    """Return the guard of a region, which stands in front of its backend from now on."""
    with _wrapping:
        backend: Any = region.backend
        while isinstance(backend, ProxyBackend):
            if isinstance(backend, Guard):
                return backend
            backend = backend.proxied
        guard = Guard(region)
        region.wrap(guard)
        return guard


class GuardedRegion:
    """A region, as `invalidate` deals with it.

    :raises ConfigurationError: where it is not configured.
    """

    #: Deletes are no coroutines.
    is_async: bool = False
    #: Nothing that is late is stored.
    is_guarded: bool = True

    def __init__(self, region: CacheRegion) -> None:
        if not region.is_configured:
            raise ConfigurationError(
                "the region has no backend yet, and invalidate() stands in front of that: call region.configure() first"
            )
        self._region = region
        self._guard = _guard_of(region)

    @property
    def refused(self) -> int:
        """Values that were not kept."""
        return self._guard.refused

    @refused.setter
    def refused(self, value: int) -> None:
        self._guard.refused = value

    def open(self, hearing: Hearing) -> None:
        """Keep only what a listener hears of."""
        self._guard.follow(hearing)

    def close(self, hearing: Hearing) -> None:
        """Ask it no more."""
        self._guard.unfollow(hearing)

    def begin(self) -> None:
        """Pass over what is older than the listener's hearing."""
        self._guard.begin()

    def look_for(self, key: Any) -> Stamp:
        """Return the stamp of a key whose value is about to be loaded."""
        key = _mangled(self._region, key)
        self._guard.look_for([key])
        return self._guard.stamps.of(key)

    def stamp(self, key: Any) -> Stamp:
        """Return the present stamp of a key."""
        return self._guard.stamps.of(_mangled(self._region, key))

    def change(self, keys: Iterable[Any] | None) -> None:
        """Do nothing: `drop` does so at once."""

    def drop(self, keys: Iterable[Any] | None) -> None:
        """Delete entries, and have nothing kept that was loaded before; without keys, of all."""
        if keys is None:
            self._guard.renew()
            return
        with self._guard.noting_failure():
            for key in keys:
                self._region.delete(key)
