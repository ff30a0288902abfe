"""A few queries on pg_catalog, however many tables there are; none of them writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from sqlalchemy import Connection, text

from ..functions.mark import MARK, MAX_MARK_LENGTH
from .installed import InstalledFunction, InstalledTrigger, Relation

#: Runs a query with named parameters (`:name`) and returns its rows.
Fetch = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]

#: Bytes; a larger body is none of ours.
MAX_BODY_BYTES: Final = 1_048_576

#: The number of strangers' functions that are named.
MAX_STRANGERS: Final = 20


class Stranger(NamedTuple):
    """A function that has our mark, and is of somebody who has no say there."""

    name: str
    owner: str
    #: The beginning of its body.
    body: str


_TABLES = """
SELECT t.schema, t.name, c.oid, n.nspname, c.relname, CAST(c.relkind AS text), c.relispartition,
  pg_catalog.pg_get_userbyid(c.relowner),
  ARRAY(SELECT pg_catalog.concat(hn.nspname, '.', h.relname) FROM pg_catalog.pg_inherits AS i
    JOIN pg_catalog.pg_class AS h ON h.oid = i.inhrelid JOIN pg_catalog.pg_namespace AS hn ON hn.oid = h.relnamespace
    WHERE i.inhparent = c.oid AND c.relkind = 'r' ORDER BY 1),
  ARRAY(SELECT CAST(a.attname AS text) FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped ORDER BY a.attnum),
  EXISTS (
    WITH RECURSIVE below AS (
      SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = c.oid
      UNION
      SELECT i.inhrelid FROM below AS b JOIN pg_catalog.pg_inherits AS i ON i.inhparent = b.inhrelid
    )
    SELECT FROM below AS b JOIN pg_catalog.pg_class AS f ON f.oid = b.inhrelid WHERE f.relkind = 'f')
FROM unnest(CAST(:schemas AS text[]), CAST(:names AS text[])) AS t(schema, name)
JOIN pg_catalog.pg_class AS c ON c.relname = CAST(t.name AS pg_catalog.name)
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE CASE WHEN t.schema IS NULL THEN pg_catalog.pg_table_is_visible(c.oid) ELSE n.nspname = t.schema END
"""

#: Operators are those of pg_catalog only where both types are exactly theirs; of an oid and a number, say, anybody can
#: make one that runs with the rights of whoever looks.
#:
#: Functions: by the names asked for, and called by triggers on the tables; with a mark, left-overs as well. Nothing is
#: read of what a stranger has made, or what is too large to be ours: anybody may put anything there.
_FOUND = """
WITH tables AS MATERIALIZED (
  SELECT c.oid, c.relowner FROM pg_catalog.pg_class AS c
  WHERE c.oid = ANY (CAST(CAST(:tables AS text[]) AS pg_catalog.oid[]))
), found AS MATERIALIZED (
  SELECT p.oid, p.proowner, pn.nspname, pn.nspowner, t.oid AS trigger_oid,
    p.prorettype = CAST(CAST('pg_catalog.trigger' AS pg_catalog.regtype) AS pg_catalog.oid) AND p.prokind = 'f'
      AND pg_catalog.octet_length(p.prosrc) <= :max_bytes
      AND coalesce(pg_catalog.pg_column_size(p.proconfig), 0) <= 8192
      AND coalesce(pg_catalog.pg_column_size(p.proacl), 0) <= 65536
      AS fits,
    pg_catalog.substr(p.prosrc, 2, pg_catalog.length(CAST(:mark AS text))) = CAST(:mark AS text) AS is_marked,
    p.proname = ANY (CAST(:names AS text[])) OR coalesce(t.tgname = ANY (CAST(:names AS text[])), false) AS is_named
  FROM pg_catalog.pg_proc AS p
  JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace
  LEFT JOIN pg_catalog.pg_trigger AS t
    ON t.tgfoid = p.oid AND t.tgparentid = CAST(0 AS pg_catalog.oid) AND NOT t.tgisinternal
      AND t.tgrelid IN (SELECT oid FROM tables)
  WHERE t.oid IS NOT NULL OR (p.pronargs = 0
    AND (p.proname = ANY (CAST(:names AS text[])) OR pg_catalog.starts_with(p.proname, 'watch_'))
    AND pn.nspname IN (
      SELECT coalesce(s, pg_catalog.current_schema()) FROM pg_catalog.unnest(CAST(:schemas AS text[])) AS s)
    AND NOT pg_catalog.starts_with(pn.nspname, 'pg_temp_'))
), owners AS MATERIALIZED (
  SELECT o.proowner, CAST(pg_catalog.pg_get_userbyid(o.proowner) AS text) AS owner,
    o.proowner = (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user) AS is_own,
    pg_catalog.cardinality(t.owned) > 0 AS owns_any,
    CASE WHEN pg_catalog.cardinality(t.owned) < (SELECT CAST(pg_catalog.count(*) AS integer) FROM tables)
      THEN t.owned END AS owned_tables
  FROM (SELECT DISTINCT f.proowner FROM found AS f) AS o
  CROSS JOIN LATERAL (SELECT ARRAY(
    SELECT CAST(c.oid AS text) FROM tables AS c WHERE pg_catalog.pg_has_role(o.proowner, c.relowner, 'MEMBER')
      OR pg_catalog.has_table_privilege(o.proowner, c.oid, 'TRIGGER')) AS owned) AS t
), judged AS MATERIALIZED (
  SELECT f.oid, f.nspname, f.trigger_oid, f.fits, f.is_marked, f.is_named,
    o.owner, o.is_own, o.owned_tables, s.owns_schema,
    o.is_own OR s.owns_schema OR o.owns_any AS is_known
  FROM found AS f JOIN owners AS o ON o.proowner = f.proowner
  CROSS JOIN LATERAL (SELECT pg_catalog.pg_has_role(f.proowner, f.nspowner, 'MEMBER') AS owns_schema) AS s
)
"""

_IS_STRANGERS = "j.is_marked AND NOT j.is_named AND NOT j.is_known AND j.trigger_oid IS NULL"

_PLAIN = """(t.tgqual IS NULL AND t.tgattr::text = '' AND t.tgnargs = 0 AND NOT t.tgdeferrable
    AND t.tgconstraint = CAST(0 AS pg_catalog.oid))"""

#: What most rows would repeat is left out: the tables over which an owner has a say where these are all (NULL), and how
#: a trigger is defined where the other columns say it. Partitions are found in pg_inherits: pg_partition_tree() would
#: wait for a lock on each of them.
_FUNCTIONS = f"""{_FOUND}, named AS MATERIALIZED (
  SELECT e.tgname, pg_catalog.min(e.tgfoid) AS first, pg_catalog.max(e.tgfoid) AS last
  FROM pg_catalog.pg_trigger AS e WHERE e.tgrelid IN (SELECT oid FROM tables) GROUP BY e.tgname
)
SELECT j.nspname, p.proname, CASE WHEN j.fits AND j.is_known THEN p.prosrc ELSE '' END, l.lanname, p.prosecdef,
  CASE WHEN j.fits AND j.is_known THEN coalesce(p.proconfig, '{{}}') ELSE '{{}}' END,
  CASE WHEN j.fits AND j.is_known AND p.proacl IS NOT NULL THEN ARRAY(
    SELECT CASE a.grantee WHEN CAST(0 AS pg_catalog.oid) THEN 'PUBLIC'
        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
      || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_catalog.aclexplode(p.proacl) AS a WHERE a.grantee <> p.proowner ORDER BY 1) END,
  coalesce(j.nspname = pg_catalog.current_schema(), false),
  j.owner, j.is_own, j.owns_schema, j.owned_tables, coalesce(j.is_marked, false), j.fits,
  p.oid IN (SELECT e.tgfoid FROM pg_catalog.pg_trigger AS e
    WHERE e.tgparentid = CAST(0 AS pg_catalog.oid) AND NOT e.tgisinternal
      AND e.tgrelid NOT IN (SELECT oid FROM tables)),
  coalesce(named.first <> p.oid OR named.last <> p.oid, false),
  EXISTS (SELECT FROM judged AS j WHERE {_IS_STRANGERS}),
  t.tgname, t.tgrelid, cn.nspname, c.relname, t.tgtype, t.tgenabled, t.tgoldtable, t.tgnewtable, {_PLAIN},
  CASE WHEN j.is_known AND NOT {_PLAIN} THEN pg_catalog.pg_get_triggerdef(t.oid) ELSE '' END,
  CASE WHEN c.relkind = 'p' THEN ARRAY(
    WITH RECURSIVE partitions AS (
      SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = t.tgrelid
      UNION ALL
      SELECT i.inhrelid FROM partitions AS p JOIN pg_catalog.pg_inherits AS i ON i.inhparent = p.inhrelid
    )
    SELECT DISTINCT CAST(e.tgenabled AS text)
    FROM partitions AS p JOIN pg_catalog.pg_trigger AS e ON e.tgrelid = p.inhrelid
    WHERE e.tgname = t.tgname AND e.tgparentid <> CAST(0 AS pg_catalog.oid) ORDER BY 1) ELSE '{{}}' END
FROM judged AS j
JOIN pg_catalog.pg_proc AS p ON p.oid = j.oid
JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
LEFT JOIN named ON named.tgname = p.proname
LEFT JOIN pg_catalog.pg_trigger AS t ON t.oid = j.trigger_oid
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
LEFT JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
WHERE j.is_named OR (j.is_marked AND (j.is_known OR t.oid IS NOT NULL))
"""

#: The body is one that was read before: what somebody has put in its place meanwhile is none that was judged.
_DEFINITIONS = """
SELECT n.nspname, p.proname, pg_catalog.substr(pg_catalog.pg_get_functiondef(p.oid), pg_catalog.length(
  'CREATE OR REPLACE FUNCTION ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname)) + 1)
FROM unnest(CAST(:schemas AS text[]), CAST(:names AS text[]), CAST(:bodies AS text[])) AS t(schema, name, body)
JOIN pg_catalog.pg_proc AS p ON p.proname = CAST(t.name AS pg_catalog.name)
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = t.schema AND p.pronargs = 0 AND p.prokind = 'f' AND p.prosrc = t.body
"""

#: Bytes, and not text: what strangers write need not be of any encoding that the connection can carry.
_STRANGERS = f"""{_FOUND}
SELECT {{name}}, {{owner}}, {{body}}
FROM judged AS j JOIN pg_catalog.pg_proc AS p ON p.oid = j.oid
WHERE {_IS_STRANGERS}
ORDER BY p.oid LIMIT {MAX_STRANGERS}
""".format(
    **{
        name: f"pg_catalog.encode(pg_catalog.convert_to({sql}, CAST(pg_catalog.getdatabaseencoding() AS name)), 'hex')"
        for name, sql in {
            "name": "pg_catalog.concat(j.nspname, '.', p.proname)",
            "owner": "j.owner",
            "body": f"pg_catalog.substr(p.prosrc, 1, {MAX_MARK_LENGTH + 2})",
        }.items()
    }
)


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


class Scope(NamedTuple):
    """The part of the catalog to look at."""

    #: The names of functions and triggers.
    names: Collection[str]
    #: The tables whose triggers are looked at, by their oids.
    tables: Collection[int]
    #: The schemas in which functions are looked for; None is the first one of the search path.
    schemas: Collection[str | None]
    #: True to find left-overs as well: what has our mark.
    finds_leftovers: bool = True

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the queries."""
        return {
            "names": list(self.names),
            "tables": [str(oid) for oid in self.tables],
            "schemas": list(self.schemas),
            "mark": MARK if self.finds_leftovers else None,
            "max_bytes": MAX_BODY_BYTES,
        }


class Found(NamedTuple):
    """The functions in a scope."""

    #: Of strangers only those in a place of ours, without their bodies. Of all without definition.
    functions: list[InstalledFunction]
    #: Others that have our mark; not more than a few.
    strangers: list[Stranger]


def read_functions(fetch: Fetch, scope: Scope) -> Found:
    """Return functions with one of these names, those of triggers with such a name, and left-overs with our mark."""
    rows = sorted(fetch(_FUNCTIONS, scope.parameters()), key=_order)
    tables = frozenset(scope.tables)
    functions = [_function(row, tables) for row in rows]
    has_strangers = scope.finds_leftovers and (not rows or rows[0][_HAS_STRANGERS])
    return Found(functions, _read_strangers(fetch, scope) if has_strangers else [])


def _read_strangers(fetch: Fetch, scope: Scope) -> list[Stranger]:
    rows = fetch(_STRANGERS, scope.parameters())
    return [Stranger(*(bytes.fromhex(part).decode("ascii", "replace") for part in row)) for row in rows]


def read_definitions(fetch: Fetch, functions: Collection[InstalledFunction]) -> dict[tuple[str, str], str]:
    """Return what follows the name in the `CREATE OR REPLACE FUNCTION` of each, by schema and name."""
    if not functions:
        return {}
    columns = {
        "schemas": [function.schema for function in functions],
        "names": [function.name for function in functions],
        "bodies": [function.body for function in functions],
    }
    return {(schema, name): definition for schema, name, definition in fetch(_DEFINITIONS, columns)}


def _relation(row: Sequence[Any]) -> Relation:
    oid, schema, name, kind, is_partition, owner, children, virtual_columns, has_foreign_child = row
    return Relation(
        oid, schema, name, kind, is_partition, owner, tuple(children), tuple(virtual_columns), has_foreign_child
    )


#: The place of a column in a row of a function, and that of the trigger's first one.
_HAS_STRANGERS: Final = 16
_TRIGGER: Final = 17


def _order(row: Sequence[Any]) -> tuple[Any, ...]:
    trigger, _, schema, table = row[_TRIGGER : _TRIGGER + 4]
    return row[0], row[1], trigger is None, trigger, schema, table


def _function(row: Sequence[Any], tables: frozenset[int]) -> InstalledFunction:
    (
        schema, name, body, language, security_definer, settings, grants, in_default_schema,
        owner, is_own, owns_schema, owned_tables, is_marked, fits, is_called_elsewhere, name_is_taken,
    ) = row[:_HAS_STRANGERS]  # fmt: skip
    function = InstalledFunction(
        schema, name, body, language, security_definer, tuple(settings),
        None if grants is None else tuple(grants), in_default_schema, _trigger(*row[_TRIGGER:]),
        owner, is_own, owns_schema, tables if owned_tables is None else frozenset(map(int, owned_tables)),
        is_marked, is_called_elsewhere, name_is_taken,
    )  # fmt: skip
    return function if fits else function.as_strangers("is no function that a trigger of ours could call")


def _trigger(
    name: str | None, oid: int, schema: str, table: str, type_bits: int, enabled: Any, old_table: str | None,
    new_table: str | None, plain: bool, definition: str, copies: Sequence[str],
) -> InstalledTrigger | None:  # fmt: skip
    if name is None:
        return None
    relation = Relation(oid, schema, table)
    return InstalledTrigger(
        name, relation, type_bits, _char(enabled), (old_table, new_table), plain, definition, tuple(copies)
    )


def _char(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value  # asyncpg returns the type "char" as bytes
