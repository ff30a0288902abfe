"""A TCP proxy between a listener and its server, which fails as networks do."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

READY = b"Z\x00\x00\x00\x05I"


class Proxy:
    """Passes bytes between clients and one server, until told otherwise."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._links: list[_Link] = []
        self._lock = threading.Lock()
        self._closed = False
        #: Seconds by which everything is late.
        self.delay = 0.0
        #: Bytes of the server's that pass in each new connection before it freezes; None for all.
        self.freeze_after: int | None = None
        #: Number of connections that were accepted.
        self.accepted = 0
        self._frozen = False
        self._listening = self._listen(0)
        self.port: int = self._listening.getsockname()[1]
        self._thread = self._accept_in_thread()

    def _listen(self, port: int) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
        return listening

    def _accept_in_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._accept, args=[self._listening], daemon=True)
        thread.start()
        return thread

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:  # closed
                return
            with self._lock:
                self.accepted += 1
                self._links.append(_Link(self, client, self._server_port, self._frozen, self.freeze_after))

    def cut(self) -> None:
        """End every connection with a RST."""
        for link in self._take_links():
            link.end()

    def freeze(self) -> None:
        """Pass nothing any more, in old connections and in new ones, which are accepted all the same."""
        with self._lock:
            self._frozen = True
            for link in self._links:
                link.set_frozen(True)

    def resume(self, *, thaw: bool = True) -> None:
        """Pass everything again; with `thaw=False` in new connections alone."""
        with self._lock:
            self._frozen, self.freeze_after, self.delay = False, None, 0.0
            for link in self._links if thaw else ():
                link.set_frozen(False)
        if self._listening.fileno() < 0:
            self._listening = self._listen(self.port)
            self._thread = self._accept_in_thread()

    def refuse(self) -> None:
        """End every connection, and refuse new ones."""
        # On Linux accept() goes on after a close(), but not after a shutdown().
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        self.cut()

    def inject(self, statement: str) -> None:
        """Have the newest connection's server run a statement that the client does not know of."""
        with self._lock:
            link = self._links[-1]
        link.inject(statement)

    def hold_back(self, marker: bytes) -> threading.Event:
        """Freeze the newest connection just before the server's next `marker`; the event says that it is done."""
        with self._lock:
            link = self._links[-1]
        return link.hold_back(marker)

    def drop_requests(self) -> None:
        """Pass nothing of the newest connection's client any more; what the server says still arrives."""
        with self._lock:
            self._links[-1].deaf = True

    def waiting(self) -> bytes:
        """Bytes that the server has sent to the newest connection, and a frozen proxy does not pass on."""
        with self._lock:
            server = self._links[-1].server
        assert server is not None
        try:
            return server.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    @property
    def passed(self) -> int:
        """Bytes of the server's that were passed in the newest connection."""
        with self._lock:
            return self._links[-1].passed

    def close(self) -> None:
        if self._listening.fileno() >= 0:
            self.refuse()
        self.cut()

    def _take_links(self) -> list[_Link]:
        with self._lock:
            links, self._links = self._links, []
            return links


class _Link:
    """One connection; a thread of its own does everything to its two sockets."""

    def __init__(self, proxy: Proxy, client: socket.socket, port: int, frozen: bool, freeze_after: int | None) -> None:
        self._proxy = proxy
        self._client, self._port = client, port
        self._frozen, self._left = frozen, freeze_after
        self._marker: bytes | None = None
        self._held = threading.Event()
        self._swallowing = False
        self._injected: list[str] = []
        self._ended = False
        self.deaf = False
        self.passed = 0
        self.server: socket.socket | None = None
        self._wake_in, self._wake_out = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended = True
        self._wake()
        self._thread.join()

    def set_frozen(self, frozen: bool) -> None:
        self._frozen = frozen
        self._wake()

    def inject(self, statement: str) -> None:
        self._injected.append(statement)
        self._wake()

    def hold_back(self, marker: bytes) -> threading.Event:
        self._marker = marker
        return self._held

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"x")
        except OSError:
            pass

    def _run(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                self.server = server
                self._pass_on(server)
                _close(server, abruptly=self._ended)
        except OSError:
            pass
        _close(self._client, abruptly=self._ended)
        self._wake_in.close()
        self._wake_out.close()

    def _pass_on(self, server: socket.socket) -> None:
        while not self._ended:
            watched = [self._wake_out] if self._frozen else [self._wake_out, self._client, server]
            ready, _, _ = select.select(watched, [], [])
            if self._wake_out in ready:
                self._wake_out.recv(4096)
                self._send_injected(server)
            elif self._client in ready:
                if not self._pass(self._client, server):
                    return
            elif server in ready and not self._pass_to_client(server):
                return

    def _pass(self, source: socket.socket, target: socket.socket) -> bool:
        data = source.recv(65536)
        if self._proxy.delay:
            time.sleep(self._proxy.delay)
        if not self.deaf:
            target.sendall(data)
        return bool(data)

    def _pass_to_client(self, server: socket.socket) -> bool:
        data = server.recv(65536)
        if not data:
            return False
        if self._swallowing:
            _, found, data = data.partition(READY)
            self._swallowing = not found
        if self._marker is not None and self._marker in data:
            data = data.partition(self._marker)[0]
            self._frozen = True
            self._held.set()
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            self._frozen = self._frozen or self._left == 0
        if self._proxy.delay:
            time.sleep(self._proxy.delay)
        self._client.sendall(data)
        self.passed += len(data)
        return True

    def _send_injected(self, server: socket.socket) -> None:
        while self._injected:
            body = self._injected.pop().encode() + b"\0"
            self._swallowing = True
            server.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)


def _close(connection: socket.socket, *, abruptly: bool) -> None:
    """Close with a FIN, or with a RST."""
    if abruptly:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextmanager
def proxied(server_port: int) -> Iterator[Proxy]:
    proxy = Proxy(server_port)
    try:
        yield proxy
    finally:
        proxy.close()
