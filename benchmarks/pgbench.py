"""Writers side by side: single-row transactions of many clients."""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial

from .harness import Figure, Table, interleave, medians
from .hearing import Hearing
from .peers import DURABLE, LOGGED_CONSTANT, ROW_TRIGGER, UNWATCHED, WATCHED, create, drop_slot
from .server import Server

PEER_NAMES = (UNWATCHED, WATCHED, DURABLE, ROW_TRIGGER, LOGGED_CONSTANT)


def run(server: Server, quick: bool) -> list[Table]:
    """The table of transactions per second."""
    clients, seconds, rounds = ((2, 32), 2, 2) if quick else ((1, 8, 32), 3, 5)
    table = Table(
        "Writers side by side",
        "Transactions per second of pgbench clients that insert one row each, a listener attached to every watched "
        "table (of the durable one a consumer group's, which acknowledges). NOTIFY takes a lock of the whole cluster "
        "at commit, so that commits queue behind each other, whoever sends it; durable delivery does not. The constant "
        "is what PostgreSQL itself takes for a logical message, and so a limit for durable delivery: a trigger that "
        "looks at no row and builds no text, and a C program on the same processors that throws away what it reads.",
        ("clients", *PEER_NAMES, "durable / unwatched", "durable / row trigger", "constant / unwatched"),
    )
    names = {peer: create(server, peer, "inserted", unlogged=False) for peer in PEER_NAMES}
    for count in clients:
        turns = {peer: partial(_throughput, server, peer, names[peer], count, seconds) for peer in PEER_NAMES}
        found = medians(interleave(turns, rounds))
        to_unwatched, to_row = found[DURABLE] / found[UNWATCHED], found[DURABLE] / found[ROW_TRIGGER]
        limit = found[LOGGED_CONSTANT] / found[UNWATCHED]
        table.add(f"{count}", *(f"{found[peer]:,.0f}" for peer in PEER_NAMES), to_unwatched, to_row, limit)
        if count == max(clients):
            most = f"PostgreSQL's own share: a constant message and a reader in C leave {limit:.2f}"
            lock = "clients, server and consumer share the processors; the row trigger waits for a lock meanwhile"
            table.figures += [
                Figure(f"{count} clients: durable / unwatched", to_unwatched, 0.75, most, at_most=False),
                Figure(f"{count} clients: durable / row trigger", to_row, 2.5, lock, at_most=False),
            ]
    return [table]


def _throughput(server: Server, peer: str, table: str, clients: int, seconds: int) -> float:
    with ExitStack() as stack:
        if peer != UNWATCHED:
            stack.enter_context(Hearing(peer, server.url(), table, "inserted", 1 << 60))
        found = commits_per_second(server, table, clients, seconds)
    drop_slot(server, table)
    return found


def commits_per_second(server: Server, table: str, clients: int, seconds: int) -> float:
    """Return the transactions per second of so many clients, each of a single row."""
    script = server.files / f"{table}.sql"
    script.write_text(f"INSERT INTO {table} VALUES (nextval('{table}_ids'), 1, 'n');\n")
    with server.connect() as connection:
        connection.execute(f"TRUNCATE {table}")
        connection.execute(f"CREATE SEQUENCE IF NOT EXISTS {table}_ids CACHE 100")
        connection.execute("CHECKPOINT")
    printed = server.run(
        "pgbench", "-n", "-c", str(clients), "-j", "2", "-T", str(seconds), "-f", str(script),
        "-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "postgres",
    )  # fmt: skip
    found = re.search(r"tps = ([\d.]+)", printed)
    assert found is not None, printed
    return float(found[1])
