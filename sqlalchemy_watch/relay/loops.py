"""An event loop in a thread of its own: brokers' clients are coroutines, and listeners are threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds that what still runs gets to end in.
END_SECONDS = 2.0


class LoopThread:
    """Runs coroutines for other threads, until it is ended.

    :param name: the thread's.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._is_cancelled = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """Return the result of a coroutine.

        :param seconds: after which it is cancelled.
        :raises TimeoutError: where that was so.
        :raises CancelledError: of concurrent.futures, after `cancel`.
        :raises Exception: what it raises.
        """
        with self._lock:
            if self._is_cancelled:
                coroutine.close()
                raise concurrent.futures.CancelledError
            running = asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, seconds), self._loop)
            self._running.add(running)
        try:
            return running.result()
        finally:
            with self._lock:
                self._running.discard(running)

    def cancel(self) -> None:
        """Cancel what runs, and run nothing more but what `end` is given."""
        with self._lock:
            self._is_cancelled = True
            for running in self._running:
                running.cancel()

    def end(self, last: Coroutine[Any, Any, None]) -> None:
        """Run a last coroutine, for so long as it gets, and end the thread."""
        self.cancel()
        running = asyncio.run_coroutine_threadsafe(last, self._loop)
        with contextlib.suppress(Exception):
            running.result(END_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=END_SECONDS / 2))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
