"""Connect arguments of other drivers: as those of libpq, or refused at once with the remedy."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asyncpg.connect_utils import SessionAttribute, SSLMode
from conftest import Recorder
from postgres import Cluster
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from sqlalchemy_watch import ConfigurationError, Listener
from sqlalchemy_watch.listener.server.settings import translate

from ..clusters import removed_afterwards


@pytest.mark.parametrize(
    ("driver", "given", "expected"),
    [
        ("psycopg", {"host": "db", "sslmode": "require"}, {"host": "db", "sslmode": "require"}),
        ("psycopg2", {"dsn": "host=db", "dbname": "shop"}, {"conninfo": "host=db", "dbname": "shop"}),
        ("psycopg2", {"connection_factory": object, "async_": 0, "options": "-c a=b"}, {"options": "-c a=b"}),
        ("asyncpg", {"database": "shop", "timeout": 0.5}, {"dbname": "shop", "connect_timeout": 2}),
        ("asyncpg", {"host": ["a", "b"], "port": [1, 2]}, {"host": "a,b", "port": "1,2"}),
        ("asyncpg", {"host": "/run/pg", "port": 5433}, {"host": "/run/pg", "port": 5433}),
        ("asyncpg", {"host": "/run/pg/.s.PGSQL.5433"}, {"host": "/run/pg", "port": "5433"}),
        ("asyncpg", {"ssl": True}, {"sslmode": "verify-full", "sslrootcert": "system"}),
        ("asyncpg", {"ssl": False}, {"sslmode": "disable"}),
        ("asyncpg", {"ssl": "verify-ca"}, {"sslmode": "verify-ca"}),
        ("asyncpg", {"ssl": SSLMode.verify_full}, {"sslmode": "verify-full"}),
        ("asyncpg", {"direct_tls": False, "ssl": None}, {}),
        ("asyncpg", {"passfile": Path("/etc/pass")}, {"passfile": "/etc/pass"}),
        ("asyncpg", {"target_session_attrs": SessionAttribute.read_write}, {"target_session_attrs": "read-write"}),
        ("asyncpg", {"target_session_attrs": "primary"}, {"target_session_attrs": "primary"}),
        ("asyncpg", {"server_settings": {"a": "b c", "d": "e\\f"}}, {"options": "-c a=b\\ c -c d=e\\\\f"}),
        ("asyncpg", {"password": lambda: "secret"}, {"password": "secret"}),
        ("asyncpg", {"krbsrvname": "postgres"}, {"krbsrvname": "postgres"}),
        ("pg8000", {"ssl_context": True}, {"sslmode": "require"}),
        ("pg8000", {"ssl_context": False}, {"sslmode": "disable"}),
        ("pg8000", {"tcp_keepalive": False}, {"keepalives": 0}),
        ("pg8000", {"tcp_keepalive": True, "source_address": None, "sock": None}, {}),
        ("pg8000", {"unix_sock": "/tmp/.s.PGSQL.5433", "host": "db", "port": 1}, {"host": "/tmp", "port": "5433"}),
        ("pg8000", {"unix_sock": Path("/.s.PGSQL.1")}, {"host": "/", "port": "1"}),
        ("pg8000", {"unix_sock": "@/pg/.s.PGSQL.5433"}, {"host": "@/pg", "port": "5433"}),
        ("pg8000", {"startup_params": {"search_path": b"a, b", "x": None}}, {"options": "-c search_path=a,\\ b"}),
        ("pg8000", {"startup_params": {"options": "-c a=b", "c": 1}}, {"options": "-c a=b -c c=1"}),
    ],
)
def test_settings_of_other_drivers_are_carried_over(
    monkeypatch: pytest.MonkeyPatch, driver: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    paths = ssl.get_default_verify_paths()
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths._replace(cafile=None))
    assert translate(driver, given) == expected


@pytest.fixture(scope="module")
def socketed() -> Iterator[Cluster]:
    """A server with a socket in /tmp."""
    cluster = Cluster()
    cluster.configure(unix_socket_directories="/tmp")
    with removed_afterwards(cluster):
        yield cluster


async def fetch_password() -> str:
    raise AssertionError("a thread can't await it")


@pytest.mark.parametrize(
    ("driver", "given"),
    [
        ("psycopg", {"prepared": 1}),
        ("psycopg2", {"prepared": 1}),
        ("asyncpg", {"servicefile": "/etc/services"}),
        ("asyncpg", {"ssl": ssl.create_default_context()}),
        ("asyncpg", {"ssl": 7}),
        ("asyncpg", {"server_settings": "a=b"}),
        ("asyncpg", {"timeout": "soon"}),
        ("pg8000", {"source_address": ("10.0.0.1", 0)}),
        ("pg8000", {"sock": object()}),
        ("pg8000", {"unix_sock": "/tmp/proxy.sock"}),
        ("pg8000", {"ssl_context": ssl.create_default_context()}),
    ],
)
def test_what_libpq_lacks_is_refused_when_the_listener_is_made(driver: str, given: dict[str, Any], Base: Any) -> None:
    make: Any = create_async_engine if driver == "asyncpg" else create_engine
    engine = make(f"postgresql+{driver}://postgres@127.0.0.1/postgres", connect_args=given)
    with pytest.raises(ConfigurationError, match=rf"(?s)({next(iter(given))}|SSLContext).*listen_url="):
        Listener(engine, Base)
    Listener(engine, Base, listen_url="postgresql://postgres@127.0.0.1/postgres")


def test_certificates_that_an_old_libpq_does_not_find_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ssl.get_default_verify_paths()
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths._replace(cafile="/etc/roots"))
    monkeypatch.setattr(psycopg.pq, "version", lambda: 150_000)
    assert translate("asyncpg", {"ssl": True}) == {"sslmode": "verify-full", "sslrootcert": "/etc/roots"}
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths._replace(cafile=None))
    with pytest.raises(ConfigurationError, match="libpq 150000 does not find.*sslrootcert"):
        translate("asyncpg", {"ssl": True})


def test_settings_that_can_not_be_read_are_refused_at_once(Base: Any) -> None:
    engine = create_engine("postgresql+psycopg2://", connect_args={"dsn": "host=db password=se cret"})
    with pytest.raises(ConfigurationError, match="libpq can't read.*listen_url=") as raised:
        Listener(engine, Base).start()
    assert "cret" not in str(raised.value)


def test_setting_of_the_listen_url_that_libpq_lacks_is_refused(Base: Any) -> None:
    with pytest.raises(ConfigurationError, match="prepared=.*libpq"):
        Listener(create_engine("postgresql+psycopg://"), Base, listen_url="postgresql://h/d?prepared=1")


def test_password_that_has_to_be_awaited_is_refused_at_start(cluster: Cluster, Base: Any) -> None:
    engine = create_async_engine(cluster.url("postgres", "asyncpg"), connect_args={"password": fetch_password})
    with pytest.raises(ConfigurationError, match="coroutine.*do_connect"):
        Listener(engine, Base).start()


def test_hook_may_take_out_what_libpq_lacks(cluster: Cluster, database: str, Base: Any) -> None:
    engine = create_engine(cluster.url(database, "pg8000"), connect_args={"source_address": ("127.0.0.1", 0)})

    @event.listens_for(engine, "do_connect")
    def take_out(dialect: Any, record: Any, args: Any, parameters: dict[str, Any]) -> None:
        parameters.pop("source_address", None)

    with Listener(engine, Base) as listener:
        listener.catch_up()


@pytest.mark.parametrize("driver", ["pg8000", "asyncpg", "asyncpg path"])
def test_socket_of_another_port_is_found(socketed: Cluster, Base: Any, driver: str) -> None:
    path = f"/tmp/.s.PGSQL.{socketed.port}"
    engine: Any
    if driver == "pg8000":
        engine = create_engine(f"postgresql+pg8000://postgres@/postgres?unix_sock={path}")
    else:
        host = {"host": path} if driver.endswith("path") else {"host": "/tmp", "port": socketed.port}
        engine = create_async_engine("postgresql+asyncpg://postgres@/postgres", connect_args=host)
    with Listener(engine, Base) as listener:
        listener.catch_up()


@pytest.mark.parametrize(("driver", "name"), [("pg8000", "startup_params"), ("asyncpg", "server_settings")])
def test_settings_for_the_session_are_in_force(
    cluster: Cluster, database: str, client: Any, User: Any, recorder: Recorder, driver: str, name: str
) -> None:
    client.execute("CREATE SCHEMA tenant; ALTER TABLE users SET SCHEMA tenant")
    make: Any = create_async_engine if driver == "asyncpg" else create_engine
    engine = make(cluster.url(database, driver), connect_args={name: {"search_path": "tenant, public"}})
    User.watch.inserted.connect(recorder)
    with Listener(engine, User) as listener:
        client.execute("INSERT INTO tenant.users (id) VALUES (7)")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (7,))]
