"""An application for the servers' tests: `uvicorn application:app` and the like, with DATABASE_URL."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from sqlalchemy_watch import Listener, Watch, Watched
from sqlalchemy_watch.signals.filters import feeds_of
from sqlalchemy_watch.web import EventSource
from sqlalchemy_watch.web import starlette as web


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = (Watch("inserted", extra_columns=("org_id",)), "updated")
    id: Mapped[int] = mapped_column(primary_key=True)
    org_id: Mapped[int] = mapped_column(server_default="1")


engine = create_engine(os.environ["DATABASE_URL"])
listener = Listener(engine, Base)


async def events(request: Request) -> Response:
    org_id = int(request.query_params.get("org_id", 1))
    response = web.sse(request, Order.watch.inserted.filter_by(org_id=org_id), send_timeout=1.0, linger=0.0)
    response.set_cookie("session", "renewed")
    response.background = BackgroundTask(lambda: ended.append(org_id))
    return response


#: The tenants of streams that have ended.
ended: list[int] = []


async def socket(websocket: WebSocket) -> None:
    await web.push(websocket, Order.watch.inserted)


async def who(request: Request) -> Response:
    return PlainTextResponse(str(os.getpid()))


async def receivers(request: Request) -> Response:
    return PlainTextResponse(str(len(listener.signals[0].receivers) + len(feeds_of(listener.signals[0])[0].filters)))


async def who_ended(request: Request) -> Response:
    return PlainTextResponse(str(ended))


def make_app() -> Any:
    mounted = EventSource(Order.watch)
    return Starlette(
        routes=[
            Route("/events", events), Mount("/mounted", mounted), WebSocketRoute("/socket", socket), Route("/who", who),
            Route("/receivers", receivers), Route("/ended", who_ended),
        ],
        lifespan=web.lifespan(listener),
    )  # fmt: skip


app = make_app()
