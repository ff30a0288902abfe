"""Server-sent events and WebSockets in Starlette and FastAPI (extra `web`)::

from sqlalchemy_watch.web import starlette as web

app = FastAPI(lifespan=web.lifespan(listener))

@app.get("/orders/events")
async def events(request: Request) -> Response:
    return web.sse(request, Order.watch)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit

from ..errors import ConfigurationError
from ..extras import needs
from ..listener.listener import Listener
from ..signals.filters import EventSignal
from . import history
from .ending import ended_by_signals, open_stream
from .results import ResultSource
from .serving import HEADERS, FrameSource, check_number
from .sse import EventSource

with needs("web", "starlette", __name__):
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send
    from starlette.websockets import WebSocket, WebSocketDisconnect

R = TypeVar("R")

#: Of a WebSocket that is refused (RFC 6455, section 7.4.1: "policy violation"), and of one whose server ends.
REFUSED, GOING_AWAY = 1008, 1001


@overload
def sse(
    request: Request, results: AsyncIterator[R], /, *, serialize: Callable[[R], str] = ..., **options: Any
) -> Response: ...
@overload
def sse(request: Request, /, *signals: EventSignal[Any], **options: Any) -> Response: ...


def sse(request: Request, /, *sources: Any, **options: Any) -> Response:
    """Return a response with the events of some signals, as they come; or with the results of a live query.

    :param sources: signals, as for `EventSource`, such as `Order.watch.updated.touching(org_id=user.org_id)`; or one
        asynchronous iterator, as for `ResultSource`, such as `live(async_session, query)`.
    :param options: those of `EventSource`, whose `snapshot` is called with the request; or those of `ResultSource`.
    :raises ConfigurationError: as these do.
    """
    if len(sources) == 1 and isinstance(sources[0], AsyncIterator):
        return _EventResponse(ResultSource(sources[0], **options), request)
    return _EventResponse(EventSource(*sources, **options), request)


class _EventResponse(Response):
    """A source of frames for one request."""

    def __init__(self, source: FrameSource, request: Request) -> None:
        super().__init__(headers=dict(HEADERS))
        del self.headers["content-length"]
        self._source, self._request = source, request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._source.serve(scope, self._request, receive, send, headers=self.raw_headers)
        if self.background is not None:
            await self.background()


def lifespan(listener: Listener, *, replay: int = 256) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an application: the listener runs, and streams end when the server is told to stop.

    Servers wait for open responses, and tell the application of the end behind that. So it hears SIGTERM and Ctrl-C
    itself, beside the server, which hears them as before, and stops the listener, whose streams end with it; both
    signals are given back at the end.

    :param replay: the most events of each signal that are kept from now on, for browsers that come back.
    :raises ConfigurationError: for a `replay` out of range.
    """
    check_number("replay", replay)

    @contextlib.asynccontextmanager
    async def run(app: Any) -> AsyncIterator[None]:
        history.keep(listener.signals, replay)
        with ended_by_signals():
            async with listener:
                # Stopped, it ends the streams of other kinds as well.
                with open_stream(lambda: threading.Thread(target=listener.stop).start()):
                    yield

    return run


async def push(
    websocket: WebSocket,
    *signals: EventSignal[Any],
    allowed_origins: Collection[str] | None = None,
    **options: Any,
) -> None:
    """Send events over a WebSocket until one of both sides ends, each as `{"event": ..., "id": ..., "data": "..."}`.

    The first is `connected`. A page that comes back gives the id that it had last, even that of `connected`, as the
    query parameter `last_event_id`.

    :param allowed_origins: the origins (`https://shop.example`) whose pages may connect; by default those of the
        server's own host, over TLS or not.
        Browsers let any page connect, with the user's cookies, so others are refused.
    :param options: those of `EventSource`; `snapshot` is called with the WebSocket.
    :raises ConfigurationError: as `EventSource` does.
    """
    source = EventSource(*signals, **options)
    if isinstance(allowed_origins, str):
        raise ConfigurationError(f"allowed_origins must be a collection: write allowed_origins=[{allowed_origins!r}]")
    if not _is_allowed(websocket, allowed_origins):
        await websocket.close(REFUSED)
        return
    await websocket.accept()
    gone = asyncio.ensure_future(_until_gone(websocket))
    sending = asyncio.ensure_future(_send_all(websocket, source))
    try:
        await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (gone, sending):
            task.cancel()
        await asyncio.gather(gone, sending, return_exceptions=True)
    if sending.done() and not sending.cancelled():
        error = sending.exception()
        if error is not None and not isinstance(error, (WebSocketDisconnect, OSError)):
            raise error


async def _send_all(websocket: WebSocket, source: EventSource) -> None:
    async with contextlib.aclosing(source.messages(websocket.query_params.get("last_event_id"), websocket)) as found:
        async for messages in found:  # the protocol has heartbeats of its own
            for message in messages or ():
                async with asyncio.timeout(source.send_timeout):
                    await websocket.send_text(message.json)
    async with asyncio.timeout(source.send_timeout):
        await websocket.close(GOING_AWAY)


async def _until_gone(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _is_allowed(connection: HTTPConnection, allowed: Collection[str] | None) -> bool:
    origin = connection.headers.get("origin")
    if origin is None:  # no browser
        return True
    if allowed is not None:
        return origin in allowed
    try:
        return urlsplit(origin).netloc == connection.headers.get("host")
    except ValueError:  # it is none
        return False
