"""A relay as a program of its own, which tests kill; and writers whose rows are counted."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from postgres import restore_interrupts
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched
from sqlalchemy_watch.relay import Relay

TESTS = Path(__file__).parents[1]

#: Rows that are written again and again.
KEYS = 20


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = (
        Watch("inserted", extra_columns=("note",)), Watch("updated", extra_columns=("note", "number")), "deleted",
        "truncated",
    )  # fmt: skip
    __watch_delivery__ = "durable"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(server_default="")
    number: Mapped[int] = mapped_column(server_default="0")


class Program:
    """The relay, in a process."""

    def __init__(self, url: str, group: str, to: str) -> None:
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "relay.relaying", url, group, to], env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupts,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "relaying\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def main(url: str, group: str, to: str) -> None:
    logging.basicConfig(level=logging.WARNING)
    relay = Relay(create_engine(url), Base, group=group, to=to, create=to.startswith("nats:"))

    def tell(sender: Any) -> None:
        sys.stdout.write("relaying\n")
        sys.stdout.flush()

    relay.listener.connected.connect(tell)
    relay.run()


@contextmanager
def writing(url: str, writers: int = 2) -> Iterator[dict[int, int]]:
    """Write rows until the block ends: each update one more than the last; the last numbers, by key, are yielded."""
    ended, last = threading.Event(), dict.fromkeys(range(KEYS), 0)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("INSERT INTO orders (id) SELECT generate_series(0, %s)", [KEYS - 1])

    def write(first: int) -> None:
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            key = first
            while not ended.wait(0.003):  # a broker in memory forgets the oldest of many
                with connection.transaction(force_rollback=True):  # nobody hears of this
                    connection.execute("UPDATE orders SET number = -1 WHERE id = %s", [key])
                with connection.transaction():
                    connection.execute("UPDATE orders SET number = %s WHERE id = %s", [last[key] + 1, key])
                last[key] += 1
                key = (key + writers) % KEYS

    threads = [threading.Thread(target=write, args=[number]) for number in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield last
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def numbers_of(values: list[dict[str, Any]]) -> dict[int, list[int]]:
    """Return the numbers of updates by key, in order."""
    found: dict[int, list[int]] = {}
    for one in values:
        if one["operation"] == "updated":
            found.setdefault(one["identity"][0], []).append(one["values"]["number"])
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
