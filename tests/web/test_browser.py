"""A real browser: examples/live_orders, as a process of its own, in Chromium."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Cluster, free_port
from support import PATIENCE, end_listeners

pytest.importorskip("fastapi")
pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from .chromium import needs_chromium, started_chromium

ROOT = Path(__file__).parent.parent.parent

pytestmark = [needs_chromium, pytest.mark.slow]

#: Where a picture of the page is to be saved, if anywhere.
PICTURE = os.environ.get("WATCH_TEST_PICTURE")

#: The rows of a page, each with the text of its cells.
ROWS = "return [...document.querySelectorAll('#orders tr')].map(row => [...row.cells].map(cell => cell.textContent))"


class Server:
    """The example's server, which may be stopped and started again at the same port."""

    def __init__(self, url: str) -> None:
        self.port = free_port()
        self._url = url
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.live_orders", "--port", str(self.port)], cwd=ROOT, text=True,
            env={**os.environ, "DATABASE_URL": self._url, "PYTHONPATH": paths},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self._process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> str:
        """Have it stop as a deployment does, and return what it said."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0
        return output

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/")
                return connection.getresponse().status == 200
            except OSError:
                return False


@pytest.fixture
def server(cluster: Cluster, database: str) -> Iterator[Server]:
    server = Server(cluster.url(database, "psycopg"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with started_chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


class Pages:
    """Pages of the example, each in a tab."""

    def __init__(self, chromium: webdriver.Chrome, server: Server) -> None:
        self._chromium, self._server = chromium, server
        self._first = chromium.current_window_handle
        self._tabs: dict[int, str] = {}

    def open(self, org: int) -> None:
        self._chromium.switch_to.new_window("tab")
        self._tabs[org] = self._chromium.current_window_handle
        self._chromium.get(f"http://127.0.0.1:{self._server.port}/orgs/{org}")
        # Kept in the page itself: where that is loaded anew, it is gone.
        self._chromium.execute_script(
            "window.came = [];"
            "document.addEventListener('htmx:sseMessage', event => came.push(event.detail.type));"
            "document.addEventListener('htmx:sseBeforeMessage',"
            "  event => event.detail.type === 'left' && came.push('left ' + event.detail.data))"
        )

    def run(self, org: int, script: str) -> Any:
        self._chromium.switch_to.window(self._tabs[org])
        return self._chromium.execute_script(script)

    def rows(self, org: int) -> list[list[str]]:
        found: list[list[str]] = self.run(org, ROWS)
        return found

    def came(self, org: int) -> list[str]:
        """The names of the events that have come."""
        found: list[str] = self.run(org, "return came.filter(name => name !== 'result')")
        return found

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self._chromium, PATIENCE, 0.05).until(lambda _: condition())

    def wait_for(self, org: int, *rows: list[str]) -> None:
        """Wait until a page shows these rows."""
        try:
            self.wait(lambda: self.rows(org) == [*rows])
        except Exception as error:
            raise AssertionError(f"{self.rows(org)} is not {rows}, after {self.came(org)}") from error

    def save_picture(self, org: int, path: str) -> None:
        self._chromium.switch_to.window(self._tabs[org])
        self.wait(lambda: not self.run(org, "return document.getAnimations().length"))
        self._chromium.save_screenshot(path)

    def totals(self, org: int) -> str:
        """The text of the live query."""
        found: str = self.run(org, "return document.getElementById('totals').textContent")
        return found

    def errors(self) -> list[str]:
        found = self._chromium.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in found if "favicon" not in entry["message"]]

    def close(self) -> None:
        for tab in self._tabs.values():
            self._chromium.switch_to.window(tab)
            self._chromium.close()
        self._chromium.switch_to.window(self._first)


@pytest.fixture
def pages(chromium: webdriver.Chrome, server: Server) -> Iterator[Pages]:
    pages = Pages(chromium, server)
    try:
        yield pages
    finally:
        pages.close()


Client = psycopg.Connection[Any]


def insert(client: Client, *rows: tuple[int, str]) -> None:
    """Insert orders, each of an org and a customer."""
    with client.cursor() as cursor:
        cursor.executemany("INSERT INTO orders (org_id, customer) VALUES (%s, %s)", rows)


def test_rows_come_change_and_go(pages: Pages, client: Client) -> None:
    insert(client, (1, "Ada"))
    pages.open(1)
    pages.wait_for(1, ["1", "Ada", "new", "0.00"])
    insert(client, (1, "Grace"))
    pages.wait_for(1, ["2", "Grace", "new", "0.00"], ["1", "Ada", "new", "0.00"])
    client.execute("UPDATE orders SET status = 'paid', total = 12.5 WHERE id = 1")
    pages.wait_for(1, ["2", "Grace", "new", "0.00"], ["1", "Ada", "paid", "12.50"])
    client.execute("DELETE FROM orders WHERE id = 2")
    pages.wait_for(1, ["1", "Ada", "paid", "12.50"])
    insert(client, *[(1, f"customer {number}") for number in range(3, 200)])
    client.execute("UPDATE orders SET status = 'shipped' WHERE id > 1")
    shipped = [[str(number), f"customer {number}", "shipped", "0.00"] for number in range(199, 2, -1)]
    pages.wait_for(1, *shipped, ["1", "Ada", "paid", "12.50"])
    client.execute("TRUNCATE orders")
    pages.wait_for(1)
    assert pages.errors() == []


def test_a_live_query_follows(pages: Pages, client: Client) -> None:
    pages.open(1)
    pages.wait(lambda: pages.totals(1) == "no orders yet")
    insert(client, (1, "Ada"), (1, "Grace"), (2, "Edsger"))
    pages.wait(lambda: pages.totals(1) == "2 new, 0.00")
    client.execute("UPDATE orders SET status = 'paid', total = 5 WHERE id = 1")
    pages.wait(lambda: pages.totals(1) == "1 new, 0.001 paid, 5.00")
    client.execute("UPDATE orders SET org_id = 2 WHERE id = 2")
    pages.wait(lambda: pages.totals(1) == "1 paid, 5.00")
    assert pages.errors() == []


def test_what_a_user_wrote_is_text(pages: Pages, client: Client) -> None:
    bad = "<script>window.harm = 1</script><img src=x onerror='window.harm = 1'>"
    insert(client, (1, bad))
    pages.open(1)
    pages.wait_for(1, ["1", bad, "new", "0.00"])
    insert(client, (1, bad))
    pages.wait_for(1, ["2", bad, "new", "0.00"], ["1", bad, "new", "0.00"])
    client.execute("UPDATE orders SET status = %s WHERE id = 1", ["\" onclick='harm()' hx-get=/ hx-trigger=load <b>"])
    pages.wait(lambda: "hx-get" in pages.rows(1)[1][2])
    assert pages.run(1, "return window.harm") is None
    made = "return document.querySelectorAll('#orders :is(script, img, b, [hx-get], [onclick])').length"
    assert pages.run(1, made) == 0


def test_a_tenant_sees_its_own_rows_alone(pages: Pages, client: Client) -> None:
    pages.open(1)
    pages.open(2)
    insert(client, (1, "Ada"), (2, "Grace"))
    pages.wait_for(1, ["1", "Ada", "new", "0.00"])
    pages.wait_for(2, ["2", "Grace", "new", "0.00"])

    client.execute("UPDATE orders SET status = 'paid' WHERE id = 1")
    client.execute("UPDATE orders SET org_id = 2, customer = 'a secret' WHERE id = 1")
    pages.wait_for(2, ["2", "Grace", "new", "0.00"], ["1", "a secret", "paid", "0.00"])
    pages.wait_for(1)
    assert "secret" not in str(pages.came(1))

    client.execute("UPDATE orders SET org_id = 1, customer = 'Ada' WHERE id = 1")
    pages.wait_for(1, ["1", "Ada", "paid", "0.00"])
    pages.wait_for(2, ["2", "Grace", "new", "0.00"])
    kinds = [name.partition(" ")[0] for name in pages.came(1)]
    assert [name for name in kinds if name != "snapshot"] == ["inserted", "updated", "left", "updated"]
    assert pages.errors() == []


def test_a_page_goes_on_when_the_server_was_restarted(pages: Pages, server: Server, client: Client) -> None:
    insert(client, (1, "Ada"), (1, "Grace"))
    pages.open(1)
    client.execute("UPDATE orders SET status = 'paid' WHERE id = 1")
    pages.wait_for(1, ["2", "Grace", "new", "0.00"], ["1", "Ada", "paid", "0.00"])

    assert "Traceback" not in server.stop()
    client.execute("DELETE FROM orders WHERE id = 2")
    insert(client, (1, "Edsger"), (2, "a secret"))
    server.start()
    pages.wait_for(1, ["3", "Edsger", "new", "0.00"], ["1", "Ada", "paid", "0.00"])
    insert(client, (1, "Barbara"))
    pages.wait_for(1, ["5", "Barbara", "new", "0.00"], ["3", "Edsger", "new", "0.00"], ["1", "Ada", "paid", "0.00"])
    assert pages.came(1)[-1] == "inserted"  # it was not loaded anew: `came` is still there


def test_a_page_shows_what_a_listener_has_missed(pages: Pages, client: Client) -> None:
    pages.open(1)
    insert(client, (1, "Ada"))
    pages.wait_for(1, ["1", "Ada", "new", "0.00"])
    client.execute("ALTER TABLE orders DISABLE TRIGGER USER")
    insert(client, (1, "Grace"))  # of which nobody is told
    client.execute("ALTER TABLE orders ENABLE TRIGGER USER")
    end_listeners(client)
    pages.wait_for(1, ["2", "Grace", "new", "0.00"], ["1", "Ada", "new", "0.00"])
    assert pages.came(1)[-1] == "snapshot"


def test_a_page_whose_snapshot_fails_loads_itself_until_it_can(pages: Pages, client: Client) -> None:
    pages.open(1)
    insert(client, (1, "Ada"))
    pages.wait_for(1, ["1", "Ada", "new", "0.00"])
    client.execute("ALTER TABLE orders RENAME COLUMN customer TO away")
    pages.run(1, "window.tries = 0; document.addEventListener('htmx:responseError', () => tries++)")
    end_listeners(client)
    pages.wait(lambda: pages.run(1, "return tries") >= 2)
    client.execute("UPDATE orders SET status = 'paid'")
    client.execute("ALTER TABLE orders RENAME COLUMN away TO customer")
    pages.wait_for(1, ["1", "Ada", "paid", "0.00"])
    insert(client, (1, "Grace"))
    pages.wait_for(1, ["2", "Grace", "new", "0.00"], ["1", "Ada", "paid", "0.00"])


@pytest.mark.skipif(PICTURE is None, reason="WATCH_TEST_PICTURE does not say where to save a picture")
def test_picture(pages: Pages, client: Client) -> None:
    assert PICTURE is not None
    pages.open(1)
    customers = ("Ada", "Grace", "Edsger", "Barbara", "<script>alert(1)</script>", "Donald", "Margaret")
    insert(client, *[(1, customer) for customer in customers])
    client.execute("UPDATE orders SET total = 17.5 * id + 3, status = (ARRAY['shipped', 'paid', 'new'])[id / 3 + 1]")
    pages.wait(lambda: [row[2] for row in pages.rows(1)].count("shipped") == 2)
    pages.wait(lambda: pages.rows(1)[0][3] != "0.00")
    client.execute("UPDATE orders SET status = 'shipped' WHERE id = 4")
    pages.wait(lambda: [row[2] for row in pages.rows(1)].count("shipped") == 3)
    pages.save_picture(1, PICTURE)
