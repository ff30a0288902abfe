"""An application and triggers that are one deploy apart understand each other all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.types import Integer, Text
from support import resync_reasons

from sqlalchemy_watch import Listener, Watch, Watched, install
from sqlalchemy_watch.listener.dispatch.receivers import UNDECIDED


def declare(watches: Sequence[Any], columns: Sequence[str]) -> Any:
    """One version of the application's model."""

    class Base(DeclarativeBase):
        pass

    members: dict[str, Any] = {
        "__tablename__": "users",
        "__watch__": watches,
        "id": mapped_column(Integer, primary_key=True),
    }
    members |= {name: mapped_column(Text) for name in columns}
    return type("User", (Watched, Base), members)


OLD = (Watch("inserted", extra_columns=("name",)), Watch("updated", extra_columns=("name",), old=True), "deleted")
NEW = (
    Watch("inserted", extra_columns=("name", "email")),
    Watch("updated", extra_columns=("email",), old=True),
    "truncated",
)


@pytest.fixture
def old_and_new(engine: Engine, client: psycopg.Connection[Any]) -> tuple[Any, Any]:
    """The model before and after; the column is there already, and the triggers are the old ones."""
    old, new = declare(OLD, ["name"]), declare(NEW, ["name", "email"])
    old.metadata.create_all(engine)
    client.execute("ALTER TABLE users ADD email text")
    return old, new


def write(client: psycopg.Connection[Any]) -> None:
    client.execute("INSERT INTO users VALUES (1, 'Ada', 'a@x')")
    client.execute("UPDATE users SET name = 'Grace', email = 'g@x'")
    client.execute("DELETE FROM users")
    client.execute("TRUNCATE users")


def test_new_application_hears_old_triggers_and_marks_their_events_partial(
    engine: Engine, client: psycopg.Connection[Any], old_and_new: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, new = old_and_new
    recorder = Recorder()
    new.watch.connect(recorder)
    with Listener(engine, new) as listener:
        write(client)
        listener.catch_up()
        stats = listener.stats()
    assert recorder.heard() == [("inserted", (1,)), ("updated", (1,))]
    inserted, updated = recorder.events
    assert (dict(inserted.values), inserted.partial) == ({"id": 1, "name": "Ada"}, True)
    assert (dict(updated.values), updated.partial) == ({"id": 1}, True)
    assert stats.garbage == 0
    assert "the trigger of users/inserted is outdated" in caplog.text
    assert "the trigger of users/truncated is missing" in caplog.text


def test_old_application_hears_new_triggers_and_marks_what_they_lack_partial(
    engine: Engine, client: psycopg.Connection[Any], old_and_new: Any, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = old_and_new
    recorder = Recorder()
    old.watch.connect(recorder)
    with Listener(engine, old) as listener:
        install(engine, new)  # while it runs
        write(client)
        listener.catch_up()
        stats = listener.stats()
    inserted, updated = (event for event in recorder.events if event.label != "deleted")
    assert (dict(inserted.values), inserted.partial) == ({"id": 1, "name": "Ada"}, False)
    assert (dict(updated.values), updated.partial) == ({"id": 1}, True)
    assert stats.garbage == 0


def test_filter_by_a_column_that_old_triggers_do_not_carry_asks_for_a_resync(
    engine: Engine, client: psycopg.Connection[Any], old_and_new: Any
) -> None:
    _, new = old_and_new
    recorder = Recorder()
    new.watch.updated.filter_by(email="g@x").connect(recorder)
    listener = Listener(engine, new)
    reasons = resync_reasons(listener)
    with listener:
        write(client)
        listener.catch_up()
    assert recorder.events == []
    assert reasons == [UNDECIDED]


def test_new_application_hears_everything_once_the_triggers_follow(
    engine: Engine, client: psycopg.Connection[Any], old_and_new: Any
) -> None:
    _, new = old_and_new
    recorder = Recorder()
    new.watch.connect(recorder)
    with Listener(engine, new) as listener:
        install(engine, new)  # while it runs
        write(client)
        listener.catch_up()
    assert [event.label for event in recorder.events] == ["inserted", "updated", "truncated"]
    assert [event.partial for event in recorder.events] == [False, False, False]
    assert recorder.events[1].old["email"] == "a@x"
