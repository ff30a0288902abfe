"""What befalls the application, its connection and its server."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from threading import Event

import psutil
import psycopg
from listener.proxy import Proxy
from postgres import Cluster
from support import end_listeners

#: Seconds that a fault lasts at the most.
LONGEST = 1.6

_BACKENDS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch' AND datname = current_database()"
)


class Faults:
    """Faults, each kind once and then by chance, one after the other; each has been undone when it returns.

    :param application: process id.
    :param tell: sends the application a command.
    :param burst: has a writer write much at once.
    :param pause: seconds after a fault, at the most: for a connection to come back, and to be used.
    """

    def __init__(
        self, cluster: Cluster, database: str, proxy: Proxy, application: int, seed: int, tell: Callable[[str], object],
        burst: Callable[[], None], pause: float,
    ) -> None:  # fmt: skip
        self._cluster, self._database, self._proxy, self._application = cluster, database, proxy, application
        self._tell, self._burst, self._pause = tell, burst, pause
        self._chance = random.Random(f"{seed} faults")
        self._moment = Event()  # never set: for waiting
        self._first = self._chance.sample(list(WEIGHTS), len(WEIGHTS))
        self.counts: Counter[str] = Counter()

    def happen(self) -> None:
        """One fault, and a pause after it, often none."""
        kind = self._first.pop() if self._first else self._chance.choices(list(WEIGHTS), WEIGHTS.values())[0]
        self.counts[kind.__name__] += 1
        with contextlib.suppress(psycopg.OperationalError):  # the server is not back yet
            kind(self)
        if self._chance.random() < 0.8:
            self._wait(self._pause)

    def _wait(self, longest: float = LONGEST) -> None:
        self._moment.wait(self._chance.uniform(0, longest))

    def terminate(self) -> None:
        with self._cluster.connect(self._database) as client:
            end_listeners(client)

    def cut(self) -> None:
        self._proxy.cut()

    def freeze(self) -> None:
        """Noticed or not, as long as it may be; what lies in the old connection may come afterwards."""
        self._proxy.freeze()
        self._wait()
        self._proxy.resume(thaw=self._chance.random() < 0.7)

    def refuse(self) -> None:
        self._proxy.refuse()
        self._wait()
        self._proxy.resume()

    def delay(self) -> None:
        self._proxy.delay = 0.03
        self._wait()
        self._proxy.resume()

    def half_an_answer(self) -> None:
        """New connections fall silent in the middle of what the server says at first."""
        self._proxy.freeze_after = self._chance.randint(1, 6000)
        self._proxy.cut()
        self._wait()
        self._proxy.resume(thaw=False)

    def unlisten(self) -> None:
        with contextlib.suppress(IndexError):  # there is no connection at present
            self._proxy.inject("UNLISTEN *")

    def suspend_backend(self) -> None:
        with self._cluster.connect(self._database) as client:
            pids = [pid for (pid,) in client.execute(_BACKENDS).fetchall()]
        with _suspended(pids):
            self._wait()

    def suspend_server(self) -> None:
        postmaster = psutil.Process(int((self._cluster.data / "postmaster.pid").read_text().split()[0]))
        with _suspended([postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]):
            self._wait()

    def suspend_application(self) -> None:
        with _suspended([self._application]):
            self._wait()

    def slow_receivers(self) -> None:
        self._tell(f"slow {self._chance.uniform(0.5, LONGEST)}")
        self._burst()

    def burst(self) -> None:
        self._burst()

    def restart_listener(self) -> None:
        self._tell("restart")

    def restart_server_fast(self) -> None:
        self._cluster.restart("fast")

    def restart_server_immediate(self) -> None:
        self._cluster.restart("immediate")


@contextlib.contextmanager
def _suspended(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


#: How often each comes.
WEIGHTS: dict[Callable[[Faults], None], float] = {
    Faults.terminate: 4,
    Faults.cut: 4,
    Faults.freeze: 4,
    Faults.refuse: 3,
    Faults.delay: 2,
    Faults.half_an_answer: 3,
    Faults.unlisten: 2,
    Faults.suspend_backend: 3,
    Faults.suspend_server: 2,
    Faults.suspend_application: 3,
    Faults.slow_receivers: 3,
    Faults.burst: 2,
    Faults.restart_listener: 2,
    Faults.restart_server_fast: 1,
    Faults.restart_server_immediate: 1,
}
