"""Servers of server-sent events: the hub of this library, two packages over its streams, and a LISTEN for each browser.

Each is written as its manual says. What a server sends first says that from now on it hears.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import create_engine

from sqlalchemy_watch import Listener

from .peers import WatchedTable
from .web_clients import allow_files

START_SECONDS = 30.0

#: Makes the application: of the address of the database, and the watched table.
Make = Callable[[str, str], Any]


def hub(url: str, table: str) -> Any:
    """This library's hub."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from sqlalchemy_watch.web import starlette as web

    User, listener = _listening(url, table)

    async def events(request: Request) -> Response:
        return web.sse(request, User.watch.inserted)

    return Starlette(routes=[Route("/events", events)], lifespan=web.lifespan(listener))


def sse_starlette(url: str, table: str) -> Any:
    """sse-starlette, and a stream for each browser."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from sqlalchemy_watch.web import to_json

    package = importlib.import_module("sse_starlette")
    User, listener = _listening(url, table)

    async def frames() -> AsyncIterator[Any]:
        async with User.watch.inserted.stream() as stream:
            yield package.ServerSentEvent(comment="hears")
            async for event in stream:
                yield package.ServerSentEvent(to_json(event), event=event.label, id=event.id)

    async def events(request: Request) -> Response:
        response: Response = package.EventSourceResponse(frames())
        return response

    return Starlette(routes=[Route("/events", events)], lifespan=_lifespan(listener))


def fastapi(url: str, table: str) -> Any:
    """FastAPI's own server-sent events, and a stream for each browser."""
    from sqlalchemy_watch.web import to_json

    package = importlib.import_module("fastapi")
    package_sse = importlib.import_module("fastapi.sse")
    User, listener = _listening(url, table)
    app = package.FastAPI(lifespan=_lifespan(listener))

    @app.get("/events", response_class=package_sse.EventSourceResponse)  # type: ignore[untyped-decorator, unused-ignore]
    async def events() -> AsyncIterator[Any]:
        async with User.watch.inserted.stream() as stream:
            yield package_sse.ServerSentEvent(comment="hears")
            async for event in stream:
                yield package_sse.ServerSentEvent(raw_data=to_json(event), event=event.label, id=event.id)

    return app


def listen(url: str, table: str) -> Any:
    """A connection to PostgreSQL for each browser, whose notifications are handed on unread."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    channel = WatchedTable().model(table, "inserted").watch.inserted.details.channel

    async def frames() -> AsyncIterator[str]:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            yield ": hears\n\n"
            async for notify in connection.notifies():
                yield f"data: {notify.payload}\n\n"

    async def events(request: Request) -> Response:
        return StreamingResponse(frames(), media_type="text/event-stream")

    return Starlette(routes=[Route("/events", events)])


def _listening(url: str, table: str) -> tuple[Any, Listener]:
    User = WatchedTable().model(table, "inserted")
    return User, Listener(create_engine(url.replace("postgresql://", "postgresql+psycopg://")), User)


def _lifespan(listener: Listener) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def run(app: Any) -> AsyncIterator[None]:
        async with listener:
            yield

    return run


HUB = "sqlalchemy_watch"
SSE_STARLETTE = "sse-starlette"
FASTAPI = "FastAPI"
LISTEN = "LISTEN for each browser"

WAYS: dict[str, Make] = {HUB: hub, SSE_STARLETTE: sse_starlette, FASTAPI: fastapi, LISTEN: listen}

#: The modules that each needs.
NEEDED = {
    HUB: ("uvicorn", "starlette"),
    SSE_STARLETTE: ("uvicorn", "starlette", "sse_starlette"),
    FASTAPI: ("uvicorn", "fastapi", "fastapi.sse"),
    LISTEN: ("uvicorn", "starlette"),
}


def missing(way: str) -> str | None:
    """Return the first module that is missing for a way; None where all are there."""
    for module in NEEDED[way]:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:  # the package that it would be in
            found = None
        if found is None:
            return module
    return None


class Serving:
    """A server process, as long as the `with` block runs."""

    def __init__(self, way: str, url: str, table: str, clients: int) -> None:
        self._way = way
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, way, url, table, clients), daemon=True)
        self.port = self.pid = 0

    def __enter__(self) -> Serving:
        self._process.start()
        if not self._pipe.poll(START_SECONDS):
            self.__exit__()
            raise RuntimeError(f"{self._way} did not serve within {START_SECONDS:g} s")
        self.port, self.pid = self._pipe.recv()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()  # some would wait for their browsers
        self._process.join()


def _serve(pipe: Connection, way: str, url: str, table: str, clients: int) -> None:
    uvicorn = importlib.import_module("uvicorn")
    allow_files(2 * clients)  # with a connection to PostgreSQL for each
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2048)
        pipe.send((listening.getsockname()[1], multiprocessing.current_process().pid))
        config = uvicorn.Config(WAYS[way](url, table), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])
