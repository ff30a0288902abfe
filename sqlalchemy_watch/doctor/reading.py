"""The questions to the server. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from ..catalog.reading import Fetch, psycopg_fetcher
from ..catalog.status import WatchStatus
from ..errors import OwnershipError, UnsupportedServerError, one_line
from ..listener.server.checks import check_not_pooled
from ..listener.server.connect import Connect
from ..listener.server.own_tables import OwnTable
from ..listener.wal.slots import PUBLICATION
from .facts import NO_TABLE, Idle, Logs, Pooler, Rights, Server, Setting
from .platforms import ROLES, Address, Recognized, Traces, recognize

_SERVER = """
SELECT CAST(pg_catalog.current_setting('server_version_num') AS int) / 10000, pg_catalog.pg_is_in_recovery(),
  pg_catalog.current_setting('server_encoding'), CAST(pg_catalog.current_database() AS text),
  CAST(current_user AS text), CAST(session_user AS text), me.rolsuper,
  login.rolsuper OR login.rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles AS r
    WHERE r.rolname = 'rds_replication' AND pg_catalog.pg_has_role(login.oid, r.oid, 'MEMBER')),
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
  pg_catalog.has_function_privilege('pg_catalog.pg_notify(text, text)', 'EXECUTE'),
  pg_catalog.pg_notification_queue_usage()
FROM pg_catalog.pg_roles AS me, pg_catalog.pg_roles AS login
WHERE me.rolname = current_user AND login.rolname = session_user
"""

#: The settings that are looked at.
SETTINGS = (
    "wal_level", "max_replication_slots", "max_wal_senders", "max_slot_wal_keep_size", "statement_timeout",
    "session_replication_role", "max_notify_queue_pages", "idle_in_transaction_session_timeout", "rds.extensions",
)  # fmt: skip

_SETTINGS = """
SELECT name, setting, source FROM pg_catalog.pg_settings WHERE name = ANY (CAST(:names AS text[]))
"""

_TRACES = """
SELECT ARRAY(SELECT DISTINCT pg_catalog.split_part(s.name, '.', 1) FROM pg_catalog.pg_settings AS s
    WHERE pg_catalog.strpos(s.name, '.') > 0),
  ARRAY(SELECT CAST(r.rolname AS text) FROM pg_catalog.pg_roles AS r
    WHERE r.rolname = ANY (CAST(CAST(:roles AS text[]) AS pg_catalog.name[]))),
  EXISTS (SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.proname = 'aurora_version' AND n.nspname = 'pg_catalog')
"""

_LOGS = """
SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication),
  EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical'),
  EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = CAST(:publication AS pg_catalog.name))
"""

#: The column came with PostgreSQL 17.
_FAILOVER = """
SELECT CAST(pg_catalog.jsonb_extract_path_text(pg_catalog.to_jsonb(s), 'failover') AS boolean)
FROM pg_catalog.pg_replication_slots AS s WHERE s.slot_name = CAST(:name AS pg_catalog.name)
"""

_IDLE = """
SELECT pid, CAST(extract(epoch FROM pg_catalog.clock_timestamp() - xact_start) AS float8), CAST(usename AS text)
FROM pg_catalog.pg_stat_activity
WHERE datname = pg_catalog.current_database() AND state = 'idle in transaction' AND xact_start IS NOT NULL
ORDER BY xact_start LIMIT 1
"""

_RIGHTS = """
SELECT CAST(n.nspname AS text), CAST(c.relname AS text), CAST(pg_catalog.pg_get_userbyid(c.relowner) AS text),
  pg_catalog.has_table_privilege(c.oid, 'TRIGGER'), pg_catalog.has_schema_privilege(n.oid, 'CREATE'),
  pg_catalog.pg_has_role(c.relowner, 'MEMBER')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = ANY (CAST(CAST(:tables AS text[]) AS pg_catalog.oid[]))
ORDER BY 1, 2
"""

#: By Alembic's own name for it, wherever the search_path leads.
_ALEMBIC = "SELECT pg_catalog.to_regclass('alembic_version') IS NOT NULL"

_SCHEMAS = """
SELECT DISTINCT CAST(n.nspname AS text)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = ANY (CAST(CAST(:names AS text[]) AS pg_catalog.name[])) AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition AND NOT pg_catalog.starts_with(n.nspname, 'pg_')
ORDER BY 1
"""

#: Not the listener's, which are counted.
_NAME = "SELECT pg_catalog.set_config('application_name', 'sqlalchemy-watch doctor', false)"

_PROCESS = "SELECT pg_catalog.pg_backend_pid()"

#: PgBouncer's database for its administrators, and what its version begins with.
_CONSOLE = "pgbouncer"
_VERSION = "PgBouncer"


def read_server(connection: psycopg.Connection[Any], address: Address) -> tuple[Server, Recognized]:
    """Return the server, the role, and whose it is."""
    fetch = psycopg_fetcher(connection)
    fetch(_NAME, {})
    settings = {name: Setting(*found) for name, *found in fetch(_SETTINGS, {"names": list(SETTINGS)})}
    prefixes, roles, has_aurora_version = fetch(_TRACES, {"roles": sorted(ROLES)})[0]
    extensions = settings["rds.extensions"].value if "rds.extensions" in settings else ""
    traces = Traces(frozenset(prefixes), frozenset(roles), extensions, has_aurora_version)
    recognized = recognize(traces, address)
    server = Server(*fetch(_SERVER, {})[0])
    return replace(server, settings=settings, platform=recognized.platform), recognized


def name_pooler(connection: psycopg.Connection[Any]) -> Pooler:
    """Return what is between this process and the server, whatever it does with LISTEN."""
    (pid,) = psycopg_fetcher(connection)(_PROCESS, {})[0]
    if pid == connection.info.backend_pid:
        return Pooler()
    return Pooler(True, _name_of_pooler(connection))


def read_pooler(connection: psycopg.Connection[Any], connect: Connect, seconds: float) -> Pooler:
    """Return what is between this process and the server, and whether LISTEN works through it.

    :param seconds: at most half of this time is waited for a notification.
    """
    found = name_pooler(connection)
    try:
        check_not_pooled(connection, connect, seconds)
    except UnsupportedServerError as error:
        return replace(found, is_between=True, refusal=str(error))
    return found


def _name_of_pooler(connection: psycopg.Connection[Any]) -> str | None:
    """Ask for its version in PgBouncer's console, which answers those that it lets in."""
    settings: dict[str, Any] = {o.keyword.decode(): o.val.decode() for o in connection.pgconn.info if o.val}
    settings["dbname"] = _CONSOLE
    try:
        with psycopg.connect(**settings, autocommit=True) as console:
            row = console.execute("SHOW VERSION").fetchone()
    except psycopg.Error:
        return None
    return str(row[0]) if row is not None and str(row[0]).startswith(_VERSION) else None


def read_logs(connection: psycopg.Connection[Any], connect: Connect, tables: Sequence[OwnTable]) -> Logs:
    """Return what consumer groups share; opens a connection of replication, and closes it at once."""
    found = psycopg_fetcher(connection)(_LOGS, {"publication": PUBLICATION})[0]
    refusals = {table.full_name: _table_refusal(table, connection) for table in tables}
    return replace(Logs(_replication_refusal(connect), *found), tables=refusals)


def _replication_refusal(connect: Connect) -> str | None:
    try:
        connect(replication=True).close()
    except psycopg.Error as error:
        return one_line(error)
    return None


def _table_refusal(table: OwnTable, connection: psycopg.Connection[Any]) -> str | None:
    try:
        if not table.exists(connection):
            return NO_TABLE
        return None if table.may_be_used(connection) else "the role may not use it"
    except OwnershipError as error:
        return str(error)


def read_failover(fetch: Fetch, slot: str) -> bool | None:
    """Return whether a slot survives a failover; None where the server is too old to say."""
    rows = fetch(_FAILOVER, {"name": slot})
    return rows[0][0] if rows else None


def read_idle(fetch: Fetch) -> Idle | None:
    """Return the oldest transaction in which nothing happens, as far as the role may see it."""
    rows = fetch(_IDLE, {})
    return Idle(*rows[0]) if rows else None


def read_rights(fetch: Fetch, items: Sequence[WatchStatus]) -> list[Rights]:
    """Return the role's rights on the tables of the items."""
    tables = sorted({str(item.relation.oid) for item in items if item.relation is not None})
    return [Rights(*row) for row in fetch(_RIGHTS, {"tables": tables})] if tables else []


def read_alembic(fetch: Fetch) -> bool:
    """Return True if migrations of Alembic's have been run here."""
    return bool(fetch(_ALEMBIC, {})[0][0])


def read_schemas(fetch: Fetch, names: Sequence[str]) -> list[str]:
    """Return the schemas that have a table of one of these names."""
    return [schema for (schema,) in fetch(_SCHEMAS, {"names": list(names)})]


def asker(connection: psycopg.Connection[Any]) -> Callable[[str], Any]:
    """Return a function that runs a query, and returns its only value."""
    fetch = psycopg_fetcher(connection)

    def ask(query: str) -> Any:
        return fetch(query, {})[0][0]

    return ask
