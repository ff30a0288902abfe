"""`EventSource`: server-sent events, for any ASGI framework."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import math
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Sequence
from typing import Any

from ..errors import ConfigurationError
from ..events.event import Event
from ..signals.coroutines import is_coroutine_function
from ..signals.filters import EventSignal, feeds_of
from . import history
from .ending import open_stream
from .frames import HEARTBEAT, NOWHERE, Frame, Serialize, id_line, own_name, resync, to_json
from .hub import Client, Hub, Message, ThreadClient, Visible, hub_for, hub_for_threads
from .serving import FrameSource, check_number

log: logging.Logger = logging.getLogger(__name__)

#: Returns what a page shows at first, as a text, or something that `json.dumps` takes.
Snapshot = Callable[[Any], Any]

#: For how long, and how often, the id that a browser had last is waited for.
LATE_SECONDS, LOOKS = 1.0, 10

UNKNOWN_ID = "the events since then are not kept"
NO_SNAPSHOT = "what the page shows could not be read"

#: The processes that have been warned of streams without a listener: this one, if it was.
_warned: set[int] = set()


class EventSource(FrameSource):
    """Server-sent events of some signals: an ASGI application, and an iterator over frames for other frameworks::

        orders = EventSource(Order.watch)
        app.add_route("/orders/events", orders)  # Starlette, FastAPI; in the page: new EventSource("/orders/events")

    An event comes under its label (`updated`), with `Event.id`, in the order of the log. Each is written once for all
    browsers. `resync` means that events are missing: reload, or give `snapshot`. A browser that comes back goes on
    behind the event that it had last, at any process, if that is among the last `replay` ones.

    :param signals: signals, filtered ones, or all of a model (`Order.watch`). With `touching()` a row that no longer
        has the values comes as `left`, with its identity alone.
    :param serialize: makes the text of an event; None for one that is not sent. Where it raises, browsers get a
        `resync`. Called in the listener's thread, and in the event loop for events that a browser comes back for and
        nobody had. Browsers share what is written by the same function: a lambda in a view is another one each time.
        By default `to_json`.
    :param event: the name of events in the browser, or a function that returns it; by default the label.
    :param snapshot: a function, or a coroutine function, of the request (here of the ASGI scope), whose result comes
        first, as `snapshot`, and in place of each `resync`.
    :param visible: decides for each event whether it is sent; called for each browser. Not for `left`, which has none
        of the new values.
    :param replay: the most events of each signal that are kept for browsers that come back. They are kept from now on,
        with `starlette.lifespan` from the listener's start.
    :param linger: seconds for which signals are heard on when the last browser has left.
    :param heartbeat: seconds of silence after which a comment is sent, so that nobody in between closes the connection.
    :param max_queue: the most events that wait for a slow browser; beyond that it gets a `resync`.
    :param send_timeout: seconds after which a browser that takes nothing is given up.
    :param max_age: seconds after which a stream ends, so that the browser comes back and is authorised anew.
    :param retry: milliseconds after which the browser comes back.
    :param resync_spread: with `snapshot`: seconds within which a new one is made, so that not all browsers ask at once.
    :raises ConfigurationError: without signals, for what is no signal, and for values out of range.
    """

    def __init__(
        self,
        *signals: EventSignal[Any],
        serialize: Serialize = to_json,
        event: str | Callable[[Event[Any]], str] | None = None,
        snapshot: Snapshot | None = None,
        visible: Visible | None = None,
        replay: int = 256,
        linger: float = 30.0,
        heartbeat: float = 15.0,
        max_queue: int = 1000,
        send_timeout: float = 30.0,
        max_age: float | None = None,
        retry: int = 2000,
        resync_spread: float = 5.0,
    ) -> None:
        _check_signals(signals)
        given = {
            "linger": linger, "heartbeat": heartbeat, "send_timeout": send_timeout, "resync_spread": resync_spread,
            "replay": replay, "max_queue": max_queue, "retry": retry,
        }  # fmt: skip
        for name, value in given.items():
            check_number(name, value)
        if max_age is not None:
            check_number("max_age", max_age)
        functions = {"serialize": serialize, "snapshot": snapshot, "visible": visible}
        if not isinstance(event, str):
            functions["event"] = event
        for name, function in functions.items():
            if function is None:
                continue
            if not (callable(function) and isinstance(function, Hashable)):
                raise ConfigurationError(f"{name} must be a function, and hashable to be shared, not {function!r}")
            if name != "snapshot" and is_coroutine_function(function):
                raise ConfigurationError(
                    f"{name} is called for each event, where nothing can be awaited: give a function that is no "
                    f"coroutine, not {function!r}"
                )
        self._signals, self._serialize, self._snapshot, self._visible = signals, serialize, snapshot, visible
        self._name = _NamedBy(own_name(event)) if isinstance(event, str) else event
        self._linger, self._heartbeat, self._max_queue = linger, heartbeat, max_queue
        self._retry, self._resync_spread = retry, resync_spread
        self.send_timeout = send_timeout
        self._max_age = math.inf if max_age is None else max_age
        self._replay = replay
        history.keep(signals, replay)

    async def frames(self, last_event_id: str | None = None, request: Any = None) -> AsyncGenerator[bytes, None]:
        """Iterate over what is sent to one browser; close the iterator where that is gone.

        :param last_event_id: what its header `Last-Event-ID` says.
        :param request: is given to `snapshot`.
        """
        async with contextlib.aclosing(self.messages(last_event_id, request)) as found:
            async for messages in found:
                yield HEARTBEAT if messages is None else b"".join(message.encoded for message in messages)

    async def messages(
        self, last_event_id: str | None = None, request: Any = None
    ) -> AsyncGenerator[list[Message] | None, None]:
        """Iterate over the messages for one browser; None where there were none for `heartbeat` seconds."""
        _warn_of_silence(self._signals)
        client = Client(self._max_queue, self._visible)
        place = history.newest_id(self._signals)
        hub = hub_for(self._signals, self._serialize, self._name, self._linger, client)
        ends_at = time.monotonic() + self._max_age
        try:
            with open_stream(client.end):
                yield await self._begin(hub, client, last_event_id or None, place, request)
                while (left := ends_at - time.monotonic()) > 0:
                    arrived = await client.wait(min(self._heartbeat, left))
                    is_ended, (messages, gap) = client.is_ended, client.take()
                    if gap is not None and not is_ended:
                        messages = await self._reload(gap, client, request)
                    if messages:
                        yield messages
                    elif not arrived and left > self._heartbeat:
                        yield None
                    if is_ended:
                        return
        finally:
            hub.remove(client)

    def blocking_frames(self, last_event_id: str | None = None, request: Any = None) -> Iterator[bytes]:
        """Iterate over what is sent to one browser, in a thread of its own: `frames` for WSGI."""
        _warn_of_silence(self._signals)
        client = ThreadClient(self._max_queue, self._visible)
        place = history.newest_id(self._signals)
        hub = hub_for_threads(self._signals, self._serialize, self._name, self._linger, client)
        ends_at = time.monotonic() + self._max_age
        try:
            begun = self._begin_in_thread(hub, client, last_event_id, place, request)
            yield b"".join(message.encoded for message in begun)
            while (left := ends_at - time.monotonic()) > 0:
                client.wait_in_thread(min(self._heartbeat, left))
                is_ended, (messages, gap) = client.is_ended, client.take()
                if gap is not None and not is_ended:
                    messages = self._reload_in_thread(gap, client, request)
                yield b"".join(message.encoded for message in messages) or HEARTBEAT
                if is_ended:
                    return
        finally:
            hub.remove(client)

    def _begin_in_thread(
        self, hub: Hub, client: ThreadClient, last_event_id: str | None, place: str | None, request: Any
    ) -> list[Message]:
        if not last_event_id:
            shown = [] if self._snapshot is None else [self._take_snapshot(request)]
            return [self._greeting(place), *shown]
        for _ in self._until_known(last_event_id):
            client.ends_in_thread_within(LATE_SECONDS / LOOKS)
        missed = self._missed_by(hub, client, last_event_id)
        if missed is None:
            return [self._greeting(place), *self._reload_in_thread(UNKNOWN_ID, client, request)]
        return [self._greeting(last_event_id), *missed]

    def _reload_in_thread(self, reason: str, client: ThreadClient, request: Any) -> list[Message]:
        if self._snapshot is None:
            return [Message(resync(reason), None)]
        if client.ends_in_thread_within(random.uniform(0, self._resync_spread)):
            return []
        return [self._take_snapshot(request)]

    async def _begin(
        self, hub: Hub, client: Client, last_event_id: str | None, place: str | None, request: Any
    ) -> list[Message]:
        """Return what comes first: what the page shows, or what it has missed.

        :param place: the id of the last event before the browser was there.
        """
        if last_event_id is None:
            shown = [] if self._snapshot is None else [await self._read_snapshot(request)]
            return [self._greeting(place), *shown]
        for _ in self._until_known(last_event_id):
            await client.ends_within(LATE_SECONDS / LOOKS)
        missed = self._missed_by(hub, client, last_event_id)
        if missed is None:
            return [self._greeting(place), *(await self._reload(UNKNOWN_ID, client, request))]
        return [self._greeting(last_event_id), *missed]

    def _until_known(self, event_id: str) -> Iterator[None]:
        """Yield until an event is known: the process that the browser had it from may be faster than this one."""
        for _ in range(0 if event_id == NOWHERE or not self._replay else LOOKS):
            if history.knows(self._signals, event_id):
                return
            yield

    def _greeting(self, place: str | None) -> Message:
        """Return what tells a browser its place, so that it can come back even if it has had no event yet."""
        return Greeting(self._retry, NOWHERE if place is None else place)

    def _missed_by(self, hub: Hub, client: Client, last_event_id: str) -> list[Message] | None:
        """Return the messages behind the one that a browser had last; None where that is not known."""
        events = history.events_behind(self._signals, last_event_id)
        if events is None:
            return None
        replayed = ThreadClient(len(events) + 1, self._visible)
        client.known.update(event.id for event in events)
        try:
            for message in hub.messages_for(events):
                replayed.put(message)
        except Exception:
            log.exception("an event that a browser had missed can't be written for it")
            return None
        messages, gap = replayed.take()
        return messages if gap is None else None

    async def _reload(self, reason: str, client: Client, request: Any) -> list[Message]:
        """Return what says that events are missing, or what the page shows by now."""
        if self._snapshot is None:
            return [Message(resync(reason), None)]
        if await client.ends_within(random.uniform(0, self._resync_spread)):
            return []
        return [await self._read_snapshot(request)]

    async def _read_snapshot(self, request: Any) -> Message:
        assert self._snapshot is not None
        try:
            if is_coroutine_function(self._snapshot):
                found = await self._snapshot(request)
            else:
                found = await asyncio.to_thread(self._snapshot, request)
                found = await found if inspect.isawaitable(found) else found
            return _snapshot(found)
        except Exception:
            return _no_snapshot()

    def _take_snapshot(self, request: Any) -> Message:
        assert self._snapshot is not None
        try:
            return _snapshot(self._snapshot(request))
        except Exception:
            return _no_snapshot()


def _warn_of_silence(signals: Sequence[EventSignal[Any]]) -> None:
    """Say once in a process that a stream begins for which no listener runs."""
    if os.getpid() in _warned or any(feed.is_served for signal in signals for feed in feeds_of(signal)):
        return
    _warned.add(os.getpid())
    log.warning(
        "no running listener of this process hears %s: nothing will come: start one, as "
        "lifespan=web.lifespan(listener) does",
        ", ".join(signal.name for signal in signals),
    )


def _snapshot(found: Any) -> Message:
    """Return what a page shows at first.

    :raises Exception: for what is neither a text nor to be had as JSON.
    """
    text = found.decode() if isinstance(found, bytes) else found
    return Message(Frame("snapshot", "", text if isinstance(text, str) else json.dumps(text, allow_nan=False)), None)


def _no_snapshot() -> Message:
    log.exception("a snapshot could not be made: its browser is told to reload")
    return Message(resync(NO_SNAPSHOT), None)


class Greeting(Message):
    """What comes first, and is no event: an id alone is one that the browser keeps."""

    __slots__ = ()

    def __init__(self, retry: int, place: str) -> None:
        super().__init__(Frame("connected", place, ""), None)
        self.encoded: bytes = f"retry: {retry}\n{id_line(place)}\n\n".encode(errors="replace")


class _NamedBy:
    """Gives each event the same name; equal for the same name, so that hubs are shared."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, event: Event[Any]) -> str:
        return self._name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _NamedBy) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)


def _check_signals(signals: tuple[Any, ...]) -> None:
    if not signals:
        raise ConfigurationError("no signal is given: pass Order.watch, Order.watch.updated, or a filtered one")
    for signal in signals:
        if not isinstance(signal, EventSignal):
            raise ConfigurationError(
                f"{signal!r} is no signal: pass Order.watch, Order.watch.updated, or a filtered one"
            )
