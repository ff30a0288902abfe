"""The library's own tables in the database: made where they are missing, and looked at before each use.

They are in a schema of their own, out of sight of migrations. Triggers, rules, defaults and policies run with the
rights of whoever writes. So a table that somebody else has made first, or may change, is not used: not its name makes
it ours, but its owner and its form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import errors, sql

from ...errors import OwnershipError, SlotError

SCHEMA: Final = "sqlalchemy_watch"

#: A superuser is a member of every role, and trusts none for that.
_TRUSTED = """
(SELECT o.rolsuper OR o.rolname = current_user OR NOT me.rolsuper
    AND (o.oid = (SELECT d.datdba FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
      OR pg_catalog.pg_has_role(o.oid, 'MEMBER'))
  FROM pg_catalog.pg_roles AS o, pg_catalog.pg_roles AS me WHERE o.oid = {owner} AND me.rolname = current_user)
"""

#: Everything that could run somebody else's code, or hide a row. The catalog may be read by everybody.
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
LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = %(name)s
WHERE n.nspname = 'sqlalchemy_watch'
"""

_MAY_USE = """
SELECT pg_catalog.has_schema_privilege('sqlalchemy_watch', 'USAGE')
  AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
  AND pg_catalog.has_table_privilege(c.oid, 'UPDATE') AND pg_catalog.has_table_privilege(c.oid, 'DELETE')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'sqlalchemy_watch' AND c.relname = %(name)s
"""


@dataclass(frozen=True)
class OwnTable:
    """A table of the library's own."""

    name: str
    #: In words, such as "dead letters".
    purpose: str
    #: The type of each column, as the catalog spells it, with its constraints.
    columns: Mapping[str, str]
    #: What identifies a row.
    unique: tuple[str, ...]

    @property
    def full_name(self) -> str:
        """With the schema, for statements."""
        return f"{SCHEMA}.{self.name}"

    def exists(self, connection: psycopg.Connection[Any]) -> bool:
        """Return True if the table is there, whether or not the role may use it.

        :raises OwnershipError: where it is not such as it is made here, or somebody may change it who is not trusted.
        """
        found = connection.execute(_LOOK, {"name": self.name}).fetchone()
        if found is None:
            return False
        problems = list(self._problems(*found))
        if problems:
            raise OwnershipError(
                f"the table {self.full_name} for {self.purpose} is not used, because {' and '.join(problems)}, and "
                f"writing to it could run somebody else's code with the rights of this role: have an administrator "
                f"look at the schema {SCHEMA}, and either drop it, or give it to this role, to the database's owner or "
                f"to a superuser (ALTER SCHEMA ... OWNER TO, ALTER TABLE ... OWNER TO)"
            )
        return found[2] is not None

    def may_be_used(self, connection: psycopg.Connection[Any]) -> bool:
        """Return True if the table is there, and the role may use it.

        :raises OwnershipError: as `exists` does.
        """
        return self.exists(connection) and connection.execute(_MAY_USE, {"name": self.name}).fetchone() == (True,)

    def ensure(self, connection: psycopg.Connection[Any]) -> None:
        """Create the table, unless it is there.

        :raises OwnershipError: as `exists` does.
        :raises SlotError: where the role may not create or use it.
        """
        try:
            if not self.exists(connection):
                connection.execute(self._creation)
        except (errors.DuplicateObject, errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateSchema):
            pass  # another consumer was faster
        except errors.InsufficientPrivilege as error:
            raise SlotError(
                f"the role may not create the table {self.full_name} for {self.purpose} "
                f"({error.diag.message_primary}): have an administrator run `sqlalchemy-watch slots create`, or grant "
                f"CREATE on the database"
            ) from error
        if not self.may_be_used(connection):
            raise SlotError(
                f"the role may not use the table {self.full_name} for {self.purpose}: have its owner run GRANT USAGE "
                f"ON SCHEMA {SCHEMA} and GRANT SELECT, INSERT, UPDATE, DELETE ON {self.full_name}, or "
                f"`sqlalchemy-watch slots create --role` with the role's name"
            )

    def grant(self, connection: psycopg.Connection[Any], role: str) -> None:
        """Let a role use the table."""
        name = sql.Identifier(role)
        connection.execute(sql.SQL(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {{}}").format(name))
        table = sql.Identifier(SCHEMA, self.name)
        connection.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}").format(table, name))

    @property
    def _creation(self) -> str:
        columns = ", ".join(f"{name} {type_}" for name, type_ in self.columns.items())
        return (
            f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}; "
            f"CREATE TABLE IF NOT EXISTS {self.full_name} ({columns}, UNIQUE ({', '.join(self.unique)}))"
        )

    def _problems(
        self, schema_owner: str, trusts_schema: bool, kind: str | None, owner: str, trusts_table: bool,
        columns: list[str], *odd: bool,
    ) -> Iterator[str]:  # fmt: skip
        if not trusts_schema:
            yield f"its schema belongs to {schema_owner!r}"
        if kind is None:
            return
        if not trusts_table:
            yield f"it belongs to {owner!r}"
        if kind != "r":
            yield "it is no ordinary table"
            return
        if columns != [f"{name} {type_}" for name, type_ in self.columns.items()]:
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
