"""No query of the library's own calls an operator or a function that a stranger made in a schema of the search path."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Recorder
from postgres import VERSION
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watched, context, install, muted, status, uninstall
from sqlalchemy_watch.listener.dispatch import dead_letters
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
