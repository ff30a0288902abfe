"""Keep a search index equal to a table: filled from nothing, right through kills, rebuilt where events were lost.

The index is SQLite's full-text search, in a file. The program that fills it is a process of its own, which is killed
again and again. What it has not acknowledged comes again, and putting a document under its id twice does no harm.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from embedded import as_another_program, embedded_engine
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched

GROUP = "search_index"


class Base(DeclarativeBase):
    pass


class Article(Watched, Base):
    __tablename__ = "articles"
    __watch__ = (
        Watch("inserted", extra_columns=("words",)),
        Watch("updated", extra_columns=("words",)),
        "deleted",
        "truncated",
    )
    __watch_delivery__ = "durable"

    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str]


class Index:
    """The search index."""

    def __init__(self, path: Path) -> None:
        self.file = sqlite3.connect(path, check_same_thread=False)
        self.file.execute("CREATE VIRTUAL TABLE IF NOT EXISTS articles USING fts5 (words, seen_at UNINDEXED)")

    def take(self, sender, events):
        """Put what is there, `read` rows included, and take out what is gone; all of a batch or nothing."""
        with self.file:
            for event in events:
                if event.operation == "truncated":
                    self.file.execute("DELETE FROM articles")
                    continue
                self.file.execute("DELETE FROM articles WHERE rowid = ?", event.identity)
                if event.operation != "deleted":
                    row = (*event.identity, event.values["words"], event.emitted_at.timestamp())
                    self.file.execute("INSERT INTO articles (rowid, words, seen_at) VALUES (?, ?, ?)", row)

    def forget_unseen(self, listener, *, model, started_at):
        """All rows have been read: what was not among them is gone, though nobody has told of that."""
        with self.file:
            self.file.execute("DELETE FROM articles WHERE seen_at < ?", [started_at.timestamp()])

    def documents(self) -> dict[int, str]:
        return dict(self.file.execute("SELECT rowid, words FROM articles"))

    def search(self, word: str) -> list[int]:
        return [row[0] for row in self.file.execute("SELECT rowid FROM articles WHERE articles MATCH ?", [word])]


def rebuild(listener, reason):
    """Events may have been lost: read everything anew, while the index goes on."""
    listener.backfill(Article)


def make_listener(url: str, index: Index) -> Listener:
    listener = Listener(create_engine(url), Base, durable=GROUP, backfill=True)
    Article.watch.batches(max_size=200, max_wait=0.05).connect(index.take, name="search index")
    listener.backfilled.connect(index.forget_unseen)
    listener.resync.connect(rebuild)
    return listener


def consume(url: str, path: str) -> None:
    """The process that fills the index."""
    make_listener(url, Index(Path(path))).run()


def write(engine, stopping: threading.Event) -> None:
    """Another program, which knows nothing of the index."""
    number = 0
    while not stopping.wait(0.002):
        number += 1
        as_another_program(engine, f"INSERT INTO articles (words) VALUES ('article {number}')")
        as_another_program(engine, f"UPDATE articles SET words = 'revision {number}' WHERE id = {number * 7 % 2000}")
        as_another_program(engine, f"DELETE FROM articles WHERE id = {number * 13 % 2000}")


def lose_the_slot(engine) -> None:
    """Drop the slot under the running listener, as an administrator does who needs the disk."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while True:
            connection.execute(text("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"))
            try:
                connection.execute(text("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"))
                return
            except Exception:
                time.sleep(0.001)


def main() -> None:
    with embedded_engine() as engine, tempfile.TemporaryDirectory() as folder:
        url, path = engine.url.render_as_string(hide_password=False), Path(folder, "index")
        Base.metadata.create_all(engine)
        as_another_program(engine, "INSERT INTO articles (words) SELECT 'old ' || n FROM generate_series(1, 2000) AS n")

        stopping = threading.Event()
        writer = threading.Thread(target=write, args=(engine, stopping))
        writer.start()
        for seconds in (1.5, 1.0, 2.0):
            process = subprocess.Popen([sys.executable, __file__, "consume", url, str(path)])
            time.sleep(seconds)
            process.kill()
            process.wait()
        stopping.set()
        writer.join()

        index = Index(path)
        filled = threading.Event()
        with make_listener(url, index) as listener:
            listener.catch_up()
            compare(engine, index, "the index was filled, and was right through 3 kills")

            listener.backfilled.connect(lambda listener, *, model, started_at: filled.set(), weak=False)
            lose_the_slot(engine)
            as_another_program(engine, "DELETE FROM articles WHERE id % 2 = 0")  # of which nobody is told
            filled.wait(30)
            listener.catch_up()
            compare(engine, index, "the index was rebuilt after a resync")
        print("found", len(index.search("old")), "old articles")


def compare(engine, index: Index, words: str) -> None:
    with engine.connect() as connection:
        rows = {row.id: row.words for row in connection.execute(text("SELECT id, words FROM articles"))}
    deadline = time.monotonic() + 30
    while index.documents() != rows:
        if time.monotonic() > deadline:
            raise SystemExit(f"the index differs from the table: {len(index.documents())} and {len(rows)} rows")
        time.sleep(0.05)
    print(words)


if __name__ == "__main__":
    if sys.argv[1:2] == ["consume"]:
        consume(*sys.argv[2:])
        sys.exit(os.EX_OK)
    main()
