"""Listening connections and commits: each connection that listens is woken by each commit that notifies."""

from __future__ import annotations

import multiprocessing
import select
import socket
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import psycopg
from psycopg import sql

from .harness import Figure, Table, interleave, medians
from .peers import UNWATCHED, WATCHED, WatchedTable, create
from .pgbench import commits_per_second
from .server import Server

CLIENTS = 8

#: What the connections listen to.
SAME, OTHER_CHANNEL, OTHER_DATABASE = "the watched table", "another table", "another database"

START_SECONDS = 60.0


def run(server: Server, quick: bool) -> list[Table]:
    """Return the table of commits per second."""
    counts, seconds, rounds = ((1, 10), 1, 2) if quick else ((1, 5, 20, 50), 3, 5)
    table = Table(
        "Listening connections",
        f"Transactions per second of {CLIENTS} pgbench clients that insert one row each, while so many connections "
        "listen: to the watched table, to another table of the same database, or in another database. One process "
        "reads what they are sent and throws it away, on the same processors. Without a watch: first line.",
        ("connections", SAME, OTHER_CHANNEL, OTHER_DATABASE),
    )
    names = {peer: create(server, peer, "inserted", unlogged=False) for peer in (UNWATCHED, WATCHED)}
    with server.connect() as connection:
        connection.execute("CREATE DATABASE elsewhere")
    turns: dict[str, Callable[[], float]] = {
        "unwatched": partial(commits_per_second, server, names[UNWATCHED], CLIENTS, seconds),
        "0": partial(commits_per_second, server, names[WATCHED], CLIENTS, seconds),
    }
    for count in counts:
        for where in (SAME, OTHER_CHANNEL, OTHER_DATABASE):
            turns[f"{count} {where}"] = partial(_with_listening, server, names[WATCHED], count, where, seconds)
    found = medians(interleave(turns, rounds))
    with server.connect() as connection:
        connection.execute("DROP DATABASE elsewhere")
    table.add("unwatched", found["unwatched"], "", "")
    table.add("0", found["0"], "", "")
    for count in counts:
        table.add(f"{count}", *(found[f"{count} {where}"] for where in (SAME, OTHER_CHANNEL, OTHER_DATABASE)))
    most = max(counts)
    table.figures.append(
        Figure(
            f"commits while {most} connections listen: of those with one", found[f"{most} {SAME}"] / found[f"1 {SAME}"],
            1.0, "each listening connection of the database is woken at each commit that notifies", at_most=False,
        )
    )  # fmt: skip
    return [table]


def _with_listening(server: Server, table: str, count: int, where: str, seconds: int) -> float:
    channel = WatchedTable().model(table, "inserted").watch.inserted.details.channel
    url = server.url() if where != OTHER_DATABASE else server.url().rpartition("/")[0] + "/elsewhere"
    with Listening(url, channel if where != OTHER_CHANNEL else "watch_another", count):
        return commits_per_second(server, table, CLIENTS, seconds)


class Listening:
    """Connections that listen while the `with` block runs, read by a process of their own."""

    def __init__(self, url: str, channel: str, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_listen, args=(theirs, url, channel, count), daemon=True)

    def __enter__(self) -> Listening:
        self._process.start()
        if not self._pipe.poll(START_SECONDS):
            raise RuntimeError(f"no connection listened within {START_SECONDS:g} s")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.join()


def _listen(pipe: Connection, url: str, channel: str, count: int) -> None:
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    connections: list[psycopg.Connection[Any]] = []
    for _ in range(count):
        connection = psycopg.connect(url, autocommit=True)
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        connections.append(connection)
        descriptor = connection.fileno()
        sockets[descriptor] = socket.socket(fileno=descriptor)
        poll.register(descriptor, select.EPOLLIN)
    pipe.send("ready")
    while True:
        for descriptor, _ in poll.poll():
            sockets[descriptor].recv(1 << 16)
