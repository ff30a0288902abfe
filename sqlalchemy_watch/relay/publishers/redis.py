"""Redis Streams: an entry for each message, all of a list or none (extra `redis`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from ...errors import ConfigurationError, one_line
from ..messages import Message
from ..subjects import FIELDS, Template
from .protocol import TIMEOUT, Refusals, check_timeout, within
from .urls import read, whole_number

log: logging.Logger = logging.getLogger(__name__)

#: One stream has everything in the order of the log, resyncs at their place, and is one slot of a cluster.
STREAM = "watch"

#: Redis's own limit of a value, where it does not say.
_LARGEST = 512 * 1024 * 1024


class RedisPublisher:
    """Publishes to Redis Streams, with XADD in MULTI and EXEC.

    An entry has the fields `id`, `type`, `subject`, `schema`, `table`, `content_type` and `data`, and `key` where a row
    is named. A list whose confirmation was lost is written again: consumers drop ids that they have seen.

    :param url: as `Redis.from_url` takes it.
    :param stream: the stream's name, or a template such as `watch:{schema}:{table}`, for which a resync is of the
        schema and the table `_`. Order across streams is not kept.
    :param maxlen: entries that a stream keeps, approximately; None for all.
    :param timeout: seconds within which the server has to answer.
    :raises ConfigurationError: for a wrong argument.
    """

    #: Its name in metrics.
    system: ClassVar[str] = "redis"

    def __init__(self, url: str, *, stream: str = STREAM, maxlen: int | None = None, timeout: float = TIMEOUT) -> None:
        self._stream = Template(stream, "stream", FIELDS)
        self._maxlen, self._timeout = maxlen, check_timeout(timeout)
        self._url, self._largest = url, _LARGEST
        self._client: Redis | None = None
        if maxlen is not None and (isinstance(maxlen, bool) or not isinstance(maxlen, int) or maxlen < 1):
            raise ConfigurationError(f"maxlen={maxlen!r}: give a number of entries, more than 0, or None for all")
        try:
            parse_url(url)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"to=redis://…: the URL can't be read ({one_line(error)})") from None

    @classmethod
    def from_url(cls, url: str, *, subject: str, create: bool, timeout: float) -> RedisPublisher:
        """Return the publisher for a URL, as `publisher_for` has it. Streams are made by their first entry."""
        address = read(url, ["stream", "maxlen"], has_others=True)
        stream = address.options.get("stream", STREAM)
        return cls(address.rest, stream=stream, maxlen=whole_number(address, "maxlen"), timeout=timeout)

    async def start(self) -> None:
        """Connect."""
        await self.close()
        try:
            self._client = Redis.from_url(
                self._url,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                retry=Retry(NoBackoff(), 0),  # by default the client writes a list again by itself
            )
            await within(self._timeout, "connecting to Redis", self._look(self._client))
        except TypeError as error:
            await self.close()
            raise ConfigurationError(f"to=redis://…: an option in it is none ({one_line(error)})") from None
        except BaseException:
            await self.close()
            raise

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish messages, and return once Redis has written all of them.

        :raises Refused: they are too large, or what has the stream's name is no stream.
        """
        if self._client is None:
            raise ConnectionError("not connected to Redis: start() first")
        refusals = Refusals()
        sent = []
        # All or nothing, but for an entry that Redis refuses by itself.
        pipeline = self._client.pipeline(transaction=True)
        for message in messages:
            if refusals.holds(message):
                continue
            if len(message.data) > self._largest:
                refusals.add(message, f"it has {len(message.data):,} bytes, and Redis takes {self._largest:,}")
                continue
            stream = self._stream.render(message.fields)
            pipeline.xadd(stream, _entry(message), maxlen=self._maxlen, approximate=True)
            sent.append(message)
        if sent:
            try:
                results = await within(self._timeout, "publishing to Redis", pipeline.execute(raise_on_error=False))
            except BaseException:
                await self._hang_up(self._client)
                raise
            for message, result in zip(sent, results, strict=True):
                if isinstance(result, ResponseError) and str(result).startswith("WRONGTYPE"):
                    stream = self._stream.render(message.fields)
                    refusals.add(message, f"{stream!r} is no stream in Redis: name another one, or delete it")
                elif isinstance(result, Exception):
                    raise result
        refusals.check()

    async def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            try:
                await within(self._timeout, "disconnecting from Redis", client.aclose())
            except Exception as error:
                log.debug("disconnecting from Redis: %s", one_line(error))

    async def _hang_up(self, client: Redis) -> None:
        """End a connection whose answer may still come, lest it be taken for that of the next list."""
        try:
            await within(self._timeout, "hanging up on Redis", client.connection_pool.disconnect())
        except Exception as error:
            log.debug("hanging up on Redis: %s", one_line(error))

    async def _look(self, client: Redis) -> None:
        """Connect, and ask for the largest value; who may not ask takes what is usual."""
        await client.ping()
        try:
            found = await client.config_get("proto-max-bulk-len")
        except ResponseError as error:
            log.debug("Redis does not say how large a value may be: %s", one_line(error))
            return
        self._largest = int(found.get("proto-max-bulk-len") or _LARGEST)


def _entry(message: Message) -> dict[Any, Any]:
    entry: dict[Any, Any] = {
        "id": message.id,
        "type": message.type,
        "subject": message.subject,
        "schema": message.schema,
        "table": message.table,
        "content_type": message.content_type,
        "data": message.data,
    }
    if message.key is not None:
        entry["key"] = message.key.encode(errors="surrogatepass")
    return entry
