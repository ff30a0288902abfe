"""The listener's own signals, and how they are sent: on the dispatch thread, each receiver isolated from the others.

Coroutine receivers are waited for before anything later is dispatched: a `resync` that reloads would otherwise put its
older values over those of the events behind it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import blinker
from blinker import ANY

from ..errors import RetryAfter
from ..signals.receivers import function_name
from .pipeline.parts import Connected, Disconnected, News
from .waiting import Coroutine, Waiting

log: logging.Logger = logging.getLogger(__name__)


class ConnectedReceiver(Protocol):
    """A receiver of `connected`."""

    def __call__(self, listener: Any, /) -> Any:
        """Hear that LISTEN is in force."""


class DisconnectedReceiver(Protocol):
    """A receiver of `disconnected`."""

    def __call__(self, listener: Any, /, *, error: BaseException | None) -> Any:
        """Hear that the connection was lost."""


class ResyncReceiver(Protocol):
    """A receiver of `resync`."""

    def __call__(self, listener: Any, /, *, reason: str) -> Any:
        """Hear that something may have been missed."""


class BackfilledReceiver(Protocol):
    """A receiver of `backfilled`."""

    def __call__(self, listener: Any, /, *, model: Any, started_at: datetime) -> Any:
        """Hear that all existing rows of a model have been told of."""


class FailureReceiver(Protocol):
    """A receiver of `receiver_failed` and `dead_lettered`."""

    def __call__(self, listener: Any, /, *, receiver: Any, event: Any, error: BaseException) -> Any:
        """Hear that a receiver raised."""


L = TypeVar("L", ConnectedReceiver, DisconnectedReceiver, ResyncReceiver, BackfilledReceiver, FailureReceiver)


class LifecycleSignal(blinker.Signal, Generic[L]):
    """A signal of the listener itself, typed by its receivers."""

    def connect(self, receiver: L, sender: Any = ANY, weak: bool = False) -> L:  # type: ignore[override]
        """Connect a receiver, and return it: a decorator as well.

        It stays connected until it is disconnected, whoever else refers to it.

        :param receiver: a function, or a coroutine function, which runs on the loop in which the listener was started.
        :param sender: only of this listener; by default of all that send this signal.
        :param weak: disconnect the receiver when nothing else refers to it.
        """
        return super().connect(receiver, sender, weak)


class Lifecycle:
    """The six signals that a listener has beside those of the models."""

    def __init__(self, sender: object) -> None:
        #: The listener.
        self.sender: object = sender
        self.connected: LifecycleSignal[ConnectedReceiver] = LifecycleSignal("Sent when LISTEN is in force.")
        self.disconnected: LifecycleSignal[DisconnectedReceiver] = LifecycleSignal(
            "Sent with error= when the connection is lost."
        )
        self.resync: LifecycleSignal[ResyncReceiver] = LifecycleSignal(
            "Sent with reason= when something may have been missed."
        )
        self.dead_lettered: LifecycleSignal[FailureReceiver] = LifecycleSignal(
            "Sent with receiver=, event=, error= when an event is given up."
        )
        self.receiver_failed: LifecycleSignal[FailureReceiver] = LifecycleSignal(
            "Sent with receiver=, event=, error= when a receiver raises."
        )
        self.backfilled: LifecycleSignal[BackfilledReceiver] = LifecycleSignal(
            "Sent with model=, started_at= when all existing rows of a model have been told of."
        )
        #: The loop in which coroutine receivers run; None if the listener was started outside of one.
        self.loop: asyncio.AbstractEventLoop | None = None

    def tell(self, item: News, waiting: Waiting) -> None:
        """Tell of the connection, or that something may have been missed."""
        if isinstance(item, Connected):
            self._send(self.connected, waiting)
        elif isinstance(item, Disconnected):
            self._send(self.disconnected, waiting, error=item.error)
        else:
            self._send(self.resync, waiting, reason=item.reason)

    def tell_failure(self, receiver: Any, event: Any, error: BaseException, waiting: Waiting) -> None:
        """Tell that a receiver raised; for one of batches `event` is the list."""
        self._send(self.receiver_failed, waiting, receiver=receiver, event=event, error=error)

    def tell_dead_letter(self, receiver: Any, event: Any, error: BaseException, waiting: Waiting) -> None:
        """Tell that an event was given up."""
        self._send(self.dead_lettered, waiting, receiver=receiver, event=event, error=error)

    def tell_backfilled(self, model: Any, started_at: datetime, waiting: Waiting) -> None:
        """Tell that all existing rows of a model have been told of."""
        self._send(self.backfilled, waiting, model=model, started_at=started_at)

    def _send(self, signal: blinker.Signal, waiting: Waiting, **details: Any) -> None:
        receivers = list(signal.receivers_for(self.sender))
        while receivers:
            asked = self._call(receivers, waiting, details)
            if not asked:
                return
            if waiting.is_over:  # whoever asked to be told again has not heard of it
                waiting.was_cut_short = True
                return
            waiting.pause(max(error.seconds for _, error in asked))
            receivers = [receiver for receiver, _ in asked]

    def _call(
        self, receivers: Sequence[Any], waiting: Waiting, details: dict[str, Any]
    ) -> list[tuple[Any, RetryAfter]]:
        """Call receivers; return those that ask to be called again."""
        failed: list[tuple[Any, BaseException]] = []
        coroutines: list[Coroutine] = []
        for receiver in receivers:
            try:
                result = receiver(self.sender, **details)
            except BaseException as error:
                failed.append((receiver, error))
            else:
                if inspect.isawaitable(result):
                    coroutines.append(_coroutine(receiver, result))
        for call, error_of_call in zip(coroutines, waiting.run(coroutines) if coroutines else (), strict=True):
            if error_of_call is not None:
                failed.append((call.receiver, error_of_call))
            awaitable = call.begin()
            if inspect.iscoroutine(awaitable) and inspect.getcoroutinestate(awaitable) == inspect.CORO_CREATED:
                awaitable.close()  # it could not be run
        for receiver, failure in failed:
            _log_failure(receiver, failure)
        return [(receiver, failure) for receiver, failure in failed if isinstance(failure, RetryAfter)]


def _coroutine(receiver: Any, awaitable: Awaitable[Any]) -> Coroutine:
    return Coroutine(receiver, lambda: awaitable, None)


def _log_failure(receiver: Any, error: BaseException) -> None:
    if isinstance(error, RetryAfter):
        words = function_name(receiver), error, error.seconds
        log.warning("receiver %s of the listener can't be told now (%s): it is called again in %g s", *words)
        return
    log.error("receiver %s of the listener failed", function_name(receiver), exc_info=error)
