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

from .harness import Figure, Table, interleave, medians
from .peers import DURABLE, WatchedTable, create, drop_slot, table_name
from .server import Server

OURS, BARE = "sqlalchemy_watch", "bare loop"

CLIENTS = 32

#: Transactions a second of the client that writes at a pace.
PACE = 2_000

#: Writes so many transactions of one row.
Write = Callable[[Server, str, int], None]


def run(server: Server, quick: bool) -> list[Table]:
    """Return the table of processor time."""
    transactions, rounds = (5_000, 3) if quick else (50_000, 5)
    table = Table(
        "A durable consumer's processor time",
        f"Microseconds of CPU of the whole process for each of {transactions:,} transactions of one row, until the "
        f"last is dispatched and acknowledged: where they lie in the slot already, where {CLIENTS} clients of pgbench "
        f"write them, and where one client writes {PACE:,} a second (a tenth of them). The bare loop only takes what "
        "libpq gives.",
        ("consumer", "in the slot already", f"{CLIENTS} clients", f"{PACE:,} a second"),
    )
    create(server, DURABLE, "inserted", unlogged=False)
    name = table_name(DURABLE, "inserted")
    with server.connect() as connection:
        connection.execute(f"CREATE SEQUENCE {name}_ids CACHE 100")
    ways: dict[str, tuple[Write, bool, int]] = {
        "backlog": (_write_backlog, False, transactions),
        "clients": (_write_by_clients, True, transactions),
        "paced": (_write_paced, True, transactions // 10),
    }
    turns: dict[str, Callable[[], float]] = {
        f"{peer} {way}": partial(_measure, server, name, listen, *how)
        for way, how in ways.items()
        for peer, listen in ((OURS, _consume), (BARE, _take))
    }
    found = medians(interleave(turns, rounds))
    for peer in (OURS, BARE):
        table.add(peer, *(found[f"{peer} {way}"] for way in ways))
    table.add("times the bare loop", *(found[f"{OURS} {way}"] / found[f"{BARE} {way}"] for way in ways))
    decoding = "decoding, and making an event, take most; then two threads of one interpreter"
    table.figures += [
        Figure("consumer, transactions in the slot already: CPU each", found[f"{OURS} backlog"], 12, decoding, " us"),
        Figure(f"consumer, {CLIENTS} clients: CPU of a transaction", found[f"{OURS} clients"], 14, decoding, " us"),
    ]
    return [table]


def _measure(
    server: Server, table: str, listen: Callable[..., None], write: Write, is_live: bool, transactions: int
) -> float:
    _make_slot(server, table)
    with server.connect() as connection:
        connection.execute(f"TRUNCATE {table}")
    if not is_live:
        write(server, table, transactions)
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=listen, args=(theirs, server.url(), table, transactions, is_live), daemon=True)
    process.start()
    pipe.recv()  # it reads
    if is_live:
        write(server, table, transactions)
    pipe.send("written")
    seconds: float = pipe.recv()
    process.join()
    drop_slot(server, table)
    return seconds / transactions * 1e6


def _write_backlog(server: Server, table: str, transactions: int) -> None:
    with server.connect() as connection:
        loop = f"FOR i IN 1..{transactions} LOOP INSERT INTO {table} VALUES (i, 1, 'n'); COMMIT; END LOOP;"
        connection.execute("SET synchronous_commit = off")
        connection.execute(f"DO $$ BEGIN {loop} END $$")


def _write_by_clients(server: Server, table: str, transactions: int) -> None:
    _pgbench(server, table, "-c", str(CLIENTS), "-j", "2", "-t", str(transactions // CLIENTS))
    _write_rest(server, table, transactions % CLIENTS)


def _write_paced(server: Server, table: str, transactions: int) -> None:
    _pgbench(server, table, "-c", "1", "-R", str(PACE), "-t", str(transactions))


def _write_rest(server: Server, table: str, transactions: int) -> None:
    with server.connect() as connection:
        for _ in range(transactions):
            connection.execute(f"INSERT INTO {table} VALUES (nextval('{table}_ids'), 1, 'n')")


def _pgbench(server: Server, table: str, *options: str) -> None:
    script = server.files / f"{table}.sql"
    script.write_text(f"INSERT INTO {table} VALUES (nextval('{table}_ids'), 1, 'n');\n")
    server.run("pgbench", "-n", *options, "-f", str(script), f"{server.url()}?options=-csynchronous_commit%3Doff")


def _make_slot(server: Server, table: str) -> None:
    with Listener(server.engine(), WatchedTable("durable").model(table, "inserted"), durable=table):
        pass


def _consume(pipe: Connection, url: str, table: str, transactions: int, is_live: bool) -> None:
    heard = 0

    def receive(sender: Any, event: Any) -> None:
        nonlocal heard
        heard += 1

    User = WatchedTable("durable").model(table, "inserted")
    User.watch.connect(receive)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    started = time.process_time()
    with Listener(engine, User, durable=table) as listener:
        if is_live:
            started = time.process_time()
        pipe.send("reads")
        pipe.recv()
        listener.catch_up(timeout=120)
        pipe.send(time.process_time() - started)
    assert heard == transactions, heard


def _take(pipe: Connection, url: str, table: str, transactions: int, is_live: bool) -> None:
    """Take COPY data until the last transaction ends, without a look inside."""
    started = time.process_time()
    with contextlib.closing(psycopg.connect(url, replication="database", autocommit=True)) as connection:
        options = sql.SQL("(proto_version '1', publication_names '\"sqlalchemy_watch\"', messages 'true')")
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL 0/0 ").format(sql.Identifier(table)) + options
        connection.pgconn.exec_(command.as_bytes(None))
        if is_live:
            started = time.process_time()
        pipe.send("reads")
        ended = messages = 0
        while ended < transactions:
            _, data = connection.pgconn.get_copy_data(0)
            kind = data[25:26]
            messages += kind == b"M"
            ended += kind == b"C" and messages > ended
        pipe.recv()
        pipe.send(time.process_time() - started)
