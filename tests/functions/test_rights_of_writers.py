"""Writers that lack a right that the trigger functions need: no write fails, and none is passed over in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from support import created_database

from sqlalchemy_watch.declaring.targets import watches_of
from sqlalchemy_watch.functions.body import function_body

from .kinds_of_tables import BRIEF, LEVELS, declare_kinds
from .twins import LOG, RESYNC, Twins, warnings_of

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

TEXTS = "\n".join(function_body(watch) for watch in watches_of(declare_kinds()[0]))

#: What the functions call by name, by operators and by casts, and the query for the functions that this means.
CALLS = {
    **{name: f"SELECT oid FROM pg_proc WHERE proname = '{name}'" for name in re.findall(r"pg_catalog\.(\w+)\(", TEXTS)},
    **{
        f"operator {symbol}": f"SELECT oprcode FROM pg_operator WHERE oprname = '{symbol}'"
        for symbol in re.findall(r"OPERATOR\(pg_catalog\.(.+?)\)", TEXTS)
    },
    "casts": "SELECT castfunc FROM pg_cast WHERE castfunc <> 0",
    "all": "SELECT oid FROM pg_proc",
}

#: The functions that send; without its own, a route is silent.
NOTIFY, EMIT = "pg_notify", "pg_logical_emit_message"


@pytest.fixture(scope="module")
def twins(cluster: Cluster) -> Iterator[Twins]:
    """In a database of their own: rights to functions are a database's."""
    with created_database(cluster, "test_rights") as name, Twins(cluster, name, *declare_kinds()) as twins:
        twins.admin.execute("CREATE ROLE clerk; GRANT ALL ON ALL TABLES IN SCHEMA public, app, twin TO clerk")
        twins.admin.execute("GRANT USAGE ON SCHEMA app, twin TO clerk")
        yield twins
        twins.admin.execute("DROP OWNED BY clerk; DROP ROLE clerk")


@pytest.fixture
def clerk(twins: Twins) -> Iterator[Client]:
    """A writer that is no superuser."""
    with twins.cluster.connect(twins.database) as client:
        client.execute("SET ROLE clerk")
        yield client


@contextmanager
def revoked(twins: Twins, call: str) -> Iterator[None]:
    """Nobody but superusers may call these functions."""
    functions = twins.admin.execute(
        f"SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc "
        f"WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind <> 'p' AND oid IN ({CALLS[call]})".encode()
    ).fetchone()
    assert functions is not None
    twins.admin.execute(f"REVOKE EXECUTE ON FUNCTION {functions[0]} FROM PUBLIC".encode())
    try:
        yield
    finally:
        twins.admin.execute(f"GRANT EXECUTE ON FUNCTION {functions[0]} TO PUBLIC".encode())


@pytest.mark.parametrize("call", CALLS)
def test_no_write_fails_where_execute_was_revoked(twins: Twins, clerk: Client, call: str) -> None:
    usual = dict(twins.plain(BRIEF))
    twins.empty()
    warnings = warnings_of(clerk)
    silent = []
    with revoked(twins, call):
        for name, heard in twins.write_all(clerk, BRIEF):
            assert twins.outcome[0] == ""
            lost = [c for c, rows in usual[name].items() if heard.get(c) != rows and RESYNC not in heard.get(c, ())]
            if lost and not (call in (NOTIFY, "all") and warnings):
                silent.append(f"{name}: {lost}, {len(warnings)} warnings")
            warnings.clear()
    log = twins.logged()
    lost = [c for c, rows in usual[LOG].items() if log.get(c) != rows and RESYNC not in log.get(c, ())]
    if lost and call not in (EMIT, "all"):
        silent.append(f"{LOG}: {lost}")
    assert silent == []


@pytest.mark.parametrize("call", [NOTIFY, EMIT])
@pytest.mark.parametrize("first", ["insert one", "insert two", "insert none", "insert a long one"])
def test_the_right_to_send_may_be_lost_within_a_transaction(twins: Twins, call: str, first: str) -> None:
    # PL/pgSQL asks for a right when it sets an expression up, once a transaction.
    twins.empty()
    with revoked(twins, call), twins.cluster.connect(twins.database) as client:
        for kind in twins.kinds:
            with client.transaction():
                twins.write(client, kind, kind.statements()[first])
                client.execute("SET LOCAL ROLE clerk")
                twins.write(client, kind, kind.insert(4))
                assert twins.outcome == ("", 1)


HIDDEN = {
    "row security": "ALTER TABLE {root} ENABLE ROW LEVEL SECURITY",
    "no select": "REVOKE SELECT ON {root} FROM clerk",
}
SHOWN = {
    "row security": "ALTER TABLE {root} DISABLE ROW LEVEL SECURITY",
    "no select": "GRANT SELECT ON {root} TO clerk",
}


@pytest.mark.parametrize("row_security", ["on", "off"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("how", HIDDEN)
def test_a_root_that_the_writer_does_not_see_is_asked_to_resync_for(
    twins: Twins, clerk: Client, how: str, level: str, row_security: str
) -> None:
    (kind,) = [kind for kind in twins.kinds if kind.table.name == f"{level}_managers"]
    clerk.execute(f"SET row_security = {row_security}".encode())
    twins.empty()
    twins.admin.execute(HIDDEN[how].format(root=f"{level}_people").encode())
    try:
        twins.write(clerk, kind, kind.insert(0, 1))
        for statement in (f"UPDATE {{t}} SET {kind.change}", "UPDATE {t} SET budget = '3' WHERE budget IS NOT NULL"):
            heard = twins.write(clerk, kind, statement)
            assert twins.outcome == ("", 2)
            assert {channel: set(map(str, rows)) for channel, rows in heard.items()} == {
                f"watch_{level}_managers_updated": {RESYNC}
            }
    finally:
        twins.admin.execute(SHOWN[how].format(root=f"{level}_people").encode())
