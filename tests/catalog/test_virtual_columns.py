"""Virtual generated columns (PostgreSQL 18) have no value in a trigger: a watch that needs one is told of.

A server before 18, and SQLAlchemy before 2.1 where a declaration leaves it open, make a stored column: there is
nothing to tell then, and each of these tests says so.
"""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from postgres import VERSION
from sqlalchemy import Engine, event
from sqlalchemy.orm import Mapped, mapped_column

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched, install, status
from sqlalchemy_watch.catalog.virtual import virtual_problems
from sqlalchemy_watch.declaring.spec import Condition, TableWatch

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

#: The kind of the generated column; an older server has stored ones alone.
KIND = "VIRTUAL" if VERSION >= 18 else "STORED"

PROBLEMS = (
    "'double' is a virtual generated column in the database, which has no value in a trigger: make it a stored one "
    "(Computed(..., persisted=True), and drop the column and add it again), or leave it out",
)
EXPECTED = PROBLEMS if VERSION >= 18 else ()

USES: dict[str, Any] = {
    "carried": Watch("inserted", extra_columns=("double",)),
    "compared": Watch("updated", label="doubled", trigger_columns=("double",)),
    "condition": Watch("updated", label="large", when=lambda old, new: new.double > 10),
    "old": Watch("updated", label="was_large", when=lambda old, new: old.double > 10),
    "deleted": Watch("deleted", label="large_gone", when=lambda old, new: old.double > 10),
    "text": Watch("inserted", label="large", when=lambda old, new: sa.text('R."double" > 10')),
    "row carried": Watch("inserted", extra_columns=("double",), level="row"),
    "row condition": Watch("updated", label="large", when=lambda old, new: new.double > 10, level="row"),
    "row old": Watch("deleted", label="large_gone", when=lambda old, new: old.double > 10, level="row"),
}


def numbers(Base: Any, *specs: Any, persisted: bool | None = True) -> Any:
    class Number(Watched, Base):
        __tablename__ = "numbers"
        __watch__ = specs
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        number: Mapped[int]
        double: Mapped[int] = mapped_column(sa.Computed("number * 2", persisted=persisted))

    return Number


def make_virtual(client: Client) -> None:
    client.execute("ALTER TABLE numbers DROP COLUMN double")
    client.execute(f"ALTER TABLE numbers ADD COLUMN double integer GENERATED ALWAYS AS (number * 2) {KIND}")


# So SQLAlchemy 2.1 says on older servers.
@pytest.mark.filterwarnings("ignore:Computed column .* is being created as 'STORED':sqlalchemy.exc.SAWarning")
def test_a_computed_column_that_says_no_more_is_heard_or_refused(engine: Engine, client: Client, Base: Any) -> None:
    unwatched = sa.Table(
        "unwatched",
        sa.MetaData(),
        sa.Column("number", sa.Integer),
        sa.Column("double", sa.Integer, sa.Computed("number * 2")),
    )
    unwatched.create(engine)
    row = client.execute("SELECT attgenerated FROM pg_attribute WHERE attname = 'double'").fetchone()
    Number = numbers(Base, Watch("inserted", extra_columns=("double",)), persisted=None)
    if row == ("s",):
        Base.metadata.create_all(engine)
        recorder = Number.watch.inserted.connect(Recorder())
        with Listener(engine, Base) as listener:
            client.execute("INSERT INTO numbers VALUES (1, 4)")
            listener.catch_up()
        assert [heard.values["double"] for heard in recorder.events] == [8]
        assert [item.problems for item in status(engine, Base)] == [()]
    else:
        with pytest.raises(ConfigurationError, match=r"numbers/inserted .*'double' .*persisted=True"):
            Base.metadata.create_all(engine)
        assert client.execute("SELECT to_regclass('numbers')").fetchone() == (None,)


@pytest.mark.parametrize("use", USES)
def test_status_names_the_column_and_the_remedy(engine: Engine, client: Client, Base: Any, use: str) -> None:
    numbers(Base, USES[use])
    Base.metadata.create_all(engine)
    assert [(item.state, item.problems) for item in status(engine, Base)] == [("installed", ())]
    make_virtual(client)
    assert [(item.state, item.problems) for item in status(engine, Base)] == [("installed", EXPECTED)]
    client.execute("DROP TRIGGER " + client.execute("SELECT tgname FROM pg_trigger").fetchone()[0] + " ON numbers")
    (item,) = status(engine, Base)
    assert (item.state, item.problems[1:]) == ("missing", EXPECTED)


def test_a_watch_that_does_not_need_the_column_has_no_problem(engine: Engine, client: Client, Base: Any) -> None:
    other = sa.Table("others", Base.metadata, sa.Column("double", sa.Integer))
    numbers(
        Base,
        "inserted",
        Watch("updated", extra_columns=("number",), trigger_columns=("number",), label="moved"),
        Watch("updated", label="quoted", when=lambda old, new: sa.cast(new.number, sa.Text) != "new.double"),
        Watch("updated", label="elsewhere", when=lambda old, new: sa.exists().where(other.c.double == new.number)),
        "truncated",
    )
    Base.metadata.create_all(engine)
    make_virtual(client)
    assert {item.problems for item in status(engine, Base)} == {()}
    install(engine, Base)


@pytest.mark.parametrize(
    ("sql", "needs"),
    [
        ("(r.begin OPERATOR(pg_catalog.=) 1)", True), ('R."begin" = 1', True), ("r.BEGIN = 1", True),
        ("r.begins = 1", False),
        ("x.begin = 1", False), ("r.total = 'r.begin'", False), ("""r.total = ANY ('{"r.begin"}')""", False),
    ],
)  # fmt: skip
def test_a_column_called_like_a_word_is_found_in_a_condition(sql: str, needs: bool) -> None:
    watch = TableWatch(None, "t", "x", "inserted", (), condition=Condition(sql, sql, False))
    assert bool(virtual_problems(watch, ["begin"])) == needs


def test_install_refuses_a_watch_that_needs_the_column(engine: Engine, client: Client, Base: Any) -> None:
    numbers(Base, Watch("inserted", extra_columns=("double",)), "deleted")
    client.execute("CREATE TABLE numbers (id int PRIMARY KEY, number int)")
    client.execute(f"ALTER TABLE numbers ADD COLUMN double integer GENERATED ALWAYS AS (number * 2) {KIND}")
    if not EXPECTED:
        assert len(install(engine, Base)) == 2
        return
    with pytest.raises(ConfigurationError, match=r"numbers/inserted .*'double' .*persisted=True"):
        install(engine, Base)
    assert {item.state for item in status(engine, Base)} == {"missing"}


def test_install_refuses_it_where_the_trigger_is_there_already(engine: Engine, client: Client, Base: Any) -> None:
    numbers(Base, Watch("inserted", extra_columns=("double",)))
    Base.metadata.create_all(engine)
    make_virtual(client)
    if not EXPECTED:
        assert install(engine, Base) == []
        return
    with pytest.raises(ConfigurationError, match=r"numbers/inserted .*'double' .*persisted=True"):
        install(engine, Base)


def test_drop_all_takes_such_a_watch_away(engine: Engine, client: Client, Base: Any) -> None:
    numbers(Base, Watch("inserted", extra_columns=("double",)))
    Base.metadata.create_all(engine)
    make_virtual(client)
    Base.metadata.drop_all(engine)
    assert client.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch%'").fetchone() == (0,)


def test_a_listener_that_starts_says_so_in_the_log(
    engine: Engine, client: Client, Base: Any, caplog: pytest.LogCaptureFixture
) -> None:
    numbers(Base, Watch("inserted", extra_columns=("double",)))
    Base.metadata.create_all(engine)
    make_virtual(client)
    with Listener(engine, Base) as listener:
        listener.catch_up()  # it has looked by then
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(EXPECTED)
    assert all("numbers/inserted" in warning and EXPECTED[0] in warning for warning in warnings)


def test_status_takes_as_many_queries_for_many_tables(engine: Engine, Base: Any) -> None:
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, sql, *rest: statements.append(sql))
    for number in range(10):
        table = sa.Table(
            f"numbers_{number}", Base.metadata, sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("double", sa.Integer, sa.Computed("id * 2", persisted=True)),
        )  # fmt: skip
        Base.registry.map_imperatively(type(f"Number{number}", (Watched,), {"__watch__": ("inserted",)}), table)
        Base.metadata.create_all(engine)
        statements.clear()
        assert len(status(engine, Base)) == number + 1
        assert len(statements) == 3
