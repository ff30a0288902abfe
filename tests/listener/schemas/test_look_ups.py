"""Looking up whose an event is: few times, in bounded time, and with nothing lost where it fails."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from postgres import VERSION, Cluster
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase
from support import end_listeners, resync_reasons, wait_until

from sqlalchemy_watch import Listener
from sqlalchemy_watch.listener.dispatch import placing
from sqlalchemy_watch.listener.server import asking

from ..insides import dispatcher_of
from .tenants import (
    Client,
    OpenEars,
    by_both,
    declare,
    forge,
    insert,
    make_engine,
    make_tenant,
    run_on_connect,
    warnings_in,
)  # fmt: skip


@pytest.mark.parametrize("place", ['"schema":"made_up_{}_@"', '"oid":4{:04}@'])
def test_made_up_places_cause_few_look_ups_and_bounded_warnings(
    cluster: Cluster, database: str, client: Client, engine: Engine, Account: Any, caplog: pytest.LogCaptureFixture,
    place: str,
) -> None:  # fmt: skip
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
            forge(client, Account.watch.inserted.details.channel, place.format(number), 500)
            insert(client, "public", 2 + number)
        listener.catch_up(60)
        assert heard == list(range(1, 22))
        assert listener.stats().unplaced == 10_000
        assert set(reasons) == {placing.UNPLACED}
        assert len(connections) <= 40
        assert 1 <= len(warnings_in(caplog, "events of table 'accounts'")) <= 25


def test_hostile_name_of_a_schema_is_escaped_and_cut_in_the_log(
    client: Client, engine: Engine, Account: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Account.metadata.create_all(engine)
    with Listener(engine, Account) as listener:
        forge(client, Account.watch.inserted.details.channel, '"schema":"\\u001b[2J\\n' + "x" * 1000 + '"', 1)
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
        forge(client, Account.watch.inserted.details.channel, '"schema":"elsewhere@"', 3)
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
    assert len(warnings_in(caplog, "there is no request")) == len(ears.listeners)
    assert len(warnings_in(caplog, "'tenant'")) == len(ears.listeners)


@by_both
def test_nothing_is_acknowledged_while_it_can_not_be_looked_up(
    client: Client, engine: Engine, Account: Any, role: str, open_ears: OpenEars
) -> None:
    Account.metadata.create_all(engine)
    asked = create_engine(engine.url.set(username=role))
    ears = open_ears(asked, Account)
    live, safe = ears.listeners
    client.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    insert(client, "public", 1)
    live.catch_up()
    assert ears.reasons == [[], []]
    assert (live.stats().events, safe.stats().events) == (1, 0)  # its own connection took it for ours
    client.execute(f"CREATE SCHEMA {role} AUTHORIZATION {role}; ALTER TABLE accounts SET SCHEMA {role}")
    insert(client, role, 2)
    live.catch_up()
    assert set(ears.reasons[0]) == {placing.NO_ANSWER}
    assert live.stats().unplaced == 1
    client.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    wait_until(client, lambda: safe.stats().events == 2)
    safe.catch_up()
    assert (ears.reasons[1], safe.stats().unplaced) == ([], 0)


@by_both
def test_listener_stopped_while_it_looks_up_leaves_the_event_to_the_next_one(
    client: Client, engine: Engine, Account: Any, group: str, role: str
) -> None:
    Account.metadata.create_all(engine)
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


def test_events_keep_their_order_while_one_is_looked_up(
    client: Client, engine: Engine, Base: type[DeclarativeBase], open_ears: OpenEars
) -> None:
    Account = declare(Base, None, postgresql_partition_by="LIST (id)")
    Base.metadata.create_all(engine)
    client.execute("CREATE TABLE accounts_0 PARTITION OF accounts DEFAULT")
    ears = open_ears(engine, Account)
    expected = []
    for number in range(1, 16):
        client.execute(f"CREATE SCHEMA s{number}")
        client.execute(f"CREATE TABLE s{number}.p PARTITION OF accounts FOR VALUES IN ({number})")
        insert(client, "public", 100 + number, number, 200 + number)
        expected += [("public", 100 + number), (f"s{number}", number), ("public", 200 + number)]
    assert ears.heard() == expected
    assert ears.resyncs() == set()


def test_answers_are_asked_for_anew_after_a_reconnect(
    client: Client, engine: Engine, Account: Any, open_ears: OpenEars
) -> None:
    make_tenant(client, engine.url, Account, "public", "other")
    ears = open_ears(engine, Account)
    insert(client, "public", 1)
    insert(client, "other", 2)
    assert ears.heard() == [("public", 1)]
    end_listeners(client)
    for listener in ears.listeners:
        wait_until(client, lambda listener=listener: listener.stats().reconnects == 1)
    client.execute("DROP TABLE public.accounts; ALTER TABLE other.accounts SET SCHEMA public")
    client.execute("CREATE TABLE other.accounts (id int)")
    insert(client, "public", 3)
    assert ears.heard() == [("public", 3)]


@pytest.mark.skipif(VERSION < 14, reason="durable delivery")
def test_transaction_that_is_in_the_log_and_not_to_be_seen_yet_is_waited_for(
    cluster: Cluster, database: str, client: Client, engine: Engine, Base: type[DeclarativeBase], group: str
) -> None:
    Account = declare(Base, None, postgresql_partition_by="RANGE (id)")
    Base.metadata.create_all(engine)
    heard: list[Any] = []
    Account.watch.inserted.connect(lambda sender, event: heard.append((event.schema, event.identity[0])), weak=False)
    committing = "SELECT true FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with (
        Listener(engine, Account, durable=group, wait_visible=False) as listener,
        cluster.connect(database) as writer,
    ):
        reasons = resync_reasons(listener)
        try:
            client.execute("SET synchronous_commit = off")
            client.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            client.execute("SELECT pg_reload_conf()")
            wait_until(client, "SELECT current_setting('synchronous_standby_names') = 'nobody'")
            write = (
                "CREATE SCHEMA parts; CREATE TABLE parts.p PARTITION OF accounts DEFAULT;"
                "INSERT INTO accounts VALUES (1)"
            )
            thread = threading.Thread(target=writer.execute, args=[write])
            thread.start()
            wait_until(client, committing)
            wait_until(client, lambda: dispatcher_of(listener).placing._lookups._reply is not None)
        finally:
            client.execute("ALTER SYSTEM RESET synchronous_standby_names")
            client.execute("SELECT pg_reload_conf()")
        thread.join()
        listener.catch_up()
        assert heard == [("parts", 1)]
        assert reasons == []


@by_both
@pytest.mark.skipif(VERSION < 14, reason="durable delivery")
@pytest.mark.parametrize("place", ['"schema":"made_up_@"', '"schema":"made_up","oid":4@'])
def test_made_up_transactions_hold_no_durable_line_up(
    client: Client, engine: Engine, Account: Any, group: str, place: str
) -> None:
    Account.metadata.create_all(engine)
    heard: list[int] = []
    Account.watch.inserted.connect(lambda sender, event: heard.append(event.identity[0]), weak=False)
    with Listener(engine, Account, durable=group) as listener:
        channel = Account.watch.inserted.details.channel
        forge(client, channel, f'{place},"txid":{2**62}', 200, durable=True)
        insert(client, "public", 1)
        listener.catch_up()
        assert heard == [1]
        assert listener.stats().unplaced == 200
