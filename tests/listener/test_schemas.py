"""Tables declared without a schema: heard where the engine leads, wherever that is, and nothing is lost in silence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool, StaticPool
from support import resync_reasons, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched, install, status
from sqlalchemy_watch.listener.dispatch import placing
from sqlalchemy_watch.listener.server import asking
from sqlalchemy_watch.listener.server.schemas import parse_path

from .insides import dispatcher_of

Client = psycopg.Connection[Any]

LEVELS = ["statement", "row"]
DRIVERS = ["psycopg", "psycopg2", "pg8000", "asyncpg", "psycopg_async"]


def declare(Base: type[DeclarativeBase], level: Any = "statement", **options: Any) -> Any:
    class Account(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "accounts"
        __table_args__ = options
        __watch__ = [Watch(operation, delivery="both", level=level) for operation in ("inserted", "deleted")]
        id: Mapped[int] = mapped_column(primary_key=True)

    return Account


@pytest.fixture
def Account(Base: type[DeclarativeBase]) -> Any:
    """A model heard by both routes, whose table does not exist yet."""
    return declare(Base)


class Ears:
    """Two listeners, one of either route, that have to hear the same."""

    def __init__(self, engine: Any, Account: Any, group: str, **options: Any) -> None:
        self.listeners = [Listener(engine, Account, durable=durable, **options) for durable in (None, group)]
        self.reasons = [resync_reasons(listener) for listener in self.listeners]
        self._heard: list[tuple[Any, tuple[str, int]]] = []
        for signal in Account.watch:
            signal.connect(self._hear, weak=False)

    def _hear(self, sender: Any, event: Any) -> None:
        sign = 1 if event.operation == "inserted" else -1
        self._heard.append((event.listener, (event.schema, sign * event.identity[0])))

    def heard(self) -> list[tuple[str, int]]:
        """What came since the last call; a deleted row has a negative id."""
        for listener in self.listeners:
            listener.catch_up()
        live, safe = ([row for heard_by, row in self._heard if heard_by is each] for each in self.listeners)
        self._heard.clear()
        assert live == safe
        return live

    def resyncs(self) -> set[str]:
        """The reasons that both have given since the last call."""
        live, safe = (set(reasons) for reasons in self.reasons)
        for reasons in self.reasons:
            reasons.clear()
        assert live == safe
        return live

    def counts(self, name: str) -> set[int]:
        return {getattr(listener.stats(), name) for listener in self.listeners}


OpenEars = Callable[..., Ears]


@pytest.fixture
def open_ears(group: str) -> Iterator[OpenEars]:
    """Starts pairs of listeners, which are stopped after the test."""
    with ExitStack() as stack:

        def start(engine: Any, Account: Any, **options: Any) -> Ears:
            ears = Ears(engine, Account, group, **options)
            for listener in ears.listeners:
                stack.enter_context(listener)
            return ears

        yield start


def make_tenant(client: Client, url: Any, Account: Any, *schemas: str) -> None:
    """Create schemas, each with a table and triggers of its own."""
    for schema in schemas:
        client.execute(psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(psycopg.sql.Identifier(schema)))
        engine = create_engine(url, connect_args={"options": "-csearch_path=" + f'"{schema}"'.replace(" ", "\\ ")})
        Account.metadata.create_all(engine)
        engine.dispose()


def insert(client: Client, schema: str, *ids: int) -> None:
    statement = psycopg.sql.SQL("INSERT INTO {} SELECT unnest(%s::int[])")
    client.execute(statement.format(psycopg.sql.Identifier(schema, "accounts")), [list(ids)])


def run_on_connect(engine: Any, *statements: str) -> list[Any]:
    """Have the pool run statements on each new connection; return a list of these that grows."""
    connections: list[Any] = []

    @event.listens_for(getattr(engine, "sync_engine", engine), "connect", insert=True)
    def prepare(connection: Any, record: Any) -> None:
        connections.append(connection)
        before, connection.autocommit = connection.autocommit, True
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        connection.autocommit = before

    return connections


def make_engine(cluster: Cluster, database: str, driver: str, **options: Any) -> Any:
    if driver in ("asyncpg", "psycopg_async"):
        return create_async_engine(cluster.url(database, driver.removesuffix("_async")), **options)
    return create_engine(cluster.url(database, driver), **options)


def warnings_in(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and words in r.getMessage()]


@pytest.mark.sqlalchemy
@pytest.mark.parametrize("driver", DRIVERS)
def test_search_path_of_a_connect_event_is_followed(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars, driver: str
) -> None:
    make_tenant(client, engine.url, Account, "public", "tenant")
    asked = make_engine(cluster, database, driver)
    run_on_connect(asked, "SET SESSION search_path = 'tenant'")
    ears = open_ears(asked, Account)
    insert(client, "tenant", 1)
    insert(client, "public", 2)
    insert(client, "tenant", 3)
    assert ears.heard() == [("tenant", 1), ("tenant", 3)]
    assert ears.counts("ignored") == {1}
    assert ears.resyncs() == set()


@pytest.mark.parametrize("poolclass", [NullPool, StaticPool])
def test_pool_of_any_class_is_left_alone(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars, poolclass: Any
) -> None:
    make_tenant(client, engine.url, Account, "tenant")
    asked = make_engine(cluster, database, "psycopg", poolclass=poolclass)
    run_on_connect(asked, "SET SESSION search_path = 'tenant'")
    with asked.connect() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE mine (id int)"))
        connection.commit()
        ears = open_ears(asked, Account)
        insert(client, "tenant", 1)
        assert ears.heard() == [("tenant", 1)]
        assert connection.scalar(text("SELECT count(*) FROM mine")) == 0
    asked.dispose()


def test_connections_for_look_ups_are_few_and_closed(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars
) -> None:
    make_tenant(client, engine.url, Account, "public", "tenant", "other")
    asked = make_engine(cluster, database, "psycopg")
    connections = run_on_connect(asked, "SET SESSION search_path = 'tenant'")
    ears = open_ears(asked, Account)
    for number in range(100):
        insert(client, "tenant", number)
        insert(client, "other", number)
    assert len(ears.heard()) == 100
    assert ears.counts("ignored") == {100}
    assert asked.pool.checkedin() == asked.pool.checkedout() == 0
    # One for where the tables are, one for the first row of another tenant, one that looks again at the end.
    assert len(connections) <= 6
    assert all(connection.closed for connection in connections)


@pytest.mark.parametrize(
    "way", ["role setting", "options with listen_url", "SET ROLE", "options in the URL", "creator"]
)
def test_every_way_to_set_the_search_path_is_followed(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars, way: str
) -> None:
    make_tenant(client, engine.url, Account, "tenant", "public")
    role = f"tenant_{database}"
    client.execute(f"CREATE ROLE {role} LOGIN REPLICATION")
    client.execute(f"GRANT USAGE ON SCHEMA tenant TO {role}; GRANT CREATE ON DATABASE {database} TO {role}")
    options: dict[str, Any] = {}
    url = engine.url
    if way == "role setting":
        client.execute(f"ALTER ROLE {role} IN DATABASE {database} SET search_path = tenant")
        asked = create_engine(url.set(username=role))
        options = {"listen_url": cluster.url(database)}
    elif way == "options with listen_url":
        asked = create_engine(url, connect_args={"options": "-csearch_path=tenant"})
        options = {"listen_url": cluster.url(database)}
    elif way == "SET ROLE":
        client.execute(f"ALTER SCHEMA tenant RENAME TO {role}")
        asked = create_engine(url)
        run_on_connect(asked, f"SET ROLE {role}")
    elif way == "options in the URL":
        asked = create_engine(url.update_query_dict({"options": "-csearch_path=tenant,public"}))
    else:
        options = {"listen_url": f"{cluster.url(database)}?options=-csearch_path%3Dtenant"}
        asked = create_engine(
            "postgresql+psycopg://", creator=lambda: cluster.connect(database, options="-csearch_path=tenant")
        )
    ears = open_ears(asked, Account, **options)
    schema = role if way == "SET ROLE" else "tenant"
    insert(client, schema, 1)
    assert ears.heard() == [(schema, 1)]
    assert ears.resyncs() == set()
    client.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.server
@pytest.mark.parametrize("level", [None, "row"])
def test_partitions_made_elsewhere_while_listening_are_heard(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, level: Any
) -> None:
    Account = declare(Base, level, postgresql_partition_by="RANGE (id)")
    Base.metadata.create_all(engine)
    client.execute("CREATE TABLE accounts_0 PARTITION OF accounts FOR VALUES FROM (0) TO (10)")
    ears = open_ears(engine, Account)
    insert(client, "public", 1)
    client.execute("CREATE SCHEMA parts; CREATE SCHEMA deeper")
    client.execute("CREATE TABLE parts.p1 PARTITION OF accounts FOR VALUES FROM (10) TO (20)")
    insert(client, "public", 2, 11)
    client.execute(
        "CREATE TABLE parts.p2 PARTITION OF accounts FOR VALUES FROM (20) TO (40) PARTITION BY RANGE (id);"
        "CREATE TABLE deeper.p3 PARTITION OF parts.p2 FOR VALUES FROM (20) TO (30)"
    )
    client.execute("INSERT INTO deeper.p3 VALUES (21)")
    assert ears.heard() == [("public", 1), ("public", 2), ("parts", 11), ("deeper", 21)]
    client.execute("DELETE FROM deeper.p3; ALTER TABLE parts.p2 DETACH PARTITION deeper.p3; DROP SCHEMA deeper CASCADE")
    assert ears.heard() == [("deeper", -21)]
    assert ears.resyncs() == set()


@pytest.mark.parametrize("level", LEVELS)
def test_table_made_or_moved_while_listening_is_heard(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, level: Any
) -> None:
    Account = declare(Base, level)
    asked = create_engine(engine.url, connect_args={"options": "-csearch_path=app,public"})
    ears = open_ears(asked, Account)
    Base.metadata.create_all(engine)
    insert(client, "public", 1)
    assert ears.heard() == [("public", 1)]
    client.execute("CREATE SCHEMA app; ALTER TABLE accounts SET SCHEMA app")
    insert(client, "app", 2)
    assert ears.heard() == [("app", 2)]
    client.execute("ALTER SCHEMA app RENAME TO old; CREATE SCHEMA app")
    make_tenant(client, engine.url, Account, "app")
    insert(client, "app", 3)
    client.execute("DROP SCHEMA app CASCADE; ALTER TABLE old.accounts SET SCHEMA public")
    insert(client, "public", 4)
    assert ears.heard() == [("app", 3), ("public", 4)]
    assert ears.resyncs() == set()


def test_events_older_than_the_move_of_their_table_are_delivered(
    client: Client, engine: Engine, Account: Any, group: str
) -> None:
    make_tenant(client, engine.url, Account, "public")
    heard: list[Any] = []
    Account.watch.inserted.connect(lambda sender, event: heard.append((event.schema, event.identity[0])), weak=False)
    asked = create_engine(engine.url, connect_args={"options": "-csearch_path=app,public"})
    with Listener(asked, Account, durable=group):
        pass
    insert(client, "public", 1)
    client.execute("CREATE SCHEMA app; ALTER TABLE accounts SET SCHEMA app")
    insert(client, "app", 2)
    with Listener(asked, Account, durable=group) as listener:
        listener.catch_up()
        assert heard == [("public", 1), ("app", 2)]


def test_table_moved_off_the_search_path_causes_one_warning_and_a_resync(
    client: Client, engine: Engine, Account: Any, open_ears: OpenEars, caplog: pytest.LogCaptureFixture
) -> None:
    Account.metadata.create_all(engine)
    ears = open_ears(engine, Account)
    insert(client, "public", 1)
    client.execute("CREATE SCHEMA away; ALTER TABLE accounts SET SCHEMA away")
    insert(client, "away", 2)
    insert(client, "away", 3)
    assert ears.heard() == [("public", 1)]
    assert ears.resyncs() == {placing.UNPLACED}
    assert ears.counts("unplaced") == {2}
    assert ears.counts("ignored") == {0}
    for words in ("'accounts'", "'away'", "schemas=('away',)", "search_path (postgres, public)"):
        assert len(warnings_in(caplog, words)) == 2  # one for either listener
    client.execute("ALTER TABLE away.accounts SET SCHEMA public")
    insert(client, "public", 4)
    assert ears.heard() == [("public", 4)]


def test_namesake_that_becomes_the_engines_own_is_not_passed_over_in_silence(
    client: Client, engine: Engine, Account: Any, open_ears: OpenEars
) -> None:
    make_tenant(client, engine.url, Account, "app", "public")
    asked = create_engine(engine.url, connect_args={"options": "-csearch_path=app,public"})
    ears = open_ears(asked, Account)
    insert(client, "app", 1)
    insert(client, "public", 2)
    assert ears.heard() == [("app", 1)]
    assert ears.counts("ignored") == {1}
    client.execute("DROP SCHEMA app CASCADE")
    insert(client, "public", 3)
    assert ears.heard() == [("public", 3)] or ears.resyncs() == {placing.TAKEN_FOR_ANOTHERS}
    insert(client, "public", 4)
    assert ears.heard() == [("public", 4)]


def test_schema_without_usage_is_told_as_such(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    make_tenant(client, engine.url, Account, "app")
    role = f"deaf_{database}"
    client.execute(f"CREATE ROLE {role} LOGIN REPLICATION; GRANT CREATE ON DATABASE {database} TO {role}")
    client.execute(f"ALTER ROLE {role} IN DATABASE {database} SET search_path = app, public")
    deaf = create_engine(engine.url.set(username=role))
    ears = open_ears(deaf, Account)
    insert(client, "app", 1)
    assert ears.heard() == [("app", 1)]
    assert ears.resyncs() == set()
    assert len(warnings_in(caplog, "GRANT USAGE ON SCHEMA")) >= 2
    assert "does not exist" not in caplog.text
    (item, *_) = status(deaf, Account)
    assert "USAGE" in item.problems[0]
    assert role in item.problems[0]
    client.execute(f"ALTER ROLE {role} IN DATABASE {database} RESET search_path")
    client.execute("DELETE FROM app.accounts")  # connections made from now on do not lead there
    for listener in ears.listeners:
        dispatcher_of(listener).placing.forget()
    client.execute(f"CREATE SCHEMA {role}; ALTER TABLE app.accounts SET SCHEMA {role}")
    client.execute(f"INSERT INTO {role}.accounts VALUES (2)")
    assert ears.heard() == [("app", -1), (role, 2)]
    deaf.dispose()
    for listener in ears.listeners:
        listener.stop()
    client.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("level", LEVELS)
def test_tenants_are_heard_on_purpose(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars, level: Any
) -> None:
    Account = declare(Base, level)
    make_tenant(client, engine.url, Account, "public", "a", "B c")
    ears = open_ears(engine, Account, schemas=("a", "B c", "late"))
    insert(client, "a", 1)
    insert(client, "B c", 2)
    insert(client, "public", 3)
    make_tenant(client, engine.url, Account, "late")
    insert(client, "late", 4)
    assert ears.heard() == [("a", 1), ("B c", 2), ("late", 4)]
    assert ears.counts("ignored") == {1}
    assert ears.resyncs() == set()


def test_all_tenants_are_heard_on_purpose(client: Client, engine: Engine, Account: Any, open_ears: OpenEars) -> None:
    ears = open_ears(engine, Account, schemas="*")
    make_tenant(client, engine.url, Account, "public", "a", "b")
    for number, schema in enumerate(["public", "a", "b"]):
        insert(client, schema, number)
    assert ears.heard() == [("public", 0), ("a", 1), ("b", 2)]
    assert ears.counts("ignored") == ears.counts("unplaced") == {0}


def test_partitions_of_tenants_are_heard_with_them(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars
) -> None:
    Account = declare(Base, None, postgresql_partition_by="RANGE (id)")
    make_tenant(client, engine.url, Account, "a", "b")
    ears = open_ears(engine, Account, schemas=["a"])
    for tenant in "a", "b":
        client.execute(f"CREATE SCHEMA {tenant}_parts")
        client.execute(f"CREATE TABLE {tenant}_parts.p PARTITION OF {tenant}.accounts DEFAULT")
        insert(client, tenant, 1)
    assert ears.heard() == [("a_parts", 1)]
    assert ears.counts("ignored") == {1}
    assert ears.resyncs() == set()


@pytest.mark.parametrize(
    ("schemas", "words"),
    [
        ("tenant", r"write schemas=\('tenant',\)"),
        ("", "sequence of schema names"),
        (b"a", "sequence of schema names"),
        (3, "sequence of schema names"),
        ((), "names no schema"),
        ((None,), "None is no name"),
        (("a", 1), "1 is no name"),
        (("a", ""), "'' is no name"),
        (("a", "*"), r"pass schemas='\*'"),
    ],
)
def test_schemas_are_checked_when_the_listener_is_made(engine: Engine, Account: Any, schemas: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Listener(engine, Account, schemas=schemas)


def test_schema_translate_map_of_the_engine_is_followed(
    client: Client, engine: Engine, Account: Any, open_ears: OpenEars
) -> None:
    make_tenant(client, engine.url, Account, "public", "tenant")
    ears = open_ears(engine.execution_options(schema_translate_map={None: "tenant"}), Account)
    insert(client, "public", 1)
    insert(client, "tenant", 2)
    assert ears.heard() == [("tenant", 2)]
    assert ears.counts("ignored") == {1}


def test_temporary_namesake_is_not_heard(client: Client, engine: Engine, Account: Any, open_ears: OpenEars) -> None:
    Account.metadata.create_all(engine)
    ears = open_ears(engine, Account)
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE accounts (id int PRIMARY KEY)"))
        install(connection, Account)
        connection.execute(text("INSERT INTO pg_temp.accounts VALUES (1)"))
        connection.execute(text("INSERT INTO public.accounts VALUES (2)"))
    assert ears.heard() == [("public", 2)]
    assert ears.counts("ignored") == {1}
    assert ears.resyncs() == set()


def test_made_up_schemas_cause_few_look_ups_and_bounded_warnings(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Account.metadata.create_all(engine)
    asked = make_engine(cluster, database, "psycopg")
    connections = run_on_connect(asked)
    heard: list[int] = []
    Account.watch.inserted.connect(lambda sender, event: heard.append(event.identity[0]), weak=False)
    listener = Listener(asked, Account)
    reasons = resync_reasons(listener)
    with listener:
        insert(client, "public", 1)
        for number in range(20):
            forge(client, Account.watch.inserted.details.channel, f"made_up_{number}_", 500)
            insert(client, "public", 2 + number)
        listener.catch_up(60)
        assert heard == list(range(1, 22))
        assert listener.stats().unplaced == 10_000
        assert set(reasons) == {placing.UNPLACED}
        assert len(connections) <= 40
        assert len(warnings_in(caplog, "made_up_")) <= 25


def forge(client: Client, channel: str, schema: str, count: int) -> None:
    """Notify as a trigger would, of so many schemas that there are not."""
    head = '{"v":1,"table":"accounts","label":"inserted","op":"inserted","columns":["id"],"schema":"'
    rest = '","txid":1,"at":1,"context":null,"rows":[[1]]}'
    client.execute(
        "SELECT pg_notify(%s, %s || %s || n || %s) FROM generate_series(1, %s) AS n",
        [channel, head, schema, rest, count],
    )


def test_hostile_name_of_a_schema_is_escaped_and_cut_in_the_log(
    client: Client, engine: Engine, Account: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Account.metadata.create_all(engine)
    with Listener(engine, Account) as listener:
        forge(client, Account.watch.inserted.details.channel, "\\u001b[2J\\n" + "x" * 1000, 1)
        listener.catch_up()
    (words,) = warnings_in(caplog, "xxx")
    assert words.isprintable()
    assert len(words) < 700


def test_event_of_another_schema_than_the_declared_one_is_told(
    client: Client, engine: Engine, Base: type[DeclarativeBase], caplog: pytest.LogCaptureFixture
) -> None:
    client.execute("CREATE SCHEMA app")
    Account = declare(Base, schema="app")
    Base.metadata.create_all(engine)
    with Listener(engine, Account) as listener:
        reasons = resync_reasons(listener)
        forge(client, Account.watch.inserted.details.channel, "elsewhere", 3)
        listener.catch_up()
        assert set(reasons) == {placing.UNPLACED}
        assert listener.stats().unplaced == 3


def test_connect_event_that_raises_is_told_once_and_silences_nothing(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    make_tenant(client, engine.url, Account, "public", "tenant")
    asked = make_engine(cluster, database, "psycopg")

    @event.listens_for(asked, "connect")
    def need_a_request(connection: Any, record: Any) -> None:
        raise LookupError("there is no request")

    ears = open_ears(asked, Account)
    insert(client, "public", 1)
    insert(client, "tenant", 2)
    insert(client, "tenant", 3)
    assert ears.heard() == [("public", 1)]
    assert ears.resyncs() == {placing.UNPLACED}
    assert ears.counts("ignored") == {0}
    assert len(warnings_in(caplog, "there is no request")) == 2
    assert len(warnings_in(caplog, "'tenant'")) == 2


def test_nothing_is_acknowledged_while_it_can_not_be_looked_up(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, open_ears: OpenEars
) -> None:
    Account.metadata.create_all(engine)
    role = f"limited_{database}"
    client.execute(f"CREATE ROLE {role} LOGIN REPLICATION; GRANT CREATE ON DATABASE {database} TO {role}")
    asked = create_engine(engine.url.set(username=role))
    ears = open_ears(asked, Account)
    live, safe = ears.listeners
    client.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    insert(client, "public", 1)
    live.catch_up()
    assert set(ears.reasons[0]) == {placing.NO_ANSWER}
    assert live.stats().unplaced == 1
    client.execute("SELECT pg_sleep(0.1)")
    client.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    wait_until(client, lambda: safe.stats().events == 1)
    safe.catch_up()
    assert ears.reasons[1] == []
    for listener in ears.listeners:
        listener.stop()
    client.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_listener_stopped_while_it_looks_up_leaves_the_event_to_the_next_one(
    client: Client, engine: Engine, database: str, Account: Any, group: str
) -> None:
    Account.metadata.create_all(engine)
    role = f"limited_{database}"
    client.execute(f"CREATE ROLE {role} LOGIN REPLICATION; GRANT CREATE ON DATABASE {database} TO {role}")
    asked = create_engine(engine.url.set(username=role))
    heard: list[int] = []
    Account.watch.inserted.connect(lambda sender, event: heard.append(event.identity[0]), weak=False)
    with Listener(asked, Account, durable=group) as listener:
        client.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        insert(client, "public", 1)
        wait_until(client, lambda: dispatcher_of(listener).busy_since is not None)
    assert heard == []
    client.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    with Listener(asked, Account, durable=group) as listener:
        listener.catch_up()
    assert heard == [1]
    client.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_locked_tables_do_not_hold_up_a_look_up(
    cluster: Cluster, database: str, client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars
) -> None:
    Account = declare(Base, None, postgresql_partition_by="RANGE (id)")
    Base.metadata.create_all(engine)
    client.execute("CREATE TABLE accounts_0 PARTITION OF accounts FOR VALUES FROM (0) TO (10)")
    ears = open_ears(engine, Account)
    insert(client, "public", 1)
    with cluster.connect(database) as other, other.transaction():
        other.execute("LOCK TABLE accounts, accounts_0 IN ACCESS EXCLUSIVE MODE")
        assert ears.heard() == [("public", 1)]


def test_driver_that_hangs_holds_nothing_up_for_longer_than_the_limit(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.2)
    Account.metadata.create_all(engine)
    asked = make_engine(cluster, database, "psycopg")
    released = threading.Event()

    @event.listens_for(asked, "connect")
    def hang(connection: Any, record: Any) -> None:
        released.wait(20)

    heard: list[int] = []
    Account.watch.inserted.connect(lambda sender, event: heard.append(event.identity[0]), weak=False)
    with Listener(asked, Account) as listener:
        insert(client, "public", 1)
        listener.catch_up()
        assert heard == [1]  # looked up over the listener's own connection
        released.set()


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ('"$user", public', ("app", "public")),
        ("$user,public", ("app", "public")),
        ('"A b", "c""d", E', ("A b", 'c"d', "e")),
        ('a,"a", b', ("a", "b")),
        ('"a,b"', ("a,b",)),
        ("", ()),
        ('""', ()),
    ],
)
def test_search_path_is_read_as_the_server_reads_it(setting: str, path: tuple[str, ...]) -> None:
    assert parse_path(setting, "app") == path
