"""The listener's own signals, and how they are sent: on the dispatch thread, each receiver isolated from the others.

Coroutine receivers are waited for before anything later is dispatched: a `resync` that reloads would otherwise put its
older values over those of the events behind it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable
from typing import Any

import blinker

from .handover.items import Connected, Disconnected, Resync
from .naming import function_name
from .waiting import Coroutine, Waiting

log: logging.Logger = logging.getLogger(__name__)


class Lifecycle:
    """The five signals that a listener has beside those of the models."""

    def __init__(self, sender: object) -> None:
        #: The listener.
        self.sender: object = sender
        self.connected: blinker.Signal = blinker.Signal("Sent when LISTEN is in force.")
        self.disconnected: blinker.Signal = blinker.Signal("Sent with error= when the connection is lost.")
        self.resync: blinker.Signal = blinker.Signal("Sent with reason= when something may have been missed.")
        self.dead_lettered: blinker.Signal = blinker.Signal(
            "Sent with receiver=, event=, error= when an event is given up."
        )
        self.receiver_failed: blinker.Signal = blinker.Signal(
            "Sent with receiver=, event=, error= when a receiver raises."
        )
        #: The loop in which coroutine receivers run; None if the listener was started outside of one.
        self.loop: asyncio.AbstractEventLoop | None = None

    def tell(self, item: Connected | Disconnected | Resync, waiting: Waiting) -> None:
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

    def _send(self, signal: blinker.Signal, waiting: Waiting, **details: Any) -> None:
        coroutines: list[Coroutine] = []
        for receiver in list(signal.receivers_for(self.sender)):
            try:
                result = receiver(self.sender, **details)
            except BaseException as error:
                _log_failure(receiver, error)
            else:
                if inspect.isawaitable(result):
                    coroutines.append(_coroutine(receiver, result))
        if not coroutines:
            return
        for call, error_of_call in zip(coroutines, waiting.run(coroutines), strict=True):
            if error_of_call is not None:
                _log_failure(call.receiver, error_of_call)
            awaitable = call.begin()
            if inspect.iscoroutine(awaitable) and inspect.getcoroutinestate(awaitable) == inspect.CORO_CREATED:
                awaitable.close()  # it could not be run


def _coroutine(receiver: Any, awaitable: Awaitable[Any]) -> Coroutine:
    return Coroutine(receiver, lambda: awaitable, None)


def _log_failure(receiver: Any, error: BaseException) -> None:
    log.error("receiver %s of the listener failed", function_name(receiver), exc_info=error)
