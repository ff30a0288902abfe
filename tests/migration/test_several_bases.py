"""An env.py that copies the tables of several bases into one MetaData, and conditions that can't work."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, exists, func, inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import records_of

from sqlalchemy_watch import Watch, Watched, status, watch
from sqlalchemy_watch.declaring.filing import APPLICATION_KEY

from .project import Project, is_empty, snapshot

LOGGER = "alembic.autogenerate.sqlalchemy_watch"


def declare_bases(*watches: Any, application: str = "") -> tuple[MetaData, MetaData]:
    class Users(DeclarativeBase):
        metadata = MetaData(info={APPLICATION_KEY: application} if application else {})

    class Orders(DeclarativeBase):
        metadata = MetaData(schema="sales")

    class User(Watched, Users):
        __tablename__ = "users"
        __watch__ = watches
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None]

    class Order(Watched, Orders):
        __tablename__ = "orders"
        __watch__ = ("inserted", Watch("updated", label="grown", when=lambda old, new: new.total > old.total))
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[int]

    return Users.metadata, Orders.metadata


def together(*metadatas: MetaData) -> MetaData:
    target = MetaData()
    for metadata in metadatas:
        for table in metadata.tables.values():
            table.to_metadata(target)
    return target


@pytest.mark.parametrize("application", ["", "shop"])
def test_copied_tables_are_compared_with_their_watches(
    project: Project, engine: Engine, client: psycopg.Connection[Any], application: str
) -> None:
    client.execute("CREATE SCHEMA sales")
    project.configure("include_schemas=True")
    own = declare_bases("inserted", "deleted", application=application)
    project.metadata = together(*own)
    project.revision()
    project.upgrade()
    before = snapshot(client)
    for target in (project.metadata, *own):
        assert {item.state for item in status(engine, target)} == {"installed"}
    for target in (together(*own), together(together(*own)), list(own)):
        project.metadata = target
        assert project.differences() == []

    project.metadata = together(*declare_bases(Watch("inserted", extra_columns=("name",)), application=application))
    assert [difference[:3] for difference in project.differences()] == [
        ("remove_watch", "users", "deleted"),
        ("change_watch", "users", "inserted"),
    ]
    project.revision()
    project.upgrade()
    assert is_empty(project.revision())
    project.downgrade()
    assert snapshot(client) == before


def test_a_condition_that_can_not_work_is_said_by_autogenerate(
    project: Project, engine: Engine, client: psycopg.Connection[Any]
) -> None:
    metadata = MetaData()
    vips = Table("vips", metadata, Column("id", Integer, primary_key=True))
    table = Table("users", metadata, Column("id", Integer, primary_key=True), Column("score", Integer))
    watch(
        table,
        Watch("inserted", label="good", when=lambda old, new: new.score > 1),
        Watch("inserted", label="bad", when=lambda old, new: text("r.scroe > 1")),
        Watch("inserted", label="vip", when=lambda old, new: exists().where(vips.c.id == new.id)),
        Watch("inserted", label="due", when=lambda old, new: func.is_due(new.id), level="row"),
    )
    client.execute("CREATE TABLE users (id int PRIMARY KEY)")  # the column is yet to come
    client.execute("CREATE FUNCTION is_due(int) RETURNS bool RETURN true")
    project.metadata = metadata
    with records_of(LOGGER) as records:
        project.revision()
    said = [r.getMessage() for r in iter(lambda: None if records.empty() else records.get(), None)]
    warnings = [words for words in said if "can't work" in words]
    assert len(warnings) == 1
    assert warnings[0].startswith("the when of the watch users/bad can't work")
    assert "column r.scroe does not exist: right it, unless this migration makes what is missing" in warnings[0]
    project.upgrade()
    assert "score" in {column["name"] for column in inspect(engine).get_columns("users")}
    with records_of(LOGGER) as records:
        assert is_empty(project.revision())
    assert records.empty()
