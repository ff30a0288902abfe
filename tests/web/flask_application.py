"""A Flask application for the servers' tests, and gunicorn's hooks beside it, as the documentation has them."""

from __future__ import annotations

from typing import Any

from application import Order, listener
from flask import Flask, Response

from sqlalchemy_watch.web import flask as web

app = Flask(__name__)


@app.get("/events")
@app.get("/mounted/")
def events() -> Response:
    return web.sse(Order.watch.inserted)


@app.get("/who")
def who() -> str:
    return "flask"


def post_worker_init(worker: Any) -> None:
    listener.start()
    web.stop_with_server(listener)
