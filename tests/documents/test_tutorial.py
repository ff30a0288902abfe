"""The tutorial, from its first line to its last: files, migrations, programs and what they print."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Cluster, bin_path, free_port, needs_logical_messages, restore_interrupts
from support import PATIENCE, wait_until
from web.chromium import needs_chromium, started_chromium

from .snippets import ROOT, SHOP_URL, Snippet, snippets_of

pytestmark = [needs_logical_messages, pytest.mark.slow]

#: What is there already, or is the reader's.
SKIPPED = ("mkdir", "python -m venv", "pip install", "createdb")


PAGE = ROOT / "docs" / "tutorial.md"

#: The name of a file, in a comment in its first line.
NAME = re.compile(r"(?:# |<!-- )(\w+\.(?:py|html))")


class Reader:
    """Somebody who follows the tutorial in a directory, snippet by snippet."""

    def __init__(self, path: Path, database_url: str, client: psycopg.Connection[Any]) -> None:
        self.path, self.url, self.client = path, database_url, client
        self.mail_port, self.web_port = free_port(), free_port()
        self._snippets = iter(snippets_of(PAGE))
        python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._environment = {**os.environ, "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"}

    def take(self, language: str) -> Snippet:
        """Return the next snippet, which is of this language."""
        snippet = next(self._snippets)
        assert snippet.language == language, snippet
        return snippet

    def write(self, language: str = "python") -> None:
        """Write the next snippet's file."""
        snippet = self.take(language)
        name = NAME.match(snippet.code)
        assert name is not None, snippet
        (self.path / name[1]).write_text(self._adapted(snippet.code))

    def append(self, language: str) -> None:
        """Write the next snippet at the end of the file that its note names."""
        snippet = self.take(language)
        assert snippet.note is not None
        path = self.path / snippet.note.removeprefix("append: ")
        path.write_text(path.read_text() + self._adapted(snippet.code))

    def edit(self, language: str, old: str) -> None:
        """Have the next snippet take the place of what a pattern matches, in the file that its note names."""
        snippet = self.take(language)
        assert snippet.note is not None
        path = self.path / snippet.note.removeprefix("edit: ")
        text, count = re.subn(old, lambda match: self._adapted(snippet.code), path.read_text(), flags=re.M | re.S)
        assert count == 1, snippet
        path.write_text(text)

    def write_all(self) -> None:
        """Write all files, each as it is shown first, and make the tables without a migration."""
        for snippet in snippets_of(PAGE):
            name = NAME.match(snippet.code)
            if name is not None:
                (self.path / name[1]).write_text(self._adapted(snippet.code))
        self._run('python -c "from models import *; Base.metadata.create_all(engine)"')

    def run_what_has(self, text: str) -> None:
        """Run the commands of the snippet that has a text, each to its end."""
        (snippet,) = (s for s in snippets_of(PAGE) if s.language == "sh" and text in s.code)
        self._run(snippet.code)

    def run(self) -> None:
        """Run the next snippet's commands, each to its end."""
        self._run(self.take("sh").code)

    def _run(self, commands: str) -> None:
        for line in commands.splitlines():
            if not line.startswith(SKIPPED):
                done = subprocess.run(
                    self._command(line), cwd=self.path, env=self._environment, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def start(self, commands: str | None = None) -> Iterator[list[subprocess.Popen[str]]]:
        """Start commands, by default those of the next snippet, which go on until they are told to end."""
        with ExitStack() as stack:
            started = []
            for line in (commands or self.take("sh").code).splitlines():
                process = stack.enter_context(subprocess.Popen(
                    self._command(line), cwd=self.path, env=self._environment, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=restore_interrupts,
                ))  # fmt: skip
                stack.callback(process.terminate)
                started.append(process)
            yield started

    def wait_for_listeners(self, count: int, kind: str = "client backend") -> None:
        query = (
            "SELECT count(*) = %s FROM pg_stat_activity WHERE datname = current_database() AND backend_type = %s"
            " AND application_name LIKE 'sqlalchemy-watch%%'"
        )
        wait_until(self.client, query, count, kind)

    def is_at_end(self) -> bool:
        return next(self._snippets, None) is None

    def _command(self, line: str) -> list[str]:
        program, *words = shlex.split(self._adapted(line))
        if program == "psql":
            assert words.pop(0) == "shop"
            return [str(bin_path(18) / "psql"), "-X", "-v", "ON_ERROR_STOP=1", self.url.replace("+psycopg", ""), *words]
        if program == "uvicorn":
            words += ["--port", str(self.web_port)]
        module = {"python": [], "sqlalchemy-watch": ["-m", "sqlalchemy_watch"]}.get(program, ["-m", program])
        return [sys.executable, *module, *words]

    def _adapted(self, text: str) -> str:
        text = text.replace(SHOP_URL, self.url).replace("postgresql://localhost/shop", self.url)
        return text.replace("localhost:1025", f"127.0.0.1:{self.mail_port}").replace(
            '"localhost", 1025', f'"127.0.0.1", {self.mail_port}'
        )


@pytest.fixture
def reader(tmp_path: Path, cluster: Cluster, database: str, client: psycopg.Connection[Any]) -> Iterator[Reader]:
    yield Reader(tmp_path, cluster.url(database, "psycopg"), client)
    client.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
    )


class Browser:
    """Keeps the orders of a customer as the page's script does."""

    def __init__(self, response: HTTPResponse) -> None:
        self._response = response
        self.orders: dict[int, str] = {}

    def wait(self, is_reached: Callable[[dict[int, str]], bool]) -> None:
        name = ""
        while not is_reached(self.orders):
            field, _, value = self._response.readline().decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                self._take(name, json.loads(value))

    def _take(self, name: str, data: Any) -> None:
        if name == "snapshot":
            self.orders = dict(data)
        elif name in ("inserted", "updated"):
            self.orders[data["values"]["id"]] = data["values"]["status"]
        else:
            assert name in ("deleted", "left")
            del self.orders[data["identity"][0]]


def test_tutorial_leads_from_nothing_to_a_live_page_and_emails(reader: Reader) -> None:
    reader.run()  # nothing to do: the environment is there
    reader.write()
    reader.run()  # alembic init
    reader.edit("ini", r"^sqlalchemy\.url = [^\n]*\n")
    reader.edit("python", r"^target_metadata = None\n")
    reader.run()  # the first migration
    reader.write()
    hear_of_a_change(reader)
    look_at_a_page(reader)
    look_at_totals(reader)
    send_emails(reader)
    assert reader.is_at_end()


def hear_of_a_change(reader: Reader) -> None:
    with reader.start() as (listen,):
        reader.wait_for_listeners(1)
        reader.run()
        assert listen.stdout is not None
        shown = reader.take("text").code
        assert "".join(listen.stdout.readline() for _ in shown.splitlines()) == shown


def look_at_a_page(reader: Reader) -> None:
    reader.write()
    reader.write("html")
    with reader.start():
        reader.wait_for_listeners(1)
        address = f"http://127.0.0.1:{reader.web_port}/customers"
        wait_until(reader.client, lambda: answers(f"{address}/1"))
        with (
            urllib.request.urlopen(f"{address}/1/events", timeout=PATIENCE) as ada,
            urllib.request.urlopen(f"{address}/2/events", timeout=PATIENCE) as grace,
        ):
            browsers = Browser(ada), Browser(grace)
            browsers[0].wait(lambda orders: orders == {1: "paid"})
            browsers[1].wait(lambda orders: orders == {2: "paid"})
            reader.run()
            browsers[0].wait(lambda orders: orders == {1: "packed", 2: "paid"})
            browsers[1].wait(lambda orders: orders == {})


def look_at_totals(reader: Reader) -> None:
    reader.append("python")
    reader.append("html")
    with reader.start("uvicorn app:app"):
        reader.wait_for_listeners(1)
        address = f"http://127.0.0.1:{reader.web_port}/customers/1"
        wait_until(reader.client, lambda: answers(address))
        with urllib.request.urlopen(f"{address}/totals", timeout=PATIENCE) as response:
            assert next_result(response) == [{"status": "packed", "orders": 1}, {"status": "paid", "orders": 1}]
            reader.run()
            packed_and_new = [{"status": "new", "orders": 3}, {"status": "packed", "orders": 2}]
            while next_result(response) != packed_and_new:
                pass


def next_result(response: HTTPResponse) -> Any:
    while not (line := response.readline().decode()).startswith("data: "):
        assert line, "the stream ended"
    return json.loads(line.removeprefix("data: "))


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return b"new EventSource(" in response.read()
    except OSError:
        return False


def send_emails(reader: Reader) -> None:
    reader.edit("python", r"^    __watch__ = everything\([^\n]*\n")
    models = reader.path / "models.py"
    models.write_text(models.read_text().replace("import Watched, everything", "import Watch, Watched, everything"))
    reader.run()  # the second migration
    reader.write()
    reader.run()  # the slot, and an order that is shipped
    with reader.start() as (mail_server, _):
        assert mail_server.stdout is not None
        printed = iter(mail_server.stdout.readline, "")
        for line in reader.take("text").code.splitlines():
            assert any(line == one.rstrip("\n") for one in printed)
    reader.wait_for_listeners(0, "walsender")
    reader.run()


#: The texts of the cells of a page's rows.
ROWS = "return [...document.querySelectorAll('#orders tr')].map(row => [...row.cells].map(cell => cell.textContent))"


@needs_chromium
def test_page_of_the_tutorial_follows_in_a_browser(reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> None:
    reader.write_all()
    with started_chromium(tmp_path_factory.mktemp("chromium")) as chromium, reader.start("uvicorn app:app"):
        reader.wait_for_listeners(1)
        reader.run_what_has("INSERT INTO customers")
        address = f"http://127.0.0.1:{reader.web_port}/customers"
        wait_until(reader.client, lambda: answers(f"{address}/1"))
        tabs = []
        for customer in (1, 2):
            chromium.switch_to.new_window("tab")
            chromium.get(f"{address}/{customer}")
            tabs.append(chromium.current_window_handle)
            wait_until(reader.client, lambda: chromium.execute_script(ROWS) == [[str(customer), "paid"]])  # noqa: B023
        reader.run_what_has("SET customer_id = 1")
        wait_until(reader.client, lambda: chromium.execute_script(ROWS) == [])
        chromium.switch_to.window(tabs[0])
        wait_until(reader.client, lambda: chromium.execute_script(ROWS) == [["1", "packed"], ["2", "paid"]])
