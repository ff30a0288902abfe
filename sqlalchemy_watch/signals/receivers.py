"""Receivers: how each connected one is called, with an event or with many, on which loop.

`ReceiverSignal` is a blinker signal that knows this of its receivers, and keeps a plan of the calls so that
dispatching a row does not look it up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable
from functools import cached_property
from types import FunctionType, MethodType
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import blinker
from blinker import ANY
from blinker._utilities import make_id, make_ref
from blinker.base import ANY_ID

from ..errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

#: Guards connecting, disconnecting and the plans made from them; dispatch takes it only to make a plan.
lock: threading.RLock = threading.RLock()

if hasattr(os, "register_at_fork"):  # a child must not inherit it from a thread that it does not have
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


class Batching(Protocol):
    """A signal whose receivers get many events at once; the listener gathers them."""

    max_size: int
    max_wait: float
    latest_only: bool

    def plan(self, sender: Any) -> tuple[Delivery, ...]:
        """Return its receivers for this sender."""


class Delivery(NamedTuple):
    """How one connected receiver is called."""

    receiver: Any
    weak: bool
    #: Called as `receiver(sender, event)`: it takes no keyword `event`.
    positional: bool
    is_async: bool
    #: The loop in which a coroutine receiver was connected; None where there was none.
    loop: asyncio.AbstractEventLoop | None
    #: Where events are gathered for the receivers of a `batches()`; then `receiver` is that signal itself.
    batch: Batching | None = None

    def resolve(self) -> Callable[..., Any] | None:
        """The receiver, or None where it was garbage collected."""
        return cast("Callable[..., Any] | None", self.receiver() if self.weak else self.receiver)


class _Style(NamedTuple):
    positional: bool
    is_async: bool


def _is_async(receiver: Callable[..., Any]) -> bool:
    if isinstance(receiver, type):  # called, it makes an instance
        return False
    return inspect.iscoroutinefunction(receiver) or inspect.iscoroutinefunction(
        getattr(receiver, "__call__", None)  # noqa: B004 - asks for the method itself
    )


def _style_of(signal: blinker.NamedSignal, receiver: Callable[..., Any], keyword: str) -> _Style:
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
        return _Style(False, is_async)
    try:
        signature.bind(None, **{keyword: None})
        return _Style(False, is_async)
    except TypeError:
        pass
    try:
        signature.bind(None, None)
        return _Style(True, is_async)
    except TypeError:
        raise ConfigurationError(
            f"signal {signal.name!r}: the receiver {receiver!r} can't be called as receiver(sender, {keyword}): "
            f"its signature is {signature}"
        ) from None


#: Looking at a signature takes longer than all else that connecting does; one receiver may have 100,000 filters.
_known_styles: weakref.WeakKeyDictionary[Any, dict[tuple[str, bool], _Style]] = weakref.WeakKeyDictionary()


def _known_style_of(signal: blinker.NamedSignal, receiver: Callable[..., Any], keyword: str) -> _Style:
    is_method = type(receiver) is MethodType
    function = receiver.__func__ if is_method else receiver  # type: ignore[attr-defined]
    if type(function) is not FunctionType:
        return _style_of(signal, receiver, keyword)
    with lock:
        styles = _known_styles.setdefault(function, {})
        style = styles.get((keyword, is_method))
        if style is None:
            style = styles[(keyword, is_method)] = _style_of(signal, receiver, keyword)
        return style


def _delivery(receiver: Callable[..., Any], weak: bool, style: _Style) -> Delivery:
    loop = None
    if style.is_async:
        with contextlib.suppress(RuntimeError):  # then it is the listener's, if that is started in one
            loop = asyncio.get_running_loop()
    # Of a function all weak references are one object, so that many subscriptions take little memory.
    found = receiver if not weak else make_ref(receiver)
    return Delivery(found, weak, *style, loop)


class ReceiverSignal(blinker.NamedSignal):
    """A blinker signal that knows how each of its receivers is called."""

    #: The keyword under which receivers get their argument.
    keyword = "event"

    def __init__(self, name: str, doc: str | None = None) -> None:
        super().__init__(name, doc)
        self._deliveries: dict[Any, Delivery] = {}
        self._plan: tuple[Delivery, ...] | None = ()

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        """Connect a receiver, to be called as `receiver(sender, event)`; returns it, so it decorates.

        :param receiver: a function, or a coroutine function: that runs on the event loop in which it was
            connected, or else the one in which the listener was started.
        :param sender: only events of this model class; by default all.
        :param weak: whether the receiver is disconnected when nothing else refers to it; use False for
            functions defined inside functions.
        :raises ConfigurationError: where the receiver can't be called that way.
        """
        delivery = _delivery(receiver, weak, _known_style_of(self, receiver, self.keyword))
        with lock:
            self._deliveries[make_id(receiver)] = delivery
            super().connect(receiver, sender, weak)
            self._plan = None
        return receiver

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        """Disconnect a receiver; one that is not connected is ignored."""
        with lock:
            super().disconnect(receiver, sender)

    def _disconnect(self, receiver_id: Hashable, sender_id: Hashable) -> None:
        # blinker's own hook: also called when a weakly connected receiver is garbage collected.
        with lock:
            super()._disconnect(receiver_id, sender_id)
            if receiver_id not in self.receivers:
                self._deliveries.pop(receiver_id, None)
            self._plan = None

    def _extra_deliveries(self) -> list[Delivery]:
        return []

    def plan(self, sender: Any) -> tuple[Delivery, ...]:
        """The receivers to call for this sender, in the order in which they were connected."""
        if self.is_muted:
            return ()
        plan = self._plan
        if plan is not None:
            return plan
        with lock:
            deliveries = []
            everyone = True
            # A copy: a garbage collection meanwhile may disconnect receivers, in this very thread.
            for receiver_id in self.receivers.copy():
                if receiver_id not in self._by_sender[ANY_ID]:
                    everyone = False
                    if receiver_id not in self._by_sender.get(make_id(sender), ()):
                        continue
                delivery = self._deliveries.get(receiver_id)
                if delivery is not None:
                    deliveries.append(delivery)
            plan = (*deliveries, *self._extra_deliveries())
            if everyone:  # a plan for all senders alike can be kept
                self._plan = plan
            return plan


class SoleReceivers:
    """Which compact signals a receiver is the only one of, so that one weak reference does for all of them."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[Any, dict[CompactSignal, None]]] = {}

    def add(self, receiver_id: Hashable, receiver: Callable[..., Any], signal: CompactSignal) -> None:
        """Have the signal told when the receiver is garbage collected."""
        entry = self._entries.get(receiver_id)
        if entry is None:
            entry = self._entries[receiver_id] = (make_ref(receiver, lambda _: self._lose(receiver_id)), {})
        entry[1][signal] = None

    def remove(self, receiver_id: Hashable, signal: CompactSignal) -> None:
        """It is no longer connected there."""
        entry = self._entries.get(receiver_id)
        if entry is not None:
            entry[1].pop(signal, None)
            if not entry[1]:
                del self._entries[receiver_id]

    def _lose(self, receiver_id: Hashable) -> None:
        if sys.is_finalizing():
            return
        with lock:
            _, signals = self._entries.pop(receiver_id, (None, {}))
            for signal in signals:
                signal._disconnect(receiver_id, ANY_ID)


class CompactSignal(ReceiverSignal):
    """A signal that keeps blinker's dictionaries and sets only once it has more than one receiver, or a sender.

    Of filtered signals there may be 100,000, mostly with a single receiver each: with all of a signal's state they
    would take ten times the memory, and the garbage collector's time.
    """

    is_muted: bool = False
    _is_compact = True
    _sole_id: Hashable = None

    def __init__(self, name: str, sole_receivers: SoleReceivers) -> None:
        # Not that of the base class: `_expand` calls it.
        self.name = name
        self._sole_receivers = sole_receivers
        self._plan = ()

    def __getattr__(self, name: str) -> Any:
        if name not in _STATE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._expand()
        return object.__getattribute__(self, name)

    @cached_property
    def receiver_connected(self) -> blinker.Signal:
        self._expand()
        return blinker.Signal()

    @cached_property
    def receiver_disconnected(self) -> blinker.Signal:
        self._expand()
        return blinker.Signal()

    def _expand(self) -> None:
        """Become a signal like any other."""
        with lock:
            if not self._is_compact:
                return
            plan, receiver_id = self._plan or (), self._sole_id
            receiver = plan[0].resolve() if plan else None  # held: it can't go meanwhile
            # Not by __init__ on itself: the dispatch thread takes no lock, and goes on with the plan as it is.
            model = object.__new__(type(self))
            model._is_compact = False
            super(CompactSignal, model).__init__(self.name)
            self.__dict__.update((name, value) for name, value in vars(model).items() if name in _STATE)
            self._is_compact = False
            if receiver is None:
                self._plan = None
                return
            self._sole_receivers.remove(receiver_id, self)
            # Not by the class's own connect(), which would know neither the loop nor the plan.
            self._deliveries[receiver_id] = plan[0]
            blinker.NamedSignal.connect(self, receiver, ANY, plan[0].weak)
            self._plan = None

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        with lock:
            if not self._is_compact or self._plan or sender is not ANY:
                self._expand()
                return super().connect(receiver, sender, weak)
            self._plan = (_delivery(receiver, weak, _known_style_of(self, receiver, self.keyword)),)
            self._sole_id = make_id(receiver)
            if weak:
                self._sole_receivers.add(self._sole_id, receiver, self)
            return receiver

    connect.__doc__ = ReceiverSignal.connect.__doc__

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        with lock:
            if not self._is_compact:
                super().disconnect(receiver, sender)
            elif sender is ANY and make_id(receiver) == self._sole_id:
                self._disconnect(self._sole_id, ANY_ID)

    disconnect.__doc__ = ReceiverSignal.disconnect.__doc__

    def _disconnect(self, receiver_id: Hashable, sender_id: Hashable) -> None:
        with lock:
            if self._is_compact:
                self._sole_receivers.remove(receiver_id, self)
                self._plan, self._sole_id = (), None
            else:
                super()._disconnect(receiver_id, sender_id)

    @property
    def in_use(self) -> bool:
        """Whether anything is connected."""
        return bool(self._plan) if self._is_compact else bool(self.receivers)


#: What a compact signal does not have yet.
_STATE = frozenset(
    ["receivers", "_by_receiver", "_by_sender", "_weak_senders", "_deliveries", "_batches", "_batch_views"]
)
