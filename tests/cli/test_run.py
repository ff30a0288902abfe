"""`run`: an application's listeners as a process of their own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from postgres import Cluster, restore_interrupts

from sqlalchemy_watch.listener.notify.source import RECONNECTED
from sqlalchemy_watch.listener.source import STARTED_LATE

from .conftest import HERE, Run


class Worker:
    """A running `run`."""

    def __init__(self, command: list[str], environment: dict[str, str], *args: str) -> None:
        self.process = subprocess.Popen(
            [*command, "run", *args],
            cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=restore_interrupts,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_for(self, words: str) -> str:
        """Wait for a line of its stderr that has these words."""
        assert self.process.stderr is not None
        return next(line for line in self.process.stderr if words in line)

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Tell it to end; return its exit status, and the rest of what it says."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


Start = Callable[..., Worker]


@pytest.fixture
def start(command: list[str], environment: dict[str, str]) -> Iterator[Start]:
    started: list[Worker] = []

    def start(*args: str, **changed: str) -> Worker:
        started.append(Worker(command, {**environment, **changed}, *args))
        return started[-1]

    yield start
    for worker in started:
        worker.process.kill()
        worker.process.communicate()


@pytest.fixture
def orders(run: Run, tables: Any) -> Any:
    """The tables and their triggers; gives the plain connection."""
    tables.execute("CREATE TABLE jobs (id int PRIMARY KEY)")
    assert run("install", "shop:Base").returncode == run("install", "worker:Base").returncode == 0
    return tables


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("target", ["worker:orders", "worker:make"])
def test_it_runs_until_it_is_told_to_end(start: Start, orders: Any, target: str, how: signal.Signals) -> None:
    worker = start(target)
    assert worker.line() == "connected"
    assert worker.line() == f"resync {STARTED_LATE}"
    orders.execute("INSERT INTO orders VALUES (1)")
    assert worker.line() == "order 1"
    status, out, err = worker.end(how)
    assert (status, out) == (0, "")
    assert "INFO sqlalchemy_watch.listener.notify.source: listening" in err
    assert err.splitlines()[-1].endswith("INFO sqlalchemy_watch.listener.foreground: stopped")
    assert "Traceback" not in err


def test_several_listeners_run_side_by_side_and_coroutine_receivers_have_a_loop(start: Start, orders: Any) -> None:
    worker = start("worker:orders", "worker:jobs", "worker:orders", "--log-level", "error")
    lines = {worker.line() for _ in range(3)}
    assert {"connected", "connected to jobs"} < lines
    orders.execute("INSERT INTO jobs VALUES (1)")
    orders.execute("INSERT INTO orders VALUES (2)")
    assert {worker.line(), worker.line()} == {"job 1", "order 2"}
    assert worker.end() == (0, "", "")


def test_a_coroutine_receiver_at_work_comes_to_its_end(start: Start, orders: Any) -> None:
    worker = start("worker:jobs")
    assert worker.line() == "connected to jobs"
    orders.execute("INSERT INTO jobs VALUES (99)")
    assert worker.line() == "job 99"
    assert worker.end()[:2] == (0, "done\n")


def test_a_second_ctrl_c_does_not_wait_for_a_receiver(start: Start, orders: Any) -> None:
    worker = start("worker:orders", "--stop-timeout", "50")
    worker.line()
    worker.line()
    orders.execute("INSERT INTO orders VALUES (99)")
    assert worker.line() == "order 99"
    worker.process.send_signal(signal.SIGINT)
    worker.wait_for("told to end")
    status, _, err = worker.end(signal.SIGINT)
    assert status == 130
    assert "Traceback" not in err


@pytest.fixture
def stopped() -> Iterator[Cluster]:
    """A server that is not running."""
    cluster = Cluster()
    yield cluster
    cluster.remove()


def test_a_database_that_is_down_is_waited_for_and_one_that_crashes_comes_back(start: Start, stopped: Cluster) -> None:
    worker = start("worker:orders", DATABASE_URL=stopped.url())
    assert " WARNING " in worker.wait_for("trying again")
    stopped.start()
    assert [worker.line(), worker.line()] == ["connected", f"resync {STARTED_LATE}"]
    stopped.stop("immediate")
    worker.wait_for("trying again")
    stopped.start()
    assert [worker.line(), worker.line()] == ["connected", f"resync {RECONNECTED}"]
    stopped.stop()
    worker.wait_for("trying again")
    assert worker.end()[:2] == (0, "")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("worker", "must be module:name, such as myapp.worker:listener"),
        ("no.such:listener", "can't import 'no.such'"),
        ("worker:nothing", "'worker' has no 'nothing'"),
        ("worker:listeners", "is a dict: name a Listener"),
        ("worker:Base", "is a Base: name a Listener"),
        ("worker:make_later", "is a coroutine: name a Listener"),
        ("worker:fail", "could not be made: KeyError: 'WORKER_URL' ("),
        ("worker:say", "is a NoneType: name a Listener"),
    ],
)
def test_what_is_no_listener_is_one_line_and_exit_status_2(run: Run, target: str, words: str) -> None:
    done = run("run", target)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
