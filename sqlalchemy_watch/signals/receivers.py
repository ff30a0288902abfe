"""Receivers: how each connected one is called, with an event or with many, and on which loop.

`ReceiverSignal` is a blinker signal that knows this of its receivers. An `Outlet` is the same seen from the listener:
it keeps them ready to be called, so that dispatching a row looks nothing up.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol, cast

import blinker
from blinker import ANY

# blinker has no public way to the identity by which it tells receivers apart: a bound method is a new object at each
# access.
from blinker._utilities import make_id, make_ref
from blinker.base import ANY_ID

from ..errors import ConfigurationError
from .guard import lock
from .once import Once
from .styles import Style, loop_of, style_of

#: Characters of a receiver's name.
MAX_NAME_LENGTH = 200


class ReceiverName(str):
    """The `name=` of a receiver. It is known as long as a subscriber has it."""

    __slots__ = ("__weakref__", "receiver_id")

    receiver_id: Hashable


class Subscriber(NamedTuple):
    """A connected receiver, with all that calling it takes."""

    #: The identity by which blinker tells receivers apart.
    receiver_id: Hashable
    receiver: Any
    weak: bool
    #: Called as `receiver(sender, event)`: it takes no keyword `event`.
    positional: bool
    is_async: bool
    #: The loop in which a coroutine receiver was connected; None where there was none.
    loop: asyncio.AbstractEventLoop | None
    #: Of the signal made by `batches()`, for whose receivers events are gathered; then `receiver` is that signal.
    batch: Batching | None = None
    #: The keys of the senders whose events alone are wanted; None for all senders.
    senders: frozenset[Hashable] | None = None
    #: As it was given to `connect`.
    name: str | None = None
    #: True if it takes events in the order of the log, whatever runs side by side.
    in_order: bool = False

    def resolve(self) -> Callable[..., Any] | None:
        """Return the receiver, or None where it was garbage collected."""
        return cast("Callable[..., Any] | None", self.receiver() if self.weak else self.receiver)

    @property
    def connected(self) -> Callable[..., Any] | None:
        """The receiver as the application knows it; None where it was garbage collected."""
        found = self.resolve()
        return found.receiver if isinstance(found, Once) else found


def name_of(subscriber: Subscriber) -> str:
    """Return the name of a receiver for dead letters and logs.

    Without a name of its own it is module and qualified name, which are the same in every process.
    """
    return function_name(subscriber.resolve()) if subscriber.name is None else str(subscriber.name)


def function_name(receiver: Any) -> str:
    """Return module and qualified name of a function, of an object's class, or of what a `partial` calls."""
    function = getattr(receiver, "func", receiver)  # functools.partial
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"


def subscriber_of(
    receiver: Callable[..., Any],
    style: Style,
    weak: bool,
    name: ReceiverName | None,
    reference: Any = None,
    once: Once | None = None,
) -> Subscriber:
    """Return a receiver with all that calling it takes.

    :param reference: the weak reference to the receiver, where it is `weak`.
    :param once: what is called in its place.
    """
    found = once or (reference if weak else receiver)
    in_order = getattr(receiver, "in_order", False) is True
    return Subscriber(make_id(receiver), found, weak, *style, loop_of(style), name=name, in_order=in_order)


def style_of_once(once: Once) -> Style:
    """Return the way in which a receiver with a session is called."""
    return Style(True, once.is_async)


def _sender_key(sender: Any) -> Hashable:
    """Return a key that keeps no sender alive, and that no later object at the same address has."""
    try:
        key = weakref.ref(sender)
        hash(key)
    except TypeError:
        return make_id(sender)
    return key


class Subscribers:
    """Receivers of one signal or filter, in the order in which they were connected."""

    __slots__ = ("_by_id", "_is_changed", "for_any_sender")

    def __init__(self, *subscribers: Subscriber) -> None:
        self._by_id: dict[Hashable, Subscriber] = {subscriber.receiver_id: subscriber for subscriber in subscribers}
        self._is_changed = False
        #: The receivers to call, where they are the same for every sender; None where they differ, or have changed.
        self.for_any_sender: tuple[Subscriber, ...] | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, receiver_id: object) -> bool:
        return receiver_id in self._by_id

    def get(self, receiver_id: Hashable) -> Subscriber | None:
        """Return the receiver of this identity; None where it is not connected."""
        return self._by_id.get(receiver_id)

    def add(self, subscriber: Subscriber, sender: Any = ANY) -> None:
        """Add a receiver for a sender, or for all; one that is there is called in the new way, at its old place."""
        before = self._by_id.get(subscriber.receiver_id)
        if sender is not ANY and (before is None or before.senders is not None):
            others = () if before is None else before.senders or ()
            subscriber = subscriber._replace(senders=frozenset([_sender_key(sender), *others]))
        self._set(subscriber.receiver_id, subscriber)

    def remove(self, receiver_id: Hashable, sender: Any = ANY) -> None:
        """Remove a receiver, or one of the senders that it was added for; one added for all senders stays then."""
        before = self._by_id.get(receiver_id)
        if before is None:
            return
        if sender is ANY:
            self._set(receiver_id, None)
        elif before.senders is not None:
            left = before.senders - {_sender_key(sender)}
            self._set(receiver_id, before._replace(senders=left) if left else None)

    def clear(self) -> None:
        """Remove all receivers."""
        self._by_id.clear()
        self._is_changed, self.for_any_sender = True, None

    def _set(self, receiver_id: Hashable, subscriber: Subscriber | None) -> None:
        if subscriber is None:
            self._by_id.pop(receiver_id, None)
        else:
            self._by_id[receiver_id] = subscriber
        self._is_changed = True
        self.for_any_sender = None

    def for_sender(self, sender: Any) -> tuple[Subscriber, ...]:
        """Return the receivers to call for this sender, in the order in which they were connected."""
        found = self.for_any_sender
        if found is not None:
            return found
        with lock:
            self._is_changed = False
            # A copy: a garbage collection meanwhile may disconnect receivers, in this very thread.
            found = tuple(self._by_id.copy().values())
            if not any(subscriber.senders for subscriber in found):
                if not self._is_changed:
                    self.for_any_sender = found
                return found
        key = _sender_key(sender)
        return tuple([subscriber for subscriber in found if subscriber.senders is None or key in subscriber.senders])


class ClaimsNames(Protocol):
    """Knows the names of receivers."""

    def claim(self, name: str | None, receiver: Callable[..., Any]) -> ReceiverName | None:
        """Return the name for a receiver, to be kept in its subscriber; None where it has none."""


class Names:
    """The names of the receivers of one signal, its filters and its batches: no two receivers have the same one.

    :param signal: the signal's name.
    :param find: returns the receiver of this identity; None where it is not connected any more.
    """

    def __init__(self, signal: str, find: Callable[[Hashable], Subscriber | None]) -> None:
        self._signal = signal
        self._find = find
        self._known: weakref.WeakValueDictionary[str, ReceiverName] = weakref.WeakValueDictionary()

    def claim(self, name: str | None, receiver: Callable[..., Any]) -> ReceiverName | None:
        """Return the name for a receiver, to be kept in its subscriber; None where it has none.

        :raises ConfigurationError: for a name that is no name, and for one that another receiver has.
        """
        if name is None:
            return None
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise ConfigurationError(
                f"signal {self._signal!r}: the name of a receiver must be a text of 1 to {MAX_NAME_LENGTH} printable "
                f"characters, not {name!r:.{MAX_NAME_LENGTH}}"
            )
        with lock:
            known = self._known.get(name)
            if known is not None and known.receiver_id == make_id(receiver):
                return known
            holder = None if known is None else self._find(known.receiver_id)
            if holder is not None:
                raise ConfigurationError(
                    f"signal {self._signal!r}: the receivers {holder.resolve()!r} and {receiver!r} would both be named "
                    f"{name!r}, and dead letters could not tell them apart: give one of them another name="
                )
            self._known[name] = claimed = ReceiverName(name)
            claimed.receiver_id = make_id(receiver)
            return claimed


class Outlet:
    """The receivers of one signal, as the listener calls them."""

    def __init__(self) -> None:
        self.subscribers: Subscribers = Subscribers()
        #: True in a `with signal.muted()` block.
        self.is_muted: bool = False

    def subscribers_for(self, sender: Any) -> tuple[Subscriber, ...]:
        """Return the receivers to call for this sender, in the order in which they were connected."""
        if self.is_muted:
            return ()
        found = self.subscribers.for_any_sender
        return self.subscribers.for_sender(sender) if found is None else found

    def is_connected(self, subscriber: Subscriber, sender: Any, argument: Any) -> bool:
        """Return True if a receiver is connected, for this sender and argument, whether or not the signal is muted."""
        return any(each.receiver_id == subscriber.receiver_id for each in self.subscribers.for_sender(sender))


class Batching(Outlet):
    """The receivers of a signal made by `batches()`, for whom the listener gathers events."""

    def __init__(self, max_size: int, max_wait: float, latest_only: bool, sender: Any = None) -> None:
        super().__init__()
        #: The sender of all batches; None where each sender has batches of its own.
        self.sender: Any = sender
        self.max_size: int = max_size
        #: In seconds.
        self.max_wait: float = max_wait
        self.latest_only: bool = latest_only


class ReceiverSignal(blinker.NamedSignal):
    """A blinker signal that knows how each of its receivers is called.

    :param outlet: the listener's side of it.
    :param names: of its receivers.
    """

    #: The keyword under which receivers get their argument.
    _keyword = "event"

    def __init__(self, name: str, doc: str, outlet: Outlet, names: ClaimsNames) -> None:
        self._outlet = outlet
        self._names = names
        super().__init__(name, doc)

    @property
    def is_muted(self) -> bool:
        """True in a `with signal.muted()` block."""
        return self._outlet.is_muted

    @is_muted.setter
    def is_muted(self, value: bool) -> None:
        self._outlet.is_muted = value

    def _connect(self, receiver: Any, sender: Any, weak: bool, name: str | None, once: Once | None = None) -> None:
        style = style_of(lambda: self.name, receiver, self._keyword) if once is None else style_of_once(once)
        with lock:
            claimed = self._names.claim(name, receiver)
            # Of a function all plain weak references are one object.
            reference = make_ref(receiver) if weak else None
            self._outlet.subscribers.add(subscriber_of(receiver, style, weak, claimed, reference, once), sender)
            blinker.NamedSignal.connect(self, receiver, sender, weak)

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        """Disconnect a receiver. One that is not connected is ignored.

        :param sender: only from events of this model class, which it was connected to; by default from all.
        """
        with lock:
            super().disconnect(receiver, sender)
            if sender is not ANY:
                self._remove(make_id(receiver), sender)

    def _disconnect(self, receiver_id: Hashable, sender_id: Hashable) -> None:
        # blinker's own hook: also called when a weakly connected receiver is garbage collected.
        with lock:
            super()._disconnect(receiver_id, sender_id)
            if sender_id == ANY_ID:
                self._remove(receiver_id, ANY)

    def _clear_state(self) -> None:
        with lock:
            super()._clear_state()
            self._outlet.subscribers.clear()

    def _remove(self, receiver_id: Hashable, sender: Any) -> None:
        self._outlet.subscribers.remove(receiver_id, sender)
