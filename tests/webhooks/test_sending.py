"""Calls by HTTP: how long they take, where they go, and what they leave open."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from listener.tls_proxy import make_certificate

from sqlalchemy_watch.webhooks import WebhookFailed
from sqlalchemy_watch.webhooks.sending import Sender
from sqlalchemy_watch.webhooks.targets import Target, read_proxy, read_url

from .partner import Partner, serving

#: Seconds; long for what ends by itself.
LONG = 30.0


@contextmanager
def sending(
    timeout: float = LONG, allow_private: bool = True, proxy: str | None = None, context: ssl.SSLContext | None = None
) -> Iterator[Sender]:
    sender = Sender(timeout, allow_private, None if proxy is None else read_proxy(proxy), context)
    yield sender
    sender.close()


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[Target]:
    """A server that speaks as one likes, each connection in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                threads.append(thread := threading.Thread(target=talk, args=[client]))
                thread.start()

        def talk(client: socket.socket) -> None:
            with client:
                try:
                    serve(client)
                except OSError:
                    pass  # the client has gone

        threads = [threading.Thread(target=accept)]
        threads[0].start()
        yield read_url(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        listening.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(LONG)


def drip(client: socket.socket, text: bytes) -> None:
    """Send a byte now and then, for as long as the client is there."""
    while True:
        for byte in text:
            client.sendall(bytes([byte]))
            time.sleep(0.02)


def read_request(client: socket.socket) -> None:
    data = b""
    while not data.endswith(b"\r\n\r\n{}"):
        data += client.recv(65536)


def say_nothing(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def drip_headers(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    drip(client, b"X: y\r\n")


def drip_before_the_answer(client: socket.socket) -> None:
    drip(client, b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize("serve", [say_nothing, drip_headers, drip_before_the_answer])
def test_a_call_ends_within_its_time_however_slowly_it_is_answered(serve: Callable[[socket.socket], None]) -> None:
    words = r"^webhook to 127.0.0.1: no answer within 0.4 s$"
    with raw_server(serve) as target, sending(timeout=0.4) as sender, pytest.raises(WebhookFailed, match=words):
        sender.post(target, {}, b"{}")


def test_a_call_ends_within_its_time_however_slowly_it_is_read() -> None:
    ended = threading.Event()

    def read_slowly(client: socket.socket) -> None:
        while not ended.wait(0.02):
            client.recv(1)

    with raw_server(read_slowly) as target, sending(timeout=0.4) as sender:
        try:
            with pytest.raises(WebhookFailed, match="no answer within"):
                sender.post(target, {}, b"x" * 20_000_000)
        finally:
            ended.set()


@pytest.mark.parametrize("rest", [b"Content-Length: 99999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"\r\n"])
def test_an_answer_is_one_though_its_body_never_ends(rest: bytes) -> None:
    def serve(client: socket.socket) -> None:
        read_request(client)
        client.sendall(b"HTTP/1.1 200 OK\r\n" + rest)
        drip(client, b"1\r\nx\r\n")

    with raw_server(serve) as target, sending() as sender:
        assert sender.post(target, {}, b"{}").status == 200


def test_of_a_large_body_little_is_read() -> None:
    sent: list[int] = []

    def serve(client: socket.socket) -> None:
        read_request(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(1000):
            client.sendall(b"x" * 1_000_000)
            sent.append(1)

    with raw_server(serve) as target, sending() as sender:
        assert sender.post(target, {}, b"{}").status == 200
    assert len(sent) < 500


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-s3cr3t\r\n", b"HTTP/1.1 s3cr3t\r\n\r\n", b"HTTP/1.1 200 OK\r\nX\x00: s3cr3t\r\n\r\n"]
)
def test_what_is_no_answer_is_a_failure_without_its_words(answer: bytes) -> None:
    def serve(client: socket.socket) -> None:
        read_request(client)
        client.sendall(answer)

    words = "closed without an answer, or the answer was not HTTP"
    with raw_server(serve) as target, sending() as sender, pytest.raises(WebhookFailed, match=words) as caught:
        sender.post(target, {}, b"{}")
    assert caught.value.status is None
    assert caught.value.__cause__ is None


def test_nobody_there_is_a_failure_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with sending() as sender:
        with pytest.raises(WebhookFailed, match="webhook to 127.0.0.1: .*refused"):
            sender.post(read_url(f"http://127.0.0.1:{port}/s3cr3t"), {}, b"{}")
        with pytest.raises(WebhookFailed, match="webhook to nobody.invalid: "):
            sender.post(read_url("https://nobody.invalid/"), {}, b"{}")
        with pytest.raises(WebhookFailed, match="webhook to 'a'"):
            sender.post(Target(f"http://{'a' * 70}.example/", "'a'", "x"), {}, b"{}")


@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("", "/"),
        ("?a=b", "/?a=b"),
        ("/a;b=c?d#e", "/a;b=c?d"),
        ("/%00%20", "/%00%20"),
        ("/'\"<>\\^`{|}", "/'\"<>\\^`{|}"),
    ],
)
def test_path_and_query_arrive_as_they_are(rest: str, path: str) -> None:
    with serving(Partner()) as partner, sending() as sender:
        sender.post(read_url(f"http://LocalHost:{partner.port}{rest}"), {}, b"{}")
    (call,) = partner.calls
    assert (call.path, call.headers["host"]) == (path, f"LocalHost:{partner.port}")


def test_connections_are_used_again() -> None:
    with serving(Partner((500, {}), (204, {}))) as partner, sending() as sender:
        for _ in range(5):
            sender.post(read_url(partner.url), {}, b"{}")
    assert len({call.port for call in partner.calls}) == 1


def test_a_connection_that_the_partner_has_closed_is_not_used_again() -> None:
    with serving(Partner((204, {"Connection": "close"}))) as partner, sending() as sender:
        for _ in range(3):
            sender.post(read_url(partner.url), {}, b"{}")
    assert len({call.port for call in partner.calls}) == 2


def test_a_sender_goes_on_after_it_was_closed() -> None:
    with serving(Partner()) as partner, sending() as sender:
        sender.close()
        for _ in range(2):
            assert sender.post(read_url(partner.url), {}, b"{}").status == 204
            sender.close()
            sender.close()


def test_a_name_that_leads_to_a_private_network_gets_nothing() -> None:
    heard: list[int] = []

    def serve(client: socket.socket) -> None:
        heard.append(1)

    with raw_server(serve) as target, sending(allow_private=False) as sender:
        port = target.authority.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "2130706433"):  # the last one as getaddrinfo reads it
            with pytest.raises(WebhookFailed, match="of a private network, which allow_private=True would allow"):
                sender.post(read_url(f"http://{host}:{port}/", insecure=True), {}, b"{}")
    assert heard == []


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    with serving(Partner(), (certificate, key)) as partner:
        target = read_url(partner.url.replace("http:", "https:"))
        with sending() as sender, pytest.raises(WebhookFailed, match="certificate verify failed"):
            sender.post(target, {}, b"{}")
        with sending(context=ssl.create_default_context(cafile=str(certificate))) as sender:
            assert sender.post(target, {}, b"{}").status == 204
            wrong = read_url(f"https://localhost:{partner.port}/")
            with pytest.raises(WebhookFailed, match="(?i)hostname mismatch"):
                sender.post(wrong, {}, b"{}")
    assert [call.body for call in partner.calls] == [b"{}"]


def test_a_proxy_is_called_with_its_credentials_and_does_not_learn_of_theirs() -> None:
    with serving(Partner()) as proxy:
        url = f"http://ada:s3cr3t@127.0.0.1:{proxy.port}"
        with sending(proxy=url, allow_private=False) as sender:
            assert sender.post(read_url("http://partner.example/x?y", insecure=True), {"a": "b"}, b"{}").status == 204
    (call,) = proxy.calls
    assert call.path == "http://partner.example/x?y"
    assert (call.headers["host"], call.headers["a"], call.body) == ("partner.example", "b", b"{}")
    assert call.headers["proxy-authorization"].startswith("Basic ")


def test_a_proxy_that_refuses_is_a_failure() -> None:
    def serve(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 403 s3cr3t\r\nContent-Length: 0\r\n\r\n")

    words = r"^webhook to partner.example: the proxy does not let it through$"
    with raw_server(serve) as proxy, sending(proxy=proxy.url) as sender, pytest.raises(WebhookFailed, match=words):
        sender.post(read_url("https://partner.example/"), {}, b"{}")


FORKS = """
import os, sys
from sqlalchemy_watch.webhooks.sending import Sender
from sqlalchemy_watch.webhooks.targets import read_url

sender, target = Sender(10.0, True, None, None), read_url(sys.argv[1])
sender.post(target, {}, b"{}")
child = os.fork()
statuses = [sender.post(target, {}, b"{}").status for _ in range(20)]
if child:
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.exit(statuses != [204] * 20 + [0])
sys.exit(statuses != [204] * 20)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_connections_of_its_own() -> None:
    with serving(Partner()) as partner:
        assert subprocess.run([sys.executable, "-c", FORKS, partner.url], timeout=LONG, check=False).returncode == 0
    assert len(partner.calls) == 41
    assert len({call.port for call in partner.calls}) == 2
