"""A hub: hears signals once for many browsers, and writes each event once for all of them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from ..events.event import Event
from ..listener.naming import event_words
from ..signals.feeds import Feed
from ..signals.filters import EventSignal, FilteredSignal, feeds_of, matches
from ..signals.matching import freeze
from ..watched import feeds_of_event
from . import history
from .frames import Frame, Serialize, field_name, left

log: logging.Logger = logging.getLogger(__name__)

#: Browsers that are served before others have their turn: one that waits for the last is not to wait for all.
SLICE = 100

#: Messages that a hub keeps for browsers that come back, so that they need not be written anew.
MOST_WRITTEN = 256

#: Messages that wait for an event loop that is blocked, before its browsers are told to reload.
MOST_PENDING = 10_000

UNWRITABLE = "an event could not be written"

#: Decides whether a browser may see an event.
Visible = Callable[[Event[Any]], bool]


class Message:
    """What a hub has for all of its browsers.

    :param event: the one that `visible` decides about; None where every browser has it.
    """

    __slots__ = ("_json", "encoded", "event", "frame")

    def __init__(self, frame: Frame, event: Event[Any] | None) -> None:
        self.frame: Frame = frame
        self.event: Event[Any] | None = event
        self.encoded: bytes = frame.encode()
        self._json: str | None = None

    @property
    def json(self) -> str:
        """The frame as a WebSocket sends it."""
        if self._json is None:
            self._json = self.frame.to_json()
        return self._json


class _Flag:
    """What one coroutine waits for, without a task each time, as `asyncio.wait_for` would make: there are many."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._waiting is not None:
            _finish(self._waiting)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self, seconds: float) -> bool:
        if not self._is_set:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(seconds, _finish, self._waiting)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        return self._is_set


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Client:
    """One browser, on its event loop.

    :param max_queue: messages that wait while it is slow. Beyond that it is told to reload.
    """

    def __init__(self, max_queue: int, visible: Visible | None) -> None:
        self._max_queue, self._visible = max_queue, visible
        self._messages: deque[Message] = deque()
        #: The reason for which it has to reload; None where it need not.
        self._gap: str | None = None
        self._arrived: _Flag | threading.Event = _Flag()
        self._ended: _Flag | threading.Event = _Flag()
        #: The ids of events that it had otherwise.
        self.known: set[str] = set()

    def put(self, message: Message) -> None:
        """Have a message sent, if this browser may see it."""
        if message.frame.id in self.known:
            return
        if message.event is not None and self._visible is not None and not self._may_see(message.event):
            return
        if self._gap is not None:  # it reloads
            return
        if len(self._messages) >= self._max_queue:
            self.miss(f"more than {self._max_queue} events were waiting")
            return
        self._messages.append(message)
        self._arrived.set()

    def miss(self, reason: str) -> None:
        """Have it told to reload; what waits is of no use any more."""
        self._messages.clear()
        self._gap = reason
        self._arrived.set()

    def end(self) -> None:
        """Let it end after what waits."""
        self._ended.set()
        self._arrived.set()

    @property
    def is_ended(self) -> bool:
        """True once it is to end."""
        return self._ended.is_set()

    def take(self) -> tuple[list[Message], str | None]:
        """Return what waits, and why it has to reload."""
        self._arrived.clear()
        messages, gap = [message for message in self._messages if message.frame.id not in self.known], self._gap
        self._messages.clear()
        self._gap = None
        return messages, gap

    async def wait(self, seconds: float) -> bool:
        """Wait until something has come, or it ends; return False where nothing has within these seconds."""
        assert isinstance(self._arrived, _Flag)
        return await self._arrived.wait(seconds)

    async def ends_within(self, seconds: float) -> bool:
        """Wait for so many seconds; return True at once where it ends meanwhile."""
        assert isinstance(self._ended, _Flag)
        return await self._ended.wait(seconds)

    def _may_see(self, event: Event[Any]) -> bool:
        assert self._visible is not None
        try:
            found = self._visible(event)
            if inspect.isawaitable(found):
                raise TypeError("visible() returned a coroutine: give a function that is none")
            return bool(found)
        except BaseException:  # whatever it was, the other browsers go on
            log.exception("visible() failed on %s: its browser is told to reload", event_words(event))
            self.miss("it could not be decided whether an event is to be seen")
            return False


class ThreadClient(Client):
    """One browser that has a thread of its own."""

    def __init__(self, max_queue: int, visible: Visible | None) -> None:
        super().__init__(max_queue, visible)
        self._arrived, self._ended = self._event, self._end = threading.Event(), threading.Event()
        self._lock = threading.RLock()

    def put(self, message: Message) -> None:
        """Have a message sent, if this browser may see it."""
        with self._lock:
            super().put(message)

    def miss(self, reason: str) -> None:
        """Have it told to reload; what waits is of no use any more."""
        with self._lock:
            super().miss(reason)

    def take(self) -> tuple[list[Message], str | None]:
        """Return what waits, and why it has to reload."""
        with self._lock:
            return super().take()

    def wait_in_thread(self, seconds: float) -> bool:
        """Wait until something has come, or it ends; return False where nothing has within these seconds."""
        return self._event.wait(seconds)

    def ends_in_thread_within(self, seconds: float) -> bool:
        """Wait for so many seconds; return True at once where it ends meanwhile."""
        return self._end.wait(seconds)


class Hub(ABC):
    """Hears signals, and writes each event once for many browsers.

    :param name: returns the name of an event in the browser; None for its label.
    """

    def __init__(
        self, signals: Sequence[EventSignal[Any]], serialize: Serialize, name: Callable[[Event[Any]], str] | None
    ) -> None:
        self._serialize, self._name = serialize, name
        self._inlets = [_Inlet(self, signal) for signal in signals]
        self._last: Event[Any] | None = None
        #: The last ones with their ids, for browsers that come back.
        self._written: deque[tuple[str, Message | None]] = deque(maxlen=MOST_WRITTEN)
        self.is_closed: bool = False
        for inlet in self._inlets:
            inlet.signal.connect(inlet.receive)
            for feed in feeds_of(inlet.signal):
                feed.tell(self)

    @abstractmethod
    def add(self, client: Client) -> None:
        """Serve a browser."""

    @abstractmethod
    def remove(self, client: Client) -> None:
        """Serve it no more."""

    @abstractmethod
    def _put(self, item: Message | str) -> None:
        """Hand a message, or the reason of a gap, to the browsers; in the dispatch thread."""

    @abstractmethod
    def end(self) -> None:
        """Let browsers go, since nothing comes any more; they come back, to a process that hears."""

    def close(self) -> None:
        """Hear nothing any more."""
        self.is_closed = True
        for inlet in self._inlets:
            inlet.signal.disconnect(inlet.receive)
            for feed in feeds_of(inlet.signal):
                feed.tell_no_more(self)

    def missed(self, reason: str) -> None:
        """Have browsers reload; called by the listener, in the dispatch thread."""
        history.forget(inlet.signal for inlet in self._inlets)
        self._put(reason)

    def take(self, event: Event[Any], *, is_left: bool) -> None:
        """Write an event; in the dispatch thread.

        :param is_left: True for a row that is no longer among those that the signals are filtered for.
        :raises Exception: what `serialize` raises, so that it is reported as of any receiver.
        """
        if event is self._last:  # it matches several of the signals
            return
        self._last = event
        try:
            message = Message(left(event), None) if is_left else self._write(event)
        except BaseException:
            self._put(UNWRITABLE)
            if event.lsn is None:
                raise
            # Raised, it would come again for ever.
            log.exception("%s can't be written for browsers", event_words(event))
            return
        self._written.append((event.id, message))
        if message is not None:
            self._put(message)

    def messages_for(self, events: Iterable[Event[Any]]) -> list[Message]:
        """Return events that have come from the signals as browsers have them, without those that they don't get.

        :raises Exception: what `serialize` raises.
        """
        written = dict(self._written.copy())
        found = (written[e.id] if e.id in written else self._write_late(e) for e in events)
        return [message for message in found if message is not None]

    def _write_late(self, event: Event[Any]) -> Message | None:
        message = Message(left(event), None) if self.is_left(event) else self._write(event)
        self._written.append((event.id, message))
        return message

    def is_left(self, event: Event[Any]) -> bool:
        """Return True for an event that comes through filters alone, whose row is no longer among those."""
        feeds = feeds_of_event(event)
        return not any(_holds(inlet.signal, event) for inlet in self._inlets if inlet.is_of(feeds))

    def _write(self, event: Event[Any]) -> Message | None:
        text = self._serialize(event)
        if text is None:
            return None
        if isinstance(text, bytes):
            text = text.decode()
        if not isinstance(text, str):
            raise TypeError(f"serialize must return str, bytes or None, not {type(text).__name__}")
        name = event.label if self._name is None else field_name(self._name(event))
        return Message(Frame(name, event.id, text), event)


class LoopHub(Hub):
    """A hub for the browsers of the running event loop.

    :param linger: seconds for which it goes on without browsers: they come back.
    """

    def __init__(
        self, signals: Sequence[EventSignal[Any]], serialize: Serialize, name: Callable[[Event[Any]], str] | None,
        linger: float,
    ) -> None:  # fmt: skip
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self._clients: dict[Client, None] = {}
        self._lock = threading.Lock()
        #: What came, and gaps, until the loop has it.
        self._pending: deque[Message | str] = deque()
        self._is_scheduled = False
        self._serving: asyncio.Task[None] | None = None
        self._closing: asyncio.TimerHandle | None = None
        super().__init__(signals, serialize, name)

    def add(self, client: Client) -> None:
        """Serve a browser."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self._clients[client] = None

    def remove(self, client: Client) -> None:
        """Serve it no more."""
        self._clients.pop(client, None)
        if not self._clients and not self.is_closed:
            try:
                self._closing = self._loop.call_later(self._linger, self.close)
            except RuntimeError:  # the loop is closed
                self.close()

    def end(self) -> None:
        """Let browsers go, since nothing comes any more; they come back, to a process that hears."""
        self._call(self._end)

    def _end(self) -> None:
        for client in list(self._clients):
            client.end()

    def _put(self, item: Message | str) -> None:
        with self._lock:
            if len(self._pending) >= MOST_PENDING:
                self._pending.clear()
                item = "the server's event loop was blocked"
            self._pending.append(item)
            if self._is_scheduled:
                return
            self._is_scheduled = True
        self._call(self._begin)

    def _call(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed
            self.close()

    def _begin(self) -> None:
        self._serving = self._loop.create_task(self._serve())
        self._serving.add_done_callback(self._note_end)

    def _note_end(self, serving: asyncio.Task[None]) -> None:
        """Have browsers reload where somebody has cancelled that: it would be silence otherwise."""
        if not serving.cancelled() and serving.exception() is None:
            return
        with self._lock:
            self._is_scheduled = False
        for client in list(self._clients):
            client.miss("the server was interrupted")

    async def _serve(self) -> None:
        """Hand on what came, to some browsers at a time."""
        while True:
            with self._lock:
                items, self._pending = self._pending, deque()
                if not items:
                    self._is_scheduled = False
                    return
            for number, client in enumerate(list(self._clients)):
                hand(items, client)
                if number % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)


class ThreadHub(Hub):
    """A hub for browsers that have a thread each.

    :param linger: seconds for which it goes on without browsers: they come back.
    """

    def __init__(
        self, signals: Sequence[EventSignal[Any]], serialize: Serialize, name: Callable[[Event[Any]], str] | None,
        linger: float,
    ) -> None:  # fmt: skip
        self._linger = linger
        #: Replaced, never changed.
        self._clients: tuple[Client, ...] = ()
        self._lock = threading.RLock()  # a browser may be collected, and so removed, at any moment
        #: By the monotonic clock: since when nobody is there.
        self._idle_since: float | None = None
        super().__init__(signals, serialize, name)

    def add(self, client: Client) -> None:
        """Serve a browser."""
        with self._lock:
            self._clients = (*self._clients, client)
            self._idle_since = None

    def remove(self, client: Client) -> None:
        """Serve it no more."""
        with self._lock:
            self._clients = tuple(each for each in self._clients if each is not client)
            if not self._clients:
                self._idle_since = time.monotonic()

    def close_if_idle(self) -> None:
        """Hear nothing any more if nobody has been there for so long; under the lock of all hubs."""
        if self._idle_since is not None and time.monotonic() - self._idle_since >= self._linger:
            self.close()

    def take(self, event: Event[Any], *, is_left: bool) -> None:
        """Write an event; in the dispatch thread.

        :raises Exception: what `serialize` raises, so that it is reported as of any receiver.
        """
        if self._idle_since is not None:
            with _hubs_lock:
                self.close_if_idle()
        if not self.is_closed:
            super().take(event, is_left=is_left)

    def end(self) -> None:
        """Let browsers go, since nothing comes any more; they come back, to a process that hears."""
        for client in self._clients:
            client.end()

    def _put(self, item: Message | str) -> None:
        for client in self._clients:
            hand([item], client)


def hand(items: Iterable[Message | str], client: Client) -> None:
    """Give messages, and the reasons of gaps, to a browser."""
    for item in items:
        if isinstance(item, str):
            client.miss(item)
        else:
            client.put(item)


class _Inlet:
    """Hears one of a hub's signals."""

    def __init__(self, hub: Hub, signal: EventSignal[Any]) -> None:
        self.signal, self._hub = signal, hub
        self._feeds = frozenset(feeds_of(signal))

    def receive(self, sender: Any, event: Event[Any]) -> None:
        """Hear an event; in the dispatch thread."""
        self._hub.take(event, is_left=not _holds(self.signal, event) and self._hub.is_left(event))

    #: Not among keys side by side: in the order of the log.
    receive.in_order = True  # type: ignore[attr-defined]

    def is_of(self, feeds: frozenset[Feed]) -> bool:
        """Return True if it hears one of them."""
        return not self._feeds.isdisjoint(feeds)


def _holds(signal: EventSignal[Any], event: Event[Any]) -> bool:
    """Return True unless the event's row is none that the signal is filtered for."""
    try:
        return not isinstance(signal, FilteredSignal) or matches(signal, event)
    except LookupError:  # it does not carry the column: nobody knows
        return False


#: By loop: the hubs, by what they hear, and how they write.
_loop_hubs: dict[asyncio.AbstractEventLoop, dict[Hashable, LoopHub]] = {}
_thread_hubs: dict[Hashable, ThreadHub] = {}
_hubs_lock = threading.Lock()


def hub_for(
    signals: Sequence[EventSignal[Any]], serialize: Serialize, name: Callable[[Event[Any]], str] | None, linger: float,
    client: Client,
) -> Hub:  # fmt: skip
    """Return the hub of the running loop for these signals, which serves this browser."""
    loop = asyncio.get_running_loop()
    with _hubs_lock:
        for ended in [each for each in _loop_hubs if each.is_closed()]:
            for hub in _loop_hubs.pop(ended).values():
                hub.close()
        hubs = _loop_hubs.setdefault(loop, {})
        key = _key(signals, serialize, name, linger)
        found = _find(hubs, key, lambda: LoopHub(signals, serialize, name, linger))
        found.add(client)
    return found


def hub_for_threads(
    signals: Sequence[EventSignal[Any]], serialize: Serialize, name: Callable[[Event[Any]], str] | None, linger: float,
    client: Client,
) -> Hub:  # fmt: skip
    """Return the hub of this process's threads for these signals, which serves this browser."""
    with _hubs_lock:
        for hub in _thread_hubs.values():
            hub.close_if_idle()
        key = _key(signals, serialize, name, linger)
        found = _find(_thread_hubs, key, lambda: ThreadHub(signals, serialize, name, linger))
        found.add(client)
    return found


def _key(signals: Sequence[EventSignal[Any]], serialize: Serialize, name: Any, linger: float) -> Hashable:
    """Return what hubs that can be shared have in common, partials of one function with the same arguments as well."""
    if isinstance(serialize, partial):
        given = list(serialize.args), serialize.keywords
        return tuple(signals), serialize.func, freeze(given), name, linger
    return tuple(signals), serialize, name, linger


AnyHub = TypeVar("AnyHub", bound=Hub)


def _find(hubs: dict[Hashable, AnyHub], key: Hashable, make: Callable[[], AnyHub]) -> AnyHub:
    for known in [known for known, each in hubs.items() if each.is_closed]:
        del hubs[known]
    if key not in hubs:
        hubs[key] = make()
    return hubs[key]


def _begin_anew() -> None:
    """Leave the parent's browsers to it, in a forked child."""
    _hubs_lock.release()
    hubs = [hub for found in _loop_hubs.values() for hub in found.values()]
    for hub in [*hubs, *_thread_hubs.values()]:
        hub.close()
    _loop_hubs.clear()
    _thread_hubs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hubs_lock.acquire, after_in_parent=_hubs_lock.release, after_in_child=_begin_anew)
