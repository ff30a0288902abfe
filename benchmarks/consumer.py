"""Processor time that a durable consumer takes for each transaction of one row, whatever the machine does beside it."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import create_engine

from sqlalchemy_watch import Listener

from .harness import Table, interleave, medians
from .peers import DURABLE, WatchedTable, create, drop_slot, table_name
from .server import Server

OURS, BARE = "sqlalchemy_watch", "bare loop"


def run(server: Server, quick: bool) -> list[Table]:
    """Return the table of processor time."""
    transactions, rounds = (2_000, 3) if quick else (50_000, 5)
    table = Table(
        "A durable consumer's processor time",
        f"Microseconds of CPU of the whole process for each of {transactions:,} transactions of one row that lie in "
        "the slot already, until the last is dispatched and acknowledged. The bare loop only takes what libpq gives.",
        ("consumer", "microseconds", "times the bare loop"),
    )
    create(server, DURABLE, "inserted", unlogged=False)
    name = table_name(DURABLE, "inserted")
    turns: dict[str, Callable[[], float]] = {
        peer: partial(_backlog, server, name, listen, transactions)
        for peer, listen in ((OURS, _consume), (BARE, _take))
    }
    found = medians(interleave(turns, rounds))
    for peer in turns:
        table.add(peer, found[peer], found[peer] / found[BARE])
    return [table]


def _backlog(server: Server, table: str, listen: Callable[..., None], transactions: int) -> float:
    _make_slot(server, table)
    with server.connect() as connection:
        connection.execute(f"TRUNCATE {table}; SET synchronous_commit = off")
        loop = f"FOR i IN 1..{transactions} LOOP INSERT INTO {table} VALUES (i, 1, 'n'); COMMIT; END LOOP;"
        connection.execute(f"DO $$ BEGIN {loop} END $$")
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=listen, args=(theirs, server.url(), table, transactions), daemon=True)
    process.start()
    seconds: float = pipe.recv()
    process.join()
    drop_slot(server, table)
    return seconds / transactions * 1e6


def _make_slot(server: Server, table: str) -> None:
    with Listener(server.engine(), WatchedTable("durable").model(table, "inserted"), durable=table):
        pass


def _consume(pipe: Connection, url: str, table: str, transactions: int) -> None:
    heard = 0

    def receive(sender: Any, event: Any) -> None:
        nonlocal heard
        heard += 1

    User = WatchedTable("durable").model(table, "inserted")
    User.watch.connect(receive)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    started = time.process_time()
    with Listener(engine, User, durable=table) as listener:
        listener.catch_up(timeout=120)
        pipe.send(time.process_time() - started)
    assert heard == transactions, heard


def _take(pipe: Connection, url: str, table: str, transactions: int) -> None:
    """Take COPY data until the last transaction ends, without a look inside."""
    started = time.process_time()
    with contextlib.closing(psycopg.connect(url, replication="database", autocommit=True)) as connection:
        options = sql.SQL("(proto_version '1', publication_names '\"sqlalchemy_watch\"', messages 'true')")
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL 0/0 ").format(sql.Identifier(table)) + options
        connection.pgconn.exec_(command.as_bytes(None))
        ended = 0
        while ended < transactions:
            _, data = connection.pgconn.get_copy_data(0)
            ended += data[25:26] == b"C"
        pipe.send(time.process_time() - started)
