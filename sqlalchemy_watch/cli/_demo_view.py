"""The demo's view: counters and the latest events, live in a terminal, or plain lines elsewhere.

With a relay there are the messages that another process gets as well, beside the events.
"""

from __future__ import annotations

import json
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

from ..events.event import Event
from .output import printable
from .tail import event_text, signal_name

_COLOURS = {"inserted": "green", "updated": "yellow", "deleted": "red", "truncated": "magenta"}

#: Events shown at once, where the terminal is high enough.
TAIL = 14

#: Elsewhere: how many of a transaction are printed for each signal.
PLAIN_LINES = 3

#: Columns from which on counters and events stand side by side.
WIDE = 110

#: Seconds for which a counter that has moved is marked.
GLOW = 0.5


class DemoView:
    """A receiver that counts events, and shows them while it is used as a context manager.

    :param is_relayed: True if messages come as well.
    """

    def __init__(self, console: Console, signals: list[str], where: str, is_relayed: bool = False) -> None:
        self.heard: Counter[str] = Counter(dict.fromkeys(signals, 0))
        #: The messages by signal; those of no signal are under their type.
        self.got: Counter[str] = Counter(dict.fromkeys(signals, 0))
        self.broken = False  # the reader of our output has left
        self._console, self._where = console, where
        self._width = max(map(len, signals))
        self._statement = ""
        self._moved: dict[str, float] = {}
        self._latest: deque[Event[Any]] = deque(maxlen=TAIL)
        self._is_relayed = is_relayed
        self._latest_messages: deque[Text] = deque(maxlen=TAIL)
        self._took: deque[float] = deque(maxlen=500)
        self._delays: deque[float] = deque(maxlen=500)
        self._recent: deque[tuple[float, int]] = deque(maxlen=24)  # two seconds of frames
        self._printed: Counter[tuple[str, int, str]] = Counter()
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=12)

    def __enter__(self) -> DemoView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show_event(self, sender: Any, event: Event[Any]) -> None:
        """Receive an event."""
        with self._lock:
            name = signal_name(event)
            self.heard[name] += 1
            self._moved[name] = time.monotonic()
            self._delays.append((datetime.now(UTC) - event.emitted_at).total_seconds() * 1000)
            self._latest.append(event)
        self._print_plain("signal  ", event.txid, event.label, event_text(event, self._width))

    def show_message(self, envelope: dict[str, Any]) -> None:
        """Show a message, CloudEvents' envelope, that the other process has got."""
        data, sent_at = envelope["data"], datetime.fromisoformat(envelope["time"])
        name = f"{data['model']}.{data['label']}" if "model" in data else str(envelope["type"])
        kind = str(envelope["type"]).rpartition(".")[2]
        values = " ".join(f"{key}={json.dumps(value)}" for key, value in data.get("values", {}).items())
        text = Text.assemble(
            (sent_at.astimezone().strftime("%H:%M:%S.%f")[:-3], "dim"), "  ",
            (f"{printable(kind):<9}", _COLOURS.get(data["operation"], "")), "  ",
            (printable(envelope.get("subject", "").partition("/")[2]), "bold"), "  ", printable(values),
            no_wrap=True, overflow="ellipsis",
        )  # fmt: skip
        with self._lock:
            self.got[name] += 1
            self._took.append((datetime.now(UTC) - sent_at).total_seconds() * 1000)
            self._latest_messages.append(text)
        self._print_plain("message ", data.get("txid", 0), name, text.plain)

    def show_statement(self, sql: str) -> None:
        """Show the statement that the other process runs now."""
        with self._lock:
            self._statement = sql

    def _print_plain(self, kind: str, txid: int, label: str, line: str) -> None:
        if self._console.is_terminal or self.broken:
            return
        mark = kind if self._is_relayed else ""
        with self._lock:
            self._printed[kind, txid, label] += 1
            count = self._printed[kind, txid, label]
            try:
                if count <= PLAIN_LINES:
                    print(mark + line, flush=True)
                elif count == PLAIN_LINES + 1:
                    print(f"{mark}              ... and more of this statement", flush=True)
            except BrokenPipeError:
                self.broken = True

    def _render(self) -> RenderableType:
        wide, height = self._console.width >= WIDE, self._console.height
        with self._lock:
            summary, statement = self._render_summary(), self._render_statement()
            if self._is_relayed:
                return self._in_panel(summary, self._render_both(wide, height), statement)
            counters = self._render_counters(1 if wide else 2)
            # Borders, summary, statement, and the cursor's line take 7 lines; counters above the events 6 more.
            events = self._render_events(max(3, min(TAIL, height - (7 if wide else 13))))
        body: RenderableType = Group(counters, events)
        if wide:
            side_by_side = Table.grid(expand=True, padding=(0, 1))
            side_by_side.add_column(width=38)
            side_by_side.add_column(ratio=1)
            side_by_side.add_row(counters, events)
            body = side_by_side
        return self._in_panel(summary, body, statement)

    def _render_both(self, wide: bool, height: int) -> RenderableType:
        # Borders, summary, statement, and the cursor's line take 7 lines; counters 6, the other panel's borders 2.
        count = max(3, min(TAIL, height - 13 if wide else (height - 15) // 2))
        events = self._render_events(count, "as signals, in this process")
        messages = self._in_lines(list(self._latest_messages), count, "as CloudEvents, in one that knows NATS alone")
        if not wide:
            return Group(self._render_counters(2), events, messages)
        side_by_side = Table.grid(expand=True, padding=(0, 1))
        side_by_side.add_column(ratio=1)
        side_by_side.add_column(ratio=1)
        side_by_side.add_row(events, messages)
        return Group(self._render_counters(2), side_by_side)

    def _in_panel(self, *parts: RenderableType) -> Panel:
        return Panel(
            Group(*parts),
            title="[bold]sqlalchemy_watch[/] demo",
            subtitle=Text(f"plain SQL from another process, to {self._where}", "dim"),
            border_style="blue",
        )

    def _render_summary(self) -> Text:
        total = sum(self.heard.values())
        since, before = self._recent[0] if self._recent else (time.monotonic(), 0)
        self._recent.append((time.monotonic(), total))
        rate = (total - before) / max(time.monotonic() - since, 0.1)
        delays = sorted(self._delays)
        median = f"{delays[len(delays) // 2]:.1f} ms" if delays else "-"
        text = Text.assemble(
            ("events ", "dim"), (f"{total:<8,}", "bold"), ("per second ", "dim"), (f"{rate:<8,.0f}", "bold"),
            ("median delay " if self._is_relayed else "emitted to heard, median ", "dim"), (median, "bold"),
            no_wrap=True, overflow="ellipsis",
        )  # fmt: skip
        if self._is_relayed:
            took = sorted(self._took)
            text.append(", by NATS ", "dim").append(f"{took[len(took) // 2]:.1f} ms" if took else "-", "bold")
        return text

    def _render_statement(self) -> Text:
        return Text.assemble(("SQL> ", "bold blue"), self._statement, no_wrap=True, overflow="ellipsis")

    def _render_counters(self, columns: int) -> Panel:
        now = time.monotonic()
        cells = []
        for name, count in self.heard.items():
            glows = now - self._moved.get(name, -GLOW) < GLOW
            mark = Text("●" if glows else " ", "cyan")
            style = "dim" if not count else "bold cyan" if glows else "cyan"
            numbers = f"{count:>7,}" + (f" {self.got[name]:>7,}" if self._is_relayed else "")
            cells.append((mark, Text(name, style if glows or not count else ""), Text(numbers, style)))
        grid = Table.grid(padding=(0, 1))
        rows = -(-len(cells) // columns)
        for row in range(rows):
            grid.add_row(*(cell for column in cells[row::rows] for cell in column))
        return Panel(grid, title="signals", border_style="dim")

    def _render_events(self, count: int, title: str = "latest events") -> Panel:
        return self._in_lines([self._render_event(event) for event in list(self._latest)[-count:]], count, title)

    def _in_lines(self, lines: list[Text], count: int, title: str) -> Panel:
        lines = lines[-count:]
        lines += [Text("")] * (count - len(lines))
        return Panel(Group(*lines), title=title, border_style="dim")

    def _render_event(self, event: Event[Any]) -> Text:
        clock, name, rest = event_text(event).split("  ", 2)
        return Text.assemble(
            (clock, "dim"), "  ", (f"{name:<{self._width}}", _COLOURS[event.operation]), "  ", rest,
            no_wrap=True, overflow="ellipsis",
        )  # fmt: skip
