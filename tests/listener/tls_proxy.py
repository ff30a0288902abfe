"""A TCP proxy that speaks TLS to clients, as a server with a certificate does, and passes plain bytes on.

The embedded server is built without TLS.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLAIN, TLS = 196608, 80877103


def make_certificate(folder: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout",
         str(key), "-out", str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


#: Bytes that a record of TLS holds at the most.
RECORD_BYTES = 1 << 14


class TlsProxy:
    def __init__(self, server_port: int, certificate: Path, key: Path) -> None:
        self._server_port = server_port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        #: Number of connections, and of those that were encrypted.
        self.connections = self.encrypted = 0
        #: Gather the server's bytes, so that they go in records as large as there are (16 KiB).
        self.gathering = False
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._ended.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._threads.append(thread := threading.Thread(target=self._serve, args=[client], daemon=True))
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            try:
                start = client.recv(8)
                while len(start) == 8 and struct.unpack("!ii", start)[1] not in (PLAIN, TLS):
                    client.sendall(b"N")  # GSSAPI
                    start = client.recv(8)
                if len(start) < 8:
                    return
                self.connections += 1
                if struct.unpack("!ii", start)[1] == PLAIN:
                    server.sendall(start)
                    self._pass_on(client, server)
                    return
                client.sendall(b"S")
                with self._context.wrap_socket(client, server_side=True) as encrypted:
                    self.encrypted += 1
                    self._pass_on(encrypted, server)
            except OSError:  # a client that does not like the certificate, for one
                pass

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while not self._ended.is_set():
            ready, _, _ = select.select([client, server], [], [], 0.1)
            for source, target in ((client, server), (server, client)):
                if source in ready:
                    data = source.recv(1 << 18)
                    if not data:
                        return
                    while self.gathering and source is server and select.select([server], [], [], 0.02)[0]:
                        more = server.recv(1 << 18)
                        if not more:
                            break
                        data += more
                    # The last record is to be full, too: libpq's buffer, which has the beginning of a message in it
                    # already, does not take such a record whole.
                    if self.gathering and source is server:
                        odd = len(data) % RECORD_BYTES
                        target.sendall(data[:odd])
                        data = data[odd:]
                    target.sendall(data)


@contextmanager
def speaking_tls(server_port: int, certificate: Path, key: Path) -> Iterator[TlsProxy]:
    proxy = TlsProxy(server_port, certificate, key)
    try:
        yield proxy
    finally:
        proxy.close()
