"""Two queries on pg_catalog, however many tables there are; none of them writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import psycopg
from sqlalchemy import Connection, text

from ..functions.mark import MARK
from .installed import InstalledFunction, InstalledTrigger, Relation

#: Runs a query with named parameters (`:name`) and returns its rows.
Fetch = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]

_TABLES = """
SELECT t.schema, t.name, c.oid, n.nspname, c.relname, CAST(c.relkind AS text), c.relispartition,
  pg_catalog.pg_get_userbyid(c.relowner),
  ARRAY(SELECT hn.nspname || '.' || h.relname FROM pg_catalog.pg_inherits AS i
    JOIN pg_catalog.pg_class AS h ON h.oid = i.inhrelid JOIN pg_catalog.pg_namespace AS hn ON hn.oid = h.relnamespace
    WHERE i.inhparent = c.oid AND c.relkind = 'r' ORDER BY 1),
  ARRAY(SELECT CAST(a.attname AS text) FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped ORDER BY a.attnum)
FROM unnest(CAST(:schemas AS text[]), CAST(:names AS text[])) AS t(schema, name)
JOIN pg_catalog.pg_class AS c ON c.relname = CAST(t.name AS pg_catalog.name)
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE CASE WHEN t.schema IS NULL THEN pg_catalog.pg_table_is_visible(c.oid) ELSE n.nspname = t.schema END
"""

_FUNCTIONS = """
SELECT pn.nspname, p.proname, p.prosrc, l.lanname, p.prosecdef, coalesce(p.proconfig, '{}'),
  pg_catalog.substr(pg_catalog.pg_get_functiondef(p.oid), pg_catalog.length('CREATE OR REPLACE FUNCTION '
    || pg_catalog.quote_ident(pn.nspname) || '.' || pg_catalog.quote_ident(p.proname)) + 1),
  CASE WHEN p.proacl IS NOT NULL THEN ARRAY(
    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
      || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_catalog.aclexplode(p.proacl) AS a WHERE a.grantee <> p.proowner ORDER BY 1) END,
  coalesce(pn.nspname = pg_catalog.current_schema(), false),
  t.tgname, t.tgrelid, cn.nspname, c.relname, t.tgtype, t.tgenabled, t.tgoldtable, t.tgnewtable,
  t.tgqual IS NULL AND t.tgattr::text = '' AND t.tgnargs = 0 AND NOT t.tgdeferrable AND t.tgconstraint = 0,
  pg_catalog.pg_get_triggerdef(t.oid)
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace
JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_trigger AS t ON t.tgfoid = p.oid AND t.tgparentid = 0 AND NOT t.tgisinternal
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
LEFT JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
WHERE p.prorettype = CAST('pg_catalog.trigger' AS pg_catalog.regtype)
  AND (pg_catalog.strpos(p.prosrc, :mark) = 2
    OR p.proname = ANY (CAST(:names AS text[])) OR t.tgname = ANY (CAST(:names AS text[])))
ORDER BY pn.nspname, p.proname, t.tgname, cn.nspname, c.relname
"""


def fetcher(connection: Connection) -> Fetch:
    """Return a function that runs the catalog's queries on a SQLAlchemy connection."""

    def fetch(sql: str, parameters: Mapping[str, Any]) -> Any:
        return connection.execute(text(sql), dict(parameters)).all()

    return fetch


def psycopg_fetcher(connection: psycopg.Connection[Any]) -> Fetch:
    """Return a function that runs them on a psycopg connection, which spells parameters in another way."""

    def fetch(sql: str, parameters: Mapping[str, Any]) -> Any:
        translated = re.sub(r"(?<![:\w]):(\w+)", r"%(\1)s", sql.replace("%", "%%"))
        return connection.execute(translated, parameters).fetchall()

    return fetch


def read_relations(fetch: Fetch, places: Collection[tuple[str | None, str]]) -> dict[tuple[str | None, str], Relation]:
    """Return the tables that exist, by schema and name; one without a schema is looked up on the search path."""
    if not places:
        return {}
    rows = fetch(_TABLES, {"schemas": [schema for schema, _ in places], "names": [name for _, name in places]})
    return {(schema, name): _relation(row) for schema, name, *row in rows}


def read_functions(fetch: Fetch, names: Sequence[str]) -> list[InstalledFunction]:
    """Return the trigger functions that carry our mark, and those that have one of these names."""
    rows = fetch(_FUNCTIONS, {"mark": MARK, "names": list(names)})
    return [_function(row) for row in rows]


def _relation(row: Sequence[Any]) -> Relation:
    oid, schema, name, kind, is_partition, owner, children, virtual_columns = row
    return Relation(oid, schema, name, kind, is_partition, owner, tuple(children), tuple(virtual_columns))


def _function(row: Sequence[Any]) -> InstalledFunction:
    (
        schema, name, body, language, security_definer, settings, definition, grants, in_default_schema,
        trigger_name, table_oid, table_schema, table, type_bits, enabled, old_table, new_table, plain,
        trigger_definition,
    ) = row  # fmt: skip
    trigger = None
    if trigger_name is not None:
        relation = Relation(table_oid, table_schema, table)
        trigger = InstalledTrigger(
            trigger_name, relation, type_bits, _char(enabled), (old_table, new_table), plain, trigger_definition
        )
    grants = None if grants is None else tuple(grants)
    return InstalledFunction(
        schema, name, body, language, security_definer, tuple(settings), definition, grants, in_default_schema, trigger
    )


def _char(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value  # asyncpg returns the type "char" as bytes
