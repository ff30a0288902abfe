"""`python -m benchmarks`: measure, print, and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

from . import (
    backfill,
    caching,
    catalog,
    consumer,
    delivery,
    dispatch,
    lanes,
    listeners,
    live,
    memory,
    pgbench,
    relaying,
    scaling,
    tracing,
    web,
    writes,
)
from .harness import Figure, Table, figure_grid
from .machine import describe
from .server import Server

GROUPS: dict[str, Callable[[Server, bool], list[Table]]] = {
    "writes": writes.run,
    "delivery": delivery.run,
    "dispatch": dispatch.run,
    "pgbench": pgbench.run,
    "listeners": listeners.run,
    "consumer": consumer.run,
    "lanes": lanes.run,
    "backfill": backfill.run,
    "caching": caching.run,
    "scaling": scaling.run,
    "relay": relaying.run,
    "web": web.run,
    "live": live.run,
    "tracing": tracing.run,
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

GLANCE = """\
Bulk statements and single rows are two different things: a statement of many rows costs a fraction of what a row
trigger adds, a transaction of a single row costs more than one. `Watch(..., level="row")` is cheaper for single rows,
and as dear as any row trigger in bulk. Aims are what we would like to reach; the last column says what stands in the
way, or where the time goes.\
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
    figures = [figure for table in tables for figure in table.figures]
    print(figure_grid(figures))
    if not options.quick and not options.only:
        PAGE.write_text(page(lines, load, tables, figures))


def page(machine: list[str], load: float, tables: list[Table], figures: list[Figure]) -> str:
    """The page of the documentation."""
    about = [*machine, f"Measured on {date.today():%Y-%m-%d}, with a load of {load:.1f} before it began"]
    parts = [
        INTRODUCTION.rstrip(),
        "## The machine",
        "\n".join(f"- {line}" for line in about),
        "## At a glance",
        GLANCE,
        figure_grid(figures),
        *[table.markdown() for table in tables],
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
