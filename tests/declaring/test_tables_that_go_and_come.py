"""Watches are those of a Table: gone with it, and there in its copies."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from sqlalchemy import Column, Engine, ForeignKey, Integer, MetaData, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, registry

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched, install, status, watch
from sqlalchemy_watch.declaring.filing import watches_in
from sqlalchemy_watch.declaring.targets import watches_of

pytestmark = pytest.mark.sqlalchemy


def declare(Base: type[DeclarativeBase], *specs: Any) -> Any:
    class Note(Watched, Base):
        __tablename__ = "notes"
        __watch__ = specs
        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str | None]

    return Note


def labels(*targets: Any) -> list[str]:
    return [w.label for w in watches_of(*targets)]


def clear(Base: type[DeclarativeBase]) -> None:
    Base.metadata.clear()


def remove(Base: type[DeclarativeBase]) -> None:
    Base.metadata.remove(Base.metadata.tables["notes"])


def dispose(Base: type[DeclarativeBase]) -> None:
    Base.registry.dispose()
    Base.metadata.clear()


GOING = [clear, remove, dispose]
Going = Callable[[type[DeclarativeBase]], None]


@pytest.mark.parametrize("go", GOING)
@pytest.mark.filterwarnings("ignore:This declarative base already contains a class:sqlalchemy.exc.SAWarning")
def test_a_table_that_is_declared_anew_has_its_new_watches(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], recorder: Recorder, go: Going
) -> None:
    old = declare(Base, "inserted", "updated", Watch("deleted", label="gone"))
    go(Base)
    assert labels(Base) == []
    new = declare(
        Base, Watch("inserted", extra_columns=("text",)), Watch("updated", label="gone", extra_columns={"text"})
    )
    assert labels(Base) == ["inserted", "gone"]
    Base.metadata.create_all(engine)
    assert [(item.label, item.state) for item in status(engine, Base)] == [
        ("inserted", "installed"),
        ("gone", "installed"),
    ]
    new.watch.connect(recorder)
    old.watch.connect(recorder)
    with Listener(engine, Base) as listener:
        client.execute("INSERT INTO notes VALUES (1, 'x')")
        client.execute("UPDATE notes SET text = 'y'")
        client.execute("DELETE FROM notes")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,)), ("gone", (1,))]
    assert recorder.senders == [new, new]
    assert recorder.events[0].values == {"id": 1, "text": "x"}


@pytest.mark.parametrize("go", GOING)
@pytest.mark.filterwarnings("ignore:This declarative base already contains a class:sqlalchemy.exc.SAWarning")
def test_a_table_that_is_declared_anew_without_watches_has_none(
    engine: Engine, Base: type[DeclarativeBase], go: Going
) -> None:
    declare(Base, "inserted", "updated")
    Base.metadata.create_all(engine)
    go(Base)
    declare(Base)
    assert labels(Base) == []
    assert [(item.label, item.state) for item in status(engine, Base)] == [
        ("inserted", "orphaned"),
        ("updated", "orphaned"),
    ]


@pytest.mark.filterwarnings("ignore:This declarative base already contains a class:sqlalchemy.exc.SAWarning")
def test_a_name_that_a_removed_table_had_is_free(Base: type[DeclarativeBase]) -> None:
    watch(Table("a_b", Base.metadata, Column("id", Integer, primary_key=True)), Watch("updated", label="c"))
    Base.metadata.remove(Base.metadata.tables["a_b"])
    watch(Table("a", Base.metadata, Column("id", Integer, primary_key=True)), Watch("updated", label="b_c"))
    assert labels(Base.metadata) == ["b_c"]


def test_a_removed_table_keeps_its_own_watches() -> None:
    metadata = MetaData()
    old = Table("t", metadata, Column("id", Integer, primary_key=True))
    watch(old, "inserted")
    metadata.clear()
    new = Table("t", metadata, Column("id", Integer, primary_key=True))
    assert labels(new) == []
    watch(new, "updated")
    assert (labels(old), labels(new), labels(metadata)) == (["inserted"], ["updated"], ["updated"])


def test_a_class_that_is_mapped_anew_is_watched_anew(engine: Engine, recorder: Recorder) -> None:
    class Note:
        pass

    metadata = MetaData()
    table = Table("notes", metadata, Column("id", Integer, primary_key=True), Column("text", sa.Text))
    for specs in (("inserted", "updated"), ("inserted",), (Watch("inserted", extra_columns=("text",)),)):
        mappers = registry(metadata=metadata)
        mappers.map_imperatively(Note, table)
        watch(Note, *specs)
        with pytest.raises(ConfigurationError, match="Note is watched already"):
            watch(Note, "deleted")
        assert labels(metadata) == [spec if isinstance(spec, str) else spec.operation for spec in specs]
        assert [signal.name for signal in Note.watch] == [f"Note.{label}" for label in labels(table)]  # type: ignore[attr-defined]
        mappers.dispose()
        assert labels(metadata) == labels(table) == []


def test_a_disposed_registry_leaves_the_watches_of_tables(Base: type[DeclarativeBase]) -> None:
    declare(Base, "inserted")
    watch(Table("core", Base.metadata, Column("id", Integer, primary_key=True)), "updated")
    Base.registry.dispose()
    assert labels(Base) == ["updated"]


def test_of_two_classes_of_a_table_one_may_go() -> None:
    metadata = MetaData()
    table = Table("notes", metadata, Column("id", Integer, primary_key=True))
    registries = [registry(metadata=metadata) for _ in range(2)]
    classes = [type(name, (), {}) for name in ("First", "Second")]
    for mappers, class_ in zip(registries, classes, strict=True):
        mappers.map_imperatively(class_, table)
    watch(classes[0], "inserted", "updated")
    watch(classes[1], "inserted", "deleted")
    registries[0].dispose()
    assert labels(metadata) == ["inserted", "deleted"]


def test_declaring_again_and_again_keeps_nothing() -> None:
    metadata = MetaData()
    gone = []
    for n in range(5):
        mappers = registry(metadata=metadata)
        Note = type("Note", (Watched,), {"__watch__": ("inserted", Watch("updated", label=f"l{n}"))})
        mappers.map_imperatively(Note, Table("notes", metadata, Column("id", Integer, primary_key=True)))
        core = Table("core", metadata, Column("id", Integer, primary_key=True))
        watch(core, "inserted")
        gone += [weakref.ref(Note), weakref.ref(core), weakref.ref(Note.watch)]  # type: ignore[attr-defined]
        mappers.dispose()
        metadata.clear()
        del Note, core, mappers
    watch(Table("last", metadata, Column("id", Integer, primary_key=True)), "inserted")
    gc.collect()
    assert list(watches_in(metadata)) == ["last"]
    assert [ref for ref in gone if ref() is not None] == []


# ---- copies ----


def family(Base: type[DeclarativeBase], schema: str | None = None) -> Any:
    class Person(Watched, Base):
        __tablename__ = "people"
        __table_args__ = {"schema": schema}
        __watch__ = ("inserted", "updated", "truncated", Watch("deleted", delivery="both"))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Worker(Person):
        __tablename__ = "workers"
        __table_args__ = {"schema": schema}
        __mapper_args__ = {"polymorphic_identity": "worker"}
        id: Mapped[int] = mapped_column(ForeignKey(Person.id), primary_key=True)
        desk: Mapped[int | None]

    class Chief(Worker):
        __tablename__ = "chiefs"
        __table_args__ = {"schema": schema}
        __mapper_args__ = {"polymorphic_identity": "chief"}
        id: Mapped[int] = mapped_column(ForeignKey(Worker.id), primary_key=True)
        car: Mapped[str | None]

    return Person


def copied(*metadatas: MetaData, **options: Any) -> MetaData:
    target = MetaData()
    for metadata in metadatas:
        for table in metadata.sorted_tables:
            table.to_metadata(target, **options)
    return target


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("schema", [None, "staff"])
def test_a_copy_has_the_same_watches(engine: Engine, Base: type[DeclarativeBase], times: int, schema: Any) -> None:
    family(Base, schema)
    other = MetaData(info={"sqlalchemy_watch_application": "other"})
    watch(Table("core", other, Column("id", Integer, primary_key=True)), "inserted")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA staff")
    Base.metadata.create_all(engine)
    other.create_all(engine)
    copy = copied(Base.metadata, other)
    for _ in range(times - 1):
        copy = copied(copy)
    assert {(w.table_key, w.label, w) for w in watches_of(copy)} == {
        (w.table_key, w.label, w) for metadata in (Base.metadata, other) for w in watches_of(metadata)
    }
    assert {item.state for item in status(engine, copy)} == {"installed"}
    assert install(engine, copy) == []
    copy.drop_all(engine)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch\\_%'")) == 0


@pytest.mark.parametrize("schema", [None, "staff"])
def test_a_copy_in_another_schema_is_heard(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], recorder: Recorder, schema: Any
) -> None:
    Person = family(Base, schema)
    client.execute("CREATE SCHEMA tenant; CREATE SCHEMA staff")
    Base.metadata.create_all(engine)
    copy = copied(Base.metadata, schema="tenant")
    copy.create_all(engine)
    assert {(item.table.partition(".")[0], item.state) for item in status(engine, copy)} == {("tenant", "installed")}
    Person.watch.connect(recorder)
    with Listener(engine, copy) as listener:
        client.execute("SET search_path = tenant")
        client.execute("INSERT INTO people VALUES (1, 'person'), (2, 'chief'), (3, 'unknown')")
        client.execute("INSERT INTO workers VALUES (2, 1), (3, 1)")
        client.execute("INSERT INTO chiefs VALUES (2, 'x'), (3, 'x')")
        client.execute("UPDATE chiefs SET car = 'y'")
        client.execute("DELETE FROM chiefs; DELETE FROM workers; DELETE FROM people WHERE id = 2")
        client.execute("TRUNCATE people CASCADE")
        listener.catch_up()
    calls = zip(recorder.senders, recorder.events, strict=True)
    assert [(event.label, sender.__name__, event.identity or ()) for sender, event in calls] == [
        ("inserted", "Person", (1,)),
        ("inserted", "Chief", (2,)),
        ("inserted", "Person", (3,)),
        ("updated", "Chief", (2,)),
        ("updated", "Chief", (3,)),
        ("deleted", "Chief", (2,)),
        ("truncated", "Person", ()),
    ]


def test_a_copy_may_have_another_name_and_watches_of_its_own(engine: Engine, Base: type[DeclarativeBase]) -> None:
    metadata = Base.metadata
    notes = Table("notes", metadata, Column("id", Integer, primary_key=True), Column("n", Integer))
    watch(notes, "inserted", Watch("updated", label="large", when=lambda old, new: new.n > 1))
    old_notes = notes.to_metadata(metadata, name="old_notes")
    assert labels(metadata) == ["inserted", "large"] * 2
    watch(old_notes, "truncated")
    assert labels(notes) == ["inserted", "large"]
    assert labels(old_notes) == ["inserted", "large", "truncated"]
    metadata.create_all(engine)
    assert [(item.table, item.label, item.state) for item in status(engine, metadata)] == [
        ("notes", "inserted", "installed"),
        ("notes", "large", "installed"),
        ("old_notes", "inserted", "installed"),
        ("old_notes", "large", "installed"),
        ("old_notes", "truncated", "installed"),
    ]
    assert labels(old_notes.to_metadata(MetaData())) == labels(old_notes)


def test_the_root_is_looked_up_in_the_schema_that_a_function_names(Base: type[DeclarativeBase]) -> None:
    family(Base)
    copy = MetaData()
    schemas = {"people": "a", "workers": "b", "chiefs": "c"}

    def referred(table: Table, to_schema: Any, constraint: Any, referred_schema: Any) -> str:
        return schemas[constraint.elements[0].target_fullname.split(".")[0]]

    for table in Base.metadata.sorted_tables:
        table.to_metadata(copy, schema=schemas[table.name], referred_schema_fn=referred)
    lookups = {w.table: w.discriminator.lookup for w in watches_of(copy) if w.discriminator is not None}
    assert lookups["people"] is None
    assert {table: lookup.schema for table, lookup in lookups.items() if lookup} == {"workers": "a", "chiefs": "a"}


def test_columns_that_are_copied_by_hand_bring_no_watches(Base: type[DeclarativeBase]) -> None:
    Note = declare(Base, "inserted")
    history = Table("notes_history", Base.metadata, *(column._copy() for column in Note.__table__.columns))
    assert labels(history) == []
    assert labels(Base) == ["inserted"]
