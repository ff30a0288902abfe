"""`slots` and `dead-letters`."""

from __future__ import annotations

import json
from typing import Any

from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import wait_until

from sqlalchemy_watch import Listener, Watched

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
