"""`tail`: the events of a running application's database."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest
from postgres import needs_logical_messages, restore_interrupts
from sqlalchemy import Engine
from support import end_listeners

from .conftest import HERE, Run
from .weather import LONG_NAME, Reading


class Tail:
    """A running `tail`."""

    def __init__(self, command: list[str], environment: dict[str, str], *args: str, target: str = "shop:Base") -> None:
        self.process = subprocess.Popen(
            [*command, "tail", target, *args],
            cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=restore_interrupts,
        )  # fmt: skip
        self.wait_for("listening")  # warnings may come first

    def wait_for(self, words: str) -> str:
        """Wait for a line of its stderr that has these words."""
        assert self.process.stderr is not None
        return next(line for line in self.process.stderr if words in line)

    def finish(self) -> list[str]:
        out, _ = self.process.communicate(timeout=30)
        return out.splitlines()


@pytest.fixture
def orders(run: Run, tables: Any) -> Any:
    assert run("install", "shop:Base").returncode == 0
    return tables


def test_tail_prints_events_as_json_lines(command: list[str], environment: dict[str, str], orders: Any) -> None:
    tail = Tail(command, environment, "--json", "--count", "2")
    orders.execute("INSERT INTO orders VALUES (1)")
    orders.execute("UPDATE orders SET status = 'packed'")
    inserted, updated = map(json.loads, tail.finish())
    assert tail.process.returncode == 0
    assert (inserted["model"], inserted["label"], inserted["identity"]) == ("Order", "inserted", [1])
    assert updated["values"] == {"id": 1, "status": "packed"}
    assert updated["old"] == {"id": 1, "status": "new"}
    assert updated["changed"] == ["status"]


def test_tail_prints_events_as_text(command: list[str], environment: dict[str, str], orders: Any) -> None:
    tail = Tail(command, environment, "--count", "2")
    orders.execute("INSERT INTO orders VALUES (1)")
    orders.execute("UPDATE orders SET status = 'packed'")
    lines = tail.finish()
    assert "Order.inserted" in lines[0]
    assert lines[1].endswith("id=1 status='packed'  was status='new'")


@needs_logical_messages
def test_tail_reads_a_consumer_group(command: list[str], environment: dict[str, str], orders: Any) -> None:
    orders.execute("INSERT INTO orders VALUES (1)")
    tail = Tail(command, environment, "--json", "--count", "1", "--durable", "tailing")
    orders.execute("DELETE FROM orders")
    (deleted,) = map(json.loads, tail.finish())
    assert deleted["label"] == "deleted"
    assert deleted["lsn"] > 0


@pytest.mark.parametrize("options", [(), pytest.param(("--durable", "looking"), marks=needs_logical_messages)])
def test_tail_calls_no_receiver_of_the_application(
    command: list[str], environment: dict[str, str], orders: Any, run: Run, options: tuple[str, ...]
) -> None:
    assert run("install", "talkative:Base").returncode == 0
    tail = Tail(command, environment, "--json", "--count", "2", *options, target="talkative:Base")
    orders.execute("INSERT INTO orders VALUES (1)")
    orders.execute("UPDATE orders SET status = 'packed'")
    assert [json.loads(line)["label"] for line in tail.finish()] == ["inserted", "updated"]
    assert tail.process.returncode == 0
    assert orders.execute("SELECT to_regclass('sqlalchemy_watch.once')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ((), "not among what follows: Order.deleted; shown with --durable GROUP"),
        (
            ("--durable", "hiding"),
            "not among what follows: Order.fully, Order.inserted, Order.updated; shown without --durable",
        ),
    ],
    ids=["notify", "durable"],
)
@needs_logical_messages
def test_tail_names_what_it_does_not_show(
    command: list[str], environment: dict[str, str], orders: Any, options: tuple[str, ...], hidden: str
) -> None:
    process = subprocess.Popen(
        [*command, "tail", "shop:Base", *options],
        cwd=HERE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=restore_interrupts,
    )  # fmt: skip
    assert process.stderr is not None
    before = []
    for line in process.stderr:
        if "listening" in line:
            break
        before.append(line.strip())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert hidden in before
    assert not any("have receivers" in line for line in before)


@pytest.fixture
def readings(engine: Engine, client: Any) -> Any:
    Reading.metadata.create_all(engine)
    return client


READING = f"""INSERT INTO "{LONG_NAME}" VALUES (1, 0.50, 'NaN', E'calm\\n\\x1b[31m', '\\x00ff')"""


def test_tail_prints_json_that_every_parser_takes(
    command: list[str], environment: dict[str, str], readings: Any
) -> None:
    tail = Tail(command, environment, "--json", "--count", "1", target="weather:Reading")
    readings.execute(READING)
    (line,) = tail.finish()
    values = json.loads(line, parse_constant=pytest.fail)["values"]
    assert (values["rain"], values["wind"], values["note"]) == ("0.50", "NaN", "calm\n\x1b[31m")


def test_tail_prints_an_event_on_one_line_without_control_characters(
    command: list[str], environment: dict[str, str], readings: Any
) -> None:
    tail = Tail(command, environment, "--count", "1", target="weather:Reading")
    readings.execute(READING)
    (line,) = tail.finish()
    assert line.endswith(r"Reading.inserted  id=1 rain=0.50 wind=nan note='calm\n\x1b[31m' raw=b'\x00\xff'")


def test_tail_prints_a_context_without_control_characters(
    command: list[str], environment: dict[str, str], orders: Any
) -> None:
    tail = Tail(command, environment, "--count", "1")
    context = r'{"\u001b[2J\u202ewho": "\u009b"}'
    orders.execute("SELECT set_config('sqlalchemy_watch.context', %s, false)", [context])
    orders.execute("INSERT INTO orders VALUES (1)")
    (line,) = tail.finish()
    assert line.endswith(r"id=1  by \x1b[2J\u202ewho='\x9b'")


def test_tail_tells_when_events_may_have_been_missed(
    command: list[str], environment: dict[str, str], orders: Any
) -> None:
    tail = Tail(command, environment, "--count", "1")
    end_listeners(orders)
    tail.wait_for("disconnected: ")
    tail.wait_for("events may have been missed: ")
    orders.execute("INSERT INTO orders VALUES (1)")
    assert len(tail.finish()) == 1


def test_tail_ends_when_the_reader_of_its_pipe_has_left(
    command: list[str], environment: dict[str, str], orders: Any
) -> None:
    tail = Tail(command, environment)
    assert tail.process.stdout is not None
    orders.execute("INSERT INTO orders VALUES (1)")
    assert "id=1" in tail.process.stdout.readline()
    tail.process.stdout.close()
    orders.execute("INSERT INTO orders VALUES (2)")
    assert tail.process.wait(timeout=30) == 0
    assert tail.process.stderr is not None
    assert tail.process.stderr.read() == ""
    tail.process.stderr.close()


SIGTERM_IN_WAIT = """
import os, runpy, signal, sys, threading
wait = threading.Condition.wait
def signalled(self, timeout=None):
    if sys._getframe(2).f_code.co_name == "tail":
        os.kill(os.getpid(), signal.SIGTERM)
    return wait(self, timeout)
threading.Condition.wait = signalled
runpy.run_module("sqlalchemy_watch", run_name="__main__", alter_sys=True)
"""


def test_tail_ends_when_asked_to_while_it_begins_to_wait(environment: dict[str, str], orders: Any) -> None:
    # The signal's handler then runs while the main thread holds the lock of what it waits for.
    tail = Tail([sys.executable, "-c", SIGTERM_IN_WAIT], environment)
    try:
        tail.finish()
    finally:
        tail.process.kill()
    assert tail.process.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_tail_ends_cleanly_when_asked_to(
    command: list[str], environment: dict[str, str], orders: Any, how: signal.Signals
) -> None:
    tail = Tail(command, environment)
    tail.process.send_signal(how)
    _, err = tail.process.communicate(timeout=30)
    assert tail.process.returncode == 0
    assert "Traceback" not in err
