"""Receivers: how each connected one is called, with an event or with many, on which loop.

`ReceiverSignal` is a blinker signal that knows this of its receivers, and keeps a plan of the calls so that
dispatching a row does not look it up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Hashable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import blinker
from blinker import ANY
from blinker._utilities import make_id, make_ref
from blinker.base import ANY_ID

from .errors import ConfigurationError

if TYPE_CHECKING:
    from .signals import BatchSignal

F = TypeVar("F", bound=Callable[..., Any])

#: Guards connecting, disconnecting and the plans made from them; dispatch takes it only to make a plan.
lock: threading.RLock = threading.RLock()

if hasattr(os, "register_at_fork"):  # a child must not inherit it from a thread that it does not have
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


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
    batch: BatchSignal[Any] | None = None

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
