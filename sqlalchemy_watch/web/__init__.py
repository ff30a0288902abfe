"""Changes in the browser: server-sent events, and WebSockets.

`sse` needs the standard library alone, and serves any ASGI framework; `starlette` (FastAPI as well) and `flask` are for
those two. Nothing else of the library imports this room.
"""

from .frames import to_json
from .results import ResultSource
from .sse import EventSource

__all__ = ["EventSource", "ResultSource", "to_json"]
