"""The main job: a watched model's changes, made by any client, arrive as signals."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Recorder
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_watch import Listener, Watched

pytestmark = pytest.mark.server


def test_changes_by_session_and_by_plain_sql_are_heard(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], recorder: Recorder
) -> None:
    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = ("inserted", "updated", "deleted", "truncated")
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    Base.metadata.create_all(engine)
    User.watch.connect(recorder)
    with Listener(engine, Base) as listener:
        with Session(engine) as session:
            session.add(User(id=1, name="Ada"))
            session.commit()
        client.execute("UPDATE users SET name = 'Grace'")
        client.execute("DELETE FROM users")
        client.execute("TRUNCATE users")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,)), ("updated", (1,)), ("deleted", (1,)), ("truncated", ())]
    assert recorder.senders == [User] * 4
