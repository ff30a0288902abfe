"""NATS JetStream: each message to its subject, confirmed by the stream that takes it (extra `nats`)."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from ...errors import ConfigurationError, one_line
from ..messages import Message, order_of
from ..subjects import FIELDS, NONE, SUBJECT, Template
from .protocol import TIMEOUT, Refusals, check_timeout, runs, within
from .urls import read

log: logging.Logger = logging.getLogger(__name__)

#: Seconds for which a stream that is made here knows a message again.
DUPLICATE_WINDOW = 120.0

#: A server takes lines up to 4,096 bytes: the subject, the one for the answer, and two numbers.
_LONGEST_SUBJECT = 3_900

_TOO_LARGE = 10054

_RECONNECT_SECONDS, _PING_SECONDS = 0.25, 5


class NatsPublisher:
    """Publishes to JetStream.

    Duplicates: the stream drops what it has got within its duplicate window. What may have been published before that,
    because its transaction is that old, is looked for under its subject first.

    Order: a message is sent when those before it of the same row are confirmed; others are sent together.

    :param servers: URLs.
    :param subject: the template of the subjects of all messages; there has to be a stream for them.
    :param create: make a stream where there is none, named after what the template begins with.
    :param timeout: seconds within which the server has to answer.
    :param user: the user's name; with `password`.
    :param token: instead of them.
    :param credentials: the path of a credentials file.
    :raises ConfigurationError: for a wrong argument.
    """

    #: Its name in metrics.
    system: ClassVar[str] = "nats"

    def __init__(
        self, *servers: str, subject: str = SUBJECT, create: bool = False, timeout: float = TIMEOUT,
        user: str | None = None, password: str | None = None, token: str | None = None, credentials: str | None = None,
    ) -> None:  # fmt: skip
        self._servers = list(servers)
        self._who: dict[str, Any] = {
            "user": user,
            "password": password,
            "token": token,
            "user_credentials": credentials,
        }
        self._template, self._create = Template(subject), create
        self._timeout = check_timeout(timeout)
        self._client: Client | None = None
        self._error: Exception | None = None
        self._streams: list[_Stream] = []
        if not servers:
            raise ConfigurationError("to=nats://: name a host, as in nats://localhost:4222")
        if credentials is not None and not Path(credentials).is_file():
            raise ConfigurationError(f"credentials={credentials!r}: there is no such file")
        if create and not self._template.prefix:
            raise ConfigurationError(
                f"create=True: subject={subject!r} begins with a field, so that a stream would take everything: "
                f"begin it with a word and a dot, as in {SUBJECT!r}"
            )

    @classmethod
    def from_url(cls, url: str, *, subject: str, create: bool, timeout: float) -> NatsPublisher:
        """Return the publisher for a URL, as `publisher_for` has it."""
        address = read(url, ["credentials"])
        servers = [f"{address.scheme}://{host}" for host in address.hosts]
        # The client would take them from the URL as they are, with their percent signs.
        names = {"user": address.user, "password": address.password}
        who = names if address.password is not None else {"token": address.user}
        return cls(*servers, subject=subject, create=create, timeout=timeout, **who, **address.options)

    async def start(self) -> None:
        """Connect, and look for the streams.

        :raises ConfigurationError: without a stream for the subjects.
        """
        await self.close()
        self._error = None
        self._client = client = Client()
        try:
            await within(self._timeout, "connecting to NATS", self._connect(client))
            self._streams = await within(self._timeout, "asking NATS for its streams", self._find_streams(client))
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError) and self._error is not None:
                raise ConnectionError(f"{error}: {one_line(self._error)}") from self._error
            raise

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish messages, and return once a stream has confirmed all of them.

        :raises Refused: they are too large, or no stream takes them.
        """
        client = self._connected()
        refusals = Refusals()
        for run in runs(messages):
            fitting = []
            for message in run:
                if refusals.holds(message):
                    continue
                reason = _misfit(message, client.max_payload)
                if reason is None:
                    fitting.append(message)
                else:
                    refusals.add(message, reason)
            await within(self._timeout, "publishing to NATS", self._publish(client, fitting, refusals))
        refusals.check()

    async def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            try:
                await within(self._timeout, "disconnecting from NATS", client.close())
            except Exception as error:
                log.debug("disconnecting from NATS: %s", one_line(error))

    async def _connect(self, client: Client) -> None:
        await client.connect(
            self._servers,
            name="sqlalchemy-watch",
            error_cb=self._note,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_SECONDS,  # type: ignore[arg-type]
            ping_interval=_PING_SECONDS,
            connect_timeout=max(1, int(self._timeout)),
            **{name: value for name, value in self._who.items() if value is not None},
        )

    async def _note(self, error: Exception) -> None:
        self._error = error
        log.debug("NATS: %s", one_line(error))

    def _connected(self) -> Client:
        if self._client is None:
            raise ConnectionError("not connected to NATS: start() first")
        if not self._client.is_connected:  # sent later, messages would come out of order
            raise ConnectionError(f"not connected to NATS: {one_line(self._error)}")
        return self._client

    async def _find_streams(self, client: Client) -> list[_Stream]:
        js = client.jetstream(timeout=self._timeout)
        names = await self._names(client, self._template.pattern)
        if not names and self._create:
            config = StreamConfig(
                name=self._stream_name,
                subjects=[self._subjects],
                storage=StorageType.FILE,
                duplicate_window=DUPLICATE_WINDOW,
                allow_direct=True,
            )
            await js.add_stream(config)
            names = [str(config.name)]
        if not names:
            raise ConfigurationError(
                f"NATS has no stream for {self._template.pattern!r}, so that nothing would be kept: make one, such as "
                f"nats stream add {self._stream_name} --subjects '{self._subjects}', or say create=True (--create)"
            )
        resync = self._template.render({**dict.fromkeys(FIELDS, NONE), "operation": "resync"})
        if not await self._names(client, resync):
            raise ConfigurationError(
                f"NATS has no stream for {resync!r}, by which consumers are told that events are missing: have one "
                f"take it, such as nats stream edit {names[0]} --subjects '{self._subjects}'"
            )
        return [_Stream(js, (await js.stream_info(name)).config) for name in names]

    @property
    def _stream_name(self) -> str:
        return re.sub(r"[^A-Za-z0-9_-]", "_", self._template.prefix) or "watch"

    @property
    def _subjects(self) -> str:
        prefix, pattern = self._template.prefix, self._template.pattern
        return f"{prefix}.>" if prefix and prefix != pattern else pattern

    async def _names(self, client: Client, subject: str) -> list[str]:
        """Return the streams that take some of these subjects. The client's own method returns one, or raises."""
        request = json.dumps({"subject": subject}).encode()
        try:
            answer = await client.request("$JS.API.STREAM.NAMES", request, timeout=self._timeout)
        except NatsError as error:
            raise ConnectionError(f"JetStream does not answer; does nats-server run with -js? ({error})") from error
        found = json.loads(answer.data)
        if "error" in found:
            raise APIError.from_error(found["error"])
        return [str(name) for name in found["streams"] or ()]

    async def _publish(self, client: Client, run: Sequence[Message], refusals: Refusals) -> None:
        """Publish messages of different rows."""
        known = await asyncio.gather(*(self._is_known(message) for message in run))
        js = self._streams[0].js
        sent = [message for message, is_known in zip(run, known, strict=True) if not is_known]
        # Not publish_async: its future never hears that a stream has refused something (nats-py 2.16).
        sending = (js.publish(each.subject, each.data, headers=_headers(each)) for each in sent)
        results = await asyncio.gather(*sending, return_exceptions=True)
        for message, result in zip(sent, results, strict=True):
            if isinstance(result, APIError) and result.err_code == _TOO_LARGE:
                refusals.add(message, "it is larger than the stream's max_msg_size")
            elif isinstance(result, NoStreamResponseError) and not await self._names(client, message.subject):
                refusals.add(message, f"no stream takes the subject {message.subject!r}: add it to one")
            elif isinstance(result, BaseException):
                raise result

    async def _is_known(self, message: Message) -> bool:
        """Return True if a stream has a message that it would not know again by its id."""
        age = datetime.now(UTC) - message.time
        old = [stream for stream in self._streams if age > stream.surely_known]
        return any([await stream.has(message) for stream in old])


class _Stream:
    """A stream that takes some of the subjects."""

    def __init__(self, js: JetStreamContext, config: StreamConfig) -> None:
        self.js = js
        self._name, self._is_direct = str(config.name), bool(config.allow_direct)
        #: Of younger transactions it knows the messages by their ids: half of the window is for clocks that differ.
        self.surely_known = timedelta(seconds=(config.duplicate_window or 0) / 2)

    async def has(self, message: Message) -> bool:
        """Return True if a message is there: the last one of its subject, or, by its id, among those before it."""
        last = await self._get(message, None)
        if last is None or _id_of(last) == message.id:
            return last is not None
        order, newest = order_of(message.id), order_of(_id_of(last))
        if order is None or newest is None or newest < order:
            return False
        first, end = 1, last.seq or 0
        while first < end:  # they are in the order of their ids
            middle = (first + end) // 2
            found = await self._get(message, middle)
            if found is None or _id_of(found) == message.id:
                return found is not None
            if (order_of(_id_of(found)) or order) < order:
                first = (found.seq or middle) + 1
            else:
                end = middle
        return False

    async def _get(self, message: Message, start: int | None) -> RawStreamMsg | None:
        """Return the last message of a subject, or the first one from a sequence number on; None without one."""
        try:
            return await self.js.get_msg(
                self._name, seq=start, subject=message.subject, next=start is not None, direct=self._is_direct
            )
        except NotFoundError:
            return None


def _id_of(found: RawStreamMsg) -> str:
    return str((found.headers or {}).get("ce-id", ""))


def _headers(message: Message) -> dict[str, str]:
    """Return the headers of CloudEvents' binding to NATS, where `ce-specversion` says that data is no envelope."""
    attributes = {f"ce-{name}": value for name, value in message.headers.items()}
    if message.is_structured:
        del attributes["ce-specversion"]
    # A stream drops what has a known one, and another relay may publish the same events there, to other subjects.
    return {"Nats-Msg-Id": f"{message.id} {message.subject}", "content-type": message.content_type, **attributes}


def _misfit(message: Message, max_payload: int) -> str | None:
    """Return why the server would end the connection; None where it would not."""
    if len(message.subject) > _LONGEST_SUBJECT:
        return f"its subject is longer than {_LONGEST_SUBJECT:,} characters"
    # The client looks at the data alone.
    size = len(message.data) + sum(len(name) + len(value) + 4 for name, value in _headers(message).items()) + 12
    return f"it has {size:,} bytes, and the server's max_payload is {max_payload:,}" if size > max_payload else None
