"""Sources of events: the two sides of one, and the parts that every source is made of.

The listener knows a `Source`. `Keeper` is the one loop: connect, read, lose, back off. `Wake`, `Poller` and `Tokens`
are the parts of reading that do not depend on the protocol.
"""

from __future__ import annotations

import contextlib
import logging
import random
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

import psycopg

from ..errors import ConfigurationError, OwnershipError, SlotError, UnsupportedServerError, WatchError, one_line
from .options import Options
from .pipeline.inbox import Inbox
from .pipeline.ledger import Ledger
from .pipeline.parts import Connected, Disconnected, Here
from .processes import let_go
from .server.connect import Connect
from .stats import ReadingStats

#: Seconds before the first new attempt to connect, the factor from each to the next, and the longest wait.
BACKOFF_FIRST, BACKOFF_FACTOR, BACKOFF_MAX = 0.1, 2.0, 30.0

#: The reason of a resync that is a matter of course.
STARTED_LATE = "listening begins now, and what was read before may be out of date"

#: Raised by the first attempt, these end the source: trying again would not help.
HOPELESS = (UnsupportedServerError, ConfigurationError, OwnershipError, SlotError)


class SourceState:
    """The state of a source, written by its thread and read by all others."""

    def __init__(self, missing: str) -> None:
        #: Set once events are heard, or it is known that they are not, for the reason in `error`.
        self.ready: threading.Event = threading.Event()
        #: The reason for which the last attempt failed.
        self.error: BaseException | None = None
        #: True while everything that commits is heard.
        self.listening: bool = False
        #: The reason for which nothing is heard while it isn't listening, in words.
        self.missing: str = missing
        #: Who is heard in place of this one, which rightly hears nothing; None otherwise.
        self.standing_by: str | None = None
        #: True if whoever is heard in its place has no right to that, as far as can be told.
        self.is_displaced: bool = False
        #: True to go on trying whatever the first attempt fails with.
        self.keeps_trying: bool = False
        #: When the other side last proved that events are heard, by `time.monotonic()`; None where that is not asked.
        self.proved_at: float | None = None

    def stand_by(self, instead: str, is_displaced: bool = False) -> None:
        """Note that another process is heard, and that this one is ready to follow it."""
        self.standing_by, self.is_displaced, self.error = instead, is_displaced, None
        self.ready.set()


class Source(Protocol):
    """Reads events in a thread of its own, and puts them where the dispatch thread finds them."""

    state: SourceState
    #: Those of `send_mark`, which are on their way.
    marks: Marks

    @property
    def thread(self) -> threading.Thread:
        """The thread that reads."""

    def stop(self) -> None:
        """Let the thread end and close its connection."""

    def disown(self) -> None:
        """Give up the parent's socket, in a forked child."""

    def send_token(self, done: threading.Event, deadline: float) -> None:
        """Have `done` set when everything that is committed by now has been dispatched.

        :param deadline: by `time.monotonic()`: until when to try.
        """

    def forget_token(self, done: threading.Event) -> None:
        """Stop waiting for a token."""

    def send_mark(self, connection: psycopg.Connection[Any], name: str) -> tuple[int, datetime]:
        """Have a mark come where the present transaction commits.

        :returns: the number of that, and the time.
        """

    def confirm(self, deadline: float) -> bool:
        """Return True once the server has noted everything that is acknowledged by now, False at the deadline."""


class Via(Protocol):
    """Brings what NOTIFY sends on another way than a LISTEN of this process; given as `Listener(via=)`."""

    def make_source(
        self, connect: Connect, options: Options, channels: Collection[str], inbox: Inbox, ledger: Ledger,
        stats: ReadingStats, on_connected: Callable[[psycopg.Connection[Any]], None], on_heartbeat: Callable[[], None],
    ) -> Source:  # fmt: skip
        """Return the source of a listener that starts.

        :param connect: opens connections to the database.
        :param channels: the notifications that are wanted.
        :param inbox: where they are put.
        :param on_connected: to be told of each connection, with one of the database's; looks at the triggers.
        :param on_heartbeat: to be called whenever the other side has proved that it is there.
        """


class Kept(Protocol):
    """A source as its `Keeper` sees it; every method is called in the source's thread."""

    def connect_and_read(self) -> None:
        """Connect, announce, and read until stopped.

        :raises Exception: where the connection can't be made or is lost.
        """

    def note_loss(self) -> None:
        """Note that nothing is heard any more."""

    def tell(self, item: Connected | Disconnected) -> None:
        """Pass on that the connection is there, or lost."""

    def close(self) -> None:
        """Close what the thread needed: it ends."""


class Backoff:
    """Exponential waiting with jitter, so that many listeners do not come back at once."""

    def __init__(self) -> None:
        self._delay = BACKOFF_FIRST

    def next(self) -> float:
        """Return the seconds to wait now."""
        delay, self._delay = self._delay, min(self._delay * BACKOFF_FACTOR, BACKOFF_MAX)
        return delay * random.uniform(0.5, 1.0)


class Keeper:
    """The thread of a source: connects, reads, notes the loss, waits, and begins again until stopped.

    :param name: the thread's.
    :param activity: for the log: "listening".
    :param steady: seconds of listening after which the next attempt does not wait as long as the last one.
    """

    def __init__(
        self, kept: Kept, state: SourceState, stats: ReadingStats, *, name: str, activity: str, steady: float,
        log: logging.Logger,
    ) -> None:  # fmt: skip
        self._kept, self._state, self._stats = kept, state, stats
        self._activity, self._steady, self._log = activity, steady, log
        self.stopping: threading.Event = threading.Event()
        self.thread: threading.Thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._backoff = Backoff()
        self._listened_from = 0.0
        self._was_listening = False
        #: The connection's socket, while there is one.
        self._descriptor: int | None = None

    def disown(self) -> None:
        """Give up the parent's socket, in a forked child."""
        let_go(self._descriptor)

    @contextlib.contextmanager
    def holding(self, connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
        """Note the loss of this connection at the end, and close it whatever state it is in.

        Its descriptor is known no longer than it is open: the number may be another file's afterwards.
        """
        self._descriptor = connection.pgconn.socket
        try:
            with self.noting_loss():
                yield connection
        finally:
            self._descriptor = None
            with contextlib.suppress(psycopg.Error):
                connection.close()

    @contextlib.contextmanager
    def noting_loss(self, expected: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Note at the end that the connection is lost.

        :param expected: errors that a loss may show itself by, beside those of the system and of PostgreSQL.
        """
        try:
            yield
        except BaseException as error:
            self._lose(error)
            if not isinstance(error, (psycopg.Error, OSError, WatchError, *expected)):
                with contextlib.suppress(Exception):
                    self._log.exception("unexpected error while %s; going on with a new connection", self._activity)
            raise
        else:
            self._lose(None)

    def announce(self) -> bool:
        """Note that from now on everything is heard; return True if it was once before."""
        again, self._was_listening = self._was_listening, True
        self._listened_from = time.monotonic()
        self._state.listening, self._state.error, self._state.standing_by = True, None, None
        self._stats.connected_since = datetime.now(UTC)
        self._stats.reconnects += again
        self._log.info("%s", self._activity)
        self._kept.tell(Connected())
        return again

    def _lose(self, failure: BaseException | None) -> None:
        self._state.error = failure
        if not self._state.listening:
            return
        self._state.listening, self._state.proved_at = False, None
        self._stats.connected_since = None
        self._kept.note_loss()
        if time.monotonic() - self._listened_from >= self._steady:
            self._backoff = Backoff()
        if not self.stopping.is_set():
            self._kept.tell(Disconnected(failure))

    def _run(self) -> None:
        try:
            while not self.stopping.is_set():
                failure = self._attempt()
                if failure is None or self.stopping.is_set():
                    continue
                if isinstance(failure, HOPELESS) and not (self._state.ready.is_set() or self._state.keeps_trying):
                    self._state.ready.set()
                    return
                self._back_off(failure)
        finally:
            self._kept.close()

    def _back_off(self, failure: BaseException) -> None:
        delay = self._backoff.next()
        level = logging.ERROR if isinstance(failure, HOPELESS) else logging.WARNING  # somebody has to do something
        with contextlib.suppress(Exception):  # a failure to log must not end the thread
            self._log.log(level, "not %s (%s): trying again in %.1f s", self._activity, one_line(failure), delay)
        self.stopping.wait(delay)

    def _attempt(self) -> BaseException | None:
        """Connect and read once; return what ended it."""
        try:
            self._kept.connect_and_read()
        except Exception as error:  # whatever it was, the answer is a new connection, and never silence
            self._state.error, self._state.standing_by = error, None
            return error
        return None


class Wake:
    """Wakes a thread that waits for sockets."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        #: True while the thread waits and nothing else will end that soon; see `nudge`.
        self.is_wanted: bool = True

    def set(self) -> None:
        """Wake it, or let it not even begin to wait."""
        try:
            self._ours.send(b"x")
        except OSError:  # awake anyway (the pipe is full), or gone
            pass

    def nudge(self) -> None:
        """Wake it only if it wants to be: waking costs more than most of what there is to wake for."""
        if self.is_wanted:
            self.is_wanted = False
            self.set()

    def drain(self) -> None:
        """Take what woke it, in the thread itself."""
        try:
            while self._theirs.recv(4096):
                pass
        except OSError:
            pass

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._theirs.fileno()

    def close(self) -> None:
        """Close both ends; waking does nothing any more."""
        self._ours.close()
        self._theirs.close()


class Poller:
    """Waits until one of some descriptors is readable.

    :param ending: of these it tells only that their other end is gone, where the system can, whatever there is to read.
    """

    def __init__(self, readable: Iterable[int], ending: Iterable[int] = ()) -> None:
        self._readable = list(readable)
        self._poll: Any = select.poll() if hasattr(select, "poll") else None  # Windows has none
        if self._poll is not None:  # select() fails for descriptors from 1,024 on
            for descriptor in self._readable:
                self._poll.register(descriptor, select.POLLIN)
            for descriptor in ending:
                self._poll.register(descriptor, getattr(select, "POLLRDHUP", 0))

    def wait(self, seconds: float) -> list[int]:
        """Return the descriptors that are ready, waiting so many seconds at the most."""
        if self._poll is None:
            return select.select(self._readable, [], [], seconds)[0]
        return [descriptor for descriptor, _ in self._poll.poll(seconds * 1000)]


class Marks:
    """What is to be done at marks that are on their way, by the names under which they travel."""

    def __init__(self) -> None:
        self._waiting: dict[str, Here] = {}

    def add(self, mark: Here) -> str:
        """Return a new name for a mark. It is a secret: nobody else can make one up."""
        name = uuid.uuid4().hex
        self._waiting[name] = mark
        return name

    def take(self, name: str) -> Here | None:
        """Return the mark of this name, which comes once; None if it is another process's, or was forgotten."""
        return self._waiting.pop(name, None)

    def forget(self, name: str) -> None:
        """Do nothing at a mark."""
        self._waiting.pop(name, None)


class Tokens:
    """The marks that `catch_up` sends behind everything that is committed, by the names under which they travel."""

    def __init__(self) -> None:
        self._waiting: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, done: threading.Event) -> str:
        """Return a new name for what is waited for."""
        name = uuid.uuid4().hex
        with self._lock:
            self._waiting[name] = done
        return name

    def names(self) -> list[str]:
        """Return the names of all that are waited for."""
        with self._lock:
            return list(self._waiting)

    def rename(self) -> list[str]:
        """Return new names for all that are waited for: those on their way may be lost, and count no more."""
        with self._lock:
            self._waiting = {uuid.uuid4().hex: done for done in self._waiting.values() if not done.is_set()}
            return list(self._waiting)

    def find(self, name: str) -> threading.Event | None:
        """Return what waits for this name; None if it is another process's, or nobody waits any more."""
        with self._lock:
            return self._waiting.get(name)

    def take(self, name: str) -> threading.Event | None:
        """Return what waits for this name, which is waited for no more."""
        with self._lock:
            return self._waiting.pop(name, None)

    def forget(self, done: threading.Event) -> None:
        """Stop waiting for it."""
        with self._lock:
            self._waiting = {name: event for name, event in self._waiting.items() if event is not done}
