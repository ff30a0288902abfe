"""The listener's own signals, and how they are sent: on the dispatch thread, each receiver isolated from the others."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

import blinker

from ..errors import ListenerError
from .handover.items import Connected, Disconnected, Resync

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

    def tell(self, item: Connected | Disconnected | Resync) -> None:
        """Tell of the connection, or that something may have been missed."""
        if isinstance(item, Connected):
            self._send(self.connected)
        elif isinstance(item, Disconnected):
            self._send(self.disconnected, error=item.error)
        else:
            self._send(self.resync, reason=item.reason)

    def tell_failure(self, receiver: Any, event: Any, error: BaseException) -> None:
        """Tell that a receiver raised; for one of batches `event` is the list."""
        self._send(self.receiver_failed, receiver=receiver, event=event, error=error)

    def tell_dead_letter(self, receiver: Any, event: Any, error: BaseException) -> None:
        """Tell that an event was given up."""
        self._send(self.dead_lettered, receiver=receiver, event=event, error=error)

    def _send(self, signal: blinker.Signal, **details: Any) -> None:
        for receiver in list(signal.receivers_for(self.sender)):
            try:
                result = receiver(self.sender, **details)
                if inspect.iscoroutine(result):
                    if self.loop is None:
                        result.close()
                        raise ListenerError(
                            f"start the listener in a running event loop for coroutine receiver {receiver!r}"
                        )
                    asyncio.run_coroutine_threadsafe(result, self.loop)
            except BaseException as error:
                log.error("receiver %r of the listener failed", receiver, exc_info=error)
