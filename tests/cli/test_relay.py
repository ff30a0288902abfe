"""`relay`: from a database to a broker that runs, as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from listener.conftest import drop_slots
from postgres import Cluster, needs_logical_messages, restore_interrupts
from relay.brokers import MockKafka, Nats, Redis
from relay.conftest import start as start  # brokers
from relay.test_publishers import read
from relay.test_relay import prepare
from sqlalchemy import Engine
from support import PATIENCE, wait_until

from sqlalchemy_watch import Listener, relay

from .conftest import HERE, Run
from .relayed import Base, Order

Client = psycopg.Connection[Any]
Brokers = Callable[..., Any]

pytestmark = needs_logical_messages


class Relaying:
    """A running `relay`, and what it has said."""

    def __init__(self, command: list[str], environment: dict[str, str], *args: str) -> None:
        self.process = subprocess.Popen(
            [*command, "relay", *args],
            cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=restore_interrupts,
        )  # fmt: skip
        self.said: list[str] = []

    def wait_for(self, words: str) -> str:
        """Wait for a line of its stderr that has these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if words in line:
                return line
        raise AssertionError("".join(self.said))

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Tell it to end; return its exit status, and the rest of what it says."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=PATIENCE)
        assert out == ""
        return self.process.returncode, err


Launch = Callable[..., Relaying]


@pytest.fixture
def launch(command: list[str], environment: dict[str, str]) -> Iterator[Launch]:
    """Runs `relay relayed:Base`; `command` may be another one."""
    launched: list[Relaying] = []

    def launch(*args: str, target: str = "relayed:Base", by: list[str] = command) -> Relaying:
        launched.append(Relaying(by, environment, target, *args))
        return launched[-1]

    yield launch
    for one in launched:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def group(cluster: Cluster, database: str) -> Iterator[str]:
    yield f"group_{database}"
    drop_slots(cluster, database)


@pytest.fixture
def orders(engine: Engine) -> None:
    Base.metadata.create_all(engine)


def got(broker: Any) -> list[tuple[str, int]]:
    """Return the operations and keys of the CloudEvents that a broker has."""
    found = [json.loads(data)["data"] for _, _, _, data in asyncio.run(read(broker))]
    return [(one["operation"], one["identity"][0]) for one in found if one["operation"] != "resync"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", [Nats, Redis, MockKafka])
def test_it_publishes_until_it_is_told_to_end(
    kind: type[Any], how: signal.Signals, start: Brokers, launch: Launch, orders: None, client: Client, group: str
) -> None:
    broker = start(kind)
    prepare(broker)
    relaying = launch("--group", group, "--to", broker.url, *(["--create"] if kind is Nats else []))
    relaying.wait_for("reading")
    client.execute("INSERT INTO orders VALUES (1), (2)")
    client.execute("UPDATE orders SET note = 'x' WHERE id = 1")
    wait_until(client, lambda: len(got(broker)) == 3)
    status, err = relaying.end(how)
    assert status == 0, err
    assert sorted(got(broker)) == [("inserted", 1), ("inserted", 2), ("updated", 1)]
    assert re.search(r"INFO \S+: 4 published in all$", err, re.MULTILINE)  # with the resync of a new slot
    assert "Traceback" not in err


def test_options_are_those_of_a_relay(start: Brokers, launch: Launch, orders: None, client: Client, group: str) -> None:
    broker = start(Nats)
    client.execute("INSERT INTO orders VALUES (1)")
    relaying = launch(
        "--group", group, "--to", broker.url, "--create", "--format", "plain", "--subject", "shop.{table}.{key}",
        "--source", "/shop", "--backfill", "--max-attempts", "3", "--timeout", "5", "--log-level", "error",
    )  # fmt: skip
    wait_until(client, "SELECT count(*) = 1 FROM pg_replication_slots WHERE active")
    wait_until(client, lambda: streams(broker) and any(subject == "shop.orders.1" for subject, _ in plain(broker)))
    (event,) = [data for subject, data in plain(broker) if subject == "shop.orders.1"]
    assert (event["operation"], event["identity"]) == ("read", [1])
    assert relaying.end() == (0, "")


def plain(broker: Nats) -> list[tuple[str, dict[str, Any]]]:
    """Return the subjects and contents of the stream `shop`."""

    async def fetch() -> list[tuple[str, dict[str, Any]]]:
        nats = pytest.importorskip("nats")
        connection = await nats.connect(broker.url)
        js = connection.jetstream()
        last = (await js.stream_info("shop")).state.messages
        messages = [await js.get_msg("shop", seq) for seq in range(1, last + 1)]
        await connection.close()
        return [(one.subject, json.loads(one.data)) for one in messages]

    return asyncio.run(fetch())


def streams(broker: Nats) -> list[str]:
    async def fetch() -> list[str]:
        connection = await pytest.importorskip("nats").connect(broker.url)
        found = [one.config.name for one in await connection.jetstream().streams_info()]
        await connection.close()
        return found

    return asyncio.run(fetch())


def test_of_two_of_a_group_the_second_stands_by_and_takes_over(
    start: Brokers, launch: Launch, orders: None, client: Client, group: str
) -> None:
    broker = start(Nats)
    arguments = ("--group", group, "--to", broker.url, "--create")
    first = launch(*arguments)
    first.wait_for("reading")
    second = launch(*arguments)
    second.wait_for("0 published, 0/s")
    assert second.said[-1].strip().endswith("; stands by: another process of the group is active")
    assert "standing by" in "".join(second.said)
    first.process.kill()
    second.wait_for("reading")
    client.execute("INSERT INTO orders VALUES (1)")
    wait_until(client, lambda: got(broker) == [("inserted", 1)])
    assert second.end()[0] == 0


def test_a_broker_and_a_database_that_are_not_there_are_waited_for(
    start: Brokers, launch: Launch, orders: None, client: Client, group: str
) -> None:
    broker = start(Nats)
    broker.stop()
    relaying = launch("--group", group, "--to", broker.url, "--create", "--timeout", "1")
    assert " WARNING " in relaying.wait_for("the broker is not there")
    assert "; waits for the broker" in relaying.wait_for("published")
    broker.start()
    relaying.wait_for("reading")
    client.execute("INSERT INTO orders VALUES (1)")
    wait_until(client, lambda: got(broker) == [("inserted", 1)])
    assert relaying.end()[0] == 0
    down = launch("--group", group, "--to", broker.url, "--url", "postgresql://postgres@127.0.0.1:1/no")
    assert "; waits for the database" in down.wait_for("0 published")
    assert down.end()[0] == 0


def test_a_second_ctrl_c_does_not_wait_for_the_broker(
    start: Brokers, launch: Launch, orders: None, client: Client, group: str
) -> None:
    broker = start(Nats)
    relaying = launch("--group", group, "--to", broker.url, "--create", "--stop-timeout", "60", "--timeout", "60")
    relaying.wait_for("reading")
    broker.freeze()
    client.execute("INSERT INTO orders VALUES (1)")
    time.sleep(0.5)
    relaying.process.send_signal(signal.SIGINT)
    relaying.wait_for("told to end")
    status, err = relaying.end(signal.SIGINT)
    assert status == 130
    assert "Traceback" not in err


def test_lines_of_the_log_come_where_something_is_new_and_not_too_often(
    start: Brokers, launch: Launch, orders: None, client: Client, group: str
) -> None:
    broker = start(Nats)
    program = (
        "import sys; from sqlalchemy_watch.cli import _progress, main; _progress.LINE_SECONDS = 1.0; "
        "sys.argv[0] = 'sqlalchemy-watch'; main()"
    )
    relaying = launch("--group", group, "--to", broker.url, "--create", by=[sys.executable, "-c", program])
    relaying.wait_for("1 published, ")  # the resync of a new slot
    for key in range(2):
        client.execute("INSERT INTO orders VALUES (%s)", [key])
        line = relaying.wait_for("published, ")
        assert re.search(
            rf" INFO sqlalchemy_watch.cli._progress: {key + 2} published, \d/s, \d+\.\d\d s behind, "
            r"\d+(\.\d)? (B|kB|MB) of log held$", line
        )  # fmt: skip
    time.sleep(2.5)
    client.execute("INSERT INTO orders SELECT generate_series(10, 19)")
    line = relaying.wait_for("published")  # there was none meanwhile
    assert ": 13 published, " in line
    status, err = relaying.end()
    assert status == 0
    assert "\x1b" not in "".join([*relaying.said, err])


class Terminal:
    """A command in a pseudo-terminal, and what it has shown."""

    def __init__(self, command: list[str], environment: dict[str, str], columns: int) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
        self.process = subprocess.Popen(
            command, cwd=HERE, env={**environment, "TERM": "xterm-256color"}, stdin=theirs, stdout=theirs,
            stderr=theirs, preexec_fn=restore_interrupts,
        )  # fmt: skip
        os.close(theirs)
        self._ours, self._shown = ours, b""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    @property
    def shown(self) -> list[str]:
        """What was shown, one renewal or line of the log each, without the terminal's commands."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown.decode(errors="replace"))
        return [line for line in re.split(r"[\r\n]+", text) if line.strip()]

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reading.join(PATIENCE)
        os.close(self._ours)

    def end(self) -> int:
        """Tell it to end; return its exit status."""
        self.process.terminate()
        status = self.process.wait(PATIENCE)
        self._reading.join(PATIENCE)
        return status

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO, once the other end is closed
            while piece := os.read(self._ours, 65536):
                self._shown += piece


def test_in_a_terminal_one_line_is_renewed_below_the_log(
    start: Brokers, command: list[str], environment: dict[str, str], orders: None, client: Client, group: str
) -> None:
    broker = start(Nats)
    arguments = ["relay", "relayed:Base", "--group", group, "--to", broker.url, "--create"]
    with Terminal([*command, *arguments], environment, columns=70) as terminal:
        wait_until(client, "SELECT count(*) = 1 FROM pg_replication_slots WHERE active")
        client.execute("INSERT INTO orders SELECT generate_series(1, 1500)")
        wait_until(client, lambda: any(line.startswith("1,501 published, ") for line in terminal.shown))
        broker.kill()
        client.execute("INSERT INTO orders VALUES (1501)")
        wait_until(client, lambda: any("; waits for the broker" in line for line in terminal.shown))
        broker.start()
        wait_until(client, lambda: any(line.startswith("1,502 published, ") for line in terminal.shown))
        assert terminal.end() == 0
        lines = [line for line in terminal.shown if "published, " in line]
        assert len(lines) > 5
        assert all(len(line) <= 70 for line in lines)
        assert any(re.search(r"/s, \d+\.\d\d s behind, [\d.]+ [kM]?B of log held", line) for line in lines)
        # The log is above it, in whole lines; the line of progress is gone at the end.
        assert any(" WARNING sqlalchemy_watch." in line and "tried again in" in line for line in terminal.shown)
        assert terminal.shown[-1].endswith("1,502 published in all")


def test_a_broadcast_is_heard_by_listeners(
    start: Brokers, launch: Launch, orders: None, engine: Engine, client: Client
) -> None:
    broker = start(Nats)
    relaying = launch("--broadcast", "--to", broker.url, "--name", "shop")
    assert "waits for" not in relaying.wait_for("0 passed on, 0/s, 0 frames")
    heard: SimpleQueue[Any] = SimpleQueue()
    receiver = Order.watch.connect(lambda sender, event: heard.put((event.label, *event.identity)))
    try:
        with Listener(engine, Order, via=relay.nats(broker.url, name="shop")):
            client.execute("INSERT INTO orders VALUES (1)")
            assert heard.get(timeout=PATIENCE) == ("inserted", 1)
            second = launch("--broadcast", "--to", broker.url, "--name", "shop")
            assert second.wait_for("0 passed on").strip().endswith("; stands by: another process of this name is heard")
            assert second.end()[0] == 0
    finally:
        Order.watch.disconnect(receiver)
    status, err = relaying.end()
    assert (status, "1 passed on in all" in err) == (0, True), err


def test_a_broadcast_waits_for_its_broker(start: Brokers, launch: Launch, orders: None) -> None:
    broker = start(Nats)
    broker.stop()
    relaying = launch("--broadcast", "--to", broker.url)
    assert "; waits for the broker: no connection to NATS (" in relaying.wait_for("passed on")
    assert relaying.end()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--to nats://x", "give --group NAME, which publishes what is durable to a broker, or --broadcast"),
        ("--group g --broadcast --to nats://x", "--group and --broadcast don't go together"),
        ("--group g", "no broker is given: pass --to, such as --to nats://localhost:4222"),
        ("--broadcast", "no broker is given: pass --to"),
        ("--group g --to nats://x --name n", "--name: only with --broadcast, not with --group: leave it out"),
        (
            "--broadcast --to nats://x --create --backfill --timeout 1 --format plain",
            "--format, --create, --timeout, --backfill: only with --group NAME, not with --broadcast: leave them out",
        ),
        ("--group g --to http://x", "no broker is known by it; give nats://"),
        ("--group g --to localhost", "no broker is known by it; give nats://"),
        ("--group g --to nats://", "name a host, as in nats://localhost:4222"),
        ("--broadcast --to redis://x", "a broadcast goes over NATS"),
        ("--broadcast --to nats://x --name ", "a broadcast has a name of 1 to 100 printable characters"),
        ("--group G!oup --to nats://x", "lower-case letters"),
        ("--group g --to nats://x --format xml", "format='xml': it is 'cloudevents' or 'plain'"),
        ("--group g --to nats://x --subject a..b", "something must stand before, between and after the dots"),
        ("--group g --to nats://x --subject {id}", "{id} is no field of it"),
        ("--group g --to nats://x --source ä", "give a URI or a path"),
        ("--group g --to nats://x --max-attempts 0", "max_attempts"),
        ("--group g --to nats://x --timeout 0", "give seconds, more than 0"),
        ("--group g --to kafka://x --create", "is for you to say"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_status_2(run: Run, arguments: str, words: str) -> None:
    done = run("relay", "relayed:Base", *arguments.split(" "))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("target", "way", "words"),
    [
        ("relayed:LoudBase", ("--group", "g"), 'nothing of it is durable: give a model __watch_delivery__ = "durable"'),
        ("relayed:KeptBase", ("--broadcast",), "all of it is durable, and nothing comes by NOTIFY: use --group NAME"),
        ("relayed:Nothing", ("--broadcast",), "'relayed' has no 'Nothing'"),
        ("unwatched:Base", ("--broadcast",), "give a model __watch__"),
    ],
)
def test_a_target_of_which_nothing_comes_is_refused(run: Run, target: str, way: tuple[str, ...], words: str) -> None:
    done = run("relay", target, *way, "--to", "nats://x")
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert run("relay", "relayed:Base", "--broadcast", "--to", "nats://x", DATABASE_URL=None).returncode == 2


def test_a_subject_without_a_stream_is_refused(start: Brokers, run: Run, orders: None, group: str) -> None:
    broker = start(Nats)
    done = run("relay", "relayed:Base", "--group", group, "--to", broker.url, "--log-level", "warning")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "NATS has no stream for 'watch.*.*.*.*'" in line
    assert line.endswith("or say create=True (--create)")


@pytest.mark.parametrize(
    ("module", "to", "extra"),
    [("nats", "nats://x", "nats"), ("redis", "redis://x", "redis"), ("aiokafka", "kafka://x", "kafka")],
)
def test_without_its_client_a_broker_says_how_to_get_it(
    environment: dict[str, str], module: str, to: str, extra: str
) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None; from sqlalchemy_watch.cli import main\n"
        f"sys.argv = ['sqlalchemy-watch', 'relay', 'relayed:Base', '--group', 'g', '--to', {to!r}]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=HERE, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f'its client is not installed: pip install "sqlalchemy-watch[{extra}]"' in line


def test_the_command_line_imports_no_broker_s_client() -> None:
    program = (
        "import sys, sqlalchemy_watch.cli.app\n"
        "print(sorted({'nats', 'redis', 'aiokafka', 'sqlalchemy_watch.relay'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
