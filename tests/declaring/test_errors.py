"""A wrong declaration fails where it is written, and the message says what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, Computed, ForeignKey, Integer, MetaData, Table, Text, select
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sqlalchemy_watch import ConfigurationError, Watch, Watched, watch
from sqlalchemy_watch.spec import watches_in


def declare(specs: Any, **attributes: Any) -> Any:
    class Base(DeclarativeBase):
        pass

    class Role(Base):
        __tablename__ = "roles"
        id: Mapped[int] = mapped_column(primary_key=True)

    try:

        class User(Watched, Base):
            __tablename__ = "users"
            __watch__ = specs
            id: Mapped[int] = mapped_column(primary_key=True)
            email: Mapped[str] = mapped_column("e_mail")
            total: Mapped[int]
            role_id: Mapped[int] = mapped_column(ForeignKey("roles.id"))
            role: Mapped[Role] = relationship(Role)
            virtual: Mapped[int] = mapped_column(Computed("total + 1", persisted=False))
            locals().update(attributes)

            @hybrid_property
            def shout(self) -> str:
                return self.email.upper()

    except ConfigurationError:
        assert not watches_in(Base.metadata), "something half-declared remains"
        raise
    return User


W = Watch


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ("inserted", ["User", "must be an iterable", "'inserted'", "write __watch__ = ('inserted',)"]),
        (None, ["User", "must be an iterable"]),
        (("insert",), ["User", "'insert' can't be watched", "'inserted', 'updated', 'deleted', 'truncated'"]),
        ((42,), ["User", "42"]),
        (("updated", "updated"), ["User", "two watches are named 'updated'", "label="]),
        (lambda: (W("updated", extra_columns=("e_mail",)),), ["User", "'e_mail'", "allowed are", "'email'"]),
        (lambda: ("inserted", W("updated", extra_columns=("nope",))), ["User", "'nope'", "allowed are"]),
        (lambda: (W("updated", extra_columns=("role",)),), ["'role'", "not a column attribute", "'role_id'"]),
        (lambda: (W("updated", extra_columns=("shout",)),), ["'shout'", "not a column attribute"]),
        (lambda: (W("updated", label="x", trigger_columns=("nope",)),), ["trigger_columns", "'nope'", "allowed are"]),
        (lambda: (W("updated", extra_columns=("virtual",)),), ["'virtual'", "virtual generated", "persisted=True"]),
        (lambda: (W("updated", label="x", when=lambda o, n: True),), ["when returned True", "not a SQL condition"]),
        (lambda: (W("updated", label="x", when=lambda o, n: n.nope > 1),), ["when", "'nope'", "'total'"]),
        (lambda: (W("updated", label="x", when=lambda o, n: n.total > 1 and o.total > 1),), ["when", "&"]),
        (lambda: (W("inserted", label="x", when=lambda o, n: o.total > 1),), ["uses old", "use new"]),
        (lambda: (W("deleted", label="x", when=lambda o, n: n.total > 1),), ["uses new", "use old"]),
    ],
)
def test_wrong_watch_is_refused_in_the_class_statement(specs: Any, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        declare(specs() if callable(specs) else specs)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: W("update"), ["unknown operation 'update'", "allowed are 'inserted'"]),  # type: ignore[arg-type]
        (lambda: W("updated", trigger_columns=("a",)), ["needs a label", "label='a_name'"]),
        (lambda: W("updated", when=lambda o, n: n.a > 1), ["needs a label"]),
        (lambda: W("updated", label="not a name"), ["'not a name'", "Python name"]),
        (lambda: W("updated", label="_private"), ["underscore"]),
        (lambda: W("updated", label="connect"), ["is a method of Model.watch"]),
        (lambda: W("updated", label="deleted"), ["another operation"]),
        (lambda: W("inserted", label="x", trigger_columns=("a",)), ["trigger_columns are for 'updated' only"]),
        (lambda: W("inserted", old=True), ["no previous values"]),
        (lambda: W("updated", old="yes"), ["old must be True or False"]),  # type: ignore[arg-type]
        (lambda: W("truncated", extra_columns=("a",)), ["TRUNCATE names no rows"]),
        (lambda: W("truncated", level="row"), ["TRUNCATE fires once a statement"]),
        (lambda: W("updated", level="table"), ["level must be"]),  # type: ignore[arg-type]
        (lambda: W("updated", delivery="mail"), ["'mail'", "'notify', 'durable', 'both'"]),  # type: ignore[arg-type]
        (lambda: W("updated", extra_columns="email"), ["write extra_columns=('email',)"]),
        (lambda: W("updated", extra_columns=("a", "a")), ["twice"]),
        (lambda: W("updated", label="x", when=1), ["when must be a function"]),  # type: ignore[arg-type]
    ],
)
def test_wrong_options_are_refused_where_the_watch_is_made(make: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make()
    for word in words:
        assert word in str(raised.value)


def test_a_correct_declaration_passes() -> None:
    assert len(declare(("inserted", W("updated", extra_columns=("email",)))).watch) == 2


def test_an_attribute_called_watch_is_in_the_way() -> None:
    with pytest.raises(ConfigurationError, match="User: the attribute 'watch' hides the signals"):
        declare(("inserted",), watch=mapped_column(Text))


def test_tables_without_a_primary_key_are_refused() -> None:
    table = Table("logs", MetaData(), Column("line", Text))
    with pytest.raises(ConfigurationError, match="table 'logs' has no primary key.*add one"):
        watch(table, "inserted")


def test_a_class_mapped_to_a_select_is_refused(Base: type[DeclarativeBase]) -> None:
    table = Table("users", Base.metadata, Column("id", Integer, primary_key=True))

    with pytest.raises(ConfigurationError, match="only tables can have triggers"):

        class Selected(Watched, Base):
            __table__ = select(table).subquery()
            __watch__ = ("inserted",)
            __mapper_args__ = {"primary_key": [__table__.c.id]}


@pytest.mark.parametrize("target", [None, 42, "users", int, MetaData()])
def test_watch_refuses_what_is_neither_class_nor_table(target: Any) -> None:
    with pytest.raises(ConfigurationError, match="neither a mapped class nor a Table"):
        watch(target, "inserted")


def test_watching_twice_is_refused() -> None:
    table = Table("logs", MetaData(), Column("id", Integer, primary_key=True))
    watch(table, "inserted")
    with pytest.raises(ConfigurationError, match="watched already: declare all its watches in one place"):
        watch(table, "updated")


def test_watches_whose_names_would_be_the_same_are_refused() -> None:
    metadata = MetaData()
    watch(Table("a_b", metadata, Column("id", Integer, primary_key=True)), Watch("updated", label="c"))
    with pytest.raises(ConfigurationError, match=r"both have the trigger function 'watch_a_b_c'.*another label="):
        watch(Table("a", metadata, Column("id", Integer, primary_key=True)), Watch("updated", label="b_c"))


def test_names_of_columns_must_leave_room_for_rows() -> None:
    columns = [Column(f"{'c' * 50}{i}", Integer) for i in range(60)]
    table = Table("wide", MetaData(), Column("id", Integer, primary_key=True), *columns)
    with pytest.raises(ConfigurationError, match="carry fewer columns and load the row instead"):
        watch(table, Watch("inserted", extra_columns=[c.name for c in columns]))


def test_asking_for_an_undeclared_signal_says_what_there_is() -> None:
    User = declare(("inserted",))
    with pytest.raises(AttributeError, match="User does not watch 'updated': it watches 'inserted'; add it"):
        User.watch.updated
