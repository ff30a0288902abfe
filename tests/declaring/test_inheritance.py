"""Mapped hierarchies: which signals fire for a row, with which sender."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster
from sqlalchemy import Engine, ForeignKey, Integer, case, create_engine
from sqlalchemy.ext.declarative import AbstractConcreteBase, ConcreteBase
from sqlalchemy.orm import DeclarativeBase, Mapped, configure_mappers, mapped_column
from support import resync_reasons

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched, install, watch
from sqlalchemy_watch.declaring.filing import watches_in

pytestmark = pytest.mark.server

ALL = ("inserted", "updated", "deleted")


class Kind(enum.Enum):
    employee = 1
    manager = 2


class Heard:
    """Calls of all signals of some models: (signal, sender, identity)."""

    def __init__(self, engine: Engine, client: psycopg.Connection[Any], target: Any, *models: Any) -> None:
        self._engine, self._client, self._target = engine, client, target
        self.calls: list[tuple[str, str, Any]] = []
        self.values: list[dict[str, Any]] = []
        for model in models:
            for signal in model.watch:
                self._connect(signal)

    def _connect(self, signal: Any) -> None:
        def hear(sender: Any, event: Any) -> None:
            self.calls.append((signal.name, sender.__name__, event.identity))
            self.values.append(dict(event.values))
            assert event.model is sender

        signal.connect(hear)

    def after(self, *statements: str) -> list[Any]:
        """Run the statements; return all calls up to now."""
        with Listener(self._engine, self._target) as listener:
            for statement in statements:
                self._client.execute(statement.encode())
            listener.catch_up()
        return self.calls


Hear = Callable[..., Heard]


@pytest.fixture
def hear(engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase]) -> Hear:
    """Makes the tables, and connects to all signals of the models; the target of the listener is the base."""

    def hear(*models: Any, target: Any = Base) -> Heard:
        Base.metadata.create_all(engine)
        return Heard(engine, client, target, *models)

    return hear


def test_single_table_rows_are_heard_by_their_class_and_its_ancestors(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], hear: Hear
) -> None:
    class Employee(Watched, Base):
        __tablename__ = "employees"
        __watch__ = ("inserted",)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Manager(Employee):
        __mapper_args__ = {"polymorphic_identity": "manager"}

    class Director(Manager):
        __watch__ = ("inserted", "deleted")
        __mapper_args__ = {"polymorphic_identity": "director"}

    Base.metadata.create_all(engine)
    count = client.execute("SELECT count(*) FROM pg_trigger WHERE tgname = 'watch_employees_inserted'").fetchone()
    assert count == (1,)
    heard = hear(Employee, Manager, Director)
    calls = heard.after(
        "INSERT INTO employees VALUES (1, 'employee')",
        "INSERT INTO employees VALUES (2, 'manager')",
        "INSERT INTO employees VALUES (3, 'director')",
        "INSERT INTO employees VALUES (4, 'of a newer deployment')",
        "DELETE FROM employees WHERE id > 1",
    )  # fmt: skip
    assert calls == [
        ("Employee.inserted", "Employee", (1,)),
        ("Manager.inserted", "Manager", (2,)),
        ("Employee.inserted", "Manager", (2,)),
        ("Director.inserted", "Director", (3,)),
        ("Manager.inserted", "Director", (3,)),
        ("Employee.inserted", "Director", (3,)),
        ("Employee.inserted", "Employee", (4,)),
        ("Director.deleted", "Director", (3,)),
    ]
    assert heard.values[1] == {"id": 2, "kind": "manager"}


def unwatched_employee(Base: type[DeclarativeBase]) -> Any:
    class Employee(Base):
        __tablename__ = "employees"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    return Employee


def joined(Base: type[DeclarativeBase]) -> Any:
    class Person(Watched, Base):
        __tablename__ = "people"
        __watch__ = ALL
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        name: Mapped[str | None]

    class Engineer(Person):
        __tablename__ = "engineers"
        __mapper_args__ = {"polymorphic_identity": "engineer"}
        engineer_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), primary_key=True)
        skill: Mapped[str | None]

    class Chief(Engineer):
        __tablename__ = "chiefs"
        __mapper_args__ = {"polymorphic_identity": "chief"}
        chief_id: Mapped[int] = mapped_column(ForeignKey("engineers.engineer_id", ondelete="CASCADE"), primary_key=True)
        budget: Mapped[int | None]

    return Person, Engineer, Chief


CHIEF = (
    "INSERT INTO people VALUES (1, 'chief', 'Ada')",
    "INSERT INTO engineers VALUES (1, 'x')",
    "INSERT INTO chiefs VALUES (1, 10)",
)


def test_joined_rows_are_inserted_and_deleted_once_and_updated_from_any_table(
    Base: type[DeclarativeBase], hear: Hear
) -> None:
    Person, Engineer, Chief = joined(Base)
    heard = hear(Person, Engineer, Chief)
    calls = heard.after(
        *CHIEF,
        "UPDATE chiefs SET budget = 11", "UPDATE engineers SET skill = 'y'", "UPDATE people SET name = 'Grace'",
        "DELETE FROM people",
    )  # fmt: skip

    def all_three(operation: str) -> list[Any]:
        return [(f"{name}.{operation}", "Chief", (1,)) for name in ("Chief", "Engineer", "Person")]

    assert calls == all_three("inserted") + 3 * all_three("updated") + all_three("deleted")
    assert all(values["id"] == 1 and values["kind"] == "chief" for values in heard.values)


def test_a_joined_subclass_alone_is_watched_through_its_root(Base: type[DeclarativeBase], hear: Hear) -> None:
    class Animal(Base):
        __tablename__ = "animals"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Dog(Watched, Animal):
        __tablename__ = "dogs"
        __watch__ = ("inserted", Watch("updated", extra_columns=("name",)))
        __mapper_args__ = {"polymorphic_identity": "dog"}
        id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
        name: Mapped[str | None]

    heard = hear(Dog, target=Dog)
    calls = heard.after(
        "INSERT INTO animals VALUES (1, 'animal'), (2, 'dog')", "INSERT INTO dogs VALUES (2)",
        "UPDATE dogs SET name = 'Rex'",
    )  # fmt: skip
    assert calls == [("Dog.inserted", "Dog", (2,)), ("Dog.updated", "Dog", (2,))]
    assert heard.values[1] == {"id": 2, "kind": "dog", "name": "Rex"}


def test_joined_updates_are_filtered_by_the_roots_key(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase]
) -> None:
    _, Engineer, _ = joined(Base)
    Base.metadata.create_all(engine)
    got = []
    Engineer.watch.updated.filter_by(id=1).connect(lambda sender, event: got.append(sender.__name__))
    with Listener(engine, Base) as listener:
        for statement in (*CHIEF, "UPDATE engineers SET skill = 'y'"):
            client.execute(statement)
        listener.catch_up()
    assert got == ["Chief"]


@pytest.mark.parametrize("operation", ["inserted", "deleted"])
@pytest.mark.parametrize(
    "options",
    [
        {"extra_columns": ("name", "salary")},
        {"extra_columns": {"salary"}},
        {"when": None},
    ],
)
def test_an_own_column_of_a_joined_class_is_not_heard_from_the_root(
    Base: type[DeclarativeBase], operation: Any, options: Any
) -> None:
    if "when" in options:
        row = operator.itemgetter(operation == "inserted")
        options = {"when": lambda *old_and_new: row(old_and_new).salary > 10}
    Person, _, _ = joined(Base)
    reason = (
        f"'salary' is a column of 'clerks', and {operation} rows of a joined hierarchy are heard from its root table "
        f"alone: leave it out and load the row"
    )
    with pytest.raises(ConfigurationError, match=reason):

        class Clerk(Person):  # type: ignore[misc,valid-type]
            __tablename__ = "clerks"
            __mapper_args__ = {"polymorphic_identity": "clerk"}
            __watch__ = (Watch(operation, label="hired", **options),)
            id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
            salary: Mapped[int]


def test_concrete_classes_are_heard_apart(Base: type[DeclarativeBase], hear: Hear) -> None:
    class Shape(Watched, Base):
        __tablename__ = "shapes"
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    class Circle(Shape):
        __tablename__ = "circles"
        __mapper_args__ = {"concrete": True}
        id: Mapped[int] = mapped_column(primary_key=True)

    heard = hear(Shape, Circle)
    calls = heard.after("INSERT INTO shapes VALUES (1)", "INSERT INTO circles VALUES (2)")
    assert calls == [("Shape.inserted", "Shape", (1,)), ("Circle.inserted", "Circle", (2,))]


def test_classes_of_a_concrete_union_are_heard_apart(Base: type[DeclarativeBase], hear: Hear) -> None:
    class Shape(Watched, ConcreteBase, Base):
        __tablename__ = "shapes"
        __watch__ = ("inserted",)
        __mapper_args__ = {"polymorphic_identity": "shape", "concrete": True}
        id: Mapped[int] = mapped_column(primary_key=True)

    class Circle(Shape):
        __tablename__ = "circles"
        __mapper_args__ = {"polymorphic_identity": "circle", "concrete": True}
        id: Mapped[int] = mapped_column(primary_key=True)

    configure_mappers()
    heard = hear(Shape, Circle)
    calls = heard.after("INSERT INTO shapes VALUES (1)", "INSERT INTO circles VALUES (2)")
    assert calls == [("Shape.inserted", "Shape", (1,)), ("Circle.inserted", "Circle", (2,))]


def test_a_concrete_class_can_be_watched_after_its_union_was_made(Base: type[DeclarativeBase], hear: Hear) -> None:
    class Shape(ConcreteBase, Base):
        __tablename__ = "shapes"
        __mapper_args__ = {"polymorphic_identity": "shape", "concrete": True}
        id: Mapped[int] = mapped_column(primary_key=True)

    configure_mappers()
    watch(Shape, "inserted")
    assert hear(Shape).after("INSERT INTO shapes VALUES (1)") == [("Shape.inserted", "Shape", (1,))]


def test_an_abstract_concrete_base_hands_its_watches_down(Base: type[DeclarativeBase], hear: Hear) -> None:
    class Shape(Watched, AbstractConcreteBase, Base):
        strict_attrs = True
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    class Circle(Shape):
        __tablename__ = "circles"
        __mapper_args__ = {"polymorphic_identity": "circle", "concrete": True}

    configure_mappers()
    with pytest.raises(AttributeError, match="Shape has no table, and so no signals: use the mapped subclass"):
        Shape.watch
    calls = hear(Circle).after("INSERT INTO circles VALUES (2)")
    assert calls == [("Circle.inserted", "Circle", (2,))]


def test_joined_classes_without_a_discriminator_are_heard_from_their_own_tables(
    Base: type[DeclarativeBase], hear: Hear
) -> None:
    class Person(Watched, Base):
        __tablename__ = "people"
        __watch__ = ALL
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None]

    class Engineer(Person):
        __tablename__ = "engineers"
        engineer_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), primary_key=True)
        skill: Mapped[str | None]

    heard = hear(Person, Engineer)
    calls = heard.after(
        "INSERT INTO people VALUES (1)", "INSERT INTO engineers VALUES (1)",
        "UPDATE people SET name = 'Ada'", "UPDATE engineers SET skill = 'x'",
        "DELETE FROM engineers", "DELETE FROM people",
    )  # fmt: skip
    assert calls == [
        (f"{name}.{operation}", name, (1,))
        for name, operation in [
            ("Person", "inserted"), ("Engineer", "inserted"), ("Person", "updated"), ("Engineer", "updated"),
            ("Engineer", "deleted"), ("Person", "deleted"),
        ]
    ]  # fmt: skip
    assert heard.values == [{"id": 1}] * 6


def test_truncating_a_single_table_is_heard_by_every_class_of_it(Base: type[DeclarativeBase], hear: Hear) -> None:
    Employee = unwatched_employee(Base)

    class Manager(Watched, Employee):  # type: ignore[misc,valid-type]
        __watch__ = ("truncated",)
        __mapper_args__ = {"polymorphic_identity": "manager"}

    class Director(Manager):
        __mapper_args__ = {"polymorphic_identity": "director"}

    calls = hear(Manager, Director).after("TRUNCATE employees")
    assert calls == [("Manager.truncated", "Manager", ()), ("Director.truncated", "Director", ())]


def test_an_enum_may_tell_the_classes(Base: type[DeclarativeBase], hear: Hear) -> None:
    class Employee(Watched, Base):
        __tablename__ = "employees"
        __watch__ = ("inserted",)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": Kind.employee}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[Kind] = mapped_column("k")

    class Manager(Employee):
        __mapper_args__ = {"polymorphic_identity": Kind.manager}

    heard = hear(Manager)
    calls = heard.after("INSERT INTO employees VALUES (1, 'employee'), (2, 'manager')")
    assert calls == [("Manager.inserted", "Manager", (2,))]
    assert heard.values == [{"id": 2, "kind": Kind.manager}]


def test_unknown_classes_of_a_joined_hierarchy_are_heard_as_the_class_of_the_table(
    Base: type[DeclarativeBase], hear: Hear
) -> None:
    Person, Engineer, Chief = joined(Base)
    calls = hear(Person, Engineer, Chief).after(
        "INSERT INTO people VALUES (1, 'of a newer deployment')", "INSERT INTO engineers VALUES (1, 'x')",
        "UPDATE engineers SET skill = 'y'",
    )  # fmt: skip
    assert calls == [
        ("Person.inserted", "Person", (1,)),
        ("Engineer.updated", "Engineer", (1,)),
        ("Person.updated", "Engineer", (1,)),
    ]


def test_classes_of_a_hierarchy_declared_by_watch_have_signals_of_their_own(
    Base: type[DeclarativeBase], hear: Hear
) -> None:
    Employee = unwatched_employee(Base)

    class Manager(Employee):
        __mapper_args__ = {"polymorphic_identity": "manager"}

    class Intern(Employee):
        __mapper_args__ = {"polymorphic_identity": "intern"}

    watch(Employee, "inserted")
    watch(Manager, "inserted", "deleted")
    assert [signal.name for signal in Manager.watch] == [  # type: ignore[attr-defined]
        "Manager.inserted", "Manager.deleted",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match=r"Intern has no signals: declare them with watch\(Intern, \.\.\.\)"):
        Intern.watch  # type: ignore[attr-defined]
    calls = hear(Employee, Manager).after(
        "INSERT INTO employees VALUES (1, 'manager')",
        "INSERT INTO employees VALUES (2, 'intern')",
    )
    assert calls == [
        ("Manager.inserted", "Manager", (1,)),
        ("Employee.inserted", "Manager", (1,)),
        ("Employee.inserted", "Intern", (2,)),
    ]


@pytest.mark.parametrize(
    "writer",
    [
        "CREATE TEMP TABLE people AS SELECT 1 AS id, 'person' AS kind",
        "CREATE SCHEMA b; CREATE TABLE b.people AS SELECT 1 AS id, 'chief' AS kind; SET search_path = b, public",
        "SET search_path = ''",
    ],
    ids=["temporary namesake", "another tenant", "no search_path"],
)
@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_writer_with_another_search_path_asks_to_resync_rather_than_name_a_wrong_class(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], hear: Hear, writer: str, level: Any
) -> None:
    class Person(Watched, Base):
        __tablename__ = "people"
        __watch__ = (Watch("updated", level=level),)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Engineer(Person):
        __tablename__ = "engineers"
        __mapper_args__ = {"polymorphic_identity": "engineer"}
        id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
        skill: Mapped[str | None]

    Base.metadata.create_all(engine)
    client.execute("INSERT INTO people VALUES (1, 'engineer'); INSERT INTO engineers VALUES (1)")
    heard = hear(Person)
    with Listener(engine, Base) as listener:
        reasons = resync_reasons(listener)
        client.execute("UPDATE engineers SET skill = 'x'")
        listener.catch_up()
        assert (heard.calls, reasons) == ([("Person.updated", "Engineer", (1,))], [])
        client.execute(writer.encode())
        client.execute("UPDATE public.engineers SET skill = 'y'")
        listener.catch_up()
    assert len(heard.calls) == 1
    assert reasons == ["the trigger function could not build the notification"]


def test_the_root_may_stand_in_another_schema_of_the_search_path(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], Base: type[DeclarativeBase]
) -> None:
    Person, *_ = joined(Base)
    client.execute("CREATE SCHEMA a; CREATE TABLE people (id int PRIMARY KEY, kind text, name text)")
    engine = create_engine(cluster.url(database, "psycopg"), connect_args={"options": "-c search_path=a,public"})
    Base.metadata.create_all(engine)
    client.execute("SET search_path = a, public")
    install(engine, Base)
    calls = Heard(engine, client, Base, Person).after(*CHIEF, "UPDATE engineers SET skill = 'y'")
    engine.dispose()
    assert calls == [("Person.inserted", "Chief", (1,)), ("Person.updated", "Chief", (1,))]


def test_the_root_of_a_longer_chain_is_known_by_its_foreign_keys(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], hear: Hear
) -> None:
    class Person(Watched, Base):
        __tablename__ = "Pe\"op\\le's 100%"
        __watch__ = ("updated",)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Engineer(Person):
        __tablename__ = "engineers"
        __mapper_args__ = {"polymorphic_identity": "engineer"}
        id: Mapped[int] = mapped_column(ForeignKey(Person.id), primary_key=True)

    class Chief(Engineer):
        __tablename__ = "chiefs"
        __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
        __mapper_args__ = {"polymorphic_identity": "chief"}
        id: Mapped[int] = mapped_column(ForeignKey("engineers.id"), primary_key=True)
        note: Mapped[str | None]
        other: Mapped[int | None] = mapped_column(ForeignKey("others.id"))

    class Other(Base):
        __tablename__ = "others"
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    people = Person.__table__.fullname.replace('"', '""')
    client.execute(
        f"""CREATE TABLE chiefs_0 PARTITION OF chiefs DEFAULT;
        INSERT INTO "{people}" VALUES (1, 'chief'); INSERT INTO engineers VALUES (1); INSERT INTO chiefs VALUES (1)
        """.encode()
    )
    heard = hear(Person)
    calls = heard.after("UPDATE chiefs SET note = 'x'", "UPDATE chiefs_0 SET note = 'y'")
    assert calls == [("Person.updated", "Chief", (1,))] * 2
    client.execute(f"CREATE TEMP TABLE \"{people}\" AS SELECT 1 AS id, 'person' AS kind".encode())
    assert len(heard.after("UPDATE chiefs SET note = 'z'")) == 2
    client.execute(f'DROP TABLE pg_temp."{people}"'.encode())
    assert len(heard.after("UPDATE chiefs SET note = 'z'")) == 3


def test_without_a_foreign_key_in_the_database_the_root_is_known_by_its_name(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], hear: Hear
) -> None:
    Person, _, _ = joined(Base)
    Base.metadata.create_all(engine)
    client.execute("ALTER TABLE engineers DROP CONSTRAINT engineers_engineer_id_fkey")
    calls = hear(Person).after(*CHIEF, "UPDATE engineers SET skill = 'y'")
    assert calls == [("Person.inserted", "Chief", (1,)), ("Person.updated", "Chief", (1,))]


def test_a_class_in_the_table_of_a_joined_one_is_told_by_the_root(Base: type[DeclarativeBase], hear: Hear) -> None:
    Person, Engineer, _ = joined(Base)

    class Tester(Engineer):  # type: ignore[misc,valid-type]
        __mapper_args__ = {"polymorphic_identity": "tester"}

    calls = hear(Person, Engineer, Tester).after(
        "INSERT INTO people VALUES (1, 'tester')", "INSERT INTO engineers VALUES (1)",
        "UPDATE engineers SET skill = 'y'",
    )  # fmt: skip
    assert calls == [
        (f"{name}.{operation}", "Tester", (1,))
        for operation in ("inserted", "updated")
        for name in ("Tester", "Engineer", "Person")
    ]


def test_a_receiver_may_be_connected_to_one_class_of_the_hierarchy_as_sender(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], recorder: Recorder
) -> None:
    Person, Engineer, _ = joined(Base)
    Base.metadata.create_all(engine)
    Person.watch.inserted.connect(recorder, sender=Engineer)
    with Listener(engine, Base) as listener:
        client.execute("INSERT INTO people VALUES (1, 'person'), (2, 'engineer'), (3, 'chief')")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (2,))]


def test_a_failed_subclass_leaves_the_hierarchy_as_it_was(Base: type[DeclarativeBase]) -> None:
    Person, _, _ = joined(Base)
    before = {key: dict(watches) for key, watches in watches_in(Base.metadata).items()}
    with pytest.raises(ConfigurationError):

        class Clerk(Person):  # type: ignore[misc,valid-type]
            __tablename__ = "clerks"
            __mapper_args__ = {"polymorphic_identity": "clerk"}
            # The first is right, and would be filed for three tables.
            __watch__ = (Watch("updated", label="moved"), Watch("inserted", extra_columns=("name",)))
            id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)

    assert watches_in(Base.metadata) == before
    assert not [filed for filed in watches_in(Base.metadata).values() if "moved" in filed.endpoints]


def test_a_hierarchy_told_apart_by_an_expression_is_refused(Base: type[DeclarativeBase]) -> None:
    with pytest.raises(ConfigurationError, match="its polymorphic_on is not a column of table 'things'"):

        class Thing(Watched, Base):
            __tablename__ = "things"
            __watch__ = ("inserted",)
            id: Mapped[int] = mapped_column(primary_key=True)
            size = mapped_column(Integer)
            __mapper_args__ = {"polymorphic_on": case((size > 5, "big"), else_="small")}


def test_a_subclass_may_not_change_a_watch_of_the_shared_table(Base: type[DeclarativeBase]) -> None:
    Person, _, _ = joined(Base)
    with pytest.raises(ConfigurationError, match="'inserted' is already declared with other options: give this one a"):

        class Visitor(Person):  # type: ignore[misc,valid-type]
            __mapper_args__ = {"polymorphic_identity": "visitor"}
            __watch__ = (Watch("inserted", extra_columns=("name",)),)
