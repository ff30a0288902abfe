"""`tail`: the events of a running application's database."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest
from postgres import restore_interrupts

from .conftest import HERE, Run


class Tail:
    """A running `tail`."""

    def __init__(self, command: list[str], environment: dict[str, str], *args: str) -> None:
        self.process = subprocess.Popen(
            [*command, "tail", "shop:Base", *args],
            cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=restore_interrupts,
        )  # fmt: skip
        assert self.process.stderr is not None
        for line in self.process.stderr:  # warnings may come first
            if line == "listening\n":
                break

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


def test_tail_reads_a_consumer_group(command: list[str], environment: dict[str, str], orders: Any) -> None:
    orders.execute("INSERT INTO orders VALUES (1)")
    tail = Tail(command, environment, "--json", "--count", "1", "--durable", "tailing")
    orders.execute("DELETE FROM orders")
    (deleted,) = map(json.loads, tail.finish())
    assert deleted["label"] == "deleted"
    assert deleted["lsn"] > 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_tail_ends_cleanly_when_asked_to(
    command: list[str], environment: dict[str, str], orders: Any, how: signal.Signals
) -> None:
    tail = Tail(command, environment)
    tail.process.send_signal(how)
    _, err = tail.process.communicate(timeout=30)
    assert tail.process.returncode == 0
    assert "Traceback" not in err
