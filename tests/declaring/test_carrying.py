"""Which columns an event can carry: those whose stored value is the one that loading gives."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from sqlalchemy import Engine, Text, TypeDecorator, func, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, column_property, deferred, mapped_column

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched, watch
from sqlalchemy_watch.declaring.filing import watches_in

pytestmark = pytest.mark.sqlalchemy


class Secret(TypeDecorator[str]):
    """Stored backwards, and turned round by the server."""

    impl = Text
    cache_ok = True

    def bind_expression(self, bindparam: Any) -> Any:
        return func.reverse(type_coerce(bindparam, Text))

    def column_expression(self, column: Any) -> Any:
        return func.reverse(column, type_=self)


class Wrapped(TypeDecorator[str]):
    """Of a type that changes when it is loaded."""

    impl = Secret
    cache_ok = True


class Plain(TypeDecorator[str]):
    """Asks for the column itself, and changes the value in Python alone."""

    impl = Text
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return column

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value[::-1]

    process_result_value = process_bind_param


CHANGED = [Secret(), Wrapped(), Text().with_variant(Secret(), "postgresql")]


@pytest.mark.parametrize("type_", CHANGED, ids=lambda type_: type(type_).__name__)
@pytest.mark.parametrize("level", ["statement", "row"])
@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (("inserted", {"extra_columns": ("secret",)}), "leave it out of extra_columns and load the row"),
        (("deleted", {"extra_columns": ("id", "secret")}), "leave it out of extra_columns and load the row"),
        (("updated", {"label": "x", "trigger_columns": ("secret",), "old": True}), "leave out old=True"),
    ],
)
def test_a_column_that_loading_changes_is_not_carried(options: Any, remedy: str, type_: Any, level: Any) -> None:
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("secret", type_))
    with pytest.raises(ConfigurationError, match=f"can't carry 'secret': loading it changes the value.*{remedy}"):
        watch(table, Watch(options[0], level=level, **options[1]))
    assert not watches_in(table.metadata)


@pytest.mark.parametrize("operation", ["inserted", "updated", "deleted"])
def test_a_key_that_loading_changes_is_refused(operation: Any) -> None:
    table = sa.Table("t", sa.MetaData(), sa.Column("id", Secret, primary_key=True))
    with pytest.raises(ConfigurationError, match="can't carry 'id'.*watch a table whose key is of another type"):
        watch(table, operation)
    watch(table, "truncated")


def test_a_discriminator_that_loading_changes_is_refused(Base: type[DeclarativeBase]) -> None:
    with pytest.raises(ConfigurationError, match="Pet: can't carry 'kind'"):

        class Pet(Watched, Base):
            __tablename__ = "pets"
            __watch__ = ("inserted",)
            __mapper_args__ = {"polymorphic_on": "kind"}
            id: Mapped[int] = mapped_column(primary_key=True)
            kind: Mapped[str] = mapped_column(Secret)

    assert not watches_in(Base.metadata)


def test_what_is_stored_is_compared_and_what_is_loaded_as_stored_is_carried(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], recorder: Recorder
) -> None:
    class Note(Watched, Base):
        __tablename__ = "notes"
        __watch__ = (
            Watch("inserted", extra_columns=("plain", "secrets", "loud", "later")),
            Watch("updated", label="revealed", trigger_columns=("secret",)),
            Watch("updated", label="told", when=lambda old, new: new.secret == "told"),
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        secret: Mapped[str] = mapped_column(Secret)
        plain: Mapped[str] = mapped_column(Plain)
        secrets: Mapped[list[str]] = mapped_column(ARRAY(Secret))
        loud: Mapped[str] = mapped_column(sa.Computed("upper(plain)", persisted=True))
        later: Mapped[str] = deferred(mapped_column(Text))

    Base.metadata.create_all(engine)
    Note.watch.connect(recorder)
    with Listener(engine, Base) as listener, Session(engine) as session:
        note = Note(id=1, secret="abc", plain="abc", secrets=["abc"], later="x")
        session.add(note)
        session.commit()
        client.execute("UPDATE notes SET plain = 'unchanged'")
        client.execute("UPDATE notes SET secret = 'dlot', plain = 'cba'")
        listener.catch_up()
        assert recorder.heard() == [("inserted", (1,)), ("revealed", (1,)), ("told", (1,))]
        for name, value in recorder.events[0].values.items():
            assert value == getattr(note, name), name


def test_expressions_of_a_mapper_are_no_columns(Base: type[DeclarativeBase]) -> None:
    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        email = mapped_column(Text)
        lower_email = column_property(func.lower(email.column))

    with pytest.raises(ConfigurationError, match="names 'lower_email', which is not a column attribute"):
        watch(User, Watch("inserted", extra_columns=("lower_email",)))
    table = sa.Table("people", Base.metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("email", Text))

    class Person(Base):
        __table__ = table
        __mapper_args__ = {"include_properties": ["id"]}
        email = column_property(func.lower(table.c.email))

    with pytest.raises(ConfigurationError, match="names 'email', which is not a column attribute"):
        watch(Person, Watch("inserted", extra_columns=("email",)))


@pytest.mark.parametrize("options", [{}, {"extra_columns": ("id",)}, {"extra_columns": {"id", "part"}}])
@pytest.mark.parametrize("level", ["statement", "row", None])
def test_old_is_refused_where_nothing_but_the_key_is_compared(options: Any, level: Any) -> None:
    columns = [sa.Column(name, sa.Integer, primary_key=name != "number") for name in ("id", "part", "number")]
    table = sa.Table("t", sa.MetaData(), *columns)
    with pytest.raises(ConfigurationError, match="none but the key.*extra_columns= or trigger_columns="):
        watch(table, Watch("updated", old=True, level=level, **options))
    assert not watches_in(table.metadata)
    watch(table, Watch("deleted", old=True), Watch("updated", label="x", old=True, trigger_columns=("number",)))


@pytest.mark.parametrize("joined", [False, True])
def test_old_of_a_hierarchy_needs_more_than_the_discriminator(Base: type[DeclarativeBase], joined: bool) -> None:
    class Pet(Base):
        __tablename__ = "pets"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "pet"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Dog(Pet):
        if joined:
            __tablename__ = "dogs"
            id: Mapped[int] = mapped_column(sa.ForeignKey("pets.id"), primary_key=True)
        __mapper_args__ = {"polymorphic_identity": "dog"}
        tricks: Mapped[int | None]

    with pytest.raises(ConfigurationError, match="none but the key"):
        watch(Dog, Watch("updated", old=True))
    watch(Dog, Watch("updated", old=True, extra_columns=("tricks",)))
    watch(Pet, Watch("updated", label="kinds", old=True, extra_columns=("kind",)))
