"""The application: a page for each tenant, the stream of rows that keeps it up to date, and a live query."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from decimal import Decimal
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy import Engine, func, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_watch import Event, Listener
from sqlalchemy_watch.live import live
from sqlalchemy_watch.web import starlette as web

from .models import Base, Order, Org

HERE = Path(__file__).parent
PAGE = Template((HERE / "page.html").read_text())

routes = APIRouter()


def order_row(order_id: int, customer: str, status: str, total: Decimal, swap: str = "") -> str:
    # What users have written is text and nothing else, here as in any page.
    cells = "".join(f"<td>{escape(str(value))}</td>" for value in (order_id, customer, status, total))
    return f'<tr id="order-{order_id}" class="{escape(status)}" {swap}>{cells}</tr>'


def row_html(event: Event[Order]) -> str:
    """What an event changes in the page: one row, which htmx puts in the place of the one with the same id.

    It is made once for all browsers of a tenant, since each of them gives `sse` the same function.
    """
    if event.operation == "truncated":
        return '<tbody id="orders" hx-swap-oob="true"></tbody>'
    (order_id,) = event.identity
    if event.operation == "deleted":
        return f'<tr id="order-{order_id}" hx-swap-oob="delete"></tr>'
    values = event.values
    return order_row(order_id, values["customer"], values["status"], values["total"], 'hx-swap-oob="true"')


def table_html(session: Session, org_id: int, swap: str = "") -> str:
    orders = session.scalars(select(Order).where(Order.org_id == org_id).order_by(Order.id.desc()))
    rows = "".join(order_row(order.id, order.customer, order.status, order.total) for order in orders)
    return f'<tbody id="orders" {swap}>{rows}</tbody>'


def open_session(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine) as session:
        yield session


# With FastAPI's usual scope a session stays open until the response has ended: for a stream, as long as somebody looks
# at the page, and each would keep a connection of the pool from all others. This one is closed before that begins.
Database = Annotated[Session, Depends(open_session, scope="function")]


def signed_in(org: int, session: Database) -> Org:
    # This demonstration takes anybody's word for the tenant. A real application takes it from the user's session, and
    # never from the address.
    found = session.get(Org, org)
    if found is None:
        raise HTTPException(404)
    return found


Tenant = Annotated[Org, Depends(signed_in)]


@routes.get("/")
def sign_in(session: Database) -> HTMLResponse:
    orgs = session.scalars(select(Org).order_by(Org.id))
    links = "".join(f'<li><a href="/orgs/{org.id}">{escape(org.name)}</a>' for org in orgs)
    return HTMLResponse(f"<!doctype html><title>Live orders</title><p>Sign in as:<ul>{links}</ul>")


@routes.get("/orgs/{org}")
def orders(tenant: Tenant, session: Database) -> HTMLResponse:
    table = table_html(session, tenant.id)
    # Pages that have to load themselves again don't do so all at once.
    delay = f"{random.uniform(0.5, 3):.1f}s"
    return HTMLResponse(PAGE.substitute(org_id=tenant.id, org=escape(tenant.name), orders=table, delay=delay))


@routes.get("/orgs/{org}/events")
async def events(request: Request, tenant: Tenant) -> Response:
    watch = Order.watch
    signals = (
        watch.inserted.filter_by(org_id=tenant.id),
        watch.updated.touching(org_id=tenant.id),  # of a row that leaves the page has `left`, and none of its values
        watch.deleted.filter_by(org_id=tenant.id),
        watch.truncated,
    )
    return web.sse(request, *signals, serialize=row_html, snapshot=snapshot)


def snapshot(request: Request) -> str:
    # Called when the endpoint is long done, and in a thread of its own: so it has its own session.
    with Session(request.app.state.engine) as session:
        return table_html(session, int(request.path_params["org"]), 'hx-swap-oob="true"')


@routes.get("/orgs/{org}/totals")
async def totals(request: Request, tenant: Tenant) -> Response:
    # What no single row says: a query, which is run again when a row of this tenant changes, and is sent if it differs.
    query = (
        select(Order.status, func.count(), func.sum(Order.total))
        .where(Order.org_id == tenant.id)
        .group_by(Order.status)
        .order_by(Order.status)
    )
    return web.sse(request, live(request.app.state.async_session, query), serialize=totals_html)


def totals_html(rows: Iterable[tuple[str, int, Decimal]]) -> str:
    items = (f"<li><b>{count}</b> {escape(status)}, {total}" for status, count, total in rows)
    return "".join(items) or "<li>no orders yet"


def create_app(engine: Engine) -> FastAPI:
    # The listener runs as long as the application, and open streams end when the server is told to stop.
    app = FastAPI(title="Live orders", lifespan=web.lifespan(Listener(engine, Base)))
    app.state.engine = engine
    app.state.async_session = async_sessionmaker(create_async_engine(engine.url.set(drivername="postgresql+psycopg")))
    app.include_router(routes)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    return app
