"""The broadcast's end of the carrier: sends, and is asked where the broadcast stands."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import one_line
from ..listener.source import Backoff
from .carrier import Carrier

if TYPE_CHECKING:
    from nats.aio.client import Client

log: logging.Logger = logging.getLogger(__name__)

#: Seconds that a message may take until the client has it.
SEND_SECONDS = 5.0


class Sender:
    """Keeps a connection, in a thread of its own, as long as it is not ended. What can't be sent is dropped.

    :param on_asked: called where somebody asks where the broadcast stands.
    """

    def __init__(self, carrier: Carrier, subject: str, on_asked: Callable[[], None]) -> None:
        self._carrier, self._subject, self._on_asked = carrier, subject, on_asked
        self._loop = asyncio.new_event_loop()
        self._client: Client | None = None
        self._ending = asyncio.Event()
        #: Set while there is a connection.
        self.connected: threading.Event = threading.Event()
        #: Why there is none.
        self.error: BaseException | None = None
        self.thread: threading.Thread = threading.Thread(target=self._run, name="sqlalchemy-watch-nats", daemon=True)

    def send(self, data: bytes) -> None:
        """Send a message, if there is a connection."""
        if self._client is None:
            return
        sending = asyncio.run_coroutine_threadsafe(self._publish(data), self._loop)
        try:
            sending.result(SEND_SECONDS)
        except Exception as error:
            sending.cancel()
            log.warning("a message of the broadcast was not sent (%s): those who hear it reload", one_line(error))

    def end(self) -> None:
        """Close the connection, and let the thread end."""
        self._loop.call_soon_threadsafe(self._ending.set)

    async def _publish(self, data: bytes) -> None:
        if self._client is not None:
            await self._client.publish(self._subject, data)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._keep())

    async def _keep(self) -> None:
        backoff = Backoff()
        while not self._ending.is_set():
            try:
                await self._connect()
                backoff = Backoff()
            except Exception as error:
                self.error = error
                delay = backoff.next()
                log.warning("not broadcasting (%s): trying again in %.1f s", one_line(error), delay)
                await self._pause(delay)

    async def _connect(self) -> None:
        """Hold a connection until it is lost, or all ends."""

        async def hear(message: Any) -> None:
            self._on_asked()

        async with self._carrier.connected() as (client, lost):
            await client.subscribe(f"{self._subject}.hello", cb=hear)
            self._client, self.error = client, None
            self.connected.set()
            log.info("broadcasting on %s", self._subject)
            ending: asyncio.Future[Any] = asyncio.ensure_future(self._ending.wait())
            try:
                await asyncio.wait([lost, ending], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.connected.clear()
                self._client = None
                ending.cancel()
            if lost.done():
                lost.result()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            pass
