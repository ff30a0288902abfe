"""Problems of the installed triggers, in words: for `status`, and for a listener's log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Table

from ..declaring.translating import NO_MAP, SchemaMap
from ..wire import DURABLE_SINCE, lowest_wal_level
from .matching import read_status
from .reading import Fetch, psycopg_fetcher
from .status import NO_TABLE, WatchStatus

_SERVER = """
SELECT CAST(pg_catalog.current_setting('server_version_num') AS int) / 10000, pg_catalog.current_setting('wal_level')
"""

#: The functions that send.
_NOTIFIES, _LOGS = "pg_notify", "pg_logical_emit_message"

#: By table, the roles that may write to it, and not send. Triggers run as the writer.
_MUTE_WRITERS = """
SELECT DISTINCT CAST(c.oid AS text), CAST(p.proname AS text), w.name
FROM pg_catalog.pg_class AS c
CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) AS a
CROSS JOIN LATERAL (
  SELECT CASE WHEN a.grantee = CAST(0 AS pg_catalog.oid) THEN 'public'
    ELSE CAST(pg_catalog.pg_get_userbyid(a.grantee) AS text) END
) AS w(name)
JOIN pg_catalog.pg_proc AS p ON p.proname = ANY (CAST(:functions AS pg_catalog.name[]))
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = CAST('pg_catalog' AS pg_catalog.name)
WHERE c.oid = ANY (CAST(CAST(:tables AS text[]) AS pg_catalog.oid[]))
  AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
  AND pg_catalog.pg_get_function_arguments(p.oid) NOT LIKE '%bytea%'
  AND NOT pg_catalog.has_function_privilege(CAST(w.name AS pg_catalog.name), p.oid, 'EXECUTE')
ORDER BY 1, 2, 3
"""

#: Schemas of one table that are named.
MAX_NAMED = 3

_HIDDEN = f"""
SELECT w.name, h.schema, h.usable, CAST(current_user AS text)
FROM pg_catalog.unnest(CAST(:names AS text[])) AS w(name)
CROSS JOIN LATERAL (
  SELECT CAST(n.nspname AS text), pg_catalog.has_schema_privilege(n.oid, 'USAGE')
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.relname = CAST(w.name AS pg_catalog.name) AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
  ORDER BY 1 LIMIT {MAX_NAMED}
) AS h(schema, usable)
"""


def describe_problems(
    connection: psycopg.Connection[Any], tables: Sequence[Table], schemas: SchemaMap = NO_MAP
) -> Iterator[str]:
    """Describe the watches that are missing, outdated or can't work, and say what to do."""
    fetch = psycopg_fetcher(connection)
    for item in with_hidden_tables(fetch, read_status(fetch, tables, schemas, finds_leftovers=False)):
        if item.state in ("missing", "outdated"):
            yield (
                f"the trigger of {item.table}/{item.label} is {item.state} ({'; '.join(item.problems)}): run "
                f"`alembic revision --autogenerate`, or install(engine, ...)"
            )
        elif item.problems and item.watch is not None:
            yield f"the trigger of {item.table}/{item.label} is installed, but {'; '.join(item.problems)}"


def durable_problem(version: int, wal_level: str) -> str | None:
    """Return why the server can't deliver durably, and the remedy; None if it can.

    :param version: its major version.
    """
    needed = lowest_wal_level(version)
    if version < DURABLE_SINCE:
        why, remedy = f"the server is PostgreSQL {version}", f"it needs PostgreSQL {DURABLE_SINCE} or later"
    elif wal_level not in (needed, "logical"):
        why, remedy = f"wal_level is {wal_level!r}", f"set wal_level = {needed} and restart the server"
    else:
        return None
    return f"{why}, so durable delivery can't work: {remedy}"


class HiddenTable(NamedTuple):
    """A table of the name of one that is not found."""

    schema: str
    #: True if the role may use that schema, where its search_path does not lead.
    may_be_used: bool
    role: str


def hidden_tables(fetch: Fetch, items: Sequence[WatchStatus]) -> dict[str, list[HiddenTable]]:
    """Return by name the tables that the session does not see, of those that the items do not find."""
    names = {i.watch.table for i in items if NO_TABLE in i.problems and i.watch is not None and i.watch.schema is None}
    hidden: dict[str, list[HiddenTable]] = {}
    for name, *found in fetch(_HIDDEN, {"names": sorted(names)}) if names else ():
        hidden.setdefault(name, []).append(HiddenTable(*found))
    return hidden


def with_hidden_tables(fetch: Fetch, items: list[WatchStatus]) -> list[WatchStatus]:
    """Return the items; of a table that is not found, they say where there is one that the session does not see."""
    hidden = hidden_tables(fetch, items)
    return [
        replace(item, problems=(f"the table is not found: {', and '.join(map(_in_words, hidden[item.watch.table]))}",))
        if item.watch is not None and item.watch.table in hidden and NO_TABLE in item.problems
        else item
        for item in items
    ]


def _in_words(table: HiddenTable) -> str:
    if table.may_be_used:
        return f"there is one in schema {table.schema!r}, where the search_path does not lead"
    return f"there is one in schema {table.schema!r}, which the role {table.role!r} may not use: GRANT USAGE ON SCHEMA"


#: By a table's oid and one of the functions that send, the roles that may write and not send.
MuteWriters = Mapping[tuple[str, str], Sequence[str]]


def mute_writers(fetch: Fetch, items: Sequence[WatchStatus]) -> MuteWriters:
    """Return the roles that may write to the items' tables, and not send what triggers would."""
    tables = {str(item.relation.oid) for item in items if item.watch is not None and item.relation is not None}
    mute: dict[tuple[str, str], list[str]] = {}
    parameters = {"tables": sorted(tables), "functions": [_NOTIFIES, _LOGS]}
    for table, function, role in fetch(_MUTE_WRITERS, parameters) if tables else ():
        mute.setdefault((table, function), []).append(role)
    return mute


def mute_writers_of(item: WatchStatus, mute: MuteWriters) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each function that the item's trigger sends with, and the roles that write and may not execute it."""
    if item.watch is None or item.relation is None:
        return
    for function, is_called in ((_NOTIFIES, item.watch.is_notified), (_LOGS, item.watch.is_durable)):
        roles = mute.get((str(item.relation.oid), function), ())
        if is_called and roles:
            yield function, roles


def with_mute_writers(fetch: Fetch, items: list[WatchStatus]) -> list[WatchStatus]:
    """Return the items; they say which roles may write to the table, and not send what its triggers would."""
    mute = mute_writers(fetch, items)
    return [
        replace(item, problems=(*item.problems, *words)) if (words := _mute_in_words(item, mute)) else item
        for item in items
    ]


def _mute_in_words(item: WatchStatus, mute: MuteWriters) -> list[str]:
    return [
        f"{', '.join(map(repr, roles))} may write to it, and not execute {function}, so such writes are not heard: "
        f"GRANT EXECUTE ON FUNCTION pg_catalog.{function}"
        for function, roles in mute_writers_of(item, mute)
    ]


def with_server_problems(fetch: Fetch, items: list[WatchStatus]) -> list[WatchStatus]:
    """Return the items; those of durable watches also say if the server can't deliver them."""
    if not any(item.watch is not None and item.watch.is_durable for item in items):
        return items
    version, level = fetch(_SERVER, {})[0]
    problem = durable_problem(version, level)
    if problem is None:
        return items
    return [
        replace(item, problems=(*item.problems, problem)) if item.watch is not None and item.watch.is_durable else item
        for item in items
    ]
