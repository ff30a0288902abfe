"""Receivers: how each connected one is called, with an event or with many, and on which loop.

`ReceiverSignal` is a blinker signal that knows this of its receivers. `Subscribers` keeps them ready to be called, so
that dispatching a row looks nothing up.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from types import FunctionType, MethodType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import blinker
from blinker import ANY

# blinker has no public way to the identity by which it tells receivers apart: a bound method is a new object at each
# access.
from blinker._utilities import make_id, make_ref
from blinker.base import ANY_ID

from ..errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K", bound=Hashable)

#: Guards connecting and disconnecting; dispatch takes it only after such a change. Reentrant, because a garbage
#: collection may disconnect receivers in the middle of anything, in the same thread.
lock: threading.RLock = threading.RLock()

if hasattr(os, "register_at_fork"):  # a child must not inherit it from a thread that it does not have
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


class Batching(Protocol):
    """A signal whose receivers get many events at once; the listener gathers them."""

    max_size: int
    max_wait: float
    latest_only: bool

    def subscribers_for(self, sender: Any) -> tuple[Subscriber, ...]:
        """Return the receivers to call for this sender."""

    def is_connected(self, subscriber: Subscriber, sender: Any, argument: Any) -> bool:
        """Return True if a receiver is connected, for this sender and argument."""


class Named(Protocol):
    """A signal, as far as errors need it."""

    @property
    def name(self) -> str:
        """Its name."""


class Style(NamedTuple):
    """The way in which a receiver takes its arguments."""

    #: As `receiver(sender, event)`: it takes no keyword `event`.
    positional: bool
    is_async: bool


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
    #: The signal made by `batches()`, for whose receivers events are gathered; then `receiver` is that signal itself.
    batch: Batching | None = None
    #: The keys of the senders whose events alone are wanted; None for all senders.
    senders: frozenset[Hashable] | None = None

    def resolve(self) -> Callable[..., Any] | None:
        """Return the receiver, or None where it was garbage collected."""
        return cast("Callable[..., Any] | None", self.receiver() if self.weak else self.receiver)


def _is_async(receiver: Callable[..., Any]) -> bool:
    if isinstance(receiver, type):  # called, it makes an instance
        return False
    return inspect.iscoroutinefunction(receiver) or inspect.iscoroutinefunction(
        getattr(receiver, "__call__", None)  # noqa: B004 - asks for the method itself
    )


def _read_style(signal: Named, receiver: Callable[..., Any], keyword: str) -> Style:
    if not callable(receiver):
        raise ConfigurationError(f"signal {signal.name!r}: the receiver {receiver!r} is not callable")
    if inspect.isgeneratorfunction(receiver) or inspect.isasyncgenfunction(receiver):
        raise ConfigurationError(
            f"signal {signal.name!r}: the receiver {receiver!r} is a generator, whose body would never run: "
            f"remove its yield"
        )
    is_async = _is_async(receiver)
    try:
        signature = inspect.signature(receiver)
    except (TypeError, ValueError):  # some builtins have none
        return Style(False, is_async)
    try:
        signature.bind(None, **{keyword: None})
        return Style(False, is_async)
    except TypeError:
        pass
    try:
        signature.bind(None, None)
        return Style(True, is_async)
    except TypeError:
        raise ConfigurationError(
            f"signal {signal.name!r}: the receiver {receiver!r} can't be called as receiver(sender, {keyword}): "
            f"its signature is {signature}"
        ) from None


#: Reading a signature takes longer than all else that connecting does, and one receiver may have 100,000 filters.
_known_styles: weakref.WeakKeyDictionary[Any, dict[tuple[str, bool], Style]] = weakref.WeakKeyDictionary()


def style_of(signal: Named, receiver: Callable[..., Any], keyword: str) -> Style:
    """Return the way in which a receiver takes a sender and this keyword.

    :raises ConfigurationError: where it can't be called that way.
    """
    is_method = type(receiver) is MethodType
    function = receiver.__func__ if is_method else receiver  # type: ignore[attr-defined]
    if type(function) is not FunctionType:
        return _read_style(signal, receiver, keyword)
    styles = _known_styles.get(function)
    style = None if styles is None else styles.get((keyword, is_method))
    if style is None:
        style = _read_style(signal, receiver, keyword)
        with lock:
            _known_styles.setdefault(function, {})[(keyword, is_method)] = style
    return style


def loop_of(style: Style) -> asyncio.AbstractEventLoop | None:
    """Return the running loop, for a coroutine receiver; None elsewhere, and where no loop runs."""
    if not style.is_async:
        return None
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # then it is the listener's, if that is started in one
        return None


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


class ReceiverSignal(blinker.NamedSignal):
    """A blinker signal that knows how each of its receivers is called."""

    #: The keyword under which receivers get their argument.
    keyword = "event"

    def __init__(self, name: str, doc: str | None = None) -> None:
        super().__init__(name, doc)
        self._subscribers = Subscribers()

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        """Connect a receiver, to be called as `receiver(sender, event=event)`, and return it: a decorator as well.

        :param receiver: a function, or a coroutine function. A coroutine function runs on the event loop in which it
            was connected; if none was running, on the one in which the listener was started.
        :param sender: only events of this model class; by default all.
        :param weak: disconnect the receiver when nothing else refers to it. Use False for functions defined inside
            functions.
        :raises ConfigurationError: where the receiver can't be called that way.
        """
        style = style_of(self, receiver, self.keyword)
        # Of a function all plain weak references are one object.
        found = make_ref(receiver) if weak else receiver
        subscriber = Subscriber(make_id(receiver), found, weak, *style, loop_of(style))
        with lock:
            self._subscribers.add(subscriber, sender)
            super().connect(receiver, sender, weak)
        return receiver

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
            self._subscribers = Subscribers()

    def _remove(self, receiver_id: Hashable, sender: Any) -> None:
        self._subscribers.remove(receiver_id, sender)

    def subscribers_for(self, sender: Any) -> tuple[Subscriber, ...]:
        """Return the receivers to call for this sender, in the order in which they were connected."""
        if self.is_muted:
            return ()
        found = self._subscribers.for_any_sender
        return self._subscribers.for_sender(sender) if found is None else found

    def is_connected(self, subscriber: Subscriber, sender: Any, argument: Any) -> bool:
        """Return True if a receiver is connected for this sender, whether or not the signal is muted."""
        return any(each.receiver_id == subscriber.receiver_id for each in self._subscribers.for_sender(sender))
