"""The types of receivers, for type checkers: a receiver that wants another event, or none, is refused by them.

`Connects` and `ConnectsBatches` declare `connect` once for all that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from blinker import ANY

from ..events.event import Event, T

A_contra = TypeVar("A_contra", contravariant=True)
R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)


class Receiver(Protocol[A_contra, R_co]):
    """A connected receiver: called with a sender, and an event."""

    def __call__(self, sender: Any, /, event: A_contra) -> R_co:
        """Take the event."""


class KeywordReceiver(Protocol[A_contra, R_co]):
    """A receiver that takes the event by keyword alone: `(sender, *, event)`, `(sender, **kwargs)`."""

    def __call__(self, sender: Any, /, *, event: A_contra) -> R_co:
        """Take the event."""


class BatchReceiver(Protocol[A_contra, R_co]):
    """A connected receiver of batches: called with a sender, and a list of events."""

    def __call__(self, sender: Any, /, events: A_contra) -> R_co:
        """Take the events."""


class KeywordBatchReceiver(Protocol[A_contra, R_co]):
    """A receiver that takes the events by keyword alone."""

    def __call__(self, sender: Any, /, *, events: A_contra) -> R_co:
        """Take the events."""


# `connect` gives a receiver back with its own result. One type for both ways of taking the event: where two overloads
# fit and their results differ, mypy takes neither.


class Decorator(Protocol[T]):
    """What `connect(name=...)` returns: it decorates a receiver."""

    @overload
    def __call__(self, receiver: Callable[[Any, Event[T]], R], /) -> Receiver[Event[T], R]: ...
    @overload
    def __call__(self, receiver: KeywordReceiver[Event[T], R], /) -> Receiver[Event[T], R]: ...


class BatchDecorator(Protocol[T]):
    """What `connect(name=...)` of batches returns: it decorates a receiver."""

    @overload
    def __call__(self, receiver: Callable[[Any, list[Event[T]]], R], /) -> BatchReceiver[list[Event[T]], R]: ...
    @overload
    def __call__(self, receiver: KeywordBatchReceiver[list[Event[T]], R], /) -> BatchReceiver[list[Event[T]], R]: ...


class OnceDecorator(Protocol[T, S]):
    """What `connect_once(session_factory=...)` returns: it decorates a receiver."""

    def __call__(self, receiver: Callable[[Any, Event[T], S], R], /) -> Callable[[Any, Event[T], S], R]:
        """Connect it."""


#: No receiver was given: `connect` is to decorate one.
LATER: Any = object()


class _Connecting:
    """What every `connect` does, whatever its receivers take."""

    __slots__ = ()

    def _connect_or_decorate(self, receiver: Any, sender: Any, weak: bool, name: str | None) -> Any:
        if receiver is LATER:
            return partial(self._connect_or_decorate, sender=sender, weak=weak, name=name)
        self._connect(receiver, sender, weak, name)
        return receiver

    if TYPE_CHECKING:  # of another base class, or of the class itself

        def _connect(self, receiver: Any, sender: Any, weak: bool, name: str | None) -> None: ...


class Connects(_Connecting, Generic[T]):
    """`connect`, of signals, of the views of them, and of the signals of a model."""

    __slots__ = ()

    @overload
    def connect(
        self, receiver: Callable[[Any, Event[T]], R], sender: Any = ..., weak: bool = ..., name: str | None = ...
    ) -> Receiver[Event[T], R]: ...
    @overload
    def connect(
        self, receiver: KeywordReceiver[Event[T], R], sender: Any = ..., weak: bool = ..., name: str | None = ...
    ) -> Receiver[Event[T], R]: ...
    @overload
    def connect(self, *, sender: Any = ..., weak: bool = ..., name: str | None = ...) -> Decorator[T]: ...

    def connect(self, receiver: Any = LATER, sender: Any = ANY, weak: bool = False, name: str | None = None) -> Any:
        """Connect a receiver, to be called as `receiver(sender, event=event)`, and return it: a decorator as well::

            @Order.watch.inserted.connect
            def send_receipt(sender, event): ...

            @Order.watch.inserted.connect(name="receipts")
            def send_receipt(sender, event): ...

        It stays connected until it is disconnected, whoever else refers to it.

        :param receiver: a function, or a coroutine function. A coroutine function runs on the event loop in which it
            was connected; if none was running, on the one in which the listener was started.
        :param sender: only events of this model class; by default all.
        :param weak: disconnect the receiver when nothing else refers to it: a bound method with its object, a function
            defined inside another one when that returns.
        :param name: the receiver's name in dead letters and logs, of at most 200 printable characters; by default its
            module and qualified name. No two receivers of a signal, its filters and its batches have the same one.
        :raises ConfigurationError: where the receiver can't be called that way, and for a name that is none, or that
            another receiver has.
        """
        return self._connect_or_decorate(receiver, sender, weak, name)


class ConnectsBatches(_Connecting, Generic[T]):
    """`connect`, of batches."""

    @overload
    def connect(
        self, receiver: Callable[[Any, list[Event[T]]], R], sender: Any = ..., weak: bool = ..., name: str | None = ...
    ) -> BatchReceiver[list[Event[T]], R]: ...
    @overload
    def connect(
        self,
        receiver: KeywordBatchReceiver[list[Event[T]], R],
        sender: Any = ...,
        weak: bool = ...,
        name: str | None = ...,
    ) -> BatchReceiver[list[Event[T]], R]: ...
    @overload
    def connect(self, *, sender: Any = ..., weak: bool = ..., name: str | None = ...) -> BatchDecorator[T]: ...

    def connect(self, receiver: Any = LATER, sender: Any = ANY, weak: bool = False, name: str | None = None) -> Any:
        """Connect a receiver, to be called as `receiver(sender, events=[...])`, and return it: a decorator as well.

        It stays connected until it is disconnected, whoever else refers to it. The parameters are those of
        `WatchSignal.connect`.

        :raises ConfigurationError: where the receiver can't be called that way, and for a name that is none, or that
            another receiver has.
        """
        return self._connect_or_decorate(receiver, sender, weak, name)
