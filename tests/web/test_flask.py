"""Server-sent events in Flask, over a server with threads."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine
from support import PATIENCE

from sqlalchemy_watch import ConfigurationError, Listener, ListenerError

from .conftest import parse

flask = pytest.importorskip("flask")


@pytest.fixture
def address(Order: Any, engine: Engine) -> Iterator[tuple[str, int]]:
    """A server of an application that serves orders to those who ask for a tenant."""
    from werkzeug.serving import make_server

    from sqlalchemy_watch.web import flask as web

    app = flask.Flask(__name__)

    @app.get("/events")
    def events() -> Any:
        org_id = int(flask.request.args["org_id"])
        return web.sse(Order.watch.updated.touching(org_id=org_id), Order.watch.inserted.filter_by(org_id=org_id))

    @app.get("/snapshots")
    def snapshots() -> Any:
        return web.sse(Order.watch, snapshot=lambda request: {"org": request.args["org_id"]})

    with Listener(engine, Order):
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "127.0.0.1", server.port
        finally:
            server.shutdown()
            thread.join()


class Asked:
    """A stream, read frame by frame."""

    def __init__(self, address: tuple[str, int], path: str, **headers: str) -> None:
        self.connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
        self.connection.request("GET", path, headers=headers)
        self.response = self.connection.getresponse()
        assert self.response.readline().startswith(b"retry: ")
        self.response.readline()

    def next(self) -> Any:
        text = ""
        while not (found := parse(text)) or not text.endswith("\n\n"):
            line = self.response.readline().decode()
            assert line, "the stream has ended"
            text += line
        return found[0]


def test_flask_streams_events_until_the_browser_leaves(
    client: psycopg.Connection[Any], address: tuple[str, int], Order: Any
) -> None:
    stream = Asked(address, "/events?org_id=1")
    assert stream.response.getheader("cache-control") == "no-store"
    client.execute("INSERT INTO orders VALUES (1, 2, ''), (2, 1, '<script>')")
    first = stream.next()
    assert (first.event, first.json["identity"], first.json["values"]["note"]) == ("inserted", [2], "<script>")
    client.execute("UPDATE orders SET org_id = 2 WHERE id = 2")
    assert (stream.next().event, stream.connection.close()) == ("left", None)
    again = Asked(address, "/events?org_id=1", **{"Last-Event-ID": first.id})
    assert again.next().event == "left"
    again.connection.close()


def test_flask_gives_snapshot_the_request(address: tuple[str, int]) -> None:
    stream = Asked(address, "/snapshots?org_id=7")
    got = stream.next()
    assert (got.event, got.json) == ("snapshot", {"org": "7"})
    stream.connection.close()


def test_flask_answers_head_without_a_stream(address: tuple[str, int]) -> None:
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    connection.request("HEAD", "/events?org_id=1")
    response = connection.getresponse()
    assert (response.getheader("content-type"), response.read()) == ("text/event-stream; charset=utf-8", b"")
    connection.close()


def test_flask_refuses_bad_options_at_once(Order: Any) -> None:
    from sqlalchemy_watch.web import flask as web

    with pytest.raises(ConfigurationError, match="heartbeat must be seconds"):
        web.sse(Order.watch, heartbeat=0)
    with pytest.raises(ConfigurationError, match="snapshot is a coroutine function"):
        web.sse(Order.watch, snapshot=never)
    with ThreadPoolExecutor() as pool, pytest.raises(ListenerError, match="in the main thread"):
        pool.submit(web.stop_with_server, None).result()  # type: ignore[arg-type]


async def never(request: Any) -> None: ...
