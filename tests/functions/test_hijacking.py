"""Neither the library's own queries nor conditions call what a stranger made in a schema of the search path."""

from __future__ import annotations

import datetime
from decimal import Decimal
from threading import Event
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from postgres import VERSION
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from support import resync_reasons

from sqlalchemy_watch import Listener, Watch, Watched, context, install, muted, status, uninstall
from sqlalchemy_watch.listener.dispatch import dead_letters, once
from sqlalchemy_watch.signals.once import WHERE, Consumer
from sqlalchemy_watch.wire import DURABLE_SINCE

pytestmark = pytest.mark.server

TYPES = (
    "oid", "int2", "int4", "int8", "regtype", "regclass", "name", "text", '"char"', "pg_lsn", "timestamptz", "oid[]",
    "name[]", "int2vector",
)  # fmt: skip

TRAPS = f"""
DO $do$
DECLARE name text; a regtype; b regtype;
BEGIN
  CREATE SCHEMA traps;
  FOREACH a IN ARRAY '{{{", ".join('"' + t.replace('"', chr(92) + '"') + '"' for t in TYPES)}}}'::regtype[] LOOP
    FOREACH b IN ARRAY '{{{", ".join('"' + t.replace('"', chr(92) + '"') + '"' for t in TYPES)}}}'::regtype[] LOOP
      EXECUTE format('CREATE FUNCTION traps.trap(%s, %s) RETURNS bool LANGUAGE plpgsql AS '
        '''BEGIN RAISE EXCEPTION ''''hijacked: %1$s, %2$s''''; END''', a, b);
      FOREACH name IN ARRAY ARRAY['=', '<>', '<=', '||'] LOOP
        -- Where there is the same one in pg_catalog, which comes first, this one is never taken.
        EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = traps.trap)', name, a, b);
      END LOOP;
    END LOOP;
  END LOOP;
  CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''hijacked: unnest''; END';
END $do$;
"""


@pytest.fixture
def trapped(client: psycopg.Connection[Any], engine: Engine) -> psycopg.Connection[Any]:
    """Everything is there that a role with CREATE on schema public could make."""
    engine.connect().close()  # SQLAlchemy and psycopg look at types themselves, the first time
    client.execute(TRAPS.encode())
    with pytest.raises(psycopg.Error, match="hijacked"):
        client.execute("SELECT 1::oid = 1::int4")
    return client


def test_nothing_that_a_stranger_made_is_called(
    engine: Engine, Base: type[DeclarativeBase], trapped: psycopg.Connection[Any], recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = ("inserted", "updated")
        id: Mapped[int] = mapped_column(primary_key=True)

    trapped.execute("CREATE TABLE orders (id integer PRIMARY KEY)")
    Order.watch.connect(recorder)
    assert {item.state for item in install(engine, Base)} == {"missing"}
    trapped.execute("ALTER TABLE orders DISABLE TRIGGER watch_orders_inserted")
    assert {item.state for item in install(engine, Base)} == {"outdated"}
    with Listener(engine, Base) as listener:
        trapped.execute("INSERT INTO orders VALUES (1)")
        with engine.begin() as connection, muted(connection), context(connection, user=1):
            connection.exec_driver_sql("INSERT INTO orders VALUES (2)")
        listener.catch_up()
        assert [event.identity for event in recorder.events] == [(1,)]
    assert {item.state for item in status(engine, Base)} == {"installed"}
    assert {item.state for item in uninstall(engine, Base)} == {"installed"}
    assert "hijacked" not in caplog.text


@pytest.mark.skipif(VERSION < DURABLE_SINCE, reason="there is no durable delivery")
def test_nothing_that_a_stranger_made_is_called_by_a_durable_listener(
    engine: Engine, Base: type[DeclarativeBase], trapped: psycopg.Connection[Any], database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = ("inserted",)
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)

    def send_receipt(sender: Any, event: Any) -> None:
        raise ValueError("no such address")

    trapped.execute("CREATE TABLE orders (id integer PRIMARY KEY)")
    Order.watch.inserted.connect(send_receipt)
    install(engine, Base)
    group = f"group_{database}"
    try:
        with Listener(engine, Base, durable=group, max_attempts=1) as listener:
            trapped.execute("INSERT INTO orders VALUES (1)")
            listener.catch_up()
        assert len(dead_letters.list_letters(trapped, group)) == 1
        assert dead_letters.retry(trapped, group, None) == 1
        assert dead_letters.next_due(trapped, group) is not None
        assert dead_letters.drop(trapped, group, None) == 1
        assert "hijacked" not in caplog.text
    finally:
        trapped.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [group]
        )


@pytest.mark.skipif(VERSION < DURABLE_SINCE, reason="there is no durable delivery")
def test_nothing_that_a_stranger_made_is_called_where_rows_are_read_and_effects_happen_once(
    engine: Engine, Base: type[DeclarativeBase], trapped: psycopg.Connection[Any], database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = ("inserted", "updated")
        __watch_delivery__ = "durable"
        name: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)

    trapped.execute("CREATE TABLE orders (name varchar(20), number integer, PRIMARY KEY (name, number))")
    # PostgreSQL has none of its own for these types, so that one of a stranger's would fit better.
    trap = (
        "CREATE FUNCTION traps.trap(varchar, varchar) RETURNS bool LANGUAGE plpgsql AS "
        "'BEGIN RAISE EXCEPTION ''hijacked''; END'"
    )
    trapped.execute(trap)
    for operator in ("<", "<=", "=", ">=", ">"):
        sides = "LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = traps.trap"
        trapped.execute(f"CREATE OPERATOR public.{operator} ({sides})")
    install(engine, Base)
    trapped.execute(
        "INSERT INTO orders SELECT pg_catalog.concat('x', n), n FROM pg_catalog.generate_series(1, 300) AS n"
    )
    group, filled, read, booked = f"group_{database}", Event(), [], []
    Order.watch.read.connect(lambda sender, event: read.append(event.identity))
    Order.watch.inserted.connect_once(
        lambda sender, event, session: booked.append(event.identity), sessionmaker(engine), name="book"
    )
    try:
        with Listener(engine, Base, durable=group, backfill=True) as listener:
            listener.backfilled.connect(lambda sender, *, model, started_at: filled.set(), weak=False)
            assert filled.wait(20)
            trapped.execute("INSERT INTO orders VALUES ('y', 1)")
            listener.catch_up()
            consumer = Consumer(group, *(trapped.execute(WHERE).fetchone() or ()))
            once.clean(trapped, consumer)
        assert len(read) == 300
        assert booked == [("y", 1)]
        assert "hijacked" not in caplog.text
    finally:
        trapped.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [group]
        )


@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_condition_calls_no_operator_of_a_stranger(
    engine: Engine, Base: type[DeclarativeBase], client: psycopg.Connection[Any], recorder: Recorder, level: Any
) -> None:
    conditions: dict[str, Any] = {
        "large": lambda old, new: new.total.between(100, 200),
        "dear": lambda old, new: new.total.in_([150, 151.5]) & (new.total / 2 > 1),
        "sent": lambda old, new: new.day.is_distinct_from(datetime.date(2020, 1, 1)) & (new.day + 1 > new.day),
        "named": lambda old, new: new.name.startswith("a") | ~new.name.icontains("x"),
        "kept": lambda old, new: (new.data["a"].astext == "1") & new.data.contains(new.data) & new.data["b"].is_(None),
        "paid": lambda old, new: sa.case({100: "x"}, value=new.total, else_="y") == "y",
    }

    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = tuple(Watch("inserted", label=label, when=when, level=level) for label, when in conditions.items())
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[Decimal]
        day: Mapped[datetime.date]
        name: Mapped[str]
        data: Mapped[Any] = mapped_column(JSONB)

    Order.watch.connect(recorder)
    Base.metadata.create_all(engine)
    client.execute(
        """DO $do$ DECLARE operator record; BEGIN
        CREATE SCHEMA traps;
        FOR operator IN SELECT *, row_number() OVER () AS number FROM pg_operator
          WHERE oprleft = ANY ('{numeric, date, jsonb}'::regtype[]) OR oprname ~ '~~|@'
        LOOP
          EXECUTE format('CREATE FUNCTION traps.f%s(%s) RETURNS bool LANGUAGE plpgsql AS %L', operator.number,
            concat_ws(', ', nullif(operator.oprleft, 0)::regtype, operator.oprright::regtype),
            'BEGIN RAISE EXCEPTION ''hijacked''; END');
          EXECUTE format('CREATE OPERATOR traps.%s (%s)', operator.oprname, concat_ws(', ', 'FUNCTION = traps.f'
            || operator.number, 'LEFTARG = ' || nullif(operator.oprleft, 0)::regtype,
            'RIGHTARG = ' || operator.oprright::regtype));
        END LOOP;
        END $do$"""
    )
    with Listener(engine, Base) as listener:
        reasons = resync_reasons(listener)
        client.execute("SET search_path = traps, pg_catalog, public")
        with pytest.raises(psycopg.Error, match="hijacked"):
            client.execute("SELECT 1.0 = 1.0")
        client.execute("""INSERT INTO orders VALUES (1, 150, '2021-01-01', 'abc', '{"a": 1}')""")
        listener.catch_up()
    assert reasons == []
    assert sorted(recorder.heard()) == sorted((label, (1,)) for label in conditions)
