"""The triggers of a transaction that is rolled back: they write into a temporary table what they would have sent.

The functions are replaced, in the test's own transaction, by the same text with the sending exchanged for a function of
`pg_temp`. DDL rolls back with the rest. Other sessions notice nothing; of two that do so the second one waits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ..declaring.spec import TableWatch
from ..errors import ConfigurationError, ListenerError, OwnershipError, one_line, sqlstate
from ..functions.quoting import qualified

#: Beside the triggers' table; also for a writer under SET ROLE, and so everybody's. It is gone with the transaction.
_SETUP = """
DO $setup$
DECLARE
  f record;
  checks CONSTANT text := pg_catalog.current_setting('check_function_bodies');
  wait CONSTANT text := pg_catalog.current_setting('lock_timeout');
BEGIN
  PERFORM pg_catalog.set_config('check_function_bodies', 'off', true);
  IF wait = '0' THEN
    PERFORM pg_catalog.set_config('lock_timeout', '%(seconds)ss', true);
  END IF;
  CREATE TEMP TABLE IF NOT EXISTS watch_captured (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, durable boolean, channel text, payload text)
    ON COMMIT DROP;
  CREATE OR REPLACE FUNCTION pg_temp.watch_capture(channel text, payload text) RETURNS void LANGUAGE plpgsql AS
    $f$ BEGIN INSERT INTO pg_temp.watch_captured (durable, channel, payload) VALUES (false, $1, $2); END $f$;
  CREATE OR REPLACE FUNCTION pg_temp.watch_capture(boolean, prefix text, payload text) RETURNS pg_catalog.pg_lsn
    LANGUAGE plpgsql AS
    $f$ BEGIN INSERT INTO pg_temp.watch_captured (durable, channel, payload) VALUES (true, $2, $3);
      RETURN pg_catalog.pg_current_wal_insert_lsn(); END $f$;
  CREATE OR REPLACE FUNCTION pg_temp.watch_refuse_commit() RETURNS trigger LANGUAGE plpgsql AS
    $f$ BEGIN RAISE EXCEPTION 'sqlalchemy_watch: this transaction captures events, and must be rolled back: committed, '
      'it would leave triggers that send nothing'; END $f$;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = 'pg_temp.watch_captured'::pg_catalog.regclass) THEN
    CREATE CONSTRAINT TRIGGER watch_refuse_commit AFTER INSERT ON watch_captured DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION pg_temp.watch_refuse_commit();
    ALTER TABLE pg_temp.watch_captured ENABLE ALWAYS TRIGGER watch_refuse_commit;
  END IF;
  INSERT INTO watch_captured (durable) VALUES (NULL);
  GRANT INSERT, SELECT ON watch_captured TO PUBLIC;
  GRANT EXECUTE ON FUNCTION pg_temp.watch_capture(text, text), pg_temp.watch_capture(boolean, text, text) TO PUBLIC;
  FOR f IN
    SELECT pg_catalog.pg_get_functiondef(p.oid) AS text
    FROM pg_catalog.pg_proc AS p
    WHERE p.oid = ANY (CAST(pg_catalog.string_to_array(
      pg_catalog.current_setting('sqlalchemy_watch.capture'), ',') AS pg_catalog.oid[]))
    ORDER BY p.oid
  LOOP
    EXECUTE pg_catalog.replace(pg_catalog.replace(f.text, 'pg_catalog.pg_notify(', 'pg_temp.watch_capture('),
      'pg_catalog.pg_logical_emit_message(', 'pg_temp.watch_capture(');
  END LOOP;
  PERFORM pg_catalog.set_config('check_function_bodies', checks, true);
  PERFORM pg_catalog.set_config('lock_timeout', wait, true);
END $setup$
"""

#: Seconds for which another test that captures events of the same watches is waited for.
WAIT_SECONDS = 60

_LOCK_NOT_AVAILABLE, _NOT_ALLOWED = "55P03", "42501"

#: The tables and their partitions, with the functions of ours that their triggers call.
_FUNCTIONS = text("""
WITH RECURSIVE member AS (
  SELECT CAST(pg_catalog.to_regclass(name) AS pg_catalog.oid) AS oid, name
  FROM pg_catalog.unnest(CAST(:tables AS text[])) AS name
  UNION
  SELECT i.inhrelid, m.name FROM member AS m JOIN pg_catalog.pg_inherits AS i ON i.inhparent = m.oid
)
SELECT m.name, CAST(m.oid AS bigint), CAST(n.nspname AS text), CAST(p.oid AS bigint), CAST(p.proname AS text),
  CAST(pg_catalog.pg_get_userbyid(p.proowner) AS text), pg_catalog.pg_has_role(p.proowner, 'USAGE'),
  pg_catalog.has_schema_privilege(p.pronamespace, 'CREATE'),
  CAST(CAST(p.pronamespace AS pg_catalog.regnamespace) AS text)
FROM member AS m
JOIN pg_catalog.pg_class AS c ON c.oid = m.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN (
  pg_catalog.pg_trigger AS t
  JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid AND p.proname = ANY (CAST(:names AS text[]))
) ON t.tgrelid = m.oid
""")

#: Those of some functions that are replaced still.
_STILL_REPLACED = text("""
SELECT CAST(p.oid AS bigint) FROM pg_catalog.pg_proc AS p
WHERE p.oid = ANY (CAST(:oids AS pg_catalog.oid[])) AND pg_catalog.strpos(p.prosrc, 'pg_temp.watch_capture(') > 0
""")

_TAKE = text("""
SELECT number, durable, channel, payload, CAST(CAST(pg_catalog.pg_current_xact_id() AS text) AS bigint)
FROM pg_temp.watch_captured
WHERE number > :behind AND channel = ANY (CAST(:channels AS text[])) ORDER BY number
""")

_HAS_MORE = text("""
SELECT 1 FROM pg_temp.watch_captured WHERE number > :behind AND channel = ANY (CAST(:channels AS text[])) LIMIT 1
""")

_IS_THERE = "SELECT pg_catalog.to_regclass('pg_temp.watch_captured')"

_MAY_MAKE_TABLES = "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMP'), current_user"


class Captured(NamedTuple):
    """What a trigger would have sent."""

    number: int
    is_durable: bool
    channel: str
    payload: str
    txid: int


class Replaced:
    """The functions of some watches, which write into the table.

    :raises ConfigurationError: where the connection is in no transaction, or has no triggers of them.
    :raises OwnershipError: where the functions are another role's, or the role may make no temporary tables.
    """

    def __init__(self, connection: Connection, watches: Sequence[TableWatch]) -> None:
        self._connection, self._watches = connection, watches
        #: Their names, by oid.
        self._functions: Mapping[int, str] = {}
        #: The number of the last one that was taken. Numbers are not given again, whatever is rolled back.
        self._behind = 0
        self.replace()

    def replace(self) -> None:
        """Replace them, or those that were made anew.

        :raises Exception: as making one does.
        """
        connection = self._connection
        if not connection.in_transaction():
            raise ConfigurationError(
                "Capture: the connection is in no transaction that a test could roll back: call connection.begin() "
                "first"
            )
        connection.execute(text("SELECT pg_catalog.pg_current_xact_id()"))
        if connection.scalar(text("SELECT pg_catalog.pg_current_xact_id_if_assigned()")) is None:
            raise ConfigurationError(
                "Capture: the connection is in AUTOCOMMIT, so that nothing could be rolled back: use one without that "
                "isolation_level"
            )
        may_make, role = connection.execute(text(_MAY_MAKE_TABLES)).one()
        if not may_make:
            raise OwnershipError(
                f"Capture: role {role!r} may make no temporary tables: GRANT TEMP ON DATABASE ... TO {role}"
            )
        rows = self._look()
        self._check(rows, role)
        self._functions = {row[3]: row[4] for row in rows if row[3] is not None}
        oids = ",".join(map(str, sorted(self._functions)))
        set_oids = text("SELECT pg_catalog.set_config('sqlalchemy_watch.capture', :oids, true)")
        connection.execute(set_oids, {"oids": oids})
        try:
            connection.exec_driver_sql(_SETUP.replace("%(seconds)s", str(WAIT_SECONDS)))
        except DBAPIError as error:
            if sqlstate(error) != _LOCK_NOT_AVAILABLE:
                raise
            raise ListenerError(
                f"Capture: another transaction has captured events of the same watches for {WAIT_SECONDS} s: one that "
                f"this test has open itself, or a test beside it: give each process of the tests a database"
            ) from error

    def schemas(self) -> Mapping[int, str]:
        """Return the schemas of the tables and their partitions, by oid."""
        return {oid: schema for _, oid, schema, *_ in self._look()}

    def take(self, channels: Collection[str]) -> list[Captured]:
        """Return what has been written since to these channels, in order.

        :raises ConfigurationError: where the transaction is over, or the functions have been made anew.
        """
        self._check_transaction()
        given = {"channels": list(channels), "behind": self._behind}
        found = [Captured(*row) for row in self._connection.execute(_TAKE, given)]
        self._check_functions()
        if found:
            self._behind = found[-1].number
        return found

    def has_more(self, channels: Collection[str]) -> bool:
        """Return True if something has been written since.

        :raises ConfigurationError: where the transaction is over.
        """
        self._check_transaction()
        given = {"channels": list(channels), "behind": self._behind}
        return self._connection.execute(_HAS_MORE, given).first() is not None

    def _look(self) -> Sequence[Any]:
        tables = sorted({qualified(watch.home, watch.table) for watch in self._watches})
        names = sorted({watch.function_name for watch in self._watches})
        try:
            return self._connection.execute(_FUNCTIONS, {"tables": tables, "names": names}).all()
        except DBAPIError as error:
            if sqlstate(error) != _NOT_ALLOWED:
                raise
            raise OwnershipError(f"Capture: the role may not look at its tables: {one_line(error)}") from error

    def _check(self, rows: Sequence[Any], role: str) -> None:
        found = {(table, name) for table, _, _, _, name, *_ in rows if name is not None}
        missing = [w for w in self._watches if (qualified(w.home, w.table), w.function_name) not in found]
        if missing:
            words = ", ".join(f"{watch.table_key}/{watch.label}" for watch in missing[:3])
            raise ConfigurationError(
                f"Capture: the database has no triggers of {words}: create the tables with Base.metadata.create_all(), "
                f"run the migrations, or call install(connection, Base) first"
            )
        foreign = next((row for row in rows if row[3] is not None and not row[6]), None)
        if foreign is not None:
            raise OwnershipError(
                f"Capture: the trigger function {foreign[4]!r} is role {foreign[5]!r}'s, and {role!r} can't replace "
                f"it: connect as its owner"
            )
        closed = next((row for row in rows if row[3] is not None and not row[7]), None)
        if closed is not None:
            raise OwnershipError(
                f"Capture: role {role!r} may not replace functions in the schema {closed[8]!r}: GRANT CREATE ON SCHEMA "
                f"{closed[8]} TO {role}"
            )

    def _check_transaction(self) -> None:
        if not self._connection.in_transaction() or self._connection.scalar(text(_IS_THERE)) is None:
            raise ConfigurationError(
                "Capture: its transaction is over, or has been rolled back to a savepoint before it: make a new one"
            )

    def _check_functions(self) -> None:
        still = set(self._connection.scalars(_STILL_REPLACED, {"oids": list(self._functions)}))
        anew = next((name for oid, name in self._functions.items() if oid not in still), None)
        if anew is not None:
            raise ConfigurationError(
                f"Capture: the trigger function {anew!r} has been made anew, by install() or a migration, and events "
                f"may be missing: call capture.refresh()"
            )
