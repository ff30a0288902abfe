"""Servers of a test's own, which may be stopped and promoted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from postgres import Cluster, free_port
from sqlalchemy import create_engine


class Standby(Cluster):
    """A hot standby of a running cluster; options are those of pg_basebackup."""

    def __init__(self, primary: Cluster, *options: str) -> None:
        self.version, self.port = primary.version, free_port()
        self._server = primary._server  # for the binaries and the system user
        self._root = Path(tempfile.mkdtemp(prefix="watch-tests-"))
        self._root.chmod(0o777)
        self.data = self._root / "data"
        self.run(
            "pg_basebackup", "-D", str(self.data), "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres",
            "-X", "stream", "-c", "fast", "-R", *options,
        )  # fmt: skip
        # The options that -R wrote may be unknown to an older server: the last line holds.
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.write(f"primary_conninfo = 'host=127.0.0.1 port={primary.port} user=postgres dbname=postgres'\n")
        self.configure(port=self.port)


def create_tables(cluster: Cluster, base: Any, database: str = "postgres") -> None:
    """Create tables and triggers, by an engine that is gone afterwards."""
    engine = create_engine(cluster.url(database, "psycopg"))
    base.metadata.create_all(engine)
    engine.dispose()


@contextmanager
def removed_afterwards(cluster: Cluster) -> Iterator[Cluster]:
    try:
        yield cluster.start()
    finally:
        cluster.remove()
