"""A partner's endpoint: a real HTTP server, in this process, or in one of its own that can be killed."""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from standardwebhooks import Webhook as Verifier

#: 24 random bytes.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Call(NamedTuple):
    """A request, as the partner got it."""

    path: str
    headers: dict[str, str]
    body: bytes
    port: int
    at: float
    wall: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> Any:
        """The payload, whose signature Standard Webhooks' own library finds to be right."""
        return Verifier(secret).verify(self.body, self.headers)


class Partner:
    """Answers 204, or what is asked of it.

    :param answers: status and headers of the first answers.
    :param before: called in each request's thread, before it is answered.
    """

    def __init__(self, *answers: tuple[int, dict[str, str]], before: Callable[[], object] = lambda: None) -> None:
        self.answers, self.before = list(answers), before
        #: After `answers`, for all.
        self.always: tuple[int, dict[str, str]] = (204, {})
        self.calls: list[Call] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    @property
    def ids(self) -> list[str]:
        return [call.id for call in self.calls]

    def answer(self, call: Call) -> tuple[int, dict[str, str]]:
        self.calls.append(call)
        self.before()
        return self.answers.pop(0) if self.answers else self.always


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    partner: Partner

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.path, headers, body, self.client_address[1], time.monotonic(), time.time())
        status, fields = self.partner.answer(call)
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", "2")
        self.end_headers()
        if status != 204:
            self.wfile.write(b"no")

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *args: object) -> None:  # of clients that have gone
        pass


@contextmanager
def serving(partner: Partner, certificate: tuple[Path, Path] | None = None) -> Iterator[Partner]:
    """Serve a partner's endpoint."""
    handler = type("Handler", (_Handler,), {"partner": partner})
    with _Server(("127.0.0.1", 0), handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        partner.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield partner
        finally:
            server.shutdown()
            thread.join()


def main(port: int, path: Path) -> None:
    """The process: writes id and payload of each event into a file before it answers."""
    with path.open("ab", buffering=0) as file:

        class Writing(Partner):
            def answer(self, call: Call) -> tuple[int, dict[str, str]]:
                file.write(json.dumps([call.id, call.verified()]).encode() + b"\n")
                return 204, {}

        handler = type("Handler", (_Handler,), {"partner": Writing()})
        with _Server(("127.0.0.1", port), handler) as server:
            server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
