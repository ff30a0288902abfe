"""The listener connects as the engine would, each time anew: hooks, certificates and all."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from models import declare_base, declare_user
from postgres import Cluster
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from support import end_listeners

from sqlalchemy_watch import ConfigurationError, Listener, ListenerStartError
from sqlalchemy_watch.catalog import problems
from sqlalchemy_watch.listener.notify import session

from ..clusters import create_tables, removed_afterwards
from ..journal import Journal
from ..tls_proxy import TlsProxy, make_certificate, speaking_tls

Base = declare_base()
User = declare_user(Base)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Cluster]:
    """A server that asks the role `app` for a password."""
    with removed_afterwards(Cluster()) as cluster:
        with cluster.connect() as connection:
            connection.execute("CREATE ROLE app LOGIN PASSWORD 'first'")
            connection.execute("GRANT CREATE ON SCHEMA public TO app")
        rules = cluster.data / "pg_hba.conf"
        rules.write_text("host all app all scram-sha-256\n" + rules.read_text())
        with cluster.connect() as connection:
            connection.execute("SELECT pg_reload_conf()")
        create_tables(cluster, Base)
        yield cluster


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(guarded: Cluster, certificate: tuple[Path, Path]) -> Iterator[TlsProxy]:
    with speaking_tls(guarded.port, *certificate) as proxy:
        yield proxy


def end_listener(cluster: Cluster) -> None:
    with cluster.connect() as connection:
        end_listeners(connection)


@pytest.mark.sqlalchemy
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg", "pg8000"])
def test_hook_is_asked_for_the_password_at_every_reconnect(guarded: Cluster, driver: str, journal: Journal) -> None:
    make: Any = create_async_engine if driver == "asyncpg" else create_engine
    engine = make(f"postgresql+{driver}://app@127.0.0.1:{guarded.port}/postgres")
    passwords: list[str] = []
    number = 0

    @event.listens_for(getattr(engine, "sync_engine", engine), "do_connect")
    def provide(dialect: Any, record: Any, args: Any, parameters: dict[str, Any]) -> None:
        nonlocal number
        number += 1
        passwords.append(f"{driver}-{number}")
        with guarded.connect() as connection:  # only the newest is valid
            connection.execute(psycopg.sql.SQL("ALTER ROLE app PASSWORD {}").format(passwords[-1]))
        parameters["password"] = passwords[-1]

    listener = Listener(engine, User)
    journal.attach(listener)
    with listener:
        for round_ in range(3):
            assert len(passwords) == round_ + 1
            end_listener(guarded)
            journal.wait_for_count("resync", round_ + 1)
    assert len(set(passwords)) == 4


def test_listen_url_without_a_password_gets_the_hooks(guarded: Cluster, journal: Journal) -> None:
    engine = create_engine("postgresql+psycopg2://app@pooler.invalid/postgres")

    @event.listens_for(engine, "do_connect")
    def provide(dialect: Any, record: Any, args: Any, parameters: dict[str, Any]) -> None:
        parameters["password"] = "first"
        parameters["host"] = "elsewhere.invalid"

    with guarded.connect() as connection:
        connection.execute("ALTER ROLE app PASSWORD 'first'")
    with Listener(engine, User, listen_url=f"postgresql://app@127.0.0.1:{guarded.port}/postgres"):
        pass


def test_hook_that_fails_is_told_in_one_line_and_tried_again(
    guarded: Cluster, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(guarded.url(driver="psycopg"))
    failures = iter([None, RuntimeError("the vault is closed"), RuntimeError("still"), None])

    @event.listens_for(engine, "do_connect")
    def provide(*args: Any) -> None:
        error = next(failures)
        if error is not None:
            raise error

    listener = Listener(engine, User)
    journal.attach(listener)
    with listener:
        end_listener(guarded)
        journal.wait_for_count("resync", 1)
    assert journal.count("disconnected") == 1
    assert "the vault is closed" in caplog.text
    assert not any(record.exc_info for record in caplog.records)


def test_wrong_password_is_told_in_the_servers_words(guarded: Cluster) -> None:
    engine = create_engine(f"postgresql+psycopg://app:wrong@127.0.0.1:{guarded.port}/postgres")
    with pytest.raises(ListenerStartError, match="password authentication failed") as raised:
        Listener(engine, User).start(timeout=0.5)
    assert "wrong" not in str(raised.value)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_tls_settings_are_kept_over_reconnects(
    guarded: Cluster, tls: TlsProxy, certificate: tuple[Path, Path], driver: str, journal: Journal
) -> None:
    url = f"postgresql+{driver}://postgres@127.0.0.1:{tls.port}/postgres"
    if driver == "asyncpg":
        engine: Any = create_async_engine(url, connect_args={"ssl": "require"})
    else:
        engine = create_engine(url, connect_args={"sslmode": "verify-full", "sslrootcert": str(certificate[0])})
    listener = Listener(engine, User)
    journal.attach(listener)
    with listener:
        assert (tls.connections, tls.encrypted) == (1, 1)
        end_listener(guarded)
        journal.wait_for_count("resync", 1)
        assert (tls.connections, tls.encrypted) == (2, 2)


def test_server_without_the_expected_certificate_is_not_listened_to(tls: TlsProxy, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path, "other")
    url = f"postgresql+psycopg://postgres@127.0.0.1:{tls.port}/postgres"
    engine = create_engine(url, connect_args={"sslmode": "verify-full", "sslrootcert": str(other)})
    with pytest.raises(ListenerStartError, match="certificate verify failed"):
        Listener(engine, User).start(timeout=0.5)


def test_ssl_context_is_refused_with_the_remedy(guarded: Cluster) -> None:
    engine = create_async_engine(guarded.url(driver="asyncpg"), connect_args={"ssl": ssl.create_default_context()})
    with pytest.raises(ConfigurationError, match="SSLContext.*listen_url"):
        Listener(engine, User).start()


@pytest.mark.parametrize("reads_at_once", [1, session.READS_AT_ONCE])
def test_burst_over_tls_is_read_to_its_end(
    guarded: Cluster, tls: TlsProxy, journal: Journal, monkeypatch: pytest.MonkeyPatch, reads_at_once: int
) -> None:
    monkeypatch.setattr(session, "READS_AT_ONCE", reads_at_once)
    # No poll() tells of bytes that OpenSSL has decrypted already, and there is no heartbeat to help. Looking at the
    # triggers would leave libpq with a buffer that takes any record whole.
    monkeypatch.setattr(problems, "describe_problems", lambda connection, *asked: [])
    url = f"postgresql+psycopg://postgres@127.0.0.1:{tls.port}/postgres"
    engine = create_engine(url, connect_args={"sslmode": "require"})
    with (
        User.watch.inserted.connected_to(journal),
        Listener(engine, User, heartbeat_interval=600),
        guarded.connect() as client,
    ):
        tls.gathering = True
        last = 0
        for round_ in range(20):
            first, last = last + 1, last + 4500 + round_ * 97  # the last record is of another size each time
            client.execute("INSERT INTO users SELECT generate_series(%s::int, %s)", [first, last])
            journal.wait_for(lambda last=last: len(journal.entries) == last, 5)  # type: ignore[misc]
        client.execute("TRUNCATE users")
    assert journal.ids() == list(range(1, last + 1))


def test_creator_of_psycopg_connections_is_used(guarded: Cluster, journal: Journal) -> None:
    made: list[Any] = []

    def create() -> Any:
        made.append(psycopg.connect(guarded.url(), client_encoding="latin1"))
        return made[-1]

    engine = create_engine("postgresql+psycopg://", creator=create)
    with User.watch.inserted.connected_to(journal), Listener(engine, User) as listener, guarded.connect() as client:
        client.execute("INSERT INTO users VALUES (0)")
        listener.catch_up()
        client.execute("DELETE FROM users")
    assert journal.ids() == [0]
    assert all(connection.closed for connection in made)
