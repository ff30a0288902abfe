"""Calls of endpoints by HTTP, each of which ends within its time, however slowly the other side answers.

httpcore's timeouts are for each read: one byte every few seconds would hold a lane for ever. So its connections are
wrapped (by its own `NetworkBackend`), and what is left of the call's time is the timeout of each read.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpcore

from ..errors import one_line
from .answers import WebhookFailed
from .targets import Target, is_public

#: Bytes of a response's body that are read, and seconds for it, so that the connection can be used again.
_BODY_BYTES, _BODY_SECONDS = 64 * 1024, 1.0

#: Bytes that are sent at once.
_PIECE = 16 * 1024

#: Connections that are kept, and seconds for which they are. Servers close idle ones, often after a minute.
_KEPT, _KEPT_SECONDS = 20, 15.0


class Answer(NamedTuple):
    """What an endpoint has answered."""

    status: int
    retry_after: str | None
    date: str | None


class _Deadline(threading.local):
    """Of the call that a thread is making."""

    at: float = 0.0

    def set(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def shorten(self, seconds: float) -> None:
        self.at = min(self.at, time.monotonic() + seconds)

    def left(self) -> float:
        """Return the seconds that are left.

        :raises httpcore.ReadTimeout: where none are.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class _NotPublic(Exception):
    """All addresses of a host are of private networks."""


class _Stream(httpcore.NetworkStream):
    """A connection, for whichever call uses it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[start : start + _PIECE], self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore.NetworkBackend):
    """Makes connections.

    :param allow_private: False for addresses of the internet alone. The one that is looked at is the one that is
        connected to, so that a name which resolves to another one the next time gains nothing.
    """

    def __init__(self, deadline: _Deadline, allow_private: bool) -> None:
        self._deadline, self._allow_private = deadline, allow_private
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._addresses_of(host, port)
        for number, address in enumerate(addresses, 1):
            seconds = self._deadline.left() / (len(addresses) - number + 1)  # so that one that is dead leaves some
            try:
                return _Stream(self._plain.connect_tcp(address, port, seconds), self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise _NotPublic

    def _addresses_of(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(error) from error
        addresses = dict.fromkeys(str(address[0]) for *_, address in found)
        return [address for address in addresses if self._allow_private or is_public(address)]


def _read(url: str) -> httpcore.URL:
    """Return a URL as httpcore has it. It would read a text itself, and leave out what is behind a semicolon."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=target)


class Sender:
    """Sends webhooks, from any thread. Connections are kept for the next ones.

    :param timeout: seconds for each call as a whole. Looking up the host's name takes as long as the system has it.
    :param proxy: a proxy's URL and credentials. It looks at addresses itself, if it does.
    """

    def __init__(
        self,
        timeout: float,
        allow_private: bool,
        proxy: tuple[str, tuple[str, str] | None] | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._timeout, self._allow_private, self._proxy = timeout, allow_private, proxy
        self._ssl_context = ssl_context
        self._deadline = _Deadline()
        self._lock = threading.Lock()
        self._pool: tuple[int, httpcore.ConnectionPool] | None = None
        self._closing: weakref.finalize[Any, Any] | None = None

    def post(self, target: Target, headers: Mapping[str, str], payload: bytes) -> Answer:
        """Send a payload, and return the answer. Redirects are not followed.

        :raises WebhookFailed: there is none.
        """
        self._deadline.set(self._timeout)
        try:
            return self._post(target, headers, payload)
        except httpcore.TimeoutException:
            reason = f"no answer within {self._timeout:g} s"
        except (httpcore.NetworkError, OSError) as error:
            reason = one_line(error)
        except httpcore.ProxyError:
            reason = "the proxy does not let it through"
        except httpcore.ProtocolError:  # whose words may be the partner's
            reason = "the connection was closed without an answer, or the answer was not HTTP"
        except _NotPublic:
            reason = "its address is of a private network, which allow_private=True would allow"
        raise WebhookFailed(target.host, reason)

    def _post(self, target: Target, headers: Mapping[str, str], payload: bytes) -> Answer:
        sent = [(b"host", target.authority.encode()), *((n.encode(), value.encode()) for n, value in headers.items())]
        with self._current_pool().stream("POST", _read(target.url), headers=sent, content=payload) as response:
            found = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            self._read_on(response)
            return Answer(response.status, found.get(b"retry-after"), found.get(b"date"))

    def _read_on(self, response: httpcore.Response) -> None:
        """Read the rest of a response, so that its connection can be used again, unless that is long or slow."""
        self._deadline.shorten(_BODY_SECONDS)
        size = 0
        with contextlib.suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
            for piece in response.iter_stream():
                size += len(piece)
                if size > _BODY_BYTES:
                    return

    def _current_pool(self) -> httpcore.ConnectionPool:
        with self._lock:
            if self._pool is None or self._pool[0] != os.getpid():  # a forked process has connections of its own
                self._pool = os.getpid(), self._make_pool()
                if self._closing is not None:
                    self._closing.detach()
                self._closing = weakref.finalize(self, self._pool[1].close)
            return self._pool[1]

    def _make_pool(self) -> httpcore.ConnectionPool:
        proxy = None if self._proxy is None else httpcore.Proxy(self._proxy[0], self._proxy[1])
        return httpcore.ConnectionPool(
            ssl_context=self._ssl_context or httpcore.default_ssl_context(),
            proxy=proxy,
            max_connections=None,
            max_keepalive_connections=_KEPT,
            keepalive_expiry=_KEPT_SECONDS,
            network_backend=_Network(self._deadline, self._allow_private or proxy is not None),
        )

    def close(self) -> None:
        """Close the connections that are kept. A later call makes new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
            if self._closing is not None:
                self._closing.detach()
                self._closing = None
        if pool is not None and pool[0] == os.getpid():
            pool[1].close()
