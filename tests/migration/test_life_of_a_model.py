"""The life of a model, from revision to revision, while somebody writes all the time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from conftest import Recorder
from postgres import Cluster
from sqlalchemy import BigInteger, Engine, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched

from .project import Project, body_of, is_empty, snapshot

pytestmark = pytest.mark.sqlalchemy


def no_edit(script: str) -> str:
    return script


def rename_column(script: str) -> str:
    """Edit a script as a developer does: Alembic sees a column that comes and one that goes."""
    script = re.sub(r"op\.add_column\('orders', sa\.Column\('amount'.*", _renamed("total", "amount"), script)
    script = re.sub(r"op\.add_column\('orders', sa\.Column\('total'.*", _renamed("amount", "total"), script)
    return re.sub(r" *op\.drop_column\(.*\n", "", script)


def _renamed(old: str, new: str) -> str:
    return f"op.alter_column('orders', '{old}', new_column_name='{new}')"


def rename_table(script: str) -> str:
    script = re.sub(
        r"op\.create_table\('purchases',.*?\n    \)", "op.rename_table('orders', 'purchases')", script, flags=re.S
    )
    script = re.sub(
        r"op\.create_table\('orders',.*?\n    \)", "op.rename_table('purchases', 'orders')", script, flags=re.S
    )
    return re.sub(r" *op\.drop_table\(.*\n", "", script)


class Step(NamedTuple):
    """One revision: the model as it is from then on."""

    name: str
    table: str | None
    columns: dict[str, Any]
    watch: tuple[Any, ...] | None
    edit: Callable[[str], str] = no_edit
    hears: str | None = None
    writes: str = ""


_TEXT = {"id": Integer, "note": String, "total": Integer}
_RENAMED = {"id": Integer, "note": String, "amount": Integer}
_RETYPED = {"id": Integer, "note": String, "amount": BigInteger}
_DROPPED = {"id": Integer, "note": String}
_ALL = ("inserted", "updated", "deleted", "truncated")
_TOUCH = "UPDATE orders SET note = note || '!', {0} = {0} + 1 WHERE id = 1"


def changed(*columns: str) -> tuple[Any, ...]:
    """Watches that carry these columns and fire on the last one."""
    return (
        "inserted",
        Watch("updated", label="changed", trigger_columns=columns[-1:], extra_columns=columns, old=True),
    )


LIFE = [
    Step("created", "orders", _TEXT, None),
    Step("watched", "orders", _TEXT, _ALL, hears="updated", writes=_TOUCH.format("total")),
    Step("options changed", "orders", _TEXT, changed("note", "total"), hears="changed", writes=_TOUCH.format("total")),
    Step(
        "column renamed", "orders", _RENAMED, changed("note", "amount"), rename_column,
        hears="changed", writes=_TOUCH.format("amount"),
    ),
    Step(
        "column retyped", "orders", _RETYPED, changed("note", "amount"),
        hears="changed", writes=_TOUCH.format("amount"),
    ),
    Step("column dropped", "orders", _DROPPED, changed("note"), hears="changed", writes="UPDATE orders SET note = 'x'"),
    Step(
        "table renamed", "purchases", _DROPPED, changed("note"), rename_table,
        hears="changed", writes="UPDATE purchases SET note = 'y'",
    ),
    Step("unwatched", "purchases", _DROPPED, ()),
    Step(
        "watched again", "purchases", _DROPPED, _ALL, hears="inserted", writes="INSERT INTO purchases VALUES (-1, '')"
    ),
    Step("dropped", None, {}, None),
]  # fmt: skip


def declare(step: Step) -> tuple[type[DeclarativeBase], Any]:
    class Base(DeclarativeBase):
        pass

    if step.table is None:
        return Base, None
    attributes: dict[str, Any] = {"__tablename__": step.table, "__annotations__": {}}
    for name, type_ in step.columns.items():
        attributes["__annotations__"][name] = Mapped[Any]
        attributes[name] = mapped_column(type_, primary_key=name == "id", nullable=name != "id")
    parents: tuple[type, ...] = (Base,)
    if step.watch is not None:
        parents = (Watched, Base)
        attributes["__watch__"] = step.watch
    return Base, type("Order", parents, attributes)


class Writer:
    """Another program that writes all the time, and does not know what the others do."""

    STATEMENTS = (
        "INSERT INTO orders (id, note, total) SELECT coalesce(max(id), 0) + 1, 'n', 1 FROM orders "
        "ON CONFLICT DO NOTHING",  # the test writes the first one
        "UPDATE orders SET total = total + 1, note = note || '.' WHERE id = (SELECT max(id) FROM orders)",
        "UPDATE orders SET amount = amount + 1 WHERE id = (SELECT max(id) FROM orders)",
        "UPDATE orders SET note = 'n' WHERE id = (SELECT max(id) FROM orders)",
        "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders WHERE id > 1)",
        "INSERT INTO purchases (id, note) SELECT coalesce(max(id), 0) + 1, 'n' FROM purchases",
        "UPDATE purchases SET note = note || '.' WHERE id = (SELECT max(id) FROM purchases)",
    )

    def __init__(self, cluster: Cluster, database: str) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.written = 0
        self._stop = threading.Event()
        self._cluster, self._database = cluster, database
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._cluster.connect(self._database) as connection:
            connection.add_notice_handler(lambda diagnostic: self.warnings.append(str(diagnostic.message_primary)))
            while not self._stop.is_set():
                for statement in self.STATEMENTS:
                    try:
                        self.written += connection.execute(statement).rowcount
                    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
                        pass  # it is gone, or not there yet
                    except psycopg.Error as error:
                        self.errors.append(f"{statement}: {error}")
                self._stop.wait(0.002)


def test_every_step_of_a_models_life_goes_up_and_down_while_somebody_writes(
    project: Project, client: psycopg.Connection[Any], engine: Engine, cluster: Cluster, database: str
) -> None:
    with Writer(cluster, database) as writer:
        for step in LIFE:
            Base, Order = declare(step)
            project.metadata = Base.metadata
            before = snapshot(client)
            script = project.revision()
            script.write_text(step.edit(script.read_text()))
            assert not is_empty(script), step.name
            project.upgrade()
            after = snapshot(client)
            assert project.differences() == [], step.name
            assert_nothing_more(project)
            if step.hears is not None:
                assert_heard(engine, client, Base, Order, step)
            project.downgrade()
            assert snapshot(client) == before, step.name
            project.upgrade()
            assert snapshot(client) == after, step.name
            if step.name == "created":
                client.execute("INSERT INTO orders VALUES (1, 'first', 1) ON CONFLICT DO NOTHING")
    assert writer.errors == []
    assert writer.warnings == []
    assert writer.written > len(LIFE)


def assert_nothing_more(project: Project) -> None:
    script = project.revision()
    assert is_empty(script), body_of(script)
    script.unlink()


def assert_heard(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], Order: Any, step: Step
) -> None:
    recorder = Recorder()
    signal = getattr(Order.watch, str(step.hears))
    signal.connect(recorder)
    with Listener(engine, Base) as listener:
        client.execute(step.writes)
        listener.catch_up()
    assert recorder.events, step.name
    if step.hears == "inserted":
        client.execute("DELETE FROM purchases WHERE id = -1")


def test_a_step_changes_no_more_than_differs(project: Project, client: psycopg.Connection[Any]) -> None:
    def migrate(index: int, watch: tuple[Any, ...]) -> Path:
        Base, _ = declare(LIFE[index]._replace(watch=watch))
        project.metadata = Base.metadata
        script = project.revision()
        project.upgrade()
        return script

    migrate(0, ("inserted", "deleted"))
    script = body_of(migrate(0, (Watch("inserted", extra_columns=["note"]), "deleted")))
    # The same trigger calls another body: no lock on the table.
    assert "# watch: change 'orders', signal 'inserted'" in script
    assert script.count("op.execute(") == 1
    assert "TRIGGER" not in script
    assert "deleted" not in script
    script = body_of(migrate(0, (Watch("inserted", extra_columns=["note"], level="row"), "deleted")))
    # FOR EACH ROW: another trigger, and another body.
    assert [line for line in ("DROP TRIGGER", "CREATE TRIGGER", "CREATE OR REPLACE FUNCTION") if line in script] == [
        "DROP TRIGGER", "CREATE TRIGGER", "CREATE OR REPLACE FUNCTION",
    ]  # fmt: skip
    assert "DROP FUNCTION" not in script


def test_a_watch_steps_aside_for_a_column_even_where_its_declaration_stays(
    project: Project, client: psycopg.Connection[Any]
) -> None:
    watch = (Watch("updated", extra_columns=["note"]),)
    for columns in ({"id": Integer, "note": String(20)}, {"id": Integer, "note": String(40)}):
        Base, _ = declare(Step("", "orders", columns, watch))
        project.metadata = Base.metadata
        before = snapshot(client)
        script = project.revision()
        project.upgrade()
    upgrade, downgrade = body_of(script), body_of(script, "downgrade")
    for body in (upgrade, downgrade):
        drop, alter, create = (body.index(w) for w in ("DROP TRIGGER", "op.alter_column", "CREATE TRIGGER"))
        assert drop < alter < create
        assert "FUNCTION watch_orders_updated() RETURNS" not in body
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before


def test_a_column_that_no_watch_names_leaves_the_watches_alone(project: Project) -> None:
    for columns in (_TEXT, _DROPPED):
        Base, _ = declare(Step("", "orders", columns, ("inserted", Watch("updated", extra_columns=["note"]))))
        project.metadata = Base.metadata
        script = project.revision()
        project.upgrade()
    assert "op.drop_column('orders', 'total')" in script.read_text()
    assert "watch" not in body_of(script)
