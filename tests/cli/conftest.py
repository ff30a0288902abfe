"""The command line as a user runs it: processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from postgres import Cluster

HERE = Path(__file__).parent

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(cluster: Cluster, database: str) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": cluster.url(database)}


@pytest.fixture
def command() -> list[str]:
    return [sys.executable, "-m", "sqlalchemy_watch"]


@pytest.fixture
def run(environment: dict[str, str], command: list[str]) -> Run:
    """Run a command to its end, in the directory of `shop.py`."""

    def run(*args: str, **changed: str | None) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in {**environment, **changed}.items() if v is not None}
        return subprocess.run(
            [*command, *args], cwd=HERE, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def tables(environment: dict[str, str], client: Any) -> Any:
    """The application's tables, without triggers; gives the plain connection."""
    client.execute("CREATE TABLE orders (id int PRIMARY KEY, status text NOT NULL DEFAULT 'new')")
    client.execute("CREATE TABLE unwatched (id int PRIMARY KEY)")
    return client
