"""Against a real server: what is missing is found, and the SQL that is told meets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from listener.pooler import PGBOUNCER, pgbouncer, transaction_pooler
from postgres import Cluster, needs_logical_messages
from psycopg import sql
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import wait_until

from sqlalchemy_watch import Listener, RetryPolicy, Watched, install
from sqlalchemy_watch.doctor import Finding, Part, examine, reading, subject_of_listener, subject_of_target
from sqlalchemy_watch.listener.notify.exclusive import lock_key

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

#: A name that is more than one word to SQL, to a shell and to a terminal.
ODD = 'o"h; \x1b[2J$(rm) %s'


@pytest.fixture
def role(client: Client, database: str) -> Iterator[str]:
    """A role that may log in, and write; each test has one of its own, since roles are the server's."""
    name = f"app_{database}"
    client.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield name
    drop_role(client, name)


def drop_role(client: Client, name: str) -> None:
    client.execute(
        sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(name)).as_string().encode()
    )


@pytest.fixture
def app(cluster: Cluster, database: str, role: str) -> Iterator[Engine]:
    """The engine of that role."""
    engine = create_engine(f"postgresql+psycopg://{role}@127.0.0.1:{cluster.port}/{database}")
    yield engine
    engine.dispose()


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    """A model with a watch of each delivery; the table exists, and has its triggers."""

    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = ("inserted", "deleted")
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    return Order


@pytest.fixture
def Payment(Base: type[DeclarativeBase], engine: Engine) -> Any:
    """A durable model; the table exists, and has its trigger."""

    class Payment(Watched, Base):
        __tablename__ = "payments"
        __watch__ = ("inserted",)
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    return Payment


def of(findings: list[Finding], state: str, part: Part | None = None) -> list[str]:
    return [f.what for f in findings if f.state == state and part in (None, f.part)]


def run_sql(client: Client, findings: list[Finding]) -> list[str]:
    """Run the statements that are told for what is missing, as an administrator."""
    told = [r.text for f in findings if f.state == "missing" for r in f.remedies if r.kind == "sql"]
    for statement in told:
        client.execute(statement.encode())
    return told


def test_nothing_is_missing_where_all_is_well(Order: Any, engine: Engine, client: Client) -> None:
    findings = examine(subject_of_listener(Listener(engine, Order)))
    assert of(findings, "missing") == of(findings, "warning") == []
    assert of(findings, "met", "triggers") == ["2 of 2 triggers are installed"]
    assert of(findings, "met", "pooler") == ["none in between"]
    assert of(findings, "met", "listeners") == ["0 sessions of this library listen here"]
    one = ["1 session of this library listens here"]
    with Listener(engine, Order):
        wait_until(
            client, lambda: of(examine(subject_of_target("shop:Order", Order, engine)), "met", "listeners") == one
        )


def test_a_model_that_looks_watched_and_is_not_is_a_warning(Order: Any, Base: Any, engine: Engine) -> None:
    class Book(Base):  # type: ignore[misc]
        __tablename__ = "books"
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    findings = examine(subject_of_target("shop:Base", Base, engine))
    (found,) = [finding for finding in findings if finding.state == "warning" and finding.part == "triggers"]
    assert found.what == "Book has __watch__ and is not Watched, so that nothing of it is heard"
    assert [remedy.text for remedy in found.remedies] == ["class Book(Watched, Base)"]


def test_nothing_is_changed_by_looking(Order: Any, Payment: Any, engine: Engine, client: Client) -> None:
    def objects() -> Any:
        query = "SELECT array_agg(oid::text || xmin::text ORDER BY oid) FROM {}"
        catalogs = ("pg_class", "pg_proc", "pg_trigger", "pg_publication", "pg_namespace")
        return [client.execute(query.format(catalog).encode()).fetchone() for catalog in catalogs]

    before = objects()
    examine(subject_of_listener(Listener(engine, Order, Payment, durable="mailer", max_attempts=3)))
    assert objects() == before
    assert client.execute("SELECT FROM pg_replication_slots WHERE database = current_database()").fetchone() is None


def test_rights_to_install_are_told_and_granting_them_is_enough(Order: Any, app: Engine, client: Client) -> None:
    client.execute("DROP FUNCTION watch_orders_inserted CASCADE; DROP FUNCTION watch_orders_deleted CASCADE")
    client.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # as it is from PostgreSQL 15 on
    findings = examine(subject_of_target("shop:Order", Order, app))
    (what,) = of(findings, "missing", "triggers")
    assert what == "the triggers of orders/inserted, orders/deleted are missing (there is no such trigger)"
    assert [f.remedies[0].text for f in findings if f.part == "triggers"] == ["sqlalchemy-watch install shop:Order"]
    user = app.url.username
    assert of(findings, "missing", "role") == [f"'{user}' may not install triggers on public.orders"]
    assert run_sql(client, findings) == [
        f"GRANT TRIGGER ON public.orders TO {user};", f"GRANT CREATE ON SCHEMA public TO {user};",
    ]  # fmt: skip
    install(app, Order)
    assert of(examine(subject_of_target("shop:Order", Order, app)), "missing") == []


def test_function_of_another_role_is_replaced_by_that_one(Order: Any, app: Engine, client: Client) -> None:
    client.execute("GRANT TRIGGER ON orders TO PUBLIC; GRANT CREATE ON SCHEMA public TO PUBLIC")
    client.execute("ALTER FUNCTION watch_orders_inserted() COST 7")
    body = client.execute("SELECT pg_get_functiondef('watch_orders_inserted'::regproc)").fetchone()
    assert body is not None
    client.execute(body[0].replace("RETURN NULL", "RETURN  NULL").encode())
    findings = examine(subject_of_target("shop:Order", Order, app))
    assert any("is outdated" in what for what in of(findings, "missing", "triggers"))
    user = app.url.username
    assert of(findings, "missing", "role") == [f"'{user}' may not replace trigger functions of 'postgres'"]


def test_migrations_are_told_where_alembic_has_been(Order: Any, engine: Engine, client: Client) -> None:
    client.execute("CREATE TABLE alembic_version (version_num text); DROP TRIGGER watch_orders_inserted ON orders")
    findings = examine(subject_of_target("shop:Order", Order, engine))
    (missing,) = [f for f in findings if f.state == "missing"]
    assert missing.remedies[0].text == "alembic upgrade head"
    assert missing.remedies[1].text.startswith("alembic revision --autogenerate")


def test_writers_that_may_not_notify_are_heard_once_they_may(
    Order: Any, Payment: Any, app: Engine, client: Client
) -> None:
    user = app.url.username
    client.execute(f"GRANT INSERT ON orders, payments TO {user}".encode())
    client.execute(
        "REVOKE EXECUTE ON FUNCTION pg_notify FROM PUBLIC; "
        "DO $$ BEGIN EXECUTE (SELECT string_agg(format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', oid::regprocedure),"
        " ';') FROM pg_proc WHERE proname = 'pg_logical_emit_message'); END $$"
    )
    findings = examine(subject_of_target("shop:Base", Order.metadata, app))
    assert f"'{user}' may not execute pg_notify" in of(findings, "missing", "role")
    silent = [what for what in of(findings, "missing", "triggers") if "may write to" in what]
    assert f"'{user}' may write to orders, and not execute pg_notify" in silent
    assert f"'{user}' may write to payments, and not execute pg_logical_emit_message" in silent
    run_sql(client, [f for f in findings if "execute" in f.what])
    findings = examine(subject_of_target("shop:Base", Order.metadata, app))
    assert not [what for what in of(findings, "missing") if "execute" in what]


def test_sessions_in_which_no_trigger_fires_are_found(Order: Any, app: Engine, client: Client) -> None:
    client.execute(f"ALTER ROLE {app.url.username} SET session_replication_role = replica".encode())
    findings = examine(subject_of_target("shop:Order", Order, app))
    assert of(findings, "missing", "settings")[0].startswith("session_replication_role is 'replica'")
    assert run_sql(client, findings) == [f"ALTER ROLE {app.url.username} RESET session_replication_role;"]
    assert of(examine(subject_of_target("shop:Order", Order, app)), "missing") == []


def test_table_in_a_schema_that_the_role_may_not_use_is_found(Order: Any, app: Engine, client: Client) -> None:
    client.execute("CREATE SCHEMA hidden; ALTER TABLE orders SET SCHEMA hidden")
    findings = examine(subject_of_target("shop:Order", Order, app))
    assert "which the role" in of(findings, "missing", "triggers")[0]
    assert run_sql(client, findings) == [f"GRANT USAGE ON SCHEMA hidden TO {app.url.username};"]
    findings = examine(subject_of_target("shop:Order", Order, app))
    assert "where the search_path does not lead" in of(findings, "missing", "triggers")[0]
    run_sql(client, findings)
    findings = examine(subject_of_target("shop:Order", Order, app))
    assert "not found" not in " ".join(of(findings, "missing"))


def test_schemas_that_a_listener_hears_are_looked_at_one_by_one(Order: Any, engine: Engine, client: Client) -> None:
    client.execute("DROP TABLE orders; DROP FUNCTION watch_orders_inserted, watch_orders_deleted")
    for schema in ("tenant_a", "tenant_b"):
        client.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.orders (id int PRIMARY KEY)".encode())
    install(engine.execution_options(schema_translate_map={None: "tenant_a"}), Order)
    for schemas in (("tenant_a", "tenant_b"), "*"):
        findings = examine(subject_of_listener(Listener(engine, Order, schemas=schemas)))
        assert of(findings, "missing") == [
            "the triggers of tenant_b.orders/inserted, tenant_b.orders/deleted are missing (there is no such trigger)"
        ]
        assert of(findings, "met", "triggers") == ["2 of 4 triggers are installed"]


def test_lock_that_a_stranger_holds_is_found(
    Order: Any, engine: Engine, cluster: Cluster, database: str, role: str
) -> None:
    listener = Listener(engine, Order, exclusive="mail")
    assert of(examine(subject_of_listener(listener)), "met", "listeners")[-1] == (
        "nobody is heard as exclusive='mail' at present"
    )
    with cluster.connect(database, user=role) as stranger:
        stranger.execute("SELECT pg_advisory_lock(%s)", [lock_key("mail")])
        findings = examine(subject_of_listener(listener))
    assert of(findings, "missing")[0].startswith("the lock of exclusive='mail' is held by another role (pid ")


@needs_logical_messages
def test_what_a_group_needs_is_found_and_the_sql_is_enough(Payment: Any, app: Engine, client: Client) -> None:
    policy = RetryPolicy(max_attempts=3)
    listener = Listener(app, Payment, durable=f"group_{app.url.database}", retry=policy)
    findings = examine(subject_of_listener(listener))
    user = app.url.username
    assert of(findings, "missing") == [
        f"'{user}' may not start replication",
        f"the publication 'sqlalchemy_watch' and the table sqlalchemy_watch.dead_letters are missing, and '{user}' "
        f"may not make that",
    ]
    assert run_sql(client, findings) == [f"ALTER ROLE {user} REPLICATION;"]
    client.execute(f"GRANT CREATE ON DATABASE {app.url.database} TO {user}".encode())
    assert of(examine(subject_of_listener(listener)), "missing") == []
    try:
        with listener:
            findings = examine(subject_of_listener(listener))
            assert any("is read by pid" in what for what in of(findings, "met", "slot"))
        findings = examine(subject_of_listener(listener))
        assert "is read by nobody at present" in of(findings, "warning", "slot")[0]
        assert of(examine(subject_of_target("shop:Payment", Payment, app)), "warning", "slot")
    finally:
        client.execute("SELECT pg_drop_replication_slot(%s)", [f"group_{app.url.database}"])
        client.execute("DROP PUBLICATION sqlalchemy_watch")


@needs_logical_messages
def test_slot_of_another_database_is_something_else_s(Payment: Any, engine: Engine, cluster: Cluster) -> None:
    name = f"group_{engine.url.database}"
    with cluster.connect() as elsewhere:
        elsewhere.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
        findings = examine(subject_of_target("shop:Payment", Payment, engine, name))
        elsewhere.execute("SELECT pg_drop_replication_slot(%s)", [name])
    assert of(findings, "missing") == [f"the slot '{name}' is of the database 'postgres'"]


def test_what_the_role_may_not_look_at_is_said_and_the_rest_is_looked_at(
    Payment: Any, app: Engine, client: Client
) -> None:
    client.execute("REVOKE SELECT ON pg_catalog.pg_replication_slots FROM PUBLIC")
    findings = examine(subject_of_target("shop:Payment", Payment, app))
    assert "could not look at slots: permission denied for view pg_replication_slots" in of(findings, "warning")
    assert of(findings, "met", "triggers") == ["1 of 1 triggers is installed"]


def test_connection_that_is_lost_meanwhile_is_not_taken_for_well(
    Order: Any, engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_idle = reading.read_idle

    def lose(fetch: Any) -> Any:
        client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch doctor'"
        )
        return read_idle(fetch)

    monkeypatch.setattr(reading, "read_idle", lose)
    findings = examine(subject_of_target("shop:Order", Order, engine))
    (what,) = of(findings, "missing")
    assert what.startswith("could not look at open transactions: ")
    assert of(findings, "met", "triggers") == []


def test_provider_is_named_and_has_its_own_commands(Payment: Any, app: Engine, client: Client) -> None:
    client.execute("CREATE ROLE rds_superuser; CREATE ROLE rds_replication")
    try:
        findings = examine(subject_of_target("shop:Payment", Payment, app, "mailer"))
        assert of(findings, "met", "platform") == ["Amazon RDS, by the role rds_superuser"]
        assert f"GRANT rds_replication TO {app.url.username};" in run_sql(client, findings)
    finally:
        client.execute("DROP ROLE rds_superuser, rds_replication")


def test_odd_names_are_quoted_wherever_they_are_told(Order: Any, cluster: Cluster, client: Client) -> None:
    client.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(ODD)))
    try:
        engine = create_engine("postgresql+psycopg://", connect_args={
            "host": "127.0.0.1", "port": cluster.port, "dbname": client.info.dbname, "user": ODD,
        })  # fmt: skip
        client.execute("DROP FUNCTION watch_orders_inserted CASCADE")
        findings = examine(subject_of_target("shop:Order", Order, engine, "mailer"))
        assert len(run_sql(client, findings)) >= 2
        install(engine, Order)
        engine.dispose()
        assert of(examine(subject_of_target("shop:Order", Order, engine)), "missing") == []
    finally:
        drop_role(client, ODD)


POOLERS = {"one session": 1, "two sessions in turn": 2}


@pytest.mark.parametrize("kind", [*POOLERS, "PgBouncer"])
def test_pooler_of_transactions_is_found(Order: Any, cluster: Cluster, database: str, kind: str) -> None:
    if kind == "PgBouncer" and PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed")
    running: AbstractContextManager[int] = (
        transaction_pooler(cluster, database, POOLERS[kind]) if kind in POOLERS else pgbouncer(cluster, "transaction")
    )
    with running as port:
        engine = create_engine(f"postgresql+psycopg://postgres:pa55@127.0.0.1:{port}/{database}")
        listener = Listener(engine, Order, heartbeat_timeout=1)
        findings = examine(subject_of_listener(listener))
        direct = Listener(engine, Order, listen_url=f"postgresql://postgres@127.0.0.1:{cluster.port}/{database}")
        assert of(examine(subject_of_listener(direct)), "missing") == []
        engine.dispose()
    name = "PgBouncer " if kind == "PgBouncer" else "a pooler of transactions"
    (what,) = of(findings, "missing")
    assert what.startswith(f"the connection goes through {name}")
    assert "pa55" not in str(findings)


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")
def test_pgbouncer_that_pools_sessions_is_named_and_will_do(Order: Any, cluster: Cluster, database: str) -> None:
    with pgbouncer(cluster, "session") as port:
        engine = create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{port}/{database}")
        findings = examine(subject_of_target("shop:Order", Order, engine))
        engine.dispose()
    assert of(findings, "missing") == []
    (what,) = of(findings, "met", "pooler")
    assert what.startswith("PgBouncer ")
    assert what.endswith("in between, and notifications come through")


def test_server_without_logical_decoding_and_a_standby(Base: type[DeclarativeBase]) -> None:
    class Invoice(Watched, Base):
        __tablename__ = "invoices"
        __watch__ = ("inserted",)
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)

    server = Cluster(wal_level="replica", max_wal_senders=0, max_replication_slots=0).start()
    try:
        engine = create_engine(server.url(driver="psycopg"))
        Base.metadata.create_all(engine)
        findings = examine(subject_of_target("shop:Invoice", Invoice, engine, "mailer"))
        missing = of(findings, "missing", "settings")
        assert {what.split(" is ")[0] for what in missing if "wal_level" in what} <= {"wal_level"}
        assert "all 0 walsenders (max_wal_senders) are taken" in missing
        assert "all 0 replication slots (max_replication_slots) are taken" in missing
        with server.connect() as admin:
            run_sql(admin, [f for f in findings if f.part == "settings"])
        engine.dispose()
        server.restart()
        findings = examine(subject_of_target("shop:Invoice", Invoice, engine, "mailer"))
        assert of(findings, "missing", "settings") == []
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        engine.dispose()
        server.stop("fast")
        (server.data / "standby.signal").touch()
        server.start()
        findings = examine(subject_of_target("shop:Invoice", Invoice, engine, "mailer"))
        assert [f.part for f in findings] == ["server", "platform"]
        assert of(findings, "missing") == ["the server is a hot standby, where LISTEN is not possible"]
    finally:
        server.remove()
