"""A wrong declaration fails where it is written, and the message says what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Column, Computed, Engine, ForeignKey, Integer, MetaData, Table, Text, bindparam, select, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    column_property,
    composite,
    mapped_column,
    registry,
    relationship,
    synonym,
)

from sqlalchemy_watch import ConfigurationError, Watch, Watched, install, status, watch
from sqlalchemy_watch.declaring.filing import watches_in
from sqlalchemy_watch.declaring.naming import object_name

pytestmark = pytest.mark.sqlalchemy


@dataclass
class Place:
    lat: int
    lon: int


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
            alias: Mapped[str] = synonym("email")
            place: Mapped[Place] = composite(mapped_column("lat"), mapped_column("lon"))
            doubled: Mapped[int] = column_property(role_id.column * 2)  # type: ignore[attr-defined]
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
        (lambda: (W("updated", extra_columns=("alias",)),), ["'alias'", "not a column attribute", "'email'"]),
        (lambda: (W("updated", extra_columns=("place",)),), ["'place'", "not a column attribute"]),
        (lambda: (W("updated", extra_columns=("doubled",)),), ["'doubled'", "not a column attribute"]),
        (lambda: (W("updated", extra_columns=(42,)),), ["User", "'42'", "not a column attribute"]),
        (lambda: (W("updated", extra_columns=(None,)),), ["User", "'None'", "not a column attribute"]),
        (lambda: (W("updated", label="x", trigger_columns=("nope",)),), ["trigger_columns", "'nope'", "allowed are"]),
        (lambda: (W("updated", extra_columns=("virtual",)),), ["'virtual'", "virtual generated", "persisted=True"]),
        (
            lambda: (W("updated", label="x", trigger_columns=("virtual",)),),
            ["can't compare 'virtual'", "virtual generated", "persisted=True"],
        ),
        (
            lambda: (W("inserted", label="x", when=lambda o, n: n.virtual > 1),),
            ["User", "when uses 'virtual'", "virtual generated", "persisted=True"],
        ),
        (
            lambda: (W("deleted", label="x", when=lambda o, n: o.virtual > 1),),
            ["User", "when uses 'virtual'", "virtual generated", "persisted=True"],
        ),
        (lambda: (W("updated", label="x", when=lambda o, n: True),), ["when returned True", "not a SQL condition"]),
        (lambda: (W("updated", label="x", when=lambda o, n: n.nope > 1),), ["when", "'nope'", "'total'"]),
        (lambda: (W("updated", label="x", when=lambda o, n: n.total > 1 and o.total > 1),), ["when", "&"]),
        (lambda: (W("updated", label="x", when=lambda o, n: n.total),), ["returned r.total", "compare it with"]),
        (lambda: (W("updated", label="x", when=lambda o, n: n.total + 1),), ["returned r.total + 1", "no condition"]),
        (lambda: (W("updated", label="x", when=lambda o, n: select(n.total)),), ["no condition", "exists()"]),
        (
            lambda: (W("updated", label="x", when=lambda o, n: n.total > bindparam("x")),),
            ["without a value", "write it"],
        ),
        (lambda: (W("updated", label="x", when=lambda o, n: None),), ["when returned None", "not a SQL condition"]),
        (lambda: (W("updated", label="x", when=lambda o, n: "total > 1"),), ["not a SQL condition", "text()"]),
        (lambda: (W("updated", label="x", when=lambda o, n: 1 / 0),), ["ZeroDivisionError", "such as lambda old, new"]),
        (lambda: (W("updated", label="x", when=lambda n: n.total > 1),), ["TypeError", "such as lambda old, new"]),
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
        (lambda: W("updated", label="class"), ["'class'", "no keyword"]),
        (lambda: W("updated", label=""), ["label ''", "Python name"]),
        (lambda: W("updated", label=5), ["label 5", "Python name"]),  # type: ignore[arg-type]
        (lambda: W(None), ["unknown operation None"]),  # type: ignore[arg-type]
        (lambda: W("updated", extra_columns=None), ["extra_columns must be a sequence"]),  # type: ignore[arg-type]
        (lambda: W("truncated", old=True), ["no previous values"]),
        (lambda: W("deleted", label="x", trigger_columns=("a",)), ["trigger_columns are for 'updated' only"]),
        (lambda: W("truncated", label="x", when=lambda o, n: n.a > 1), ["TRUNCATE names no rows"]),
        (lambda: W("updated", label="connect"), ["is an attribute of Model.watch"]),
        (lambda: W("updated", label="deleted"), ["another operation"]),
        (lambda: W("inserted", label="x", trigger_columns=("a",)), ["trigger_columns are for 'updated' only"]),
        (lambda: W("inserted", old=True), ["no previous values"]),
        (lambda: W("updated", old="yes"), ["old must be True or False"]),  # type: ignore[arg-type]
        (lambda: W("truncated", extra_columns=("a",)), ["TRUNCATE names no rows"]),
        (lambda: W("truncated", level="row"), ["TRUNCATE fires once a statement"]),
        (lambda: W("updated", fires="replica"), ["fires must be 'always' or None", "Watch('updated', fires='rep"]),  # type: ignore[arg-type]
        (lambda: W("inserted", fires=True), ["fires must be 'always' or None", "fires=True"]),  # type: ignore[arg-type]
        (lambda: W("deleted", fires=["always"]), ["fires must be 'always' or None"]),  # type: ignore[arg-type]
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


def test_the_reason_comes_before_a_long_watch() -> None:
    many = tuple(f"column_{i}" for i in range(50))
    for make, reason in (
        (lambda: Watch("deleted", label="x", trigger_columns=many), "trigger_columns are for 'updated' only"),
        (lambda: declare((Watch("inserted", extra_columns=many),)), "User: extra_columns names 'column_0', which is"),
        (lambda: declare(Watch("inserted", extra_columns=many)), "User: __watch__ must be an iterable of operation"),
        (lambda: declare((many,)), "User: allowed are 'inserted'"),
        (lambda: Watch("inserted", extra_columns=(*many, many[0])), "Watch('inserted'): extra_columns names a column"),
    ):
        with pytest.raises(ConfigurationError) as raised:
            make()
        assert str(raised.value).startswith(reason)


def test_a_correct_declaration_passes() -> None:
    assert len(declare(("inserted", W("updated", extra_columns=("email",)))).watch) == 2


def test_an_attribute_called_watch_is_in_the_way() -> None:
    with pytest.raises(ConfigurationError, match="User: the attribute 'watch' hides the signals"):
        declare(("inserted",), watch=mapped_column(Text))


@pytest.mark.parametrize("how", ["annotation", "column of the table", "imperative"])
def test_a_column_called_watch_is_in_the_way_however_it_is_declared(how: str) -> None:
    mapper_registry = registry()
    metadata = mapper_registry.metadata

    def map_it() -> None:
        if how == "annotation":

            class Base(DeclarativeBase):
                registry = mapper_registry

            class User(Watched, Base):
                __tablename__ = "users"
                __watch__ = ("inserted",)
                id: Mapped[int] = mapped_column(primary_key=True)
                watch: Mapped[str]  # type: ignore[assignment]

            return
        users = Table("users", metadata, Column("id", Integer, primary_key=True), Column("watch", Text))
        if how == "imperative":
            User2 = type("User", (Watched,), {"__watch__": ("inserted",)})
            mapper_registry.map_imperatively(User2, users)
        else:
            Base2 = mapper_registry.generate_base()
            type("User", (Watched, Base2), {"__table__": users, "__watch__": ("inserted",)})

    with pytest.raises(ConfigurationError, match="User: the attribute 'watch' hides the signals: rename it"):
        map_it()
    assert not watches_in(metadata)


def test_attributes_of_another_class_are_refused(Base: type[DeclarativeBase]) -> None:
    class Role(Base):
        __tablename__ = "roles"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    with pytest.raises(ConfigurationError, match=r"names 'Role\.name', which is not a column attribute of 'users'"):
        watch(User, Watch("updated", extra_columns=(Role.name,)))
    with pytest.raises(ConfigurationError, match="names 'roles.name', which is not a column attribute of 'users'"):
        watch(User, Watch("updated", extra_columns=(Role.__table__.c.name,)))
    assert not watches_in(Base.metadata)


def test_a_column_named_twice_in_two_ways_is_refused(Base: type[DeclarativeBase]) -> None:
    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    with pytest.raises(ConfigurationError, match="extra_columns names 'name' twice: remove one"):
        watch(User, Watch("updated", extra_columns=(User.name, "name")))


def test_conditions_whose_type_only_the_server_knows_pass() -> None:
    from sqlalchemy import func

    User = declare(
        (
            W("updated", label="a", when=lambda o, n: text("true")),
            W("updated", label="b", when=lambda o, n: func.is_due(n.total)),
            W("updated", label="c", when=lambda o, n: select(n.total).where(n.total > 1).exists()),
        )
    )
    assert [signal.name for signal in User.watch] == ["User.a", "User.b", "User.c"]


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
@pytest.mark.parametrize("level", ["statement", "row"])
def test_views_are_refused_when_installing(engine: Engine, client: Any, kind: str, level: Any) -> None:
    client.execute("CREATE TABLE users (id int PRIMARY KEY)")
    client.execute(f"CREATE {kind} active_users AS SELECT * FROM users")
    view = Table("active_users", MetaData(), Column("id", Integer, primary_key=True))
    watch(view, Watch("inserted", level=level))
    with pytest.raises(ConfigurationError, match="active_users/inserted can't work: it is a .*view.*watch the tables"):
        install(engine, view)
    (item,) = status(engine, view)
    assert item.state == "missing"
    assert [problem.split(",")[0] for problem in item.problems] == [f"it is a {kind.lower()}"]


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


def test_a_class_mapped_to_a_join_is_refused(Base: type[DeclarativeBase]) -> None:
    users = Table("users", Base.metadata, Column("id", Integer, primary_key=True))
    pages = Table("pages", Base.metadata, Column("id", Integer, ForeignKey("users.id"), primary_key=True))

    with pytest.raises(ConfigurationError, match="Joined is mapped to Join, and only tables can have triggers"):

        class Joined(Watched, Base):
            __table__ = users.join(pages)
            __watch__ = ("inserted",)
            id = column_property(users.c.id, pages.c.id)

    assert not watches_in(Base.metadata)


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
    """Only somebody who knows a hash can make two names the same."""
    metadata = MetaData()
    long = watch(Table("a" * 60, metadata, Column("id", Integer, primary_key=True)), "updated")
    name = long.updated.details.function_name
    table, digest = name.removeprefix("watch_").split("_")
    with pytest.raises(ConfigurationError, match=f"both have the trigger function '{name}'.*another label="):
        watch(Table(table, metadata, Column("id", Integer, primary_key=True)), Watch("updated", label=digest))


NAMES = ["a", "a_", "_a", "a_b", "a__b", "a_b_", "a__b_c", "b", "b_c", "_b_c", "_", "__", "a_b_c"]
LABELS = ["a", "b", "c", "b_c", "b__c", "c_", "b_c_", "a_b_c"]


def test_no_two_watches_have_one_name() -> None:
    names = [object_name(table, label) for table in NAMES for label in LABELS]
    assert len(set(names)) == len(names)
    assert object_name("order", "inserted") == "watch_order_inserted"
    assert object_name("order", "items_inserted") == "watch_order__items_inserted"


def test_names_of_columns_must_leave_room_for_rows() -> None:
    columns = [Column(f"{'c' * 50}{i}", Integer) for i in range(60)]
    table = Table("wide", MetaData(), Column("id", Integer, primary_key=True), *columns)
    with pytest.raises(ConfigurationError, match="carry fewer columns and load the row instead"):
        watch(table, Watch("inserted", extra_columns=[c.name for c in columns]))


def test_asking_for_an_undeclared_signal_says_what_there_is() -> None:
    User = declare(("inserted",))
    with pytest.raises(AttributeError, match="User does not watch 'updated': it watches 'inserted'; add it"):
        User.watch.updated
