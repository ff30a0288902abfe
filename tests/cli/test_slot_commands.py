"""`slots` and `dead-letters`."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import wait_until

from sqlalchemy_watch import Listener, Watched
from sqlalchemy_watch.listener.dispatch.dead_letters import LETTERS

from .conftest import Run

pytestmark = needs_logical_messages


def test_slots_are_created_listed_and_dropped(run: Run, client: Any, database: str) -> None:
    name = f"group_{database}"
    assert run("slots", "create", name).stdout == f"created the slot {name}\n"
    assert run("slots", "create", name).stdout == f"there is already the slot {name}\n"
    listed = [json.loads(line) for line in run("slots", "list", "--json").stdout.splitlines()]
    (slot,) = [slot for slot in listed if slot["name"] == name]
    assert (slot["database"], slot["active"], slot["wal_status"]) == (database, False, "reserved")
    assert name in run("slots", "list", COLUMNS="200").stdout
    assert run("slots", "drop", name).stdout == f"dropped the slot {name}\n"
    assert name not in run("slots", "list").stdout


def test_dead_letters_are_listed_retried_and_dropped(
    run: Run, client: Any, engine: Engine, database: str, Base: type[DeclarativeBase]
) -> None:
    class Invoice(Watched, Base):
        __tablename__ = "invoices"
        __watch__ = ("inserted",)
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    group = f"group_{database}"
    broken = True
    sent = []

    @Invoice.watch.inserted.connect
    def send_invoice(sender: Any, event: Any) -> None:
        if broken:
            raise ConnectionError("the mail server is down")
        sent.append(event.identity)

    assert run("dead-letters", "list").stdout == "there are no dead letters\n"
    with Listener(engine, Base, durable=group, max_attempts=1) as listener:
        client.execute("INSERT INTO invoices VALUES (1), (2), (3)")
        listener.catch_up()
    letters = [json.loads(line) for line in run("dead-letters", "list", group, "--json").stdout.splitlines()]
    assert [letter["error"] for letter in letters] == ["ConnectionError: the mail server is down"] * 3
    first, second, third = (str(letter["id"]) for letter in letters)
    assert run("dead-letters", "drop", group, first).stdout == "dropped 1\n"
    assert run("dead-letters", "retry", group, second).stdout == "1 will be tried again\n"
    assert run("dead-letters", "retry", group, "--all").stdout == "2 will be tried again\n"
    broken = False
    with Listener(engine, Base, durable=group, max_attempts=1):
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert sent == [(2,), (3,)]
    assert third


def test_slot_of_another_database_is_dropped_there(run: Run, cluster: Cluster, client: Any, database: str) -> None:
    name = f"group_{database}"
    run("slots", "create", name)
    other = run("slots", "drop", name, "--url", cluster.url("postgres"))
    assert other.returncode == 2
    assert f"is of database '{database}': drop it there, with that database in --url" in other.stderr
    assert run("slots", "drop", name).returncode == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("pg_create_physical_replication_slot('{}')", "is a physical one, of something else"),
        ("pg_create_logical_replication_slot('{}', 'test_decoding')", "not pgoutput, so it is something else's"),
    ],
)
def test_slot_of_something_else_is_not_dropped(run: Run, client: Any, database: str, make: str, words: str) -> None:
    name = f"group_{database}"
    if "test_decoding" in make and not _has_test_decoding(client):
        pytest.skip("this server comes without test_decoding")
    client.execute(f"SELECT {make.format(name)}")
    done = run("slots", "drop", name)
    client.execute("SELECT pg_drop_replication_slot(%s)", [name])
    assert done.returncode == 2
    assert words in done.stderr


def _has_test_decoding(client: Any) -> bool:
    try:
        client.execute("SELECT pg_create_logical_replication_slot('probe', 'test_decoding')")
    except psycopg.Error:
        return False
    client.execute("SELECT pg_drop_replication_slot('probe')")
    return True


@pytest.mark.parametrize("name", ["retry", "drop"])
def test_letters_of_a_database_that_never_had_any_are_none(run: Run, name: str) -> None:
    done = run("dead-letters", name, "mailer", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("there are no dead letters: ")


EDITS = {
    "no object": "payload = '[1]'",
    "a number": "payload = '7'",
    "no rows": "payload = '{}'",
    "no JSON": "payload = E'\\x1b[2J'",
    "nothing": "payload = ''",
    "deep": "payload = repeat('[', 100000)",
    "a long number": "payload = repeat('7', 100000)",
    "halves of a pair": """payload = '{"rows": [["\\ud800"]]}'""",
    "for ever": "failed_at = 'infinity', retry_at = '-infinity'",
    "before Christ": "failed_at = '0044-03-15 BC', retry_at = '290000-01-01'",
    "escapes": "error = E'\\x1b]0;owned\\x07', receiver = E'\\u202Egone', channel = E'a\\nb\\x7f\\u009b'",
}


def test_letters_that_were_edited_by_hand_hide_no_others(run: Run, client: Any, engine: Engine, database: str) -> None:
    LETTERS.ensure(client)
    for number, name in enumerate(["good", *EDITS]):
        client.execute(
            "INSERT INTO sqlalchemy_watch.dead_letters (consumer_group, channel, payload, lsn, position, receiver, "
            "error, attempts) VALUES (%s, 'watch_x', '{\"rows\": [[7]]}', %s, 0, 'shop.send', 'down', 1)",
            [name, number],
        )
    for name, change in EDITS.items():
        client.execute(
            f"UPDATE sqlalchemy_watch.dead_letters SET {change} WHERE consumer_group = %(name)s".encode(),
            {"name": name},
        )
    shown = run("dead-letters", "list")
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = [line for line in shown.stdout.splitlines() if "down" in line or "owned" in line]
    assert len(rows) == len(EDITS) + 1
    assert sum("unreadable" in row for row in rows) == 7
    assert not set("\x1b\x07\u202e\x7f\x9b") & set(shown.stdout)
    assert "\\x1b]0;owned\\x07" in shown.stdout
    listed = run("dead-letters", "list", "--json")
    assert len(listed.stdout.splitlines()) == len([json.loads(line) for line in listed.stdout.splitlines()])
    assert listed.stdout.isascii()
    assert not set("\x1b\x07\x7f") & set(listed.stdout)
    assert run("dead-letters", "drop", "no object", "--all").stdout == "dropped 1\n"
