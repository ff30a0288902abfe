"""Calls of receivers, as they are made, and made again."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from ...events.event import Event
from ...signals.feeds import Feed
from ...signals.matching import Keys
from ...signals.receivers import Subscriber, function_name, name_of
from ...signals.transactions import Transaction
from ..surrounding import Surroundings
from ..waiting import Coroutine, Waiting

#: Calls receivers with an event; deals with their failures itself.
CallAll = Callable[[Feed, tuple[Subscriber, ...], Any, Event[Any]], None]


class Connectable(Protocol):
    """A signal, as far as a call needs it."""

    def is_connected(self, subscriber: Subscriber, sender: Any, argument: Any) -> bool:
        """Return True if the receiver is still connected, for this sender and argument."""


class Call(NamedTuple):
    """A receiver, and what it is called with: an event; a list, of batches; or a transaction."""

    signal: Connectable
    subscriber: Subscriber
    sender: Any
    argument: Any

    @property
    def events(self) -> Sequence[Event[Any]]:
        """The event, or all of them."""
        if isinstance(self.argument, Transaction):
            return self.argument.events
        return self.argument if isinstance(self.argument, list) else [self.argument]

    @property
    def name(self) -> str:
        """The `name=` of the receiver; otherwise that of its function."""
        return name_of(self.subscriber)

    @property
    def function_name(self) -> str:
        """Module and qualified name of the function."""
        return function_name(self.subscriber.connected)

    @property
    def passes_on(self) -> bool:
        """True where no receiver of the application is called: of a stream, which passes on, or filters to compare."""
        return self.subscriber.in_order or isinstance(self.subscriber.receiver, FilterReceiver)

    @property
    def is_wanted(self) -> bool:
        """True unless the receiver was disconnected meanwhile, or garbage collected."""
        return self.subscriber.resolve() is not None and self.signal.is_connected(
            self.subscriber, self.sender, self.argument
        )

    def begin_inside(self, surroundings: Surroundings, receiver: Any) -> Any:
        """Call the receiver inside of something, and return its result, which may have to be awaited."""
        if not surroundings.makers or self.passes_on:
            return self.begin(receiver)
        if self.subscriber.is_async:
            return self._await_inside(surroundings, receiver)
        with surroundings.of(self):
            return self.begin(receiver)

    async def _await_inside(self, surroundings: Surroundings, receiver: Any) -> None:
        with surroundings.of(self):
            await self.begin(receiver)

    def begin(self, receiver: Any) -> Any:
        """Call the receiver, and return its result."""
        if self.subscriber.positional:
            return receiver(self.sender, self.argument)
        if isinstance(self.argument, list):
            return receiver(self.sender, events=self.argument)
        if isinstance(self.argument, Transaction):
            return receiver(self.sender, transaction=self.argument)
        return receiver(self.sender, event=self.argument)


def make_all(waiting: Waiting, calls: Sequence[Call]) -> list[tuple[Call, BaseException]]:
    """Call receivers. Coroutines run side by side, and are waited for: so events stay in order, and few are in memory.

    :returns: the calls that failed, with what they raised.
    """
    failures: list[tuple[Call, BaseException]] = []
    waited: list[tuple[Call, Coroutine]] = []
    for call in calls:
        receiver = call.subscriber.resolve()
        if receiver is None:
            continue
        if call.subscriber.is_async:
            begin = partial(call.begin_inside, waiting.surroundings, receiver)
            waited.append((call, Coroutine(receiver, begin, call.subscriber.loop)))
            continue
        try:
            call.begin_inside(waiting.surroundings, receiver)
        except BaseException as error:
            failures.append((call, error))
    if waited:
        outcomes = waiting.run([coroutine for _, coroutine in waited])
        failures += [(call, error) for (call, _), error in zip(waited, outcomes, strict=True) if error is not None]
    return failures


def make_one(waiting: Waiting, call: Call) -> BaseException | None:
    """Call one receiver, and return what it raised."""
    failures = make_all(waiting, [call])
    return failures[0][1] if failures else None


def release(error: BaseException | None) -> None:
    """Let go of the local variables in an error's tracebacks: a method's keep its object alive, connected weakly."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class FilterReceiver:
    """The filters of a signal by some keys, in the place of a receiver that failed: a value could not be compared.

    Called, it compares once more, and has the receivers called that hear these values.
    """

    def __init__(self, signal: Feed, keys: Keys, call_all: CallAll) -> None:
        self._signal, self._keys, self._call_all = signal, keys, call_all
        self.__qualname__ = f"{signal.name}[{', '.join(keys)}]"

    def __call__(self, sender: Any, event: Event[Any]) -> None:
        self._call_all(self._signal, self._signal.subscribers_by(self._keys, sender, event), sender, event)

    def is_connected(self, subscriber: Subscriber, sender: Any, argument: Any) -> bool:
        """Return True while anybody filters by these keys."""
        return self._keys in self._signal.filters

    def as_subscriber(self) -> Subscriber:
        """Return what a connected receiver of this kind would be."""
        return Subscriber((id(self._signal), self._keys), self, False, True, False, None)
