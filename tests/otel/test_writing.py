"""The trace of a transaction that writes, in the context of its events."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, Tracer
from postgres import Cluster
from sqlalchemy import Engine, create_engine, delete, func, insert, literal, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from support import wait_until

from sqlalchemy_watch import ConfigurationError, Listener, context, muted
from sqlalchemy_watch.ambient import writes
from sqlalchemy_watch.otel import Instrumentation, instrument

from .conftest import Statements

pytestmark = pytest.mark.server

Heard = Callable[[], list[tuple[int, dict[str, Any]]]]


@pytest.fixture
def instrumented(engine: Engine) -> Iterator[Instrumentation]:
    with instrument(engine=engine) as made:
        yield made


@pytest.fixture
def heard(engine: Engine, Order: Any) -> Iterator[Heard]:
    """Returns (id, context) of each event up to now."""
    events: list[Any] = []
    with Listener(engine, Order) as listener:
        listener.events.connect(lambda sender, event: events.append(event))

        def caught_up() -> list[tuple[int, dict[str, Any]]]:
            listener.catch_up()
            return [(event.identity[0], dict(event.context)) for event in events]

        yield caught_up


def traceparent_of(span: Span) -> str:
    """Return it as W3C has it."""
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def said(span: Span, **values: Any) -> dict[str, Any]:
    return {"traceparent": traceparent_of(span), **values}


def new(number: int) -> Any:
    return text(f"INSERT INTO orders VALUES ({number}, '')")


WAYS: dict[str, Callable[[Session, Any], Any]] = {
    "ORM": lambda session, Order: session.add(Order(id=1)),
    "bulk": lambda session, Order: session.bulk_insert_mappings(Order, [{"id": 1}]),
    "ORM insert": lambda session, Order: session.execute(insert(Order), [{"id": 1}]),
    "ORM insert returning": lambda session, Order: session.scalars(insert(Order).returning(Order), [{"id": 1}]).all(),
    "Core": lambda session, Order: session.connection().execute(Order.__table__.insert().values(id=1)),
    "from select": lambda session, Order: session.execute(
        insert(Order).from_select(["id", "note"], select(literal(1), literal("")))
    ),
    "CTE": lambda session, Order: session.execute(
        select(func.count()).select_from(insert(Order).values(id=1).returning(Order.id).cte())
    ),
    "text": lambda session, Order: session.execute(text(" -- now\n/* it is */ inSERT INTO orders VALUES (1, '')")),
    "text with a CTE": lambda session, Order: session.execute(
        text("WITH made AS (INSERT INTO orders VALUES (1, '') RETURNING id) SELECT * FROM made")
    ),
    "driver": lambda session, Order: session.connection().exec_driver_sql("INSERT INTO orders VALUES (1, '')"),
    "several": lambda session, Order: session.connection().exec_driver_sql(
        "SELECT 1; INSERT INTO orders VALUES (1, '')"
    ),
    "DO": lambda session, Order: session.execute(text("DO $$ BEGIN INSERT INTO orders VALUES (1, ''); END $$")),
}


@pytest.mark.usefixtures("instrumented")
def test_whatever_writes_says_its_trace_in_one_statement(
    engine: Engine, Order: Any, tracer: Tracer, heard: Heard, statements: Statements
) -> None:
    for count, (way, write) in enumerate(WAYS.items()):
        with tracer.start_as_current_span("checkout") as span, Session(engine) as session:
            session.execute(select(Order)).all()
            assert statements.about_the_trace == count, way
            write(session, Order)
            session.flush()
            session.execute(update(Order).values(note="b"))
            session.execute(delete(Order))
            session.commit()
        assert heard()[3 * count :] == [(1, said(span))] * 3, way
        assert statements.about_the_trace == count + 1, way


@pytest.mark.usefixtures("instrumented")
def test_what_only_reads_or_writes_without_a_span_pays_nothing(
    engine: Engine, Order: Any, tracer: Tracer, heard: Heard, statements: Statements
) -> None:
    with tracer.start_as_current_span("checkout"), Session(engine) as session:
        session.execute(select(Order).with_for_update()).all()
        session.execute(text("SELECT * FROM orders FOR UPDATE"))
        session.execute(text("SHOW server_version"))
        session.execute(text("SET LOCAL work_mem = '8MB'"))
        session.execute(text("LOCK TABLE orders"))
        session.commit()
    with engine.begin() as connection:
        connection.execute(new(1))
    assert statements.about_the_trace == 0
    assert len(statements.all) == 6
    assert heard() == [(1, {})]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_every_driver_says_it(
    driver: str, cluster: Cluster, database: str, Order: Any, tracer: Tracer, heard: Heard
) -> None:
    engine = create_engine(cluster.url(database, driver))
    with instrument(engine=engine):
        for number in (1, 2):  # over the same connection
            with tracer.start_as_current_span("checkout") as span, Session(engine) as session:
                with context(session, ünï="\0%(x)s :y $1"):
                    session.add(Order(id=number))
                session.commit()
            assert heard()[-1] == (number, said(span, ünï="\0%(x)s :y $1"))
        with engine.begin() as connection:  # nothing stays behind on it
            connection.execute(new(3))
        assert heard()[-1] == (3, {})
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_asynchronous_engines_say_it_of_each_task(
    driver: str, cluster: Cluster, database: str, Order: Any, tracer: Tracer, heard: Heard
) -> None:
    async def write(engine: Any, number: int) -> tuple[int, dict[str, Any]]:
        with tracer.start_as_current_span("checkout") as span:
            async with AsyncSession(engine) as session:
                session.add(Order(id=number))
                async with context(session, n=number):
                    session.add(Order(id=-number))
                await session.commit()
        return number, said(span)

    async def main() -> list[tuple[int, dict[str, Any]]]:
        engine = create_async_engine(cluster.url(database, driver))
        with instrument(engine=engine):
            written = await asyncio.gather(*(write(engine, number) for number in range(1, 6)))
            autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
            with tracer.start_as_current_span("checkout"):
                async with autocommit.connect() as connection:
                    await connection.execute(new(7))
        await engine.dispose()
        return written

    written = asyncio.run(main())
    expected = written + [(-number, {**context, "n": number}) for number, context in written] + [(7, {})]
    assert sorted(heard(), key=str) == sorted(expected, key=str)


@pytest.mark.usefixtures("instrumented")
def test_what_the_writer_says_is_kept_whichever_comes_first(
    engine: Engine, tracer: Tracer, heard: Heard, statements: Statements
) -> None:
    with tracer.start_as_current_span("checkout") as span, engine.begin() as connection:
        connection.execute(new(1))
        with context(connection, a=1):
            connection.execute(new(2))
            with context(connection, b=[2]):
                connection.execute(new(3))
            connection.execute(new(4))
        connection.execute(new(5))
        with context(connection):
            connection.execute(new(6))
        with muted(connection):
            connection.execute(new(7))
        connection.execute(new(8))
    assert statements.about_the_trace == 1
    with tracer.start_as_current_span("another") as other, engine.begin() as connection:
        with context(connection, a=1):
            connection.execute(new(11))
            with context(connection, b=[2]):
                connection.execute(new(12))
            connection.execute(new(13))
        connection.execute(new(14))  # the block's end took all back that was not there before
        with context(connection, c=3):
            connection.execute(new(15))
        connection.execute(new(16))
        with context(connection):
            connection.execute(new(17))
    assert statements.about_the_trace == 3
    assert heard() == [
        (1, said(span)), (2, said(span, a=1)), (3, said(span, a=1, b=[2])), (4, said(span, a=1)), (5, said(span)),
        (6, said(span)), (8, said(span)),
        (11, said(other, a=1)), (12, said(other, a=1, b=[2])), (13, said(other, a=1)), (14, said(other)),
        (15, said(other, c=3)), (16, said(other)), (17, said(other)),
    ]  # fmt: skip


@pytest.mark.usefixtures("instrumented")
def test_a_traceparent_that_the_writer_says_itself_is_kept(engine: Engine, tracer: Tracer, heard: Heard) -> None:
    own = f"00-{1:032x}-{1:016x}-01"
    with tracer.start_as_current_span("checkout") as span, engine.begin() as connection:
        with context(connection, traceparent=own):
            connection.execute(new(1))
        connection.execute(new(2))
        with context(connection, traceparent=own):
            connection.execute(new(3))
        connection.execute(new(4))
    assert heard() == [(1, {"traceparent": own}), (2, said(span)), (3, {"traceparent": own}), (4, said(span))]


@pytest.mark.usefixtures("instrumented")
def test_a_context_with_no_room_left_goes_alone(
    engine: Engine, tracer: Tracer, heard: Heard, statements: Statements
) -> None:
    room = 2000 - len('"{\\"x\\":\\"\\"}"')
    with tracer.start_as_current_span("checkout") as span, engine.begin() as connection:
        with context(connection, x="x" * room):
            connection.execute(new(1))
            connection.execute(new(2))
        connection.execute(new(3))
        with context(connection, x="x" * room):
            connection.execute(new(4))
            connection.execute(new(5))
        connection.execute(new(6))
        with pytest.raises(ConfigurationError, match="2001 bytes"), context(connection, x="x" * (room + 1)):
            pass
        with context(connection, y=1), context(connection, x="x" * (room - 80)):
            connection.execute(new(7))
        connection.execute(new(8))
    full = {"x": "x" * room}
    assert heard() == [
        (1, full), (2, full), (3, said(span)), (4, full), (5, full), (6, said(span)),
        (7, {"y": 1, "x": "x" * (room - 80)}), (8, said(span)),
    ]  # fmt: skip


@pytest.mark.usefixtures("instrumented")
def test_what_was_set_by_hand_makes_no_write_fail(engine: Engine, tracer: Tracer, heard: Heard) -> None:
    values = ["no JSON", "{", "[1]", "{}", " {}", '"x"', "'", "\\", "{\\", "{" * 1999, "é" * 999]
    expected = []
    for number, by_hand in enumerate(values):
        with tracer.start_as_current_span("checkout") as span, engine.begin() as connection:
            set_it = text("SELECT set_config('sqlalchemy_watch.context', :by_hand, true)")
            connection.execute(set_it, {"by_hand": by_hand})
            connection.execute(new(number))
        expected.append((number, said(span) if by_hand == "{}" else {}))
    assert heard() == expected


@pytest.mark.usefixtures("instrumented")
def test_the_first_span_of_a_trace_stands_for_the_transaction_and_another_trace_takes_its_place(
    engine: Engine, tracer: Tracer, heard: Heard, statements: Statements
) -> None:
    with engine.begin() as connection:
        with tracer.start_as_current_span("first") as first:
            connection.execute(new(1))
            with tracer.start_as_current_span("of the same trace"):
                connection.execute(new(2))
        connection.execute(new(3))
        with tracer.start_as_current_span("second") as second, context(connection, a=1):
            connection.execute(new(4))
            connection.execute(new(5))
        with tracer.start_as_current_span("third") as third:
            connection.execute(new(6))
    assert heard() == [
        (1, said(first)), (2, said(first)), (3, said(first)),
        (4, said(second, a=1)), (5, said(second, a=1)), (6, said(third)),
    ]  # fmt: skip
    assert statements.about_the_trace == 3


@pytest.mark.usefixtures("instrumented")
def test_savepoints_take_it_back_and_it_is_said_again(
    engine: Engine, Order: Any, tracer: Tracer, heard: Heard, statements: Statements
) -> None:
    with tracer.start_as_current_span("checkout") as span, Session(engine) as session:
        with session.begin_nested():
            session.add(Order(id=1))
        session.add(Order(id=2))
        session.flush()
        assert statements.about_the_trace == 1  # a savepoint that is released keeps it
        session.commit()
        with contextlib.suppress(KeyError), session.begin_nested():
            session.add(Order(id=3))
            session.flush()
            raise KeyError
        session.add(Order(id=4))
        session.flush()
        with contextlib.suppress(KeyError), session.begin_nested(), context(session, a=1):
            raise KeyError
        session.add(Order(id=5))
        session.commit()
    assert heard() == [(number, said(span)) for number in (1, 2, 4, 5)]
    with engine.begin() as connection:
        with tracer.start_as_current_span("first") as first:
            connection.execute(new(11))
        with tracer.start_as_current_span("second") as second:
            with connection.begin_nested() as nested:
                connection.execute(new(12))
                nested.rollback()
            connection.execute(new(13))
    assert heard()[4:] == [(11, said(first)), (13, said(second))]


@pytest.mark.usefixtures("instrumented")
def test_two_phases_and_isolation_levels_are_taken(
    cluster: Cluster, engine: Engine, Order: Any, tracer: Tracer, heard: Heard
) -> None:
    with tracer.start_as_current_span("checkout") as span:
        with engine.connect() as connection, connection.begin_twophase() as transaction:
            connection.execute(new(1))
            transaction.commit()  # not prepared: no transaction can be that notifies
        with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection, connection.begin():
            connection.execute(new(2))
        with engine.begin() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            connection.execute(new(3))
        with engine.connect().execution_options(stream_results=True, yield_per=5) as connection, connection.begin():
            connection.execute(
                insert(Order).values(id=4), execution_options={"stream_results": False, "yield_per": None}
            )
    assert heard() == [(number, said(span)) for number in (1, 2, 3, 4)]


@pytest.mark.usefixtures("instrumented")
def test_autocommit_says_nothing_and_works(
    engine: Engine, tracer: Tracer, heard: Heard, statements: Statements, client: psycopg.Connection[Any]
) -> None:
    notices: list[str] = []
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with tracer.start_as_current_span("checkout"), autocommit.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
        connection.execute(new(1))
    assert heard() == [(1, {})]
    assert statements.about_the_trace == 0
    assert notices == []


@pytest.mark.usefixtures("instrumented")
def test_a_transaction_that_has_failed_keeps_its_own_errors(
    engine: Engine, tracer: Tracer, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    with tracer.start_as_current_span("checkout") as span, engine.connect() as connection:
        with pytest.raises(DBAPIError, match="no_such_table"):
            connection.execute(text("SELECT * FROM no_such_table"))
        with pytest.raises(DBAPIError, match="InFailedSqlTransaction") as raised:
            connection.execute(new(1))
        assert raised.value.statement == new(1).text
        connection.rollback()
        connection.execute(new(2))
        connection.rollback()
        connection.execute(new(3))
        connection.commit()
    assert heard() == [(3, said(span))]
    assert not [record for record in caplog.records if record.name == "sqlalchemy_watch.ambient"]


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("is_first", [True, False])
def test_a_connection_that_is_lost_is_told_of_as_without_it(
    is_first: bool, engine: Engine, client: psycopg.Connection[Any], tracer: Tracer, heard: Heard
) -> None:
    with tracer.start_as_current_span("checkout") as span, engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        if not is_first:
            connection.execute(new(1))
        client.execute("SELECT pg_terminate_backend(%s)", [pid])
        wait_until(client, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", pid)
        with pytest.raises(OperationalError) as raised:
            connection.execute(new(2))
        assert raised.value.connection_invalidated
        connection.rollback()
        connection.execute(new(3))
        connection.commit()
    assert heard() == [(3, said(span))]


def test_where_it_may_not_be_said_any_more_one_transaction_alone_is_lost(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], tracer: Tracer, heard: Heard
) -> None:
    role = f"writer_{database}"
    client.execute(f"CREATE ROLE {role} LOGIN")
    client.execute(f"GRANT ALL ON orders TO {role}")
    engine = create_engine(cluster.url(database, "psycopg"), connect_args={"user": role})

    def write(number: int) -> None:
        with engine.begin() as connection:
            connection.execute(new(number))

    try:
        with instrument(engine=engine), tracer.start_as_current_span("checkout") as span:
            write(1)
            client.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.set_config FROM PUBLIC")
            with pytest.raises(ProgrammingError, match="permission denied for function set_config"):
                write(2)
            write(3)
            write(4)
        assert heard() == [(1, said(span)), (3, {}), (4, {})]
    finally:
        engine.dispose()
        client.execute(f"DROP OWNED BY {role}")
        client.execute(f"DROP ROLE {role}")


def test_a_role_that_may_not_say_it_writes_all_the_same(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], tracer: Tracer, heard: Heard,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    role = f"writer_{database}"
    client.execute(f"CREATE ROLE {role} LOGIN")
    client.execute(f"GRANT ALL ON orders TO {role}")
    client.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.set_config FROM PUBLIC")
    engine = create_engine(cluster.url(database, "psycopg"), connect_args={"user": role})
    try:
        with instrument(engine=engine), tracer.start_as_current_span("checkout"):
            for number in (1, 2):
                with engine.begin() as connection:
                    connection.execute(new(number))
                    connection.execute(new(number + 10))
        assert heard() == [(1, {}), (11, {}), (2, {}), (12, {})]
    finally:
        engine.dispose()
        client.execute(f"DROP OWNED BY {role}")
        client.execute(f"DROP ROLE {role}")
    told = [record for record in caplog.records if record.name == "sqlalchemy_watch.ambient"]
    assert [record.levelno for record in told if record.levelno > logging.DEBUG] == [logging.WARNING]
    assert "permission denied for function set_config" in told[0].getMessage()


def test_a_transaction_that_is_canceled_meanwhile_says_so(
    engine: Engine, tracer: Tracer, instrumented: Instrumentation, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracer.start_as_current_span("checkout") as span:
        with engine.begin() as connection:
            connection.execute(new(1))
        monkeypatch.setattr("sqlalchemy_watch.ambient._SAY_FIRST", text("SELECT pg_sleep(60), CAST(:pair AS text)"))
        with engine.connect() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 50"))
            with pytest.raises(DBAPIError, match="QueryCanceled"):
                connection.execute(new(2))
    assert heard() == [(1, said(span))]


def test_what_fails_to_be_said_is_warned_of_once_and_left_out(
    engine: Engine, tracer: Tracer, heard: Heard, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise LookupError("no span today")

    monkeypatch.setattr("sqlalchemy_watch.otel.instrumentation.find_trace", fail)
    with instrument(engine=engine), tracer.start_as_current_span("checkout"), engine.begin() as connection:
        connection.execute(new(1))
        connection.execute(new(2))
    assert heard() == [(1, {}), (2, {})]
    told = [record for record in caplog.records if record.name == "sqlalchemy_watch.ambient"]
    assert [(record.levelno, record.getMessage()) for record in told if record.levelno > logging.DEBUG] == [
        (logging.WARNING, "events of this transaction lack what goes with all others (no span today)")
    ]


def test_connections_that_are_open_already_say_it_and_stop_where_it_ends(
    engine: Engine, tracer: Tracer, heard: Heard
) -> None:
    with engine.connect() as connection, tracer.start_as_current_span("checkout") as span:
        with engine.connect() as other:
            made = instrument(engine=engine.execution_options(logging_token="twice"))
            again = instrument(engine=engine)
            with engine.execution_options(logging_token="option").begin() as optional:
                optional.execute(new(1))
            other.execute(new(2))
            other.commit()
        connection.execute(new(3))
        connection.commit()
        made.close()
        again.close()
        again.close()
        connection.execute(new(4))
        connection.commit()
    assert heard() == [(1, said(span)), (2, said(span)), (3, said(span)), (4, {})]


def test_an_engine_that_nobody_uses_any_more_is_not_kept(cluster: Cluster, database: str) -> None:
    engine = create_engine(cluster.url(database, "psycopg"))
    instrument(engine=engine)
    reference = weakref.ref(engine)
    del engine
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("ours_first", [True, False])
def test_it_works_beside_the_instrumentation_of_sqlalchemy(
    ours_first: bool, engine: Engine, Order: Any, provider: TracerProvider, tracer: Tracer, heard: Heard,
    exporter: InMemorySpanExporter,
) -> None:  # fmt: skip
    instrumentor = SQLAlchemyInstrumentor()
    with contextlib.ExitStack() as stack:
        if ours_first:
            stack.enter_context(instrument(engine=engine))
        # It says that it is not for SQLAlchemy 2.1 yet.
        instrumentor.instrument(engine=engine, tracer_provider=provider, enable_commenter=True, skip_dep_check=True)
        stack.callback(instrumentor.uninstrument)
        if not ours_first:
            stack.enter_context(instrument(engine=engine))
        with tracer.start_as_current_span("checkout") as span, Session(engine) as session:
            session.execute(select(Order)).all()
            with context(session, a=1):
                session.add(Order(id=1))
            session.commit()
    assert heard() == [(1, said(span, a=1))]
    others = ("checkout", "connect")  # a connection of the pool may be made at any time
    spans = [each for each in exporter.get_finished_spans() if each.name not in others]
    assert all(each.parent is not None and each.parent.span_id == span.get_span_context().span_id for each in spans)
    names = [each.name.split()[0] for each in spans if each.name.split()[0] != "connect"]
    # The first time in a savepoint. A SELECT of the rows, context's three, and the trace's.
    assert sorted(names) == ["INSERT", "RELEASE", "SAVEPOINT", *["SELECT"] * 5]


WRITER = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy import create_engine, text
from sqlalchemy_watch.otel import instrument

engine = create_engine(sys.argv[1])
instrument(engine=engine)
with TracerProvider().get_tracer("writer").start_as_current_span("checkout") as span, engine.begin() as connection:
    connection.execute(text("INSERT INTO orders VALUES (1, '')"))
print(f"{span.get_span_context().trace_id:032x} {span.get_span_context().span_id:016x}")
"""


def test_a_writer_in_another_process_is_linked_to(
    cluster: Cluster, database: str, engine: Engine, Order: Any, provider: TracerProvider,
    exporter: InMemorySpanExporter,
) -> None:  # fmt: skip
    Order.watch.inserted.connect(lambda sender, event: None)
    with Listener(engine, Order) as listener, instrument(listener, tracer_provider=provider):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", WRITER, cluster.url(database, "psycopg")],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        listener.catch_up()
    (span,) = exporter.get_finished_spans()
    (link,) = span.links
    assert f"{link.context.trace_id:032x} {link.context.span_id:016x}" == done.stdout.strip()


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("INSERT INTO t VALUES (1)", True),
        ("insert into t values (1)", True),
        ("\n\t ((/* a */ -- b\n UPDATE t SET a = 1", True),
        ("/* a * / ** */DELETE FROM t", True),
        ("MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE", True),
        ("COPY t FROM '/tmp/t'", True),
        ("TRUNCATE t", True),
        ("CALL p()", True),
        ("DO $$ BEGIN END $$", True),
        ("EXECUTE prepared", True),
        ("WITH a AS (SELECT 1) insert INTO t SELECT * FROM a", True),
        ("EXPLAIN (ANALYZE) UPDATE t SET a = 1", True),
        ("SELECT 1; DELETE FROM t", True),
        ("SELECT 1", False),
        ("SELECT 1;", False),
        ("SELECT 1 ; \n", False),
        ("SELECT * FROM t FOR UPDATE", False),
        ("(SELECT deleted, updated FROM t)", False),
        ("WITH a AS (SELECT inserted FROM t) SELECT * FROM a", False),
        ("SELECT 'a;b' FROM t", False),
        ("VALUES (1)", False),
        ("DOCUMENT", False),
        ("-- UPDATE t", False),
        ("/* UPDATE t", False),
        ("", False),
        (";", False),
        ("CREATE TABLE t (a int)", False),
        ("SAVEPOINT s", False),
    ],
)
def test_statements_that_write_are_told_by_their_text(statement: str, expected: bool) -> None:
    assert writes(statement) is expected


def test_a_long_comment_takes_no_time_to_pass() -> None:
    assert not writes("/* a */ " * 20_000 + "/* " * 20_000)
