"""`Expecting`: a listener for tests that commit, which wait for what they expect."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..errors import CatchUpTimeout, ConfigurationError
from ..events.event import Event, T
from ..listener.listener import Listener
from ..signals.filters import EventSignal, feeds_of


class Expecting:
    """A running listener; made by the fixture `watch_listener`.

    A test names what it expects, and commits within the block::

        with watch_listener.expect(Order.watch.inserted) as events:
            create_order(session)  # which commits
        assert events[0].values["customer_id"] == 42
    """

    def __init__(self, listener: Listener) -> None:
        #: The listener itself.
        self.listener: Listener = listener

    @contextlib.contextmanager
    def expect(self, signal: EventSignal[T], count: int | None = 1, timeout: float = 5.0) -> Iterator[list[Event[T]]]:
        """Collect the events of a signal during the block, and wait behind it until all have been dispatched.

        :param count: how many there have to be; None for any number.
        :param timeout: seconds to wait for them.
        :raises AssertionError: where there are others.
        :raises ConfigurationError: for a signal that the listener does not serve: of another model, or delivery.
        """
        events: list[Event[T]] = []

        def note(sender: Any, event: Event[T]) -> None:
            events.append(event)

        if not any(feed.sources for feed in feeds_of(signal)):
            raise ConfigurationError(
                f"{signal.name}: the listener does not hear it: it is not among its targets, or its delivery is "
                f"another one (a durable signal needs a Listener with durable=)"
            )
        self._catch_up(signal, timeout)  # what was committed before is none of the block's
        signal.connect(note)
        try:
            yield events
            self._catch_up(signal, timeout)
        finally:
            signal.disconnect(note)
        if count is not None and len(events) != count:
            raise AssertionError(f"{signal.name}: {len(events)} events, and {count} were expected: {events!r}")

    def _catch_up(self, signal: EventSignal[Any], timeout: float) -> None:
        try:
            self.listener.catch_up(timeout)
        except CatchUpTimeout as error:
            raise AssertionError(f"{signal.name}: not all has been dispatched ({error})") from error
