"""A response that never ends: frames, as they come, to one browser, for any ASGI framework."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..errors import ConfigurationError

log: logging.Logger = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),  # nginx would wait for more
)

ENCODED_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS]

#: Numbers are below this: more is a mistake, and events that are kept are memory.
MOST = 10_000_000

#: The least values of numbers.
_NUMBERS = {
    "linger": 0.0, "heartbeat": 0.001, "send_timeout": 0.001, "resync_spread": 0.0, "replay": 0, "max_queue": 1,
    "retry": 0,
}  # fmt: skip


class FrameSource(ABC):
    """What has frames for browsers, and serves them: an ASGI application."""

    #: Seconds after which a browser that takes nothing is given up.
    send_timeout: float

    @abstractmethod
    def frames(self, last_event_id: str | None = None, request: Any = None) -> AsyncGenerator[bytes, None]:
        """Iterate over what is sent to one browser; close the iterator where that is gone.

        :param last_event_id: what its header `Last-Event-ID` says.
        """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, as ASGI has it."""
        if scope["type"] != "http":
            name = type(self).__name__
            raise ConfigurationError(f"{name} serves HTTP requests: for a WebSocket there is starlette.push()")
        await self.serve(scope, scope, receive, send)

    async def serve(
        self, scope: Scope, request: Any, receive: Receive, send: Send,
        headers: Sequence[tuple[bytes, bytes]] = ENCODED_HEADERS,
    ) -> None:  # fmt: skip
        """Serve a request.

        :param request: is given to `snapshot`.
        """
        if scope["method"] not in ("GET", "HEAD"):
            await send({"type": "http.response.start", "status": 405, "headers": [(b"allow", b"GET, HEAD")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        given = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        last_event_id = given.get(b"last-event-id", b"").decode(errors="replace")
        gone = asyncio.ensure_future(_until_gone(receive))
        frames = self.frames(last_event_id, request)
        try:
            async with _ended_by(gone):
                await self._send_all(frames, send)
        finally:
            gone.cancel()
            await frames.aclose()

    async def _send_all(self, frames: AsyncGenerator[bytes, None], send: Send) -> None:
        async for body in frames:
            if not await self._send(body, send):
                return
        await self._send(None, send)

    async def _send(self, body: bytes | None, send: Send) -> bool:
        """Send a part of the body, or its end; return False where that took too long."""
        try:
            async with asyncio.timeout(self.send_timeout):
                await send({"type": "http.response.body", "body": body or b"", "more_body": body is not None})
        except TimeoutError:
            log.info("a browser took nothing for %g s: it is given up", self.send_timeout)
            return False
        return True


@contextlib.asynccontextmanager
async def _ended_by(gone: asyncio.Future[Any]) -> AsyncIterator[None]:
    """Leave the block once this is done.

    So it need not wait for both this and the next event, with a task for each event of each browser.
    """
    loop = asyncio.get_running_loop()
    is_left = False
    try:
        async with asyncio.timeout(None) as block:

            def end(_: asyncio.Future[Any]) -> None:
                if not is_left:
                    block.reschedule(loop.time())

            gone.add_done_callback(end)
            try:
                yield
            finally:
                is_left = True
    except TimeoutError:
        if not block.expired():
            raise


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def check_number(name: str, value: Any) -> None:
    """Refuse an option of this name that is out of range.

    :raises ConfigurationError: naming the range.
    """
    least = _NUMBERS.get(name, 0.001)
    kinds = int if isinstance(least, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < MOST:
        unit = "milliseconds" if name == "retry" else "a number of events" if isinstance(least, int) else "seconds"
        raise ConfigurationError(f"{name} must be {unit} from {least:g} on, and below {MOST:,}, not {value!r}")
