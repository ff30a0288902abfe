"""`status`, `ddl`, `install`, `uninstall`."""

from __future__ import annotations

import json
from typing import Any

import psycopg.sql
import pytest
from conftest import Recorder
from postgres import Cluster
from sqlalchemy import create_engine

import sqlalchemy_watch
from sqlalchemy_watch import Listener
from sqlalchemy_watch.catalog.listening import MANY

from .conftest import Run
from .shop import Base
from .weather import LONG_NAME

TARGET = "shop:Base"


def states(run: Run) -> dict[str, str]:
    lines = run("status", TARGET, "--json").stdout.splitlines()
    return {item["label"]: item["state"] for item in map(json.loads, lines)}


def test_status_fails_until_everything_is_installed(run: Run, tables: Any) -> None:
    assert run("status", TARGET).returncode == 1
    assert set(states(run).values()) == {"missing"}
    installed = run("install", TARGET)
    assert installed.returncode == 0
    assert installed.stdout.splitlines()[0] == "created orders/inserted"
    shown = run("status", TARGET)
    assert shown.returncode == 0
    assert "installed" in shown.stdout
    assert run("install", TARGET).stdout == "nothing to do: all triggers are installed\n"


def test_status_says_how_many_listen(run: Run, tables: Any, cluster: Cluster, database: str) -> None:
    assert "listen" not in run("status", TARGET).stdout
    engine = create_engine(cluster.url(database, "psycopg"))
    listeners = [Listener(engine, Base) for _ in range(MANY)]
    try:
        for listener in listeners[:1]:
            listener.start()
        assert run("status", TARGET).stdout.splitlines()[-1] == "1 session listens here"
        for listener in listeners[1:]:
            listener.start()
        words = run("status", TARGET).stdout.splitlines()[-1]
        assert words.startswith(f"{MANY} sessions listen to this database, and each commit that notifies wakes all")
    finally:
        for listener in listeners:
            listener.stop()
        engine.dispose()


def test_ddl_is_what_psql_takes_and_drop_takes_it_away(
    run: Run, tables: Any, cluster: Cluster, database: str, recorder: Recorder
) -> None:
    made = run("ddl", TARGET, DATABASE_URL=None)
    assert made.returncode == 0
    cluster.psql(database, stdin=made.stdout)
    assert set(states(run).values()) == {"installed"}
    cluster.psql(database, stdin=run("ddl", TARGET, "--drop").stdout)
    assert set(states(run).values()) == {"missing"}


def test_uninstall_leaves_nothing_of_ours(run: Run, tables: Any) -> None:
    run("install", TARGET)
    assert len(run("uninstall", TARGET).stdout.splitlines()) == 4
    assert tables.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch%'").fetchone() == (0,)
    assert run("uninstall", TARGET).stdout == "nothing to do: no triggers are installed\n"


def test_orphans_are_shown_and_removed_on_request(run: Run, tables: Any) -> None:
    run("install", TARGET)
    mark = json.dumps({"application": "", "schema": None, "table": "orders", "label": "gone"})
    tables.execute(
        "CREATE FUNCTION watch_orders_gone() RETURNS trigger LANGUAGE plpgsql AS "
        f"E'\\n-- sqlalchemy_watch 1 {mark}\\nBEGIN RETURN NULL; END'"
    )
    tables.execute("CREATE TRIGGER watch_orders_gone AFTER INSERT ON orders EXECUTE FUNCTION watch_orders_gone()")
    assert states(run)["gone"] == "orphaned"
    assert run("status", TARGET).returncode == 1
    assert run("install", TARGET, "--remove-orphaned").stdout == "dropped orders/gone\n"
    assert "gone" not in states(run)


@pytest.mark.parametrize(
    "target", ["shop:Base", "shop:Base.registry", "shop:Base.metadata", "shop:Order", "shop:Order.__table__"]
)
def test_target_is_whatever_can_be_watched(run: Run, target: str) -> None:
    printed = run("ddl", target, DATABASE_URL=None).stdout
    assert [line for line in printed.splitlines() if line.startswith("-- orders/")] == [
        "-- orders/inserted", "-- orders/updated", "-- orders/fully", "-- orders/deleted",
    ]  # fmt: skip


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg_async", "psycopg2cffi"])
def test_url_may_name_a_driver_that_is_asynchronous_or_not_installed(
    run: Run, tables: Any, environment: dict[str, str], driver: str
) -> None:
    url = environment["DATABASE_URL"].replace("postgresql:", f"postgresql+{driver}:")
    query = "?ssl=disable&prepared_statement_cache_size=0" if driver == "asyncpg" else ""
    assert run("install", TARGET, "--url", url + query).returncode == 0
    assert set(states(run).values()) == {"installed"}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("status", "shop:Unwatched"),
        ("install", "unwatched:Base"),
        ("ddl", "unwatched:Base"),
        ("tail", "shop:Unwatched"),
    ],
)
def test_target_without_watched_models_is_not_said_to_be_well(run: Run, tables: Any, name: str, target: str) -> None:
    done = run(name, target)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"target {target!r}: no watched model was imported: name a module" in done.stderr


def test_target_whose_models_forgot_watched_says_so(run: Run) -> None:
    done = run("ddl", "forgetful:Base")
    assert (done.returncode, done.stdout) == (2, "")
    assert "target 'forgetful:Base': Plain has __watch__ and is not Watched, so that nothing" in done.stderr


def test_left_overs_of_what_is_watched_no_more_are_shown_and_removed(run: Run, tables: Any) -> None:
    tables.execute("CREATE TABLE plain (id int)")
    mark = json.dumps({"application": "", "schema": None, "table": "plain", "label": "gone"})
    tables.execute(
        "CREATE FUNCTION watch_plain_gone() RETURNS trigger LANGUAGE plpgsql AS "
        f"E'\\n-- sqlalchemy_watch 1 {mark}\\nBEGIN RETURN NULL; END'"
    )
    tables.execute("CREATE TRIGGER watch_plain_gone AFTER INSERT ON plain EXECUTE FUNCTION watch_plain_gone()")
    shown = run("status", "unwatched:Base")
    assert shown.returncode == 1
    assert "orphaned" in shown.stdout
    assert run("install", "unwatched:Base", "--remove-orphaned").stdout == "dropped plain/gone\n"
    again = run("install", "unwatched:Base", "--remove-orphaned")
    assert (again.returncode, again.stdout) == (0, "nothing to do: no watched model was imported\n")


def test_names_from_the_database_do_not_write_to_the_terminal(run: Run, tables: Any) -> None:
    run("install", TARGET)
    label = "\x1b]0;owned\x07\u202egone\r\n"
    mark = json.dumps({"application": "", "schema": None, "table": "orders", "label": label})
    body = psycopg.sql.Literal(f"\n-- sqlalchemy_watch 1 {mark}\nBEGIN RETURN NULL; END").as_string(None)
    tables.execute(f"CREATE FUNCTION watch_orders_gone() RETURNS trigger LANGUAGE plpgsql AS {body}")
    tables.execute("CREATE TRIGGER watch_orders_gone AFTER INSERT ON orders EXECUTE FUNCTION watch_orders_gone()")
    shown = run("status", TARGET).stdout
    assert r"\x1b]0;owned\x07\u202egone\r\n" in shown
    assert run("status", TARGET, "--json").stdout.isascii()
    removed = run("install", TARGET, "--remove-orphaned").stdout
    assert removed == "dropped orders/" r"\x1b]0;owned\x07\u202egone\r\n" "\n"
    assert not set("\x1b\x07\u202e\r") & set(shown + removed)


def test_version_is_printed(run: Run) -> None:
    done = run("--version", DATABASE_URL=None)
    assert (done.returncode, done.stdout) == (0, f"sqlalchemy-watch {sqlalchemy_watch.__version__}\n")


def test_status_prints_names_as_they_are_and_breaks_no_line_in_a_pipe(run: Run) -> None:
    row = next(line for line in run("status", "weather:Base").stdout.splitlines() if "inserted" in line)
    assert LONG_NAME in row
    assert "the table does not exist" in row


@pytest.mark.parametrize(
    ("args", "changed", "words"),
    [
        (["status", "shop"], {}, "must be module:name"),
        (["status", ":Base"], {}, "must be module:name"),
        (["status", ".shop:Base"], {}, "is not the dotted name of a module"),
        (["status", "./shop.py:Base"], {}, "is not the dotted name of a module"),
        (["status", "no.such.module:Base"], {}, "can't import 'no.such.module'"),
        (["ddl", "misconfigured:Base"], {}, "KeyError: 'URL' ("),
        (["status", "shop:Nothing"], {}, "'shop' has no 'Nothing'"),
        (["status", "json:dumps"], {}, "can't be watched"),
        (["status", "shop:Base"], {"DATABASE_URL": None}, "no database is given"),
        (["status", "shop:Base"], {"DATABASE_URL": "mysql://x/y"}, "only PostgreSQL"),
        (["status", "shop:Base"], {"DATABASE_URL": "nonsense"}, "this is no URL"),
        (["status", "shop:Base"], {"DATABASE_URL": "postgresql://ada:sec@ret:x@host/x"}, "this is no URL"),
        (["status", "shop:Base"], {"DATABASE_URL": "postgresql+pg8000://host/x?timeout=soon"}, "--url: "),
        (["status", "shop:Base"], {"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "refused"),
        (["tail", "shop:Base"], {"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "refused"),
        (["demo"], {"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "refused"),
        (["slots", "drop", "nobody"], {}, "there is no slot 'nobody'"),
        (["slots", "create", "Not A Name"], {}, "lower-case"),
        (["dead-letters", "drop", "mailer"], {}, "or --all"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    run: Run, args: list[str], changed: dict[str, Any], words: str
) -> None:
    done = run(*args, **changed)
    assert done.returncode == 2
    assert "secret" not in done.stderr.replace("@", "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sqlalchemy-watch: ")
    assert words in last
    assert "Traceback" not in done.stderr
