"""The state of a listener: a process that does not hear must not store, since nobody would drop the entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from ..listener.listener import Listener
from ..signals.filters import feeds_of
from ..signals.watch_signals import WatchSignal

WhileDisconnected: TypeAlias = Literal["serve", "bypass"]


class Hearing:
    """The state of a listener, as its own signals tell it; they come in the order of the events.

    :param signal: one that it serves.
    :param on_begin: called when it begins to hear, for the first time or after a `stop()`.
    """

    def __init__(
        self, listener: Listener, while_disconnected: WhileDisconnected, signal: WatchSignal[Any],
        on_begin: Callable[[], None],
    ) -> None:  # fmt: skip
        self._listener, self._on_begin = listener, on_begin
        self._bypasses = while_disconnected == "bypass"
        self._feeds = feeds_of(signal)
        #: True from the first connection of a run to its end.
        self._has_heard = False
        self._is_connected = False

    def open(self) -> None:
        """Follow the listener from now on."""
        for feed in self._feeds:
            feed.tell(self)
        self._listener.connected.connect(self._note_connection)
        self._listener.disconnected.connect(self._note_loss)
        if self._listener.stats().connected_since is not None:
            self._note_connection(self._listener)

    def close(self) -> None:
        """Follow it no more."""
        for feed in self._feeds:
            feed.tell_no_more(self)
        self._listener.connected.disconnect(self._note_connection)
        self._listener.disconnected.disconnect(self._note_loss)

    def _note_connection(self, listener: Any) -> None:
        is_first, self._has_heard, self._is_connected = not self._has_heard, True, True
        if is_first:
            self._on_begin()

    def _note_loss(self, listener: Any, *, error: BaseException | None) -> None:
        self._is_connected = False

    def missed(self, reason: str) -> None:
        """Do nothing: there is a `resync`."""

    def end(self) -> None:
        """Note that the last listener has stopped which serves the signal."""
        self._has_heard = self._is_connected = False

    @property
    def may_store(self) -> bool:
        """True while what is stored is dropped in time, or, with "serve", at the `resync` that follows a loss."""
        return self._listener.running and (self._is_connected or (self._has_heard and not self._bypasses))

    @property
    def may_serve(self) -> bool:
        """True unless entries are to be passed over."""
        return not self._bypasses or (self._is_connected and self._listener.running)
