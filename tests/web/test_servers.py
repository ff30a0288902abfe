"""Real servers: streams come through them, end with them, and go on at another worker."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Cluster, free_port
from support import PATIENCE, wait_until

from .conftest import parse

pytest.importorskip("starlette")

HERE = Path(__file__).parent

SERVERS = {
    "uvicorn": ["uvicorn", "application:app", "--host", "127.0.0.1", "--log-level", "warning", "--port"],
    "uvicorn, two workers": [
        "uvicorn", "application:app", "--workers", "2", "--host", "127.0.0.1", "--log-level", "warning", "--port",
    ],
    "uvicorn, reloading": [
        "uvicorn", "application:app", "--reload", "--host", "127.0.0.1", "--log-level", "warning", "--port",
    ],
    "hypercorn": ["hypercorn", "application:app", "--workers", "0", "--log-level", "warning", "--bind"],
    "gunicorn": ["gunicorn", "application:app", "--worker-class", "asgi", "--log-level", "warning", "--bind"],
    "gunicorn, Flask in threads": [
        "gunicorn", "flask_application:app", "--worker-class", "gthread", "--threads", "30", "--config",
        "flask_application.py", "--log-level", "warning", "--bind",
    ],
}  # fmt: skip


@contextlib.contextmanager
def served(name: str, url: str) -> Iterator[tuple[subprocess.Popen[str], int, Asks]]:
    """A server of the application, its port, and a way to ask it."""
    command = SERVERS[name]
    if find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    port = free_port()
    place = str(port) if command[-1] == "--port" else f"127.0.0.1:{port}"
    paths = os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", *command, place], cwd=HERE, env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": paths},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    stack = contextlib.ExitStack()
    ask = Asks(port, stack)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                ask("/who").read()
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield process, port, ask
    finally:
        stack.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


class Asks:
    """Asks a server, and closes all connections in the end."""

    def __init__(self, port: int, stack: contextlib.ExitStack) -> None:
        self._port, self._stack = port, stack

    def __call__(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        self._stack.callback(connection.close)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        self._stack.callback(response.close)
        return response


def read_some(response: http.client.HTTPResponse, number: int) -> list[Any]:
    text = ""
    while len(found := parse(text)) < number:
        line = response.readline().decode()
        assert line, f"the stream has ended: {text}"
        text += line
    return found


@pytest.fixture
def url(cluster: Cluster, database: str, client: psycopg.Connection[Any]) -> str:
    url = cluster.url(database, "psycopg")
    make = "import application; application.Base.metadata.create_all(application.engine)"
    paths = os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", make], cwd=HERE, env=environment, check=True)
    return url


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_told_to_stop_does_so_at_once_and_silently(
    url: str, client: psycopg.Connection[Any], name: str
) -> None:
    with served(name, url) as (process, _, ask):
        streams = [ask("/events") for _ in range(10)] + [ask("/mounted/") for _ in range(10)]
        client.execute("INSERT INTO orders VALUES (1)")
        for stream in streams:
            assert [got.event for got in read_some(stream, 1)] == ["inserted"]
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - began
        for stream in streams:
            with contextlib.suppress(http.client.IncompleteRead):  # hypercorn cuts the connection
                assert parse(stream.read().decode()) == []
        assert "Traceback" not in output
        assert "Error" not in output
        assert seconds < 5, output  # with heartbeats alone it would be 15, and without them for ever


def test_a_browser_goes_on_at_another_process(url: str, client: psycopg.Connection[Any]) -> None:
    with served("uvicorn", url) as (_, _, ask), served("uvicorn", url) as (_, _, ask_another):
        stream = ask("/events")
        client.execute("INSERT INTO orders VALUES (1)")
        (first,) = read_some(stream, 1)
        client.execute("INSERT INTO orders VALUES (2), (3)")
        for there in (ask, ask_another):
            again = there("/events", **{"Last-Event-ID": first.id})
            assert [got.json["identity"] for got in read_some(again, 2)] == [[2], [3]]


def test_headers_and_head(url: str, client: psycopg.Connection[Any]) -> None:
    with served("uvicorn", url) as (_, _, ask):
        for path in ("/events", "/mounted/"):
            for method in ("GET", "HEAD"):
                response = ask(path, method)
                assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
                assert response.getheader("cache-control") == "no-store"
                assert response.getheader("x-accel-buffering") == "no"
                if method == "HEAD":
                    assert response.read() == b""


def test_what_the_application_adds_to_the_response_is_kept(url: str, client: psycopg.Connection[Any]) -> None:
    with served("uvicorn", url) as (_, port, ask):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/events?org_id=7", headers={"Connection": "close"})
        with connection.getresponse() as stream:
            assert str(stream.getheader("set-cookie")).startswith("session=renewed")
            assert stream.getheader("content-length") is None
            assert ask("/ended").read() == b"[]"
        wait_until(client, lambda: ask("/ended").read() == b"[7]")


def test_a_browser_that_takes_nothing_is_let_go(url: str, client: psycopg.Connection[Any]) -> None:
    with served("uvicorn", url) as (_, port, ask):
        slow = socket.create_connection(("127.0.0.1", port))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.recv(100)
        wait_until(client, lambda: ask("/receivers").read() == b"1")
        client.execute("ALTER TABLE orders ADD filler text")
        client.execute("INSERT INTO orders (id) SELECT generate_series(1, 900)")
        for number in range(30):
            first = number * 900 + 1000
            client.execute(f"INSERT INTO orders (id) SELECT generate_series({first}, {first + 899})".encode())

        wait_until(client, lambda: ask("/receivers").read() == b"0")
        slow.close()
        quick = ask("/events")
        client.execute("INSERT INTO orders (id) VALUES (900000)")
        while b"900000" not in quick.readline():
            pass


def test_a_browser_that_leaves_in_silence_is_noticed(url: str, client: psycopg.Connection[Any]) -> None:
    with served("uvicorn", url) as (_, port, ask):
        for linger in (struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)):  # with FIN, and with RST
            browser = socket.create_connection(("127.0.0.1", port))
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            browser.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert browser.recv(100)
            wait_until(client, lambda: ask("/receivers").read() == b"1")
            browser.close()
            wait_until(client, lambda: ask("/receivers").read() == b"0")


def test_a_web_socket_has_events_and_refuses_other_peoples_pages(url: str, client: psycopg.Connection[Any]) -> None:
    websockets = pytest.importorskip("websockets")

    async def main(port: int) -> None:
        address = f"ws://127.0.0.1:{port}/socket"
        async with websockets.connect(address, origin=f"http://127.0.0.1:{port}") as one:
            assert json.loads(await asyncio.wait_for(one.recv(), PATIENCE)) == {
                "event": "connected", "id": "-", "data": ""
            }  # fmt: skip
            await asyncio.to_thread(client.execute, "INSERT INTO orders VALUES (1)")
            got = json.loads(await asyncio.wait_for(one.recv(), PATIENCE))
            assert (got["event"], json.loads(got["data"])["identity"]) == ("inserted", [1])
        await asyncio.to_thread(client.execute, "INSERT INTO orders VALUES (2)")
        async with websockets.connect(f"{address}?last_event_id={got['id']}") as one:
            connected = json.loads(await asyncio.wait_for(one.recv(), PATIENCE))
            assert (connected["event"], connected["id"]) == ("connected", got["id"])
            got = json.loads(await asyncio.wait_for(one.recv(), PATIENCE))
            assert json.loads(got["data"])["identity"] == [2]
        for origin in ("https://evil.example", "http://["):
            with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
                async with websockets.connect(address, origin=origin):
                    pass

    with served("uvicorn", url) as (process, port, _):
        asyncio.run(main(port))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in output
