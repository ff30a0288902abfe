"""The soak of NOTIFY: writers, faults, an application, and whether it was told the truth."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from listener.clusters import removed_afterwards
from listener.proxy import proxied
from postgres import Cluster
from sqlalchemy import NullPool, create_engine
from support import created_database, set_for

from .faults import Faults
from .oracle import Committed, Oracle
from .report import Report
from .schema import FILTERED, MUTED_FROM, create
from .writers import Writer

WRITERS = 3

#: Seconds for the application to obey.
PATIENCE = 120.0

#: Bytes by which the application may grow from its first look at itself to the last.
GROWTH = 16 * 1024 * 1024

#: What the listener gives as the reason of a resync that has to be.
KNOWN_REASONS = ("the connection was lost and is back", "the listener's queue was full", "the stream's queue of")


class Application:
    """The process that hears, as the soak sees it."""

    def __init__(self, proxied: str, url: str, folder: Path, seed: int) -> None:
        command = [sys.executable, "-m", "soak.application", proxied, url, str(folder), str(seed)]
        self._errors = (folder / "errors").open("w")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        self.pid = self._process.pid
        self._answers: Queue[str] = Queue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def tell(self, command: str) -> dict[str, Any]:
        """Have it do something, and return its answer.

        :raises RuntimeError: where there is none.
        """
        assert self._process.stdin is not None
        try:
            print(command, file=self._process.stdin, flush=True)
            answer = self._answers.get(timeout=PATIENCE)
        except (Empty, OSError):
            answer = ""
        if not answer:
            raise RuntimeError(f"the application did not obey {command!r}: {self.errors()[-4000:]}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def errors(self) -> str:
        """What it logged."""
        return Path(self._errors.name).read_text()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class Soak:
    """One soak of NOTIFY.

    :param database: an empty one.
    :param pause: seconds after a fault, at the most.
    :param say: is told of progress.
    """

    def __init__(
        self, cluster: Cluster, database: str, seconds: float, seed: int, say: Callable[[str], None], pause: float = 3.0
    ) -> None:
        self._cluster, self._database, self._pause = cluster, database, pause
        self._seconds, self._seed, self._say = seconds, seed, say
        self.report = Report(f"notify, seed {seed}")
        self._measured: list[dict[str, Any]] = []
        self._began = time.monotonic()

    def run(self) -> Report:
        set_for(self._cluster, self._database, deadlock_timeout="100ms")
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="watch-tests-"))
            stack.callback(self._clear_away, folder)
            url = self._cluster.url(self._database, "psycopg")
            engine = create_engine(url, poolclass=NullPool)
            with engine.begin() as connection:
                create(connection)
            proxy = stack.enter_context(proxied(self._cluster.port))
            through = url.replace(f":{self._cluster.port}/", f":{proxy.port}/")
            application = Application(through, self._cluster.url(self._database), folder, self._seed)
            stack.callback(application.close)
            application.tell("start")
            with _writing(url, self._seed, self.report) as writers:
                faults = Faults(
                    self._cluster, self._database, proxy, application.pid, self._seed, application.tell,
                    lambda: setattr(writers[0], "burst", True), self._pause,
                )  # fmt: skip
                self._let_happen(writers, faults, application)
            answer = application.tell("stop")
            self.report.blame(
                "the application", *re.findall(".*(?:unexpected error|of the listener failed).*", application.errors())
            )
            self.report.blame("receivers that come and go", *answer["faults"])
            self._judge(folder)
            self._compare_measures()
            self._count(writers, faults, answer)
        return self.report

    def _clear_away(self, folder: Path) -> None:
        """Journals and ledger are kept where something was wrong: there is nothing else to look at."""
        if not self.report.faults:
            shutil.rmtree(folder)
        else:
            self.report.counts["journals and ledger"] = str(folder)

    def _let_happen(self, writers: list[Writer], faults: Faults, application: Application) -> None:
        """Faults, with a look now and then at whether everything agrees while nothing is written."""
        looks = max(2, min(10, int(self._seconds / 20)))
        for look in range(1, looks + 1):
            for writer in writers:
                writer.resume()
            while time.monotonic() - self._began < self._seconds * look / looks:
                faults.happen()
            for writer in writers:
                writer.pause()
            self._look(application, f"look {look} of {looks}", sum(writer.rows for writer in writers), faults)

    def _look(self, application: Application, when: str, rows: int, faults: Faults) -> None:
        answer = application.tell("check")
        self._measured.append(answer)
        for name, differing in answer["differing"].items():
            some = dict(list(differing.items())[:3])
            self.report.blame(when, f"{name!r} holds {len(differing)} stale rows (held, true): {some}")
        heard, resyncs = answer["heard"]["plain"], answer["resyncs"]
        self._say(
            f"{time.monotonic() - self._began:6.0f} s  {when}: {rows:,} rows written, {heard:,} items heard, "
            f"{resyncs} resyncs, {faults.counts.total()} faults, {answer['memory'] >> 20} MiB"
        )

    def _judge(self, folder: Path) -> None:
        with self._cluster.connect(self._database) as client:
            ledger = client.execute(
                "SELECT name, id, operation, version, txid FROM ledger WHERE id < %s ORDER BY number", [MUTED_FROM]
            ).fetchall()
        (folder / "ledger").write_text("".join(f"{' '.join(map(str, change))}\n" for change in ledger))
        for name, table in JOURNALS.items():
            changes = [(id_, Committed(*change)) for of, id_, *change in ledger if of == table and _concerns(name, id_)]
            with (folder / f"{name}.journal").open() as journal:
                verdict = Oracle(changes, latest_only=name == "latest").judge(journal)
            self.report.blame(f"receiver {name!r}", *verdict.faults)
            unknown = [reason for reason in verdict.resyncs if not any(words in reason for words in KNOWN_REASONS)]
            self.report.blame(f"receiver {name!r}", *(f"a resync without need: {reason}" for reason in unknown))
            self.report.counts[f"heard by {name!r}"] = (
                f"{verdict.heard:,}; {verdict.read_instead:,} read at {verdict.resyncs.total():,} gaps"
            )

    def _compare_measures(self) -> None:
        first, last = self._measured[0], self._measured[-1]
        for what in ("threads", "descriptors", "receivers"):
            if first[what] != last[what]:
                self.report.blame("the application", f"had {first[what]} {what} at first, and {last[what]} at the end")
        if first["descriptors"] != last["descriptors"]:
            self.report.blame("the application", f"had open at first {first['open']}, at the end {last['open']}")
        grown = last["memory"] - first["memory"]
        self.report.counts["memory grown by"] = f"{grown / 2**20:.1f} MiB, to {last['memory'] >> 20}"
        if grown > GROWTH:
            self.report.blame("the application", f"has grown by {grown:,} bytes")

    def _count(self, writers: list[Writer], faults: Faults, answer: dict[str, Any]) -> None:
        sums = {
            "rows written": sum(writer.rows for writer in writers),
            "transactions": sum(writer.transactions for writer in writers),
            "rolled back": sum(writer.rolled_back for writer in writers),
            "failed with the server": sum(writer.failed for writer in writers),
            "resyncs": answer["resyncs"],
            "notifications dropped": answer["dropped"],
            "receivers that came and went": answer["churned"],
        }
        self.report.counts = {**sums, **self.report.counts}
        self.report.happened = faults.counts
        for what in ("failed", "garbage", "ignored"):
            if answer[what]:
                self.report.blame("the application", f"counted {answer[what]} {what}")


#: Receivers, and the table that each hears of.
JOURNALS = {
    "plain": "items", "coroutine": "items", "rows": "gauges", "filtered": "gauges", "batches": "gauges",
    "latest": "gauges", "stream": "gauges",
}  # fmt: skip


def _concerns(name: str, id_: int) -> bool:
    return name != "filtered" or id_ == FILTERED


@contextmanager
def _writing(url: str, seed: int, report: Report) -> Iterator[list[Writer]]:
    writers = [Writer(url, number, seed) for number in range(WRITERS)]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()
    report.blame("a writer", *(writer.fault for writer in writers if writer.fault))


def run(seconds: float, seed: int, say: Callable[[str], None]) -> Report:
    """Run the soak on a server of its own."""
    with removed_afterwards(Cluster()) as cluster, created_database(cluster, "soak") as database:
        return Soak(cluster, database, seconds, seed, say).run()
