"""What the demo shows: counters and the latest events, live in a terminal, or plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..events import Event
from .tail import event_text, model_name

_COLOURS = {"inserted": "green", "updated": "yellow", "deleted": "red", "truncated": "magenta"}

#: Events shown at once; elsewhere, how many of a transaction are printed for each signal.
TAIL = 14
PLAIN_LINES = 3


class DemoView:
    """A receiver that counts, and shows what it hears while used as a context manager."""

    def __init__(self, console: Console, signals: list[str], where: str) -> None:
        self.heard: Counter[str] = Counter(dict.fromkeys(signals, 0))
        self._console, self._where = console, where
        self._latest: deque[Event[Any]] = deque(maxlen=TAIL)
        self._delays: deque[float] = deque(maxlen=500)
        self._recent: deque[tuple[float, int]] = deque(maxlen=50)
        self._printed: Counter[tuple[int, str]] = Counter()
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=12, transient=True)

    def __enter__(self) -> DemoView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show_event(self, sender: Any, event: Event[Any]) -> None:
        """The receiver."""
        with self._lock:
            self.heard[f"{model_name(event)}.{event.label}"] += 1
            self._delays.append((datetime.now(UTC) - event.emitted_at).total_seconds() * 1000)
            self._latest.append(event)
        if not self._console.is_terminal:
            self._print_plain(event)

    def _print_plain(self, event: Event[Any]) -> None:
        group = (event.txid, event.label)
        self._printed[group] += 1
        if self._printed[group] <= PLAIN_LINES:
            print(event_text(event), flush=True)
        elif self._printed[group] == PLAIN_LINES + 1:
            print("              ... and more of this statement", flush=True)

    def _render(self) -> RenderableType:
        with self._lock:
            total = sum(self.heard.values())
            self._recent.append((time.monotonic(), total))
            counters = Table.grid(padding=(0, 2))
            for name, count in self.heard.items():
                counters.add_row(
                    Text(name, "bold" if count else "dim"), Text(f"{count:>7,}", "cyan" if count else "dim")
                )
            delays = sorted(self._delays)
            median = f"{delays[len(delays) // 2]:.1f} ms" if delays else "-"
            since, before = self._recent[0]
            rate = (total - before) / max(time.monotonic() - since, 0.1)
            summary = Text.assemble(
                ("events ", "dim"), (f"{total:,}", "bold"), ("   per second ", "dim"), (f"{rate:,.0f}", "bold"),
                ("   emitted to heard, median ", "dim"), (median, "bold"),
            )  # fmt: skip
            lines = [
                Text(event_text(event), _COLOURS[event.operation], no_wrap=True, overflow="ellipsis")
                for event in self._latest
            ]
            lines += [Text("")] * (TAIL - len(lines))
        body = Table.grid(expand=True, padding=(0, 1))
        body.add_column(width=38)
        body.add_column(ratio=1)
        body.add_row(
            Panel(counters, title="signals", border_style="dim"),
            Panel(Group(*lines), title="latest events", border_style="dim"),
        )
        return Panel(
            Group(summary, body, Text(f"another process writes plain SQL to {self._where}", "dim")),
            title="[bold]sqlalchemy_watch[/] demo",
            border_style="blue",
        )
