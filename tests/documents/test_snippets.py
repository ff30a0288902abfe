"""Every program and every command in the documents runs, beside README's `shop.py`."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Cluster, restore_interrupts
from relay.brokers import Nats
from support import PATIENCE, created_database, wait_until

from .snippets import ROOT, SHOP, SHOP_URL, SNIPPETS, Snippet

#: As it stands in the documents' commands.
NATS_URL = "nats://localhost"

PYTHON = [s for s in SNIPPETS if s.language == "python" and s.note is None]
SHELL = [s for s in SNIPPETS if s.language == "sh" and s.page != "CONTRIBUTING.md"]  # whose commands .ci/run runs

#: Commands that set something up, by the place where they are run.
RUN_ELSEWHERE = {
    'python -m pip install ".[demo]" && sqlalchemy-watch demo': "tests/cli/test_demo.py",
    "python -m pip install tox && tox": ".ci/run",
    'pip install ".[demo,web]" "sqlalchemy[asyncio]" fastapi uvicorn && python -m examples.live_orders --write': (
        "tests/web/test_browser.py"
    ),
    'pip install "sqlalchemy-watch[binary,alembic]"': "pyproject.toml",
    'pip install "sqlalchemy-watch[binary,web]"': "pyproject.toml",
    'pip install "sqlalchemy-watch[binary,web]" fastapi uvicorn': "pyproject.toml",
    'pip install "sqlalchemy-watch[binary,web]" "sqlalchemy[asyncio]" fastapi uvicorn': "pyproject.toml",
    "uvicorn app:app": "tests/web/test_servers.py",
    'pip install "sqlalchemy-watch[binary]" "sqlalchemy[asyncio]"': "pyproject.toml",
    'pip install "sqlalchemy-watch[binary,webhooks]"': "pyproject.toml",
    'pip install "sqlalchemy-watch[cli,binary,nats]"': "pyproject.toml",
    'alembic revision --autogenerate -m "watch orders" && alembic upgrade head': "tests/migration/test_plugin.py",
}


class Shop:
    """A directory with `shop.py`, and the database it works on."""

    def __init__(self, path: Path, url: str, plain_url: str, client: psycopg.Connection[Any]) -> None:
        self.path, self.url, self.client = path, url, client
        self.write("shop.py", SHOP)
        for snippet in SNIPPETS:
            if snippet.file_name is not None:
                self.write(snippet.file_name, snippet.code)
        python_path = os.pathsep.join([str(ROOT), str(path), os.environ.get("PYTHONPATH", "")])
        self.environment = {**os.environ, "DATABASE_URL": plain_url, "PYTHONPATH": python_path}

    def write(self, name: str, code: str) -> str:
        (self.path / name).write_text(code.replace(SHOP_URL, self.url))
        return name

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, *arguments], cwd=self.path, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=restore_interrupts,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def run(self, *arguments: str) -> str:
        """Run a program to its end."""
        with self.start(*arguments) as process:
            output, errors = process.communicate(timeout=3 * PATIENCE)
            assert process.returncode == 0, errors
            return output

    def wait_until_listening(self) -> None:
        wait_until(
            self.client,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch'"
            " AND datname = current_database()",
        )


@pytest.fixture(scope="session")
def shop_template(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[str]:
    """The name of a database with the shop's tables, which each test has a copy of: to make these takes seconds."""
    with created_database(cluster, "shop_template") as name:
        with cluster.connect(name) as client:
            shop = Shop(tmp_path_factory.mktemp("shop"), cluster.url(name, "psycopg"), cluster.url(name), client)
            shop.run("-c", "from shop import *; Base.metadata.create_all(engine)")
        yield name


@pytest.fixture
def shop(tmp_path: Path, cluster: Cluster, shop_template: str) -> Iterator[Shop]:
    with created_database(cluster, "shop", f"TEMPLATE {shop_template}") as name, cluster.connect(name) as client:
        yield Shop(tmp_path, cluster.url(name, "psycopg"), cluster.url(name), client)
        client.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Nats]:
    pytest.importorskip("nats")
    broker = Nats(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.mark.parametrize("snippet", PYTHON, ids=str)
def test_program_runs(shop: Shop, snippet: Snippet) -> None:
    name = shop.write(snippet.file_name or "snippet.py", snippet.code)
    if name.startswith("test_"):
        arguments = ("-q", "-p", "no:cacheprovider", "-p", "pytest_sqlalchemy_watch", "-W", "error")
        count = snippet.code.count("\ndef test_")
        assert f"{count} passed" in shop.run("-m", "pytest", *arguments, name)
    elif "listener.run()" in snippet.code:
        run_until_sigterm(shop, name)
    else:
        shop.run(name)


#: Runs README's program, and tells when it listens.
FIRST_PROGRAM = """
import logging, runpy
logging.basicConfig(level="INFO", format="%(message)s")
runpy.run_path("shop.py", run_name="__main__")
"""


def test_the_first_program_prints_what_readme_says(shop: Shop) -> None:
    with shop.start("-c", FIRST_PROGRAM) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "listening" in iter(process.stderr.readline, "").__next__()
        shop.client.execute("INSERT INTO orders (customer_id) VALUES (42)")
        shop.client.execute("UPDATE orders SET status = 'shipped'")
        printed = [process.stdout.readline(), process.stdout.readline()]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert "".join(f"    {line}" for line in printed) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("snippet", SHELL, ids=str)
def test_commands_run_one_after_the_other(shop: Shop, snippet: Snippet, request: pytest.FixtureRequest) -> None:
    for line in filter(None, snippet.code.splitlines()):
        program, *words = shlex.split(line, comments=True)
        if program != "sqlalchemy-watch":
            assert (ROOT / RUN_ELSEWHERE[line]).exists()
        elif words[0] in ("run", "tail"):
            run_until_sigterm(shop, "-m", "sqlalchemy_watch", *words)
        elif words[0] == "relay":
            place = request.getfixturevalue("broker").url
            run_until_sigterm(shop, "-m", "sqlalchemy_watch", *(place if w == NATS_URL else w for w in words))
        else:
            shop.run("-m", "sqlalchemy_watch", *words)


def run_until_sigterm(shop: Shop, *arguments: str) -> None:
    with shop.start(*arguments) as process:
        shop.wait_until_listening()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors


LIFESPAN = """
import asyncio, os, signal
from shop import Order
from app import app

async def main():
    signal.signal(signal.SIGTERM, lambda number, frame: print("the server was told"))
    async with app.router.lifespan_context(app):
        stream = Order.watch.inserted.stream()
        os.kill(os.getpid(), signal.SIGTERM)
        async for event in stream:
            pass
        print("the stream ended")

asyncio.run(main())
"""


def test_sigterm_ends_streams_of_any_kind(shop: Shop) -> None:
    assert shop.run("-c", LIFESPAN).splitlines() == ["the server was told", "the stream ended"]
