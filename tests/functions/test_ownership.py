"""What is ours in the catalog: anybody may write our mark, and roles that may do little must gain nothing by it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.operations.ops import UpgradeOps
from postgres import Cluster
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase
from support import wait_until

from sqlalchemy_watch import Listener, OwnershipError, install, status, uninstall

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]


@pytest.fixture
def role(client: Client, database: str) -> Iterator[str]:
    """A role that may make things in schema public, as everybody might before PostgreSQL 15."""
    name = f"stranger_{database}"
    client.execute(f"CREATE ROLE {name} LOGIN")
    client.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {name}")
    yield name
    client.execute(f"DROP OWNED BY {name} CASCADE")
    client.execute(f"DROP ROLE {name}")


@pytest.fixture
def stranger(cluster: Cluster, database: str, role: str) -> Iterator[Client]:
    with psycopg.connect(f"postgresql://{role}@127.0.0.1:{cluster.port}/{database}", autocommit=True) as connection:
        yield connection


def mark_of(client: Client, label: str = "gone") -> str:
    (body,) = client.execute("SELECT prosrc FROM pg_proc WHERE proname = 'watch_users_inserted'").fetchone() or ("",)
    return str(body).split("\n")[1].replace('"inserted"', f'"{label}"')


def forge(client: Client, name: str, body: str, options: str = "", language: str = "plpgsql") -> None:
    literal = psycopg.sql.Literal(body).as_string()
    client.execute(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE {language} {options} AS {literal}".encode()
    )


def migrations(engine: Engine, base: type[DeclarativeBase]) -> tuple[UpgradeOps, Any]:
    with engine.connect() as connection:
        made = produce_migrations(MigrationContext.configure(connection), base.metadata)
    return made.upgrade_ops, made.downgrade_ops


def run(engine: Engine, operations: Any) -> str:
    code = render_python_code(operations)
    with engine.begin() as connection:
        names: dict[str, Any] = {}
        exec("def f(op):\n" + "\n".join(f"    {line}" for line in code.splitlines()), names)
        names["f"](Operations(MigrationContext.configure(connection)))
    return code


#: Everything that looks at the catalog.
LOOKS: dict[str, Callable[[Engine, type[DeclarativeBase]], Any]] = {
    "status": status,
    "install": install,
    "remove": lambda engine, base: install(engine, base, remove_orphaned=True),
    "autogenerate": migrations,
    "uninstall": uninstall,
    "drop_all": lambda engine, base: base.metadata.drop_all(engine),
}

#: First lines, behind the mark's beginning, that nobody would write.
LINES = {
    "deep": "1 " + "[" * 100_000,
    "deep within bounds": "1 " + "[" * 4_000,
    "deep object": '1 {"application": ' + '{"a":' * 700 + "1" + "}" * 701,
    "long": '1 {"application": "' + "x" * 900_000 + '", "table": "users", "label": "a"}',
    "version": "9" * 4_000 + ' {"application": "", "table": "users", "label": "a"}',
    "version of other digits": '١ {"application": "", "table": "users", "label": "a"}',
    "types": '1 {"application": "", "schema": 7, "table": ["users"], "label": {"a": 1}}',
    "null": '1 {"application": "", "schema": null, "table": null, "label": null}',
    "NUL": r'1 {"application": "", "schema": null, "table": "us\u0000ers", "label": "a"}',
    "surrogate": r'1 {"application": "", "schema": "\ud800", "table": "users", "label": "a"}',
    "number": "1 " + "9" * 4_000,
    "not finite": '1 {"application": NaN, "schema": null, "table": "users", "label": Infinity}',
    "quotes": r'1 {"application": "", "schema": null, "table": "\"\"\"\n\\\r; raise", "label": "\n\"\"\"\\"}',
    "no JSON": "1 import os",
    "nothing": "",
}


@pytest.mark.parametrize("own", [False, True], ids=["a stranger's", "the current role's"])
@pytest.mark.parametrize("schema", ["public", "pg_temp"])
def test_no_first_line_makes_anything_raise(
    client: Client, stranger: Client, engine: Engine, Base: Any, User: Any, schema: str, own: bool
) -> None:
    maker = client if own else stranger
    for number, line in enumerate(LINES.values()):
        forge(maker, f"{schema}.watch_odd_{number}", f"\n-- sqlalchemy_watch {line}\nBEGIN RETURN NULL; END\n")
    for look in LOOKS.values():
        look(engine, Base)
    (left,) = client.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch_odd_%'").fetchone() or (0,)
    quoted = 1 if own and schema == "public" else 0  # a name is odd, and the mark one of ours
    assert left == len(LINES) - quoted


def test_large_functions_of_strangers_are_not_read(
    client: Client, stranger: Client, engine: Engine, Base: Any, User: Any
) -> None:
    mark = mark_of(client)
    for name in ("pg_temp.watch_large", "public.watch_large", "public.watch_users_gone"):
        forge(stranger, name, f"\n{mark}\nBEGIN RETURN NULL; END --" + "x" * 20_000_000)
    forge(client, "watch_own", f"\n{mark}\nBEGIN RETURN NULL; END --" + "x" * 2_000_000)
    # What the server sends: all columns of all rows, as text.
    with engine.connect() as connection:
        sizes = []

        def note(conn: Any, cursor: Any, *rest: Any) -> None:
            result = cursor.pgresult
            sizes.append(
                sum(len(result.get_value(i, j) or b"") for i in range(result.ntuples) for j in range(result.nfields))
            )

        event.listen(engine, "after_cursor_execute", note)
        status(connection, Base)
        event.remove(engine, "after_cursor_execute", note)
    assert sum(sizes) < 100_000
    with Listener(engine, Base) as listener:
        listener.catch_up()


#: What a role may do that may make functions in the schema, in the hope that somebody with more rights goes on with it.
FORGERIES: dict[str, tuple[str, str]] = {
    "left-over": ("public.watch_users_gone", ""),
    "left-over with other rights": ("public.watch_users_gone", "SECURITY DEFINER"),
    "left-over with a setting": ("public.watch_users_gone", "SET role = 'none'"),
    "left-over named like a trigger": ("public.audit", ""),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_left_over_is_left_alone_with_a_warning(
    client: Client, stranger: Client, role: str, engine: Engine, Base: Any, User: Any, forgery: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    name, options = FORGERIES[forgery]
    client.execute("CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    for trigger in ("audit", "watch_users_gone"):
        client.execute(
            f"CREATE TRIGGER {trigger} AFTER INSERT ON users FOR EACH STATEMENT EXECUTE FUNCTION write_audit()"
        )
    forge(stranger, name, f"\n{mark_of(client)}\nBEGIN ALTER ROLE {role} SUPERUSER; RETURN NULL; END\n", options)
    kept = "SELECT p.oid, p.proowner::regrole::text, p.prosrc FROM pg_proc AS p WHERE p.oid = to_regproc(%s)"
    before = client.execute(kept, [name]).fetchall()
    upgrade, downgrade = migrations(engine, Base)
    assert upgrade.ops == []
    run(engine, upgrade)
    run(engine, downgrade)
    if name.startswith("public.watch_"):  # nothing else is looked at
        assert f"belongs to the role '{role}'" in caplog.text
    caplog.clear()
    assert [item.state for item in install(engine, Base, remove_orphaned=True)] == []
    assert [item.state for item in status(engine, Base)] == ["installed"]
    assert [item.state for item in uninstall(engine, Base)] == ["installed"]
    assert client.execute(kept, [name]).fetchall() == before
    triggers = client.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 'users'::regclass ORDER BY 1").fetchall()
    assert triggers == [("audit",), ("watch_users_gone",)]


@pytest.mark.parametrize("body", ["BEGIN RETURN NULL; END", None], ids=["another body", "our body"])
def test_a_function_that_a_stranger_made_first_is_neither_called_nor_replaced(
    client: Client, stranger: Client, role: str, engine: Engine, Base: Any, User: Any, body: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It would stay the stranger's, who could change it any time; and then it runs with the rights of all writers."""
    (ours,) = client.execute("SELECT prosrc FROM pg_proc WHERE proname = 'watch_users_inserted'").fetchone() or ("",)
    upgrade_anew, _ = _adding(engine, Base)
    uninstall(engine, Base)
    forge(stranger, "public.watch_users_inserted", body or ours)
    assert [item.state for item in status(engine, Base)] == ["missing"]
    assert role in str(status(engine, Base)[0].problems)
    with pytest.raises(OwnershipError, match=rf"belongs to the role '{role}'.*ALTER FUNCTION"):
        install(engine, Base)
    upgrade, _ = migrations(engine, Base)
    assert upgrade.ops == []
    assert role in caplog.text
    with pytest.raises(Exception, match="already exists"):  # a migration made elsewhere
        run(engine, upgrade_anew)
    client.execute("DROP TABLE users")
    with pytest.raises(OwnershipError, match=role):
        Base.metadata.create_all(engine)
    client.execute(f"ALTER FUNCTION watch_users_inserted() OWNER TO {'postgres'}")
    if body is None:
        Base.metadata.create_all(engine)
        assert [item.state for item in status(engine, Base)] == ["installed"]


def _adding(engine: Engine, base: type[DeclarativeBase]) -> Any:
    uninstall(engine, base)
    made = migrations(engine, base)
    install(engine, base)
    return made


def test_a_trigger_of_ours_that_calls_a_strangers_function_is_said_to_be_missing(
    client: Client, stranger: Client, role: str, engine: Engine, Base: Any, User: Any
) -> None:
    (ours,) = client.execute("SELECT prosrc FROM pg_proc WHERE proname = 'watch_users_inserted'").fetchone() or ("",)
    forge(stranger, "public.watch_theirs", ours)
    client.execute("DROP TRIGGER watch_users_inserted ON users")
    client.execute("CREATE TRIGGER watch_users_inserted AFTER INSERT ON users EXECUTE FUNCTION watch_theirs()")
    assert [item.state for item in status(engine, Base)] == ["missing"]
    with pytest.raises(OwnershipError, match=role):
        install(engine, Base)
    assert migrations(engine, Base)[0].ops == []
    uninstall(engine, Base)
    assert client.execute("SELECT to_regproc('watch_theirs') IS NOT NULL").fetchone() == (True,)


def test_owners_that_are_trusted_with_a_table(
    cluster: Cluster, database: str, client: Client, engine: Engine, Base: Any, User: Any, role: str
) -> None:
    # Its owner, members of that, and whoever may make triggers on it: they run code with its writers' rights anyway.
    client.execute(f"ALTER FUNCTION watch_users_inserted() OWNER TO {role}")
    assert [item.state for item in status(engine, Base)] == ["missing"]
    client.execute(f"GRANT TRIGGER ON users TO {role}")
    assert [item.state for item in status(engine, Base)] == ["installed"]
    client.execute(f"REVOKE TRIGGER ON users FROM {role}")
    client.execute(f"ALTER TABLE users OWNER TO {role}")
    assert [item.state for item in status(engine, Base)] == ["installed"]
    owner = create_engine(f"postgresql+psycopg://{role}@127.0.0.1:{cluster.port}/{database}")
    try:
        client.execute("DROP TRIGGER watch_users_inserted ON users")
        assert [item.state for item in install(owner, Base)] == ["missing"]
        assert [item.state for item in status(owner, Base)] == ["installed"]
        client.execute("ALTER FUNCTION watch_users_inserted() OWNER TO postgres")  # installed by an administrator
        assert [item.state for item in status(owner, Base)] == ["installed"]
    finally:
        owner.dispose()


def test_what_a_tables_owner_made_is_never_made_again_with_an_administrators_rights(
    client: Client, engine: Engine, Base: Any, User: Any, role: str, stranger: Client
) -> None:
    client.execute(f"ALTER TABLE users OWNER TO {role}")
    body = f"\n{mark_of(client)}\nBEGIN ALTER ROLE {role} SUPERUSER; RETURN NULL; END\n"
    forge(stranger, "watch_users_gone", body, "SECURITY DEFINER")
    forge(stranger, "watch_users_inserted_2", "BEGIN RETURN NULL; END")
    upgrade, downgrade = migrations(engine, Base)
    assert "watch_users_gone" not in run(engine, upgrade)
    run(engine, downgrade)
    stranger.execute("DROP FUNCTION watch_users_gone()")
    forge(stranger, "watch_users_gone", body)  # without other rights it comes back, and runs with its caller's
    upgrade, downgrade = migrations(engine, Base)
    run(engine, upgrade)
    assert "SECURITY DEFINER" not in run(engine, downgrade)
    assert client.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [role]).fetchone() == (False,)


def test_functions_with_arguments_or_of_another_kind_are_not_ours(
    client: Client, stranger: Client, engine: Engine, Base: Any, User: Any
) -> None:
    uninstall(engine, Base)
    stranger.execute("CREATE FUNCTION public.watch_users_inserted(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    assert [item.state for item in install(engine, Base)] == ["missing"]
    uninstall(engine, Base)
    stranger.execute("CREATE FUNCTION public.watch_users_inserted() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(OwnershipError, match="no function that a trigger of ours could call"):
        install(engine, Base)
    assert migrations(engine, Base)[0].ops == []


def test_nobody_blocks_install_with_a_lock_of_a_number(
    client: Client, stranger: Client, engine: Engine, Base: Any, User: Any
) -> None:
    stranger.execute("SELECT pg_advisory_lock(7301977042117)")
    client.execute("DROP TRIGGER watch_users_inserted ON users")
    with engine.connect() as connection:
        connection.exec_driver_sql("SET lock_timeout = '5s'")
        assert [item.state for item in install(connection, Base)] == ["missing"]
        connection.commit()


@pytest.mark.parametrize("autocommit", [False, True])
def test_processes_that_install_at_once_all_succeed(
    client: Client, engine: Engine, Base: Any, User: Any, autocommit: bool
) -> None:
    engines = engine.execution_options(isolation_level="AUTOCOMMIT") if autocommit else engine
    for _ in range(5):
        uninstall(engine, Base)
        ready, failures = threading.Barrier(4), []

        def run_install(ready: threading.Barrier = ready, failures: list[Exception] = failures) -> None:
            ready.wait()
            try:
                install(engines, Base)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=run_install) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert [item.state for item in status(engine, Base)] == ["installed"]


def test_an_error_that_nobody_else_caused_is_raised_as_it_is(
    client: Client, engine: Engine, Base: Any, User: Any, role: str, cluster: Cluster, database: str
) -> None:
    client.execute("DROP TRIGGER watch_users_inserted ON users")
    weak = create_engine(f"postgresql+psycopg://{role}@127.0.0.1:{cluster.port}/{database}")
    try:
        with pytest.raises(Exception, match="must be owner|permission denied"):
            install(weak, Base)
    finally:
        weak.dispose()


def test_names_in_the_catalog_never_become_code_of_a_migration(
    client: Client, engine: Engine, Base: Any, User: Any
) -> None:
    evil = "\"\"\"\n\\\r'''\n    raise SystemExit  # \x07 %(x)s :y ${z} <% %>"
    fields = {"application": "", "schema": None, "table": "users", "label": evil}
    forge(
        client,
        "public.\"watch_users_'''\\\n%s\"",
        f"\n-- sqlalchemy_watch 1 {json.dumps(fields)}\nBEGIN RETURN NULL; END\n",
    )
    upgrade, downgrade = migrations(engine, Base)
    assert len(upgrade.ops) == 1
    before = client.execute("SELECT proname, prosrc FROM pg_proc WHERE proname LIKE 'watch_%' ORDER BY 1").fetchall()
    for line in run(engine, upgrade).splitlines():
        assert line.strip().startswith(("#", "op.execute(", "'", '"', ")")), line
    assert status(engine, Base)[0].state == "installed"
    run(engine, downgrade)
    assert (
        client.execute("SELECT proname, prosrc FROM pg_proc WHERE proname LIKE 'watch_%' ORDER BY 1").fetchall()
        == before
    )


def test_a_listener_says_that_the_function_is_a_strangers(
    client: Client, engine: Engine, Base: Any, User: Any, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    client.execute(f"ALTER FUNCTION watch_users_inserted() OWNER TO {role}")
    with Listener(engine, Base):
        wait_until(client, lambda: f"belongs to the role '{role}'" in caplog.text)
