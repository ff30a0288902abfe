"""Connection poolers: PgBouncer where it is installed, and a small one that pools transactions in the same way."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from postgres import Cluster, free_port

from .proxy import READY

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextmanager
def pgbouncer(cluster: Cluster, pool_mode: str, **settings: object) -> Iterator[int]:
    """A running PgBouncer's port."""
    folder = Path(tempfile.mkdtemp(prefix="watch-tests-"))
    folder.chmod(0o755)
    port = free_port()
    lines = [
        "[databases]", f"* = host=127.0.0.1 port={cluster.port} user=postgres", "[pgbouncer]", "auth_type = any",
        "listen_addr = 127.0.0.1", f"listen_port = {port}", f"pool_mode = {pool_mode}", "unix_socket_dir =",
        *(f"{name} = {value}" for name, value in settings.items()),
    ]  # fmt: skip
    (folder / "pgbouncer.ini").write_text("\n".join(lines))
    assert PGBOUNCER is not None
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    process = subprocess.Popen(
        [PGBOUNCER, "-q", *user, str(folder / "pgbouncer.ini")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        wait_until_listening(port, process)
        yield port
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder)


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while True:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        assert time.monotonic() < deadline
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            raise AssertionError(process.communicate())


@contextmanager
def transaction_pooler(cluster: Cluster, database: str, size: int) -> Iterator[int]:
    """The port of a pooler of `size` sessions that takes them in turn."""
    pooler = _Pooler(cluster.port, database, size)
    try:
        yield pooler.port
    finally:
        pooler.close()


class _Pooler:
    def __init__(self, server_port: int, database: str, size: int) -> None:
        self._sessions = [_open_session(server_port, database) for _ in range(size)]
        self._free = threading.Condition()
        self._clients: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for client in self._clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join()
        for connection in (self._listening, *self._clients, *self._sessions):
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._clients.append(client)
            self._threads.append(thread := threading.Thread(target=self._serve, args=[client], daemon=True))
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            _greet(client)
            while data := client.recv(65536):
                if data[:1] == b"X":
                    return
                with self._free:
                    self._free.wait_for(lambda: self._sessions)
                    session = self._sessions.pop(0)
                _discard_waiting(session)  # what came while nobody had it: notifications, for one
                while data:
                    session.sendall(data)
                    data = b"" if _answer(session, client) else client.recv(65536)
                with self._free:
                    self._sessions.append(session)
                    self._free.notify()
        except OSError:
            pass


def _open_session(port: int, database: str) -> socket.socket:
    session = socket.create_connection(("127.0.0.1", port))
    body = struct.pack("!i", 196608) + b"user\0postgres\0database\0" + database.encode() + b"\0\0"
    session.sendall(struct.pack("!i", len(body) + 4) + body)
    received = b""
    while not received.endswith(READY):
        received += session.recv(65536)
    return session


def _greet(client: socket.socket) -> None:
    while struct.unpack("!ii", client.recv(8))[1] != 196608:  # requests for encryption
        client.sendall(b"N")
    client.recv(65536)
    told = {"server_version": "18.0", "server_encoding": "UTF8", "client_encoding": "UTF8", "DateStyle": "ISO, MDY"}
    told |= {"standard_conforming_strings": "on", "integer_datetimes": "on"}
    messages = b"R" + struct.pack("!ii", 8, 0)
    for name, value in told.items():
        pair = f"{name}\0{value}\0".encode()
        messages += b"S" + struct.pack("!i", len(pair) + 4) + pair
    client.sendall(messages + b"K" + struct.pack("!iii", 12, 1, 1) + READY)


def _discard_waiting(session: socket.socket) -> None:
    try:
        session.recv(65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass


def _answer(session: socket.socket, client: socket.socket) -> bool:
    """Pass an answer on; return True if the transaction is over."""
    tail = b""
    while True:
        data = session.recv(65536)
        client.sendall(data)
        tail = (tail + data)[-6:]
        if tail[:5] == READY[:5]:
            return tail == READY
