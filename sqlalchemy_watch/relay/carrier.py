"""NATS as the carrier of a broadcast (extra `nats`): one connection, until it is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ConfigurationError, in_one_line

if TYPE_CHECKING:
    from nats.aio.client import Client

#: Seconds: to connect in, between pings, and of those that may be unanswered before the connection is given up.
CONNECT_SECONDS, PING_SECONDS, MOST_UNANSWERED = 5, 5, 2

SCHEMES = ("nats", "tls", "ws", "wss")

#: Of the errors of a connection the last ones are told.
MOST_WORDS = 3

#: Called with what a message holds.
Hear = Callable[[bytes], Awaitable[None]]


class Carrier:
    """Servers of NATS.

    :param servers: their URL; of several, with commas between them.
    :raises ConfigurationError: for other servers, and without the extra.
    """

    def __init__(self, servers: str) -> None:
        found = _read(servers)
        if found is None:  # whose password may be in it
            raise ConfigurationError(
                "a broadcast goes over NATS: pass the URL of its server, such as 'nats://localhost:4222', or of "
                "several 'nats://one:4222,two:4222'"
            )
        if find_spec("nats") is None:
            raise ConfigurationError('NATS needs its client: pip install "sqlalchemy-watch[nats]"')
        self._urls, self._who = found

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[Client, asyncio.Future[None]]]:
        """Give a client that does not connect anew by itself, and what ends, with its error, when it is lost.

        :raises OSError: where there is none, whatever the client calls it.
        """
        from nats.aio.client import Client  # here, since the module is imported without the extra as well
        from nats.errors import Error

        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client = Client()
        words: deque[str] = deque(maxlen=MOST_WORDS)

        async def note_error(error: Exception) -> None:
            words.append(in_one_line(str(error)) or type(error).__name__)
            if "permissions violation" in words[-1].lower() and not lost.done():
                lost.set_exception(ConnectionError(f"the server does not allow it: {words[-1]}"))

        async def note_end() -> None:
            if not lost.done():
                lost.set_exception(ConnectionError("; ".join(words) or "the connection to NATS was lost"))

        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await client.connect(
                    self._urls,
                    error_cb=note_error,
                    closed_cb=note_end,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_SECONDS,
                    ping_interval=PING_SECONDS,
                    max_outstanding_pings=MOST_UNANSWERED,
                    name="sqlalchemy-watch",
                    **self._who,
                )
        except (Error, OSError, TimeoutError) as error:
            said = "; ".join(dict.fromkeys([*words, in_one_line(str(error)) or type(error).__name__]))
            raise ConnectionError(f"no connection to NATS ({said})") from error
        try:
            yield client, lost
        finally:
            with contextlib.suppress(Error, OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await client.close()
            if lost.done():
                lost.exception()  # it was told of, or nobody wants to know


def _read(servers: object) -> tuple[list[str], dict[str, Any]] | None:
    """Return the URLs of servers, and who connects; None where they are none of NATS.

    The client would take user and password as they stand there, with their percent signs.
    """
    if not isinstance(servers, str):
        return None
    first, *others = servers.split(",")
    scheme = first.partition("://")[0]
    parts: list[SplitResult] = []
    try:
        for each in (first, *others):
            found = urlsplit(each if "://" in each else f"{scheme}://{each}")
            if found.scheme not in SCHEMES or not found.hostname or found.port == 0:
                return None
            parts.append(found)
    except ValueError:  # of the port, say
        return None
    user, password = parts[0].username, parts[0].password
    who = {} if user is None else {"token": unquote(user)}
    if user is not None and password is not None:
        who = {"user": unquote(user), "password": unquote(password)}
    return [found._replace(netloc=found.netloc.rpartition("@")[2]).geturl() for found in parts], who
