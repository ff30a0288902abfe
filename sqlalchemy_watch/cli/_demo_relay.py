"""The demo's own NATS, a relay to it, and a consumer in another process."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from ..errors import ConfigurationError, WatchError
from ._demo_server import uninterrupted

#: Not imported, since it needs NATS's client.
CONSUMER = Path(__file__).with_name("_demo_consumer.py")

GROUP = "sqlalchemy_watch_demo"

#: Seconds that nats-server gets to start in, and to end in; and the consumer to get what was published.
START_SECONDS, END_SECONDS, CONSUMER_SECONDS = 10.0, 5.0, 30.0

_MISSING = "no {} is installed: pip install 'sqlalchemy-watch[demo-relay]'"


def find_nats() -> str:
    """Return the path of nats-server: that of its wheel, or of PATH.

    :raises ConfigurationError: where there is none, or its client is missing.
    """
    if find_spec("nats") is None:
        raise ConfigurationError(_MISSING.format("client of NATS"))
    for path in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent), None):
        found = shutil.which("nats-server", path=path)
        if found is not None:
            return found
    raise ConfigurationError(_MISSING.format("nats-server"))


@contextlib.contextmanager
def embedded_nats() -> Iterator[str]:
    """Run nats-server with JetStream for as long as the block, and yield its URL.

    :raises ConfigurationError: where none is installed.
    :raises WatchError: where it does not start.
    """
    program = find_nats()
    folder = Path(tempfile.mkdtemp(prefix="sqlalchemy-watch-demo-nats-"))
    process = None
    try:
        with uninterrupted(), (folder / "log").open("wb") as log:
            place = [
                "-a",
                "127.0.0.1",
                "-p",
                "-1",
                "--ports_file_dir",
                str(folder),
            ]  # a free port, and where it says it
            process = subprocess.Popen(
                [program, "-js", "-sd", str(folder), *place], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which then ends it
            )  # fmt: skip
            url = _wait_for_port(process, folder)
        yield url
    finally:
        with uninterrupted():
            if process is not None:
                _end(process)
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for_port(process: subprocess.Popen[bytes], folder: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for ports in folder.glob("*.ports"):
            with contextlib.suppress(OSError, ValueError, LookupError):  # it is being written
                url: str = json.loads(ports.read_text())["nats"][0]
                host, _, port = url.removeprefix("nats://").rpartition(":")
                socket.create_connection((host, int(port)), 1).close()
                return url
        time.sleep(0.02)
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    raise WatchError(f"nats-server does not start: {lines[-1] if lines else 'it says nothing'}")


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def relayed(
    engine: Engine, base: Any, url: str, show: Callable[[dict[str, Any]], None]
) -> Iterator[Callable[[], None]]:
    """Relay to NATS for as long as the block, and have another process consume what comes there.

    Yields what waits until that has got everything.

    :param show: called with each CloudEvent that it prints, in a thread.
    """
    from ..relay import Relay

    with Relay(engine, base, group=GROUP, to=url, create=True) as relay, _Consumer(url, show) as consumer:

        def wait() -> None:
            relay.listener.catch_up(CONSUMER_SECONDS)
            consumer.wait_for(relay.stats().published)

        yield wait


class _Consumer:
    """The consumer's process, and what reads its lines."""

    def __init__(self, url: str, show: Callable[[dict[str, Any]], None]) -> None:
        self._show, self._number = show, 0
        self._changed = threading.Condition()
        self._has_ended = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(CONSUMER), url], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read, name="sqlalchemy-watch-demo", daemon=True)

    def __enter__(self) -> _Consumer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with uninterrupted():
            self._process.kill()
            self._thread.join(END_SECONDS)
            self._process.communicate()

    def wait_for(self, number: int) -> None:
        """Wait until so many messages have come.

        :raises WatchError: they have not.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._number >= number or self._has_ended, CONSUMER_SECONDS)
            if not self._has_ended:
                return
        assert self._process.stderr is not None
        complaint = self._process.stderr.read().strip().splitlines()
        raise WatchError(f"the demo's consumer failed: {complaint[-1] if complaint else 'it has ended'}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._show(json.loads(line))
            with self._changed:
                self._number += 1
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
