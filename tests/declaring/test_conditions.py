"""`when`: what is no condition on the two rows is refused, by the class statement or by the server's own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from postgres import Cluster, needs
from sqlalchemy import Engine, ForeignKey, exists, func, select, text
from sqlalchemy.dialects.postgresql import CITEXT as CITEXT_TYPE
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, column_property, mapped_column, relationship

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched, install, status, watch
from sqlalchemy_watch.declaring.filing import watches_in

pytestmark = pytest.mark.sqlalchemy

Models = Any


@pytest.fixture
def models(Base: type[DeclarativeBase]) -> Models:
    class Line(Base):
        __tablename__ = "lines"
        id: Mapped[int] = mapped_column(primary_key=True)
        order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))

    class Vip(Base):
        __tablename__ = "vips"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[int] = mapped_column("sum")
        open: Mapped[bool]
        lines: Mapped[list[Line]] = relationship(Line)
        count: Mapped[int] = column_property(
            select(func.count(Line.id)).where(Line.order_id == id.column).correlate_except(Line).scalar_subquery()  # type: ignore[attr-defined]
        )

        @hybrid_property
        def large(self) -> Any:
            return self.total > 100

    models = type("Models", (), {"Order": Order, "Line": Line, "Vip": Vip, "Base": Base})
    sa.orm.configure_mappers()
    return models


Make = Callable[[Any, Any, Any], Any]

#: A condition, and what is said of it, `{row}` being the row's name.
TABLES: dict[str, tuple[Make, str]] = {
    "model": (lambda m, o, n: m.Order.total > 1, "orders.sum, which is of no row: write {row}.total"),
    "attribute": (lambda m, o, n: m.Order.open, "orders.open, which is of no row: write {row}.open"),
    "table": (lambda m, o, n: m.Order.__table__.c.sum > 1, "orders.sum, which is of no row: write {row}.total"),
    "alias": (lambda m, o, n: aliased(m.Order).total > 1, "orders.sum, which is of no row: write {row}.total"),
    "hybrid": (lambda m, o, n: m.Order.large, "orders.sum, which is of no row: write {row}.total"),
    "inside": (lambda m, o, n: func.abs(m.Order.total) + 1 > 1, "orders.sum, which is of no row"),
    "between others": (lambda m, o, n: sa.or_(text("true"), sa.not_(m.Order.total > 1)), "orders.sum, which is of no"),
    "other": (lambda m, o, n: m.Vip.id == 1, "vips.id, and the condition is given the rows of 'orders' alone"),
    "relationship": (lambda m, o, n: m.Order.lines.any(), "selects from 'orders' beside other tables"),
    "column property": (lambda m, o, n: m.Order.count > 1, "selects from 'orders' beside other tables"),
    "subquery": (lambda m, o, n: exists().where(m.Line.order_id == m.Order.id), "selects from 'orders' beside other"),
    "correlated": (
        lambda m, o, n: exists(select(m.Line).where(m.Line.order_id == m.Order.id).correlate(m.Order)),
        "selects from 'orders' beside other tables",
    ),
    "cte": (lambda m, o, n: exists(select(select(m.Vip.id).cte("c"))), "has a CTE"),
    "function's rows": (
        lambda m, o, n: func.unnest(sa.cast("{}", sa.ARRAY(sa.Integer))).column_valued("v") == 1,
        "unn",
    ),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("operation", "row"), [("inserted", "new"), ("updated", "new.* or old"), ("deleted", "old")])
def test_a_condition_that_names_a_table_is_refused(models: Models, name: str, operation: Any, row: str) -> None:
    make, words = TABLES[name]
    words = words.format(row=row) if row != "new.* or old" else words.partition("{row}")[0]
    for target in (models.Order, models.Order.__table__):
        if target is models.Order.__table__:
            words = words.replace(f"{row}.total", f"{row}.sum")
        with pytest.raises(ConfigurationError, match=words):
            watch(target, Watch(operation, label="x", when=lambda old, new: make(models, old, new)))
    assert not watches_in(models.Base.metadata)


SUBQUERIES: dict[str, Make] = {
    "of another table": lambda m, o, n: exists(select(m.Vip).where(m.Vip.id == n.id)),
    "of its own table": lambda m, o, n: select(func.count(m.Order.id)).scalar_subquery() > 1,
    "of an alias": lambda m, o, n: exists().where(aliased(m.Order).id == n.id, m.Vip.id == n.id),
    "in": lambda m, o, n: n.id.in_(select(m.Vip.id)),
    "uncorrelated": lambda m, o, n: exists(select(m.Vip).where(m.Vip.id == m.Order.id).correlate(None)),
    "nesting": lambda m, o, n: exists(select(select(m.Vip.id).where(m.Vip.id == n.id).cte("c", nesting=True))),
}


@pytest.mark.parametrize("level", ["statement", "row"])
def test_subqueries_work(
    engine: Engine, client: psycopg.Connection[Any], models: Models, recorder: Recorder, level: Any
) -> None:
    specs = [
        Watch(
            "inserted", label=name.replace(" ", "_") + "_", level=level, when=lambda o, n, make=make: make(models, o, n)
        )
        for name, make in SUBQUERIES.items()
    ]
    watch(models.Order, *specs).connect(recorder)
    models.Base.metadata.create_all(engine)
    client.execute("INSERT INTO vips VALUES (2)")
    with Listener(engine, models.Base) as listener:
        client.execute("INSERT INTO orders VALUES (1, 1, true)")
        client.execute("INSERT INTO orders VALUES (2, 1, true)")
        listener.catch_up()
    assert sorted(recorder.heard()) == sorted((spec.name, (2,)) for spec in specs)


WRONG: dict[str, tuple[str, Make, str]] = {
    "column": ("inserted", lambda m, o, n: text("r.totl > 1"), "column r.totl does not exist"),
    "row": ("inserted", lambda m, o, n: text("nwe.sum > 1"), 'missing FROM-clause entry for table "nwe"'),
    "no old": ("updated", lambda m, o, n: text("o.sum > 1"), 'missing FROM-clause entry for table "o"'),
    "ambiguous": ("updated", lambda m, o, n: (o.total > 1) & text("sum > 1"), 'column reference "sum" is ambiguous'),
    "syntax": ("deleted", lambda m, o, n: text("r.sum >"), "syntax error at or near"),
    "function": ("inserted", lambda m, o, n: func.is_due(n.total), "function is_due(integer) does not exist"),
    "type": ("inserted", lambda m, o, n: func.lower("x"), "argument of WHERE must be type boolean, not type text"),
    "operator": (
        "inserted",
        lambda m, o, n: n.total == text("'1'::text"),
        "operator does not exist: integer pg_catalog.= text",
    ),
    "literal": ("inserted", lambda m, o, n: text("r.sum > 'x'"), "invalid input syntax for type integer"),
    "cast": ("inserted", lambda m, o, n: text("r.sum::nothing"), 'type "nothing" does not exist'),
    "relation": ("inserted", lambda m, o, n: text("EXISTS (SELECT FROM nowhere)"), '"nowhere" does not exist'),
    "bare column": ("inserted", lambda m, o, n: sa.column("totl") > 1, 'column "totl" does not exist'),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_server_can_not_make_sense_of_is_said_when_installing(
    engine: Engine, models: Models, name: str
) -> None:
    operation, make, words = WRONG[name]
    watch(models.Order, "inserted", Watch(operation, label="x", when=lambda old, new: make(models, old, new)))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError) as raised:
        models.Base.metadata.create_all(engine)
    assert str(raised.value).startswith("the watch orders/x: its when can't work: ")
    assert words in str(raised.value)
    assert not sa.inspect(engine).get_table_names(), "half is made"
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id int PRIMARY KEY, sum int, open bool)")
    with pytest.raises(ConfigurationError, match="the watch orders/x: its when can't work: "):
        install(engine, models.Base.metadata.tables["orders"])
    assert {item.state for item in status(engine, models.Base.metadata.tables["orders"])} == {"missing"}


def test_a_name_without_a_row_works_at_no_row_level(engine: Engine, models: Models) -> None:
    watch(models.Order, Watch("inserted", label="x", level="row", when=lambda old, new: text("sum > 1")))
    with pytest.raises(ConfigurationError, match='column reference "sum" is ambiguous'):
        models.Base.metadata.create_all(engine)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
@pytest.mark.parametrize("level", ["statement", "row"])
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "AUTOCOMMIT"])
def test_what_the_function_can_make_sense_of_passes(
    cluster: Cluster, database: str, models: Models, level: Any, driver: str, isolation: Any
) -> None:
    row = "r" if level == "statement" else "new"
    conditions = {
        "percent": lambda old, new: func.to_char(new.total, "9%") + "\\" != "'%s :x $watch$",
        "modulo": lambda old, new: new.total % 2 == 0,
        "key": lambda old, new: sa.cast(sa.literal("{}", sa.Text()), JSONB).has_key("a"),
        "trigger": lambda old, new: text(f"TG_OP = 'INSERT' AND {row}.sum > tg_argv[0]::int"),
        "whole_row": lambda old, new: text(f"pg_catalog.to_json({row}) IS NOT NULL AND {row} IS NOT NULL"),
        "later_table": lambda old, new: exists().where(models.Line.order_id == new.id),
        "setting": lambda old, new: func.current_setting("app.user", True) == "me",
    }
    if level == "statement":
        conditions["bare"] = lambda old, new: text("sum > 1")
    watch(models.Order, *(Watch("inserted", label=k, level=level, when=w) for k, w in conditions.items()))
    engine = sa.create_engine(cluster.url(database, driver), isolation_level=isolation)
    models.Base.metadata.create_all(engine)
    assert install(engine, models.Base) == []
    assert {item.state for item in status(engine, models.Base)} == {"installed"}
    engine.dispose()


def test_who_installs_needs_no_right_to_read_what_a_condition_reads(
    engine: Engine, client: psycopg.Connection[Any], models: Models
) -> None:
    watch(models.Order, Watch("inserted", label="vip", when=lambda old, new: exists().where(models.Vip.id == new.id)))
    client.execute("CREATE TABLE vips (id int PRIMARY KEY)")
    client.execute("CREATE ROLE installer; CREATE SCHEMA AUTHORIZATION installer")
    client.execute("CREATE SCHEMA hidden; CREATE FUNCTION hidden.is_due(int) RETURNS bool RETURN true")
    watch(models.Vip, Watch("inserted", label="due", when=lambda old, new: func.hidden.is_due(new.id)))
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("ALTER TABLE vips OWNER TO installer; SET ROLE installer")
            connection.exec_driver_sql("CREATE TABLE orders (id int PRIMARY KEY, sum int, open bool)")
            changed = install(connection, models.Base.metadata.tables["orders"], models.Base.metadata.tables["vips"])
            assert [item.label for item in changed] == ["vip", "due"]
            connection.rollback()
    finally:
        client.execute("DROP OWNED BY installer; DROP ROLE installer")


def test_a_function_that_needs_the_table_is_made_beside_it(engine: Engine, models: Models) -> None:
    watch(models.Order, Watch("inserted", label="due", when=lambda old, new: text("is_due(r.sum)")))
    body = "CREATE FUNCTION is_due(orders.sum%TYPE) RETURNS bool LANGUAGE sql AS 'SELECT true'"
    sa.event.listen(models.Order.__table__, "after_create", sa.DDL(body.replace("%", "%%")))
    models.Base.metadata.create_all(engine)
    assert [item.state for item in status(engine, models.Base)] == ["installed"]


def test_a_condition_broken_later_is_said_by_the_next_install(
    engine: Engine, client: psycopg.Connection[Any], models: Models
) -> None:
    watch(models.Order, "inserted", Watch("inserted", label="large", when=lambda old, new: new.total > 1))
    models.Base.metadata.create_all(engine)
    client.execute('ALTER TABLE orders RENAME "sum" TO total')
    with pytest.raises(ConfigurationError, match="orders/large: its when can't work: column r.sum does not exist"):
        install(engine, models.Base)


def test_a_lock_that_is_not_given_is_no_fault_of_the_condition(
    engine: Engine, client: psycopg.Connection[Any], models: Models
) -> None:
    watch(models.Order, Watch("inserted", label="vip", when=lambda old, new: exists().where(models.Vip.id == new.id)))
    models.Base.metadata.create_all(engine)
    with client.transaction(), engine.connect() as connection:
        client.execute("LOCK TABLE vips")
        connection.exec_driver_sql("SET statement_timeout = '100ms'")
        with pytest.raises(DBAPIError, match="canceling statement due to statement timeout"):
            install(connection, models.Base)


@pytest.mark.parametrize(
    "when",
    [
        lambda old, new: new.name == "a" and old.name != "b",
        lambda old, new: old.name != "b" or new.name == "a",
        lambda old, new: not new.name == "a",  # noqa: SIM201
        lambda old, new: new.name in ("a", "b"),
    ],
    ids=["and", "or", "not", "in"],
)
def test_pythons_own_words_between_comparisons_are_refused(Base: type[DeclarativeBase], when: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"asks a comparison for its truth.*write &, \| and ~"):

        class User(Watched, Base):
            __tablename__ = "users"
            __watch__ = (Watch("updated", label="renamed", when=when),)
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]


#: The heart of the extension citext, which not every server has.
CITEXT = """
CREATE TYPE citext;
CREATE FUNCTION citextin(cstring) RETURNS citext LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION citextout(citext) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE citext (INPUT = citextin, OUTPUT = citextout, LIKE = text, CATEGORY = 'S');
CREATE CAST (citext AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE FUNCTION citext_eq(citext, citext) RETURNS bool IMMUTABLE RETURN lower($1::text) = lower($2::text);
CREATE FUNCTION citext_ne(citext, citext) RETURNS bool IMMUTABLE RETURN lower($1::text) <> lower($2::text);
CREATE OPERATOR = (LEFTARG = citext, RIGHTARG = citext, FUNCTION = citext_eq);
CREATE OPERATOR <> (LEFTARG = citext, RIGHTARG = citext, FUNCTION = citext_ne);
"""


@needs(14, "functions with a body of SQL")
@pytest.mark.parametrize("level", ["statement", "row"])
def test_operators_on_the_types_of_an_extension_are_the_extensions(
    engine: Engine, client: psycopg.Connection[Any], Base: type[DeclarativeBase], recorder: Recorder, level: Any
) -> None:
    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = (
            Watch("inserted", label="equal", level=level, when=lambda old, new: new.email == "A@b"),
            Watch("inserted", label="among", level=level, when=lambda old, new: new.email.in_(["a@B", "x"])),
            Watch("inserted", label="other", level=level, when=lambda old, new: new.email != "A@B"),
            Watch("inserted", label="row", level=level,
                  when=lambda old, new: sa.tuple_(new.id, new.email).in_([(1, "A@B"), (2, "x")])),
            Watch("inserted", label="text", level=level, when=lambda old, new: sa.cast(new.email, sa.Text) == "A@B"),
            Watch("inserted", label="named", level=level,
                  when=lambda old, new: new.email.bool_op("OPERATOR(public.=)")(text("'A@B'"))),
        )  # fmt: skip
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str] = mapped_column(CITEXT_TYPE)

    client.execute(CITEXT)
    Base.metadata.create_all(engine)
    User.watch.connect(recorder)
    with Listener(engine, Base) as listener:
        client.execute("INSERT INTO users VALUES (1, 'a@b')")
        listener.catch_up()
    assert {label for label, _ in recorder.heard()} == {"equal", "among", "row", "named"}
