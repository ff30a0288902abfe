"""The thread that reads existing rows, while this process hears."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection

import psycopg

from ...errors import ListenerError, WatchError, one_line
from ..decoding.routes import Route, Router
from ..dispatch.dispatcher import Dispatcher
from ..pipeline.gate import Gate
from ..pipeline.inbox import Inbox
from ..server.connect import Connect
from ..source import Backoff, Source
from .attempt import Attempt, Interrupted, Parts, Tell
from .progress import Progress

log: logging.Logger = logging.getLogger(__name__)

#: Seconds until a backfill that failed is tried again; others are not to wait for it.
PUT_OFF_SECONDS = 5.0

#: Finds the schemas in which a route's table is.
FindSchemas = Callable[[Route], Collection[str]]


class Filling:
    """Does what is requested, one after the other.

    :param once: the keys of tables whose rows are read once, whether or not somebody requests it.
    :param may_fill: False for one that leaves what others request to other processes.
    """

    def __init__(
        self, connect: Connect, progress: Progress, once: Collection[str], router: Router, dispatcher: Dispatcher,
        source: Source, gate: Gate, inbox: Inbox, find_schemas: FindSchemas, tell: Tell,
        may_fill: bool,
    ) -> None:  # fmt: skip
        self._connect, self._progress, self._once, self._router = connect, progress, once, router
        self._source, self._find_schemas, self._may_fill = source, find_schemas, may_fill
        self._stopping, self._woken = threading.Event(), threading.Event()
        self._starting = threading.Lock()
        #: Until when those that failed wait, by `time.monotonic()`.
        self._put_off: dict[str, float] = {}
        self._parts = Parts(source, dispatcher, gate, inbox, progress, self._stopping, tell)
        self.thread: threading.Thread = threading.Thread(
            target=self._run, name="sqlalchemy-watch-backfill", daemon=True
        )

    def stop(self) -> None:
        """Let the thread end."""
        self._stopping.set()
        self._woken.set()

    def wake(self) -> None:
        """Look whether there is something to do: this process hears now, or somebody has requested something.

        The thread begins with the first of that.
        """
        self._woken.set()
        if self._may_fill and (self._once or not self._progress.is_idle):
            with self._starting:
                if self.thread.ident is None and not self._stopping.is_set():
                    self.thread.start()

    def request(self, table: str) -> None:
        """Have the existing rows of a table read, by whichever process hears.

        :raises Exception: where that can't be noted.
        """
        with contextlib.closing(self._connect()) as connection:
            self._progress.request(connection, table)
        self.wake()

    def _run(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                if self._source.state.listening and self._fill_next():
                    backoff = Backoff()
                    continue
            except Interrupted:
                if self._source.state.listening:
                    continue
            except Exception as error:
                # What somebody has to mend is said again and again.
                is_permanent = isinstance(error, (WatchError, psycopg.ProgrammingError))
                log.log(
                    logging.ERROR if is_permanent else logging.WARNING,
                    "can't read existing rows (%s): trying again", one_line(error),
                )  # fmt: skip
                self._woken.wait(backoff.next())
                continue
            self._woken.wait(PUT_OFF_SECONDS if self._put_off else None)

    def _fill_next(self) -> bool:
        """Do what is requested next; return False where nothing is."""
        now = time.monotonic()
        tables = [table for table in self._router.reads if self._put_off.get(table, now) <= now]
        with contextlib.closing(self._connect(stopping=self._stopping)) as connection:
            self._progress.request_once(connection, self._once)
            backfill = self._progress.next(connection, tables)
            if backfill is None:
                return False
            self._put_off[backfill.table] = now + PUT_OFF_SECONDS
            route = self._router.reads[backfill.table]
            schemas = sorted(self._find_schemas(route))
            if not schemas:
                raise ListenerError(f"there is no table {backfill.table!r} to read")
            try:
                Attempt(self._parts, connection, backfill, route, schemas).run()
            except Interrupted:
                del self._put_off[backfill.table]
                raise
        del self._put_off[backfill.table]
        log.info("all existing rows of table %r have been read", backfill.table)
        return True
