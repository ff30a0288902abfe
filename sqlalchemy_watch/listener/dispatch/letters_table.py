"""The table of dead letters: made where it is missing, and looked at before each use.

Triggers, rules, defaults and policies run with the rights of whoever writes. So a table that somebody else has made
first, or may change, is not used: not its name makes it ours, but its owner and its form.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import errors

from ...errors import OwnershipError, SlotError

TABLE: Final = "sqlalchemy_watch.dead_letters"

_COLUMNS: Final = {
    "id": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "consumer_group": "text NOT NULL",
    "channel": "text NOT NULL",
    "payload": "text NOT NULL",
    "lsn": "bigint NOT NULL",
    "position": "integer NOT NULL",
    "receiver": "text NOT NULL",
    "error": "text NOT NULL",
    "attempts": "integer NOT NULL",
    "failed_at": "timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp()",
    "retry_at": "timestamp with time zone",
}

_CREATE = f"""
CREATE SCHEMA IF NOT EXISTS sqlalchemy_watch;
CREATE TABLE IF NOT EXISTS {TABLE} (
  {", ".join(f"{name} {type_}" for name, type_ in _COLUMNS.items())},
  UNIQUE (consumer_group, lsn, position, receiver)
)
"""

#: A superuser is a member of every role, and trusts none for that.
_TRUSTED = """
(SELECT o.rolsuper OR o.rolname = current_user OR NOT me.rolsuper
    AND (o.oid = (SELECT d.datdba FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
      OR pg_catalog.pg_has_role(o.oid, 'MEMBER'))
  FROM pg_catalog.pg_roles AS o, pg_catalog.pg_roles AS me WHERE o.oid = {owner} AND me.rolname = current_user)
"""

#: Everything that could run somebody else's code, or hide a letter. The catalog may be read by everybody.
_LOOK = f"""
SELECT pg_catalog.pg_get_userbyid(n.nspowner), {_TRUSTED.format(owner="n.nspowner")},
  c.relkind::text, pg_catalog.pg_get_userbyid(c.relowner), {_TRUSTED.format(owner="c.relowner")},
  ARRAY(SELECT a.attname::text || ' ' || pg_catalog.format_type(a.atttypid, NULL) || a.attgenerated::text
      || CASE a.attidentity WHEN 'a' THEN ' GENERATED ALWAYS AS IDENTITY PRIMARY KEY'
         ELSE CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END END
      || coalesce((SELECT ' DEFAULT pg_catalog.' || pg_catalog.pg_get_expr(d.adbin, d.adrelid)
           FROM pg_catalog.pg_attrdef AS d WHERE d.adrelid = c.oid AND d.adnum = a.attnum), '')
    FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum),
  EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = c.oid),
  EXISTS (SELECT FROM pg_catalog.pg_rewrite AS r WHERE r.ev_class = c.oid),
  c.relrowsecurity OR EXISTS (SELECT FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid),
  EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = c.oid AND k.contype NOT IN ('p', 'u', 'n')),
  EXISTS (SELECT FROM pg_catalog.pg_index AS i
    WHERE i.indrelid = c.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)),
  EXISTS (SELECT FROM pg_catalog.pg_inherits AS i WHERE c.oid IN (i.inhrelid, i.inhparent))
FROM pg_catalog.pg_namespace AS n
LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'dead_letters'
WHERE n.nspname = 'sqlalchemy_watch'
"""

_MAY_USE = """
SELECT pg_catalog.has_schema_privilege('sqlalchemy_watch', 'USAGE')
  AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
  AND pg_catalog.has_table_privilege(c.oid, 'UPDATE') AND pg_catalog.has_table_privilege(c.oid, 'DELETE')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'sqlalchemy_watch' AND c.relname = 'dead_letters'
"""


def has_table(connection: psycopg.Connection[Any]) -> bool:
    """Return True if the table is there, whether or not the role may use it.

    :raises OwnershipError: where it is not such as it is made here, or somebody may change it who is not trusted.
    """
    found = connection.execute(_LOOK).fetchone()
    if found is None:
        return False
    problems = list(_problems(*found))
    if problems:
        raise OwnershipError(
            f"the table {TABLE} for dead letters is not used, because {' and '.join(problems)}, and writing to it "
            f"could run somebody else's code with the rights of this role: have an administrator look at the schema "
            f"sqlalchemy_watch, and either drop it, or give it to this role, to the database's owner or to a superuser "
            f"(ALTER SCHEMA ... OWNER TO, ALTER TABLE ... OWNER TO)"
        )
    return found[2] is not None


def _problems(
    schema_owner: str,
    trusts_schema: bool,
    kind: str | None,
    owner: str,
    trusts_table: bool,
    columns: list[str],
    *odd: bool,
) -> Any:
    if not trusts_schema:
        yield f"its schema belongs to {schema_owner!r}"
    if kind is None:
        return
    if not trusts_table:
        yield f"it belongs to {owner!r}"
    if kind != "r":
        yield "it is no ordinary table"
        return
    if columns != [f"{name} {type_}" for name, type_ in _COLUMNS.items()]:
        yield "its columns are other ones"
    names = (
        "a trigger",
        "a rule",
        "row security",
        "a constraint of its own",
        "an index of its own",
        "an heir or a parent",
    )
    yield from (f"it has {name}" for name, is_there in zip(names, odd, strict=True) if is_there)


def may_use_table(connection: psycopg.Connection[Any]) -> bool:
    """Return True if the table is there, and the role may use it.

    :raises OwnershipError: as `has_table` does.
    """
    return has_table(connection) and connection.execute(_MAY_USE).fetchone() == (True,)


def ensure_table(connection: psycopg.Connection[Any]) -> None:
    """Create the table, unless it is there.

    :raises OwnershipError: as `has_table` does.
    :raises SlotError: where the role may not create or use it.
    """
    try:
        if not has_table(connection):
            connection.execute(_CREATE)
    except (errors.DuplicateObject, errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateSchema):
        pass  # another consumer was faster
    except errors.InsufficientPrivilege as error:
        raise SlotError(
            f"the role may not create the table {TABLE} for dead letters ({error.diag.message_primary}): have an "
            f"administrator run `sqlalchemy-watch slots create`, or grant CREATE on the database"
        ) from error
    if not may_use_table(connection):
        raise SlotError(
            f"the role may not use the table {TABLE} for dead letters: have its owner run GRANT USAGE ON SCHEMA "
            f"sqlalchemy_watch and GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE}, or `sqlalchemy-watch slots create "
            f"--role` with the role's name"
        )
