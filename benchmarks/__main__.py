"""`python -m benchmarks`: measure, print, and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

from . import catalog, consumer, delivery, dispatch, memory, pgbench, writes
from .harness import Table, Target, target_grid
from .machine import describe
from .server import Server

GROUPS: dict[str, Callable[[Server, bool], list[Table]]] = {
    "writes": writes.run,
    "delivery": delivery.run,
    "dispatch": dispatch.run,
    "pgbench": pgbench.run,
    "consumer": consumer.run,
    "memory": memory.run,
    "catalog": catalog.run,
}

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

INTRODUCTION = """\
# Benchmarks

Made by `python -m benchmarks`, which starts a PostgreSQL of its own and runs everything that stands in one table
interleaved (A B C A B C …) on one machine; figures are medians. Beside the library stand what people write themselves
(a row-level plpgsql trigger with `jsonb_build_object`, a psycopg `notifies()` loop with `json.loads` and a blinker
signal), a bare `notifies()` loop as the floor, and two packages, each as its manual says: SQLNotify (asyncpg; its
logging, on by default, is off) and django-pgpubsub (psycopg 3). Absolute figures are this machine's; the ratios are
what counts.
"""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds; prints only")
    only = f"one of {', '.join(GROUPS)}, repeatable; prints only"
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="NAME", help=only)
    options = parser.parse_args()
    tables: list[Table] = []
    load = os.getloadavg()[0]
    with Server() as server:
        lines = describe(server)
        for name in options.only or GROUPS:
            server.clean()
            for table in GROUPS[name](server, options.quick):
                print(table.markdown(), end="\n\n", flush=True)
                tables.append(table)
    targets = [target for table in tables for target in table.targets]
    print(target_grid(targets))
    if not options.quick and not options.only:
        PAGE.write_text(page(lines, load, tables, targets))


def page(machine: list[str], load: float, tables: list[Table], targets: list[Target]) -> str:
    """The page of the documentation."""
    about = [*machine, f"Measured on {date.today():%Y-%m-%d}, with a load of {load:.1f} before it began"]
    parts = [
        INTRODUCTION.rstrip(),
        "## The machine",
        "\n".join(f"- {line}" for line in about),
        "## Targets",
        target_grid(targets),
        *[table.markdown() for table in tables],
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
