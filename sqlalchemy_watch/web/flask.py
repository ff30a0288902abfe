"""Server-sent events in Flask (extra `web`)::

    from sqlalchemy_watch.web import flask as web

    @app.get("/orders/events")
    def events():
        return web.sse(Order.watch)

Each browser takes a thread of the server as long as it is there: give the server as many as there are to be browsers
(`gunicorn --worker-class gthread --threads 100`), or use an ASGI framework.
"""

from __future__ import annotations

import threading
from typing import Any

from ..errors import ConfigurationError, ListenerError
from ..extras import needs
from ..listener.listener import Listener
from ..signals.coroutines import is_coroutine_function
from ..signals.filters import EventSignal
from .ending import chain_signals
from .serving import HEADERS
from .sse import EventSource

with needs("web", "flask", __name__):
    from flask import Response, request, stream_with_context

__all__ = ["EventSource", "sse", "stop_with_server"]


def stop_with_server(listener: Listener) -> None:
    """Have a listener stop, and with it all streams, when the server's process is told to end by SIGTERM or Ctrl-C.

    Servers wait for open responses, for as long as they are allowed to. Whoever hears these signals by now hears them
    as before. To be called in the main thread of each worker, once the server has set up its own: of gunicorn in the
    hook `post_worker_init`.

    :raises ListenerError: in another thread, which can't hear signals.
    """
    if not chain_signals(lambda: threading.Thread(target=listener.stop).start()):
        raise ListenerError("stop_with_server() must be called in the main thread, which alone hears signals")


def sse(*signals: EventSignal[Any], **options: Any) -> Response:
    """Return a response with the events of these signals, as they come; in the request's context.

    The events for browsers that come back are kept from the first request on, or from where an `EventSource` of the
    signals was made: at import, say. It is the server that gives up a browser which takes nothing.

    :param signals: as for `EventSource`, such as `Order.watch.updated.touching(org_id=g.user.org_id)`.
    :param options: those of `EventSource`; `snapshot` is called with the request.
    :raises ConfigurationError: as `EventSource` does.
    """
    source = EventSource(*signals, **options)
    if is_coroutine_function(options.get("snapshot")):
        raise ConfigurationError("snapshot is a coroutine function, which threads can't await: give a plain one")
    if request.method == "HEAD":
        return Response(headers=list(HEADERS))
    last_event_id = request.headers.get("Last-Event-ID", "").encode("latin-1").decode(errors="replace")
    frames = source.blocking_frames(last_event_id, request)
    return Response(stream_with_context(frames), headers=list(HEADERS))
