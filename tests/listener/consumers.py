"""Forks processes that consume a group, each with a file of its own for what its receiver was called with.

Run as a script: a line of JSON on stdin starts a process, with `url`, `path` and the listener's `options`. Lines on
stdout say `started PID TIME`, `active PID TIME` and `lost PID TIME`.
One process imports everything once, so that the others start within milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, NamedTuple

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_watch import Listener, RetryPolicy, Watch, Watched
from sqlalchemy_watch.listener.backfill import attempt, reading
from sqlalchemy_watch.listener.wal import standby


class Base(DeclarativeBase):
    pass


class Payment(Watched, Base):
    __tablename__ = "payments"
    __watch__ = ("inserted",)
    __watch_delivery__ = "durable"
    id: Mapped[int] = mapped_column(primary_key=True)


class Booking(Base):
    """An effect of a payment."""

    __tablename__ = "bookings"
    id: Mapped[int] = mapped_column(primary_key=True)
    payment_id: Mapped[int]


class Stock(Watched, Base):
    """Rows that are there before anybody listens, and change; of each the version grows."""

    __tablename__ = "stock"
    __watch__ = tuple(Watch(operation, extra_columns=("version",)) for operation in ("inserted", "updated", "deleted"))
    __watch_delivery__ = "durable"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


#: The keys of payments: each has many.
SHARDS = 20

#: Every payment with such a number is one that receivers fail on, until it is healed.
POISON = 97


#: How long a transaction may stand still.
IDLE_MILLISECONDS = 2000

#: Seconds for a process to start, and for another one to become active.
PATIENCE = 60.0


class Heard(NamedTuple):
    """A line of a process's file."""

    lsn: int
    position: int
    id: int
    #: Nanoseconds of the system-wide monotonic clock.
    at: int


class Told(NamedTuple):
    """A line of a process's file that tells of stock."""

    lsn: int
    position: int
    id: int
    version: int
    operation: str


class Word(NamedTuple):
    """A line that a process said of itself."""

    #: "started", "active" or "lost".
    what: str
    pid: int
    #: Nanoseconds of the system-wide monotonic clock.
    at: int


class Consumers:
    """The processes of one group, as the test sees them.

    :param mode: the way in which they hear; see `MODES`.
    :param options: of each process's listener.
    """

    def __init__(self, url: str, group: str, directory: Path, mode: str = "receivers", **options: Any) -> None:
        self._url, self._directory, self._mode, self._options = url, directory, mode, options
        self._errors = (directory / "errors").open("w")
        self._parent = subprocess.Popen(
            [sys.executable, __file__, group],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        self._alive: list[int] = []
        self._paths: list[Path] = []
        self._words: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read_all)
        self._reader.start()
        #: What they have said.
        self.said: list[Word] = []

    @property
    def active(self) -> list[int]:
        """Process ids, in the order in which they became active."""
        return [word.pid for word in self.said if word.what == "active"]

    def start(self, url: str | None = None) -> int:
        """Start one more process, which stands by while another one is active.

        :param url: where it connects, instead of where all others do.
        """
        path = self._directory / f"{len(self._paths)}.heard"
        self._paths.append(path)
        assert self._parent.stdin is not None
        asked = {"url": url or self._url, "path": str(path), "mode": self._mode, "options": self._options}
        print(json.dumps(asked), file=self._parent.stdin, flush=True)
        while True:
            word = self._next(PATIENCE)
            if word.what == "started":
                self._alive.append(word.pid)
                path.with_suffix(".pid").write_text(str(word.pid))
                return word.pid

    def wait_for_active(self, than: int | None = None, since: int = 0, seconds: float = PATIENCE) -> int:
        """Wait until a process other than the given one is active.

        :param since: by the monotonic clock: when it has to have become so.
        """
        deadline = time.monotonic() + seconds
        while True:
            active = [word for word in self.said if word.what == "active"]
            if active and active[-1].pid != than and active[-1].at >= since:
                return active[-1].pid
            self._next(deadline - time.monotonic())

    def wait_for_holder(self) -> int:
        """Wait until the process that became active last has not lost that again."""
        deadline = time.monotonic() + PATIENCE
        self.listen()
        while True:
            turn = max((word for word in self.said if word.what == "active"), key=lambda word: word.at)
            if not any(word.what == "lost" and word.pid == turn.pid and word.at > turn.at for word in self.said):
                return turn.pid
            self._next(deadline - time.monotonic())

    def listen(self) -> None:
        """Take in what has been said until now."""
        while not self._words.empty():
            self._next(0.0)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._alive.remove(pid)

    def terminate(self, pid: int) -> None:
        """Have it stop in order."""
        os.kill(pid, signal.SIGTERM)
        self._alive.remove(pid)

    def heard(self) -> dict[int, list[Heard]]:
        """Each process's id, and the events that it heard."""
        return {
            int(path.with_suffix(".pid").read_text()): [
                Heard(*map(int, line.split())) for line in path.read_text().splitlines()
            ]
            for path in self._paths
        }

    def told(self) -> list[Told]:
        """What was told of stock, by all processes."""
        lines = [line.split() for path in self._paths for line in path.read_text().splitlines()]
        return [Told(*map(int, words[:4]), words[4]) for words in lines]

    def errors(self) -> str:
        """What they have logged."""
        return (self._directory / "errors").read_text()

    def close(self) -> None:
        self._errors.close()
        for pid in self._alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._parent.kill()
        self._parent.wait()
        self._reader.join()
        for pipe in (self._parent.stdin, self._parent.stdout):
            assert pipe is not None
            pipe.close()

    def _read_all(self) -> None:
        assert self._parent.stdout is not None
        for line in self._parent.stdout:
            self._words.put(line)
        self._words.put("")

    def _next(self, seconds: float) -> Word:
        """What is said next.

        :raises AssertionError: where nothing is, or all are dead.
        """
        try:
            line = self._words.get(timeout=max(0.0, seconds))
        except Empty:
            raise AssertionError(f"the consumers said nothing more; at last {self.said[-5:]}") from None
        assert line, f"the consumers' parent has died: {self.errors()[-2000:]}"
        what, pid, at = line.split()
        self.said.append(Word(what, int(pid), int(at)))
        return self.said[-1]


def _say(word: str) -> None:
    os.write(1, f"{word} {os.getpid()} {time.monotonic_ns()}\n".encode())


def _receivers(listener: Listener, book: Book) -> Iterator[None]:
    Payment.watch.inserted.connect(lambda sender, event: book(event))
    yield


def shard_of(event: Any) -> int:
    return int(event.identity[0]) % SHARDS


def _poison(listener: Listener, book: Book) -> Iterator[None]:
    def take(sender: Any, event: Any) -> None:
        if event.identity[0] % POISON == 0 and not book.healed.exists():
            raise ValueError("poison")
        book(event)

    Payment.watch.inserted.connect(take, name="poison")
    yield


def _once(listener: Listener, book: Book) -> Iterator[None]:
    def take(sender: Any, event: Any, session: Session) -> None:
        session.add(Booking(payment_id=event.identity[0]))
        session.flush()
        book(event)

    # As docs/durable.md says: who is suspended in a transaction, or cut off, would hold up his successor at its event.
    options = {"options": f"-c idle_in_transaction_session_timeout={IDLE_MILLISECONDS}"}
    engine = create_engine(book.engine.url, connect_args=options)
    Payment.watch.inserted.connect_once(take, sessionmaker(engine), name="once")
    yield


def _backfill(listener: Listener, book: Book) -> Iterator[None]:
    def take(sender: Any, event: Any) -> None:
        book.write(event.lsn, event.position, event.identity[0], event.values["version"], event.operation)
        if event.operation == "read":
            time.sleep(0.001)  # so that takeovers come in between

    Stock.watch.connect(take)
    yield


def _batches(listener: Listener, book: Book) -> Iterator[None]:
    Payment.watch.batches(max_size=30, max_wait=0.02).connect(lambda sender, events: book(*events))
    yield


def _transactions(listener: Listener, book: Book) -> Iterator[None]:
    listener.transactions.connect(lambda sender, transaction: book(*transaction.events), chunk=30)
    yield


def _stream(listener: Listener, book: Book) -> Iterator[None]:
    with listener.events.iterate() as events:
        yield
        for event in events:
            book(event)


class Book:
    """Where a process notes what it hears."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.engine = engine
        self.healed = path.parent / HEALED
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, *events: Any) -> None:
        for event in events:
            self.write(event.lsn, event.position, event.identity[0], time.monotonic_ns())

    def write(self, *words: object) -> None:
        os.write(self._file, f"{' '.join(map(str, words))}\n".encode())


#: The file that is there once no payment is poison any more.
HEALED = "healed"

_BY_SHARD = {"workers": 8, "key": shard_of}


class Mode(NamedTuple):
    """A way to hear."""

    #: Connects, and goes on once the listener is started.
    hear: Callable[[Listener, Book], Iterator[None]]
    options: Mapping[str, Any] = {}
    #: By what events are in order.
    order: Literal["log", "shard"] = "log"
    #: True if an event may be heard again long after it was acknowledged.
    parks: bool = False
    #: True if it writes to the database for each event, or for some.
    writes: bool = False


MODES: dict[str, Mode] = {
    "receivers": Mode(_receivers),
    "lanes": Mode(_receivers, _BY_SHARD, "shard"),
    "poison": Mode(
        _poison,
        {**_BY_SHARD, "retry": RetryPolicy(None, 0.02, 0.1, in_order="key", attempts=2)},
        "shard",
        parks=True,
        writes=True,
    ),
    "once": Mode(_once, _BY_SHARD, "shard", writes=True),
    "backfill": Mode(_backfill, {"backfill": [Stock]}),
    "batches": Mode(_batches),
    "transactions": Mode(_transactions),
    "stream": Mode(_stream),
}


def _consume(group: str, url: str, path: str, mode: str, options: dict[str, Any]) -> None:
    engine = create_engine(url)
    book, found = Book(Path(path), engine), MODES[mode]
    listener = Listener(engine, Base, durable=group, **found.options, **options)
    listener.connected.connect(lambda sender: _say("active"), weak=False)
    listener.disconnected.connect(lambda sender, error: _say("lost"), weak=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _say("started")
    with suppress(KeyboardInterrupt):
        hearing = found.hear(listener, book)
        next(hearing)
        listener.start(timeout=60)
        next(hearing, None)
        while True:
            time.sleep(0.5)
    listener.stop()


def main(group: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    standby.STANDBY_INTERVAL = 0.2  # to get through many hand-overs quickly
    reading.MOST_ROWS = attempt.MOST_ROWS = 100
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                _consume(group, **json.loads(line))
            finally:
                os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
