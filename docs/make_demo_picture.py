"""`python docs/make_demo_picture.py`: runs `sqlalchemy-watch demo` in a terminal, and draws a moment of it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parent / "demo.svg"

COLUMNS, LINES = 112, 21

#: The statement that is shown in the frame which is drawn.
MOMENT = "UPDATE orders SET status = 'shipped' WHERE id = 41"


def run_in_terminal() -> str:
    """Return all that the demo writes into a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    left_out = {"DATABASE_URL", "COLUMNS", "LINES", "NO_COLOR"}
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    command = [sys.executable, "-m", "sqlalchemy_watch", "demo"]
    process = subprocess.Popen(
        command, env={**environment, "TERM": "xterm-256color"}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # EIO, once the other end is closed
        while piece := os.read(ours, 65536):
            output += piece
    process.wait()
    return output.decode()


def draw(output: str) -> str:
    """Draw the last frame with the statement; rich erases a frame before it writes the next."""
    frames = re.split(r"(?:\r|\x1b\[2K|\x1b\[1A)+", output.replace("\r\n", "\n"))
    frame = [frame for frame in frames if MOMENT in frame][-1]
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(frame.strip()))
    drawn = console.export_svg(title="sqlalchemy-watch demo", unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)  # fonts, which would be fetched from elsewhere


if __name__ == "__main__":
    picture = draw(run_in_terminal())
    PICTURE.write_text("".join(f"{line.rstrip()}\n" for line in picture.splitlines()))
