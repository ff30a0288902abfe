"""`ResultSource`: server-sent events of what an asynchronous iterator yields, such as the results of a live query."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

from sqlalchemy import Row, RowMapping

from ..errors import ConfigurationError
from ..events.json_scalars import Unfit, write_scalar
from ..signals.coroutines import is_coroutine_function
from .ending import open_stream
from .frames import HEARTBEAT, Frame, own_name
from .serving import FrameSource, check_number

_END = object()


class ResultSource(FrameSource):
    """Server-sent events of what one asynchronous iterator yields, for one browser: each result comes as a whole.

    A browser that comes back has a new one, whose first result says all that it has missed. The iterator is closed when
    the browser is gone.

    :param results: such as `live(async_session, query)`.
    :param serialize: makes the text of a result. By default JSON, with rows as objects by column name, and values as
        `Event.to_json` writes them.
    :param event: the name in the browser.
    :param heartbeat: seconds of silence after which a comment is sent, so that nobody in between closes the connection.
    :param send_timeout: seconds after which a browser that takes nothing is given up.
    :param max_age: seconds after which a stream ends, so that the browser comes back and is authorised anew.
    :param retry: milliseconds after which the browser comes back.
    :raises ConfigurationError: for values out of range.
    """

    def __init__(
        self,
        results: AsyncIterator[Any],
        *,
        serialize: Callable[[Any], str] | None = None,
        event: str = "result",
        heartbeat: float = 15.0,
        send_timeout: float = 30.0,
        max_age: float | None = None,
        retry: int = 2000,
    ) -> None:
        given = {"heartbeat": heartbeat, "send_timeout": send_timeout, "retry": retry}
        if max_age is not None:
            given["max_age"] = max_age
        for name, value in given.items():
            check_number(name, value)
        if serialize is not None and (not callable(serialize) or is_coroutine_function(serialize)):
            raise ConfigurationError(f"serialize must be a function of a result, and no coroutine, not {serialize!r}")
        self._results, self._serialize = results, serialize or _to_json
        self._event, self._heartbeat, self._retry = own_name(event), heartbeat, retry
        self._max_age = math.inf if max_age is None else max_age
        self.send_timeout = send_timeout
        self._is_taken = False

    async def frames(self, last_event_id: str | None = None, request: Any = None) -> AsyncGenerator[bytes, None]:
        """Iterate over what is sent to the browser; close the iterator where that is gone.

        :raises ConfigurationError: for a second browser.
        """
        if self._is_taken:
            raise ConfigurationError("ResultSource: it has the results for one browser: make one for each request")
        self._is_taken = True
        ended = asyncio.get_running_loop().create_future()
        ends_at = time.monotonic() + self._max_age
        waiting: asyncio.Future[Any] | None = None

        def end() -> None:
            ended.cancel()

        try:
            with open_stream(end):
                yield f"retry: {self._retry}\n\n".encode()
                while (left := ends_at - time.monotonic()) > 0:
                    waiting = waiting or asyncio.ensure_future(anext(self._results, _END))
                    done, _ = await asyncio.wait(
                        {waiting, ended}, timeout=min(self._heartbeat, left), return_when=asyncio.FIRST_COMPLETED
                    )
                    if ended.done():
                        return
                    if waiting not in done:
                        yield HEARTBEAT
                        continue
                    result, waiting = waiting.result(), None
                    if result is _END:
                        return
                    yield Frame(self._event, "", self._serialize(result)).encode()
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.wait([waiting])
            if hasattr(self._results, "aclose"):
                await self._results.aclose()


def _to_json(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(_plain(result), allow_nan=False)


def _plain(value: Any, column: str | None = None) -> Any:
    """Return a value as JSON has it; rows are objects, and single values as `Event.to_json` writes them.

    :param column: that of a row which the value is from.
    :raises TypeError: for one that has no form in JSON, naming the column.
    """
    if isinstance(value, Row):
        value = value._mapping  # noqa: SLF001 - its public name
    if isinstance(value, Mapping):
        is_row = isinstance(value, RowMapping)
        return {key: _plain(each, key if is_row else column) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, column) for each in value]
    try:
        return write_scalar(value)
    except Unfit:
        pass
    if isinstance(value, (str, int, float)):  # of a class of the application's
        return value
    where = "" if column is None else f"column {column!r}: "
    raise TypeError(
        f"{where}{type(value).__name__} has no form in JSON: select its columns, or write web.sse(..., serialize=...), "
        f"a function of a result that returns a text"
    )
