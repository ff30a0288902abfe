"""What a relay does at the moment: one line in a terminal, renewed; elsewhere a line of the log now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..listener.wal.slots import size_text
from .output import printable

if TYPE_CHECKING:
    from ..relay import Broadcast, Relay

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between looks, between lines of the log at least, and over which a rate is taken.
LOOK_SECONDS, LINE_SECONDS, RATE_SECONDS = 0.5, 30.0, 10.0

#: Seconds before the first line of the log: it tells of what the start has come to.
FIRST_SECONDS = 2.0

#: How often the line in a terminal is renewed in a second.
RENEWALS = 4


class Look(NamedTuple):
    """What is seen at a time."""

    #: Messages.
    number: int
    #: What they are: "published".
    unit: str
    #: Further words, whose change alone is nothing new.
    details: tuple[str, ...]
    #: What is not as it should be, or waited for.
    states: tuple[str, ...]


class RelayProgress:
    """Looks at a relay."""

    def __init__(self, relay: Relay) -> None:
        self.of: Relay = relay

    def look(self) -> Look:
        """Return what it does now."""
        stats = self.of.stats()
        details, states = [], []
        if stats.delay is not None:
            details.append(f"{stats.delay:.2f} s behind")
        if stats.listener is not None and stats.listener.wal_held_bytes is not None:
            details.append(f"{size_text(stats.listener.wal_held_bytes)} of log held")
        if stats.refused:
            states.append(f"refused: {stats.refused:,}")
        if stats.waits_for is not None:
            states.append(f"waits for {stats.waits_for}")
        elif not self.of.listener.running:
            states.append("waits for the broker")
        elif stats.listener is None or stats.listener.connected_since is None:
            # Well without being connected: only where another one is active.
            stands_by = self.of.listener.healthy()
            states.append(
                "stands by: another process of the group is active" if stands_by else "waits for the database"
            )
        return Look(stats.published, "published", tuple(details), tuple(states))


class BroadcastProgress:
    """Looks at a broadcast."""

    def __init__(self, broadcast: Broadcast) -> None:
        self.of: Broadcast = broadcast

    def look(self) -> Look:
        """Return what it does now."""
        states, waits_for = [], self.of.waits_for
        if waits_for is not None:
            states.append(f"waits for {waits_for}")
        elif self.of.stands_by:
            states.append("stands by: another process of this name is heard")
        details = (f"{self.of.frames:,} frames",)
        return Look(self.of.notifications, "passed on", details, tuple(states))


class Progress:
    """Shows what one does, for as long as the block.

    :param console: the terminal; None for the log.
    """

    def __init__(self, seen: RelayProgress | BroadcastProgress, console: Console | None) -> None:
        self._seen = seen
        self._counts: deque[tuple[float, int]] = deque()
        self._shown: _Line | _Lines = _Lines(self) if console is None else _Line(console, self)

    def __enter__(self) -> Progress:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shown.stop()
        look = self._seen.look()
        if look.number:
            log.info("%s %s in all", f"{look.number:,}", look.unit)

    def look(self) -> tuple[Look, str]:
        """Return what it does now, and that as a line."""
        look, now = self._seen.look(), time.monotonic()
        self._counts.append((now, look.number))
        while now - self._counts[0][0] > RATE_SECONDS:
            self._counts.popleft()
        since, before = self._counts[0]
        rate = (look.number - before) / max(now - since, LOOK_SECONDS)
        numbers = ", ".join((f"{look.number:,} {look.unit}", f"{rate:,.0f}/s", *look.details))
        return look, printable("; ".join((numbers, *look.states)))


class _Line:
    """In a terminal."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._progress = progress
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=RENEWALS, transient=True)

    def start(self) -> None:
        self._live.start(refresh=True)

    def stop(self) -> None:
        self._live.stop()

    def _render(self) -> Text:
        look, line = self._progress.look()
        return Text(line, style="yellow" if look.states else "", no_wrap=True, overflow="ellipsis")


class _Lines:
    """In the log: a line where something is new, and then none for a while."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sqlalchemy-watch-progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        last: tuple[int, tuple[str, ...]] | None = None
        logged_at = time.monotonic() - LINE_SECONDS + FIRST_SECONDS
        while not self._ended.wait(LOOK_SECONDS):
            look, line = self._progress.look()
            if (look.number, look.states) != last and time.monotonic() - logged_at >= LINE_SECONDS:
                last, logged_at = (look.number, look.states), time.monotonic()
                log.info("%s", line)


class ConsoleHandler(logging.Handler):
    """Writes the log above the line that is renewed."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; it is in one line as far as the terminal goes."""
        try:
            self._console.print(Text(self.format(record)), soft_wrap=True)
        except Exception:
            self.handleError(record)
