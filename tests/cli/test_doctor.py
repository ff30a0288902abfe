"""`doctor`: what it prints, and its exit status; what it finds stands in tests/doctor."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import create_engine

from sqlalchemy_watch import install

from .conftest import Run
from .shop import Base

TARGET = "shop:Base"

PAGE = Path(__file__).parents[2] / "docs" / "platforms.md"


@pytest.fixture
def app_url(cluster: Cluster, database: str, tables: Any) -> Iterator[str]:
    """The URL of a role that may read and write, and nothing else; the triggers are installed."""
    tables.execute("CREATE ROLE app LOGIN PASSWORD 'pa55w0rd'; GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO app")
    tables.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    engine = create_engine(cluster.url(database, "psycopg"))
    install(engine, Base)
    engine.dispose()
    yield f"postgresql://app:pa55w0rd@127.0.0.1:{cluster.port}/{database}"
    tables.execute("DROP OWNED BY app CASCADE; DROP ROLE app")


@needs_logical_messages
def test_exit_status_is_1_until_what_is_told_was_done(run: Run, tables: Any) -> None:
    done = run("doctor", TARGET)
    assert done.returncode == 1
    (told,) = re.findall(r"^ +\$ (sqlalchemy-watch install .*)$", done.stdout, re.MULTILINE)
    assert run(*shlex.split(told)[1:]).returncode == 0
    done = run("doctor", TARGET)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "nothing is missing"


@needs_logical_messages
def test_groups_of_a_listener_are_looked_at_as_the_listener_connects(run: Run, tables: Any, app_url: str) -> None:
    assert run("doctor", "doctored:pages", DATABASE_URL=app_url).returncode == 0
    done = run("doctor", "doctored:mailer", "--json", DATABASE_URL=app_url)
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    missing = {item["what"]: item["remedies"] for item in found if item["state"] == "missing"}
    assert missing["'app' may not start replication"] == [{"kind": "sql", "text": "ALTER ROLE app REPLICATION;"}]
    (told,) = [r["text"] for remedies in missing.values() for r in remedies if r["kind"] == "shell"]
    assert told == "sqlalchemy-watch slots create mailer --role app  # as an administrator, with --url"
    tables.execute("ALTER ROLE app REPLICATION")
    assert run(*shlex.split(told, comments=True)[1:]).returncode == 0
    done = run("doctor", "doctored:mailer", DATABASE_URL=app_url)
    run("slots", "drop", "mailer")
    tables.execute("DROP PUBLICATION sqlalchemy_watch; DROP SCHEMA sqlalchemy_watch CASCADE")
    assert done.returncode == 0, done.stdout


def test_server_that_can_t_be_reached_is_missing_and_no_password_is_told(run: Run) -> None:
    done = run("doctor", TARGET, DATABASE_URL="postgresql://ada:s3cret@127.0.0.1:1/x")
    assert done.returncode == 1
    assert "server    missing can't connect: " in done.stdout
    assert "host, port, database, user and sslmode" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("args", "changed", "words"),
    [
        (["doctor", "shop:Base"], {"DATABASE_URL": None}, "no database is given"),
        (["doctor", "shop:Unwatched"], {}, "no watched model was imported"),
        (["doctor", "doctored:pages", "--url", "postgresql://x/y"], {}, "has an engine of its own: leave --url out"),
        (["doctor", "doctored:pages", "--group", "mailer"], {}, "says itself which group it is: leave --group out"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_status_2(run: Run, args: list[str], changed: Any, words: str) -> None:
    done = run(*args, **changed)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@needs_logical_messages
def test_page_shows_what_is_printed(run: Run, tables: Any, database: str, app_url: str) -> None:
    printed = run("doctor", TARGET, "--group", "mailer", DATABASE_URL=app_url).stdout
    shown = re.search(
        r"```console\n\$ sqlalchemy-watch doctor shop:Base --group mailer\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    assert shown is not None
    printed = re.sub(
        r"^server .*$", "server    ok      PostgreSQL 18, a primary, UTF8, database 'shop'", printed, flags=re.M
    )
    assert re.sub(r"\d+ of \d+ (repl|wal)", r"0 of 10 \1", printed) == shown[1]
