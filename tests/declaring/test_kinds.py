"""Models of every kind of declaration are heard, on a real server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from models import declare_user
from sqlalchemy import Column, Engine, ForeignKey, Integer, MetaData, Table, Text
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.ext.declarative import DeferredReflection
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    declarative_base,
    mapped_column,
    registry,
    relationship,
)
from sqlmodel import Field, SQLModel

from sqlalchemy_watch import Listener, Watch, Watched, install, watch
from sqlalchemy_watch.declaring.filing import watches_in

pytestmark = pytest.mark.sqlalchemy

SPECS = ("inserted", Watch("updated", extra_columns=("name",)))


def declarative() -> Any:
    class Base(DeclarativeBase):
        pass

    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = SPECS
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column("user name")

    return User


def classic() -> Any:
    Base: Any = declarative_base()

    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = SPECS
        id = Column(Integer, primary_key=True)
        name = Column("user name", Text)

    return User


def mixin_after_the_base() -> Any:
    class Base(DeclarativeBase):
        pass

    class User(Base, Watched):
        __tablename__ = "users"
        __watch__ = SPECS
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column("user name")

    return User


def as_dataclass() -> Any:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = SPECS
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column("user name", default=None)

    assert [field.name for field in dataclasses.fields(User)] == ["id", "name"]
    return User


def dataclass_mixin() -> Any:
    class Base(DeclarativeBase):
        pass

    class Named(MappedAsDataclass):
        name: Mapped[str | None] = mapped_column("user name", default=None)

    class User(Watched, Named, Base, kw_only=True):
        __tablename__ = "users"
        __watch__ = SPECS
        id: Mapped[int] = mapped_column(primary_key=True)

    return User


def abstract_base() -> Any:
    class Base(DeclarativeBase):
        pass

    class Entity(Watched, Base):
        __abstract__ = True
        __watch__ = SPECS
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column("user name")

    class User(Entity):
        __tablename__ = "users"

    return User


def watched_base() -> Any:
    class Base(Watched, DeclarativeBase):
        pass

    class Silent(Base):
        __tablename__ = "silent"
        id: Mapped[int] = mapped_column(primary_key=True)

    class User(Base):
        __tablename__ = "users"
        __watch__ = SPECS
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column("user name")

    assert len(Silent.watch) == 0
    return User


def flask_sqlalchemy() -> Any:
    db = SQLAlchemy()
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://"
    db.init_app(app)
    Model: Any = db.Model

    class User(Watched, Model):
        __tablename__ = "users"
        __watch__ = SPECS
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column("user name", db.Text)

    return User


def sqlmodel() -> Any:
    class Base(SQLModel, registry=registry()):
        metadata = MetaData()

    class User(Watched, Base, table=True):
        __tablename__ = "users"
        __watch__ = SPECS
        id: int | None = Field(default=None, primary_key=True)
        name: str | None = Field(default=None, sa_column=Column("user name", Text))

    assert User(name="Ada").model_dump() == {"id": None, "name": "Ada"}
    return User


def sqlmodel_by_watch() -> Any:
    class Base(SQLModel, registry=registry()):
        metadata = MetaData()

    class User(Base, table=True):
        __tablename__ = "users"
        id: int | None = Field(default=None, primary_key=True)
        name: str | None = Field(default=None, sa_column=Column("user name", Text))

    watch(User, *SPECS)
    return User


def imperative() -> Any:
    class User(Watched):
        __watch__ = SPECS

    mapper_registry = registry()
    table = Table(
        "users",
        mapper_registry.metadata,
        Column("id", Integer, primary_key=True),
        Column("user name", Text, key="name"),
    )
    mapper_registry.map_imperatively(User, table)
    return User


def decorated() -> Any:
    @registry().mapped
    class User(Watched):
        __tablename__ = "users"
        __watch__ = SPECS
        id = Column(Integer, primary_key=True)
        name = Column("user name", Text)

    return User


def decorated_as_dataclass() -> Any:
    @registry().mapped_as_dataclass
    class User(Watched):
        __tablename__ = "users"
        __watch__ = SPECS
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column("user name", default=None)

    assert User(id=1) == User(id=1, name=None)
    return User


def watched_by_a_generator() -> Any:
    class Base(DeclarativeBase):
        pass

    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = (spec for spec in SPECS)
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column("user name")

    return User


def column_of_a_mixin() -> Any:
    class Base(DeclarativeBase):
        pass

    class Named:
        name: Mapped[str | None] = mapped_column("user name")

    class User(Watched, Named, Base):
        __tablename__ = "users"
        __watch__ = SPECS
        id: Mapped[int] = mapped_column(primary_key=True)

    return User


def third_party() -> Any:
    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column("user name")

    assert watch(User, *SPECS) is User.watch  # type: ignore[attr-defined]
    return User


def attributes_as_references() -> Any:
    class Base(DeclarativeBase):
        pass

    class User(Watched, Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column("user name")
        __watch__ = ("inserted", Watch("updated", extra_columns=(name,)))

    return User


KINDS = [
    declarative, classic, mixin_after_the_base, as_dataclass, dataclass_mixin, abstract_base, watched_base,
    flask_sqlalchemy, sqlmodel, sqlmodel_by_watch, imperative, decorated, decorated_as_dataclass,
    watched_by_a_generator, column_of_a_mixin, third_party, attributes_as_references,
]  # fmt: skip


def hear_changes(engine: Engine, client: psycopg.Connection[Any], target: Any, recorder: Recorder) -> None:
    with Listener(engine, target) as listener:
        client.execute("INSERT INTO users VALUES (1, 'Ada')")
        client.execute("""UPDATE users SET "user name" = 'Grace'""")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,)), ("updated", (1,))]
    assert dict(recorder.events[1].values) == {"id": 1, "name": "Grace"}


@pytest.mark.parametrize("declare", KINDS)
def test_model_is_heard(
    declare: Callable[[], Any], engine: Engine, client: psycopg.Connection[Any], recorder: Recorder
) -> None:
    User = declare()
    metadata = User.__table__.metadata if hasattr(User, "__table__") else User.__mapper__.local_table.metadata
    metadata.create_all(engine)
    User.watch.connect(recorder)
    hear_changes(engine, client, User, recorder)
    assert recorder.senders == [User, User]
    assert "watch" not in User.__mapper__.columns


def test_automapped_classes_and_reflected_tables_are_heard(
    engine: Engine, client: psycopg.Connection[Any], recorder: Recorder
) -> None:
    client.execute("""CREATE TABLE users (id int PRIMARY KEY, "user name" text)""")
    Base = automap_base()

    class User(Base):  # type: ignore[misc,valid-type]
        __tablename__ = "users"
        name = Column("user name", Text)

    Base.prepare(autoload_with=engine)
    watch(User, *SPECS).connect(recorder)
    install(engine, Base)
    hear_changes(engine, client, User, recorder)


def test_reflected_tables_are_heard(engine: Engine, client: psycopg.Connection[Any], recorder: Recorder) -> None:
    client.execute("""CREATE TABLE users (id int PRIMARY KEY, "user name" text)""")
    users = Table("users", MetaData(), Column("user name", Text, key="name"), autoload_with=engine)
    watch(users, *SPECS).connect(recorder)
    install(engine, users)
    hear_changes(engine, client, users, recorder)
    assert recorder.senders == [users, users]


def test_deferred_reflection_is_heard_and_says_that_it_is_not_prepared(
    engine: Engine, client: psycopg.Connection[Any], recorder: Recorder, Base: type[DeclarativeBase]
) -> None:
    class Reflected(DeferredReflection):
        __abstract__ = True

    class User(Watched, Reflected, Base):
        __tablename__ = "users"
        __watch__ = SPECS
        name = mapped_column("user name", Text)

    with pytest.raises(AttributeError, match="User has no table, and so no signals"):
        User.watch
    client.execute("""CREATE TABLE users (id int PRIMARY KEY, "user name" text)""")
    Reflected.prepare(engine)
    User.watch.connect(recorder)
    install(engine, Base)
    hear_changes(engine, client, User, recorder)


def test_two_classes_of_one_table_both_hear(
    engine: Engine, client: psycopg.Connection[Any], recorder: Recorder, Base: type[DeclarativeBase]
) -> None:
    users = Table("users", Base.metadata, Column("id", Integer, primary_key=True))

    class User(Watched, Base):
        __table__ = users
        __watch__ = ("inserted",)

    class Login(Watched, Base):
        __table__ = users
        __watch__ = ("inserted",)

    Base.metadata.create_all(engine)
    User.watch.connect(recorder)
    Login.watch.connect(recorder)
    watch(users, "inserted").connect(recorder)
    with Listener(engine, Base) as listener:
        client.execute("INSERT INTO users VALUES (1)")
        listener.catch_up()
        assert listener.stats().notifications == 1
    assert recorder.senders == [User, Login, users]


def test_specs_are_in_the_metadata_before_mappers_are_configured() -> None:
    class Base(DeclarativeBase):
        pass

    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)
        company_id: Mapped[int] = mapped_column(ForeignKey("companies.id"))
        company: Mapped[Any] = relationship("NotDefinedYet")

    assert list(Base.metadata.info["sqlalchemy_watch"]) == ["users"]
    assert list(watches_in(Base.metadata)["users"]) == ["inserted"]
    assert User.__table__.info == {}


def test_instrumented_attributes_are_column_references() -> None:
    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        role_id: Mapped[int] = mapped_column("rid")

    signals = watch(User, Watch("updated", extra_columns=(User.role_id,)))
    assert signals.updated.details.columns == ("id", "rid")


def test_models_declared_after_the_listener_was_made_are_heard(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], recorder: Recorder
) -> None:
    listener = Listener(engine, Base)
    User = declare_user(Base)
    Base.metadata.create_all(engine)
    User.watch.connect(recorder)
    with listener:
        client.execute("INSERT INTO users VALUES (1)")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,))]
